"""Rows that the writer has at hand: what it wrote last is not read back, as long as nobody else
has written to the file."""

from __future__ import annotations

import sqlite3

from pikku._records import RunRecord, StepRecord

MAX_STEPS = 20_000


class RowCache:
    """The runs under way and their open steps, as the last transaction of this connection left
    them.

    Whether another connection has committed since is told by `PRAGMA data_version`
    (https://sqlite.org/pragma.html#pragma_data_version); then everything is forgotten.
    """

    def __init__(self) -> None:
        self.runs: dict[str, RunRecord | None] = {}
        self.run_numbers: dict[str, int] = {}
        self.saved_as: dict[str, tuple[object, ...]] = {}
        self.steps: dict[tuple[str, str], StepRecord | None] = {}
        self.step_numbers: dict[tuple[str, str], int] = {}
        self.next_step = 0
        self._version = -1

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Forget everything if the file has changed; to be called inside a transaction."""
        version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version or len(self.steps) > MAX_STEPS:
            self.clear()
            self._version = version
            newest: int | None = connection.execute("SELECT max(number) FROM steps").fetchone()[0]
            self.next_step = (newest or 0) + 1

    def clear(self) -> None:
        """Forget everything, as after a transaction that failed."""
        self._version = -1
        self.runs.clear()
        self.run_numbers.clear()
        self.saved_as.clear()
        self.steps.clear()
        self.step_numbers.clear()

    def forget_run(self, run_id: str) -> None:
        """The run is not under way here any more."""
        self.runs.pop(run_id, None)
        self.run_numbers.pop(run_id, None)
        self.saved_as.pop(run_id, None)

    def forget_step(self, place: tuple[str, str]) -> None:
        """The step has ended, or is not there."""
        self.steps.pop(place, None)
        self.step_numbers.pop(place, None)
