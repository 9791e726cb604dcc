"""What was edited, and what that means for a run in flight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["safe", "needs patched", "breaking"]
VERDICTS: Final[tuple[Verdict, ...]] = ("safe", "needs patched", "breaking")


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit of a workflow: what it does to runs in flight, and the way out."""

    verdict: Verdict
    kind: str
    """One word, for programs."""
    message: str
    fix: str = ""
    at: str = ""
    """Where it stands in the new code, `path:line`."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on all of them together."""
    return VERDICTS[max((VERDICTS.index(verdict) for verdict in verdicts), default=0)]
