"""How a step's failure reaches the author, and the handler that is told before."""

import asyncio

import pytest
from pydantic import BaseModel
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of

from pikku import RunFailedError, StepFailedError, StepFailure


class Shipment(BaseModel):
    order_id: str


class NoCarrier(Exception):
    code = "E7"


class NoCarrierAtAll(NoCarrier):
    pass


def wire_shipping(toy: Toy, told: list[StepFailure[Shipment]], retries: int = 1) -> None:
    @toy.func(retries=retries)
    async def ship(ctx: Ctx, data: Shipment) -> str:
        raise NoCarrierAtAll(f"nobody, attempt {ctx.step.attempt_count}")

    @toy.func
    async def cancel_shipment(ctx: Ctx, failure: StepFailure[Shipment]) -> None:
        told.append(failure)

    @toy.workflow
    async def shipping(ctx: Wf) -> str:
        try:
            await ctx.workflow.do(
                "Ship order", ship, Shipment(order_id="o"), on_error=cancel_shipment
            )
        except StepFailedError as failed:
            count = await ctx.workflow.do("Count", lambda: len(told))
            return f"{failed.error.message}; handlers before: {count}"
        return "shipped"


async def test_a_failure_is_raised_at_the_await_with_what_it_was(toy: Toy, world: World) -> None:
    @toy.func(retries=2)
    async def ship(ctx: Ctx, data: Shipment) -> str:
        raise NoCarrierAtAll("nobody goes there")

    @toy.workflow
    async def shipping(ctx: Wf) -> list[object]:
        try:
            await ctx.workflow.do("Ship order", ship, Shipment(order_id="o"))
        except StepFailedError as failed:
            error = failed.error
            kinds = (NoCarrierAtAll, NoCarrier, Exception, OSError)
            caused = [failed.caused_by(kind) for kind in kinds]
            return [error.type, error.message, error.code, failed.step_name, failed.attempt_count,
                    caused]  # fmt: skip
        return []

    async with world.lab(toy):
        assert await (await toy.start("shipping")).result() == [
            "NoCarrierAtAll",
            "nobody goes there",
            "E7",
            "Ship order",
            3,
            [True, True, True, False],
        ]


