"""The PostgreSQL store: one writer thread, a transaction a batch, reads and words beside it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import Connection, errors

from pikku._clock import Clock, SystemClock
from pikku._records import (
    NOT_ASKED,
    CreateRun,
    Delivery,
    Examination,
    HistoryEntry,
    Holdings,
    Job,
    LoadedRun,
    Op,
    OpResult,
    Reply,
    RunFilter,
    RunRecord,
    StepRecord,
)
from pikku.errors import StoreError, StoreUnavailableError
from pikku.stores.base import INLINE_QUEUE, JOBS, MAIL, ORCHESTRATOR_QUEUE
from pikku.stores.lanes import NO_LIMITS, QueueLimits, sooner
from pikku.stores.postgres.cache import RowCache
from pikku.stores.postgres.connections import (
    IDLE_AT_MOST,
    Address,
    connect,
    translated,
)
from pikku.stores.postgres.enlist import fetch_row
from pikku.stores.postgres.schema import check_version, migrate, pending_script, queries
from pikku.stores.postgres.threads import ConnectionThread
from pikku.stores.postgres.words import Words
from pikku.stores.postgres.workspace import (
    PostgresWorkspace,
    StaleRowsError,
    which_runs,
    whole_run,
)
from pikku.stores.transitions import carry_out

log = logging.getLogger("pikku")

T = TypeVar("T")
Row = tuple[Any, ...]

TRIES = 8
"""How often a transaction is made that others get in the way of."""
_RESOLVE_AT_MOST = b"SET LOCAL lock_timeout = '5s'"
"""For how long to ask what became of a commit that the server is still busy with."""


class ServerClock(SystemClock):
    """The server's clock, as far as its answers tell; leases and timers go by it."""

    def __init__(self) -> None:
        self._ahead_us = 0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self._ahead_us

    def learn(self, server_us: int) -> None:
        """Take an answer's time into account."""
        self._ahead_us = server_us - time.time_ns() // 1000


class Unknown(NamedTuple):
    """A commit that was asked for and never answered, and what is to be told if it was made."""

    session: str
    batch: int
    ops: Sequence[Op]
    reply: Reply


