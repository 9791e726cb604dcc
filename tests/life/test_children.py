"""Children: runs of their own, linked; their outcome, failure and cancellation go up and down."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.life.kit import PATIENCE, Place, cancelled, children, done, failure, kinds, statuses
from tests.runtime.kit import Ctx, Lab, Toy, Wf

from pikku import Run, RunCancelledError, StepFailedError, StepFailure, TerminalError
from pikku.errors import DepthLimitError


async def child_of(lab: Lab, run: Run[Any], name: str) -> Run[Any]:
    (run_id,) = await children(lab, run)
    return lab.app.get_run(name, run_id)


def family(toy: Toy) -> tuple[Any, Any]:
    """A child that naps and doubles, and a parent that waits for it."""

    @toy.workflow
    async def double(ctx: Wf, n: int) -> int:
        await ctx.workflow.sleep("Nap", "1h")
        return await ctx.workflow.do("Double", lambda: n * 2)

    @toy.workflow
    async def parent(ctx: Wf, n: int) -> int:
        doubled: int = await ctx.workflow.do("Child", double, n)
        return doubled + await ctx.workflow.do("One", lambda: 1)

    return double, parent


async def test_a_parent_waits_for_its_child_and_gets_its_output(toy: Toy, place: Place) -> None:
    family(toy)
    async with place.lab(toy) as lab:
        run = await toy.start("parent", 4)
        await lab.settle()
        assert await run.status() == "running"
        child = await child_of(lab, run, "double")
        info = await child.info()
        assert (info.workflow, info.input, info.status) == ("double", 4, "running")
        assert (info.parent, info.parent_step, info.depth) == (str(run), "Child", 1)
        await lab.advance("1h")
        assert await done(lab, run) == 9
        assert await child.result(timeout=PATIENCE) == 8
        assert (lab.executions("Double"), lab.executions("One")) == (1, 1)


async def test_a_child_is_found_by_its_name_or_its_object(toy: Toy, evicted: Place) -> None:
    double, _ = family(toy)

    @toy.workflow
    async def both(ctx: Wf) -> list[int]:
        by_name: Any = ctx.workflow.do
        return list(
            await asyncio.gather(by_name("Name", "double", 1), ctx.workflow.do("Object", double, 2))
        )

    async with evicted.lab(toy) as lab:
        run = await toy.start("both")
        await lab.advance("1h")
        assert await done(lab, run) == [2, 4]


async def test_both_survive_crashes(toy: Toy, place: Place) -> None:
    family(toy)
    async with place.lab(toy) as lab:
        run = await toy.start("parent", 4)
        await lab.settle()
        await lab.crash()
        await lab.recover()
        assert len(await children(lab, run)) == 1
        lab.crash_after("Double")
        await lab.advance("1h")
        await lab.recover()
        assert await done(lab, run) == 9
        assert lab.executions("Double") == 1
        assert len(await children(lab, run)) == 1


async def test_the_failure_of_a_child_is_caught_at_its_await(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def broken(ctx: Wf, text: str) -> None:
        await ctx.workflow.sleep("Nap", "1min")
        raise TerminalError(text)

    @toy.workflow
    async def parent(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Child", broken, "no way")
        except StepFailedError as failed:
            assert failed.caused_by(TerminalError)
            assert (failed.step_name, failed.attempt_count) == ("Child", 1)
            return failed.error.message
        return "?"

    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        await lab.advance("1min")
        assert await done(lab, run) == "no way"
        child = await child_of(lab, run, "broken")
        assert await child.status() == "failed"


async def test_the_failure_of_a_child_fails_a_parent_that_does_not_catch_it(
    toy: Toy, place: Place
) -> None:
    @toy.workflow
    async def broken(ctx: Wf) -> None:
        raise ValueError("no way")

    @toy.workflow
    async def parent(ctx: Wf) -> None:
        await ctx.workflow.do("Child", broken)

    async with place.lab(toy) as lab:
        error = await failure(lab, await toy.start("parent"))
        assert error.caused_by(StepFailedError)
        assert "no way" in error.error.message


async def test_a_child_is_retried_as_a_new_run_after_its_delay(toy: Toy, place: Place) -> None:
    tries: list[str] = []

    @toy.func
    async def flaky(ctx: Ctx) -> int:
        tries.append(ctx.run_id)
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    @toy.workflow
    async def trying(ctx: Wf) -> int:
        return await ctx.workflow.do("Try", flaky)

    @toy.workflow
    async def parent(ctx: Wf) -> int:
        return await ctx.workflow.do("Child", trying, retries=5, retry_delay="10min")

    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        await lab.settle()
        assert len(tries) == 1
        await lab.advance("9min")
        assert len(tries) == 1
        await lab.advance("1min")
        assert len(tries) == 2
        await lab.advance("10min")
        assert await done(lab, run) == 3
        ids = await children(lab, run)
        assert len(set(ids)) == len(ids) == 3
        assert set(ids) == set(tries)
        ended = [await lab.app.get_run("trying", each).status() for each in ids]
        assert sorted(ended) == ["completed", "failed", "failed"]


async def test_the_last_failure_of_a_retried_child_counts_its_attempts(
    toy: Toy, place: Place
) -> None:
    @toy.workflow
    async def broken(ctx: Wf) -> None:
        raise ValueError("no way")

    @toy.func
    async def tell(ctx: Ctx, failure: StepFailure[None]) -> str:
        return f"{failure.step_name} {failure.attempt_count}"

    @toy.workflow
    async def parent(ctx: Wf) -> int:
        try:
            await ctx.workflow.do("Child", broken, retries=2, on_error=tell)
        except StepFailedError as failed:
            return failed.attempt_count
        return 0

    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        assert await done(lab, run) == 3
        assert len(await children(lab, run)) == 3
        assert lab.executions("Child (on_error)") == 1 or "Child (on_error)" in (
            await statuses(lab, run)
        )


async def test_a_child_that_takes_too_long_is_ended_and_the_step_fails(
    toy: Toy, place: Place
) -> None:
    double, _ = family(toy)

    @toy.workflow
    async def parent_in_haste(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Child", double, 1, timeout="1min")
        except StepFailedError as failed:
            return failed.error.type
        return "?"

    async with place.lab(toy) as lab:
        run = await toy.start("parent_in_haste")
        await lab.advance("1min")
        assert await done(lab, run) in ("StepTimeoutError", "RunTimeoutError")
        child = await child_of(lab, run, "double")
        assert await child.status() in ("failed", "cancelled")
        await lab.advance("2h")
        assert lab.executions("Double") == 0


async def test_a_suspended_child_parks_its_parent(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> int:
        await ctx.workflow.suspend("audit")
        return 5

    @toy.workflow
    async def parent(ctx: Wf) -> int:
        return await ctx.workflow.do("Child", held)

    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        await lab.settle()
        child = await child_of(lab, run, "held")
        assert (await child.status(), await run.status()) == ("suspended", "running")
        await lab.advance("30d")
        assert (await child.status(), await run.status()) == ("suspended", "running")
        await child.resume()
        assert await done(lab, run) == 5


async def test_a_cancel_reaches_children_and_grandchildren(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def grandchild(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            await ctx.workflow.do("Clean grandchild", lambda: None)

    @toy.workflow
    async def child(ctx: Wf) -> None:
        try:
            await ctx.workflow.do("Grandchild", grandchild)
        finally:
            await ctx.workflow.do("Clean child", lambda: None)

    @toy.workflow
    async def parent(ctx: Wf) -> None:
        try:
            await ctx.workflow.do("Child", child)
        finally:
            await ctx.workflow.do("Clean parent", lambda: None)

    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        await lab.settle()
        below = await child_of(lab, run, "child")
        lowest = await child_of(lab, below, "grandchild")
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        assert await cancelled(lab, below)
        assert await cancelled(lab, lowest)
        for who in ("grandchild", "child", "parent"):
            assert lab.executions(f"Clean {who}") == 1


async def test_a_cancelled_child_is_a_failed_step_of_its_parent(toy: Toy, place: Place) -> None:
    double, _ = family(toy)

    @toy.workflow
    async def catching(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Child", double, 1)
        except StepFailedError as failed:
            assert failed.caused_by(RunCancelledError)
            return failed.error.type
        return "?"

    async with place.lab(toy) as lab:
        run = await toy.start("catching")
        await lab.settle()
        child = await child_of(lab, run, "double")
        await child.cancel("only this one")
        assert await done(lab, run) == "RunCancelledError"
        assert await cancelled(lab, child) == "only this one"


async def test_a_child_that_lost_a_race_is_cancelled(toy: Toy, place: Place) -> None:
    double, _ = family(toy)

    @toy.workflow
    async def racer(ctx: Wf) -> int:
        first = await ctx.workflow.race(
            ctx.workflow.do("Child", double, 1), ctx.workflow.sleep("Nap", "1min")
        )
        await ctx.workflow.do("After", lambda: None)
        return first[0]

    async with place.lab(toy) as lab:
        run = await toy.start("racer")
        await lab.advance("1min")
        assert await done(lab, run) == 1
        child = await child_of(lab, run, "double")
        assert await cancelled(lab, child)
        await lab.advance("2h")
        assert lab.executions("Double") == 0


async def test_children_in_a_group_are_cancelled_with_their_failed_sibling(
    toy: Toy, place: Place
) -> None:
    double, _ = family(toy)

    @toy.func
    async def broken(ctx: Ctx) -> None:
        raise ValueError("no")

    @toy.workflow
    async def grouped(ctx: Wf) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.workflow.do("Child", double, 1))
                group.create_task(ctx.workflow.do("Broken", broken))
        except* StepFailedError:
            pass
        return await ctx.workflow.do("Last", lambda: "caught")

    async with place.lab(toy) as lab:
        run = await toy.start("grouped")
        assert await done(lab, run) == "caught"
        for each in await children(lab, run):
            assert await cancelled(lab, lab.app.get_run("double", each))
        await lab.advance("2h")
        assert lab.executions("Double") == 0


async def test_a_cancel_while_the_child_is_being_made_leaves_no_child_behind(
    toy: Toy, place: Place
) -> None:
    double, _ = family(toy)
    begun, go = asyncio.Event(), asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> None:
        begun.set()
        await go.wait()

    @toy.workflow
    async def late_parent(ctx: Wf) -> None:
        await ctx.workflow.do("Slow", slow)
        await ctx.workflow.do("Child", double, 1)

    async with place.lab(toy) as lab:
        run = await toy.start("late_parent", wait=False)
        await begun.wait()
        go.set()
        await asyncio.gather(*(run.cancel("enough") for _ in range(3)))
        assert await cancelled(lab, run) == "enough"
        await lab.settle()
        for each in await children(lab, run):
            assert await lab.app.get_run("double", each).status() == "cancelled"
        await lab.advance("2h")
        assert lab.executions("Double") == 0


async def test_a_parent_that_fails_cancels_the_children_it_no_longer_waits_for(
    toy: Toy, place: Place
) -> None:
    double, _ = family(toy)

    @toy.workflow
    async def careless(ctx: Wf) -> None:
        task = asyncio.ensure_future(ctx.workflow.do("Child", double, 1))
        await ctx.workflow.sleep("Nap", "1min")
        assert not task.done()
        raise ValueError("no")

    async with place.lab(toy) as lab:
        run = await toy.start("careless")
        await lab.advance("1min")
        await failure(lab, run)
        child = await child_of(lab, run, "double")
        await lab.advance("2h")
        assert await child.status() == "cancelled"
        assert lab.executions("Double") == 0


async def test_a_detached_run_goes_on_without_its_parent(toy: Toy, place: Place) -> None:
    double, _ = family(toy)

    @toy.workflow
    async def starter(ctx: Wf) -> str:
        started = await ctx.workflow.do("Start", double, 4, detached=True)
        await ctx.workflow.sleep("Nap", "1min")
        return started

    async with place.lab(toy) as lab:
        one, two = await toy.start("starter"), await toy.start("starter")
        await lab.settle()
        await two.cancel("enough")
        assert await cancelled(lab, two) == "enough"
        await lab.advance("1min")
        started = await done(lab, one)
        assert started != str(one)
        doubles = await lab.app.list_runs(workflow="double")
        assert len(doubles) == 2
        assert started in {info.run_id for info in doubles}
        await lab.advance("1h")
        for info in doubles:
            assert await done(lab, lab.app.get_run("double", info.run_id)) == 8
        assert lab.executions("Double") == 2


async def test_a_detached_run_is_started_once_whatever_crashes(toy: Toy, place: Place) -> None:
    double, _ = family(toy)

    @toy.workflow
    async def starter(ctx: Wf) -> list[str]:
        return [await ctx.workflow.do("Start", double, n, detached=True) for n in range(3)]

    async with place.lab(toy) as lab:
        lab.crash_after("Start#1")
        run = await toy.start("starter", wait=False)
        await lab.settle()
        await lab.recover()
        ids = await done(lab, run)
        assert len(set(ids)) == 3
        assert {info.run_id for info in await lab.app.list_runs(workflow="double")} == set(ids)


async def test_a_child_of_itself_without_end_is_stopped(toy: Toy, evicted: Place) -> None:
    @toy.workflow
    async def again(ctx: Wf, n: int) -> int:
        do: Any = ctx.workflow.do
        deeper: int = await do("Again", "again", n + 1)
        return deeper

    async with evicted.lab(toy) as lab:
        run = await toy.start("again", 0)
        error = await failure(lab, run)
        assert "DepthLimitError" in str(error.error) or error.caused_by(DepthLimitError)
        counts = await lab.app.count_runs()
        assert set(counts) == {"failed"}
        assert counts["failed"] < 1000


async def test_a_thousand_children_of_one_parent_all_end(toy: Toy, memory_modes: Place) -> None:
    @toy.workflow
    async def small(ctx: Wf, n: int) -> int:
        return n

    @toy.workflow
    async def parent(ctx: Wf) -> int:
        return sum(await ctx.workflow.map("Child", small, range(1000), max_concurrency=100))

    async with memory_modes.lab(toy) as lab:
        run = await toy.start("parent", wait=False)
        assert await run.result(timeout="25s") == sum(range(1000))
        assert (await lab.app.count_runs())["completed"] == 1001


async def test_history_tells_of_the_child_and_its_end(toy: Toy, evicted: Place) -> None:
    family(toy)
    async with evicted.lab(toy) as lab:
        run = await toy.start("parent", 4)
        await lab.advance("1h")
        await done(lab, run)
        events = await run.history()
        started = next(event for event in events if event.kind == "child_started")
        ended = next(event for event in events if event.step == "Child" and "succ" in event.kind)
        assert started.data == (await children(lab, run))[0]
        assert (ended.data, ended.at - started.at) == (8, timedelta(hours=1))
        assert "run_completed" in await kinds(run)


async def test_two_parents_have_children_of_their_own(toy: Toy, place: Place) -> None:
    family(toy)
    async with place.lab(toy) as lab:
        runs = [await toy.start("parent", n) for n in range(3)]
        await lab.advance("1h")
        assert [await done(lab, run) for run in runs] == [1, 3, 5]
        assert len({each for run in runs for each in await children(lab, run)}) == 3


@pytest.mark.parametrize("data", ["text", None, 1.5], ids=repr)
async def test_input_that_does_not_fit_fails_the_step_and_makes_no_child(
    toy: Toy, evicted: Place, data: Any
) -> None:
    double, _ = family(toy)

    @toy.workflow
    async def careless(ctx: Wf) -> None:
        await ctx.workflow.do("Child", double, data)

    async with evicted.lab(toy) as lab:
        run = await toy.start("careless")
        error = await failure(lab, run)
        assert error.error.code == "PKR308"
        assert await children(lab, run) == []


async def test_a_child_gets_signals_and_answers_of_its_own(toy: Toy, place: Place) -> None:
    number = toy.registry.wire_signal(name="number", payload=int)

    @toy.workflow
    async def waiting(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", number)

    @toy.workflow
    async def parent(ctx: Wf) -> list[int]:
        return list(
            await asyncio.gather(
                ctx.workflow.do("Child", waiting), ctx.workflow.wait_for_signal("Word", number)
            )
        )

    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        await lab.settle()
        await run.signal(number, 1)
        await lab.settle()
        child = await child_of(lab, run, "waiting")
        await child.signal(number, 2)
        assert await done(lab, run) == [2, 1]
