"""The SQLite store: one writer thread, a transaction a batch, reads beside it."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pikku._clock import Clock, SystemClock
from pikku._records import (
    Examination,
    HistoryEntry,
    Holdings,
    Job,
    LoadedRun,
    Op,
    OpResult,
    ReapSessions,
    Reply,
    RunFilter,
    RunRecord,
)
from pikku.errors import StoreUnavailableError
from pikku.stores.base import JOBS, MAIL
from pikku.stores.lanes import NO_LIMITS, QueueLimits, sooner
from pikku.stores.sqlite.cache import RowCache
from pikku.stores.sqlite.connections import (
    BUSY_TIMEOUT_SECONDS,
    ConnectionThread,
    begin_writing,
    checkpointed,
    connect,
    translated,
)
from pikku.stores.sqlite.schema import migrate
from pikku.stores.sqlite.watch import Watch
from pikku.stores.sqlite.workspace import (
    QUERIES,
    WHOLE_RUN,
    SqliteWorkspace,
    list_query,
    run_of,
    step_of,
)
from pikku.stores.transitions import carry_out

log = logging.getLogger("pikku")

T = TypeVar("T")
LAST_BEAT_SECONDS = 1.0
# Longer than anybody waits while others write one batch after the other.
HELD_UP_SECONDS = 0.5
# For so long at most nobody is reaped after that; heartbeats are tried again in less.
REPRIEVE_SECONDS = 3.0
# SQLite begins to use the write-ahead log from its start again when all of it is in the file and
# nobody reads there, which several busy processes keep from happening. At this size one of them
# has the others wait for that moment.
LARGE_LOG_BYTES = 32 << 20
READERS_AT_MOST_MS = 100
SHORTEN_AGAIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_REAP_NOBODY = ReapSessions(limit=0)


class SqliteStore:
    """Runs in one file, for any number of processes on one machine.

    Args:
        path: the file; its folder is made if need be.
        durability: `"disk"` makes every acknowledged commit survive a power loss
            (`PRAGMA synchronous = FULL`); `"process"` only the death of the process
            (`NORMAL`): after a power loss the last commits may be gone, the file is whole.
    """

    shared = True
    pushes = True

    def __init__(self, path: Path, *, durability: str = "disk", clock: Clock | None = None) -> None:
        self.path = path
        self.clock: Clock = clock or SystemClock()
        self.address = f"sqlite:///{path}"
        self._synchronous = "FULL" if durability == "disk" else "NORMAL"
        self._writer: ConnectionThread | None = None
        self._reader: ConnectionThread | None = None
        self._watch: Watch | None = None
        self._log_path = path.with_name(f"{path.name}-wal")
        self._shorten_from = 0.0
        self._shortened_in_vain = 0
        self._reap_from = 0.0
        self._lease_seconds = math.inf
        self._beats: sqlite3.Connection | None = None
        self._beat_lock = threading.Lock()
        self._known_sessions: set[str] = set()
        self._cache = RowCache()
        self._limits: dict[str, QueueLimits] = {}

    async def open(self) -> None:
        if self._writer is not None:
            return
        writer = self._thread("pikku-sqlite-writer")
        reader = self._thread("pikku-sqlite-reader")
        await asyncio.to_thread(writer.start)
        try:
            await writer.run(lambda connection: migrate(connection, self.path))
            await writer.run(_wait_for_nothing)
            await asyncio.to_thread(reader.start)
        except BaseException:
            await asyncio.to_thread(writer.stop)
            raise
        self._writer, self._reader = writer, reader
        self._watch = Watch(self.path, self._synchronous, self.clock)

    def _thread(self, name: str) -> ConnectionThread:
        return ConnectionThread(self.path, synchronous=self._synchronous, name=name)

    async def close(self) -> None:
        writer, reader, watch = self._writer, self._reader, self._watch
        self._writer = self._reader = self._watch = None
        if watch is not None:
            await asyncio.to_thread(watch.close)
        for each in (reader, writer):
            if each is not None:
                await asyncio.to_thread(each.stop)
        with self._beat_lock:
            if self._beats is not None:
                self._beats.close()
                self._beats = None

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if self._writer is None:
            raise StoreUnavailableError(f"{self.address} is not open")

        def apply(connection: sqlite3.Connection) -> Reply:
            try:
                return self._apply(connection, session, ops, want, trusting=True)
            except sqlite3.IntegrityError:
                return self._apply(connection, session, ops, want, trusting=False)

        return await self._writer.run(apply)

    def _apply(
        self,
        connection: sqlite3.Connection,
        session: str,
        ops: Sequence[Op],
        want: Mapping[str, int],
        *,
        trusting: bool,
    ) -> Reply:
        self._begin_writing(connection, BUSY_TIMEOUT_SECONDS)
        try:
            work = SqliteWorkspace(connection, self._cache, session, self.clock.now_us())
            work.prefetch(ops, trusting=trusting)
            results = [_carried_out(work, op) for op in self._advisable(ops)]
            work.flush()
            alive = work.session_exists()
            claimed: list[LoadedRun] = []
            jobs: list[Job] = []
            more: list[str] = []
            emptied: list[str] = []
            if alive:
                for queue, count in want.items():
                    if queue == MAIL:
                        continue
                    before = len(claimed) + len(jobs)
                    limits = self._limits.get(queue)
                    if limits is not None:
                        got, left = work.claim_within(queue.removeprefix(JOBS), count, limits)
                        jobs += got
                        (more if left else emptied).append(queue)
                        continue
                    if queue.startswith(JOBS):
                        jobs += work.claim_jobs(queue.removeprefix(JOBS), count)
                    else:
                        claimed += work.claim(queue, count)
                    got_all = len(claimed) + len(jobs) - before < count
                    (emptied if got_all else more).append(queue)
                work.flush()
            filled_for_others = work.filled.difference(emptied)
            more += filled_for_others.difference(more)
            inbox = work.read_inbox()
            due = sooner(work.next_due(), work.again_us)
            reply = Reply(results, claimed, inbox, due, alive, jobs, more)
            connection.execute("COMMIT")
        except BaseException:
            self._cache.clear()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        work.forget()
        if (watch := self._watch) is not None:
            if alive:
                hurry = work.watches or bool(filled_for_others)
                watch.asked(session, emptied, reply.next_due_us, hurry=hurry)
            else:
                watch.forget(session)
        self._shorten_log(connection)
        return reply

    def _begin_writing(self, connection: sqlite3.Connection, patience: float) -> None:
        """`begin_writing`; whoever is kept waiting by others knows that they are, too."""
        began = time.monotonic()
        try:
            begin_writing(connection, patience)
        finally:
            now = time.monotonic()
            if now - began >= min(self._lease_seconds / 4, HELD_UP_SECONDS):
                self._reap_from = now + min(self._lease_seconds / 2, REPRIEVE_SECONDS)

    def _advisable(self, ops: Sequence[Op]) -> Sequence[Op]:
        """*ops*, but for a moment without a reaping: while nobody could write, nobody could extend
        a lease, and every heartbeat is about to."""
        if not self._reap_from or time.monotonic() > self._reap_from:
            self._reap_from = 0.0
            return ops
        return [_REAP_NOBODY if type(op) is ReapSessions else op for op in ops]

    def _shorten_log(self, connection: sqlite3.Connection) -> None:
        """Move everything from a large write-ahead log to the file, and begin a new one."""
        try:
            size = self._log_path.stat().st_size
        except OSError:
            return
        if size < LARGE_LOG_BYTES or time.monotonic() < self._shorten_from:
            return
        try:
            connection.execute(f"PRAGMA busy_timeout = {READERS_AT_MOST_MS}")
            in_vain = not checkpointed(connection, READERS_AT_MOST_MS / 1000)
            _wait_for_nothing(connection)
        except sqlite3.Error as error:
            log.warning("%s: its log cannot be shortened now: %s", self.path, error)
            in_vain = True
        self._shortened_in_vain = self._shortened_in_vain + 1 if in_vain else 0
        if in_vain:
            again = SHORTEN_AGAIN_SECONDS[: self._shortened_in_vain][-1]
            self._shorten_from = time.monotonic() + again

    def limit_queue(self, queue: str, limits: QueueLimits, /) -> None:
        self._limits.pop(JOBS + queue, None)
        if limits != NO_LIMITS:
            self._limits[JOBS + queue] = limits

    def beat(self, session: str, lease_us: int) -> bool:
        with self._beat_lock:
            if self._beats is None:
                self._beats = connect(self.path, self._synchronous)
                _wait_for_nothing(self._beats)
            connection = self._beats
            known = session in self._known_sessions
            patience = BUSY_TIMEOUT_SECONDS
            if lease_us > 0:
                self._lease_seconds = lease_us / 1e6
            if known:  # rather once more, as the lease counts from the call
                patience = lease_us / 4e6 if lease_us > 0 else LAST_BEAT_SECONDS
            try:
                self._begin_writing(connection, patience)
                try:
                    until = self.clock.now_us() + lease_us
                    if known:
                        beaten = connection.execute(QUERIES["extend_session"], (until, session))
                    else:
                        beaten = connection.execute(QUERIES["open_session"], (session, until))
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise translated(error, self.path) from error
            self._known_sessions.add(session)
            return beaten.rowcount > 0

    async def wait(self, session: str, queues: Sequence[str], seconds: float, /) -> str | None:
        if self._watch is None:
            raise StoreUnavailableError(f"{self.address} is not open")
        return await self._watch.wait(session, queues, seconds)

    async def load_run(self, run_id: str) -> RunRecord | None:
        def read(connection: sqlite3.Connection) -> RunRecord | None:
            row = connection.execute(f"{WHOLE_RUN} WHERE run_id = ?", (run_id,)).fetchone()
            return run_of(row) if row else None

        return await self._read(read)

    async def load_steps(self, run_id: str) -> LoadedRun | None:
        def read(connection: sqlite3.Connection) -> LoadedRun | None:
            connection.execute("BEGIN")
            try:
                row = connection.execute(f"{WHOLE_RUN} WHERE run_id = ?", (run_id,)).fetchone()
                if row is None:
                    return None
                steps = connection.execute(QUERIES["load_steps"], (row[0],))
                return LoadedRun(run_of(row), tuple(step_of(each) for each in steps))
            finally:
                connection.execute("COMMIT")

        return await self._read(read)

    async def load_history(self, run_id: str) -> list[HistoryEntry]:
        def read(connection: sqlite3.Connection) -> list[HistoryEntry]:
            rows = connection.execute(QUERIES["load_history"], (run_id,))
            return [HistoryEntry(*row) for row in rows]

        return await self._read(read)

    async def list_runs(self, wanted: RunFilter) -> list[RunRecord]:
        def read(connection: sqlite3.Connection) -> list[RunRecord]:
            rows = connection.execute(list_query(wanted), wanted._asdict())
            return [run_of(row) for row in rows]

        return await self._read(read)

    async def count_runs(self, workflow: str | None = None) -> dict[str, int]:
        def read(connection: sqlite3.Connection) -> dict[str, int]:
            if workflow is None:
                return dict(connection.execute(QUERIES["count_runs"]).fetchall())
            return dict(connection.execute(QUERIES["count_runs_of"], (workflow,)).fetchall())

        return await self._read(read)

    async def count_jobs(self) -> dict[str, int]:
        return await self._read(
            lambda connection: dict(connection.execute(QUERIES["count_jobs"]).fetchall())
        )

    async def examine(self) -> Examination:
        def read(connection: sqlite3.Connection) -> Examination:
            connection.execute("BEGIN")
            try:
                sessions = dict(connection.execute(QUERIES["sessions"]).fetchall())
                queued = connection.execute(QUERIES["queued"]).fetchall()
                return Examination(
                    self.clock.now_us(),
                    sessions,
                    frozenset(run_id for (run_id,) in queued),
                    frozenset(connection.execute(QUERIES["all_jobs"]).fetchall()),
                    frozenset(connection.execute(QUERIES["all_timers"]).fetchall()),
                )
            finally:
                connection.execute("COMMIT")

        return await self._read(read)

    async def holdings(self, session: str) -> Holdings:
        def read(connection: sqlite3.Connection) -> Holdings:
            runs = connection.execute(QUERIES["owned_by"], (session,)).fetchall()
            jobs = connection.execute(QUERIES["jobs_of"], (session, -1)).fetchall()
            return Holdings(frozenset(run_id for (run_id,) in runs), frozenset(jobs))

        return await self._read(read)

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        if self._reader is None:
            raise StoreUnavailableError(f"{self.address} is not open")
        return await self._reader.run(function)


def _wait_for_nothing(connection: sqlite3.Connection) -> None:
    """Have the connection say at once that the file is locked: `begin_writing` does the waiting."""
    connection.execute("PRAGMA busy_timeout = 0")


def _carried_out(work: SqliteWorkspace, op: Op) -> OpResult:
    """What comes of *op*. A commit that is refused, or was made before, adds no steps: those that
    it asks for may be there, and a timer or a job of theirs be next."""
    taken = work.take_for_new(op)
    result = carry_out(work, op)
    work.doubt(taken)
    return result
