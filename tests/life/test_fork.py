"""Fork: a new run with everything up to a step; the old one stays as it is."""

import asyncio
from typing import Any

import pytest
from tests.life.kit import Place, cancelled, children, done, everything, failure
from tests.runtime.kit import Ctx, Toy, Wf, steps_of

from pikku.errors import (
    InvalidInputError,
    NoSuchStepError,
    RunConflictError,
    RunIdError,
    RunNotFoundError,
    RunStateError,
)


@pytest.fixture
def job(toy: Toy) -> list[int]:
    """A workflow of three steps, and what its function was called with."""
    calls: list[int] = []

    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        calls.append(n)
        if n < 0:
            raise ValueError("negative")
        return n * 10

    @toy.workflow
    async def job(ctx: Wf, n: int) -> list[int]:
        first = await ctx.workflow.do("First", work, n)
        await ctx.workflow.sleep("Nap", "1h")
        second = await ctx.workflow.do("Second", work, n + 1)
        third = await ctx.workflow.do("Third", work, n + 2)
        return [first, second, third]

    return calls


async def test_a_fork_has_what_came_before_the_step_and_executes_the_rest(
    toy: Toy, place: Place, job: list[int]
) -> None:
    async with place.lab(toy) as lab:
        run = await toy.start("job", 1)
        await lab.advance("1h")
        assert await done(lab, run) == [10, 20, 30]
        before = (await everything(lab))[str(run)]
        job.clear()
        fork = await run.fork("Second")
        assert await done(lab, fork) == [10, 20, 30]
        assert job == [2, 3]
        assert (await everything(lab))[str(run)] == before
        info = await fork.info()
        assert (info.forked_from, info.run_attempt, info.input) == (str(run), 1, 1)
        assert str(fork) != str(run)
        keys = ("First", "Nap", "Second", "Third")
        assert tuple(sorted(await steps_of(lab, fork), key=keys.index)) == keys


async def test_the_input_of_the_step_may_be_replaced(
    toy: Toy, place: Place, job: list[int]
) -> None:
    async with place.lab(toy) as lab:
        run = await toy.start("job", 1)
        await lab.advance("1h")
        await done(lab, run)
        fork = await run.fork("Second", input=100)
        assert await done(lab, fork) == [10, 1000, 30]
        assert (await steps_of(lab, fork))["Second"].input == "100"
        assert (await steps_of(lab, run))["Second"].input == "2"


async def test_a_fork_with_replaced_input_survives_crashes(
    toy: Toy, place: Place, job: list[int]
) -> None:
    async with place.lab(toy) as lab:
        run = await toy.start("job", 1)
        await lab.advance("1h")
        await done(lab, run)
        lab.crash_after("Second")
        fork = await run.fork("Second", input=100)
        await lab.recover()
        assert await done(lab, fork) == [10, 1000, 30]
        assert lab.executions("Second") == 2


async def test_a_sleep_before_the_step_is_not_slept_again_and_one_at_it_is(
    toy: Toy, place: Place, job: list[int]
) -> None:
    async with place.lab(toy) as lab:
        run = await toy.start("job", 1)
        await lab.advance("1h")
        await done(lab, run)
        at_sleep, at_first = await run.fork("Nap"), await run.fork("First")
        await lab.settle()
        assert (await at_sleep.status(), await at_first.status()) == ("running", "running")
        await lab.advance("1h")
        assert await done(lab, at_sleep) == await done(lab, at_first) == [10, 20, 30]
        assert lab.executions("First") == 2


async def test_runs_in_every_state_are_forked(toy: Toy, place: Place, job: list[int]) -> None:
    async with place.lab(toy) as lab:
        sleeping, unwound, failed = [await toy.start("job", n) for n in (1, 2, -1)]
        await failure(lab, failed)
        await unwound.cancel("enough")
        await cancelled(lab, unwound)
        forks = [await run.fork("First") for run in (sleeping, unwound)]
        repaired = await failed.fork("First", input=5)
        await lab.advance("1h")
        assert [await done(lab, fork) for fork in forks] == [[10, 20, 30], [20, 30, 40]]
        assert (await done(lab, repaired))[0] == 50
        assert await done(lab, sleeping) == [10, 20, 30]


