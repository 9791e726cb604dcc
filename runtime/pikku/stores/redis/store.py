"""The Redis store: every transition an operation of one script, a call a batch."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from pikku._clock import Clock, SystemClock
from pikku._ids import MAX_RUN_ID
from pikku._records import (
    NOT_ASKED,
    RUN_STATUSES,
    CreateRun,
    Delivery,
    Examination,
    HistoryEntry,
    Holdings,
    Job,
    LoadedRun,
    Op,
    OpResult,
    PutRun,
    Reply,
    RunFilter,
    RunRecord,
    fits,
)
from pikku.errors import (
    CorruptStateError,
    SchemaVersionError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    StoreUnsafeError,
)
from pikku.stores.base import JOBS, MAIL
from pikku.stores.lanes import QueueLimits, total
from pikku.stores.redis.records import (
    CODES,
    RESULTS,
    Caller,
    delivery_of,
    encode_op,
    entry_of,
    job_of,
    loaded_of,
    run_of,
    weight,
)
from pikku.stores.redis.scripts import SCHEMA, Scripts, scripts
from pikku.stores.redis.transport import Address, LostAnswerError, Transport, translated

log = logging.getLogger("pikku")

TALKS = 64
CALL_CHARACTERS = 16_000_000
REPLICAS_MS = 1_000
PAGE = 200


class ServerClock(SystemClock):
    """The server's clock, as far as its answers tell; leases and timers go by it."""

    def __init__(self) -> None:
        self._ahead_us = 0
        self._best_us: int | None = None

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self._ahead_us

    def learn(self, server_us: int, sent_us: int, answered_us: int) -> None:
        """Take an answer's time into account: the quickest answers tell it best."""
        trip = answered_us - sent_us
        if self._best_us is None or trip <= self._best_us * 2 or trip < 2_000:
            self._best_us = trip if self._best_us is None else min(trip, self._best_us)
            self._ahead_us = server_us - (sent_us + answered_us) // 2


class Talk:
    """What a session has said to a partition, and heard: calls are numbered, so that an answer that
    was lost can be asked for, and mail is kept until the next call says that it has arrived. What
    was heard is kept until a whole batch is answered: of its calls, one may fail after others."""

    __slots__ = ("answered", "call_number", "claimed", "inbox", "jobs", "lost", "mail_read")

    def __init__(self) -> None:
        self.answered = 0
        self.call_number = 0
        self.lost: int | None = None
        self.mail_read: tuple[int, int] | None = None
        self.claimed: list[LoadedRun] = []
        self.inbox: list[Delivery] = []
        self.jobs: list[Job] = []


