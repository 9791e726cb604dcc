"""The SQLite store: one writer thread, a transaction a batch, reads beside it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pikku._clock import Clock, SystemClock
from pikku._records import (
    Examination,
    HistoryEntry,
    Job,
    LoadedRun,
    Op,
    Reply,
    RunFilter,
    RunRecord,
)
from pikku.errors import StoreUnavailableError
from pikku.stores.base import JOBS, MAIL
from pikku.stores.sqlite.cache import RowCache
from pikku.stores.sqlite.connections import ConnectionThread, connect, translated
from pikku.stores.sqlite.schema import migrate
from pikku.stores.sqlite.workspace import (
    NEWEST_RUNS,
    OLDEST_RUNS,
    QUERIES,
    WHOLE_RUN,
    SqliteWorkspace,
    run_of,
    step_of,
)
from pikku.stores.transitions import carry_out

T = TypeVar("T")


class SqliteStore:
    """Runs in one file, for any number of processes on one machine.

    Args:
        path: the file; its folder is made if need be.
        durability: `"disk"` makes every acknowledged commit survive a power loss
            (`PRAGMA synchronous = FULL`); `"process"` only the death of the process
            (`NORMAL`): after a power loss the last commits may be gone, the file is whole.
    """

    shared = True
    pushes = False

    def __init__(self, path: Path, *, durability: str = "disk", clock: Clock | None = None) -> None:
        self.path = path
        self.clock: Clock = clock or SystemClock()
        self.address = f"sqlite:///{path}"
        self._synchronous = "FULL" if durability == "disk" else "NORMAL"
        self._writer: ConnectionThread | None = None
        self._reader: ConnectionThread | None = None
        self._beats: sqlite3.Connection | None = None
        self._beat_lock = threading.Lock()
        self._known_sessions: set[str] = set()
        self._cache = RowCache()

    async def open(self) -> None:
        if self._writer is not None:
            return
        writer = self._thread("pikku-sqlite-writer")
        reader = self._thread("pikku-sqlite-reader")
        await asyncio.to_thread(writer.start)
        try:
            await writer.run(lambda connection: migrate(connection, self.path))
            await asyncio.to_thread(reader.start)
        except BaseException:
            await asyncio.to_thread(writer.stop)
            raise
        self._writer, self._reader = writer, reader

    def _thread(self, name: str) -> ConnectionThread:
        return ConnectionThread(self.path, synchronous=self._synchronous, name=name)

    async def close(self) -> None:
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
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
        connection.execute("BEGIN IMMEDIATE")
        try:
            work = SqliteWorkspace(connection, self._cache, session, self.clock.now_us())
            work.prefetch(ops, trusting=trusting)
            results = [carry_out(work, op) for op in ops]
            work.flush()
            alive = work.session_exists()
            claimed: list[LoadedRun] = []
            jobs: list[Job] = []
            more: list[str] = []
            if alive:
                for queue, count in want.items():
                    if queue == MAIL:
                        continue
                    before = len(claimed) + len(jobs)
                    if queue.startswith(JOBS):
                        jobs += work.claim_jobs(queue.removeprefix(JOBS), count)
                    else:
                        claimed += work.claim(queue, count)
                    if len(claimed) + len(jobs) - before == count:
                        more.append(queue)
                work.flush()
            inbox = work.read_inbox()
            reply = Reply(results, claimed, inbox, work.next_due(), alive, jobs, more)
            connection.execute("COMMIT")
        except BaseException:
            self._cache.clear()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        work.forget()
        return reply

    def beat(self, session: str, lease_us: int) -> bool:
        with self._beat_lock:
            if self._beats is None:
                self._beats = connect(self.path, self._synchronous)
            until = self.clock.now_us() + lease_us
            try:
                if session not in self._known_sessions:
                    self._beats.execute(QUERIES["open_session"], (session, until))
                    self._known_sessions.add(session)
                    return True
                return self._beats.execute(QUERIES["extend_session"], (until, session)).rowcount > 0
            except sqlite3.Error as error:
                raise translated(error, self.path) from error

    async def wait(self, session: str, queues: Sequence[str], seconds: float, /) -> str | None:
        raise NotImplementedError

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
            query = OLDEST_RUNS if wanted.oldest_first else NEWEST_RUNS
            rows = connection.execute(query, wanted._asdict())
            return [run_of(row) for row in rows]

        return await self._read(read)

    async def count_runs(self) -> dict[str, int]:
        return await self._read(
            lambda connection: dict(connection.execute(QUERIES["count_runs"]).fetchall())
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

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        if self._reader is None:
            raise StoreUnavailableError(f"{self.address} is not open")
        return await self._reader.run(function)
