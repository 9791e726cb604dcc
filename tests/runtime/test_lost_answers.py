"""What a process does when answers are lost, its store is away, or others have been faster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Lab, ProxyLab, StoreProxy, Toy, Wf, World

from pikku import StepFailedError, StepFailure
from pikku._committer import Committer
from pikku._records import Commit, CreateRun, Op, OpResult, Reply, SignalRun
from pikku.errors import StoreUnavailableError
from pikku.stores.base import Store

MEMORY = World("memory://")
PATIENCE = "10s"


async def send_unheard(lab: Lab, run_id: str, name: str) -> None:
    """A signal from another process, of which nobody here has heard yet."""
    store: Any = lab._store
    await store.apply("another process", [SignalRun(run_id, f"{name} id", name, "1")], {})


# --- a start whose answer was lost ---------------------------------------------------------------


class LostStart(StoreProxy):
    """Loses the answer to the first start, and fails the first time that a run is loaded."""

    def __init__(self, lab: ProxyLab, store: Store) -> None:
        super().__init__(lab, store)
        self._loses = self._fails = True

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        reply = await super().apply(session, ops, want)
        if self._loses and any(isinstance(op, CreateRun) for op in ops):
            self._loses = False
            raise StoreUnavailableError("the answer is lost")
        return reply

    async def load_steps(self, run_id: str) -> Any:
        if self._fails:
            self._fails = False
            raise StoreUnavailableError("away")
        return await super().load_steps(run_id)


async def test_a_start_that_is_repeated_is_executed_although_the_store_fails_once_more(
    toy: Toy,
) -> None:
    @toy.workflow(name="main")
    async def main(ctx: Wf) -> int:
        return await ctx.workflow.do("One", lambda: 1)

    async with MEMORY.proxied(toy, LostStart):
        with pytest.raises(StoreUnavailableError):
            await toy.start("main", run_id="r")
        run = await toy.start("main", run_id="r", wait=False)

        assert await run.result(timeout=PATIENCE) == 1


# --- an app that is closed while its store is away -----------------------------------------------


class Away(StoreProxy):
    """Is away for a few calls when it is told to."""

    left = 0

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if self.left:
            self.left -= 1
            raise StoreUnavailableError("away")
        return await super().apply(session, ops, want)


async def test_a_run_is_not_suspended_because_its_app_is_closed_while_the_store_is_away(
    toy: Toy,
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> int:
        begun.set()
        await go.wait()
        return 1

    @toy.workflow(name="main")
    async def main(ctx: Wf) -> int:
        return await ctx.workflow.do("Slow", slow)

    async with MEMORY.proxied(toy, Away) as lab:
        run = await toy.start("main", wait=False)
        await begun.wait()
        closing = asyncio.ensure_future(lab._opened.engine.close())
        await asyncio.sleep(0)
        assert isinstance(lab.wrapped, Away)
        lab.wrapped.left = 2
        go.set()
        await closing
        after = await lab.wrapped.inner.load_run(str(run))
        assert after is not None

        assert after.status in ("running", "completed")


class Silent(StoreProxy):
    """Does not answer starts."""

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        if any(isinstance(op, CreateRun) for op in ops):
            await asyncio.Event().wait()
        return await super().apply(session, ops, want)


async def test_who_waits_for_a_silent_store_is_told_when_the_app_is_closed(toy: Toy) -> None:
    @toy.workflow(name="main")
    async def main(ctx: Wf) -> int:
        return 1

    async with MEMORY.proxied(toy, Silent, lease_seconds=0.1) as lab:
        under_way = asyncio.ensure_future(toy.start("main", wait=False))
        await asyncio.sleep(0)
        queued = asyncio.ensure_future(toy.start("main", wait=False))
        await asyncio.sleep(0)
        await lab._opened.engine.close()

        for start in (under_way, queued):
            with pytest.raises(StoreUnavailableError):
                async with asyncio.timeout(10):
                    await start


# --- a session that is over ----------------------------------------------------------------------


class Recording:
    """Of a store, what a committer needs; fails when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[Op]]] = []
        self.called = asyncio.Event()
        self.answers = asyncio.Event()
        self.fails = False

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        self.sent.append((session, list(ops)))
        self.called.set()
        await self.answers.wait()
        if self.fails:
            self.fails = False
            raise StoreUnavailableError("away")
        return Reply([OpResult("ok") for _ in ops])


