"""A word from outside that comes just before any call to the store is not lost, nor in the way."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import pytest
from tests.life.kit import Place
from tests.runtime.kit import Ctx, ProxyLab, StoreProxy, Toy, Wf

from pikku import Signal, Undo
from pikku._answers import Verdict
from pikku._records import CancelRun, DecideStep, Op, Reply, ResumeRun, SignalRun
from pikku.errors import RunCancelledError
from pikku.stores.base import Store

Body = Callable[[Wf], Any]
FINAL = ("completed", "failed", "cancelled")


class Interrupted(StoreProxy):
    """Has a stranger's word arrive just before the *at*-th call; `code` is what became of it."""

    def __init__(self, lab: ProxyLab, store: Store, at: int, word: Op) -> None:
        super().__init__(lab, store)
        self._at = at
        self._word = word
        self.code: str | None = None

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if len(self.applied) + 1 == self._at:
            said = await self.inner.apply("stranger", [self._word], {})
            self.code = said.results[0].code
        return await super().apply(session, ops, want)


# --- what is interrupted ------------------------------------------------------------------------


def functions(toy: Toy) -> None:
    toy.registry.wire_signal(name="word", payload=int)

    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        await asyncio.sleep(0)
        return n

    @toy.func(retries=2, retry_delay="1min")
    async def flaky(ctx: Ctx) -> int:
        if ctx.step.attempt_count < 3:
            raise ValueError("not yet")
        return 1

    @toy.func
    async def undo(ctx: Ctx, what: Undo[int, int]) -> None:
        return None

    @toy.workflow
    async def below(ctx: Wf, n: int) -> int:
        await ctx.workflow.sleep("Nap", "1h")
        return await ctx.workflow.do("Work", work, n)


