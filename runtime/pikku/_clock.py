"""Time as a dependency: the one source of now, of wake-ups and of the heartbeat's pulse."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio


class Alarm(Protocol):
    """A wake-up that can be called off."""

    def cancel(self) -> None:
        """Call it off; a second time does nothing."""


class Clock(Protocol):
    """Where a store and an engine take their time from."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...

    def call_at(
        self, loop: asyncio.AbstractEventLoop, due_us: int, callback: Callable[[], None]
    ) -> Alarm:
        """Have *callback* called on *loop* once `now_us()` has reached *due_us*."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def call_at(
        self, loop: asyncio.AbstractEventLoop, due_us: int, callback: Callable[[], None]
    ) -> Alarm:
        # One millisecond of slack: the loop's timer may fire a little before the wall clock.
        wait = max(0, due_us - self.now_us()) / 1e6
        return loop.call_later(min(wait + 0.001, 86_400.0), callback)


def as_datetime(us: int) -> datetime:
    """The aware UTC datetime of *us* microseconds since the epoch."""
    return datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000)


def as_us(when: datetime) -> int:
    """The microseconds from the epoch to an aware datetime; one without a zone is local time."""
    return int(when.replace(microsecond=0).timestamp()) * 1_000_000 + when.microsecond


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Seconds of a clock that also counts while the machine is suspended, where there is one."""
    return time.clock_gettime(_BOOT_CLOCK)


def steady_seconds() -> float:
    """Seconds of a clock that nobody sets, for how long something keeps the loop to itself."""
    return time.monotonic()


def pulse(beats: Iterator[float], name: str) -> Callable[[], None]:
    """Go through *beats* in a thread called *name*, which waits as many seconds as each says before
    it asks for the next. What is returned stops it, and waits until it has stopped."""
    stopped = threading.Event()

    def run() -> None:
        for seconds in beats:
            if stopped.wait(seconds):
                return

    def stop() -> None:
        stopped.set()
        thread.join()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return stop
