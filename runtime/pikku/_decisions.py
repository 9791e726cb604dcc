"""The answer to an approval, as its workflow sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)

Approvers: TypeAlias = Literal["any", "owner", "not_initiator"]


@dataclass(frozen=True)
class Decision(Generic[T_co]):
    """What became of an approval.

    Attributes:
        outcome: `expired` where nobody answered in time.
        data: what came with the answer, of the type that the approval asks for; a rejection may
            come without.
        decided_by: who answered, as far as it was said.
        decided_at: when; None for an approval that has expired.
        note: what was said beside it.
    """

    outcome: Literal["approved", "rejected", "expired"]
    data: T_co | None = None
    decided_by: str | None = None
    decided_at: datetime | None = None
    note: str = ""
