"""A clock that stands still until it is told to move."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime

from pikku._clock import Alarm, as_datetime

START_US = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


class FakeClock:
    """Implements `pikku._clock.Clock`; begins at 2030-01-01 UTC."""

    def __init__(self, start_us: int = START_US) -> None:
        self._now_us = start_us
        self._numbers = itertools.count()
        self._alarms: list[tuple[int, int, _Alarm]] = []

    def now_us(self) -> int:
        return self._now_us

    def call_at(
        self, loop: asyncio.AbstractEventLoop, due_us: int, callback: Callable[[], None]
    ) -> Alarm:
        alarm = _Alarm(callback)
        heapq.heappush(self._alarms, (due_us, next(self._numbers), alarm))
        return alarm

    def now(self) -> datetime:
        """The time it shows."""
        return as_datetime(self._now_us)

    def next_alarm_us(self) -> int | None:
        """When the next alarm is due, or None."""
        while self._alarms and self._alarms[0][2].callback is None:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def move_to(self, at_us: int) -> None:
        """Show *at_us*, and ring every alarm that is due by then."""
        self._now_us = max(self._now_us, at_us)
        while (due := self.next_alarm_us()) is not None and due <= self._now_us:
            _, _, alarm = heapq.heappop(self._alarms)
            if alarm.callback is not None:
                alarm.callback()


class _Alarm:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None
