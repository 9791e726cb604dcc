from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import TypedDict


class SendEmail(TypedDict):
    to: str
    message: str


@dataclass
class Charge:
    order_id: str
    amount: int


@dataclass
class Receipt:
    payment_id: str
