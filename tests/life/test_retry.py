"""Retry: a failed run goes on from the step that failed, and repeats nothing that succeeded."""

import asyncio
from typing import Any

import pytest
from tests.life.kit import PATIENCE, Place, cancelled, children, done, everything, failure, kinds
from tests.runtime.kit import Ctx, Toy, Wf, steps_of

from pikku import StepFailedError, StepFailure, Undo
from pikku.errors import NoSuchStepError, RunNotFoundError, RunStateError


class Machine:
    """A function that fails until it is mended."""

    def __init__(self, toy: Toy) -> None:
        self.broken = True
        machine = self

        @toy.func
        async def work(ctx: Ctx, n: int) -> int:
            if machine.broken and n < 0:
                raise ValueError("broken")
            return abs(n)

        self.work = work


@pytest.fixture
def machine(toy: Toy) -> Machine:
    return Machine(toy)


async def test_a_retry_goes_on_from_the_failed_step(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        first: int = await ctx.workflow.do("First", machine.work, 1)
        await ctx.workflow.sleep("Nap", "1h")
        second: int = await ctx.workflow.do("Second", machine.work, -2)
        third: int = await ctx.workflow.do("Third", machine.work, 3)
        return first + second + third

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await lab.advance("1h")
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == 6
        info = await run.info()
        assert (info.status, info.run_attempt, info.error) == ("completed", 2, None)
        assert [lab.executions(name) for name in ("First", "Second", "Third")] == [1, 2, 1]
        assert "retry" in await kinds(run)


async def test_the_attempts_of_the_failed_step_go_on_counting(
    toy: Toy, place: Place, machine: Machine
) -> None:
    seen: list[int] = []

    @toy.func(retries=1, retry_delay="1min")
    async def counted(ctx: Ctx) -> int:
        seen.append(ctx.step.attempt_count)
        if len(seen) < 4:
            raise ValueError("not yet")
        return len(seen)

    @toy.workflow
    async def job(ctx: Wf) -> int:
        return await ctx.workflow.do("Count", counted)

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await lab.advance("1min")
        await failure(lab, run)
        await run.retry()
        await lab.advance("1min")
        assert await done(lab, run) == 4
    # After a retry the step has all its attempts again, and no number comes twice.
    assert seen == [1, 2, 3, 4]


async def test_a_retry_may_fail_again_and_be_retried_again(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", machine.work, -1)

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        for _ in range(3):
            await failure(lab, run)
            await run.retry()
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == 1
        assert (await run.info()).run_attempt == 5


async def test_only_a_failed_run_is_retried(toy: Toy, place: Place, machine: Machine) -> None:
    @toy.workflow
    async def job(ctx: Wf, nap: str) -> int:
        await ctx.workflow.sleep("Nap", nap)
        return 1

    async with place.lab(toy) as lab:
        sleeping, ended, unwound = [await toy.start("job", n) for n in ("1d", "1s", "2d")]
        await lab.advance("1s")
        await unwound.cancel("enough")
        await cancelled(lab, unwound)
        before = await everything(lab)
        for run, state in ((sleeping, "running"), (ended, "completed"), (unwound, "cancelled")):
            with pytest.raises(RunStateError, match=state):
                await run.retry()
        assert await everything(lab) == before
        with pytest.raises(RunNotFoundError):
            await toy.app.get_run("job", "nobody").retry()


async def test_retries_at_once_make_one(toy: Toy, place: Place, machine: Machine) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", machine.work, -1)

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        ends = await asyncio.gather(*(run.retry() for _ in range(5)), return_exceptions=True)
        assert all(end is None or isinstance(end, RunStateError) for end in ends)
        assert ends.count(None) >= 1
        assert await done(lab, run) == 1
        assert (await run.info()).run_attempt == 2
        assert lab.executions("Work") == 2


async def test_a_retry_from_an_earlier_failure_goes_back_to_it(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> list[int]:
        got = [await ctx.workflow.do("First", machine.work, 1)]
        try:
            got.append(await ctx.workflow.do("Caught", machine.work, -2))
        except StepFailedError:
            got.append(await ctx.workflow.do("Instead", machine.work, 20))
        return [*got, await ctx.workflow.do("Last", machine.work, -3)]

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        await run.retry(from_step="Caught")
        assert await done(lab, run) == [1, 2, 3]
        assert "Instead" not in await steps_of(lab, run)
        assert lab.executions("First") == 1


async def test_a_retry_keeps_the_way_that_a_caught_failure_took(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> list[int]:
        got = []
        try:
            got.append(await ctx.workflow.do("Caught", machine.work, -2))
        except StepFailedError:
            got.append(await ctx.workflow.do("Instead", machine.work, 20))
        return [*got, await ctx.workflow.do("Last", machine.work, -3)]

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == [20, 3]
        assert lab.executions("Instead") == 1


@pytest.mark.parametrize(
    ("step", "error"),
    [("First", RunStateError), ("Nowhere", NoSuchStepError), ("", NoSuchStepError)],
)
async def test_a_retry_from_a_step_that_did_not_fail_is_refused(
    toy: Toy, evicted: Place, machine: Machine, step: str, error: Any
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> None:
        await ctx.workflow.do("First", machine.work, 1)
        await ctx.workflow.do("Last", machine.work, -3)

    async with evicted.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        before = await everything(lab)
        with pytest.raises(error):
            await run.retry(from_step=step)
        assert await everything(lab) == before


async def test_a_result_waits_for_the_retried_run(toy: Toy, place: Place, machine: Machine) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        await ctx.workflow.do("Work", machine.work, -1)
        await ctx.workflow.sleep("Nap", "1h")
        return 5

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        waiting = asyncio.ensure_future(run.result(timeout=PATIENCE))
        await lab.advance("1h")
        assert await waiting == 5


async def test_of_steps_at_once_only_the_failed_one_is_repeated(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> list[int]:
        return list(
            await asyncio.gather(
                *(ctx.workflow.do(f"Work {n}", machine.work, n) for n in (1, 2, -3, 4))
            )
        )

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        await lab.settle()
        ended = {
            key for key, step in (await steps_of(lab, run)).items() if step.status == "succeeded"
        }
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == [1, 2, 3, 4]
        for key in ended:
            assert lab.executions(key) == 1


async def test_a_late_completion_of_the_failed_run_is_taken_or_refused_but_never_lost(
    toy: Toy, place: Place, machine: Machine
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    bodies: list[int] = []

    @toy.func
    async def slow(ctx: Ctx) -> int:
        number = len(bodies)
        bodies.append(number)
        begun.set()
        if number == 0:
            try:
                await go.wait()
            except asyncio.CancelledError:
                await go.wait()
                raise
        return 10 + number

    @toy.workflow
    async def job(ctx: Wf) -> list[int]:
        return list(
            await asyncio.gather(
                ctx.workflow.do("Slow", slow), ctx.workflow.do("Work", machine.work, -1)
            )
        )

    async with place.lab(toy) as lab:
        run = await toy.start("job", wait=False)
        await begun.wait()
        await lab.advance("1ms")
        while await run.status() == "running":
            await asyncio.sleep(0)
        machine.broken = False
        await run.retry()
        go.set()
        value, work = await done(lab, run)
        assert (value in (10, 11), work) == (True, 1)
        assert (await steps_of(lab, run))["Slow"].result == str(value)


async def test_a_run_that_failed_outside_its_steps_runs_again_from_there(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        value: int = await ctx.workflow.do("Work", machine.work, 1)
        if machine.broken:
            raise RuntimeError("a bug in the body")
        more: int = await ctx.workflow.do("More", machine.work, 2)
        return value + more

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == 3
        assert lab.executions("Work") == 1


async def test_a_run_that_ran_out_of_time_gets_it_anew(
    toy: Toy, place: Place, machine: Machine
) -> None:
    word = toy.registry.wire_signal(name="word", payload=int)

    async def job(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", word)

    toy.workflow(job, name="job", timeout="1h")
    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await lab.advance("1h")
        assert (await failure(lab, run)).error.type == "RunTimeoutError"
        await run.retry()
        await lab.advance("59min")
        assert await run.status() == "running"
        await run.signal(word, 4)
        assert await done(lab, run) == 4


async def test_a_wait_that_timed_out_is_waited_for_again(
    toy: Toy, place: Place, machine: Machine
) -> None:
    word = toy.registry.wire_signal(name="word", payload=int)

    @toy.workflow
    async def job(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", word, timeout="1h")

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await lab.advance("1h")
        await failure(lab, run)
        await run.retry()
        await lab.settle()
        if await run.status() == "failed":  # the outcome that was recorded stands
            return
        await run.signal(word, 6)
        assert await done(lab, run) == 6


async def test_a_failed_child_is_a_new_run_at_the_retry(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def below(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", machine.work, -1)

    @toy.workflow
    async def above(ctx: Wf) -> int:
        return await ctx.workflow.do("Child", below)

    async with place.lab(toy) as lab:
        run = await toy.start("above")
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == 1
        made = await children(lab, run)
        ends = [await lab.app.get_run("below", each).status() for each in made]
        assert sorted(ends) == ["completed", "failed"]


async def test_a_retried_child_does_not_wake_a_parent_that_has_ended(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def below(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", machine.work, -1)

    @toy.workflow
    async def above(ctx: Wf) -> int:
        return await ctx.workflow.do("Child", below)

    async with place.lab(toy) as lab:
        run = await toy.start("above")
        await failure(lab, run)
        (child_id,) = await children(lab, run)
        child = lab.app.get_run("below", child_id)
        machine.broken = False
        before = await run.history()
        await child.retry()
        assert await done(lab, child) == 1
        assert await run.status() == "failed"
        assert await run.history() == before


async def test_the_handler_of_a_failure_is_told_again_if_it_fails_again(
    toy: Toy, place: Place, machine: Machine
) -> None:
    told: list[int] = []

    @toy.func
    async def tell(ctx: Ctx, what: StepFailure[int]) -> None:
        told.append(what.attempt_count)

    @toy.workflow
    async def job(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", machine.work, -1, on_error=tell)

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        await run.retry()
        await failure(lab, run)
        assert len(told) == 2
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == 1
        assert len(told) == 2


async def test_a_saga_that_was_undone_is_not_retried_but_forked_under_new_keys(
    toy: Toy, place: Place, machine: Machine
) -> None:
    undone: list[str] = []

    @toy.func
    async def undo(ctx: Ctx, what: Undo[int, int]) -> None:
        undone.append(what.step_name)

    @toy.workflow
    async def trip(ctx: Wf) -> list[int]:
        async with ctx.workflow.saga() as saga:
            one = await saga.do("One", machine.work, 1, undo=undo)
            return [one, await saga.do("Two", machine.work, -2, undo=undo)]

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await failure(lab, run)
        assert undone == ["One"]
        machine.broken = False
        before = await everything(lab)
        with pytest.raises(RunStateError, match="'One' was undone") as refused:
            await run.retry()
        assert "fork" in (refused.value.hint or "")
        assert await everything(lab) == before

        fork = await run.fork("One")
        await done(lab, fork)
        assert lab.executions("One") == 2


async def test_history_keeps_the_failure_that_was_repaired(
    toy: Toy, evicted: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", machine.work, -1)

    async with evicted.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        await lab.advance("1min")
        await run.retry()
        await done(lab, run)
        events = await run.history()
        failed = [event for event in events if event.step == "Work" and event.attempt == 1]
        assert any("broken" in str(event.data) for event in failed)
        told = [event.kind for event in events]
        assert told.index("run_failed") < told.index("retry") < told.index("run_completed")


async def test_a_retry_survives_a_crash(toy: Toy, place: Place, machine: Machine) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        await ctx.workflow.do("Work", machine.work, -1)
        return await ctx.workflow.do("More", machine.work, 2)

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        lab.crash_after("Work")
        await run.retry()
        await lab.recover()
        assert await done(lab, run) == 2
        assert (lab.executions("Work"), lab.executions("More")) == (2, 1)


async def test_another_process_retries_and_executes(toy: Toy, shared: Place) -> None:
    old, new = Machine(toy), Toy()
    mended = Machine(new)
    mended.broken = False

    @toy.workflow(name="job")
    async def job(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", old.work, -1)

    @new.workflow(name="job")
    async def mended_job(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", mended.work, -1)

    async with shared.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
    async with shared.lab(new) as lab:
        there = new.app.get_run("job", str(run))
        await there.retry()
        assert await done(lab, there) == 1


async def test_all_that_failed_are_retried_together(
    toy: Toy, evicted: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf, n: int) -> int:
        return await ctx.workflow.do("Work", machine.work, n)

    async with evicted.lab(toy) as lab:
        runs = [await toy.app.start_workflow("job", n, tags=["t"]) for n in (-1, 2, -3)]
        other = await toy.start("job", -4)
        await lab.settle()
        machine.broken = False
        assert await toy.app.retry_runs(tag="t") == 2
        assert [await done(lab, run) for run in runs] == [1, 2, 3]
        assert await other.status() == "failed"
        assert await toy.app.retry_runs() == 1
        assert await done(lab, other) == 4


async def test_what_failed_with_its_parent_is_repeated_once(
    toy: Toy, evicted: Place, machine: Machine
) -> None:
    @toy.workflow
    async def below(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", machine.work, -1)

    @toy.workflow
    async def between(ctx: Wf) -> int:
        return await ctx.workflow.do("Child", below)

    @toy.workflow
    async def above(ctx: Wf) -> int:
        return await ctx.workflow.do("Child", between)

    async with evicted.lab(toy) as lab:
        run = await toy.start("above")
        await failure(lab, run)
        machine.broken = False
        before = lab.executions("Work")
        assert await toy.app.retry_runs() == 1
        assert await done(lab, run) == 1
        await lab.settle()
        assert lab.executions("Work") == before + 1


async def test_a_child_that_a_later_attempt_has_replaced_is_not_retried_with_all(
    toy: Toy, evicted: Place, machine: Machine
) -> None:
    @toy.workflow
    async def below(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", machine.work, -1)

    @toy.workflow
    async def above(ctx: Wf) -> int:
        return await ctx.workflow.do("Child", below, retries=1, retry_delay="1h")

    async with evicted.lab(toy) as lab:
        run = await toy.start("above")
        await lab.settle()
        machine.broken = False
        await lab.advance("1h")
        assert await done(lab, run) == 1
        assert (await toy.app.count_runs())["failed"] == 1
        assert await toy.app.retry_runs() == 0


async def test_children_whose_failure_their_parent_has_outlived_are_retried_with_all(
    toy: Toy, evicted: Place, machine: Machine
) -> None:
    @toy.workflow
    async def below(ctx: Wf, n: int) -> int:
        return await ctx.workflow.do("Work", machine.work, n)

    @toy.workflow
    async def above(ctx: Wf) -> int:
        ends = await ctx.workflow.map("Each", below, [-1, 2, -3], tolerated_failures=3)
        return sum(isinstance(end, StepFailure) for end in ends)

    async with evicted.lab(toy) as lab:
        run = await toy.start("above")
        assert await done(lab, run) == 2
        machine.broken = False
        assert await toy.app.retry_runs(workflow="below") == 2
        await lab.settle()
        assert await toy.app.count_runs() == {"completed": 4}


async def test_a_failure_outside_the_steps_does_not_go_back_to_one_that_was_dealt_with(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        try:
            await ctx.workflow.do("Caught", machine.work, -1)
        except StepFailedError:
            pass
        charged: int = await ctx.workflow.do("Charge", machine.work, 5)
        await ctx.workflow.sleep("Nap", "1h")
        if machine.broken:
            raise RuntimeError("a bug in the body")
        return charged

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await lab.advance("1h")
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == 5
        assert (lab.executions("Caught"), lab.executions("Charge")) == (1, 1)


async def test_a_failure_that_was_told_in_other_words_is_gone_back_to(
    toy: Toy, place: Place, machine: Machine
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        try:
            return await ctx.workflow.do("Work", machine.work, -1)
        except StepFailedError as failed:
            await ctx.workflow.do("Tell", machine.work, 2)
            raise RuntimeError("the order cannot be shipped") from failed

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == 1
        assert lab.executions("Work") == 2


@pytest.mark.parametrize("how", ["gathered", "group"])
async def test_failures_that_were_collected_are_all_repeated(
    toy: Toy, place: Place, machine: Machine, how: str
) -> None:
    @toy.workflow
    async def job(ctx: Wf) -> int:
        numbers = (-1, 2, -3)
        ends = await asyncio.gather(
            *[ctx.workflow.do(f"Work {n}", machine.work, n) for n in numbers],
            return_exceptions=True,
        )
        failed = [end for end in ends if isinstance(end, Exception)]
        if failed and how == "gathered":
            raise RuntimeError(f"{len(failed)} failed")
        if failed:
            await ctx.workflow.do("Tell", machine.work, 9)
            raise ExceptionGroup("some failed", failed)
        return sum(end for end in ends if isinstance(end, int))

    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await failure(lab, run)
        machine.broken = False
        await run.retry()
        assert await done(lab, run) == 6
        assert [lab.executions(f"Work {n}") for n in (-1, 2, -3)] == [2, 1, 2]
