"""Cancelling: asked for from inside or outside, at each kind of wait, with time to clean up."""

import asyncio
import threading

import pytest
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of

from pikku import RunCancelledError, StepFailedError


async def reason_of(run: object) -> str:
    with pytest.raises(RunCancelledError) as caught:
        await run.result()  # type: ignore[attr-defined]
    return caught.value.reason


async def test_a_sleeping_run_is_cancelled_at_once(toy: Toy, world: World) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf) -> None:
        await ctx.workflow.sleep("Wait", "1d")
        await ctx.workflow.do("Never", lambda: None)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("sleeper")
        await run.cancel("changed my mind")
        assert await reason_of(run) == "changed my mind"
        info = await run.info()
        assert (info.status, info.cancel_reason) == ("cancelled", "changed my mind")
        assert info.cancel_requested_at == lab.clock.now()
        await lab.advance("2d")
        assert lab.executions("Never") == 0
        assert await run.status() == "cancelled"


async def test_the_function_gets_cancelled_error_at_its_pending_await(
    toy: Toy, world: World
) -> None:
    seen: list[str] = []

    @toy.workflow
    async def sleeper(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        except Exception:
            seen.append("exception")

    async with world.lab(toy, auto_advance=False):
        run = await toy.start("sleeper")
        await run.cancel("x")
        await reason_of(run)
    assert seen == ["cancelled"]


async def test_cancel_from_inside_stops_the_function_and_keeps_the_reason(
    toy: Toy, world: World
) -> None:
    after: list[str] = []

    @toy.workflow
    async def giving_up(ctx: Wf) -> None:
        await ctx.workflow.do("Before", lambda: None)
        try:
            await ctx.workflow.cancel("out of stock")
            after.append("went on")
        finally:
            await ctx.workflow.do("Clean up", lambda: None)

    async with world.lab(toy) as lab:
        run = await toy.start("giving_up")
        assert await reason_of(run) == "out of stock"
        assert await run.status() == "cancelled"
        assert lab.executions("Clean up") == 1
    assert after == []


async def test_cleanup_steps_are_granted_and_recorded_and_no_other_step_is(
    toy: Toy, world: World
) -> None:
    @toy.func
    async def refund(ctx: Ctx, amount: int) -> str:
        return f"refunded {amount}"

    said: list[str] = []

    @toy.workflow
    async def buying(ctx: Wf) -> None:
        await ctx.workflow.do("Charge", lambda: 5)
        try:
            await ctx.workflow.sleep("Wait", "1d")
            await ctx.workflow.do("Ship", lambda: None)
        finally:
            said.append(await ctx.workflow.do("Refund", refund, 5))
            await ctx.workflow.do("Tell", lambda: None)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("buying")
        await run.cancel("x")
        await reason_of(run)
        steps = await steps_of(lab, run)
        assert set(steps) == {"Charge", "Wait", "Refund", "Tell"}
        assert steps["Refund"].status == steps["Tell"].status == "succeeded"
        assert lab.executions("Refund") == lab.executions("Tell") == 1
    assert said == ["refunded 5"]


@pytest.mark.parametrize("crash", ["Refund", "Tell"])
async def test_a_crash_while_cleaning_up_goes_on_cleaning_up(
    toy: Toy, world: World, crash: str
) -> None:
    @toy.workflow
    async def buying(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        finally:
            await ctx.workflow.do("Refund", lambda: None)
            await ctx.workflow.do("Tell", lambda: None)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("buying")
        lab.crash_after(crash)
        await run.cancel("x")
        while not lab._crashed:
            await asyncio.sleep(0)
        assert await run.status() in ("running", "cancelled")
        await lab.recover()
        assert await reason_of(run) == "x"
        assert lab.executions("Refund") == lab.executions("Tell") == 1


async def test_a_running_step_sees_the_cancellation_and_its_outcome_is_recorded(
    toy: Toy, world: World
) -> None:
    entered = asyncio.Event()
    seen: list[bool] = []

    @toy.func
    async def long(ctx: Ctx) -> str:
        seen.append(ctx.step.cancelled)
        entered.set()
        while not ctx.step.cancelled:
            await asyncio.sleep(0)
        seen.append(ctx.step.cancelled)
        return "stopped early"

    @toy.workflow
    async def working(ctx: Wf) -> None:
        await ctx.workflow.do("Long", long)

    async with world.lab(toy) as lab:
        run = await toy.start("working", wait=False)
        await entered.wait()
        await run.cancel("x")
        assert await reason_of(run) == "x"
        step = (await steps_of(lab, run))["Long"]
        assert (step.status, step.result) == ("succeeded", '"stopped early"')
    assert seen == [False, True]


async def test_a_running_thread_sees_the_cancellation(toy: Toy, world: World) -> None:
    entered, seen = threading.Event(), threading.Event()

    @toy.func
    def long(ctx: Ctx) -> None:
        entered.set()
        while not ctx.step.cancelled:
            seen.wait(0.001)
        seen.set()

    @toy.workflow
    async def working(ctx: Wf) -> None:
        await ctx.workflow.do("Long", long)

    async with world.lab(toy):
        run = await toy.start("working", wait=False)
        await asyncio.to_thread(entered.wait, 30)
        await run.cancel("x")
        assert await reason_of(run) == "x"
    assert seen.is_set()


async def test_a_step_that_fails_after_the_request_gets_no_further_attempt(
    toy: Toy, world: World
) -> None:
    entered = asyncio.Event()

    @toy.func(retries=5)
    async def long(ctx: Ctx) -> None:
        entered.set()
        while not ctx.step.cancelled:
            await asyncio.sleep(0)
        raise OSError("stopped")

    @toy.workflow
    async def working(ctx: Wf) -> None:
        await ctx.workflow.do("Long", long)

    async with world.lab(toy) as lab:
        run = await toy.start("working", wait=False)
        await entered.wait()
        await run.cancel("x")
        await reason_of(run)
        assert lab.executions("Long") == 1
        assert (await steps_of(lab, run))["Long"].status == "failed"


async def test_a_wait_for_the_next_attempt_ends_at_once(toy: Toy, world: World) -> None:
    @toy.func(retries=1, retry_delay="1d")
    async def flaky(ctx: Ctx) -> None:
        raise OSError("no")

    @toy.workflow
    async def working(ctx: Wf) -> None:
        await ctx.workflow.do("Flaky", flaky)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("working")
        await run.cancel("x")
        assert await reason_of(run) == "x"
        await lab.advance("2d")
        assert lab.executions("Flaky") == 1


async def test_gathered_waits_all_end(toy: Toy, world: World) -> None:
    ended: list[str] = []

    async def wait(ctx: Wf, name: str) -> None:
        try:
            await ctx.workflow.sleep(name, "1d")
        except asyncio.CancelledError:
            ended.append(name)
            raise

    @toy.workflow
    async def waiting(ctx: Wf) -> None:
        await asyncio.gather(*[wait(ctx, name) for name in "abc"])

    async with world.lab(toy, auto_advance=False):
        run = await toy.start("waiting")
        await run.cancel("x")
        assert await reason_of(run) == "x"
    assert sorted(ended) == ["a", "b", "c"]


async def test_the_cleanup_timeout_ends_a_run_that_does_not_unwind(toy: Toy, world: World) -> None:
    @toy.workflow
    async def stubborn(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        finally:
            await ctx.workflow.sleep("Clean for a long time", "1d")
            await ctx.workflow.do("Never", lambda: None)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("stubborn")
        await run.cancel("x")
        await lab.settle()
        assert await run.status() == "running"
        await lab.advance("59s")
        assert await run.status() == "running"
        await lab.advance("1s")
        assert await run.status() == "cancelled"
        await lab.advance("2d")
        assert lab.executions("Never") == 0


async def test_a_body_that_swallows_the_cancellation_still_ends_cancelled(
    toy: Toy, world: World
) -> None:
    @toy.workflow
    async def swallowing(ctx: Wf) -> str:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        except asyncio.CancelledError:
            return "as if nothing had happened"
        return "slept"

    async with world.lab(toy, auto_advance=False):
        run = await toy.start("swallowing")
        await run.cancel("x")
        assert await reason_of(run) == "x"
        assert await run.status() == "cancelled"


async def test_the_first_reason_stays(toy: Toy, world: World) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf) -> None:
        await ctx.workflow.sleep("Wait", "1d")

    async with world.lab(toy, auto_advance=False):
        run = await toy.start("sleeper")
        await asyncio.gather(run.cancel("first"), run.cancel("second"))
        assert await reason_of(run) == "first"


async def test_a_suspended_run_is_cancelled_by_force_without_its_code(
    toy: Toy, world: World
) -> None:
    @toy.workflow
    async def changing(ctx: Wf) -> None:
        await ctx.workflow.do("Step", lambda: 1)
        await ctx.workflow.sleep("Wait", "1h")

    async def changed(ctx: Wf) -> None:
        await ctx.workflow.sleep("Step", "1h")

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("changing")
        toy.replace(changed, name="changing")
        await lab.recover()
        await lab.advance("1h")
        assert await run.status() == "suspended"
        await run.cancel("no use", force=True)
        assert await reason_of(run) == "no use"
        assert (await run.info()).suspend_reason is None


async def test_a_request_made_while_nobody_executes_the_run_is_kept(toy: Toy, world: World) -> None:
    from pikku._records import CancelRun

    @toy.workflow
    async def sleeper(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        finally:
            await ctx.workflow.do("Clean up", lambda: None)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("sleeper")
        await lab.crash()
        await lab._store.apply("another process", [CancelRun(run.run_id, "from afar")], {})
        await lab.recover()
        assert await reason_of(run) == "from afar"
        assert lab.executions("Clean up") == 1


async def test_a_failure_while_unwinding_still_ends_cancelled(toy: Toy, world: World) -> None:
    @toy.workflow
    async def clumsy(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        finally:
            await ctx.workflow.do("Divide", lambda: 1 // 0)

    async with world.lab(toy, auto_advance=False):
        run = await toy.start("clumsy")
        await run.cancel("x")
        assert await reason_of(run) == "x"


async def test_cancel_from_inside_a_branch_ends_its_siblings(toy: Toy, world: World) -> None:
    @toy.workflow
    async def branching(ctx: Wf) -> None:
        async def stop() -> None:
            await ctx.workflow.do("Look", lambda: None)
            await ctx.workflow.cancel("from a branch")

        async with asyncio.TaskGroup() as group:
            group.create_task(stop())
            group.create_task(ctx.workflow.sleep("Wait", "1d"))

    async with world.lab(toy, auto_advance=False):
        run = await toy.start("branching")
        assert await reason_of(run) == "from a branch"


async def test_a_step_failure_caught_before_is_no_reason_to_cancel(toy: Toy, world: World) -> None:
    @toy.workflow
    async def tolerant(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Divide", lambda: 1 // 0)
        except StepFailedError:
            pass
        return "fine"

    async with world.lab(toy):
        assert await (await toy.start("tolerant")).result() == "fine"
