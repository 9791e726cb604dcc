"""gather, TaskGroup, wait, race and map over steps of every kind, in both modes."""

import asyncio
from typing import Any

from tests.life.kit import Place, cancelled, children, done, failure, statuses
from tests.runtime.kit import Ctx, Toy, Wf

from pikku import StepFailedError, StepFailure


def parts(toy: Toy) -> tuple[Any, Any, Any]:
    """A function, a workflow that naps, and a signal."""

    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        await asyncio.sleep(0)
        if n < 0:
            raise ValueError(f"no {n}")
        return n * 10

    @toy.workflow
    async def below(ctx: Wf, n: int) -> int:
        await ctx.workflow.sleep("Nap", "1h")
        return await ctx.workflow.do("Work", work, n)

    return work, below, toy.registry.wire_signal(name="word", payload=int)


async def test_steps_of_every_kind_are_gathered(toy: Toy, place: Place) -> None:
    work, below, word = parts(toy)

    @toy.workflow
    async def wide(ctx: Wf) -> list[Any]:
        async def asked() -> str:
            return (await ctx.workflow.approval("Pay?", expires_in="1min")).outcome

        return list(
            await asyncio.gather(
                ctx.workflow.do("Work", work, 1),
                ctx.workflow.do("Child", below, 2),
                ctx.workflow.do("Inline", lambda: 3),
                ctx.workflow.sleep("Nap", "30min"),
                ctx.workflow.wait_for_signal("Word", word),
                asked(),
                ctx.workflow.map("Each", work, [4, 5]),
            )
        )

    async with place.lab(toy) as lab:
        run = await toy.start("wide")
        await lab.settle()
        await run.signal(word, 9)
        await lab.advance("1h")
        assert await done(lab, run) == [10, 20, 3, None, 9, "expired", [40, 50]]


async def test_a_crash_in_the_middle_of_many_repeats_none_that_was_recorded(
    toy: Toy, place: Place
) -> None:
    work, below, _ = parts(toy)

    @toy.workflow
    async def wide(ctx: Wf) -> int:
        made: list[int] = await ctx.workflow.map("Work", work, range(20), max_concurrency=5)
        below_made: list[int] = await ctx.workflow.map("Child", below, range(5), max_concurrency=2)
        return sum(made) + sum(below_made)

    async with place.lab(toy) as lab:
        lab.crash_after("Work[11]")
        run = await toy.start("wide", wait=False)
        await lab.settle()
        ended = {key for key, status in (await statuses(lab, run)).items() if status == "succeeded"}
        await lab.recover()
        lab.crash_after("Work")
        for _ in range(4):
            await lab.advance("1h")
        await lab.recover()
        await lab.advance("3h")
        assert await done(lab, run) == 1900 + 100
        for key in ended:
            assert lab.executions(key) == 1
        assert len(await children(lab, run)) == 5


async def test_the_first_of_several_is_waited_for_and_the_rest_go_on(
    toy: Toy, place: Place
) -> None:
    _, below, word = parts(toy)

    @toy.workflow
    async def first(ctx: Wf) -> list[Any]:
        tasks = [
            asyncio.ensure_future(ctx.workflow.do("Child", below, 1)),
            asyncio.ensure_future(ctx.workflow.wait_for_signal("Word", word)),
            asyncio.ensure_future(ctx.workflow.sleep("Nap", "1min")),
        ]
        ended, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        order = [sorted(tasks.index(task) for task in ended)]
        while pending:
            ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            order.append(sorted(tasks.index(task) for task in ended))
        return [order, tasks[0].result(), tasks[1].result()]

    async with place.lab(toy) as lab:
        run = await toy.start("first")
        await lab.advance("1min")
        await run.signal(word, 5)
        await lab.settle()
        await lab.crash()
        await lab.recover()
        await lab.advance("1h")
        assert await done(lab, run) == [[[2], [1], [0]], 10, 5]