def a_turn(run_id: str) -> Commit:
    return Commit(run_id, 1, 0, (), ())


def a_run(run_id: str) -> CreateRun:
    return CreateRun(run_id, "main", "null", "", True, True, (), None, None)


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_is_said_for_a_run_in_the_name_of_a_later_session(*, fails: bool) -> None:
    store: Any = Recording()
    store.fails = fails
    session = "old"
    told: dict[str, str] = {}
    committer = Committer(
        store,
        session=lambda: session,
        want=lambda count: {},
        on_reply=lambda reply: None,
        on_idle=lambda: None,
        on_answered=lambda: None,
        busy=lambda: False,
    )

    def submit(name: str, op: Op) -> None:
        committer.submit(op, lambda result: told.update({name: result.code}))

    sending = asyncio.ensure_future(committer.run())
    submit("sent", a_turn("sent"))
    await store.called.wait()
    submit("unsent", a_turn("unsent"))
    submit("start", a_run("start"))
    session = "new"
    committer.session_is_over()
    store.answers.set()
    async with asyncio.timeout(10):
        while len(told) < 3:
            await asyncio.sleep(0.01)
    committer.close()
    await sending

    assert told == {"sent": "fenced" if fails else "ok", "unsent": "fenced", "start": "ok"}
    said_anew = [op for session, ops in store.sent if session == "new" for op in ops]
    assert said_anew == [a_run("start")]


# --- others who were faster ----------------------------------------------------------------------


async def test_a_handler_ends_in_peace_where_its_function_has_ended_by_another_word(
    toy: Toy,
) -> None:
    go = toy.registry.wire_signal(name="go", payload=int)

    @toy.func
    async def fail(ctx: Ctx) -> int:
        raise ValueError("no")

    @toy.func
    async def tell(ctx: Ctx, failure: StepFailure[None]) -> None:
        await send_unheard(lab, ctx.run_id, "go")

    @toy.workflow(name="main")
    async def main(ctx: Wf) -> int:
        async def failing() -> int:
            try:
                return await ctx.workflow.do("Fail", fail, on_error=tell)
            except StepFailedError:
                return 0

        _, value = await ctx.workflow.race(failing(), ctx.workflow.wait_for_signal("Go", go))
        return value

    async with MEMORY.lab(toy) as lab:
        run = await toy.start("main")
        await lab.settle()

        assert await run.status() == "completed"
        assert await run.result(timeout=PATIENCE) == 1


async def test_what_a_function_asked_for_at_once_is_recorded_in_the_order_in_which_it_asked(
    toy: Toy,
) -> None:
    go = toy.registry.wire_signal(name="go", payload=int)

    @toy.func
    async def work(ctx: Ctx) -> int:
        await send_unheard(lab, ctx.run_id, "go")
        return 1

    @toy.workflow
    async def sub(ctx: Wf) -> int:
        return 2

    @toy.workflow(name="main")
    async def main(ctx: Wf) -> bool:
        async def working() -> bool:
            await ctx.workflow.do("Work", work)
            drawn = await ctx.workflow.random()
            await ctx.workflow.do("Sub", sub, detached=True)
            return drawn < 1

        done, _ = await asyncio.gather(working(), ctx.workflow.wait_for_signal("Go", go))
        await ctx.workflow.sleep("Nap", "1h")  # after which it is replayed
        return done

    async with World("memory://", sticky=0).lab(toy) as lab:
        run = await toy.start("main")

        assert await run.result(timeout=PATIENCE) is True


async def test_a_suspension_that_was_given_up_does_not_take_another_one_with_it(toy: Toy) -> None:
    @toy.func
    async def quick(ctx: Ctx) -> str:
        return "quick"

    @toy.workflow(name="main")
    async def main(ctx: Wf) -> str:
        steps = ctx.workflow
        _, (_, first) = await asyncio.gather(
            steps.suspend("Kept"), steps.race(steps.do("Quick", quick), steps.suspend("Given up"))
        )
        assert isinstance(first, str)
        return first

    async with MEMORY.lab(toy) as lab:
        run = await toy.start("main")
        await lab.settle()
        assert await run.status() == "suspended"

        await run.resume()
        await lab.settle()

        assert await run.result(timeout=PATIENCE) == "quick"
