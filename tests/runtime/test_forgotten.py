"""A run or a job that the store takes a living process to hold, and nobody there knows of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Lab, StoreProxy, Toy, Wf, World

import pikku._bodies
import pikku._engine
import pikku._jobs
from pikku._records import (
    FINAL_STATUSES,
    BeginStep,
    Commit,
    CompleteStep,
    Delivery,
    Op,
    OpResult,
    ReleaseRun,
    Reply,
    Settle,
    SignalRun,
)
from pikku.errors import CorruptStateError, StoreUnavailableError
from pikku.stores.base import INLINE_QUEUE, JOBS
from pikku.testing.store_contract import new_run, run_of, turn, write

MEMORY = World("memory://")
PATIENCE = "10s"


async def until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


def waiting(toy: Toy) -> None:
    """A workflow that waits for a signal, and does a little."""
    go = toy.registry.wire_signal(name="go", payload=int)

    @toy.func
    async def work(ctx: Ctx) -> int:
        return ctx.step.attempt_count

    @toy.workflow(name="main")
    async def main(ctx: Wf) -> int:
        value = await ctx.workflow.wait_for_signal("Go", go)
        return int(value + await ctx.workflow.do("Work", work))


async def owned(lab: Lab, run_id: str = "r") -> None:
    """A run that is this process's, waits for the signal, and was never told of."""
    store, session = lab._store, lab._opened.engine.session_id
    step = write("Go", "scheduled", kind="signal")._replace(target="go", input=None)
    ops: list[Op] = [new_run(run_id, workflow="main", claim=True), turn(run_id, 1, asks=[step])]
    reply = await store.apply(session, ops, {})
    assert [result.code for result in reply.results] == ["ok", "ok"]


async def say_go(lab: Lab, run_id: str = "r") -> None:
    """The signal, from elsewhere."""
    await lab._store.apply("elsewhere", [SignalRun(run_id, "one", "go", "1")], {})


# --- words for a run that is about to be begun with -----------------------------------------------


class Slow(StoreProxy):
    """Loads runs, and hands over what it has loaded when it is told to."""

    def __init__(self, lab: Any, store: Any) -> None:
        super().__init__(lab, store)
        self.loading, self.go = asyncio.Event(), asyncio.Event()

    async def load_steps(self, run_id: str) -> Any:
        loaded = await super().load_steps(run_id)
        self.loading.set()
        await self.go.wait()
        return loaded


async def test_what_a_run_is_told_while_it_is_loaded_is_not_lost(toy: Toy) -> None:
    """What is loaded may be older than the word, which comes once."""
    waiting(toy)
    async with MEMORY.proxied(toy, Slow) as lab:
        engine, slow = lab._opened.engine, lab.wrapped
        assert isinstance(slow, Slow)
        await owned(lab)
        engine._receive(Delivery("r", 0, "main", "hand"))
        await slow.loading.wait()
        await say_go(lab)
        await engine._committer.request(SignalRun("r", "two", "nobody waits for it", "1"))
        slow.go.set()

        assert await toy.app.get_run("main", "r").result(timeout=PATIENCE) == 2


async def test_a_run_that_is_handed_over_again_is_begun_with_although_the_first_word_was_old(
    toy: Toy,
) -> None:
    waiting(toy)
    async with MEMORY.lab(toy) as lab:
        engine = lab._opened.engine
        await lab._store.apply(
            "elsewhere", [new_run("r", workflow="main")._replace(delay_us=1)], {}
        )
        engine._receive(Delivery("r", 0, "main", "hand"))
        await until(lambda: not engine._tasks)
        await owned(lab, "s")
        for run_id in ("r", "s"):
            assert run_id not in engine._coming
        engine._receive(Delivery("s", 0, "main", "hand"))
        await say_go(lab, "s")

        assert await toy.app.get_run("main", "s").result(timeout=PATIENCE) == 2


class Unreadable(StoreProxy):
    """Cannot read the steps of runs, and is away when it is asked next."""

    left = 1

    async def load_steps(self, run_id: str) -> Any:
        raise CorruptStateError("no")

    async def load_run(self, run_id: str) -> Any:
        if self.left:
            self.left -= 1
            raise StoreUnavailableError("away")
        return await super().load_run(run_id)