async def test_a_race_of_a_child_a_signal_and_a_sleep(toy: Toy, place: Place) -> None:
    _, below, word = parts(toy)

    @toy.workflow
    async def racing(ctx: Wf, nap: str) -> list[Any]:
        place, value = await ctx.workflow.race(
            ctx.workflow.do("Child", below, 1),
            ctx.workflow.wait_for_signal("Word", word),
            ctx.workflow.sleep("Nap", nap),
        )
        return [place, value]

    async with place.lab(toy) as lab:
        child, signal, nap = [await toy.start("racing", n) for n in ("2h", "2h", "1min")]
        await lab.settle()
        await signal.signal(word, 5)
        await lab.advance("1h")
        assert await done(lab, child) == [0, 10]
        assert await done(lab, signal) == [1, 5]
        assert await done(lab, nap) == [2, None]
        for run, status in ((child, "completed"), (signal, "cancelled"), (nap, "cancelled")):
            (below_id,) = await children(lab, run)
            assert await lab.app.get_run("below", below_id).status() == status


async def test_a_race_in_a_race(toy: Toy, place: Place) -> None:
    _, _, word = parts(toy)

    @toy.workflow
    async def racing(ctx: Wf) -> list[Any]:
        async def inner() -> Any:
            return list(
                await ctx.workflow.race(
                    ctx.workflow.sleep("Long", "1d"), ctx.workflow.wait_for_signal("Word", word)
                )
            )

        place, value = await ctx.workflow.race(ctx.workflow.sleep("Longer", "2d"), inner())
        return [place, value]

    async with place.lab(toy) as lab:
        run = await toy.start("racing")
        await lab.advance("1h")
        await run.signal(word, 5)
        assert await done(lab, run) == [1, [1, 5]]


async def test_the_winner_that_fails_fails_the_race(toy: Toy, place: Place) -> None:
    work, below, _ = parts(toy)

    @toy.workflow
    async def racing(ctx: Wf) -> str:
        try:
            await ctx.workflow.race(
                ctx.workflow.do("Work", work, -1), ctx.workflow.do("Child", below, 1)
            )
        except StepFailedError as failed:
            return failed.error.message
        return "?"

    async with place.lab(toy) as lab:
        run = await toy.start("racing")
        assert await done(lab, run) == "no -1"
        for each in await children(lab, run):
            assert await cancelled(lab, lab.app.get_run("below", each))


async def test_a_map_over_children_tolerates_as_many_failures_as_it_says(
    toy: Toy, place: Place
) -> None:
    _, below, _ = parts(toy)

    @toy.workflow
    async def mapping(ctx: Wf, tolerated: int) -> list[Any]:
        made = await ctx.workflow.map("Child", below, [1, -2, 3, -4], tolerated_failures=tolerated)
        return [each.input if isinstance(each, StepFailure) else each for each in made]

    async with place.lab(toy) as lab:
        enough, too_few = [await toy.start("mapping", n) for n in (2, 1)]
        await lab.advance("1h")
        assert await done(lab, enough) == [10, -2, 30, -4]
        assert (await failure(lab, too_few)).caused_by(StepFailedError)


async def test_a_map_with_retries_and_delays_keeps_its_order(toy: Toy, place: Place) -> None:
    @toy.func
    async def flaky(ctx: Ctx, n: int) -> int:
        if ctx.step.attempt_count <= n:
            raise ValueError("not yet")
        return n

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        return await ctx.workflow.map(
            "Each", flaky, [3, 0, 2, 1], max_concurrency=2, retries=3, retry_delay="1min"
        )

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        await lab.advance("10min")
        assert await done(lab, run) == [3, 0, 2, 1]


