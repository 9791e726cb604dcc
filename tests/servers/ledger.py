"""What functions did outside of the store: a file that every process appends to."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

VARIABLE = "PIKKU_TEST_LEDGER"


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `at_ns` is CLOCK_MONOTONIC, which all processes of a machine share."""

    what: Literal["began", "acknowledged"]
    run: str
    step: str
    attempt: int
    pid: int
    at_ns: int


class Ledger:
    """Written from any process and thread; a line is whole or absent, and never changed.

    A line outlives the process that wrote it, from the moment that the writing call returns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def here(cls) -> Self:
        """The ledger that the test handed to this process, in `PIKKU_TEST_LEDGER`."""
        return cls(os.environ[VARIABLE])

    def begin(self, run: str, step: str, attempt: int) -> None:
        """First thing in a function: its side effect happens now."""
        self._write("began", run, step, attempt)

    def acknowledged(self, run: str, step: str, attempt: int) -> None:
        """Somebody was told that this attempt's outcome is recorded."""
        self._write("acknowledged", run, step, attempt)

    def rows(self) -> list[Row]:
        """All lines, in the order in which they were written."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        rows: list[Row] = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # the last line of a process killed within it
                rows.append(Row(**json.loads(line)))
        return rows

    def executions(self, run: str, step: str) -> list[Row]:
        """How often, where and when this step's side effect happened."""
        return [r for r in self.rows() if (r.what, r.run, r.step) == ("began", run, step)]

    def acknowledgements(self, run: str, step: str) -> list[Row]:
        """How often, where and when this step was said to be recorded."""
        return [r for r in self.rows() if (r.what, r.run, r.step) == ("acknowledged", run, step)]

    def _write(
        self, what: Literal["began", "acknowledged"], run: str, step: str, attempt: int
    ) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        # It begins with a line end too: half a line of a killed process spoils no other.
        line = "\n" + json.dumps(asdict(Row(what, run, step, attempt, os.getpid(), now))) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # One write of an appending file: no line gets into another, of whatever process.
            os.write(file, line.encode())
        finally:
            os.close(file)
