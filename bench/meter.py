"""The meter: CPU of this process, wall time, how busy the rest of the machine was."""

from __future__ import annotations

import os
import resource
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_CHANGES_AT = 8  # bytes into SQLite's `-shm` file: transactions written so far


def cpu_s() -> float:
    """CPU seconds of this process so far, every thread, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rss_mb() -> float:
    """Resident memory of this process now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def sqlite_commits(database: Path) -> int | None:
    """Write transactions committed to a WAL database, read from outside of the engine.

    SQLite keeps the count in the header of the `-shm` file while a connection is open, so
    counting costs the measured program nothing.
    """
    try:
        with open(f"{database}-shm", "rb") as shm:
            header = shm.read(_CHANGES_AT + 4)
        (count,) = struct.unpack_from("=I", header, _CHANGES_AT)
    except (OSError, struct.error):
        return None
    return int(count)


def _machine_busy_s() -> float | None:
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except (OSError, IndexError):
        return None
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[3] - ticks[4]) / _TICKS


class Meter:
    """What passed between `with` and its end: `cpu`, `wall` and `noise`.

    `noise` is the share of the whole machine, of `cores`, that others used meanwhile.
    """

    cores = os.cpu_count() or 1

    def __enter__(self) -> Self:
        self._busy = _machine_busy_s()
        self._cpu = cpu_s()
        self._wall = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = cpu_s() - self._cpu
        self.noise = 0.0
        busy = _machine_busy_s()
        if busy is not None and self._busy is not None:
            others = busy - self._busy - self.cpu
            self.noise = max(0.0, others) / (max(self.wall, 1e-9) * self.cores)

    def per_step(self, steps: int) -> dict[str, float]:
        """The metrics of a cell whose unit is the step."""
        return {
            "cpu_ms": self.cpu / steps * 1e3,
            "per_s": steps / self.wall,
            "noise": self.noise,
        }
