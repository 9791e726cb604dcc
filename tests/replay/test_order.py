"""A resumed run takes the same way: outcomes come in recorded order, one at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Lab, Toy, Wf, World, settled, steps_of

from pikku import Run, StepFailedError

Body = Callable[[Wf, "Seen"], Awaitable[Any]]


class Seen:
    """What one execution of the function observed, in order."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def note(self, what: object) -> None:
        self.order.append(str(what))


async def watched(seen: Seen, name: str, step: Awaitable[Any]) -> Any:
    try:
        value = await step
    except asyncio.CancelledError:
        seen.note(f"{name} cancelled")
        raise
    except StepFailedError as failed:
        seen.note(f"{name} failed: {failed.error.message}")
        raise
    seen.note(f"{name} = {value}")
    return value


def slow(name: str, turns: int, fail: bool = False) -> Callable[[], Coroutine[Any, Any, str]]:
    """A step that ends after so many turns of the loop."""

    async def body() -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        if fail:
            raise ValueError(name)
        return name

    return body


async def sequence(ctx: Wf, seen: Seen) -> list[str]:
    return [await watched(seen, n, ctx.workflow.do(n, slow(n, 1))) for n in "abc"]


async def gathered(ctx: Wf, seen: Seen) -> list[str]:
    turns = {"a": 9, "b": 3, "c": 6}
    steps = [watched(seen, n, ctx.workflow.do(n, slow(n, t))) for n, t in turns.items()]
    return list(await asyncio.gather(*steps))


async def fail_fast_gather(ctx: Wf, seen: Seen) -> str:
    async def with_cleanup(name: str, turns: int) -> None:
        try:
            await watched(seen, name, ctx.workflow.do(name, slow(name, turns)))
        finally:
            await watched(seen, f"undo {name}", ctx.workflow.do(f"undo {name}", lambda: None))

    tasks = [asyncio.ensure_future(with_cleanup(n, t)) for n, t in (("a", 1), ("b", 400))]
    tasks.append(
        asyncio.ensure_future(watched(seen, "bad", ctx.workflow.do("bad", slow("bad", 30, True))))
    )
    try:
        await asyncio.gather(*tasks)
    except StepFailedError as failed:
        seen.note(f"caught {failed.error.message}")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return await watched(seen, "last", ctx.workflow.do("last", lambda: "end"))  # type: ignore[no-any-return]


async def fail_fast_group(ctx: Wf, seen: Seen) -> str:
    async def with_cleanup(name: str, step: Awaitable[Any]) -> None:
        try:
            await watched(seen, name, step)
        finally:
            await watched(seen, f"undo {name}", ctx.workflow.do(f"undo {name}", lambda: None))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(with_cleanup("a", ctx.workflow.do("a", slow("a", 2))))
            group.create_task(with_cleanup("nap", ctx.workflow.sleep("nap", "1d")))
            group.create_task(watched(seen, "bad", ctx.workflow.do("bad", slow("bad", 20, True))))
    except* StepFailedError as failed:
        seen.note(f"caught {len(failed.exceptions)}")
    return await watched(seen, "last", ctx.workflow.do("last", lambda: "end"))  # type: ignore[no-any-return]


async def nested_groups(ctx: Wf, seen: Seen) -> str:
    async def inner(prefix: str) -> None:
        async with asyncio.TaskGroup() as group:
            for number, turns in enumerate((7, 2)):
                name = f"{prefix}{number}"
                group.create_task(watched(seen, name, ctx.workflow.do(name, slow(name, turns))))
            group.create_task(watched(seen, f"{prefix} nap", ctx.workflow.sleep(prefix, "1h")))

    async with asyncio.TaskGroup() as group:
        group.create_task(inner("x"))
        group.create_task(inner("y"))
    return " ".join(sorted(seen.order))


async def first_completed(ctx: Wf, seen: Seen) -> str:
    tasks = {
        asyncio.ensure_future(watched(seen, n, ctx.workflow.do(n, slow(n, t))))
        for n, t in (("a", 30), ("b", 5), ("c", 12))
    }
    order: list[str] = []
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        order += [task.result() for task in done]
        so_far = list(order)
        await watched(seen, "noted", ctx.workflow.do("Note", partial(list, so_far), returns=list))
    return "".join(order)


async def race_of_timers(ctx: Wf, seen: Seen) -> str:
    naps = [
        asyncio.ensure_future(watched(seen, n, ctx.workflow.sleep(n, "1h"))) for n in ("a", "b")
    ]
    done, pending = await asyncio.wait(naps, return_when=asyncio.FIRST_COMPLETED)
    seen.note(f"{len(done)} done, {len(pending)} pending")
    return f"{len(done)}"


async def repeated_names(ctx: Wf, seen: Seen) -> list[int]:
    async def branch(number: int, first: int) -> list[int]:
        await watched(seen, f"gate {number}", ctx.workflow.do(f"gate {number}", slow("", first)))
        one = await watched(seen, "same", ctx.workflow.do("same", lambda: number * 10))
        two = await watched(seen, "same", ctx.workflow.do("same", lambda: number * 10 + 1))
        return [one, two]

    found = await asyncio.gather(branch(1, 14), branch(2, 3), branch(3, 8))
    return [number for pair in found for number in pair]


async def cancelled_branch(ctx: Wf, seen: Seen) -> str:
    task = asyncio.ensure_future(watched(seen, "nap", ctx.workflow.sleep("nap", "1d")))
    await watched(seen, "a", ctx.workflow.do("a", slow("a", 3)))
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    await watched(seen, "b", ctx.workflow.do("b", slow("b", 3)))
    return "ab"


