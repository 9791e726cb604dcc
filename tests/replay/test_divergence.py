"""Code that no longer asks for what is recorded stops from outside, with a difference to read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of

Body = Callable[[Wf], Awaitable[Any]]


async def original(ctx: Wf) -> str:
    await ctx.workflow.do("First", "one", 1)  # type: ignore[call-overload]
    await ctx.workflow.do("Same", "one", 1)  # type: ignore[call-overload]
    await ctx.workflow.do("Same", "one", 2)  # type: ignore[call-overload]
    await ctx.workflow.sleep("Wait", "1h")
    await ctx.workflow.do("Last", "one", 3)  # type: ignore[call-overload]
    return "original"


async def other_kind(ctx: Wf) -> str:
    await ctx.workflow.sleep("First", "1s")
    return "other kind"


async def other_function(ctx: Wf) -> str:
    await ctx.workflow.do("First", "two", 1)  # type: ignore[call-overload]
    return "other function"


async def other_input_of_a_repeated_name(ctx: Wf) -> str:
    await ctx.workflow.do("First", "one", 1)  # type: ignore[call-overload]
    await ctx.workflow.do("Same", "one", 1)  # type: ignore[call-overload]
    await ctx.workflow.do("Same", "one", 5)  # type: ignore[call-overload]
    return "other input"


async def never_asked_for(ctx: Wf) -> str:
    await ctx.workflow.do("First", "one", 1)  # type: ignore[call-overload]
    await ctx.workflow.sleep("Wait", "1h")
    return "never asked for"


DIVERGENCES: list[tuple[Body, str, list[str]]] = [
    (other_kind, "First", ["an RPC step", "a sleep"]),
    (other_function, "First", ["'one'", "'two'"]),
    (other_input_of_a_repeated_name, "Same#1", ["another input"]),
    (never_asked_for, "Same", ["does not ask"]),
]


def deploy(toy: Toy) -> None:
    @toy.func
    async def one(ctx: Ctx, number: int) -> int:
        return number

    @toy.func
    async def two(ctx: Ctx, number: int) -> int:
        return number

    toy.workflow(original, name="flow")


@pytest.mark.parametrize(
    ("changed", "step", "words"), DIVERGENCES, ids=[each[0].__name__ for each in DIVERGENCES]
)
async def test_a_divergence_suspends_the_run_and_names_step_recorded_found_and_line(
    toy: Toy, world: World, changed: Body, step: str, words: list[str]
) -> None:
    deploy(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("flow")
        before = await steps_of(lab, run)
        toy.replace(changed, name="flow")
        await lab.recover()
        await lab.advance("1h")
        info = await run.info()
        assert (info.status, info.suspend_reason) == ("suspended", "nondeterminism")
        assert info.error is not None
        assert (info.error.type, info.error.code) == ("NonDeterminismError", "PKR301")
        message = info.error.message
        for word in [repr(step), "test_divergence.py:", *words]:
            assert word in message, message
        kept = {key: step.result for key, step in (await steps_of(lab, run)).items()}
        assert kept == {key: step.result for key, step in before.items()}


async def test_a_suspended_run_goes_on_by_a_resume_once_the_code_fits_again(
    toy: Toy, world: World
) -> None:
    deploy(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("flow")
        toy.replace(other_function, name="flow")
        await lab.recover()
        await lab.advance("1h")
        assert await run.status() == "suspended"
        await lab.advance("1d")
        assert await run.status() == "suspended"
        toy.replace(original, name="flow")
        await lab._opened.engine.resume(run.run_id)
        assert await run.result(timeout="5s") == "original"
        assert lab.executions("First") == lab.executions("Last") == 1
        assert lab.executions("Same") == 2
        kinds = [event.kind for event in await run.history()]
        assert kinds.index("suspend") < kinds.index("resume")


async def test_the_function_cannot_catch_a_divergence(toy: Toy, world: World) -> None:
    seen: list[str] = []

    async def grasping(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("First", "two", 1)  # type: ignore[call-overload]
        except GeneratorExit:
            raise
        except BaseException as error:
            seen.append(repr(error))
        return "caught"

    deploy(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("flow")
        toy.replace(grasping, name="flow")
        await lab.recover()
        await lab.advance("1h")
        assert await run.status() == "suspended"
    assert seen == []


async def test_a_diverging_branch_stops_its_siblings_too(toy: Toy, world: World) -> None:
    after: list[str] = []

    async def branching(ctx: Wf) -> str:
        async def sibling() -> None:
            await ctx.workflow.do("New step", lambda: after.append("new step"))

        await asyncio.gather(
            ctx.workflow.do("First", "two", 1),  # type: ignore[call-overload]
            sibling(),
            return_exceptions=True,
        )
        return "went on"

    deploy(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("flow")
        toy.replace(branching, name="flow")
        await lab.recover()
        await lab.advance("1h")
        assert await run.status() == "suspended"
        assert "New step" not in await steps_of(lab, run)
    assert after == []


async def test_an_edit_after_the_recorded_part_is_no_divergence(toy: Toy, world: World) -> None:
    async def longer(ctx: Wf) -> str:
        await original(ctx)
        await ctx.workflow.do("More", "two", 4)  # type: ignore[call-overload]
        return "longer"

    deploy(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("flow")
        toy.replace(longer, name="flow")
        await lab.recover()
        await lab.advance("1h")
        assert await run.result(timeout="5s") == "longer"
        assert lab.executions("First") == 1


async def test_a_changed_input_under_a_name_used_once_keeps_the_recorded_result(
    toy: Toy, world: World
) -> None:
    async def other_input(ctx: Wf) -> str:
        first = await ctx.workflow.do("First", "one", 100)  # type: ignore[call-overload]
        await ctx.workflow.do("Same", "one", 1)  # type: ignore[call-overload]
        await ctx.workflow.do("Same", "one", 2)  # type: ignore[call-overload]
        await ctx.workflow.sleep("Wait", "1h")
        return f"first = {first}"

    deploy(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("flow")
        toy.replace(other_input, name="flow")
        await lab.recover()
        await lab.advance("1h")
        assert await run.result(timeout="5s") == "first = 1"


# --- 4.4: what a replay costs, in reads -----------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 50])
async def test_a_replay_reads_its_history_at_once(toy: Toy, store_url: str, steps: int) -> None:
    from tests.runtime.kit import StoreProxy

    @toy.workflow
    async def counting(ctx: Wf) -> int:
        total = 0
        for number in range(steps):
            total += await ctx.workflow.do(f"Step {number}", lambda: 1)
        await ctx.workflow.sleep("Wait", "1h")
        return total

    async with World(store_url).proxied(toy, StoreProxy) as lab:
        lab._auto = False
        run = await toy.start("counting")
        lab.wrapped.reads.clear()
        calls = len(lab.wrapped.applied)
        await lab.recover()
        await lab.advance("1h")
        # Claimed with its history: no read of its own, whatever its length.
        assert lab.wrapped.reads == []
        assert len(lab.wrapped.applied) - calls <= 10
        assert await run.result(timeout="5s") == steps


async def test_store_calls_grow_by_a_constant_per_step(toy: Toy, store_url: str) -> None:
    from tests.runtime.kit import StoreProxy

    @toy.workflow
    async def counting(ctx: Wf, steps: int) -> None:
        for number in range(steps):
            await ctx.workflow.do(f"Step {number}", lambda: 1)

    async with World(store_url).proxied(toy, StoreProxy) as lab:
        calls: list[int] = []
        for steps in (10, 20, 40):
            before = len(lab.wrapped.applied)
            await toy.start("counting", steps)
            calls.append(len(lab.wrapped.applied) - before)
        assert calls[2] - calls[1] == 2 * (calls[1] - calls[0])
        assert calls[1] - calls[0] <= 10
        assert lab.wrapped.reads == []