async def test_a_run_that_cannot_be_read_ends_although_the_store_was_away_for_a_moment(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pikku._engine, "SWEEP_SECONDS", 0.01)
    waiting(toy)
    async with MEMORY.proxied(toy, Unreadable) as lab:
        await owned(lab)
        lab._opened.engine._receive(Delivery("r", 0, "main", "hand"))

        async with asyncio.timeout(10):
            while (await run_of(lab.wrapped.inner, "r")).status not in FINAL_STATUSES:
                await asyncio.sleep(0.01)


# --- a turn that is taken for somebody else's -----------------------------------------------------


class Fences(StoreProxy):
    """Refuses a turn as that of a zombie, once, and does not carry it out."""

    left = 1

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if self.left and any(isinstance(op, Commit) for op in ops):
            self.left -= 1
            return Reply([OpResult("fenced") for _ in ops])
        return await super().apply(session, ops, want)


async def test_a_run_whose_turn_was_refused_and_which_is_still_ours_is_begun_with_anew(
    toy: Toy,
) -> None:
    waiting(toy)
    async with MEMORY.proxied(toy, Fences) as lab:
        run = await toy.start("main", run_id="r", wait=False)
        await say_go(lab)

        assert await run.result(timeout=PATIENCE) == 2


async def test_no_turn_is_sent_of_a_run_that_was_begun_with_anew(toy: Toy) -> None:
    """The store would take the one for a repeat of the other, which is not recorded then."""
    waiting(toy)

    async with MEMORY.proxied(toy, StoreProxy) as lab:
        engine = lab._opened.engine
        await toy.start("main", run_id="r", wait=False)
        await until(lambda: "r" in engine._idle)
        live, store, session = engine._live["r"], lab.wrapped.inner, engine.session_id
        await say_go(lab)
        mail = await store.apply(session, [], {})
        again = await store.apply(session, [ReleaseRun("r")], {INLINE_QUEUE: 1})
        [word] = mail.inbox
        live.receive(word)
        assert live._leaving is not None
        engine._on_reply(again)

        assert await toy.app.get_run("main", "r").result(timeout=PATIENCE) == 2
        turns = [op.turn for ops in lab.wrapped.applied for op in ops if isinstance(op, Commit)]
        assert len(turns) == len(set(turns))


# --- looking now and then -------------------------------------------------------------------------


async def look_twice(lab: Lab) -> None:
    for _ in range(2):
        await lab._opened.engine._audit()


async def test_a_run_that_the_process_holds_and_has_never_heard_of_is_taken_up(
    toy: Toy, world: World
) -> None:
    waiting(toy)
    async with world.lab(toy) as lab:
        await owned(lab)
        await say_go(lab)
        await look_twice(lab)

        assert await toy.app.get_run("main", "r").result(timeout=PATIENCE) == 2


async def test_a_job_that_the_process_holds_and_has_never_heard_of_goes_to_others(
    toy: Toy, world: World
) -> None:
    async with world.lab(toy) as lab:
        store, session = lab._store, lab._opened.engine.session_id
        job = write("Job", "scheduled")._replace(queue="far")
        ops: list[Op] = [
            new_run("r", claim=True),
            turn("r", 1, asks=[job], settle=Settle("running")),
        ]
        await store.apply(session, ops, {})
        assert len((await store.apply(session, [], {JOBS + "far": 1})).jobs) == 1
        await look_twice(lab)
        await lab._opened.engine._committer.request(SignalRun("r", "one", "go", "1"))
        store.beat("elsewhere", 60_000_000)
        [granted] = (await store.apply("elsewhere", [], {JOBS + "far": 1})).jobs

        assert (granted.step.key, granted.step.attempt) == ("Job", 2)


class Deaf(StoreProxy):
    """Loses the first words that come."""

    missed: Sequence[Delivery] = ()

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        reply = await super().apply(session, ops, want)
        if self.missed:
            return reply
        self.missed = reply.inbox
        return reply._replace(inbox=[])


async def test_a_run_that_has_missed_a_word_is_replayed(
    toy: Toy, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pikku._engine, "AUDIT_AGAIN_SECONDS", 0.01)
    waiting(toy)
    async with World(store_url).proxied(toy, Deaf) as lab:
        run = await toy.start("main", run_id="r", wait=False)
        await lab.settle()
        await say_go(lab)
        deaf: Any = lab.wrapped
        while not deaf.missed:
            lab._opened.engine._committer.poke()
            await asyncio.sleep(0.01)
        assert [word.what for word in deaf.missed] == ["step"]
        await lab._opened.engine._audit()

        assert await run.result(timeout=PATIENCE) == 2