async def test_a_fork_is_forked_again(toy: Toy, place: Place, job: list[int]) -> None:
    async with place.lab(toy) as lab:
        run = await toy.start("job", 1)
        await lab.advance("1h")
        await done(lab, run)
        fork = await run.fork("Second", input=100)
        await done(lab, fork)
        again = await fork.fork("Third", input=0)
        assert await done(lab, again) == [10, 1000, 0]
        assert (await again.info()).forked_from == str(fork)
        back = await again.fork("Second")
        await lab.settle()
        assert (await done(lab, back))[2] == 30


async def test_forks_of_one_id_are_one(toy: Toy, evicted: Place, job: list[int]) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.start("job", 1)
        await lab.advance("1h")
        await done(lab, run)
        job.clear()
        forks = await asyncio.gather(*(run.fork("Third", run_id="again") for _ in range(4)))
        assert {str(fork) for fork in forks} == {"again"}
        assert await done(lab, forks[0]) == [10, 20, 30]
        assert job == [3]


async def test_the_id_of_a_run_that_is_no_fork_of_it_is_refused(
    toy: Toy, evicted: Place, job: list[int]
) -> None:
    async with evicted.lab(toy) as lab:
        run, other = await toy.start("job", 1), await toy.start("job", 2)
        await lab.advance("1h")
        before = await everything(lab)
        for taken in (str(run), str(other)):
            with pytest.raises(RunConflictError):
                await run.fork("Second", run_id=taken)
        for wrong in ("", "with space", "x" * 201, "a|b"):
            with pytest.raises(RunIdError):
                await run.fork("Second", run_id=wrong)
        assert await everything(lab) == before


