"""Word from other processes: one thread that looks whether the file has changed, and for whom."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from pikku._clock import Clock
from pikku.errors import StoreError, StoreUnavailableError
from pikku.stores.base import MAIL
from pikku.stores.sqlite.connections import connect, is_busy, translated
from pikku.stores.sqlite.workspace import QUERIES

# How long the thread rests between two looks: the shorter while answers are expected.
QUICK_SECONDS = 0.01
SLOW_SECONDS = 0.05
SLOWER_BY = 1.25
# Who set a timer fires it; after so long nobody else will have.
OVERDUE_US = 50_000


class Ear:
    """What a session was told, and what it knows of timers.

    It is told of each name once; again when it has asked for that and found it empty.
    """

    __slots__ = ("due_us", "told")

    def __init__(self) -> None:
        self.told: set[str] = set()
        self.due_us: int | None = 0


class Waiter:
    """One call of `wait`."""

    __slots__ = ("answer", "ear", "loop", "names", "session")

    def __init__(self, session: str, names: Sequence[str], ear: Ear) -> None:
        self.session = session
        self.names = json.dumps(names)
        self.ear = ear
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[str] = self.loop.create_future()


class Watch:
    """Tells sessions of what has come for them.

    Whether anybody has committed is told by `PRAGMA data_version`
    (https://sqlite.org/pragma.html#pragma_data_version), which reads shared memory; only then is
    there a query. The thread begins with the first who waits, and rests while nobody does.
    """

    def __init__(self, path: Path, synchronous: str, clock: Clock) -> None:
        self._path = path
        self._synchronous = synchronous
        self._clock = clock
        self._lock = threading.Lock()
        self._ears: dict[str, Ear] = {}
        self._waiters: list[Waiter] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        # Held but for the moment of a call: with a timeout, the cheapest way to rest.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._anew = False
        self._version = -1
        self._pause = QUICK_SECONDS
        self._overdue_us: int | None = None

    # --- on event loops and the writer's thread -------------------------------------------------

    async def wait(self, session: str, names: Sequence[str], seconds: float) -> str | None:
        """As the store's."""
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(f"{self._path} is not open")
            ear = self._ears.setdefault(session, Ear())
            waiter = Waiter(session, names, ear)
            self._waiters.append(waiter)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="pikku-sqlite-watch", daemon=True
                )
                self._thread.start()
            self._ring(anew=True)
        try:
            async with asyncio.timeout(seconds):
                return await waiter.answer
        except TimeoutError:
            return None
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def asked(
        self, session: str, emptied: Iterable[str], due_us: int | None, *, hurry: bool
    ) -> None:
        """The session has its mail, has found these queues empty and knows of the next timer; with
        *hurry*, others may soon have an answer for it."""
        with self._lock:
            if hurry:
                self._pause = QUICK_SECONDS
                self._ring(anew=False)
            ear = self._ears.get(session)
            if ear is None:
                return
            ear.due_us = due_us
            if ear.told:
                before = len(ear.told)
                ear.told.difference_update(emptied, (MAIL,))
                if len(ear.told) < before:
                    self._ring(anew=True)  # what came before this moment was passed over

    def forget(self, session: str) -> None:
        """The session is over."""
        with self._lock:
            self._ears.pop(session, None)

    def close(self) -> None:
        """End the thread; who waits is told that the store is not open."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            self._ring(anew=False)
        if thread is not None:
            thread.join()
        self._fail(StoreUnavailableError(f"{self._path} was closed meanwhile"))

    def _ring(self, *, anew: bool) -> None:
        self._anew = self._anew or anew
        if self._bell.locked():
            self._bell.release()

    # --- on the thread --------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            connection = connect(self._path, self._synchronous)
            try:
                self._look_until_closed(connection)
            except sqlite3.Error as error:
                raise translated(error, self._path) from error
            finally:
                connection.close()
        except StoreError as error:
            with self._lock:  # whoever waits next has another try
                if self._thread is threading.current_thread():
                    self._thread = None
            self._fail(error)

    def _look_until_closed(self, connection: sqlite3.Connection) -> None:
        while True:
            self._bell.acquire(timeout=self._pause if self._waiters else -1)
            if self._closed:
                return
            try:
                self._look(connection)
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                self._anew = True

    def _look(self, connection: sqlite3.Connection) -> None:
        version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        with self._lock:
            overdue = self._overdue_us
            self._pause = min(self._pause * SLOWER_BY, SLOW_SECONDS)
            if version == self._version and not self._anew:
                if overdue is None or self._clock.now_us() < overdue:
                    return
            self._version = version
            self._anew = False
            self._overdue_us = None
            waiters = list(self._waiters)
        for waiter in waiters:
            found = connection.execute(QUERIES["look"], (waiter.session, waiter.names))
            name = self._news(waiter.ear, found.fetchall())
            if name is not None:
                self._tell(waiter, name)

    def _news(self, ear: Ear, found: Sequence[tuple[str | None, int | None]]) -> str | None:
        """The first of what was *found* that the session does not know."""
        for name, due_us in found:
            if name is not None:
                if name not in ear.told:
                    return name
            elif due_us is not None and MAIL not in ear.told:
                if ear.due_us is None or due_us < ear.due_us:
                    if self._clock.now_us() >= due_us + OVERDUE_US:
                        return MAIL  # for the reply, which says when the next timer is due
                    overdue = due_us + OVERDUE_US
                    self._overdue_us = min(overdue, self._overdue_us or overdue)
        return None

    def _tell(self, waiter: Waiter, name: str) -> None:
        def settle() -> None:
            if not waiter.answer.done():
                waiter.answer.set_result(name)

        with self._lock:
            if waiter not in self._waiters:
                return
            self._waiters.remove(waiter)
            waiter.ear.told.add(name)
            self._pause = QUICK_SECONDS
        try:
            waiter.loop.call_soon_threadsafe(settle)
        except RuntimeError:  # the loop was closed meanwhile
            pass

    def _fail(self, error: StoreError) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:

            def settle(waiter: Waiter = waiter) -> None:
                if not waiter.answer.done():
                    waiter.answer.set_exception(error)

            try:
                waiter.loop.call_soon_threadsafe(settle)
            except RuntimeError:  # the loop was closed meanwhile
                pass
