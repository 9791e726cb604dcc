"""Starting with a delay, tags, a starter; starting many; finding them again."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.life.kit import PATIENCE, Place, cancelled, done, failure
from tests.runtime.kit import Ctx, Toy, Wf

from pikku.errors import DeclarationError, RunConflictError


@pytest.fixture
def calls(toy: Toy) -> list[int]:
    """A workflow `job` that notes its input."""
    calls: list[int] = []

    @toy.func
    async def note(ctx: Ctx, n: int) -> int:
        calls.append(n)
        return n

    @toy.registry.pikku_workflow_func
    async def job(ctx: Wf, n: int) -> int:
        await ctx.workflow.sleep("Nap", "1min")
        return await ctx.workflow.do("Note", note, n)

    toy.registry.wire_workflow(name="job", func=job, tags=["standing"])

    @toy.workflow(name="quick")
    async def quick(ctx: Wf, n: int) -> int:
        return await ctx.workflow.do("Note", note, n)

    return calls


# --- delay --------------------------------------------------------------------------------------


async def test_a_delayed_run_begins_when_it_is_due_and_not_before(
    toy: Toy, place: Place, calls: list[int]
) -> None:
    async with place.lab(toy) as lab:
        run = await toy.app.start_workflow("quick", 1, delay="1h")
        await lab.settle()
        assert await run.status() == "running"
        await lab.advance("59min59s")
        assert calls == []
        await lab.advance("1s")
        assert await done(lab, run) == 1
        assert calls == [1]


async def test_a_delay_survives_a_crash_and_is_not_armed_again(
    toy: Toy, place: Place, calls: list[int]
) -> None:
    async with place.lab(toy) as lab:
        run = await toy.app.start_workflow("quick", 1, delay=timedelta(hours=1))
        await lab.advance("40min")
        await lab.crash()
        await lab.recover()
        assert calls == []
        await lab.advance("20min")
        assert await done(lab, run) == 1


async def test_another_process_begins_a_delayed_run(toy: Toy, shared: Place) -> None:
    @toy.workflow
    async def quick(ctx: Wf) -> int:
        return 1

    other = Toy()
    other.workflow(quick.func, name="quick")
    async with shared.lab(toy) as lab:
        run = await toy.app.start_workflow("quick", delay="1h")
        await lab.settle()
        clock = lab.clock
    lab = shared.lab(other)
    lab.clock = clock
    async with lab:
        await lab.advance("1h")
        assert await done(lab, other.app.get_run("quick", str(run))) == 1


async def test_delayed_runs_begin_in_the_order_of_their_times(
    toy: Toy, evicted: Place, calls: list[int]
) -> None:
    async with evicted.lab(toy) as lab:
        for n in (3, 1, 2):
            await toy.app.start_workflow("quick", n, delay=timedelta(minutes=n))
        await lab.advance("5min")
        assert calls == [1, 2, 3]


async def test_the_time_limit_of_a_delayed_run_does_not_count_its_delay(
    toy: Toy, place: Place
) -> None:
    async def limited(ctx: Wf) -> str:
        await ctx.workflow.sleep("Nap", "30min")
        return "in time"

    toy.workflow(limited, name="limited", timeout="1h")
    async with place.lab(toy) as lab:
        run = await toy.app.start_workflow("limited", delay="2h")
        await lab.advance("2h")
        await lab.advance("30min")
        assert await done(lab, run) == "in time"


async def test_a_delayed_start_is_idempotent_by_its_run_id(
    toy: Toy, evicted: Place, calls: list[int]
) -> None:
    async with evicted.lab(toy) as lab:
        runs = [await toy.app.start_workflow("quick", 1, run_id="r", delay="1h") for _ in range(3)]
        with pytest.raises(RunConflictError):
            await toy.app.start_workflow("quick", 2, run_id="r", delay="1h")
        await lab.advance("3h")
        assert await done(lab, runs[0]) == 1
        assert calls == [1]


async def test_a_signal_may_come_before_a_delayed_run_begins(toy: Toy, place: Place) -> None:
    word = toy.registry.wire_signal(name="word", payload=int)

    @toy.workflow
    async def waiting(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", word)

    async with place.lab(toy) as lab:
        run = await toy.app.start_workflow("waiting", delay="1h")
        await lab.settle()
        await run.signal(word, 5)
        await lab.settle()
        assert await run.status() == "running"
        assert [event.kind for event in await run.history() if event.kind == "wait_ended"] == []
        await lab.advance("1h")
        assert await done(lab, run) == 5


# --- tags and starters --------------------------------------------------------------------------


async def test_runs_are_found_by_their_own_tags_and_those_of_their_workflow(
    toy: Toy, evicted: Place, calls: list[int]
) -> None:
    async with evicted.lab(toy) as lab:
        one = await toy.app.start_workflow("job", 1, tags=["red", "ü ⚙"])
        two = await toy.app.start_workflow("job", 2)
        three = await toy.app.start_workflow("quick", 3, tags=("red",))
        await lab.settle()

        async def found(tag: str) -> set[str]:
            return {info.run_id for info in await toy.app.list_runs(tag=tag)}

        assert await found("red") == {str(one), str(three)}
        assert await found("standing") == {str(one), str(two)}
        assert await found("ü ⚙") == {str(one)}
        assert await found("re") == set()
        assert set((await one.info()).tags) == {"standing", "red", "ü ⚙"}


async def test_who_started_a_run_is_kept(toy: Toy, evicted: Place, calls: list[int]) -> None:
    async with evicted.lab(toy) as lab:
        mine = await toy.app.start_workflow("job", 1, started_by="ann é")
        nobodys = await toy.app.start_workflow("job", 2)
        await lab.settle()
        assert (await mine.info()).started_by == "ann é"
        assert (await nobodys.info()).started_by is None
        assert [info.run_id for info in await toy.app.list_runs(text="ann é")] == [str(mine)]


async def test_a_child_has_the_starter_of_its_parent(toy: Toy, evicted: Place) -> None:
    @toy.workflow
    async def asking(ctx: Wf) -> str:
        return (await ctx.workflow.approval("Pay?", approvers="owner")).outcome

    @toy.workflow
    async def parent(ctx: Wf) -> str:
        return await ctx.workflow.do("Child", asking)

    async with evicted.lab(toy) as lab:
        run = await toy.app.start_workflow("parent", started_by="ann")
        await lab.settle()
        (child,) = [info for info in await toy.app.list_runs() if info.workflow == "asking"]
        assert child.started_by == "ann"
        await toy.app.get_run("asking", child.run_id).approve("Pay?", by="ann")
        assert await done(lab, run) == "approved"


# --- many ---------------------------------------------------------------------------------------


async def test_many_runs_are_started_in_the_order_of_their_items(
    toy: Toy, place: Place, calls: list[int]
) -> None:
    async with place.lab(toy) as lab:
        runs = await toy.app.start_many("quick", range(30), tags=["t"], started_by="ann")
        assert len({str(run) for run in runs}) == 30
        assert [await done(lab, run) for run in runs] == list(range(30))
        infos = await toy.app.list_runs(tag="t", limit=100)
        assert {info.started_by for info in infos} == {"ann"}
        assert (await toy.app.count_runs(tag="t")) == {"completed": 30}


async def test_two_thousand_runs_are_started_and_end(
    toy: Toy, memory_modes: Place, calls: list[int]
) -> None:
    async with memory_modes.lab(toy):
        runs = await toy.app.start_many("quick", (n for n in range(2000)))
        results = await asyncio.gather(*(run.result(timeout="25s") for run in runs))
        assert list(results) == list(range(2000))


# --- list, count --------------------------------------------------------------------------------


async def test_lists_and_counts_are_filtered(toy: Toy, evicted: Place, calls: list[int]) -> None:
    @toy.workflow
    async def broken(ctx: Wf) -> None:
        raise ValueError("a rare word")

    app = toy.app
    async with evicted.lab(toy) as lab:
        begin = lab.clock.now()
        completed = await app.start_workflow("quick", 1, tags=["a"])
        await done(lab, completed)
        await lab.advance("1h")
        failed = await app.start_workflow("broken", tags=["a"])
        await failure(lab, failed)
        await lab.advance("1h")
        running, unwound = [await app.start_workflow("job", n) for n in (1, 2)]
        await lab.settle()
        await unwound.cancel("x")
        await cancelled(lab, unwound)

        async def ids(**filters: object) -> set[str]:
            return {info.run_id for info in await app.list_runs(**filters)}  # type: ignore[arg-type]

        everyone = {str(run) for run in (completed, failed, running, unwound)}
        assert await ids() == everyone
        assert await ids(workflow="job") == {str(running), str(unwound)}
        assert await ids(status="failed") == {str(failed)}
        assert await ids(status="suspended") == set()
        assert await ids(tag="a", status="completed") == {str(completed)}
        assert await ids(text="rare word") == {str(failed)}
        assert await ids(text=str(running)[3:20]) == {str(running)}
        half = timedelta(minutes=30)
        assert await ids(created_after=begin + half) == everyone - {str(completed)}
        assert await ids(created_before=begin + half) == {str(completed)}
        assert await ids(created_after=begin + half, created_before=begin + 3 * half) == {
            str(failed)
        }
        assert await app.count_runs() == {
            "completed": 1,
            "failed": 1,
            "running": 1,
            "cancelled": 1,
        }
        assert await app.count_runs(tag="a") == {"completed": 1, "failed": 1}
        assert await app.count_runs(workflow="nothing") == {}
        assert [info.run_id for info in await app.list_runs(limit=1)] != []
        assert len(await app.list_runs(limit=2)) == 2


async def test_lists_begin_with_the_newest(toy: Toy, evicted: Place, calls: list[int]) -> None:
    async with evicted.lab(toy) as lab:
        runs = []
        for n in range(5):
            runs.append(str(await toy.start("quick", n)))
            await lab.advance("1s")
        assert [info.run_id for info in await toy.app.list_runs()] == runs[::-1]
        assert [info.run_id for info in await toy.app.list_runs(limit=2)] == runs[:2:-1]


async def test_pinned_is_kept(toy: Toy, evicted: Place, calls: list[int]) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.app.start_workflow("quick", 1, pinned=True)
        assert (await run.info()).pinned is True
        await lab.settle()
        assert await run.result(timeout=PATIENCE) == 1


@pytest.mark.parametrize("pinned", ["yes", 1, None])
async def test_pinned_is_yes_or_no(toy: Toy, evicted: Place, pinned: Any) -> None:
    @toy.workflow
    async def quick(ctx: Wf) -> int:
        return 1

    async with evicted.lab(toy):
        with pytest.raises(DeclarationError, match="pinned"):
            await toy.app.start_workflow("quick", pinned=pinned)
        assert await toy.app.list_runs() == []
