"""The app whose workers are killed, frozen, cut off and lied to.

Every function writes to the ledger first thing; what it returns says which attempt in which process
made it, and the outputs of the workflows leave that out: they are the same with and without faults.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from tests.servers.ledger import Ledger

from pikku import (
    App,
    FunctionContext,
    Registry,
    Signal,
    StepFailedError,
    Undo,
    WorkflowFunctionContext,
    WorkflowWire,
)

Ctx: TypeAlias = FunctionContext[Any, Any]
Wf: TypeAlias = WorkflowFunctionContext[Any, Any, WorkflowWire]
Data: TypeAlias = dict[str, int]

# Some processes have other code.
IS_NEW = os.environ.get("FAULT_DEPLOY") == "new"
CHECKED = 7000

registry = Registry("tests.faults.fault_app", versions={"edited": "v2" if IS_NEW else "v1"})
app: App[Any] = App(registry=registry, package="tests.faults.fault_app")

POISON_EXIT = 9


def _shift_clock() -> None:
    """Have this process believe that it is another hour."""
    seconds = float(os.environ.get("FAULT_CLOCK_SECONDS", "0"))
    if not seconds:
        return
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)


_shift_clock()


def begin(ctx: Ctx) -> None:
    Ledger.here().begin(ctx.run_id, ctx.step.key, ctx.step.attempt_count)


def done(ctx: Ctx, value: int) -> Data:
    return {"value": value, "attempt": ctx.step.attempt_count, "pid": os.getpid()}


def function(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`@pikku_func` of a generated package."""
    return lambda func: registry.pikku_func(func, **options)


# --- functions -------------------------------------------------------------------


@function(dispatch="queue")
async def reserve(ctx: Ctx, data: Data) -> Data:
    """Asynchronous, through the queue."""
    begin(ctx)
    await asyncio.sleep(data["ms"] / 1000)
    return done(ctx, data["n"] + 1)


@function(dispatch="queue")
def charge(ctx: Ctx, data: Data) -> Data:
    """Synchronous, through the queue."""
    begin(ctx)
    time.sleep(data["ms"] / 1000)
    return done(ctx, data["n"] * 2)


@function()
async def pack(ctx: Ctx, data: Data) -> Data:
    """Asynchronous, in place where that can be."""
    begin(ctx)
    await asyncio.sleep(data["ms"] / 1000)
    return done(ctx, data["n"] + 3)


@function()
def label(ctx: Ctx, data: Data) -> Data:
    """Synchronous, in place where that can be."""
    begin(ctx)
    time.sleep(data["ms"] / 1000)
    return done(ctx, data["n"] + 4)


@function(queue="parts")
async def part(ctx: Ctx, data: Data) -> Data:
    """Through a queue of its own."""
    begin(ctx)
    await asyncio.sleep(data["ms"] / 1000)
    return done(ctx, data["n"] * 10)


@function(dispatch="queue", retries=2, retry_delay="40ms")
async def flaky(ctx: Ctx, data: Data) -> Data:
    """Fails at its first attempt."""
    begin(ctx)
    if ctx.step.attempt_count == 1:
        raise RuntimeError("not yet")
    return done(ctx, data["n"] + 5)


@function(retries=2, retry_delay="40ms")
def flaky_in_place(ctx: Ctx, data: Data) -> Data:
    """Fails at its first attempt."""
    begin(ctx)
    if ctx.step.attempt_count == 1:
        raise RuntimeError("not yet")
    return done(ctx, data["n"] + 6)


@function(dispatch="queue")
async def block(ctx: Ctx, data: Data) -> Data:
    """Holds up the event loop of its process; at its first attempts only, if it says so."""
    begin(ctx)
    if ctx.step.attempt_count <= data.get("attempts", 1):
        time.sleep(data["ms"] / 1000)
    return done(ctx, data["n"])


@function(dispatch="queue")
async def poison(ctx: Ctx, data: Data) -> Data:
    """Takes its process along."""
    begin(ctx)
    os._exit(POISON_EXIT)


@function(dispatch="queue")
async def swell(ctx: Ctx, data: Data) -> str:
    """So many characters."""
    begin(ctx)
    return "x" * data["size"]


@function(dispatch="queue")
async def measure(ctx: Ctx, data: str) -> Data:
    """How many characters it was given; fails with as many if asked to."""
    begin(ctx)
    return done(ctx, len(data))


@function(dispatch="queue")
async def complain(ctx: Ctx, data: Data) -> Data:
    """Fails with a message of so many characters."""
    begin(ctx)
    raise ValueError("y" * data["size"])


