"""What holds when something goes wrong around a run: lost leases, refusals, closing, conflicts."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from tests.runtime.kit import Ctx, ProxyLab, StoreProxy, Toy, Wf, World, steps_of

import pikku._committer
from pikku import EngineOptions, Run, RunCancelledError, RunFailedError, StepFailedError
from pikku._clock import boot_seconds
from pikku._records import CancelRun, Commit, FireTimers, Op, OpResult, ReapSessions, Reply
from pikku._session import Lease, Session
from pikku.errors import (
    CorruptStoreError,
    ResultTimeoutError,
    StoreError,
    StoreUnavailableError,
)
from pikku.stores.base import ORCHESTRATOR_QUEUE, Store
from pikku.testing.store_contract import new_run

AT_MOST_SECONDS = 5.0
LATER: Any = "deployed_later"  # a function that is not there yet


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something has happened."""
    async with asyncio.timeout(AT_MOST_SECONDS):
        while not condition():
            await asyncio.sleep(0)


async def reaches(run: Run[Any], status: str) -> None:
    """Wait until the record of *run* says so."""
    async with asyncio.timeout(AT_MOST_SECONDS):
        while await run.status() != status:
            await asyncio.sleep(0)


async def raised(event: threading.Event) -> None:
    """Wait for a thread."""
    assert await asyncio.to_thread(event.wait, AT_MOST_SECONDS)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store that is there again when the app is opened again."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


# --- bodies that wait for a thread ----------------------------------------------------------------


class OneThread:
    """Two synchronous steps of two runs, for which there is one thread. `Block` has it until `gate`
    is set, and `Charge` waits for it."""

    def __init__(self, toy: Toy) -> None:
        self.gate, self.blocking = threading.Event(), threading.Event()
        self.working, self.enough = threading.Event(), threading.Event()
        self.begun: list[int] = []
        self.unwound = asyncio.Event()
        self.enough.set()

        @toy.func
        def block(ctx: Ctx) -> None:
            self.blocking.set()
            assert self.gate.wait(AT_MOST_SECONDS)

        @toy.func
        def charge(ctx: Ctx) -> int:
            self.begun.append(ctx.step.attempt_count)
            self.working.set()
            assert self.enough.wait(AT_MOST_SECONDS)
            return 7

        @toy.workflow
        async def blocking(ctx: Wf) -> None:
            await ctx.workflow.do("Block", block)

        @toy.workflow
        async def charging(ctx: Wf) -> int:
            try:
                return await ctx.workflow.do("Charge", charge, timeout="1min")
            except asyncio.CancelledError:
                self.unwound.set()
                raise

        self._toy = toy

    async def start(self, lab: Any) -> Run[int]:
        """The run whose step waits."""
        await self._toy.start("blocking", wait=False)
        await raised(self.blocking)
        run: Run[int] = await self._toy.start("charging", wait=False)
        await until(lambda: lab.executions("Charge") == 1)
        return run


async def test_a_body_that_waited_for_a_thread_until_its_run_was_cancelled_never_begins(
    toy: Toy, memory: World
) -> None:
    one = OneThread(toy)
    async with memory.lab(toy, auto_advance=False, threads=1) as lab:
        run = await one.start(lab)
        await run.cancel("x")
        await one.unwound.wait()
        one.gate.set()
        with pytest.raises(RunCancelledError):
            await run.result(timeout="5s")
        await lab.settle()
    assert one.begun == []


async def lose_lease(lab: Any) -> None:
    """Let others take away what this process owns, and wait until it has noticed."""
    engine = lab._opened.engine
    old = engine.session_id
    lab._store.beat(old, -1)
    await lab._store.apply("other", [ReapSessions()], {})
    engine._committer.poke()
    await until(lambda: bool(engine.session_id != old))


async def test_a_body_that_waited_for_a_thread_until_the_lease_was_lost_never_begins(
    toy: Toy, memory: World
) -> None:
    one = OneThread(toy)
    async with memory.lab(toy, auto_advance=False, threads=1) as lab:
        run = await one.start(lab)
        await lose_lease(lab)
        await until(lambda: lab.executions("Charge") == 2)
        one.gate.set()
        assert await run.result(timeout="5s") == 7
        await lab.settle()
    assert one.begun == [2]