async def steps(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    first = await do("One", "work", 1)
    second = await do("Two", lambda: 2)
    return int(first + second + await do("Three", "work", 3))


async def nap(ctx: Wf) -> int:
    await ctx.workflow.sleep("Nap", "1h")
    return await ctx.workflow.do("After", lambda: 1)


async def retrying(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    return int(await do("Flaky", "flaky"))


async def suspending(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    await do("Before", "work", 1)
    await ctx.workflow.suspend("audit")
    return int(await do("After", "work", 2))


async def suspending_at_once(ctx: Wf) -> int:
    await ctx.workflow.suspend("audit")
    return 1


async def waiting(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    await do("Before", "work", 1)
    wait: Any = ctx.workflow.wait_for_signal
    got = await wait("Word", ctx_signal)
    return int(await do("After", "work", got))


async def asking(ctx: Wf) -> str:
    do: Any = ctx.workflow.do
    await do("Before", "work", 1)
    said = await ctx.workflow.approval("Pay?")
    await do("After", "work", 2)
    return said.outcome


async def parent(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    await do("Before", "work", 1)
    return int(await do("Child", "below", 2))


async def parents(ctx: Wf) -> list[int]:
    do: Any = ctx.workflow.do
    return list(await asyncio.gather(*(do(f"Child {n}", "below", n) for n in range(3))))


async def detaching(ctx: Wf) -> str:
    do: Any = ctx.workflow.do
    started = await do("Start", "below", 2, detached=True)
    await ctx.workflow.sleep("Nap", "1min")
    return str(started)


async def racing(ctx: Wf) -> int:
    wait: Any = ctx.workflow.wait_for_signal
    do: Any = ctx.workflow.do
    place, _ = await ctx.workflow.race(
        wait("Word", ctx_signal), do("Child", "below", 1), ctx.workflow.sleep("Nap", "30min")
    )
    await do("After", "work", 1)
    return place


async def mapping(ctx: Wf) -> list[int]:
    each: Any = ctx.workflow.map
    return list(await each("Each", "work", range(5), max_concurrency=2))


async def compensating(ctx: Wf) -> int:
    async with ctx.workflow.saga() as saga:
        do: Any = saga.do
        await do("One", "work", 1, undo="undo")
        await do("Two", "work", 2, undo="undo")
        await ctx.workflow.sleep("Nap", "1h")
    return 1


async def cleaning(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    try:
        await do("Child", "below", 1)
        return 1
    finally:
        await do("Clean up", "work", 1)


ctx_signal: Any = Signal("word")
BODIES: list[Body] = [
    steps,
    nap,
    retrying,
    suspending,
    suspending_at_once,
    waiting,
    asking,
    parent,
    parents,
    detaching,
    racing,
    mapping,
    compensating,
    cleaning,
]


def deployed(body: Body) -> Toy:
    toy = Toy()
    functions(toy)
    toy.workflow(body, name="body")
    return toy


def interrupted(place: Place, toy: Toy, at: int, word: Op) -> ProxyLab:
    lab = place.proxied(toy, lambda lab, store: Interrupted(lab, store, at, word))
    lab.queue_service = "store" if place.mode == "remote" else "none"
    return lab


async def rested(toy: Toy, lab: ProxyLab) -> str:
    """The run's status when nothing is under way any more."""
    run = toy.app.get_run("body", "r")
    for _ in range(20):
        await lab.settle()
        if (status := await run.status()) != "running":
            return status
        await asyncio.sleep(0)
    return await run.status()


@pytest.fixture(params=["kept", "evicted"])
def here(request: pytest.FixtureRequest, mode: Any) -> Place:
    """A store in memory, in each mode."""
    return Place("memory://", sticky=1000 if request.param == "kept" else 0, mode=mode)


async def moments(
    place: Place, body: Body, word: Op
) -> AsyncGenerator[tuple[int, str | None, str], None]:
    """Each moment at which *word* can come, what is answered to it, and how the run ends up."""
    for at in itertools.count(3):  # the first two calls open the engine
        toy = deployed(body)
        async with interrupted(place, toy, at, word) as lab:
            await toy.start("body", run_id="r", wait=False)
            status = await rested(toy, lab)
            code = lab.wrapped.code
            if code is None:
                return
            for info in await toy.app.list_runs(limit=100):
                if info.parent is not None and status in FINAL:
                    ended = await toy.app.get_run(info.workflow, info.run_id).status()
                    assert ended in FINAL, f"call {at}: child {info.run_id} is {ended}"
        yield at, code, status


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_a_cancel_just_before_any_call_ends_the_run_and_its_children(
    here: Place, body: Body
) -> None:
    told = 0
    async for at, code, status in moments(here, body, CancelRun("r", "enough")):
        if code == "ok":
            told += 1
            assert status in FINAL, f"cancelled before call {at}, the run is {status}"
    assert told


async def test_a_cancel_just_before_the_suspending_commit_ends_the_run(place: Place) -> None:
    word = CancelRun("r", "enough")
    if place.url.startswith("sqlite"):
        place = Place(place.url + "?durability=process", place.sticky, place.mode)
    for at in range(3, 9):
        toy = deployed(suspending_at_once)
        async with interrupted(place, toy, at, word) as lab:
            run = await toy.start("body", run_id="r", wait=False)
            await rested(toy, lab)
            if lab.wrapped.code == "ok":  # of one that is suspended by now the word has a way to go
                async with asyncio.timeout(20):
                    with pytest.raises(RunCancelledError):
                        await run.result()
            await toy.app.cancel_runs("clean up")
            await rested(toy, lab)
            await toy.app.delete_runs()


async def test_a_signal_just_before_any_call_is_taken(here: Place) -> None:
    async for at, code, status in moments(here, waiting, SignalRun("r", "s", "word", "5")):
        assert status == ("completed" if code == "ok" else "running"), at


async def test_a_signal_just_before_any_call_of_a_race_leaves_one_winner(here: Place) -> None:
    async for at, _, status in moments(here, racing, SignalRun("r", "s", "word", "5")):
        assert status == "completed", at


async def test_an_answer_just_before_any_call_stands(here: Place) -> None:
    said = Verdict("approved", None, "bob", 0, "").to_json()
    async for at, code, status in moments(here, asking, DecideStep("r", "Pay?", said)):
        assert status == ("completed" if code == "ok" else "running"), at


@pytest.mark.parametrize("body", [suspending, suspending_at_once], ids=lambda body: body.__name__)
async def test_a_resume_just_before_any_call_opens_what_is_suspended_and_nothing_else(
    here: Place, body: Body
) -> None:
    async for at, code, status in moments(here, body, ResumeRun("r")):
        assert status == ("completed" if code == "ok" else "suspended"), (at, code)
