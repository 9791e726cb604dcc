"""A crash at any call to the store, before it or with its answer lost, changes no outcome."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.kit import CrashingStore, Ctx, StoreProxy, Toy, Wf, World, settled, steps_of

from pikku import StepFailedError, StepFailure

Deploy = Callable[[Toy], None]


class Broken(Exception):
    pass


def functions(toy: Toy) -> None:
    @toy.func
    async def work(ctx: Ctx, name: str) -> str:
        await asyncio.sleep(0)
        return name.upper()

    @toy.func(retries=3, retry_delay="10s")
    async def flaky(ctx: Ctx) -> str:
        if ctx.step.attempt_count < 3:
            raise Broken("not yet")
        return "flaky"

    @toy.func
    async def broken(ctx: Ctx, data: str) -> None:
        raise Broken(data)

    @toy.func
    async def tell(ctx: Ctx, failure: StepFailure[str]) -> str:
        return failure.input


async def sequence(ctx: Wf) -> list[str]:
    return [await ctx.workflow.do(n, "work", n) for n in "abc"]  # type: ignore[call-overload]


async def gather(ctx: Wf) -> list[str]:
    steps = [ctx.workflow.do(n, "work", n) for n in "abc"]  # type: ignore[call-overload]
    return list(await asyncio.gather(*steps))


async def retry(ctx: Wf) -> str:
    return await ctx.workflow.do("flaky", "flaky")  # type: ignore[no-any-return, call-overload]


async def sleep(ctx: Wf) -> str:
    await ctx.workflow.do("before", "work", "before")  # type: ignore[call-overload]
    await ctx.workflow.sleep("nap", "1h")
    await ctx.workflow.sleep("nap", "2h")
    return await ctx.workflow.do("after", "work", "after")  # type: ignore[no-any-return, call-overload]


async def on_error(ctx: Wf) -> str:
    tell: Any = toy_functions["tell"]
    try:
        await ctx.workflow.do("broken", "broken", "x", on_error=tell)  # type: ignore[call-overload]
    except StepFailedError as failed:
        message = failed.error.message
        return await ctx.workflow.do("go on", lambda: message)
    return ""


async def cancel(ctx: Wf) -> None:
    try:
        await ctx.workflow.do("before", "work", "before")  # type: ignore[call-overload]
        await ctx.workflow.cancel("on purpose")
    finally:
        await ctx.workflow.do("clean up", "work", "clean up")  # type: ignore[call-overload]


async def failure(ctx: Wf) -> None:
    await ctx.workflow.do("before", "work", "before")  # type: ignore[call-overload]
    await ctx.workflow.do("broken", "broken", "x")  # type: ignore[call-overload]


async def side_effects(ctx: Wf) -> str:
    drawn = (await ctx.workflow.uuid4(), await ctx.workflow.random())
    first = await ctx.workflow.do("note", lambda: str(drawn))
    await ctx.workflow.sleep("nap", "1h")
    again = await ctx.workflow.do("note again", lambda: str(drawn))
    return "same" if first == again else "different"


async def nested_groups(ctx: Wf) -> list[str]:
    made: list[str] = []

    async def leaf(name: str) -> None:
        try:
            if name.endswith("0"):
                await ctx.workflow.sleep(f"nap {name}", "1h")
            made.append(await ctx.workflow.do(name, "work", name))  # type: ignore[call-overload]
        finally:
            await ctx.workflow.do(f"clean {name}", lambda: None)

    async def group(prefix: str) -> None:
        async with asyncio.TaskGroup() as inner:
            for number in range(2):
                inner.create_task(leaf(f"{prefix}{number}"))

    async with asyncio.TaskGroup() as outer:
        outer.create_task(group("x"))
        outer.create_task(group("y"))
    return sorted(made)


async def fail_fast(ctx: Wf) -> str:
    async def guarded() -> None:
        try:
            await ctx.workflow.sleep("long nap", "1d")
        finally:
            await ctx.workflow.do("clean up", "work", "clean up")  # type: ignore[call-overload]

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(guarded())
            group.create_task(ctx.workflow.do("broken", "broken", "x"))  # type: ignore[call-overload]
    except* StepFailedError:
        pass
    return await ctx.workflow.do("last", "work", "last")  # type: ignore[no-any-return, call-overload]


toy_functions: dict[str, Any] = {}
BODIES = [
    sequence,
    gather,
    retry,
    sleep,
    on_error,
    cancel,
    failure,
    side_effects,
    nested_groups,
    fail_fast,
]


def deployed(body: Callable[[Wf], Any]) -> Toy:
    toy = Toy()
    functions(toy)
    toy_functions.update(toy.registry.functions)
    toy.workflow(body, name="body")
    return toy


def comparable(ended: tuple[Any, ...], body: Any) -> tuple[Any, ...]:
    """What must be equal; drawn values and what depends on them differ from run to run."""
    status, output, error, steps = ended
    if body is side_effects:
        steps = [(key, kind, status) for key, kind, _, status, _, _ in steps]
    elif body is retry:  # a lost attempt is none of its failures
        steps = [step[:5] for step in steps]
    return status, output, error, steps


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "evicted"])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_a_crash_at_any_call_changes_no_outcome(
    body: Callable[[Wf], Any], store: str, kept: bool, tmp_path: Path
) -> None:
    numbers = itertools.count()

    def world() -> World:
        file = tmp_path / f"{next(numbers)}.db"
        url = "memory://" if store == "memory" else f"sqlite:///{file}?durability=process"
        return World(url, sticky=1000 if kept else 0)

    toy = deployed(body)
    async with world().proxied(toy, StoreProxy) as lab:
        run = await toy.start("body", run_id="r")
        await lab.settle()
        expected = comparable(await settled(lab, run), body)
        calls = len(lab.wrapped.applied)
        assert expected[0] in ("completed", "failed", "cancelled")
    for at in range(3, calls + 1):  # the first two calls open the engine
        for before in (True, False):
            await crash_at(world(), body, at, before, expected)


async def crash_at(
    world: World, body: Callable[[Wf], Any], at: int, before: bool, expected: tuple[Any, ...]
) -> None:
    what = f"crash at call {at}, {'before it' if before else 'its answer lost'}"
    toy = deployed(body)
    proxy = lambda lab, store: CrashingStore(lab, store, at, before=before)  # noqa: E731
    async with world.proxied(toy, proxy) as lab:
        starting = asyncio.ensure_future(toy.start("body", run_id="r"))
        while not lab.crashed and not (starting.done() and lab._opened.engine.is_quiet):
            await asyncio.sleep(0)
        if not starting.done():
            starting.cancel()
        await asyncio.wait([starting])
        recorded: dict[str, int] = {}
        if await lab._store.load_run("r") is not None:
            ended = {k for k, s in (await steps_of(lab, "r")).items() if s.status == "succeeded"}
            recorded = {key: lab.executions(key) for key in ended}
        executed = Counter(lab._executions)
        async with asyncio.timeout(20):
            await lab.recover()
            if await lab._store.load_run("r") is None:  # it was lost before it was accepted
                await toy.start("body", run_id="r")
            run = toy.app.get_run("body", "r")
            await lab.settle()
            while await run.status() == "running":
                await asyncio.sleep(0)
                await lab.settle()
        assert comparable(await settled(lab, run), body) == expected, what
        for key, count in recorded.items():
            assert lab.executions(key) == count, f"{what}: {key} was recorded and executed again"
        for step in (await steps_of(lab, run)).values():
            assert lab.executions(step.key) <= executed[step.key] + 5, what