async def test_a_replayed_failure_is_the_same_error(toy: Toy, world: World) -> None:
    said: list[str] = []

    @toy.workflow
    async def shipping(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Fail", broken)
        except StepFailedError as failed:
            text = f"{failed} {failed.error} {failed.attempt_count} {failed.caused_by(NoCarrier)}"
            said.append(text)
        await ctx.workflow.sleep("Wait", "1h")
        return said[-1]

    def broken() -> None:
        raise NoCarrier("gone")

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("shipping")
        await lab.recover()
        await lab.advance("1h")
        await run.result()
    assert len(said) >= 2
    assert len(set(said)) == 1


async def test_an_unhandled_failure_fails_the_run(toy: Toy, world: World) -> None:
    @toy.workflow
    async def shipping(ctx: Wf) -> None:
        await ctx.workflow.do("Fail", lambda: 1 // 0)

    async with world.lab(toy):
        with pytest.raises(RunFailedError) as caught:
            await (await toy.start("shipping")).result()
        assert caught.value.error.type == "StepFailedError"
        assert "ZeroDivisionError" in caught.value.error.message


@pytest.mark.parametrize("retries", [0, 2])
async def test_the_handler_is_told_once_after_the_last_attempt(
    toy: Toy, world: World, retries: int
) -> None:
    told: list[StepFailure[Shipment]] = []
    wire_shipping(toy, told, retries)
    async with world.lab(toy):
        last = retries + 1
        expected = f"nobody, attempt {last}; handlers before: 1"
        assert await (await toy.start("shipping")).result() == expected
    assert len(told) == 1
    failure = told[0]
    assert isinstance(failure, StepFailure)
    assert failure.input == Shipment(order_id="o")
    assert (failure.step_name, failure.attempt_count) == ("Ship order", last)
    assert (failure.error.type, failure.error.code) == ("NoCarrierAtAll", "E7")
    assert failure.error.message == f"nobody, attempt {last}"


async def test_the_handler_of_an_inline_step_is_told_of_no_input(toy: Toy, world: World) -> None:
    told: list[StepFailure[None]] = []

    @toy.func
    async def handler(ctx: Ctx, failure: StepFailure[None]) -> None:
        told.append(failure)

    @toy.workflow
    async def dividing(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Divide", lambda: 1 // 0, on_error=handler)
        except StepFailedError as failed:
            return failed.error.type
        return ""

    async with world.lab(toy):
        assert await (await toy.start("dividing")).result() == "ZeroDivisionError"
    assert [(each.input, each.step_name) for each in told] == [(None, "Divide")]


async def test_a_handler_is_not_told_of_a_step_that_succeeds_at_last(
    toy: Toy, world: World
) -> None:
    told: list[str] = []

    @toy.func(retries=1)
    async def flaky(ctx: Ctx) -> str:
        if ctx.step.attempt_count == 1:
            raise OSError("no")
        return "ok"

    @toy.func
    async def handler(ctx: Ctx, failure: StepFailure[None]) -> None:
        told.append("told")

    @toy.workflow
    async def calling(ctx: Wf) -> str:
        return await ctx.workflow.do("Flaky", flaky, on_error=handler)

    async with world.lab(toy):
        assert await (await toy.start("calling")).result() == "ok"
    assert told == []


async def test_the_failure_of_the_handler_is_stored_and_the_original_wins(
    toy: Toy, world: World
) -> None:
    def broken() -> None:
        raise NoCarrier("the original")

    @toy.func
    async def handler(ctx: Ctx, failure: StepFailure[None]) -> None:
        raise RuntimeError("the handler's own")

    @toy.workflow
    async def calling(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Ship", broken, on_error=handler)
        except StepFailedError as failed:
            return failed.error.message
        return ""

    async with world.lab(toy) as lab:
        run = await toy.start("calling")
        assert await run.result() == "the original"
        records = [step for step in (await steps_of(lab, run)).values() if step.kind == "on_error"]
        assert len(records) == 1
        assert records[0].status == "failed"
        assert "the handler's own" in (records[0].error or "")
        history = await run.history()
        assert any("the handler's own" in str(event.data) for event in history)


async def test_a_crash_between_failure_and_handler_executes_the_handler_in_the_next_process(
    toy: Toy, world: World
) -> None:
    told: list[StepFailure[Shipment]] = []
    wire_shipping(toy, told, retries=0)
    async with world.lab(toy) as lab:
        lab.crash_after("Ship order")
        run = await toy.start("shipping")
        assert told == []
        await lab.recover()
        assert await run.result() == "nobody, attempt 1; handlers before: 1"
        assert len(told) == 1
        assert (await steps_of(lab, run))["Ship order"].attempt == 1


async def test_a_crash_in_the_handler_executes_it_again(toy: Toy, world: World) -> None:
    entered = asyncio.Event()
    told: list[int] = []

    def broken() -> None:
        raise NoCarrier("the original")

    @toy.func
    async def handler(ctx: Ctx, failure: StepFailure[None]) -> None:
        told.append(ctx.step.attempt_count)
        entered.set()
        if len(told) == 1:
            await asyncio.Event().wait()

    @toy.workflow
    async def calling(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Ship", broken, on_error=handler)
        except StepFailedError as failed:
            return failed.error.message
        return ""

    async with world.lab(toy) as lab:
        run = await toy.start("calling", wait=False)
        await entered.wait()
        await lab.recover()
        assert await run.result() == "the original"
    assert told == [1, 2]


async def test_a_handler_that_is_no_function_of_the_app_is_refused_before_the_step(
    toy: Toy, memory: World
) -> None:
    other = Toy()

    @other.func
    async def stranger(ctx: Ctx, failure: StepFailure[None]) -> None: ...

    @toy.workflow
    async def calling(ctx: Wf) -> None:
        await ctx.workflow.do("Step", lambda: None, on_error=stranger)

    async with memory.lab(toy) as lab:
        run = await toy.start("calling")
        info = await run.info()
        assert (info.status, info.suspend_reason) == ("suspended", "missing_function")
        assert lab.executions("Step") == 0


async def test_an_error_whose_message_cannot_be_shown_is_still_recorded(
    toy: Toy, world: World
) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise ValueError("no message")

    class Surrogate(Exception):
        pass

    def nasty() -> None:
        raise Nasty

    def surrogate() -> None:
        raise Surrogate("lone \ud800")

    @toy.workflow
    async def calling(ctx: Wf) -> list[str]:
        found: list[str] = []
        for target in (nasty, surrogate):
            try:
                await ctx.workflow.do("Step", target)
            except StepFailedError as failed:
                found.append(failed.error.type)
        return found

    async with world.lab(toy):
        assert await (await toy.start("calling")).result() == ["Nasty", "Surrogate"]


@pytest.mark.parametrize("kind", [SystemExit, BaseException, asyncio.CancelledError])
async def test_a_body_that_raises_no_exception_but_worse_fails_its_step(
    toy: Toy, memory: World, kind: type[BaseException]
) -> None:
    @toy.func
    async def asynchronous(ctx: Ctx) -> None:
        raise kind("worse")

    def inline() -> None:
        raise kind("worse")

    @toy.workflow
    async def calling(ctx: Wf) -> list[str]:
        found: list[str] = []
        for target in (inline, asynchronous) if kind is not SystemExit else (inline,):
            try:
                await ctx.workflow.do("Step", target)
            except StepFailedError as failed:
                found.append(failed.error.type)
        return found

    async with memory.lab(toy):
        result = await (await toy.start("calling")).result()
        assert set(result) == {kind.__name__}