class PostgresStore:
    """Runs in a schema of a PostgreSQL database.

    Every batch is one transaction: it locks the runs that it names, has `pikku.stores.transitions`
    decide, and writes what was decided. Work is claimed with `SKIP LOCKED`. Who waits is told by
    `NOTIFY`, which is a hint only: what was not told is found by looking.

    Args:
        address: where it is.
        clock: what leases and timers go by; the server's own by default.
    """

    shared = True

    def __init__(self, address: Address, *, clock: Clock | None = None) -> None:
        self.address = address.shown
        self.pushes = not address.pooled
        self._address = address
        self._given_clock = clock
        self._server_clock = ServerClock()
        self.clock: Clock = clock or self._server_clock
        self._queries = queries(address.schema)
        self._cache = RowCache()
        self._limits: dict[str, QueueLimits] = {}
        self._writer: ConnectionThread | None = None
        self._reader: ConnectionThread | None = None
        self._words = Words(address)
        self._beats: Connection[Row] | None = None
        self._beat_lock = threading.Lock()
        self._known_sessions: set[str] = set()
        self._unknown: Unknown | None = None
        self._unheard: Unknown | None = None
        # Begun anywhere: another store that speaks for the same session has other numbers.
        self._batches = itertools.count(1 + secrets.randbelow(2**62))
        # How many batches of each session were committed, as far as has come to be known.
        self._heard_of: dict[str, int] = {}

    # --- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._writer is not None:
            return
        writer = ConnectionThread(
            lambda: connect(self._address, writes=True), self._translated, "pikku-postgres-writer"
        )
        reader = ConnectionThread(self._connect, self._translated, "pikku-postgres-reader")
        await asyncio.to_thread(writer.start)
        try:
            await writer.run(self._prepare)
            await asyncio.to_thread(reader.start)
        except BaseException:
            await asyncio.to_thread(writer.stop)
            raise
        self._writer, self._reader = writer, reader

    def _connect(self) -> Connection[Row]:
        return connect(self._address)

    def _translated(self, error: psycopg.Error) -> StoreError:
        return translated(error, self._address)

    def _prepare(self, connection: Connection[Row]) -> None:
        if self._address.migrates:
            migrate(connection, self._address)
        check_version(connection, self._address)

    async def close(self) -> None:
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        await self._words.close()
        for each in (reader, writer):
            if each is not None:
                await asyncio.to_thread(each.stop)
        with self._beat_lock:
            if self._beats is not None:
                self._beats.close()
                self._beats = None

    async def migrate(self) -> list[int]:
        return await self._alone(lambda connection: migrate(connection, self._address))

    async def pending_migrations(self) -> str:
        return await self._alone(lambda connection: pending_script(connection, self._address))

    async def _alone(self, function: Callable[[Connection[Row]], T]) -> T:
        """What *function* returns, called with a connection of its own."""

        def call() -> T:
            try:
                with self._connect() as connection:
                    return function(connection)
            except psycopg.Error as error:
                raise self._translated(error) from error

        return await asyncio.to_thread(call)

    # --- transitions ----------------------------------------------------------------------------

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if self._writer is None:
            raise StoreUnavailableError(f"{self.address} is not open")
        return await self._writer.run(
            lambda connection: self._apply_at_last(connection, session, ops, want)
        )

    def _apply_at_last(
        self,
        connection: Connection[Row],
        session: str,
        ops: Sequence[Op],
        want: Mapping[str, int],
    ) -> Reply:
        """Apply them, and again where others got in the way or the connection broke."""
        self._resolve(connection)
        unheard = self._unheard
        if unheard is not None and unheard.session != session:
            # What a session that is over has claimed is taken from it.
            self._unheard = unheard = None
        if unheard is not None and unheard.ops is ops:
            self._unheard = None
            return unheard.reply
        trusting = True
        for left in range(TRIES, 0, -1):
            try:
                reply = self._apply(connection, session, ops, want, trusting=trusting)
            except (StaleRowsError, errors.UniqueViolation):
                trusting = False
                if left == 1:
                    raise
            except (errors.DeadlockDetected, errors.SerializationFailure):
                if left == 1:
                    raise
            else:
                self._unheard = None
                return reply if unheard is None else _joined(unheard.reply, reply)
        raise StoreUnavailableError(f"{self.address}: others changed the same runs {TRIES} times")

    def _apply(
        self,
        connection: Connection[Row],
        session: str,
        ops: Sequence[Op],
        want: Mapping[str, int],
        *,
        trusting: bool,
    ) -> Reply:
        batch = next(self._batches)
        work = PostgresWorkspace(connection, self._queries, self._cache, session, batch)
        committing = False
        reply: Reply | None = None
        try:
            with connection.pipeline():
                connection.execute(_BEGIN)
                if self._address.pooled:
                    connection.execute(_SET_IDLE)
                now_us = None if self._given_clock is None else self._given_clock.now_us()
                work.prefetch(ops, now_us, trusting=trusting)
                # The server has gone back to an earlier state: what it takes the session to hold is
                # worth nothing, nor is what is at hand.
                if work.made < self._heard_of.get(session, 0):
                    if trusting:
                        raise StaleRowsError
                    work.lose_session()
                results = [_carried_out(work, op) for op in ops]
                work.flush()
                claimed, jobs, more = self._claim(work, want)
                asks = MAIL in want or not ops or any(_of_a_run(word) for word in work.own_mail)
                asks = asks or any(result.code == "conflict" for result in results)
                inbox = [*(work.read_inbox() if asks else ()), *work.own_mail]
                due: int | None = NOT_ASKED
                if work.moved_timers or not ops or work.again_us is not None:
                    due = sooner(work.next_due(), work.again_us)
                self._announce(connection, work, more, claimed=want)
                alive = work.session_exists()
                more |= work.pushed - want.keys()
                reply = Reply(results, claimed, inbox, due, alive, jobs, sorted(more))
                committing = True
                connection.execute("COMMIT")
        except BaseException as error:
            self._cache.clear()
            # Whatever is told instead of the answer, be it that the server ends the connection: the
            # commit may have been made before.
            if committing and reply is not None and work.marked:
                self._unknown = Unknown(session, batch, ops, reply)
            if not connection.closed:
                _roll_back(connection)
            raise error
        if work.marked:
            self._heard_of[session] = max(work.made + 1, self._heard_of.get(session, 0))
        if self._given_clock is None:
            self._server_clock.learn(work.now_us)
        work.remember()
        return reply

    def _claim(
        self, work: PostgresWorkspace, want: Mapping[str, int]
    ) -> tuple[list[LoadedRun], list[Job], set[str]]:
        """What is to be had from the queues, and which of them may hold more."""
        claimed: list[LoadedRun] = []
        jobs: list[Job] = []
        queues = [queue for queue in want if queue != MAIL]
        if not queues or not work.session_exists():
            return claimed, jobs, set()
        if not work.marked:  # nothing is written yet, nor for work that is asked for in vain
            filled = work.filled(queues)
            queues = [queue for queue in queues if queue in filled]
            if not any(want[queue] for queue in queues) or not work.hold_session():
                return claimed, jobs, filled
        held_back: set[str] = set()
        for queue in sorted(queues):  # all lock their windows in one order
            if not want[queue]:
                continue
            limits = self._limits.get(queue)
            if limits is not None:
                got, left = work.claim_within(queue.removeprefix(JOBS), want[queue], limits)
                jobs += got
                held_back |= set() if left else {queue}
            elif queue.startswith(JOBS):
                jobs += work.claim_jobs(queue.removeprefix(JOBS), want[queue])
            else:
                claimed += work.claim(queue, want[queue])
        return claimed, jobs, work.filled(queues) - held_back

    def _announce(
        self,
        connection: Connection[Row],
        work: PostgresWorkspace,
        more: set[str],
        *,
        claimed: Mapping[str, int],
    ) -> None:
        """Tell who waits, once the commit is made, but not of what the session has just emptied."""
        queues = {queue for queue in work.pushed if queue in more or queue not in claimed}
        queues |= {queue for queue in more if claimed.get(queue) == 0}
        if queues or work.told:
            self._words.say(connection, queues, work.told)

    def _resolve(self, connection: Connection[Row]) -> None:
        """Find out about a commit that was never answered; what it has told, if it was made, is
        kept until somebody has heard it, however often a call fails before that.

        Raises:
            StoreUnavailableError: the server does not know yet.
        """
        unknown = self._unknown
        if unknown is None:
            return
        now_us = None if self._given_clock is None else self._given_clock.now_us()
        try:
            with connection.transaction():
                connection.execute(_RESOLVE_AT_MOST)
                last = connection.execute(
                    self._queries["last_batch"], (unknown.session, now_us)
                ).fetchone()
        except errors.LockNotAvailable as error:
            raise StoreUnavailableError(
                f"{self.address} is still busy with a commit whose answer was lost"
            ) from error
        self._unknown = None
        if last != (unknown.batch,):
            return
        before = self._unheard
        if before is not None and before.session == unknown.session:
            unknown = unknown._replace(reply=_joined(before.reply, unknown.reply))
        self._unheard = unknown

    async def start_in_transaction(self, connection: object, op: CreateRun, /) -> OpResult:
        now_us = None if self._given_clock is None else self._given_clock.now_us()
        values = {
            "now_us": now_us,
            "run_id": op.run_id,
            "workflow": op.workflow,
            "version": op.version,
            "inline": op.inline,
            "delay_us": op.delay_us,
            "timeout_us": op.timeout_us,
            "tags": list(op.tags),
            "started_by": op.started_by,
            "pinned": op.pinned,
            "input": op.input,
            "traceparent": op.traceparent,
            "queue": INLINE_QUEUE if op.inline else ORCHESTRATOR_QUEUE,
            "channel": self._words.channel if self.pushes else None,
        }
        row = await fetch_row(connection, self._queries["start_run"], values)
        if row is not None and row[0]:
            return OpResult("ok")
        found = await fetch_row(connection, self._queries["find_run"], {"run_id": op.run_id})
        return OpResult("exists", None if found is None else whole_run(found))

    def limit_queue(self, queue: str, limits: QueueLimits, /) -> None:
        self._limits.pop(JOBS + queue, None)
        if limits != NO_LIMITS:
            self._limits[JOBS + queue] = limits

    # --- sessions and wake-ups ------------------------------------------------------------------

    def beat(self, session: str, lease_us: int) -> bool:
        with self._beat_lock:
            try:
                return self._beat(session, lease_us)
            except psycopg.Error as error:
                if self._beats is not None and not self._beats.closed:
                    raise self._translated(error) from error
            try:  # the connection was lost meanwhile
                return self._beat(session, lease_us)
            except psycopg.Error as error:
                raise self._translated(error) from error

    def _beat(self, session: str, lease_us: int) -> bool:
        if self._beats is None or self._beats.closed:
            self._beats = self._connect()
        now_us = None if self._given_clock is None else self._given_clock.now_us()
        first = session not in self._known_sessions
        query = self._queries["open_session" if first else "beat"]
        there = self._beats.execute(query, (lease_us, now_us, session)).rowcount > 0
        self._known_sessions.add(session)
        return there

    async def wait(self, session: str, queues: Sequence[str], seconds: float, /) -> str | None:
        return await self._words.wait(session, queues, seconds)

    # --- reads ----------------------------------------------------------------------------------

    async def load_run(self, run_id: str) -> RunRecord | None:
        def read(connection: Connection[Row]) -> RunRecord | None:
            row = connection.execute(self._queries["load_run"], (run_id,)).fetchone()
            return whole_run(row) if row else None

        return await self._read(read)

    async def load_steps(self, run_id: str) -> LoadedRun | None:
        def read(connection: Connection[Row]) -> LoadedRun | None:
            with _snapshot(connection):
                row = connection.execute(self._queries["load_run"], (run_id,)).fetchone()
                if row is None:
                    return None
                steps = connection.execute(self._queries["load_steps"], (f"{{{row[0]}}}",))
                return LoadedRun(whole_run(row), tuple(StepRecord(*each[1:]) for each in steps))

        return await self._read(read)

    async def load_history(self, run_id: str) -> list[HistoryEntry]:
        def read(connection: Connection[Row]) -> list[HistoryEntry]:
            rows = connection.execute(self._queries["load_history"], (run_id,))
            return [HistoryEntry(*row) for row in rows]

        return await self._read(read)

    async def list_runs(self, wanted: RunFilter) -> list[RunRecord]:
        def read(connection: Connection[Row]) -> list[RunRecord]:
            query = self._queries["list_runs"] + which_runs(wanted).encode()
            return [whole_run(row) for row in connection.execute(query, wanted._asdict())]

        return await self._read(read)

    async def count_runs(self, workflow: str | None = None) -> dict[str, int]:
        def read(connection: Connection[Row]) -> dict[str, int]:
            if workflow is None:
                return dict(connection.execute(self._queries["count_runs"]).fetchall())
            query = self._queries["count_runs_of"]
            return dict(connection.execute(query, (workflow,)).fetchall())

        return await self._read(read)

    async def count_jobs(self) -> dict[str, int]:
        return await self._read(
            lambda connection: dict(connection.execute(self._queries["count_jobs"]).fetchall())
        )

    async def examine(self) -> Examination:
        def read(connection: Connection[Row]) -> Examination:
            with _snapshot(connection):
                sessions: dict[str, int] = dict(
                    connection.execute(self._queries["sessions"]).fetchall()
                )
                queued = connection.execute(self._queries["queued"]).fetchall()
                return Examination(
                    self.clock.now_us(),
                    sessions,
                    frozenset(run_id for (run_id,) in queued),
                    frozenset(connection.execute(self._queries["all_jobs"]).fetchall()),
                    frozenset(connection.execute(self._queries["all_timers"]).fetchall()),
                )

        return await self._read(read)

    async def holdings(self, session: str) -> Holdings:
        def read(connection: Connection[Row]) -> Holdings:
            runs = connection.execute(self._queries["owned_by"], (session,)).fetchall()
            jobs = connection.execute(self._queries["jobs_of"], (session, None)).fetchall()
            return Holdings(frozenset(run_id for (run_id,) in runs), frozenset(jobs))

        return await self._read(read)

    async def _read(self, function: Callable[[Connection[Row]], T]) -> T:
        if self._reader is None:
            raise StoreUnavailableError(f"{self.address} is not open")
        return await self._reader.run(function, again=True)