async def test_a_step_that_is_not_there_is_named_with_those_that_are(
    toy: Toy, evicted: Place, job: list[int]
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.start("job", 1)
        await lab.settle()
        before = await everything(lab)
        for step in ("Secnd", "Firs", "Third", "", "First#1"):
            with pytest.raises(NoSuchStepError) as caught:
                await run.fork(step)
        with pytest.raises(NoSuchStepError) as caught:
            await run.fork("Frist")
        assert "'First'" in caught.value.hint
        with pytest.raises(RunNotFoundError):
            await toy.app.get_run("job", "nobody").fork("First")
        assert await everything(lab) == before


@pytest.mark.parametrize("value", ["text", None, 1.5, [1]], ids=repr)
async def test_input_that_does_not_fit_is_refused(
    toy: Toy, evicted: Place, job: list[int], value: Any
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.start("job", 1)
        await lab.settle()
        before = await everything(lab)
        with pytest.raises(InvalidInputError):
            await run.fork("First", input=value)
        assert await everything(lab) == before


async def test_a_step_without_input_takes_none(toy: Toy, evicted: Place, job: list[int]) -> None:
    @toy.workflow
    async def other(ctx: Wf) -> int:
        await ctx.workflow.sleep("Nap", "1h")
        return await ctx.workflow.do("Inline", lambda: 1)

    async with evicted.lab(toy) as lab:
        run = await toy.start("other")
        await lab.advance("1h")
        await done(lab, run)
        before = await everything(lab)
        for step in ("Nap", "Inline"):
            with pytest.raises(RunStateError):
                await run.fork(step, input=1)
        assert await everything(lab) == before


async def test_a_fork_of_parallel_steps_keeps_what_was_delivered_before_the_step(
    toy: Toy, place: Place, job: list[int]
) -> None:
    work = toy.registry.functions["work"]

    @toy.workflow
    async def wide(ctx: Wf) -> list[int]:
        made = await asyncio.gather(*(ctx.workflow.do(f"W{n}", work, n) for n in range(4)))
        return [*made, await ctx.workflow.do("Sum", work, sum(made))]

    async with place.lab(toy) as lab:
        run = await toy.start("wide")
        assert await done(lab, run) == [0, 10, 20, 30, 600]
        job.clear()
        after = await run.fork("Sum", input=1)
        assert await done(lab, after) == [0, 10, 20, 30, 10]
        assert job == [1]
        inside = await run.fork("W2", input=7)
        assert await done(lab, inside) == [0, 10, 70, 30, 1100]


async def test_a_fork_has_children_of_its_own(toy: Toy, place: Place, job: list[int]) -> None:
    @toy.workflow
    async def above(ctx: Wf) -> list[int]:
        made: list[int] = await ctx.workflow.do("Child", toy.registry.workflow("job").workflow, 1)
        await ctx.workflow.do("After", lambda: None)
        return made

    async with place.lab(toy) as lab:
        run = await toy.start("above")
        await lab.advance("1h")
        await done(lab, run)
        kept = await run.fork("After")
        assert await done(lab, kept) == [10, 20, 30]
        assert await children(lab, kept) == []
        again = await run.fork("Child", input=5)
        await lab.advance("1h")
        assert await done(lab, again) == [50, 60, 70]
        assert len(await children(lab, again)) == 1
        assert len(await children(lab, run)) == 1


async def test_the_fork_of_a_child_has_no_parent_to_tell(
    toy: Toy, place: Place, job: list[int]
) -> None:
    @toy.workflow
    async def above(ctx: Wf) -> list[int]:
        made: list[int] = await ctx.workflow.do("Child", toy.registry.workflow("job").workflow, 1)
        return made

    async with place.lab(toy) as lab:
        run = await toy.start("above")
        await lab.settle()
        (child,) = await children(lab, run)
        fork = await lab.app.get_run("job", child).fork("First", input=7)
        await lab.advance("1h")
        assert (await done(lab, fork))[0] == 70
        assert await done(lab, run) == [10, 20, 30]
        assert (await fork.info()).parent is None


async def test_signals_and_answers_before_the_step_are_kept(
    toy: Toy, place: Place, job: list[int]
) -> None:
    word = toy.registry.wire_signal(name="word", payload=int)

    @toy.workflow
    async def talking(ctx: Wf) -> list[Any]:
        got = await ctx.workflow.wait_for_signal("Word", word)
        said = await ctx.workflow.approval("Pay?")
        patched = ctx.workflow.patched("edit")
        drawn = await ctx.workflow.random()
        return [got, said.outcome, patched, drawn, await ctx.workflow.do("Last", lambda: 1)]

    async with place.lab(toy) as lab:
        run = await toy.start("talking")
        await lab.settle()
        await run.signal(word, 3)
        await lab.settle()
        await run.approve("Pay?")
        result = await done(lab, run)
        fork = await run.fork("Last")
        assert await done(lab, fork) == result
        earlier = await run.fork("Pay?")
        await lab.settle()
        assert [request.step for request in await earlier.approvals()] == ["Pay?"]
        await earlier.reject("Pay?")
        assert (await done(lab, earlier))[:2] == [3, "rejected"]
        assert (await run.result())[1] == "approved"


async def test_a_step_of_the_clean_up_is_no_place_to_fork_from(
    toy: Toy, place: Place, job: list[int]
) -> None:
    @toy.workflow
    async def cleaning(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            await ctx.workflow.do("Clean up", lambda: None)

    async with place.lab(toy) as lab:
        run = await toy.start("cleaning")
        await lab.settle()
        await run.cancel("enough")
        await cancelled(lab, run)
        with pytest.raises(RunStateError):
            await run.fork("Clean up")
        fork = await run.fork("Nap")
        await lab.advance("1d")
        await done(lab, fork)