async def events_and_locks(ctx: Wf, seen: Seen) -> str:
    event, lock = asyncio.Event(), asyncio.Lock()
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def producer() -> None:
        for name, turns in (("p", 6), ("q", 2)):
            async with lock:
                queue.put_nowait(
                    await watched(seen, name, ctx.workflow.do(name, slow(name, turns)))
                )
        event.set()

    async def consumer() -> str:
        await event.wait()
        return await queue.get() + await queue.get()

    made, _ = await asyncio.gather(consumer(), producer())
    return made


async def retried(ctx: Wf, seen: Seen) -> list[Any]:
    both = asyncio.gather(
        watched(seen, "flaky", ctx.workflow.do("flaky", "flaky")),  # type: ignore[call-overload]
        watched(seen, "side", ctx.workflow.do("side", slow("side", 5))),
        watched(seen, "nap", ctx.workflow.sleep("nap", "1500ms")),
    )
    return list(await both)


BODIES: list[Body] = [
    sequence,
    gathered,
    fail_fast_gather,
    fail_fast_group,
    nested_groups,
    first_completed,
    race_of_timers,
    repeated_names,
    cancelled_branch,
    events_and_locks,
    retried,
]


async def live(lab: Lab, toy: Toy, run_id: str) -> tuple[Run[Any], Any]:
    run = await toy.start("way", run_id=run_id)
    return run, await run.result(timeout="20s")


def deploy(toy: Toy, body: Body) -> list[Seen]:
    """Wire *body*; each execution of it adds what it saw."""
    executions: list[Seen] = []

    @toy.func(retries=9, retry_delay="1s")
    async def flaky(ctx: Ctx) -> str:
        if ctx.step.attempt_count < 3:
            raise ValueError("not yet")
        return "flaky"

    @toy.workflow
    async def way(ctx: Wf) -> Any:
        seen = Seen()
        executions.append(seen)
        return await body(ctx, seen)

    return executions


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_each_execution_sees_the_beginning_of_the_same_order(
    toy: Toy, world: World, body: Body
) -> None:
    executions = deploy(toy, body)
    async with world.lab(toy) as lab:
        await live(lab, toy, "r")
    full = executions[-1].order
    for each in executions:
        seen = [what for what in each.order if not what.endswith("cancelled")]
        expected = [what for what in full if not what.endswith("cancelled")]
        assert seen == expected[: len(seen)]


# What a body records or not, by how fast the store is: what it gives up at the first failure, and
# a note for each time that something was done, be it two at once.
BY_CHANCE: dict[Body, tuple[str, ...]] = {
    fail_fast_gather: ("b",),
    first_completed: ("Note#1", "Note#2"),
}


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_a_crash_after_any_step_changes_neither_way_nor_result(
    world: World, body: Body
) -> None:
    toy = Toy()
    executions = deploy(toy, body)
    async with world.lab(toy) as lab:
        run, result = await live(lab, toy, "r")
        steps = await steps_of(lab, run)
        keys = [
            key for key, step in steps.items() if step.kind != "sleep" and step.delivery is not None
        ]
    keys = [key for key in keys if key not in BY_CHANCE.get(body, ())]
    for key in keys:
        toy = Toy()
        executions = deploy(toy, body)
        url = world.url.replace("runs.db", f"runs-{keys.index(key)}.db")
        async with World(url, world.sticky).lab(toy) as lab:
            lab.crash_after(key)
            run = await toy.start("way", run_id=f"r{keys.index(key)}")
            before = len(executions)
            order_before = list(executions[-1].order)
            await lab.recover()
            again = await run.result(timeout="20s")
            # A step that was under way is executed again, so siblings may end in another order.
            if body not in (first_completed, repeated_names):
                assert again == result
            full = executions[-1].order
            assert len(executions) >= before
            prefix = [what for what in order_before if not what.endswith("cancelled")]
            assert [what for what in full if not what.endswith("cancelled")][
                : len(prefix)
            ] == prefix


async def test_what_was_recorded_is_what_a_fresh_replay_sees(toy: Toy, store_url: str) -> None:
    """The order of the outcomes is the store's: replay hands them over by delivery number."""
    executions = deploy(toy, nested_groups)
    world = World(store_url, sticky=0)
    async with world.lab(toy) as lab:
        run, _ = await live(lab, toy, "r")
        steps = await steps_of(lab, run)
    delivered = sorted(
        (step.delivery, key) for key, step in steps.items() if step.delivery is not None
    )
    assert [number for number, _ in delivered] == list(range(1, len(delivered) + 1))
    names = [key for _, key in delivered]
    seen = [what.split(" = ")[0].removesuffix(" nap") for what in executions[-1].order]
    assert seen == names


async def test_an_outcome_recorded_but_not_delivered_at_the_end_is_no_divergence(
    toy: Toy, world: World
) -> None:
    deploy(toy, race_of_timers)
    async with world.lab(toy) as lab:
        run, result = await live(lab, toy, "r")
        assert result == "1"
        assert (await settled(lab, run))[0] == "completed"


async def test_a_step_that_ends_after_its_function_returned_changes_nothing(
    toy: Toy, world: World
) -> None:
    gate = asyncio.Event()
    entered = asyncio.Event()

    @toy.func
    async def long(ctx: Ctx) -> None:
        entered.set()
        await gate.wait()

    @toy.workflow
    async def leaving(ctx: Wf) -> str:
        task = asyncio.ensure_future(ctx.workflow.do("Long", long))
        await ctx.workflow.do("Short", entered.wait, returns=bool)
        assert not task.done()
        return "left"

    async with world.lab(toy):
        run = await toy.start("leaving")
        gate.set()
        assert await run.result(timeout="5s") == "left"
        assert await run.status() == "completed"
