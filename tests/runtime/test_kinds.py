"""Where and how step bodies are executed, and the stand-ins of a lab."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of

from pikku import StepFailedError
from pikku.errors import DeclarationError, UnknownFunctionError


async def test_the_kinds_of_target(toy: Toy, world: World) -> None:
    threads: dict[str, int] = {}

    @toy.func
    async def asynchronous(ctx: Ctx, data: str) -> str:
        threads["async"] = threading.get_ident()
        return data

    @toy.func
    def synchronous(ctx: Ctx, data: str) -> str:
        threads["sync"] = threading.get_ident()
        return data

    @toy.func
    async def without_input(ctx: Ctx) -> str:
        return "without"

    def inline() -> str:
        threads["inline"] = threading.get_ident()
        return "inline"

    async def inline_async() -> str:
        return "inline async"

    @toy.workflow
    async def all_kinds(ctx: Wf) -> list[Any]:
        do: Any = ctx.workflow.do
        return [
            await do("By object", asynchronous, "a"),
            await do("By name", "synchronous", "b"),
            await do("By attribute", ctx.rpc.asynchronous, "c"),
            await do("Without input", without_input),
            await do("Inline", inline),
            await do("Inline async", inline_async),
            await do("Lambda", lambda: [1]),
        ]

    async with world.lab(toy) as lab:
        run = await toy.start("all_kinds")
        assert await run.result() == ["a", "b", "c", "without", "inline", "inline async", [1]]
        kinds = {key: (step.kind, step.target) for key, step in (await steps_of(lab, run)).items()}
    here = threading.get_ident()
    assert threads["async"] == threads["inline"] == here
    assert threads["sync"] != here
    assert kinds == {
        "By object": ("rpc", "asynchronous"),
        "By name": ("rpc", "synchronous"),
        "By attribute": ("rpc", "asynchronous"),
        "Without input": ("rpc", "without_input"),
        "Inline": ("inline", ""),
        "Inline async": ("inline", ""),
        "Lambda": ("inline", ""),
    }


@pytest.mark.parametrize("target", [5, None, ["list"]])
async def test_what_can_be_neither_called_nor_found_is_refused(
    toy: Toy, memory: World, target: object
) -> None:
    @toy.workflow
    async def wrong(ctx: Wf) -> str:
        do: Any = ctx.workflow.do
        try:
            await do("Step", target)
        except DeclarationError as error:
            return str(error)
        return ""

    async with memory.lab(toy) as lab:
        run = await toy.start("wrong")
        assert "step 'Step'" in await run.result()
        assert await steps_of(lab, run) == {}


async def test_a_step_with_a_lost_attempt_runs_with_no_other_beside_it(
    toy: Toy, world: World
) -> None:
    inside: set[str] = set()
    most = 0
    entered = asyncio.Event()

    @toy.func
    async def work(ctx: Ctx, name: str) -> str:
        nonlocal most
        if ctx.step.attempt_count == 1:
            inside.add(name)
            if len(inside) == 3:
                entered.set()
            await asyncio.Event().wait()
        inside.add(name)
        most = max(most, len(inside))
        for _ in range(20):
            await asyncio.sleep(0)
        inside.discard(name)
        return name

    @toy.workflow
    async def parallel(ctx: Wf) -> list[str]:
        steps = [ctx.workflow.do(name, work, name) for name in "abc"]
        return list(await asyncio.gather(*steps))

    async with world.lab(toy) as lab:
        run = await toy.start("parallel", wait=False)
        await entered.wait()
        inside.clear()
        await lab.recover()
        assert await run.result(timeout="10s") == ["a", "b", "c"]
        assert {step.lost for step in (await steps_of(lab, run)).values()} == {1}
    assert most == 1


async def test_an_app_that_is_left_by_an_exception_goes_on_when_it_is_opened_again(
    toy: Toy, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    executed: list[str] = []
    entered, gate = asyncio.Event(), asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> None:
        executed.append("slow")
        entered.set()
        await gate.wait()

    @toy.workflow
    async def working(ctx: Wf) -> str:
        await ctx.workflow.do("First", lambda: executed.append("first"))
        await ctx.workflow.do("Slow", slow)
        return "done"

    from pikku._settings import EngineOptions

    options = EngineOptions(drain_seconds=0.0)
    with pytest.raises(ZeroDivisionError):
        async with toy.app.open(store=url, options=options):
            await toy.start("working", run_id="r", wait=False)
            await entered.wait()
            raise ZeroDivisionError
    gate.set()
    async with toy.app.open(store=url) as app:
        assert await app.get_run("working", "r").result(timeout="10s") == "done"
    assert executed == ["first", "slow", "slow"]


# --- the lab's own -----------------------------------------------------------------------------


async def test_a_fake_stands_in_for_a_function(toy: Toy, world: World) -> None:
    @toy.func
    async def charge(ctx: Ctx, amount: int) -> str:
        raise AssertionError("the real one")

    @toy.func
    def ship(ctx: Ctx) -> str:
        raise AssertionError("the real one")

    @toy.workflow
    async def buying(ctx: Wf) -> list[str]:
        return [await ctx.workflow.do("Charge", charge, 5), await ctx.workflow.do("Ship", ship)]

    async def slow_ship() -> str:
        return "shipped"

    async with world.lab(toy) as lab:
        lab.fakes.charge = lambda amount: f"charged {amount}"
        lab.fakes.ship = slow_ship
        assert await (await toy.start("buying")).result() == ["charged 5", "shipped"]
        assert lab.executions("Charge") == 1


async def test_a_fake_whose_result_does_not_fit_is_refused(toy: Toy, memory: World) -> None:
    @toy.func
    async def charge(ctx: Ctx, amount: int) -> str:
        return ""

    @toy.workflow
    async def buying(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Charge", charge, 5)
        except StepFailedError as failed:
            return failed.error.code or ""
        return ""

    async with memory.lab(toy) as lab:
        lab.fakes.charge = lambda amount: amount
        assert await (await toy.start("buying")).result() == "PKR307"
        with pytest.raises(UnknownFunctionError):
            lab.fakes.chrage = lambda amount: ""


async def test_a_function_can_be_called_with_the_lab_s_context(toy: Toy, memory: World) -> None:
    @toy.func
    async def inner(ctx: Ctx, number: int) -> int:
        return number + 1

    @toy.func
    async def outer(ctx: Ctx, number: int) -> list[Any]:
        return [await ctx.rpc.inner(number), ctx.step.attempt_count, ctx.services]

    async with memory.lab(toy, services="services") as lab:
        assert await outer.func(lab.context(), 1) == [2, 1, "services"]
