"""Money, and what may be said of it."""

import sys
from decimal import Decimal
from typing import Annotated, NewType

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:
    from backports.strenum import StrEnum

# The most that anything costs.
LIMIT = Decimal(10_000)


def in_cents(amount: Decimal) -> Decimal:
    if amount != amount.quantize(Decimal("0.01")):
        raise ValueError("has more than two places")
    return amount


Amount = Annotated[Decimal, Field(ge=0, le=LIMIT), AfterValidator(in_cents)]
Account = NewType("Account", str)


class Discount(TypedDict):
    """Money off."""

    code: str
    amount: Amount
    currency: "Currency"


class Currency(StrEnum):
    FRANC = "CHF"
    EURO = "EUR"
