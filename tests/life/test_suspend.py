"""Suspension: only an explicit resume opens it."""

import asyncio

import pytest
from tests.life.kit import PATIENCE, Place, cancelled, done, everything, failure, kinds, statuses
from tests.runtime.kit import Ctx, Toy, Wf

from pikku.errors import ResultTimeoutError, RunStateError


async def test_a_suspended_run_stands_still_until_it_is_resumed(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> int:
        before = await ctx.workflow.do("Before", lambda: 1)
        await ctx.workflow.suspend("audit")
        return before + await ctx.workflow.do("After", lambda: 2)

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        info = await run.info()
        assert (info.status, info.suspend_reason) == ("suspended", "requested")
        await lab.advance("30d")
        assert await run.status() == "suspended"
        assert lab.executions("After") == 0
        await run.resume()
        assert await done(lab, run) == 3
        assert (lab.executions("Before"), lab.executions("After")) == (1, 1)
        assert [k for k in await kinds(run) if k in ("suspend", "resume")] == ["suspend", "resume"]


async def test_history_tells_why_the_run_was_suspended(toy: Toy, evicted: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> None:
        await ctx.workflow.suspend("audit")

    async with evicted.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        (event,) = [event for event in await run.history() if event.kind == "suspend"]
        assert "audit" in f"{event.step} {event.data}"


async def test_a_suspension_survives_a_crash_and_a_recovery(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> int:
        await ctx.workflow.suspend("audit")
        return await ctx.workflow.do("After", lambda: 2)

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        for _ in range(2):
            await lab.crash()
            await lab.recover()
            await lab.advance("1h")
        assert await run.status() == "suspended"
        await run.resume()
        assert await done(lab, run) == 2


async def test_each_suspension_needs_its_own_resume(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> str:
        for _ in range(3):
            await ctx.workflow.suspend("audit")
        return "through"

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        for _ in range(3):
            await lab.settle()
            assert await run.status() == "suspended"
            await run.resume()
        assert await done(lab, run) == "through"


async def test_resumes_at_once_open_one_suspension(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> str:
        await ctx.workflow.suspend("one")
        await ctx.workflow.sleep("Nap", "1h")
        await ctx.workflow.suspend("two")
        return "through"

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        ends = await asyncio.gather(*(run.resume() for _ in range(5)), return_exceptions=True)
        assert any(end is None for end in ends)
        assert all(end is None or isinstance(end, RunStateError) for end in ends)
        await lab.advance("1h")
        assert await run.status() == "suspended"
        await run.resume()
        assert await done(lab, run) == "through"


async def test_the_resume_of_a_run_that_is_not_suspended_is_refused(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def napping(ctx: Wf) -> None:
        await ctx.workflow.sleep("Nap", "1h")

    async with place.lab(toy) as lab:
        run = await toy.start("napping")
        await lab.settle()
        before = await everything(lab)
        with pytest.raises(RunStateError, match="running"):
            await run.resume()
        assert await everything(lab) == before
        await lab.advance("1h")
        await done(lab, run)
        before = await everything(lab)
        with pytest.raises(RunStateError, match="completed"):
            await run.resume()
        assert await everything(lab) == before


async def test_a_result_is_waited_for_through_the_suspension(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> int:
        await ctx.workflow.suspend("audit")
        return 5

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        with pytest.raises(ResultTimeoutError):
            await run.result(timeout="1ms")
        waiting = asyncio.ensure_future(run.result(timeout=PATIENCE))
        await asyncio.sleep(0)
        await run.resume()
        assert await waiting == 5


async def test_a_sleep_that_ends_during_the_suspension_opens_nothing_and_is_not_lost(
    toy: Toy, place: Place
) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> str:
        async def hold() -> None:
            await ctx.workflow.do("First", lambda: None)
            await ctx.workflow.suspend("audit")

        async def nap() -> None:
            await ctx.workflow.sleep("Nap", "1h")
            await ctx.workflow.do("After nap", lambda: None)

        await asyncio.gather(nap(), hold())
        return "through"

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        assert await run.status() == "suspended"
        await lab.advance("2h")
        assert await run.status() == "suspended"
        assert lab.executions("After nap") == 0
        await run.resume()
        assert await done(lab, run) == "through"


async def test_a_step_under_way_ends_and_is_recorded_and_no_other_begins(
    toy: Toy, place: Place
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> int:
        begun.set()
        await go.wait()
        return 1

    @toy.workflow
    async def held(ctx: Wf) -> int:
        async def branch() -> int:
            value: int = await ctx.workflow.do("Slow", slow)
            return value + await ctx.workflow.do("Next", lambda: 1)

        async def hold() -> None:
            await ctx.workflow.do("First", lambda: None)
            await ctx.workflow.suspend("audit")

        value, _ = await asyncio.gather(branch(), hold())
        return value

    async with place.lab(toy) as lab:
        run = await toy.start("held", wait=False)
        await begun.wait()
        go.set()
        await lab.settle()
        assert await run.status() == "suspended"
        assert (await statuses(lab, run))["Slow"] == "succeeded"
        assert lab.executions("Next") == 0
        await run.resume()
        assert await done(lab, run) == 2
        assert lab.executions("Slow") == 1


async def test_a_retry_that_is_due_during_the_suspension_waits_for_the_resume(
    toy: Toy, place: Place
) -> None:
    @toy.func(retries=3, retry_delay="1min")
    async def flaky(ctx: Ctx) -> int:
        if ctx.step.attempt_count < 3:
            raise ValueError("not yet")
        return ctx.step.attempt_count

    @toy.workflow
    async def held(ctx: Wf) -> int:
        values: tuple[int, None] = await asyncio.gather(
            ctx.workflow.do("Flaky", flaky), ctx.workflow.suspend("audit")
        )
        return values[0]

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        assert await run.status() == "suspended"
        await lab.advance("1h")
        assert await run.status() == "suspended"
        await run.resume()
        await lab.advance("1h")
        assert await done(lab, run) == 3


async def test_a_suspended_run_is_cancelled_at_once(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> None:
        try:
            await ctx.workflow.suspend("audit")
        finally:
            await ctx.workflow.do("Clean up", lambda: None)

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        assert lab.executions("Clean up") == 1


async def test_a_suspended_run_still_meets_its_own_timeout(toy: Toy, place: Place) -> None:
    async def held(ctx: Wf) -> None:
        await ctx.workflow.suspend("audit")

    toy.workflow(held, name="held", timeout="1h")
    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.advance("1h")
        error = await failure(lab, run)
        assert error.error.type == "RunTimeoutError"


async def test_two_branches_suspend_and_one_resume_opens_both(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> list[str]:
        async def hold(name: str) -> str:
            await ctx.workflow.suspend(f"audit {name}")
            return await ctx.workflow.do(name, lambda: name)

        return list(await asyncio.gather(hold("a"), hold("b")))

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        assert await run.status() == "suspended"
        await run.resume()
        await lab.settle()
        while await run.status() == "suspended":  # a second may be asked for
            await run.resume()
            await lab.settle()
        assert await done(lab, run) == ["a", "b"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("nap", ["4min", "8min"])
async def test_a_suspension_whose_branch_has_lost_a_race_does_not_swallow_another(
    toy: Toy, place: Place, turned: bool, earlier: bool, nap: str
) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> str:
        async def hold(name: str, wait: str) -> None:
            await ctx.workflow.sleep(f"Before {name}", wait)
            await ctx.workflow.suspend(name)

        async def raced(wait: str) -> None:
            await ctx.workflow.race(hold("one", wait), ctx.workflow.sleep("Nap", nap))

        both = (
            [raced("3min"), hold("two", "2min")] if turned else [raced("2min"), hold("two", "3min")]
        )
        if earlier:  # both are asked for in the turn in which this one is over
            both.append(hold("zero", "1min"))
        await asyncio.gather(*both)
        return "through"

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        for _ in range(5):
            await lab.advance("5min")
            if await run.status() == "suspended":
                await run.resume()
                await lab.settle()
        assert await done(lab, run) == "through"


async def test_an_approval_can_be_answered_during_the_suspension(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> str:
        async def hold() -> None:
            await ctx.workflow.do("First", lambda: None)
            await ctx.workflow.suspend("audit")

        said, _ = await asyncio.gather(ctx.workflow.approval("Pay?"), hold())
        return said.outcome

    async with place.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        await run.approve("Pay?")
        await lab.settle()
        assert await run.status() == "suspended"
        await run.resume()
        assert await done(lab, run) == "approved"


async def test_a_resume_by_another_process_opens_it(toy: Toy, shared: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> int:
        await ctx.workflow.suspend("audit")
        return 5

    other = Toy()
    other.workflow(held.func, name="held")
    async with shared.lab(toy) as lab:
        run = await toy.start("held")
        await lab.settle()
        async with shared.beside(lab, other):
            await other.app.get_run("held", str(run)).resume()
            assert await run.result(timeout=PATIENCE) == 5