# What was decided after a lock was had goes by what was committed before it.
_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_ROLLBACKS = itertools.count()
_SET_IDLE = IDLE_AT_MOST.replace(b"SET ", b"SET LOCAL ")


@contextlib.contextmanager
def _snapshot(connection: Connection[Row]) -> Generator[None, None, None]:
    """A transaction that sees one state of everything."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with connection.transaction():
        yield


def _carried_out(work: PostgresWorkspace, op: Op) -> OpResult:
    """What comes of *op*. A commit that is refused, or was made before, adds no steps: those that
    it asks for may be there, and a timer or a job of theirs be next."""
    taken = work.take_for_new(op)
    result = carry_out(work, op)
    work.doubt(taken)
    return result


def _roll_back(connection: Connection[Row]) -> None:
    """Undo the transaction. An error in it keeps statements from being prepared that psycopg takes
    for prepared; it forgets them all at a rollback, but only at one that it has not seen before."""
    try:
        connection.execute(f"ROLLBACK -- {next(_ROLLBACKS)}".encode())
    except psycopg.Error:
        connection.close()


def _of_a_run(word: Delivery) -> bool:
    """Whether the word is for a run, so that none for the same run may come after it."""
    return word.what != "ended"


def _joined(earlier: Reply, reply: Reply) -> Reply:
    """*reply* with what an earlier one has told that nobody has heard."""
    return reply._replace(
        claimed=[*earlier.claimed, *reply.claimed],
        inbox=[*earlier.inbox, *reply.inbox],
        jobs=[*earlier.jobs, *reply.jobs],
        more=sorted({*earlier.more, *reply.more}),
    )
