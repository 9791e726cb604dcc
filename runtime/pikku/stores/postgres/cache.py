"""Runs under way that the process has at hand: what it wrote last is not read back."""

from __future__ import annotations

from typing import NamedTuple

from pikku._records import RunRecord, StepRecord

MAX_RUNS = 5_000


class CachedRun(NamedTuple):
    """A run and its open steps as the process left them, at a value of `touched` that changes with
    whatever somebody else changes."""

    run: RunRecord
    number: int
    touched: int
    steps: dict[str, StepRecord]


class RowCache:
    """The runs that the session owns, by their ids."""

    def __init__(self) -> None:
        self.runs: dict[str, CachedRun] = {}

    def keep(self, run: RunRecord, number: int, touched: int, steps: dict[str, StepRecord]) -> None:
        """Have the run at hand, at the expense of the one that was not used for longest."""
        self.runs.pop(run.run_id, None)
        while len(self.runs) >= MAX_RUNS:
            del self.runs[next(iter(self.runs))]
        self.runs[run.run_id] = CachedRun(run, number, touched, steps)

    def forget(self, run_id: str) -> None:
        """The run is not under way here any more."""
        self.runs.pop(run_id, None)

    def clear(self) -> None:
        """Forget everything, as after a transaction that failed."""
        self.runs.clear()