@function(dispatch="queue")
async def unreserve(ctx: Ctx, undo: Undo[Data, Data]) -> Data:
    """Undoes `reserve`."""
    begin(ctx)
    return done(ctx, undo.output["value"] - 1)


@function(dispatch="queue")
async def refuse(ctx: Ctx, data: Data) -> None:
    """Fails for good."""
    begin(ctx)
    raise LookupError("refused")


# --- workflows -------------------------------------------------------------------


def workflow(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Declared and wired in one go."""

    def wire(func: Callable[..., Any]) -> Any:
        made = registry.pikku_workflow_func(func, **options)
        registry.wire_workflow(name=func.__name__, func=made)
        return made

    return wire


@workflow()
async def order(ctx: Wf, data: Data) -> int:
    """One step after the other, of every kind."""
    steps: Any = ctx.workflow
    ms = data["ms"]
    n: int = (await steps.do("Reserve", reserve, {"n": data["n"], "ms": ms}))["value"]
    n = (await steps.do("Charge", charge, {"n": n, "ms": ms}))["value"]
    n = (await steps.do("Pack", pack, {"n": n, "ms": ms}))["value"]
    n = await steps.do("Note", lambda: n + 100)
    await steps.sleep("Wait", f"{data['sleep']}ms")
    n = (await steps.do("Label", label, {"n": n, "ms": ms}))["value"]
    n = (await steps.do("Flaky", flaky, {"n": n}))["value"]
    n = (await steps.do("Flaky here", flaky_in_place, {"n": n}))["value"]
    n = (await steps.do("Ship", reserve, {"n": n, "ms": ms}))["value"]
    return n


@workflow()
async def fan(ctx: Wf, data: Data) -> list[int]:
    """Many at once, through several queues and in place, then one after them."""
    steps: Any = ctx.workflow
    ms, kinds = data["ms"], (part, charge, pack, reserve, label)
    parts = await asyncio.gather(
        *(
            steps.do(f"Part {i}", kinds[i % len(kinds)], {"n": i, "ms": ms + i})
            for i in range(data["width"])
        )
    )
    values = [each["value"] for each in parts]
    last = await steps.do("Sum", part, {"n": sum(values) + data["n"], "ms": ms})
    return [*values, last["value"]]


@workflow()
async def race(ctx: Wf, data: Data) -> list[int]:
    """Branches that sleep, retry and repeat names, in a group."""
    steps: Any = ctx.workflow
    ms = data["ms"]

    async def branch(i: int) -> int:
        n: int = (await steps.do("Begin", reserve, {"n": i, "ms": ms}))["value"]
        await steps.sleep("Pause", f"{data['sleep'] // (i + 1)}ms")
        n = (await steps.do(f"Try {i}", flaky, {"n": n}))["value"]
        n = (await steps.do(f"End {i}", pack, {"n": n, "ms": ms}))["value"]
        return n

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(branch(i)) for i in range(3)]
    return [task.result() + data["n"] for task in tasks]


@workflow()
async def blocking(ctx: Wf, data: Data) -> int:
    """One step that holds up a loop, and one after it."""
    steps: Any = ctx.workflow
    n: int = (await steps.do("Block", block, data))["value"]
    return int((await steps.do("After", reserve, {"n": n, "ms": 5}))["value"])


@workflow()
async def poisoned(ctx: Wf, data: Data) -> int:
    """Never gets there."""
    steps: Any = ctx.workflow
    await steps.do("Before", reserve, {"n": 1, "ms": 1})
    await steps.do("Poison", poison, data)
    return 1


@workflow()
async def bulky(ctx: Wf, data: Data) -> int:
    """A large value out of one step and into the next."""
    steps: Any = ctx.workflow
    text = await steps.do("Swell", swell, data)
    return int((await steps.do("Measure", measure, text))["value"])


@workflow()
async def complaining(ctx: Wf, data: Data) -> int:
    """Fails with a large message."""
    steps: Any = ctx.workflow
    return int((await steps.do("Complain", complain, data))["value"])


@workflow()
async def takes_text(ctx: Wf, data: str) -> int:
    """Its input is large."""
    return len(data)


@workflow()
async def long(ctx: Wf, data: Data) -> int:
    """Many small steps in a row."""
    steps: Any = ctx.workflow
    n = data["n"]
    for i in range(data["steps"]):
        n = (await steps.do(f"Step {i}", pack if i % 2 else reserve, {"n": n, "ms": 0}))["value"]
    return n


@workflow()
async def napping(ctx: Wf, data: Data) -> int:
    """Sleeps between two steps."""
    steps: Any = ctx.workflow
    n: int = (await steps.do("First", reserve, {"n": data["n"], "ms": 1}))["value"]
    await steps.sleep("Nap", f"{data['sleep']}ms")
    return int((await steps.do("Second", reserve, {"n": n, "ms": 1}))["value"])


@workflow()
async def edited(ctx: Wf, data: Data) -> int:
    """Has a step more in new code."""
    steps: Any = ctx.workflow
    ms = data["ms"]
    n: int = (await steps.do("Reserve", reserve, {"n": data["n"], "ms": ms}))["value"]
    if IS_NEW:
        n = CHECKED + (await steps.do("Check", charge, {"n": n, "ms": ms}))["value"] - n
    await steps.sleep("Wait", f"{data['sleep']}ms")
    n = (await steps.do("Pack", pack, {"n": n, "ms": ms}))["value"]
    return int((await steps.do("Ship", reserve, {"n": n, "ms": ms}))["value"])


@workflow(timeout="10min")
async def bounded(ctx: Wf, data: Data) -> int:
    """With a timeout, so that a timer is armed all its life."""
    steps: Any = ctx.workflow
    n: int = (await steps.do("First", reserve, {"n": data["n"], "ms": data["ms"]}))["value"]
    n = (await steps.do("Second", reserve, {"n": n, "ms": data["ms"]}))["value"]
    return int((await steps.do("Third", reserve, {"n": n, "ms": data["ms"]}))["value"])


paid: Signal[int] = registry.wire_signal(name="paid", payload=int)


@workflow()
async def member(ctx: Wf, data: Data) -> int:
    """A child: a step through the queue, one in place, and for the first of them a child again."""
    steps: Any = ctx.workflow
    n: int = (await steps.do("Reserve", reserve, {"n": data["n"], "ms": data["ms"]}))["value"]
    if data["generations"]:
        younger = {**data, "n": n, "generations": data["generations"] - 1}
        n = await steps.do("Child", "member", younger)
    return int((await steps.do("Pack", pack, {"n": n, "ms": data["ms"]}))["value"])


@workflow()
async def family(ctx: Wf, data: Data) -> list[int]:
    """Children and grandchildren, a map, a saga that ends well, and a race that a signal wins."""
    steps: Any = ctx.workflow
    n, ms = data["n"], data["ms"]
    async with steps.saga() as saga:
        booked = await saga.do("Book", reserve, {"n": n, "ms": ms}, undo=unreserve)
        members = await asyncio.gather(
            *(
                steps.do(f"Member {i}", member, {"n": n + i, "ms": ms, "generations": i})
                for i in range(3)
            )
        )
        items = [{"n": i, "ms": ms} for i in range(data["width"])]
        parts = await steps.map("Part", part, items, max_concurrency=3)
        place, word = await steps.race(
            steps.wait_for_signal("Wait for payment", paid), steps.sleep("Patience", "1h")
        )
        last = await saga.do("Ship", charge, {"n": word, "ms": ms}, undo=unreserve)
    return [booked["value"], *members, *(each["value"] for each in parts), place, last["value"]]


@workflow()
async def undone(ctx: Wf, data: Data) -> list[str]:
    """A saga that fails and is undone."""
    steps: Any = ctx.workflow
    try:
        async with steps.saga() as saga:
            for i in range(3):
                given = {"n": data["n"] + i, "ms": data["ms"]}
                await saga.do(f"Book {i}", reserve, given, undo=unreserve)
            await saga.do("Refused", refuse, data, undo=unreserve)
    except StepFailedError as failed:
        return [failed.step_name, failed.error.message]
    return []


def expected(name: str, data: Data) -> Any:
    """The output of a run that meets no fault."""
    n = data["n"]
    match name:
        case "order":
            return (n + 1) * 2 + 3 + 100 + 4 + 5 + 6 + 1
        case "fan":
            values = [(i * 10, i * 2, i + 3, i + 1, i + 4)[i % 5] for i in range(data["width"])]
            return [*values, (sum(values) + n) * 10]
        case "race":
            return [i + 1 + 5 + 3 + n for i in range(3)]
        case "blocking" | "poisoned":
            return n + 1
        case "long":
            return n + sum(3 if i % 2 else 1 for i in range(data["steps"]))
        case "napping":
            return n + 2
        case "edited":  # by old code
            return n + 1 + 3 + 1
        case "bounded":
            return n + 3
        case "member":
            return n + 4 * (data["generations"] + 1)
        case "family":
            members = [n + i + 4 * (i + 1) for i in range(3)]
            return [n + 1, *members, *(i * 10 for i in range(data["width"])), 0, n * 2]
        case "undone":
            return ["Refused", "refused"]
        case _:
            raise LookupError(name)