async def test_a_lease_that_may_have_run_out_keeps_a_body_from_beginning_and_fails_no_run(
    toy: Toy, memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = OneThread(toy)
    async with memory.lab(toy, auto_advance=False, threads=1) as lab:
        run = await one.start(lab)
        first = lab._opened.engine.session_id
        monkeypatch.setattr(Session, "expired", property(lambda session: session.id == first))
        one.gate.set()
        assert await run.result(timeout="5s") == 7
        charge = (await steps_of(lab, run))["Charge"]
        assert (charge.attempt, charge.failures, charge.lost) == (2, 0, 1)
        assert one.begun == [2]


async def test_a_timeout_counts_only_from_when_the_body_has_a_thread(
    toy: Toy, memory: World
) -> None:
    one = OneThread(toy)
    one.enough.clear()
    async with memory.lab(toy, auto_advance=False, threads=1) as lab:
        run = await one.start(lab)
        await lab.advance("1h")
        assert await run.status() == "running"
        one.gate.set()
        await raised(one.working)
        await lab.advance("59s")
        assert await run.status() == "running"
        await lab.advance("1s")
        with pytest.raises(RunFailedError) as caught:
            await run.result(timeout="5s")
        assert "longer than 60 s" in str(caught.value)
        one.enough.set()
        await lab.settle()
    assert one.begun == [1]


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_thread_that_cannot_be_started_fails_that_attempt_and_strands_nothing(
    toy: Toy, memory: World, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    executed: list[int] = []

    @toy.func(retries=retries)
    def work(ctx: Ctx, number: int) -> int:
        executed.append(number)
        return number

    @toy.workflow
    async def working(ctx: Wf, number: int) -> int:
        return await ctx.workflow.do("Work", work, number)

    start = threading.Thread.start
    refused: list[str] = []

    def scarce(thread: threading.Thread) -> None:
        if thread.name.startswith("pikku-step") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    async with memory.lab(toy) as lab:
        runs = [await toy.start("working", number, wait=False) for number in range(4)]
        ended: list[Any] = await asyncio.gather(
            *[run.result(timeout="5s") for run in runs], return_exceptions=True
        )
        await lab.settle()
        assert not lab._opened.engine.bodies.busy
        if retries:
            assert ended == [0, 1, 2, 3]
        else:
            assert isinstance(ended[0], RunFailedError)
            assert "can't start new thread" in str(ended[0])
            assert ended[1:] == [1, 2, 3]
    assert len(refused) == 1
    assert sorted(executed) == ([0, 1, 2, 3] if retries else [1, 2, 3])


# --- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cleaning_up", [True, False])
async def test_a_step_whose_process_died_is_not_executed_again_after_a_cancel(
    toy: Toy, world: World, cleaning_up: bool
) -> None:
    entered = asyncio.Event()

    async def charge() -> None:
        entered.set()
        await asyncio.Event().wait()

    @toy.workflow
    async def buying(ctx: Wf) -> None:
        await ctx.workflow.do("Before", lambda: None)
        try:
            await ctx.workflow.do("Charge", charge)
        finally:
            if cleaning_up:
                await ctx.workflow.do("Release stock", lambda: None)

    async with world.lab(toy) as lab:
        run = await toy.start("buying", wait=False)
        await entered.wait()
        await lab.crash()
        await lab._store.apply("somebody else", [CancelRun(str(run), "changed my mind")], {})
        await lab.recover()
        with pytest.raises(RunCancelledError, match="changed my mind"):
            await run.result(timeout="5s")
        assert lab.executions("Charge") == 1
        assert lab.executions("Release stock") == int(cleaning_up)


async def test_a_step_that_waits_for_its_next_attempt_has_none_after_a_cancel(
    toy: Toy, world: World
) -> None:
    async def flaky() -> None:
        raise OSError("down")

    @toy.workflow
    async def buying(ctx: Wf) -> None:
        try:
            await ctx.workflow.do("Flaky", flaky, retries=5, retry_delay="1h")
        finally:
            await ctx.workflow.sleep("Calm down", "10s")
            await ctx.workflow.do("Release stock", lambda: None)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("buying")
        await lab.crash()
        await lab._store.apply("somebody else", [CancelRun(str(run), "x")], {})
        await lab.recover()
        await lab.advance("10s")
        await lab.advance("2h")
        assert await run.status() == "cancelled"
        assert (lab.executions("Flaky"), lab.executions("Release stock")) == (1, 1)


# --- suspended while an attempt is under way ------------------------------------------------------


class Pair:
    """A run that is suspended, for want of a function, while its step `A` is under way."""

    def __init__(self, toy: Toy, *, fails: int, retries: int) -> None:
        self.entered, self.gate = asyncio.Event(), asyncio.Event()
        self.handling, self.handle = asyncio.Event(), asyncio.Event()
        self.left = asyncio.Event()
        self.handled = 0
        self.attempts = 0

        @toy.func
        async def undo(ctx: Ctx, failure: dict[str, Any]) -> None:
            self.handling.set()
            await self.handle.wait()
            self.handled += 1
            self.left.set()

        async def a() -> int:
            self.attempts += 1
            self.entered.set()
            await self.gate.wait()
            if self.attempts <= fails:
                self.left.set()
                raise OSError("down")
            self.left.set()
            return 7

        async def until_there() -> None:
            await (self.entered if not self.gate.is_set() else self.handling).wait()

        @toy.workflow
        async def pair(ctx: Wf) -> int:
            async def caught() -> int:
                try:
                    return await ctx.workflow.do(
                        "A", a, retries=retries, on_error=undo, returns=int
                    )
                except StepFailedError:
                    return -1

            async def missing() -> None:
                await ctx.workflow.do("Wait for A", until_there)
                await ctx.workflow.do("B", LATER)

            result, _ = await asyncio.gather(caught(), missing())
            return result

        self._toy = toy

    async def suspended(self, lab: Any, run: Run[int]) -> None:
        """Wait until it is, and until this process has left it."""
        await reaches(run, "suspended")
        await until(lambda: str(run) not in lab._opened.engine._live)

    async def resume(self, lab: Any, run: Run[int]) -> int:
        """Deploy what was missing and go on; what the run returns."""
        if "deployed_later" not in self._toy.registry.functions:

            @self._toy.func
            async def deployed_later(ctx: Ctx) -> None: ...

        await lab._opened.engine.resume(str(run))
        return await run.result(timeout="5s")


async def test_a_handler_that_ends_after_its_run_was_suspended_does_not_wedge_the_run(
    toy: Toy, world: World
) -> None:
    pair = Pair(toy, fails=1, retries=0)
    pair.gate.set()
    async with world.lab(toy) as lab:
        run = await toy.start("pair", wait=False)
        await pair.suspended(lab, run)
        assert pair.handled == 0
        pair.left.clear()
        pair.handle.set()
        await pair.left.wait()
        await lab.settle()
        assert await pair.resume(lab, run) == -1
        steps = await steps_of(lab, run)
        assert steps["A"].status == "failed"
        assert steps["A"].delivery is not None
        assert steps["A (on_error)"].status == "succeeded"
    assert pair.handled >= 1
    assert pair.attempts == 1


async def test_a_handler_still_under_way_when_its_run_is_resumed_does_not_wedge_the_run(
    toy: Toy, world: World
) -> None:
    pair = Pair(toy, fails=1, retries=0)
    pair.gate.set()
    async with world.lab(toy) as lab:
        run = await toy.start("pair", wait=False)
        await pair.suspended(lab, run)
        resuming = asyncio.ensure_future(pair.resume(lab, run))
        await reaches(run, "running")
        pair.handle.set()
        assert await resuming == -1
    assert pair.handled >= 1


async def test_an_attempt_that_fails_after_its_run_was_suspended_still_has_its_retries(
    toy: Toy, world: World
) -> None:
    pair = Pair(toy, fails=1, retries=1)
    pair.handle.set()
    async with world.lab(toy) as lab:
        run = await toy.start("pair", wait=False)
        await pair.suspended(lab, run)
        pair.gate.set()
        await pair.left.wait()
        await lab.settle()
        assert await pair.resume(lab, run) == 7
    assert (pair.attempts, pair.handled) == (2, 0)


async def test_an_attempt_that_fails_after_its_run_was_suspended_still_has_its_handler(
    toy: Toy, world: World
) -> None:
    pair = Pair(toy, fails=1000, retries=0)
    pair.handle.set()
    async with world.lab(toy) as lab:
        run = await toy.start("pair", wait=False)
        await pair.suspended(lab, run)
        pair.gate.set()
        await pair.left.wait()
        await lab.settle()
        assert pair.handled == 0
        assert await pair.resume(lab, run) == -1
        assert (await steps_of(lab, run))["A"].status == "failed"
    assert pair.handled == 1


async def test_an_attempt_that_succeeds_after_its_run_was_suspended_is_not_repeated(
    toy: Toy, world: World
) -> None:
    pair = Pair(toy, fails=0, retries=0)
    async with world.lab(toy) as lab:
        run = await toy.start("pair", wait=False)
        await pair.suspended(lab, run)
        pair.gate.set()
        await lab.settle()
        assert await pair.resume(lab, run) == 7
    assert (pair.attempts, pair.handled) == (1, 0)


async def test_an_attempt_that_succeeds_while_its_run_is_being_suspended_is_not_repeated(
    toy: Toy, world: World
) -> None:
    pair = Pair(toy, fails=0, retries=0)

    class Slow(StoreProxy):
        async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
            reply = await self.inner.apply(session, ops, want)
            if any(isinstance(op, Commit) and op.settle and op.settle.reason for op in ops):
                pair.gate.set()
                await until(lambda: not self.lab._opened.engine.bodies.busy)
            return reply

    async with world.proxied(toy, Slow) as lab:
        run = await toy.start("pair", wait=False)
        await pair.suspended(lab, run)
        await lab.settle()
        assert (await steps_of(lab, run))["A"].status == "succeeded"
        assert await pair.resume(lab, run) == 7
    assert (pair.attempts, pair.handled) == (1, 0)


# --- a way that a conflict undoes -----------------------------------------------------------------


class TimerFirst(StoreProxy):
    """Lets an hour pass, and the timer fire, just before the outcome of `A` is recorded."""

    fired = False

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if self.fired or not ends_of("A", ops):
            return await self.inner.apply(session, ops, want)
        self.fired = True
        self.lab.clock.move_to(self.lab.clock.now_us() + 3_600_000_000)
        reply = await self.inner.apply(session, [FireTimers(), *ops], want)
        assert "conflict" in [result.code for result in reply.results]
        return reply._replace(results=reply.results[1:])


def ends_of(key: str, ops: Sequence[Op]) -> bool:
    """Whether *ops* record the success of the step with this key."""
    return any(
        write.key == key and write.status == "succeeded"
        for op in ops
        if isinstance(op, Commit)
        for write in op.ends
    )


@pytest.mark.parametrize("draw", ["now", "uuid4", "random"])
async def test_what_is_drawn_on_a_way_that_a_conflict_undoes_leaves_no_trace(
    toy: Toy, world: World, draw: str
) -> None:
    ways: list[str] = []

    @toy.workflow
    async def racing(ctx: Wf) -> str:
        a = asyncio.ensure_future(ctx.workflow.do("A", lambda: 1))
        deadline = asyncio.ensure_future(ctx.workflow.sleep("Deadline", "1h"))
        done, _ = await asyncio.wait({a, deadline}, return_when=asyncio.FIRST_COMPLETED)
        way = "in time" if a in done else "late"
        ways.append(way)
        if a in done:
            await getattr(ctx.workflow, draw)()
        await asyncio.wait({a, deadline})
        await ctx.workflow.sleep("Pause", "1h")
        await ctx.workflow.do("End", lambda: None)
        return way

    async with world.proxied(toy, TimerFirst) as lab:
        run = await toy.start("racing")
        assert await run.result(timeout="5s") == "late"
        steps = await steps_of(lab, run)
        assert set(steps) == {"A", "Deadline", "Pause", "End"}
        assert lab.executions("A") == 1
    assert ways[0] == "in time"
    assert ways[-1] == "late"


# --- what the store refuses -----------------------------------------------------------------------


class Refusing(StoreProxy):
    """Has some bug with one kind of record: raises, or says `error` for the one operation."""

    def __init__(
        self, lab: ProxyLab, store: Store, refuses: Callable[[Op], bool], *, raising: bool
    ) -> None:
        super().__init__(lab, store)
        self.well = False
        self._refuses = refuses
        self._raising = raising

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if self.well or not any(self._refuses(op) for op in ops):
            return await self.inner.apply(session, ops, want)
        if self._raising:
            raise OverflowError("int too large to convert")
        taken = [op for op in ops if not self._refuses(op)]
        reply = await self.inner.apply(session, taken, want)
        answers = iter(reply.results)
        refused = OpResult("error", error=OverflowError("int too large to convert"))
        return reply._replace(
            results=[refused if self._refuses(op) else next(answers) for op in ops]
        )


def records_a(op: Op) -> bool:
    return ends_of("A", [op])


def asks_for_a(op: Op) -> bool:
    return isinstance(op, Commit) and any(write.key == "A" for write in op.asks)


def completes(op: Op) -> bool:
    return isinstance(op, Commit) and op.settle is not None and op.settle.status == "completed"


@pytest.mark.parametrize("raising", [True, False], ids=["raises", "answers"])
@pytest.mark.parametrize("refuses", [records_a, asks_for_a, completes])
async def test_an_operation_that_the_store_refuses_suspends_the_run_and_never_fails_it(
    toy: Toy, memory: World, refuses: Callable[[Op], bool], raising: bool
) -> None:
    @toy.workflow
    async def working(ctx: Wf) -> int:
        await ctx.workflow.do("Before", lambda: None)
        number = await ctx.workflow.do("A", lambda: 7)
        await ctx.workflow.do("After", lambda: None)
        return number

    def proxy(lab: ProxyLab, store: Store) -> StoreProxy:
        return Refusing(lab, store, refuses, raising=raising)

    async with memory.proxied(toy, proxy) as lab:
        run = await toy.start("working")
        record = await lab._store.load_run(str(run))
        assert record is not None
        assert (record.status, record.suspend_reason) == ("suspended", "internal_error")
        assert "int too large to convert" in (record.error or "")
        steps = await steps_of(lab, run)
        assert {step.status for step in steps.values()} <= {"succeeded", "running"}
        assert isinstance(lab.wrapped, Refusing)
        lab.wrapped.well = True
        await lab._opened.engine.resume(str(run))
        assert await run.result(timeout="5s") == 7
        # Its end is recorded together with what was asked for next.
        assert lab.executions("Before") == (2 if refuses is asks_for_a else 1)


# --- what the app's own code raises while a run is decoded ----------------------------------------


@pytest.mark.parametrize("where", ["input", "result"])
async def test_an_exception_of_the_app_s_own_while_a_run_is_decoded_strands_no_other_run(
    toy: Toy, world: World, where: str
) -> None:
    settings: dict[str, int] = {"most": 10}

    class Amount(BaseModel):
        cents: int

        @field_validator("cents")
        @classmethod
        def fits(cls, cents: int) -> int:
            return min(cents, settings["most"])

    @toy.func
    async def charge(ctx: Ctx, cents: int) -> Amount:
        return Amount(cents=cents)

    @toy.workflow(name="input")
    async def of_input(ctx: Wf, amount: Amount) -> int:
        await ctx.workflow.sleep("Wait", "1h")
        return amount.cents

    @toy.workflow(name="result")
    async def of_result(ctx: Wf, amount: Any) -> int:
        charged = await ctx.workflow.do("Charge", charge, 5)
        await ctx.workflow.sleep("Wait", "1h")
        return int(charged.cents)

    @toy.workflow
    async def plain(ctx: Wf) -> int:
        await ctx.workflow.sleep("Wait", "1h")
        return 7

    async with world.lab(toy, auto_advance=False) as lab:
        bad = await toy.start(where, Amount(cents=5) if where == "input" else None)
        others = [await toy.start("plain") for _ in range(3)]
        await lab.crash()
        settings.clear()
        await lab.recover()
        await lab.advance("2h")
        assert [await run.status() for run in others] == ["completed"] * 3
        assert await bad.status() == "suspended"
        settings["most"] = 10
        await lab._opened.engine.resume(str(bad))
        assert await bad.result(timeout="5s") == 5


# --- closing --------------------------------------------------------------------------------------


async def closing_begun(toy: Toy) -> None:
    """Wait until the app is being closed."""
    engine = toy.app.opened.engine
    await until(lambda: engine.draining)


CALLS = ["ctx.rpc.x", "invoke", "start_workflow", "run_async"]


@pytest.mark.parametrize("call", CALLS)
async def test_an_attempt_under_way_while_the_app_closes_may_still_call_and_start(
    toy: Toy, url: str, call: str
) -> None:
    entered = asyncio.Event()

    @toy.func
    async def other(ctx: Ctx, number: int) -> int:
        return number + 1

    @toy.workflow
    async def another(ctx: Wf, number: int) -> int:
        return await ctx.workflow.do("Other", other, number)

    @toy.func
    async def calling(ctx: Ctx, number: int) -> int:
        entered.set()
        await closing_begun(toy)
        made: int
        if call == "ctx.rpc.x":
            made = await ctx.rpc.other(number)
        elif call == "invoke":
            made = await ctx.rpc.invoke("other", number)
        else:
            run = await ctx.rpc.start_workflow("another", number, run_id="another")
            made = len(str(run))
        return made

    loop = asyncio.get_running_loop()

    @toy.func
    def in_a_thread(ctx: Ctx, number: int) -> int:
        loop.call_soon_threadsafe(entered.set)
        ctx.run_async(closing_begun(toy))
        made: int = ctx.run_async(ctx.rpc.other(number))
        return made

    @toy.workflow
    async def flow(ctx: Wf) -> int:
        func: Any = in_a_thread if call == "run_async" else calling
        number: int = await ctx.workflow.do("Call", func, 6)
        return number

    async with toy.app.open(store=url):
        run = await toy.start("flow", wait=False)
        await entered.wait()
    async with toy.app.open(store=url) as app:
        assert await run.result(timeout="5s") == 7
        loaded = await app.opened.engine.store.load_steps(str(run))
        assert loaded is not None
        assert [(step.status, step.attempt) for step in loaded.steps] == [("succeeded", 1)]
        if call == "start_workflow":
            assert await toy.app.get_run("another", "another").result(timeout="5s") == 7


@pytest.mark.parametrize("first", [False, True])
async def test_a_drain_while_a_run_cancels_itself_does_not_lose_the_cancel(
    toy: Toy, url: str, first: bool
) -> None:
    """*first*: the cancel is the first that the run asks for, so that nothing else is recorded."""
    entered = asyncio.Event()
    executed: list[str] = []

    async def before() -> None:
        entered.set()
        await closing_begun(toy)

    @toy.func
    async def start(ctx: Ctx) -> None:
        await before()
        await ctx.rpc.start_workflow("giving_up", run_id="giving-up", wait=False)

    @toy.workflow
    async def starting(ctx: Wf) -> None:
        await ctx.workflow.do("Start", start)

    @toy.workflow
    async def giving_up(ctx: Wf) -> None:
        if not first:
            await ctx.workflow.do("Before", before)
        try:
            await ctx.workflow.cancel("out of stock")
            await ctx.workflow.do("Never", lambda: executed.append("never"))
        finally:
            await ctx.workflow.do("Clean up", lambda: executed.append("clean up"))

    async with toy.app.open(store=url):
        if first:
            await toy.start("starting", wait=False)
        else:
            await toy.start("giving_up", run_id="giving-up", wait=False)
        await entered.wait()
    async with toy.app.open(store=url) as app:
        run = toy.app.get_run("giving_up", "giving-up")
        with pytest.raises(RunCancelledError, match="out of stock"):
            await run.result(timeout="5s")
        loaded = await app.opened.engine.store.load_steps(str(run))
        assert loaded is not None
        assert all(step.lost == 0 for step in loaded.steps)
    assert executed == ["clean up"]


@pytest.mark.parametrize("sibling", [False, True])
async def test_an_immediate_retry_during_a_drain_is_made_later_and_counts_as_no_loss(
    toy: Toy, url: str, sibling: bool
) -> None:
    entered, failed = asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    @toy.func(retries=3)
    async def flaky(ctx: Ctx) -> int:
        attempts.append(ctx.step.attempt_count)
        entered.set()
        if len(attempts) == 1:
            await closing_begun(toy)
            failed.set()
            raise OSError("down")
        return 7

    async def slower() -> None:
        await failed.wait()
        for _ in range(20):
            await asyncio.sleep(0)

    @toy.workflow
    async def retrying(ctx: Wf) -> int:
        asked = [ctx.workflow.do("Flaky", flaky)]
        if sibling:
            asked.append(ctx.workflow.do("Slower", slower))
        number, *_ = await asyncio.gather(*asked)
        return int(number)

    async with toy.app.open(store=url):
        run = await toy.start("retrying", wait=False)
        await entered.wait()
    assert attempts == [1]
    async with toy.app.open(store=url) as app:
        assert await run.result(timeout="5s") == 7
        loaded = await app.opened.engine.store.load_steps(str(run))
        assert loaded is not None
        step = next(step for step in loaded.steps if step.key == "Flaky")
        assert (step.attempt, step.failures, step.lost) == (2, 1, 0)
        history = [entry.kind for entry in await app.opened.engine.store.load_history(str(run))]
        assert "attempt_lost" not in history
    assert attempts == [1, 2]


@pytest.mark.parametrize("state", ["moving", "asleep", "suspended"])
async def test_result_that_waits_while_the_app_closes_says_so(
    toy: Toy, world: World, state: str
) -> None:
    @toy.workflow
    async def moving(ctx: Wf) -> None:
        await ctx.workflow.do("Wait", asyncio.Event().wait)

    @toy.workflow
    async def asleep(ctx: Wf) -> None:
        await ctx.workflow.sleep("Wait", "1h")

    @toy.workflow
    async def suspended(ctx: Wf) -> None:
        await ctx.workflow.do("Wait", LATER)

    async with toy.app.open(
        store=world.url, options=EngineOptions(sticky=world.sticky, drain_seconds=0.01)
    ):
        run = await toy.start(state, wait=state != "moving")
        waiting = asyncio.ensure_future(run.result())
        await asyncio.sleep(0)
        assert not waiting.done()
    try:
        async with asyncio.timeout(1):
            with pytest.raises(StoreUnavailableError):
                await waiting
    finally:
        waiting.cancel()


class Down(StoreProxy):
    """A store that cannot be reached for a while."""

    down = False
    tried = 0

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if self.down:
            self.tried += 1
            raise StoreUnavailableError("it cannot be reached")
        return await self.inner.apply(session, ops, want)


RETRIES = (0.001, 60.0)


class Silent(StoreProxy):
    """A store that does not answer for a while."""

    down = False
    tried = 0

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if self.down:
            self.tried += 1
            await asyncio.Event().wait()
        return await self.inner.apply(session, ops, want)


@pytest.mark.parametrize("kind", [Down, Silent])
@pytest.mark.parametrize("state", ["moving", "ended", "retrying", "asleep"])
async def test_close_returns_although_the_store_is_unavailable(
    toy: Toy,
    memory: World,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Down] | type[Silent],
    state: str,
) -> None:
    """`ended`: an outcome waits to be recorded; `retrying`: and has been refused already."""
    monkeypatch.setattr(pikku._committer, "RETRY_SECONDS", RETRIES)
    entered, gate = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        entered.set()
        await gate.wait()

    @toy.workflow
    async def working(ctx: Wf) -> None:
        if state == "asleep":
            await ctx.workflow.sleep("Wait", "1h")
        await ctx.workflow.do("Work", body)

    options = {"drain_seconds": 0.1, "lease_seconds": 0.2}
    async with memory.proxied(toy, kind, **options) as lab:
        lab._auto = False
        await toy.start("working", wait=state == "asleep")
        if state != "asleep":
            await entered.wait()
        proxy = lab.wrapped
        assert isinstance(proxy, Down | Silent)
        proxy.down = True
        if state in ("ended", "retrying"):
            gate.set()
        if state == "retrying":
            await until(lambda: proxy.tried >= (2 if kind is Down else 1))
        loop = asyncio.get_running_loop()
        since = loop.time()
        closing = asyncio.ensure_future(lab._opened.engine.close())
        done, _ = await asyncio.wait({closing}, timeout=1.5)
        if not done:
            closing.cancel()
            await asyncio.wait({closing})
        assert done, f"not closed after {loop.time() - since:.1f} s"
        await closing


def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have a SQLite file that others hold be waited for that long only."""
    for module in ("connections", "store"):
        monkeypatch.setattr(f"pikku.stores.sqlite.{module}.BUSY_TIMEOUT_SECONDS", seconds)


async def test_close_returns_although_another_process_holds_the_file(
    toy: Toy, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, 0.1)
    entered, gate = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        entered.set()
        await gate.wait()

    @toy.workflow
    async def working(ctx: Wf) -> int:
        await ctx.workflow.do("Work", body)
        return 7

    lock = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    try:
        async with asyncio.timeout(5):
            options = EngineOptions(drain_seconds=0.1, lease_seconds=0.4)
            async with toy.app.open(store=url, options=options):
                run = await toy.start("working", wait=False)
                await entered.wait()
                lock.execute("BEGIN IMMEDIATE")
                gate.set()
    finally:
        lock.close()
    async with toy.app.open(store=url):
        assert await run.result(timeout="5s") == 7


# --- opening --------------------------------------------------------------------------------------


async def cannot_open(toy: Toy, url: str, kind: type[StoreError], word: str) -> None:
    with pytest.raises(kind) as caught:
        async with asyncio.timeout(5), toy.app.open(store=url):
            pass
    assert word in str(caught.value)


async def test_a_store_that_is_locked_shows_its_own_error_and_can_be_opened_later(
    toy: Toy, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with toy.app.open(store=url):
        pass
    impatient(monkeypatch, 0.05)
    lock = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    try:
        await cannot_open(toy, url, StoreUnavailableError, "locked")
    finally:
        lock.close()
    async with toy.app.open(store=url):
        pass


async def test_a_store_that_is_no_store_shows_its_own_error(
    toy: Toy, url: str, tmp_path: Path
) -> None:
    (tmp_path / "runs.db").write_text("these are my notes\n" * 500)
    await cannot_open(toy, url, CorruptStoreError, "not a SQLite database")
    (tmp_path / "runs.db").unlink()
    (tmp_path / "runs.db").mkdir()
    await cannot_open(toy, url, StoreUnavailableError, "runs.db")
    (tmp_path / "runs.db").rmdir()
    async with toy.app.open(store=url):
        pass


# --- the lease ------------------------------------------------------------------------------------


class Beats:
    """Of a store, what a heartbeat needs: it is away for longer than a loop may stand still."""

    def __init__(self, away_seconds: float, again: Callable[[], object]) -> None:
        self.opened = False
        self.refused = 0
        self._back_at = boot_seconds() + away_seconds
        self._again = again

    def beat(self, session: str, lease_us: int) -> bool:
        if self.opened and boot_seconds() < self._back_at:
            self.refused += 1
            raise StoreUnavailableError("it cannot be reached")
        if self.opened:
            self._again()
        self.opened = True
        return True


async def test_the_heartbeat_goes_on_after_the_store_was_away_for_longer_than_the_loop_may_be() -> (
    None
):
    loop = asyncio.get_running_loop()
    again = asyncio.Event()
    store: Any = Beats(0.6, lambda: loop.call_soon_threadsafe(again.set))
    lost: list[str] = []
    session = Session(
        store,
        loop,
        lease_seconds=0.1,
        loop_grace_seconds=0.3,
        on_lost=lambda: lost.append("lost"),
    )
    session.open()
    try:
        async with asyncio.timeout(5):
            await again.wait()
        assert store.refused > 0
        await until(lambda: not session.expired)
    finally:
        await asyncio.to_thread(session.close)
    assert lost == []


async def test_a_run_that_is_claimed_while_a_new_lease_is_taken_is_not_forgotten(
    toy: Toy, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is there, and the loop has yet to hear of it: what comes then comes again."""

    @toy.workflow
    async def quick(ctx: Wf) -> int:
        return 7

    lab = world.lab(toy)
    lab.queue_service = "store"
    loop, answered = asyncio.get_running_loop(), threading.Event()
    async with lab:
        engine = lab._opened.engine
        renew = engine._session.renew

        async def claim() -> None:
            started = new_run("r", workflow="quick", inline=False)
            await engine.store.apply("elsewhere", [started], {})
            engine._on_reply(
                await engine.store.apply(engine.session_id, [], {ORCHESTRATOR_QUEUE: 1})
            )
            answered.set()

        def slowly() -> Lease:
            lease = renew()
            asyncio.run_coroutine_threadsafe(claim(), loop)
            assert answered.wait(AT_MOST_SECONDS)
            return lease

        monkeypatch.setattr(engine._session, "renew", slowly)
        engine._session_lost()
        await until(answered.is_set)
        async with asyncio.timeout(AT_MOST_SECONDS):
            assert await toy.app.get_run("quick", "r").result() == 7


# --- waiting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["asleep", "suspended"])
async def test_asking_for_a_result_again_and_again_leaves_nothing_behind(
    toy: Toy, world: World, state: str
) -> None:
    @toy.workflow
    async def asleep(ctx: Wf) -> None:
        await ctx.workflow.sleep("Wait", "1h")

    @toy.workflow
    async def suspended(ctx: Wf) -> None:
        await ctx.workflow.do("Wait", LATER)

    async with world.lab(toy, auto_advance=False) as lab:
        engine = lab._opened.engine
        run = await toy.start(state)
        for _ in range(20):
            with pytest.raises(ResultTimeoutError):
                await run.result(timeout="1ms")
        waiting = asyncio.ensure_future(run.result())
        await asyncio.sleep(0)
        with pytest.raises(ResultTimeoutError):
            await run.result(timeout="1ms")
        waiting.cancel()
        await asyncio.wait({waiting})
        assert engine.results.nobody_waits
        await lab.settle()  # a word from the store may be looked into just now
        assert not engine._tasks
        assert engine._committer.idle
