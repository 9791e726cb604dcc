"""What a workflow body may not do: direct calls, timers, threads, sockets; and what it may."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of

from pikku import RunFailedError
from pikku.errors import DeclarationError, DuplicateNameError, WorkflowBodyError

Body = Callable[[Wf, Toy], Awaitable[Any]]


async def direct_call(ctx: Wf, toy: Toy) -> None:
    await ctx.rpc.work("x")


async def invoke(ctx: Wf, toy: Toy) -> None:
    await ctx.rpc.invoke("work", "x")


async def start_on_rpc(ctx: Wf, toy: Toy) -> None:
    await ctx.rpc.start_workflow("body")


async def start_on_app(ctx: Wf, toy: Toy) -> None:
    await toy.app.start_workflow("other")


async def invoke_on_app(ctx: Wf, toy: Toy) -> None:
    await toy.app.invoke("work", "x")


CALLS: list[Body] = [direct_call, invoke, start_on_rpc, start_on_app, invoke_on_app]


def deploy(toy: Toy, body: Body) -> list[str]:
    executed: list[str] = []

    @toy.func
    async def work(ctx: Ctx, name: str) -> str:
        executed.append(name)
        return name

    @toy.workflow
    async def other(ctx: Wf) -> None:
        executed.append("other")

    @toy.workflow
    async def flow(ctx: Wf) -> str:
        try:
            await body(ctx, toy)
        except WorkflowBodyError as error:
            return str(error)
        return ""

    return executed


@pytest.mark.parametrize("body", CALLS, ids=lambda body: body.__name__)
async def test_a_direct_call_is_refused_before_anything_happens(
    toy: Toy, world: World, body: Body
) -> None:
    executed = deploy(toy, body)
    async with world.lab(toy) as lab:
        run = await toy.start("flow")
        message = await run.result()
        assert message.startswith("PKR312 ")
        assert "ctx.workflow.do(" in message
        assert await steps_of(lab, run) == {}
        assert sum((await lab._store.count_runs()).values()) == 1
    assert executed == []


async def asyncio_sleep(ctx: Wf, toy: Toy) -> None:
    await asyncio.sleep(1)


async def wait_for(ctx: Wf, toy: Toy) -> None:
    task = asyncio.ensure_future(ctx.workflow.do("Step", lambda: None))
    await asyncio.wait_for(task, 5)


async def timeout(ctx: Wf, toy: Toy) -> None:
    async with asyncio.timeout(5):
        await ctx.workflow.do("Step", lambda: None)


async def wait_with_timeout(ctx: Wf, toy: Toy) -> None:
    task = asyncio.ensure_future(ctx.workflow.sleep("Wait", "1h"))
    await asyncio.wait([task], timeout=5)


async def executor(ctx: Wf, toy: Toy) -> None:
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)


async def to_thread(ctx: Wf, toy: Toy) -> None:
    await asyncio.to_thread(lambda: None)


async def connection(ctx: Wf, toy: Toy) -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def subprocess(ctx: Wf, toy: Toy) -> None:
    await asyncio.create_subprocess_exec("true")


async def call_later(ctx: Wf, toy: Toy) -> None:
    asyncio.get_running_loop().call_later(1, lambda: None)


OUTSIDE: list[Body] = [
    asyncio_sleep,
    wait_for,
    timeout,
    wait_with_timeout,
    executor,
    to_thread,
    connection,
    subprocess,
    call_later,
]


@pytest.mark.parametrize("body", OUTSIDE, ids=lambda body: body.__name__)
async def test_what_waits_for_the_outside_is_refused_with_the_durable_form(
    toy: Toy, memory: World, body: Body
) -> None:
    deploy(toy, body)
    async with memory.lab(toy) as lab:
        run = await toy.start("flow")
        message = await run.result(timeout="5s")
        assert message.startswith("PKR312 ")
        assert "ctx.workflow." in message
        await lab.settle()


async def test_a_refusal_that_nobody_catches_fails_the_run(toy: Toy, world: World) -> None:
    @toy.workflow
    async def sleepy(ctx: Wf) -> None:
        await asyncio.sleep(5)

    async with world.lab(toy):
        with pytest.raises(RunFailedError) as caught:
            await (await toy.start("sleepy")).result()
        assert caught.value.error.code == "PKR312"


async def test_a_sleep_of_nothing_is_allowed(toy: Toy, world: World) -> None:
    @toy.workflow
    async def yielding(ctx: Wf) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return await ctx.workflow.do("Step", lambda: 1)

    async with world.lab(toy):
        assert await (await toy.start("yielding")).result() == 1


async def test_steps_cannot_be_asked_for_in_a_step(toy: Toy, memory: World) -> None:
    @toy.workflow
    async def nesting(ctx: Wf) -> None:
        async def inner() -> None:
            await ctx.workflow.do("Inner", lambda: None)

        await ctx.workflow.do("Outer", inner)

    async with memory.lab(toy) as lab:
        run = await toy.start("nesting")
        info = await run.info()
        assert info.status == "failed"
        assert "PKR312" in str(info.error) or "WorkflowBodyError" in str(info.error)
        assert set(await steps_of(lab, run)) == {"Outer"}


async def test_functions_may_call_each_other_and_start_runs(toy: Toy, world: World) -> None:
    @toy.func
    async def inner(ctx: Ctx, number: int) -> int:
        return number + 1

    @toy.func
    async def outer(ctx: Ctx, number: int) -> list[int]:
        return [await ctx.rpc.inner(number), await ctx.rpc.invoke("inner", number + 1)]

    @toy.func
    def synchronous(ctx: Ctx, number: int) -> int:
        made: int = ctx.run_async(ctx.rpc.inner(number))
        return made

    @toy.func
    async def starter(ctx: Ctx, number: int) -> str:
        run = await ctx.rpc.start_workflow("flow", number, run_id=ctx.step.invocation_id)
        return str(run)

    @toy.workflow
    async def flow(ctx: Wf, number: int) -> list[int]:
        return await ctx.workflow.do("Call", outer, number)

    @toy.workflow
    async def starting(ctx: Wf, number: int) -> list[Any]:
        sync = await ctx.workflow.do("In a thread", synchronous, number)
        return [sync, await ctx.workflow.do("Start", starter, number)]

    async with world.lab(toy):
        run = await toy.start("starting", 1)
        number, started = await run.result()
        assert number == 2
        assert await toy.app.get_run("flow", started).result() == [2, 3]


async def test_run_async_on_the_loop_is_refused_instead_of_waiting_for_itself(
    toy: Toy, memory: World
) -> None:
    @toy.func
    async def inner(ctx: Ctx) -> int:
        return 1

    @toy.func
    async def outer(ctx: Ctx) -> int:
        made: int = ctx.run_async(ctx.rpc.inner())
        return made

    async with memory.lab(toy):
        with pytest.raises(RuntimeError, match="await instead"):
            await toy.app.invoke("outer")


async def test_the_logger_of_a_workflow_is_silent_while_replaying(
    toy: Toy, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    @toy.workflow
    async def telling(ctx: Wf) -> None:
        ctx.logger.info("begun")
        await ctx.workflow.do("Step", lambda: None)
        ctx.logger.info("after the step")
        await ctx.workflow.sleep("Wait", "1h")
        ctx.logger.info("after the sleep")

    with caplog.at_level(logging.INFO, "pikku.run"):
        async with world.lab(toy) as lab:
            run = await toy.start("telling")
            await run.result(timeout="5s")
            await lab.recover()
    said = [record.message for record in caplog.records if record.name == "pikku.run"]
    assert said == ["begun", "after the step", "after the sleep"]
    assert {getattr(record, "run_id", "") for record in caplog.records if record.name == "pikku.run"} == {run.run_id}  # fmt: skip # noqa: E501


async def test_an_endless_loop_without_a_step_does_not_hold_the_process(
    toy: Toy, memory: World
) -> None:
    @toy.workflow
    async def spinning(ctx: Wf) -> None:
        while True:
            await asyncio.sleep(0)

    async with memory.lab(toy):
        run = await toy.start("spinning")
        assert await run.status() in ("failed", "suspended")


def test_declarations_that_cannot_work_are_refused(toy: Toy) -> None:
    with pytest.raises(DeclarationError):

        @toy.workflow
        def synchronous(ctx: Wf) -> None: ...

    with pytest.raises(DeclarationError):

        @toy.func
        async def too_many(ctx: Ctx, a: int, b: int) -> None: ...

    with pytest.raises(DeclarationError):

        @toy.func
        async def no_context() -> None: ...

    with pytest.raises(DeclarationError):
        toy.func(5)  # type: ignore[call-overload]


def test_two_functions_of_one_name_are_refused(toy: Toy) -> None:
    @toy.func(name="same")
    async def first(ctx: Ctx) -> None: ...

    with pytest.raises(DuplicateNameError) as caught:

        @toy.func(name="same")
        async def second(ctx: Ctx) -> None: ...

    assert "first" in str(caught.value)
    assert "second" in str(caught.value)


async def test_a_workflow_that_raises_something_worse_than_an_exception_ends_its_run(
    toy: Toy, memory: World
) -> None:
    @toy.workflow
    async def worse(ctx: Wf) -> None:
        await ctx.workflow.do("Step", lambda: None)
        raise BaseException("worse")

    async with memory.lab(toy):
        run = await toy.start("worse")
        assert await run.status() == "failed"
