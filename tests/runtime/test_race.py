"""`race`: the first of several awaitables in the recorded order; the others are cancelled."""

import asyncio
from typing import Any

import pytest
from tests.life.conftest import mode as mode
from tests.life.conftest import place as place
from tests.life.kit import Place, cancelled, children, done, failure
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of

from pikku import StepFailedError
from pikku.errors import DeclarationError


async def test_the_first_to_end_wins_with_its_place_and_value(toy: Toy, place: Place) -> None:
    @toy.func
    async def greet(ctx: Ctx, name: str) -> str:
        return f"hello {name}"

    @toy.workflow
    async def racing(ctx: Wf) -> list[Any]:
        first = await ctx.workflow.race(
            ctx.workflow.do("Greet", greet, "ann"), ctx.workflow.sleep("Wait", "1d")
        )
        second = await ctx.workflow.race(
            ctx.workflow.sleep("Wait again", "1d"), ctx.workflow.do("Count", lambda: 0)
        )
        return [*first, *second]

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("racing")) == [0, "hello ann", 1, 0]


async def test_a_timer_that_has_lost_holds_the_run_no_longer(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def racing(ctx: Wf) -> str:
        await ctx.workflow.race(
            ctx.workflow.do("Look", lambda: None), ctx.workflow.sleep("Wait", "1d")
        )
        await ctx.workflow.sleep("Nap", "1h")
        return "awake"

    async with place.lab(toy) as lab:
        run = await toy.start("racing")
        await lab.advance("1h")
        assert await done(lab, run) == "awake"


async def test_a_step_that_has_lost_ends_and_is_recorded(toy: Toy, place: Place) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> str:
        entered.set()
        await go.wait()
        return "late"

    @toy.workflow
    async def racing(ctx: Wf) -> int:
        first = await ctx.workflow.race(
            ctx.workflow.do("Slow", slow), ctx.workflow.sleep("Wait", "1h")
        )
        await ctx.workflow.do("Let it go", lambda: go.set())
        await ctx.workflow.sleep("Nap", "1h")
        return first[0]

    async with place.lab(toy) as lab:
        run = await toy.start("racing", wait=False)
        await entered.wait()
        await lab.advance("1h")
        await lab.settle()
        await lab.advance("1h")
        assert await done(lab, run) == 1
        step = (await steps_of(lab, run))["Slow"]
        assert (step.status, step.result) == ("succeeded", '"late"')


async def test_losers_clean_up_before_the_race_is_over(toy: Toy, place: Place) -> None:
    seen: list[str] = []

    async def careful(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        finally:
            await ctx.workflow.do("Clean up", lambda: seen.append("cleaned up"))

    @toy.workflow
    async def racing(ctx: Wf) -> int:
        first = await ctx.workflow.race(careful(ctx), ctx.workflow.do("Look", lambda: None))
        await ctx.workflow.do("Go on", lambda: seen.append("went on"))
        return first[0]

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("racing")) == 1
        assert lab.executions("Clean up") == 1
    assert seen == ["cleaned up", "went on"]


async def test_a_loser_that_does_not_give_up_is_waited_for(toy: Toy, place: Place) -> None:
    async def stubborn(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        except asyncio.CancelledError:
            await ctx.workflow.sleep("Wait more", "1h")

    @toy.workflow
    async def racing(ctx: Wf) -> list[Any]:
        return list(await ctx.workflow.race(ctx.workflow.do("Look", lambda: 7), stubborn(ctx)))

    async with place.lab(toy) as lab:
        run = await toy.start("racing")
        await lab.settle()
        assert await run.status() == "running"
        await lab.advance("1h")
        assert await done(lab, run) == [0, 7]


async def test_what_the_winner_raises_is_raised(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def racing(ctx: Wf) -> str:
        try:
            await ctx.workflow.race(
                ctx.workflow.sleep("Wait", "1d"), ctx.workflow.do("Divide", lambda: 1 // 0)
            )
        except StepFailedError as failed:
            return failed.step_name
        return "divided"

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("racing")) == "Divide"


async def test_what_a_loser_raises_is_dropped(toy: Toy, place: Place) -> None:
    async def clumsy(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        finally:
            raise ValueError("fell over its own feet")

    @toy.workflow
    async def racing(ctx: Wf) -> list[Any]:
        return list(await ctx.workflow.race(clumsy(ctx), ctx.workflow.do("Look", lambda: 7)))

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("racing")) == [1, 7]


async def test_a_loser_that_fails_later_changes_nothing(toy: Toy, place: Place) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> None:
        entered.set()
        await go.wait()
        raise ValueError("too late to matter")

    @toy.workflow
    async def racing(ctx: Wf) -> int:
        first = await ctx.workflow.race(
            ctx.workflow.do("Slow", slow), ctx.workflow.sleep("Wait", "1h")
        )
        await ctx.workflow.do("Let it go", lambda: go.set())
        await ctx.workflow.sleep("Nap", "1h")
        return first[0]

    async with place.lab(toy) as lab:
        run = await toy.start("racing", wait=False)
        await entered.wait()
        await lab.advance("1h")
        await lab.settle()
        await lab.advance("1h")
        assert await done(lab, run) == 1


# --- the order that decides -----------------------------------------------------------------------


@pytest.mark.parametrize("winner", [0, 1, 2])
async def test_the_recorded_order_decides_again_after_a_crash(
    toy: Toy, place: Place, winner: int
) -> None:
    turns = [asyncio.Event() for _ in range(3)]
    begun: set[int] = set()
    all_begun = asyncio.Event()

    @toy.func
    async def look(ctx: Ctx, n: int) -> int:
        begun.add(n)
        if len(begun) == 3:
            all_begun.set()
        await turns[n].wait()
        return n

    async def looked(ctx: Wf, n: int) -> int:
        return await ctx.workflow.do(f"Look {n}", look, n)

    def let_all_go() -> None:
        for turn in turns:
            turn.set()

    @toy.workflow
    async def racing(ctx: Wf) -> list[Any]:
        first = await ctx.workflow.race(*[looked(ctx, n) for n in range(3)])
        await ctx.workflow.do("Let all go", let_all_go)
        await ctx.workflow.sleep("Nap", "1h")
        await ctx.workflow.do("Last", lambda: None)
        return list(first)

    async with place.lab(toy) as lab:
        run = await toy.start("racing", wait=False)
        await all_begun.wait()
        turns[winner].set()
        await lab.settle()
        await lab.crash()
        await lab.recover()
        lab.crash_after("Last")
        await lab.advance("1h")
        await lab.settle()
        assert lab._crashed
        await lab.recover()
        again = toy.app.get_run("racing", str(run))
        assert await done(lab, again) == [winner, winner]


async def test_of_those_that_end_in_one_turn_the_first_to_end_wins(toy: Toy, memory: World) -> None:
    async def at_once(value: str) -> str:
        return value

    @toy.workflow
    async def racing(ctx: Wf) -> list[Any]:
        first = await ctx.workflow.race(at_once("a"), at_once("b"))

        async def after_a_turn() -> str:
            await asyncio.sleep(0)
            return "late"

        return [*first, *await ctx.workflow.race(after_a_turn(), at_once("soon"))]

    async with memory.lab(toy):
        assert await (await toy.start("racing")).result() == [0, "a", 1, "soon"]


async def test_many_may_race_and_races_may_race(toy: Toy, place: Place) -> None:
    async def looked(ctx: Wf, name: str, wait: str) -> str:
        await ctx.workflow.sleep(name, wait)
        return name

    @toy.workflow
    async def racing(ctx: Wf) -> list[Any]:
        inner = ctx.workflow.race(looked(ctx, "a", "3h"), looked(ctx, "b", "2h"))
        naps = [looked(ctx, f"nap {n}", f"{n}h") for n in range(4, 10)]
        place, value = await ctx.workflow.race(*naps, inner)
        return [place, *value]

    async with place.lab(toy, auto_advance=True) as lab:
        assert await done(lab, await toy.start("racing")) == [6, 1, "b"]


async def test_tasks_and_futures_may_race(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def racing(ctx: Wf) -> list[Any]:
        task = asyncio.ensure_future(ctx.workflow.do("Look", lambda: 7))
        both = asyncio.gather(ctx.workflow.sleep("One", "1d"), ctx.workflow.sleep("Two", "1d"))
        first = await ctx.workflow.race(both, task)
        return [*first, task.done(), both.done()]

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("racing")) == [1, 7, True, True]


# --- refusals, cancellation, children -------------------------------------------------------------


async def test_fewer_than_two_are_no_race(toy: Toy, memory: World) -> None:
    @toy.workflow
    async def racing(ctx: Wf) -> list[str]:
        refusals: list[str] = []
        alone = ctx.workflow.do("Look", lambda: None)
        for runners in ((), (alone,)):
            try:
                await ctx.workflow.race(*runners)
            except DeclarationError as refused:
                refusals.append(str(refused))
        return refusals

    async with memory.lab(toy) as lab:
        run = await toy.start("racing")
        zero, one = await run.result()
        assert "a race of 0" in zero and "a race of 1" in one
        assert await steps_of(lab, run) == {}


async def test_what_cannot_be_awaited_is_refused_before_anything_begins(
    toy: Toy, memory: World
) -> None:
    @toy.workflow
    async def racing(ctx: Wf) -> None:
        value: Any = await ctx.workflow.do("Count", lambda: 3)
        await ctx.workflow.race(ctx.workflow.do("Look", lambda: None), value)

    async with memory.lab(toy) as lab:
        run = await toy.start("racing")
        failed = await failure(lab, run)
        assert failed.caused_by(DeclarationError)
        assert "3 cannot be awaited" in failed.error.message
        assert set(await steps_of(lab, run)) == {"Count"}


async def test_the_cancellation_of_the_run_ends_all_runners(toy: Toy, place: Place) -> None:
    async def careful(ctx: Wf, name: str) -> None:
        try:
            await ctx.workflow.sleep(name, "1d")
        finally:
            await ctx.workflow.do(f"Clean up {name}", lambda: None)

    @toy.workflow
    async def racing(ctx: Wf) -> None:
        await ctx.workflow.race(careful(ctx, "a"), careful(ctx, "b"))

    async with place.lab(toy) as lab:
        run = await toy.start("racing")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        assert lab.executions("Clean up a") == lab.executions("Clean up b") == 1


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "ends"])
async def test_a_child_that_has_lost_is_cancelled(toy: Toy, place: Place, goes_on: bool) -> None:
    @toy.workflow
    async def napping(ctx: Wf) -> None:
        await ctx.workflow.sleep("Nap", "1d")

    @toy.workflow
    async def racing(ctx: Wf) -> int:
        first = await ctx.workflow.race(
            ctx.workflow.do("Child", napping), ctx.workflow.sleep("Wait", "1h")
        )
        if goes_on:
            await ctx.workflow.sleep("Wait more", "1h")
        return first[0]

    async with place.lab(toy) as lab:
        run = await toy.start("racing")
        await lab.settle()
        await lab.advance("1h")
        [child] = await children(lab, run)
        assert await cancelled(lab, toy.app.get_run("napping", child))
        await lab.advance("1h")
        assert await done(lab, run) == 1
