"""Programs that a seed draws, the workflow that plays them, and what they have to give.

A steady program gives the same whatever happens to its processes; a wild one has races, time limits
and failures side by side, and what it gives depends on who is faster.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Any, Protocol

from tests.runtime.kit import Toy

from pikku import (
    FunctionContext,
    SignalTimeoutError,
    StepFailedError,
    StepFailure,
    Undo,
    WorkflowFunctionContext,
    WorkflowWire,
)
from pikku.errors import CompensationError


class Here(Protocol):
    """The process that a body runs in, as its services."""

    def began(self, run_id: str, key: str, attempt: int) -> None:
        """Write down that a body has begun."""
        ...

    def work_seconds(self) -> float:
        """How long the body takes."""
        ...


Ctx = FunctionContext[Here, Any]
Wf = WorkflowFunctionContext[Here, Any, WorkflowWire]
Program = list[Any]

SIGNALS = ("a", "b")
PLAIN: tuple[Program, ...] = (
    ["seq", [["do", 1], ["inline", 2], ["do", 3], ["do", 4]]],
    ["gather", [["do", 1], ["do", 2], ["do", 3]]],
    ["flaky", 3],
    ["seq", [["sleep", 2], ["do", 1]]],
    ["seq", [["signal", "a"], ["do", 1]]],
    ["child", ["seq", [["do", 1], ["sleep", 1]]]],
    ["saga", ["do", 1], True],
    ["saga", ["do", 1], False],
    ["map", 4],
    ["handled"],
)


def _leaf(draw: Random, *, wild: bool) -> Program:
    leaves: list[Program] = [
        ["do", draw.randint(0, 3)],
        ["do", draw.randint(0, 3)],
        ["inline", draw.randint(0, 3)],
        ["flaky", draw.randint(1, 3)],
        ["sleep", draw.randint(0, 3)],
        ["signal", draw.choice(SIGNALS)],
        ["approval"],
        ["suspend"],
        ["patched", draw.randint(0, 3)],
        ["random"],
        ["map", draw.randint(0, 4)],
        ["detached"],
        ["caught"],
        ["handled"],
    ]
    if wild:
        leaves += [["fail"], ["late signal", draw.choice(SIGNALS)], ["late approval"]]
    return draw.choice(leaves)


def drawn_program(draw: Random, depth: int, *, wild: bool) -> Program:
    """Something to do, of parts that are *depth* deep at most."""
    if depth == 0 or draw.random() < 0.2:
        return _leaf(draw, wild=wild)
    kinds = ["seq", "seq", "gather", "gather", "group", "child", "guard", "saga"]
    if wild:
        kinds += ["race", "race"]
    kind = draw.choice(kinds)
    if kind in ("seq", "gather", "race", "group"):
        parts = [drawn_program(draw, depth - 1, wild=wild) for _ in range(draw.randint(2, 3))]
        return [kind, parts]
    more = [draw.random() < 0.4] if kind == "saga" else []
    return [kind, drawn_program(draw, depth - 1, wild=wild), *more]


def expected(part: Program) -> Any:
    """What a steady program gives."""
    match part:
        case ["do" | "inline" | "flaky" | "patched", n]:
            return n
        case ["sleep", _] | ["suspend"]:
            return None
        case ["signal", _]:
            return 7
        case ["approval"]:
            return "approved"
        case ["random"] | ["detached"]:
            return True
        case ["map", n]:
            return list(range(n))
        case ["caught" | "handled"]:
            return "caught"
        case ["seq" | "gather" | "group", parts]:
            return [expected(each) for each in parts]
        case ["child" | "guard", inner]:
            return expected(inner)
        case ["saga", inner, broken]:
            return "undone" if broken else expected(inner)
        case _:
            raise AssertionError(part)


def deployed() -> Toy:
    """The code that every process has."""
    toy = Toy()
    signals = {name: toy.registry.wire_signal(name=name, payload=int) for name in SIGNALS}

    async def begin(ctx: Ctx) -> None:
        step = ctx.step
        ctx.services.began(step.run_id, step.key, step.attempt_count)
        seconds = ctx.services.work_seconds()
        if seconds:
            await asyncio.sleep(seconds)

    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        await begin(ctx)
        return n

    @toy.func
    async def fail(ctx: Ctx) -> int:
        await begin(ctx)
        raise ValueError("no")

    @toy.func(retries=3, retry_delay="700ms")
    async def flaky(ctx: Ctx, n: int) -> int:
        await begin(ctx)
        if ctx.step.attempt_count <= n:
            raise ValueError("not yet")
        return n

    @toy.func
    async def undo(ctx: Ctx, what: Undo[int, int]) -> None:
        await begin(ctx)

    @toy.func
    async def tell(ctx: Ctx, failure: StepFailure[int]) -> None:
        await begin(ctx)

    async def play(ctx: Wf, part: Program, path: str) -> Any:
        steps = ctx.workflow
        match part:
            case ["do", n]:
                return await steps.do(path, work, n)
            case ["inline", n]:

                def here() -> int:
                    ctx.services.began(ctx.run_id, path, 0)
                    given: int = n
                    return given

                return await steps.do(path, here)
            case ["fail"]:
                return await steps.do(path, fail)
            case ["caught"]:
                try:
                    return await steps.do(path, fail)
                except StepFailedError:
                    return "caught"
            case ["handled"]:
                try:
                    return await steps.do(path, flaky, 9, on_error=tell, retries=0)
                except StepFailedError:
                    return "caught"
            case ["flaky", n]:
                return await steps.do(path, flaky, n)
            case ["sleep", seconds]:
                await steps.sleep(path, timedelta(seconds=seconds, milliseconds=100))
                return None
            case ["signal", name]:
                return await steps.wait_for_signal(path, signals[name])
            case ["late signal", name]:
                try:
                    return await steps.wait_for_signal(path, signals[name], timeout="2s")
                except SignalTimeoutError:
                    return "late"
            case ["approval"]:
                return (await steps.approval(path)).outcome
            case ["late approval"]:
                return (await steps.approval(path, expires_in="3s")).outcome
            case ["suspend"]:
                return await steps.suspend(path)
            case ["patched", n]:  # either way may be taken, and then always the same
                name = path if steps.patched(path) else f"{path} as before"
                return await steps.do(name, work, n)
            case ["random"]:
                return 0 <= await steps.random() < 1
            case ["map", n]:
                return await steps.map(path, work, range(n), max_concurrency=2)
            case ["detached"]:
                given = [f"{path}.d", ["sleep", 1]]
                return bool(await steps.do(path, sub, given, detached=True))
            case ["seq", parts]:
                return [await play(ctx, each, f"{path}.{n}") for n, each in enumerate(parts)]
            case ["gather", parts]:
                return list(
                    await asyncio.gather(
                        *(play(ctx, each, f"{path}.{n}") for n, each in enumerate(parts))
                    )
                )
            case ["race", parts]:
                place, value = await steps.race(
                    *(play(ctx, each, f"{path}.{n}") for n, each in enumerate(parts))
                )
                return [place, value]
            case ["group", parts]:
                failed, tasks = False, list[asyncio.Task[Any]]()
                try:
                    async with asyncio.TaskGroup() as group:
                        for n, each in enumerate(parts):
                            tasks.append(group.create_task(play(ctx, each, f"{path}.{n}")))
                except* StepFailedError:
                    failed = True
                if failed:
                    return await steps.do(f"{path} failed", lambda: "group failed")
                return [task.result() for task in tasks]
            case ["child", inner]:
                return await steps.do(path, sub, [f"{path}.c", inner])
            case ["guard", inner]:
                try:
                    return await play(ctx, inner, f"{path}.0")
                finally:
                    await steps.do(f"{path} clean", work, 1)
            case ["saga", inner, broken]:
                try:
                    async with steps.saga() as saga:
                        await saga.do(f"{path} one", work, 1, undo=undo)
                        value = await play(ctx, inner, f"{path}.0")
                        await saga.do(f"{path} two", work, 2, undo=undo)
                        if broken:
                            raise KeyError(path)
                        return value
                except (KeyError, CompensationError):
                    return "undone"
            case _:
                raise AssertionError(part)

    @toy.workflow
    async def sub(ctx: Wf, given: list[Any]) -> Any:
        path, program = given
        return await play(ctx, program, path)

    @toy.workflow
    async def top(ctx: Wf, given: list[Any]) -> Any:
        path, program = given
        try:
            return await play(ctx, program, path)
        except StepFailedError as failed:
            return f"failed: {failed.step_name}"

    return toy