async def test_a_sibling_that_ends_while_a_step_waits_for_its_next_attempt_fails_nothing(
    toy: Toy, place: Place
) -> None:
    work, below, _ = parts(toy)
    undone: list[str] = []

    @toy.func(retries=1, retry_delay="2h")
    async def flaky(ctx: Ctx, n: int) -> int:
        if ctx.step.attempt_count == 1:
            raise ValueError("not yet")
        return n

    @toy.func
    async def undo(ctx: Ctx, what: Any) -> None:
        undone.append(what.step_name)

    @toy.workflow
    async def wide(ctx: Wf) -> list[int]:
        async with ctx.workflow.saga() as saga:
            return list(
                await asyncio.gather(
                    saga.do("Flaky", flaky, 1, undo=undo),
                    saga.do("Work", work, 2, undo=undo),
                    ctx.workflow.do("Child", below, 3),
                )
            )

    async with place.lab(toy) as lab:
        run = await toy.start("wide")
        await lab.advance("1h")
        assert await run.status() == "running"
        await lab.advance("1h")
        assert await done(lab, run) == [1, 20, 30]
    assert undone == []


async def test_branches_suspend_wait_and_race_at_once(toy: Toy, place: Place) -> None:
    work, below, word = parts(toy)

    @toy.workflow
    async def wide(ctx: Wf) -> list[Any]:
        async def held() -> str:
            await ctx.workflow.do("Before", work, 1)
            await ctx.workflow.suspend("audit")
            return "held"

        async def raced() -> int:
            place, _ = await ctx.workflow.race(
                ctx.workflow.wait_for_signal("Word", word), ctx.workflow.sleep("Nap", "1h")
            )
            return place

        return list(await asyncio.gather(held(), raced(), ctx.workflow.do("Child", below, 2)))

    async with place.lab(toy) as lab:
        run = await toy.start("wide")
        await lab.settle()
        assert await run.status() == "suspended"
        await lab.advance("2h")
        await run.signal(word, 1)
        await lab.settle()
        assert await run.status() == "suspended"
        await run.resume()
        await lab.advance("2h")
        assert await done(lab, run) == ["held", 1, 20]


async def test_patched_in_branches_that_run_at_once_is_the_same_on_every_replay(
    toy: Toy, place: Place
) -> None:
    work, _, _ = parts(toy)
    seen: list[tuple[int, bool]] = []

    @toy.workflow
    async def wide(ctx: Wf) -> list[bool]:
        async def branch(n: int) -> bool:
            await ctx.workflow.sleep(f"Nap {n}", f"{n + 1}min")
            new = ctx.workflow.patched("edit" if n % 2 else f"edit {n}")
            seen.append((n, new))
            await ctx.workflow.do(f"Work {n}", work, n)
            await ctx.workflow.sleep(f"Nap again {n}", "1h")
            return new

        return list(await asyncio.gather(*(branch(n) for n in range(4))))

    async with place.lab(toy) as lab:
        run = await toy.start("wide")
        await lab.advance("3min")
        await lab.crash()
        await lab.recover()
        await lab.advance("2h")
        assert await done(lab, run) == [True] * 4
    assert all(new for _, new in seen)


async def test_a_group_whose_child_fails_cancels_its_siblings_and_cleans_up(
    toy: Toy, place: Place
) -> None:
    work, below, _ = parts(toy)

    @toy.workflow
    async def grouped(ctx: Wf) -> list[str]:
        cleaned: list[str] = []

        async def guarded(n: int) -> None:
            try:
                await ctx.workflow.do(f"Child {n}", below, n)
            except asyncio.CancelledError:
                cleaned.append(await ctx.workflow.do(f"Clean {n}", lambda: str(n)))
                raise

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(guarded(1))
                group.create_task(guarded(2))
                group.create_task(ctx.workflow.do("Broken", work, -1))
        except* StepFailedError:
            pass
        return sorted(cleaned)

    async with place.lab(toy) as lab:
        run = await toy.start("grouped")
        assert await done(lab, run) == ["1", "2"]
        for each in await children(lab, run):
            assert await cancelled(lab, lab.app.get_run("below", each))