class Partition:
    """One hash tag: runs with their queues, sessions, timers and indexes, all in one slot."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self._talks: dict[str, Talk] = {}

    def talk(self, session: str) -> Talk:
        """The talk of *session* with this partition."""
        talk = self._talks.get(session)
        if talk is None:
            while len(self._talks) >= TALKS:
                del self._talks[next(iter(self._talks))]
            talk = self._talks[session] = Talk()
        return talk


class RedisStore:
    """Runs on a Redis or Valkey server, or on what stands for one.

    Args:
        address: where it is.
        partitions: over how many hash tags the runs are spread; fixed when the first run is made.
        retention_us: how long a final run is kept; 0 for ever.
        strict: refuse a server that may forget (evicts keys, or persists nothing) instead of
            warning.
        replicas: how many replicas have to confirm a batch before it counts.
    """

    shared = True
    pushes = True

    def __init__(
        self,
        address: Address,
        *,
        partitions: int = 1,
        retention_us: int = 0,
        strict: bool = False,
        replicas: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self.address = address.shown
        self._given_clock = clock
        self._server_clock = ServerClock()
        self.clock: Clock = clock or self._server_clock
        self._transport = Transport(address)
        self._partitions = [Partition(f"{{pk:{i}}}") for i in range(partitions)]
        self._retention_us = retention_us
        self._strict = strict
        self._replicas = replicas
        self._scripts: Scripts = scripts(flags=True, given_time=clock is not None)
        self._first = 0
        self._limits: dict[str, QueueLimits] = {}
        self._unreadable: dict[str, str] = {}
        self._known: set[str] = set()
        self._known_lock = threading.Lock()

    # --- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        await self._transport.open()
        try:
            await self._look_at_server()
            for partition in self._partitions:
                self._check_meta(
                    await self._transport.call(
                        self._scripts.beat, partition.tag, self._timed(["", 0, 1, *self._meta])
                    )
                )
        except BaseException:
            await self._transport.close()
            raise

    @property
    def _meta(self) -> tuple[int, int]:
        return SCHEMA, len(self._partitions)

    def _check_meta(self, answer: Any) -> bool:
        if isinstance(answer, int):
            return bool(answer)
        found: list[Any] = answer
        schema, partitions = int(found[0]), int(found[1] or 1)
        if schema != SCHEMA:
            raise SchemaVersionError(
                f"{self.address} has schema version {schema}, and this pikku knows version {SCHEMA}"
            )
        raise StoreError(
            f"{self.address} was set up with {partitions} partitions, "
            f"and this process asks for {len(self._partitions)}",
            hint=f"write partitions={partitions} in the store URL, in every process",
        )

    async def _look_at_server(self) -> None:
        """Learn what the server can do, and whether it may forget."""
        dangers: list[str] = []
        try:
            info = await self._transport.info()
        except StoreError as error:
            log.warning("%s says nothing of itself, and is taken for 7.0: %s", self.address, error)
            return
        version = tuple(int(part) for part in str(info.get("redis_version", "7.0")).split(".")[:2])
        if version < (7, 0):
            self._scripts = scripts(flags=False, given_time=self._given_clock is not None)
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and int(info.get("maxmemory", 0)):
            dangers.append(f"maxmemory-policy is {policy}, so it may delete runs when it is full")
        if not int(info.get("aof_enabled", 0)):
            if await self._transport.snapshots():
                dangers.append("appendonly is off: a crash loses what came after the last snapshot")
            else:
                dangers.append("it persists nothing: a restart loses every run")
        for danger in dangers:
            if self._strict:
                raise StoreUnsafeError(f"{self.address}: {danger}")
            log.warning("%s: %s", self.address, danger)

    async def close(self) -> None:
        await self._transport.close()

    # --- transitions ----------------------------------------------------------------------------

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if len(self._partitions) == 1:
            reply = await self._apply(self._partitions[0], session, ops, want)
        else:
            reply = await self._apply_everywhere(session, ops, want)
        talks = [partition.talk(session) for partition in self._partitions]
        reply = reply._replace(
            claimed=[each for talk in talks for each in talk.claimed],
            inbox=[each for talk in talks for each in talk.inbox],
            jobs=[each for talk in talks for each in talk.jobs],
        )
        for talk in talks:
            talk.claimed, talk.inbox, talk.jobs = [], [], []
        return reply

    async def _apply_everywhere(
        self, session: str, ops: Sequence[Op], want: Mapping[str, int]
    ) -> Reply:
        count = len(self._partitions)
        parts: list[list[tuple[int, Op]]] = [[] for _ in range(count)]
        for place, op in enumerate(ops):
            run_id: str | None = getattr(op, "run_id", None)
            if run_id is not None:
                parts[self._place(run_id)].append((place, op))
            else:
                for part in parts:
                    part.append((place, op))
        self._first = (self._first + 1) % count
        shares = [
            {
                queue: number // count + ((i - self._first) % count < number % count)
                for queue, number in want.items()
            }
            for i in range(count)
        ]
        answers = await asyncio.gather(
            *(
                self._apply(partition, session, [op for _, op in part], share)
                for partition, part, share in zip(self._partitions, parts, shares, strict=True)
            ),
            return_exceptions=True,
        )
        replies: list[Reply] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            replies.append(answer)
        results: list[OpResult] = [OpResult("ok")] * len(ops)
        for part, reply in zip(parts, replies, strict=True):
            for (place, _), result in zip(part, reply.results, strict=True):
                results[place] = result
        told = [reply.next_due_us for reply in replies if reply.next_due_us != NOT_ASKED]
        dues = [due for due in told if due is not None]
        asked = len(told) == count
        return Reply(
            results,
            next_due_us=(min(dues) if dues else None) if asked else min(dues, default=NOT_ASKED),
            session_alive=all(reply.session_alive for reply in replies),
            more=list(dict.fromkeys(each for reply in replies for each in reply.more)),
        )

    def _place(self, run_id: str) -> int:
        return zlib.crc32(family(run_id).encode()) % len(self._partitions)

    async def _apply(
        self, partition: Partition, session: str, ops: Sequence[Op], want: Mapping[str, int]
    ) -> Reply:
        parts = _parts(ops)
        if len(parts) == 1:
            return await self._apply_part(partition, session, ops, want)
        replies = [
            await self._apply_part(partition, session, part, want if part is parts[-1] else {})
            for part in parts
        ]
        return replies[-1]._replace(
            results=[result for reply in replies for result in reply.results]
        )

    async def _apply_part(
        self, partition: Partition, session: str, ops: Sequence[Op], want: Mapping[str, int]
    ) -> Reply:
        starts = [op for op in ops if _begins(op)]
        if not starts:
            return await self._call(partition, session, ops, want)
        # New work is refused by a server that is full, work under way is not: two scripts.
        rest = [op for op in ops if not _begins(op)]
        try:
            begun = await self._call(partition, session, starts, want if not rest else {})
        except StoreFullError as error:
            begun = Reply([OpResult("error", error=error)] * len(starts), next_due_us=NOT_ASKED)
        if not rest and begun.results and begun.results[0].error is None:
            return begun
        went_on = await self._call(partition, session, rest, want)
        of_starts, of_rest = iter(begun.results), iter(went_on.results)
        due = went_on.next_due_us if went_on.next_due_us != NOT_ASKED else begun.next_due_us
        return went_on._replace(
            results=[next(of_starts if _begins(op) else of_rest) for op in ops], next_due_us=due
        )

    async def _call(
        self, partition: Partition, session: str, ops: Sequence[Op], want: Mapping[str, int]
    ) -> Reply:
        """One call. What it brings besides the results of *ops* is left in the session's talk."""
        talk = partition.talk(session)
        starts = bool(ops) and _begins(ops[0])
        script = self._scripts.start if starts else self._scripts.work
        sent = time.time_ns() // 1000
        try:
            try:
                answer = await self._transport.call(
                    script, partition.tag, self._arguments(talk, session, ops, want)
                )
            except LostAnswerError:
                # Nobody knows whether it was carried out. Every operation may be repeated, and the
                # next call is told what it has to answer again.
                if talk.lost is None:
                    talk.lost = talk.call_number
                sent = time.time_ns() // 1000
                answer = await self._transport.call(
                    script, partition.tag, self._arguments(talk, session, ops, want)
                )
        except LostAnswerError:
            if talk.lost is None:
                talk.lost = talk.call_number
            raise
        results, claimed, jobs, inbox, next_due, alive, more, now_us, answered = answer
        if self._given_clock is None:
            self._server_clock.learn(int(now_us), sent, time.time_ns() // 1000)
        if self._replicas and ops:
            confirmed = await self._transport.confirmed(self._replicas, REPLICAS_MS)
            if confirmed < self._replicas:
                if talk.lost is None:
                    talk.lost = talk.call_number
                raise StoreUnavailableError(
                    f"{self.address}: {confirmed} of {self._replicas} replicas have confirmed"
                )
        talk.answered = answered
        talk.lost = None
        talk.mail_read = (talk.call_number, len(inbox)) if inbox else None
        talk.claimed += [run for each in claimed if (run := self._claimed(each)) is not None]
        talk.inbox += [said for word in inbox if (said := self._word(word)) is not None]
        talk.jobs += [job for each in jobs if (job := self._job(each)) is not None]
        return Reply(
            [self._result(answer, op) for answer, op in zip(results, ops, strict=True)],
            next_due_us=NOT_ASKED if next_due == b"-1" else int(next_due) if next_due else None,
            session_alive=bool(alive),
            more=[each.decode() for each in more],
        )

    def _arguments(
        self, talk: Talk, session: str, ops: Sequence[Op], want: Mapping[str, int]
    ) -> list[Any]:
        talk.call_number += 1
        read = talk.mail_read
        queues = len(want) - (MAIL in want)
        arguments: list[Any] = [
            session,
            talk.call_number,
            "" if talk.lost is None else talk.lost,
            "" if read is None else read[0],
            0 if read is None else read[1],
            int(MAIL in want or talk.lost is not None),
            talk.answered,
            queues,
        ]
        if queues:
            for queue, count in want.items():
                if queue != MAIL:
                    limits = self._limits.get(queue)
                    arguments += (queue, count if limits is None else _limited(count, limits))
        by = Caller(session.encode(), self.clock.now_us(), self._retention_us)
        for op in ops:
            arguments += encode_op(op, by)
        return self._timed(arguments)

    def limit_queue(self, queue: str, limits: QueueLimits, /) -> None:
        self._limits[JOBS + queue] = limits

    def _timed(self, arguments: list[Any]) -> list[Any]:
        if self._given_clock is not None:
            arguments.append(self._given_clock.now_us())
        return arguments

    def _result(self, answer: Any, op: Op) -> OpResult:
        if isinstance(answer, int):
            return RESULTS[answer]
        code = answer[0]
        if CODES[code] == "error":
            text = answer[1].decode(errors="replace")
            run_id = getattr(op, "run_id", "?")
            error: Exception
            if text.startswith("CORRUPT "):
                error = CorruptStateError(f"run {run_id}: its record cannot be read: {text[8:]}")
            else:
                error = translated(Exception(text.removeprefix("ERR ")), self.address)
            return OpResult("error", error=error)
        try:
            return OpResult(CODES[code], run_of(op.run_id, answer[1]))  # type: ignore[union-attr]
        except CorruptStateError as error:
            return OpResult("error", error=error)

    def _claimed(self, parts: Any) -> LoadedRun | None:
        try:
            return loaded_of(parts)
        except CorruptStateError as error:
            run_id = parts[0].decode(errors="replace")
            log.error("run %s: %s", run_id, error)
            try:
                return LoadedRun(run_of(run_id, parts[1]), (), error)
            except CorruptStateError:
                return None

    def _word(self, word: bytes) -> Delivery | None:
        try:
            return delivery_of(word)
        except CorruptStateError as error:
            log.error("%s", error)
            return None

    def _job(self, parts: Any) -> Job | None:
        try:
            return job_of(parts)
        except CorruptStateError as error:
            log.error("run %s: %s", parts[0], error)
            return None

    # --- sessions and wake-ups ------------------------------------------------------------------

    def beat(self, session: str, lease_us: int) -> bool:
        with self._known_lock:
            first = session not in self._known
        alive = True
        for partition in self._partitions:
            answer = self._transport.call_blocking(
                self._scripts.beat,
                partition.tag,
                self._timed([session, lease_us, int(first), *self._meta]),
            )
            alive = self._check_meta(answer) and alive
        with self._known_lock:
            self._known.add(session)
        return alive

    async def wait(self, session: str, queues: Sequence[str], seconds: float, /) -> str | None:
        if len(self._partitions) == 1:
            return await self._wait(self._partitions[0], session, queues, seconds)
        tasks = [
            asyncio.ensure_future(self._wait(partition, session, queues, seconds))
            for partition in self._partitions
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next((name for task in done if (name := task.result()) is not None), None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(
        self, partition: Partition, session: str, queues: Sequence[str], seconds: float
    ) -> str | None:
        tag = partition.tag
        keys = [f"{tag}:m:in:{session}", *(f"{tag}:m:{queue}" for queue in queues)]
        key = await self._transport.pop_marker(keys, seconds)
        if key is None:
            return None
        name = key.decode()[len(tag) + 3 :]
        return MAIL if name == f"in:{session}" else name

    # --- reads ----------------------------------------------------------------------------------

    def _partition_of(self, run_id: str) -> Partition:
        return self._partitions[self._place(run_id)]

    async def load_run(self, run_id: str) -> RunRecord | None:
        partition = self._partition_of(run_id)
        (flat,) = await self._transport.commands(("HGETALL", f"{partition.tag}:r:{run_id}"))
        return run_of(run_id, _flat(flat)) if flat else None

    async def load_steps(self, run_id: str) -> LoadedRun | None:
        partition = self._partition_of(run_id)
        parts = await self._transport.call(self._scripts.load, partition.tag, [run_id])
        return loaded_of(parts) if parts else None

    async def load_history(self, run_id: str) -> list[HistoryEntry]:
        partition = self._partition_of(run_id)
        (lines,) = await self._transport.commands(("LRANGE", f"{partition.tag}:h:{run_id}", 0, -1))
        return [entry_of(line) for line in lines]

    async def list_runs(self, wanted: RunFilter) -> list[RunRecord]:
        found: list[tuple[bytes, RunRecord]] = []
        for partition in self._partitions:
            found += await self._listed(partition, _indexes(partition.tag, wanted), wanted)
        found.sort(key=lambda each: (each[1].created_us, each[0]), reverse=not wanted.oldest_first)
        return [run for _, run in found[: wanted.limit]]

    async def _listed(
        self, partition: Partition, indexes: Iterable[str], wanted: RunFilter
    ) -> list[tuple[bytes, RunRecord]]:
        """What each of *indexes* has, up to the limit: a page of them all at a time."""
        found: list[tuple[bytes, RunRecord]] = []
        told = wanted.tag is None and wanted.text is None and wanted.ended_before_us is None
        page = min(PAGE, wanted.limit) if told else PAGE
        missing = dict.fromkeys(indexes, wanted.limit)
        offset = 0
        while missing:
            pages = await self._transport.commands(
                *(_look(index, wanted, offset, page) for index in missing)
            )
            members = [member for each in pages for member in each]
            flats: Iterator[Any] = iter(())
            if members:
                prefix = f"{partition.tag}:r:".encode()
                flats = iter(
                    await self._transport.each(
                        [("HGETALL", prefix + member[15:]) for member in members]
                    )
                )
            for (index, still), each in zip(list(missing.items()), pages, strict=True):
                fitting = 0
                for member in each:
                    run = self._listable(member[15:].decode(), next(flats))
                    if run is not None and fits(run, wanted):
                        found.append((member, run))
                        fitting += 1
                missing[index] = still - fitting
                if len(each) < page or fitting >= still:
                    del missing[index]
            offset += page
        return found

    def _listable(self, run_id: str, flat: Any) -> RunRecord | None:
        """The run, unless it is gone or cannot be read; the others are listed all the same."""
        try:
            if isinstance(flat, Exception):
                raise translated(flat, self.address)
            return run_of(run_id, _flat(flat)) if flat else None
        except StoreError as error:
            log.error("run %s is left out: %s", run_id, error)
            self._unreadable[run_id] = str(error)
            return None

    async def count_runs(self, workflow: str | None = None) -> dict[str, int]:
        counts: dict[str, int] = {}
        for partition in self._partitions:
            answers = await self._transport.commands(
                *(("ZCARD", _index(partition.tag, status, workflow)) for status in RUN_STATUSES)
            )
            for status, count in zip(RUN_STATUSES, answers, strict=True):
                if count:
                    counts[status] = counts.get(status, 0) + count
        return counts

    async def count_jobs(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for partition in self._partitions:
            tag = partition.tag
            (names,) = await self._transport.commands(("SMEMBERS", f"{tag}:queues"))
            queues = [each.decode() for each in names]
            lanes = list(queues)
            for some in await self._transport.each(
                [("ZRANGE", f"{tag}:lanes:{queue}", 0, -1) for queue in queues]
            ):
                lanes += [each.decode() for each in some]
            sizes = await self._transport.each(
                [("LLEN", f"{tag}:q:{JOBS}{lane}") for lane in lanes]
            )
            for queue, count in total(zip(lanes, sizes, strict=True)).items():
                if count:
                    counts[queue] = counts.get(queue, 0) + count
        return counts

    async def examine(self) -> Examination:
        now_us = 0
        sessions: dict[str, int] = {}
        queued: set[str] = set()
        jobs: set[tuple[str, str, int]] = set()
        timers: set[tuple[str, str, str]] = set()
        kinds = {b"s": "sleep", b"r": "retry", b"t": "timeout", b"b": "start"}
        for partition in self._partitions:
            answer = await self._transport.call(
                self._scripts.examine, partition.tag, self._timed([])
            )
            now_us = max(now_us, int(answer[0]))
            flat = answer[1]
            for i in range(0, len(flat), 2):
                name = flat[i].decode()
                sessions[name] = max(sessions.get(name, 0), int(float(flat[i + 1])))
            for runs in answer[2]:
                queued.update(run_id.decode() for run_id in runs)
            for entries in answer[3]:
                for entry in entries:
                    attempt = int.from_bytes(entry[:4], "little")
                    end = 6 + int.from_bytes(entry[4:6], "little")
                    jobs.add((entry[6:end].decode(), entry[end:].decode(), attempt))
            for entry in answer[4]:
                end = 3 + int.from_bytes(entry[1:3], "little")
                timers.add((entry[3:end].decode(), entry[end:].decode(), kinds[entry[:1]]))
        return Examination(
            now_us,
            sessions,
            frozenset(queued),
            frozenset(jobs),
            frozenset(timers),
            dict(self._unreadable),
        )

    async def holdings(self, session: str) -> Holdings:
        runs: set[str] = set()
        jobs: set[tuple[str, str]] = set()
        for partition in self._partitions:
            (held,) = await self._transport.commands(("HKEYS", f"{partition.tag}:own:{session}"))
            for entry in held:
                if entry[:1] == b"r":
                    runs.add(entry[1:].decode())
                elif entry[:1] == b"j":
                    end = 3 + int.from_bytes(entry[1:3], "little")
                    jobs.add((entry[3:end].decode(), entry[end:].decode()))
        return Holdings(frozenset(runs), frozenset(jobs))


def _limited(count: int, limits: QueueLimits) -> str:
    """How much to claim of a queue that has limits, as the script reads it."""
    given = (limits.concurrency, limits.group_concurrency, limits.rate, limits.per_us)
    return ":".join(str(-1 if each is None else each) for each in (count, *given))


def _look(index: str, wanted: RunFilter, offset: int, page: int) -> tuple[Any, ...]:
    """The command for a page of an index."""
    first, last = _created(wanted)
    if wanted.oldest_first:
        return ("ZRANGEBYSCORE", index, first, last, "LIMIT", offset, page)
    return ("ZREVRANGEBYSCORE", index, last, first, "LIMIT", offset, page)


def _created(wanted: RunFilter) -> tuple[str, str]:
    """From when to when the runs that are wanted may have been created."""
    first = "-inf" if wanted.after_us is None else f"{wanted.after_us}"
    before = [us for us in (wanted.before_us, wanted.ended_before_us) if us is not None]
    return first, f"({min(before)}" if before else "+inf"


def family(run_id: str) -> str:
    """What the ids of a run and of its children have in common (`child_run_id`): a parent and its
    child move in one transaction, so all of a family lie in one partition."""
    return run_id.partition("~")[0][: MAX_RUN_ID - 33]


def _begins(op: Op) -> bool:
    return type(op) is CreateRun or (type(op) is PutRun and op.expected is None)


def _parts(ops: Sequence[Op]) -> list[Sequence[Op]]:
    """*ops* in batches that a server takes in one call without holding up everybody else."""
    parts: list[Sequence[Op]] = []
    begin = total = 0
    for place, op in enumerate(ops):
        size = weight(op)
        if total and total + size > CALL_CHARACTERS:
            parts.append(ops[begin:place])
            begin, total = place, 0
        total += size
    parts.append(ops[begin:] if begin else ops)
    return parts


def _flat(answer: Any) -> list[bytes]:
    """A hash as a flat list, however the protocol's version hands it over."""
    if isinstance(answer, dict):
        pairs = cast("dict[bytes, bytes]", answer).items()
        return [part for pair in pairs for part in pair]
    flat: list[bytes] = answer
    return flat


def _indexes(tag: str, wanted: RunFilter) -> list[str]:
    if wanted.tag is not None:
        return [f"{tag}:tag:{wanted.tag}"]
    statuses = RUN_STATUSES if wanted.status is None else (wanted.status,)
    return [_index(tag, status, wanted.workflow) for status in statuses]


def _index(tag: str, status: str, workflow: str | None) -> str:
    """The index of the runs of a status: of all but jobs, or of one workflow."""
    return f"{tag}:ix:{status}" if workflow is None else f"{tag}:wf:{status}:{workflow}"
