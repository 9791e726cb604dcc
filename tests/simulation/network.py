"""The store of a world, and the lines on which its processes reach it.

The server keeps its records in a `MemoryStore` and speaks to sessions as a store behind a network
has to: calls are numbered, what the answer to a lost one granted is granted again with the next,
mail stays until the next call says that it has arrived (as `pikku.stores.redis` does it). A line
delays what passes, loses requests or answers, and brings requests twice or after they were given
up. The server notices at once when what it has recorded changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tests.simulation.world import SECOND, Process, World

from pikku._clock import Clock
from pikku._diagnosis import awaited_children, diagnose
from pikku._records import (
    ENDED_STEP,
    FINAL_STATUSES,
    GIVEN_UP,
    Commit,
    CompleteStep,
    Examination,
    HandRun,
    HistoryEntry,
    Holdings,
    Job,
    LoadedRun,
    Op,
    Reply,
    RunFilter,
    RunRecord,
    StepRecord,
    copy_step,
    step_progress,
)
from pikku.errors import StoreUnavailableError
from pikku.stores.base import JOBS, MAIL
from pikku.stores.lanes import QueueLimits
from pikku.stores.memory import MemoryStore

T = TypeVar("T")
# What a wait is told when the time is over, and when there is something.
Told = Callable[[str | None], None]


class LostAnswerError(StoreUnavailableError):
    """The line broke: whether the call was carried out is not known."""


class Call(NamedTuple):
    """A numbered call: which lost one it asks about, which mail it says has arrived."""

    session: str
    number: int
    lost: int | None
    acknowledged: tuple[int, int] | None
    ops: tuple[Op, ...]
    want: Mapping[str, int]


class Heard:
    """What the server remembers of what a session has said."""

    def __init__(self) -> None:
        self.latest = 0
        self.acknowledged = 0


class Server(MemoryStore):
    """The store that processes share."""

    shared = True

    def __init__(self, world: World) -> None:
        super().__init__(clock=world.clock, name="world")
        self._world = world
        self._heard: dict[str, Heard] = {}
        self._number = 0
        self._claimed_at: dict[tuple[str, str, str], int] = {}
        self._filled: dict[str, None] = {}
        self._waiters: list[tuple[str, Sequence[str], Told]] = []
        self._final: dict[str, tuple[Any, ...]] = {}
        self._recorded: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._progress: dict[tuple[str, str], int] = {}

    # --- calls ----------------------------------------------------------------------------------

    def serve(self, call: Call) -> Reply:
        """Carry the call out.

        Raises:
            StoreUnavailableError: if a later call of the session was carried out before.
        """
        session, number = call.session, call.number
        heard = self._heard.setdefault(session, Heard())
        again = number == heard.latest
        if number < heard.latest:
            self._world.counts["overtaken"] += 1
            raise StoreUnavailableError("the store answered another call first")
        heard.latest = number
        inbox = self._inboxes.get(session, [])
        # What a copy would be given goes nowhere: it is carried out, and takes nothing.
        if not again and call.acknowledged is not None:
            if call.acknowledged[0] != heard.acknowledged:
                heard.acknowledged, read = call.acknowledged
                del inbox[:read]
        want = {} if again else {name: n for name, n in call.want.items() if name != MAIL}
        self._number = number
        reply = self.apply_now(session, call.ops, want)
        if reply.inbox:
            self._inboxes[session] = list(reply.inbox)
        for name in want:
            self._filled.pop(name, None)
        self._filled.update(dict.fromkeys(reply.more))
        self._tell_waiters()
        for op, result in zip(call.ops, reply.results, strict=True):
            if result.code == "fenced" and type(op) in (Commit, CompleteStep):
                self._world.counts["refused"] += 1
            if type(op) is HandRun and result.code == "ok":
                self._world.counts["handed over"] += 1
            if result.code == "error":
                self._world.blame(f"{op} was answered with {result.error!r}")
        if self._world.trace is not None:
            self._trace(call, reply)
        claimed, jobs = list(reply.claimed), list(reply.jobs)
        if call.lost is not None and not again:
            self._grant_again(session, call.lost, number, claimed, jobs)
        reads = MAIL in call.want or not call.ops or call.lost is not None
        return reply._replace(
            claimed=claimed, jobs=jobs, inbox=list(reply.inbox) if reads and not again else []
        )

    def _grant_again(
        self, session: str, lost: int, number: int, claimed: list[LoadedRun], jobs: list[Job]
    ) -> None:
        """What the session was granted and, its answers lost, does not know of."""
        for run_id in self._owned.get(session, {}):
            if lost <= self._claimed_at[session, run_id, ""] < number:
                loaded = self._load(run_id)
                assert loaded is not None
                claimed.append(loaded)
        for run_id, key in self._held.get(session, {}):
            if lost <= self._claimed_at[session, run_id, key] < number:
                step = copy_step(self._steps_of(run_id)[key])
                jobs.append(Job(run_id, self._runs[run_id].workflow, step))

    def _trace(self, call: Call, reply: Reply) -> None:
        said = [
            f"{type(op).__name__}({getattr(op, 'run_id', '')} {_detail(op)}) {result.code}"
            for op, result in zip(call.ops, reply.results, strict=True)
        ]
        given = [f"claims {loaded.run.run_id}" for loaded in reply.claimed]
        given += [f"claims {job.run_id} {job.step.key}" for job in reply.jobs]
        given += [f"mail {word.what} {word.run_id} {word.key}" for word in reply.inbox]
        lost = "" if call.lost is None else f" after {call.lost} was lost"
        alive = "" if reply.session_alive else "; its session is gone"
        self._world.note(
            "store", f"{call.session} #{call.number}{lost}: {'; '.join(said + given)}{alive}"
        )

    # --- who waits ------------------------------------------------------------------------------

    def add_waiter(self, session: str, names: Sequence[str], told: Told) -> None:
        """Tell *told* once, as soon as one of the queues or the inbox may hold something."""
        self._waiters.append((session, names, told))
        self._tell_waiters()

    def drop_waiter(self, told: Told) -> None:
        self._waiters = [each for each in self._waiters if each[2] is not told]

    def _tell_waiters(self) -> None:
        for waiter in list(self._waiters):
            session, names, told = waiter
            found = MAIL if self._inboxes.get(session) else None
            if found is None:
                found = next((name for name in names if name in self._filled), None)
                if found is not None:
                    del self._filled[found]
            if found is not None:
                self._waiters.remove(waiter)
                told(found)

    def enqueue(self, queue: str, run_id: str) -> None:
        super().enqueue(queue, run_id)
        self._filled[queue] = None

    def push_job(self, queue: str, run_id: str, key: str, attempt: int) -> None:
        super().push_job(queue, run_id, key, attempt)
        self._filled[JOBS + queue] = None

    # --- what is kept, and what must not change -------------------------------------------------

    def _own(self, run: RunRecord) -> None:
        super()._own(run)
        assert run.owner is not None
        self._claimed_at[run.owner, run.run_id, ""] = self._number

    def _hold(self, run_id: str, step: StepRecord) -> None:
        before = (run_id, step.key) in self._held.get(step.worker or "", ())
        super()._hold(run_id, step)
        if step.worker is not None and not before:
            self._claimed_at[step.worker, run_id, step.key] = self._number

    def runs_of(self, session: str, limit: int) -> Iterable[RunRecord]:
        runs = list(super().runs_of(session, limit))
        self._world.counts["runs recovered"] += len(runs)
        return runs

    def jobs_of(self, session: str, limit: int) -> Iterable[tuple[str, StepRecord]]:
        held = list(super().jobs_of(session, limit))
        self._world.counts["jobs recovered"] += len(held)
        return held

    def save_run(self, run: RunRecord) -> None:
        now = (run.status, run.output, run.error, run.finished_us)
        before = self._final.get(run.run_id)
        if before is not None and before != now:
            self._world.blame(f"Z: run {run.run_id} was {before} and is {now}")
        elif run.status in FINAL_STATUSES:
            self._final[run.run_id] = now
        super().save_run(run)

    def save_step(self, run_id: str, step: StepRecord) -> None:
        place = (run_id, step.key)
        progress = step_progress(step.attempt, step.status)
        if progress < self._progress.get(place, 0):
            self._world.blame(f"Z: step {step.key} of run {run_id} went back to {step}")
        self._progress[place] = progress
        before = self._recorded.get(place)
        if step.status in ENDED_STEP and step.error != GIVEN_UP:
            now = (step.status, step.attempt, step.result, step.error, step.finished_us)
            if before is not None and before != now and step.kind != "child":
                self._world.blame(f"Z: step {step.key} of run {run_id} was {before} and is {now}")
            self._recorded[place] = now
        elif before is not None and not step.handled and step.error != GIVEN_UP:
            self._world.blame(f"Z: step {step.key} of run {run_id} was {before} and is {step}")
        super().save_step(run_id, step)

    def is_recorded(self, run_id: str, key: str) -> bool:
        """Whether the step has an outcome."""
        return (run_id, key) in self._recorded

    @property
    def all_final(self) -> bool:
        """Whether every run has ended."""
        return len(self._final) == len(self._runs)

    def everything(self) -> list[LoadedRun]:
        """All runs, the oldest first."""
        return [loaded for run_id in self._runs if (loaded := self._load(run_id)) is not None]

    def held_by(self, session: str) -> Holdings:
        """What the session holds, here and now; nothing once its lease has run out."""
        if not self.session_alive(session):
            return Holdings(frozenset(), frozenset())
        return _at_once(self.holdings(session))

    def loaded(self, run_id: str) -> LoadedRun:
        """A run that is there, here and now."""
        loaded = self._load(run_id)
        assert loaded is not None
        return loaded

    def symptoms(self) -> list[str]:
        """What the doctor finds wrong, here and now: nothing is between two transitions."""
        found = _at_once(self.examine())
        said: list[str] = []
        for run_id in [each for each in self._runs if each not in self._final]:
            loaded = self._load(run_id)
            assert loaded is not None
            children = [(each, self._runs.get(each)) for each in awaited_children(loaded)]
            ended = {each for each, run in children if run is None or run.status in FINAL_STATUSES}
            for symptom in diagnose(loaded, found, ended):
                if not symptom.heals:
                    said.append(f"run {run_id}: {symptom.text}")
        return said


def _detail(op: Op) -> str:
    if isinstance(op, Commit):
        writes = [f"{each.key}={each.status}{each.attempt}" for each in (*op.ends, *op.asks)]
        settle = op.settle.status if op.settle is not None else ""
        return " ".join([f"turn {op.turn}", *writes, *op.calls_off, settle]).strip()
    return " ".join(str(getattr(op, name)) for name in ("key", "attempt") if hasattr(op, name))


class Weather:
    """How bad the lines are now.

    Attributes:
        loss: the share of calls that something happens to.
        slow: the share of messages that take long.
    """

    def __init__(self, world: World) -> None:
        self._draw = world.draw
        self.loss = 0.0
        self.slow = 0.0

    def delay_us(self) -> int:
        """How long a message takes."""
        draw = self._draw
        if self.slow and draw.random() < self.slow:
            return draw.randrange(10_000, 1_500_000)
        return draw.randrange(100, 4_000)

    def accident(self) -> str | None:
        """What happens to a call."""
        draw = self._draw
        if not self.loss or draw.random() >= self.loss:
            return None
        return draw.choice(["request lost", "answer lost", "given up", "sent twice"])

    def patience_us(self) -> int:
        """How long it takes until a call is given up: a reset, or silence."""
        draw = self._draw
        if draw.random() < 0.7:
            return draw.randrange(500, 50_000)
        return draw.randrange(500_000, 5_000_000)


class Talk:
    """What a session has said, and heard."""

    def __init__(self) -> None:
        self.number = 0
        self.lost: int | None = None
        self.mail_read: tuple[int, int] | None = None


class Line:
    """The store as a process sees it: `pikku.stores.base.Store` over a network."""

    shared = True

    def __init__(self, process: Process, server: Server, weather: Weather, *, pushes: bool) -> None:
        self.clock: Clock = process.world.clock
        self.address = server.address
        self.pushes = pushes
        self._process = process
        self._world = process.world
        self._server = server
        self._weather = weather
        self._talks: dict[str, Talk] = {}

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    # --- the way there and back -----------------------------------------------------------------

    async def _ask(self, serve: Callable[[], T]) -> T:
        world, process, weather = self._world, self._process, self._weather
        answer: asyncio.Future[T] = process.loop.create_future()
        accident = weather.accident()
        if accident is not None:
            world.counts[accident] += 1
            world.note(process, accident)

        def give_up() -> None:
            if not answer.done():
                answer.set_exception(LostAnswerError(f"{self.address} cannot be reached"))

        def tell(made: T | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(made)  # type: ignore[arg-type]

        def arrive() -> None:
            made: T | None = None
            error: Exception | None = None
            try:
                made = serve()
            except StoreUnavailableError as refused:
                error = refused
            if accident in ("answer lost", "given up"):
                return
            if process.cut_in:
                process.later(weather.patience_us(), give_up)
            else:
                process.later(weather.delay_us(), lambda: tell(made, error))

        way_us = weather.delay_us()
        if process.cut_out:
            world.counts["requests cut off"] += 1
            process.later(weather.patience_us(), give_up)
        elif accident == "request lost":
            process.later(weather.patience_us(), give_up)
        elif accident == "given up":
            patience_us = weather.patience_us()
            process.later(patience_us, give_up)
            world.after(patience_us + world.draw.randrange(4 * SECOND), arrive)
        else:
            world.after(way_us, arrive)
            if accident == "answer lost":
                process.later(way_us + weather.patience_us(), give_up)
            elif accident == "sent twice":
                world.after(way_us + world.draw.randrange(4 * SECOND), lambda: _unheard(serve))
        return await answer

    # --- transitions ----------------------------------------------------------------------------

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        talk = self._talks.setdefault(session, Talk())
        sent = tuple(_as_sent(op) for op in ops)
        try:
            try:
                number, reply = await self._call(talk, session, sent, want)
            except LostAnswerError:
                if talk.lost is None:
                    talk.lost = talk.number
                number, reply = await self._call(talk, session, sent, want)
        except LostAnswerError:
            if talk.lost is None:
                talk.lost = talk.number
            raise
        talk.lost = None
        talk.mail_read = (number, len(reply.inbox)) if reply.inbox else None
        return reply

    async def _call(
        self, talk: Talk, session: str, ops: tuple[Op, ...], want: Mapping[str, int]
    ) -> tuple[int, Reply]:
        talk.number += 1
        call = Call(session, talk.number, talk.lost, talk.mail_read, ops, dict(want))
        return call.number, await self._ask(lambda: self._server.serve(call))

    def beat(self, session: str, lease_us: int) -> bool:
        """A beat passes at once, or is lost on its way there or back."""
        world, process = self._world, self._process
        accident = self._weather.accident()
        lost = accident in ("request lost", "given up") or process.cut_out
        alive = False if lost else self._server.beat(session, lease_us)
        if lost or accident == "answer lost" or process.cut_in:
            world.counts["beats lost"] += 1
            world.note(process, f"a beat of {session} is lost{'' if lost else ' on its way back'}")
            process.stalled_us = self._weather.patience_us()
            raise LostAnswerError(f"{self.address} cannot be reached")
        return alive

    async def wait(self, session: str, queues: Sequence[str], seconds: float, /) -> str | None:
        answer: asyncio.Future[str | None] = self._process.loop.create_future()
        process, server, weather = self._process, self._server, self._weather

        def set_result(name: str | None) -> None:
            if not answer.done():
                answer.set_result(name)

        def told(name: str | None) -> None:
            server.drop_waiter(told)
            if not process.cut_in and weather.accident() is None:
                process.later(weather.delay_us(), lambda: set_result(name))

        def lost() -> None:
            if not answer.done():
                answer.set_exception(LostAnswerError(f"{self.address} cannot be reached"))

        if not process.cut_out:
            self._world.after(weather.delay_us(), lambda: server.add_waiter(session, queues, told))
        self._world.after(int(seconds * SECOND), lambda: told(None))
        process.later(int((seconds + 1) * SECOND), lost)
        try:
            return await answer
        finally:
            server.drop_waiter(told)

    # --- reads ----------------------------------------------------------------------------------

    async def load_run(self, run_id: str) -> RunRecord | None:
        return await self._ask(lambda: _at_once(self._server.load_run(run_id)))

    async def load_steps(self, run_id: str) -> LoadedRun | None:
        return await self._ask(lambda: _at_once(self._server.load_steps(run_id)))

    async def load_history(self, run_id: str) -> list[HistoryEntry]:
        return await self._ask(lambda: _at_once(self._server.load_history(run_id)))

    async def list_runs(self, wanted: RunFilter) -> list[RunRecord]:
        return await self._ask(lambda: _at_once(self._server.list_runs(wanted)))

    async def count_runs(self, workflow: str | None = None) -> dict[str, int]:
        return await self._ask(lambda: _at_once(self._server.count_runs(workflow)))

    async def count_jobs(self) -> dict[str, int]:
        return await self._ask(lambda: _at_once(self._server.count_jobs()))

    def limit_queue(self, queue: str, limits: QueueLimits, /) -> None:
        self._server.limit_queue(queue, limits)

    async def examine(self) -> Examination:
        return await self._ask(lambda: _at_once(self._server.examine()))

    async def holdings(self, session: str) -> Holdings:
        return await self._ask(lambda: _at_once(self._server.holdings(session)))


def _at_once(coro: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing, as those of a store in memory."""
    try:
        coro.send(None)
    except StopIteration as stop:
        made: T = stop.value
        return made
    raise AssertionError("the store in memory waits for nothing")


def _unheard(serve: Callable[[], object]) -> None:
    """Carry out what nobody waits for the answer of."""
    try:
        serve()
    except StoreUnavailableError:
        pass


def _as_sent(op: Op) -> Op:
    """What leaves the process; what it does to its own lists afterwards changes nothing."""
    if not isinstance(op, Commit):
        return op
    return op._replace(
        ends=tuple(op.ends),
        asks=tuple(op.asks),
        history=tuple(op.history),
        children=tuple(op.children),
        calls_off=tuple(op.calls_off),
    )
