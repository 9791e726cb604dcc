"""The lease under which a process holds its runs, and the heartbeat that keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pikku._clock import boot_seconds, pulse
from pikku._ids import new_session_id
from pikku.errors import StoreError
from pikku.stores.base import Store

log = logging.getLogger("pikku")

FOREVER_SECONDS = 10 * 365 * 86_400.0
LOOP_GRACE_SECONDS = 30.0


class Lease(NamedTuple):
    """The id of a session, and when it began by the clock since the machine was started."""

    session: str
    began: float


class Session:
    """One life of a process in the eyes of its store.

    The heartbeat has a thread and a connection of its own, so that a busy event loop does not cost
    the lease; but it extends the lease only while the loop has ticked within *loop_grace_seconds*.
    When it gives the lease up it says where the loop stands, and calls *on_stuck* in its own
    thread, once. A store that no other process sees needs no heartbeat: its lease does not end.
    """

    def __init__(
        self,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        *,
        lease_seconds: float,
        loop_grace_seconds: float = LOOP_GRACE_SECONDS,
        on_lost: Callable[[], None],
        on_stuck: Callable[[], None] | None = None,
    ) -> None:
        self.id = new_session_id()
        self._store = store
        self._loop = loop
        self._lease = lease_seconds
        self._grace = loop_grace_seconds
        self._on_lost = on_lost
        self._on_stuck = on_stuck
        self._beaten_at = 0.0
        self._ticked = True
        self._reported = False
        self._still: Callable[[], None] | None = None
        self._loop_thread = threading.get_ident()

    def open(self) -> None:
        """Take the lease. Blocks for one call to the store."""
        self._beat()
        if self._lease < FOREVER_SECONDS:
            self._still = pulse(self._beats(), "pikku-heartbeat")

    def renew(self) -> Lease:
        """A lease under a new id, to be adopted; the old one ends for whoever still counts on it.
        Blocks for two calls to the store."""
        self._store.beat(self.id, -1)
        lease = Lease(new_session_id(), boot_seconds())
        self._store.beat(lease.session, int(self._lease * 1e6))
        return lease

    def adopt(self, lease: Lease) -> None:
        """Speak in the name of *lease* from now on."""
        self.id, self._beaten_at = lease

    def end(self) -> None:
        """Stop the heartbeat, and let the lease end, so that nobody waits for it to run out."""
        self.close()
        with contextlib.suppress(StoreError):
            self._store.beat(self.id, -1)

    def close(self) -> None:
        """Stop the heartbeat; the lease runs out by itself."""
        if self._still is not None:
            self._still()

    @property
    def expired(self) -> bool:
        """Whether the lease may have run out by now, as far as this process can tell: then no
        step's body may begin."""
        if self._still is None:
            return False
        return boot_seconds() - self._beaten_at > self._lease * 0.8

    def _beat(self) -> bool:
        sent, session = boot_seconds(), self.id
        alive = self._store.beat(session, int(self._lease * 1e6))
        if alive and session == self.id:  # not to count for the next one
            self._beaten_at = sent
        return alive

    def _beats(self) -> Iterator[float]:
        """Wait for so many seconds; then a beat is due."""
        silent = 0.0  # for how long the loop has not ticked
        looked_at = boot_seconds()
        pause = self._lease / 4
        while True:
            yield pause
            now = boot_seconds()
            if self._ticked:
                silent = 0.0
                self._reported = False
            else:
                # Time in which this thread stood still, too, says nothing about the loop: the
                # process was frozen, or the store kept the heartbeat waiting.
                silent += min(now - looked_at, self._lease / 2)
            looked_at = now
            self._ticked = False
            try:
                self._loop.call_soon_threadsafe(self._tick)
            except RuntimeError:  # the loop is closed
                return
            pause = self._lease / 4
            if silent > self._grace:
                self._report_stuck_loop(silent)
                continue
            try:
                session = self.id
                if not self._beat():
                    self._loop.call_soon_threadsafe(self._lost, session)
            except StoreError as error:
                log.warning("heartbeat: %s", error)
                pause = self._lease / 16
            except RuntimeError:  # the loop is closed
                return

    def _lost(self, session: str) -> None:
        if session == self.id:  # or it was known already
            self._on_lost()

    def _tick(self) -> None:
        self._ticked = True

    def _report_stuck_loop(self, seconds: float) -> None:
        if self._reported:
            return
        self._reported = True
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        log.error(
            "the event loop has not moved for %.0f s; the lease is given up. It stands at:\n%s",
            seconds,
            stack,
        )
        on_stuck, self._on_stuck = self._on_stuck, None
        if on_stuck is not None:
            on_stuck()
