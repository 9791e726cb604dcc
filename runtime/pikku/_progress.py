"""What long steps say of themselves, on its way to the store: the latest word, once a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from pikku._records import Op, OpResult, ReportProgress

EVERY_SECONDS = 1.0
NOTE_CHARACTERS = 500


class ProgressReports:
    """Keeps the latest word of each attempt until it is sent."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        submit: Callable[[Op, Callable[[OpResult], None]], None],
    ) -> None:
        self._loop = loop
        self._submit = submit
        self._latest: dict[tuple[str, str, int], str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def reporter(self, run_id: str, key: str, attempt: int) -> Callable[[float, str], None]:
        """What an attempt calls, from any thread, with how far it is and what it is at."""

        def report(done: float, note: str) -> None:
            said: dict[str, object] = {"done": done}
            if note:
                said["note"] = note[:NOTE_CHARACTERS]
            known = bool(self._latest)
            self._latest[run_id, key, attempt] = json.dumps(said)
            if not known:
                try:
                    self._loop.call_soon_threadsafe(self._arm)
                except RuntimeError:  # the loop is closed
                    return

        return report

    def _arm(self) -> None:
        if self._timer is None:
            self._send()

    def _send(self) -> None:
        self._timer = None
        latest, self._latest = self._latest, {}
        for (run_id, key, attempt), text in latest.items():
            self._submit(ReportProgress(run_id, key, attempt, text), lambda result: None)
        if latest:
            self._timer = self._loop.call_later(EVERY_SECONDS, self._send)

    def close(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self._latest.clear()
