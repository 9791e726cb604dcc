"""A store's clock that is set from outside, in every process alike."""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pikku import stores
from pikku._clock import SystemClock

CLOCK_FILE = "FAULT_CLOCK_FILE"


class SetClock(SystemClock):
    """The machine's clock, and as many seconds more as a file says."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now_us(self) -> int:
        return super().now_us() + int(float(self._file.read_text()) * 1e6)


@contextmanager
def clock_of(file: Path | None) -> Generator[None, None, None]:
    """Stores that are made meanwhile go by the clock in this file, if there is one."""
    if file is None:
        yield
        return
    changed: Any = stores
    real = changed.make_store
    changed.make_store = functools.partial(real, clock=SetClock(file))
    try:
        yield
    finally:
        changed.make_store = real