async def test_who_has_forgotten_nothing_does_nothing(toy: Toy, store_url: str) -> None:
    waiting(toy)
    async with World(store_url).lab(toy) as lab:
        run = await toy.start("main", run_id="r", wait=False)
        await lab.settle()
        live = lab._opened.engine._live["r"]
        for _ in range(3):
            await lab._opened.engine._audit()
        assert lab._opened.engine._live["r"] is live
        await say_go(lab)
        await lab._opened.engine._committer.request(SignalRun("r", "two", "other", "1"))

        assert await run.result(timeout=PATIENCE) == 2


# --- jobs of which the store takes no word --------------------------------------------------------


class Refuses(StoreProxy):
    """Answers the first word of that kind with an error, and does not carry it out."""

    kind: type[Any] = CompleteStep
    left = 1

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        mine = [isinstance(op, self.kind) and self.left > 0 for op in ops]
        self.left -= any(mine)
        rest = [op for op, refused in zip(ops, mine, strict=True) if not refused]
        reply = await super().apply(session, rest, want)
        results = iter(reply.results)
        error = OpResult("error", error=StoreUnavailableError("full"))
        return reply._replace(results=[error if refused else next(results) for refused in mine])


@pytest.mark.parametrize("kind", [CompleteStep, BeginStep])
async def test_a_job_of_which_the_store_takes_no_word_is_given_back(
    toy: Toy, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever claimed it lives on, and would be taken to execute it for ever."""

    @toy.func(dispatch="queue")
    async def work(ctx: Ctx) -> int:
        return ctx.step.attempt_count

    @toy.workflow(name="main")
    async def main(ctx: Wf) -> int:
        return int(await ctx.workflow.do("Work", work))

    lab = MEMORY.proxied(toy, Refuses)
    lab.queue_service = "store"
    async with lab:
        refuses: Any = lab.wrapped
        refuses.kind = kind
        if kind is BeginStep:  # which is said of a job only that has lost a worker
            session = lab._opened.engine.session_id
            job = write("Work", "scheduled")._replace(queue="default", target="work", lost=1)
            ops: list[Op] = [
                new_run("r", workflow="main", inline=False, claim=True),
                turn("r", 1, asks=[job]),
            ]
            await lab.wrapped.inner.apply(session, [*ops, ReleaseRun("r")], {})
            lab._opened.engine.intake.look_everywhere()
            lab._opened.engine._committer.poke()
        else:
            await toy.start("main", run_id="r", wait=False)

        assert await toy.app.get_run("main", "r").result(timeout=PATIENCE) in (1, 2)
        assert refuses.left == 0


async def test_a_job_that_has_lost_a_worker_does_not_wait_for_ever_to_be_alone(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else may happen meanwhile that would have it looked at again."""
    for module in (pikku._jobs, pikku._bodies):
        monkeypatch.setattr(module, "ALONE_AT_MOST_SECONDS", 0.05)
    begun, go = asyncio.Event(), asyncio.Event()

    @toy.func(dispatch="queue")
    async def long(ctx: Ctx) -> None:
        begun.set()
        await go.wait()

    @toy.func(dispatch="queue")
    async def work(ctx: Ctx) -> int:
        return ctx.step.attempt_count

    @toy.workflow(name="main")
    async def main(ctx: Wf) -> int:
        return int(await ctx.workflow.do("Work", work))

    @toy.workflow(name="other")
    async def other(ctx: Wf) -> None:
        await ctx.workflow.do("Long", long)

    lab = MEMORY.lab(toy)
    lab.queue_service = "store"
    async with lab:
        engine = lab._opened.engine
        await toy.start("other", wait=False)
        await begun.wait()
        made = new_run("r", workflow="main", inline=False, claim=True)
        job = write("Work", "scheduled")._replace(queue="default", target="work", lost=1)
        ops: list[Op] = [made, turn("r", 1, asks=[job]), ReleaseRun("r")]
        await lab._store.apply(engine.session_id, ops, {})
        engine.intake.look_everywhere()
        engine._committer.poke()
        try:
            assert await toy.app.get_run("main", "r").result(timeout=PATIENCE) == 1
        finally:
            go.set()
