"""Export and import: a run as plain JSON data, in another store, and as a test of today's code."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.life.kit import Place, cancelled, done, everything, failure
from tests.runtime.kit import Ctx, Toy, Wf

from pikku import Undo
from pikku.errors import (
    HistoryFormatError,
    ReplayDivergedError,
    RunConflictError,
    RunStateError,
    UnknownWorkflowError,
)
from pikku.testing import assert_replays

Data = dict[str, Any]


class Deployed:
    """An app with a workflow of every kind of step, and a switch that breaks one."""

    def __init__(self) -> None:
        self.toy = Toy()
        self.broken = True
        self.calls: list[int] = []
        deployed = self
        self.word = self.toy.registry.wire_signal(name="word", payload=int)

        @self.toy.func
        async def work(ctx: Ctx, n: int) -> int:
            deployed.calls.append(n)
            if n < 0 and deployed.broken:
                raise ValueError("broken")
            return abs(n)

        @self.toy.func
        async def undo(ctx: Ctx, what: Undo[int, int]) -> None:
            return None

        @self.toy.workflow
        async def below(ctx: Wf, n: int) -> int:
            return await ctx.workflow.do("Work", work, n)

        @self.toy.workflow
        async def job(ctx: Wf, n: int) -> list[Any]:
            drawn = await ctx.workflow.random()
            first = await ctx.workflow.do("First", work, 1)
            await ctx.workflow.sleep("Nap", "1h")
            got = await ctx.workflow.wait_for_signal("Word", deployed.word)
            said = await ctx.workflow.approval("Pay?")
            child = await ctx.workflow.do("Child", below, 4)
            each = await ctx.workflow.map("Each", work, [5, 6])
            place, _ = await ctx.workflow.race(
                ctx.workflow.sleep("Short", "1s"), ctx.workflow.sleep("Long", "1d")
            )
            async with ctx.workflow.saga() as saga:
                seat = await saga.do("Seat", work, 7, undo=undo)
            new = ctx.workflow.patched("edit")
            last = await ctx.workflow.do("Last", work, n)
            return [drawn > 1, first, got, said.outcome, child, *each, place, seat, new, last]

        self.work = work

    @property
    def result(self) -> list[Any]:
        return [False, 1, 3, "approved", 4, 5, 6, 0, 7, True, 8]

    async def run_to_the_last_step(self, lab: Any, n: int = -8) -> Any:
        run = await self.toy.start("job", n)
        await lab.advance("1h")
        await run.signal(self.word, 3)
        await lab.settle()
        await run.approve("Pay?", by="bob")
        await lab.advance("1s")
        return run


@pytest.fixture
def deployed() -> Deployed:
    return Deployed()


async def exported(place: Place, deployed: Deployed, n: int = 8) -> Data:
    async with place.lab(deployed.toy) as lab:
        run = await deployed.run_to_the_last_step(lab, n)
        if n > 0:
            assert await done(lab, run) == deployed.result
        else:
            await failure(lab, run)
        data: Data = await run.export()
    return data


async def test_an_export_is_plain_json(evicted: Place, deployed: Deployed) -> None:
    data = await exported(evicted, deployed)
    assert json.loads(json.dumps(data)) == data
    assert (data["pikku"], data["format"]) == ("run", 1)


def _without_processes(data: Any) -> Data:
    """An export without what names processes, which are not those of another store."""
    kept: Data = copy.deepcopy(data)
    for part in (kept["run"], *kept["steps"]):
        for name in ("owner", "turned_by", "worker", "queue"):
            part.pop(name, None)
    return kept


async def test_an_export_comes_back_as_it_was(
    evicted: Place, deployed: Deployed, memory_modes: Place
) -> None:
    async with evicted.lab(deployed.toy) as lab:
        run = await deployed.run_to_the_last_step(lab, 8)
        await done(lab, run)
        data = json.loads(json.dumps(await run.export()))
        history, info = await run.history(), await run.info()
    there = Deployed()
    async with memory_modes.lab(there.toy) as lab:
        imported = await there.toy.app.import_run(data)
        await lab.settle()
        assert (imported.run_id, imported.workflow) == (info.run_id, "job")
        assert await imported.info() == info
        assert await imported.history() == history
        assert await imported.result() == there.result
        assert _without_processes(await imported.export()) == _without_processes(data)
        assert there.calls == []


async def test_a_failed_run_is_imported_and_retried(
    evicted: Place, deployed: Deployed, memory_modes: Place
) -> None:
    data = await exported(evicted, deployed, -8)
    there = Deployed()
    there.broken = False
    async with memory_modes.lab(there.toy) as lab:
        run = await there.toy.app.import_run(data)
        assert await run.status() == "failed"
        await run.retry()
        assert await done(lab, run) == there.result
        assert there.calls == [-8]


async def test_an_imported_run_is_forked(
    evicted: Place, deployed: Deployed, memory_modes: Place
) -> None:
    data = await exported(evicted, deployed)
    there = Deployed()
    async with memory_modes.lab(there.toy) as lab:
        run = await there.toy.app.import_run(data)
        fork = await run.fork("Last", input=9)
        assert (await done(lab, fork))[-1] == 9
        assert there.calls == [9]


async def test_a_run_under_way_is_imported_suspended_and_goes_on_by_resume(
    evicted: Place, deployed: Deployed, memory_modes: Place
) -> None:
    async with evicted.lab(deployed.toy) as lab:
        run = await deployed.toy.start("job", 8)
        await lab.advance("10min")
        data = await run.export()
    there = Deployed()
    async with memory_modes.lab(there.toy) as lab:
        imported = await there.toy.app.import_run(data)
        await lab.advance("2h")
        assert await imported.status() == "suspended"
        assert there.calls == []
        await imported.resume()
        await lab.advance("1h")
        await imported.signal(there.word, 3)
        await lab.settle()
        await imported.approve("Pay?")
        await lab.advance("1s")
        assert await done(lab, imported) == there.result
        assert 1 not in there.calls, "a recorded step was executed again"


async def test_a_cancelled_run_is_imported_as_it_is(
    evicted: Place, deployed: Deployed, memory_modes: Place
) -> None:
    async with evicted.lab(deployed.toy) as lab:
        run = await deployed.toy.start("job", 8)
        await lab.settle()
        await run.cancel("enough")
        await cancelled(lab, run)
        data = await run.export()
    there = Deployed()
    async with memory_modes.lab(there.toy) as lab:
        assert await cancelled(lab, await there.toy.app.import_run(data)) == "enough"


async def test_an_id_that_is_taken_is_a_conflict(evicted: Place, deployed: Deployed) -> None:
    async with evicted.lab(deployed.toy) as lab:
        run = await deployed.run_to_the_last_step(lab, 8)
        await done(lab, run)
        data = await run.export()
        before = await everything(lab)
        with pytest.raises(RunConflictError):
            await deployed.toy.app.import_run(data)
        assert await everything(lab) == before
        await run.delete()
        again = await deployed.toy.app.import_run(data)
        assert await again.result() == deployed.result


async def test_an_imported_child_has_no_living_parent_to_tell(
    evicted: Place, memory_modes: Place
) -> None:
    def two() -> Toy:
        toy = Toy()

        @toy.workflow
        async def child(ctx: Wf) -> int:
            await ctx.workflow.sleep("Nap", "1h")
            return 1

        @toy.workflow
        async def parent(ctx: Wf) -> int:
            return await ctx.workflow.do("Child", child)

        return toy

    toy = two()
    async with evicted.lab(toy) as lab:
        await toy.start("parent")
        await lab.settle()
        (info,) = await toy.app.list_runs(workflow="child")
        data = await toy.app.get_run("child", info.run_id).export()
    there = two()
    async with memory_modes.lab(there) as lab:
        run = await there.app.import_run(data)
        await run.resume()
        await lab.advance("1h")
        assert await done(lab, run) == 1


def family() -> Toy:
    toy = Toy()

    @toy.workflow
    async def child(ctx: Wf) -> int:
        await ctx.workflow.sleep("Nap", "1h")
        return 1

    async def parent(ctx: Wf) -> int:
        return await ctx.workflow.do("Child", child)

    toy.workflow(parent, name="parent", timeout="1d")
    return toy


async def two_exports(place: Place) -> tuple[Any, Any]:
    """A parent that waits, and its child."""
    toy = family()
    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        await lab.settle()
        (child,) = await run.children()
        return await run.export(), await child.export()


async def test_a_run_is_not_imported_without_the_children_that_it_waits_for(
    evicted: Place, memory_modes: Place
) -> None:
    parent, child = await two_exports(memory_modes)
    there = family()
    async with evicted.lab(there) as lab:
        before = await everything(lab)
        with pytest.raises(RunStateError, match=child["run"]["run_id"]) as refused:
            await there.app.import_run(parent)
        assert "import them first" in refused.value.hint
        assert await everything(lab) == before


@pytest.mark.parametrize("ended_first", [False, True])
async def test_a_family_is_imported_from_below(
    evicted: Place, memory_modes: Place, ended_first: bool
) -> None:
    parent, child = await two_exports(memory_modes)
    there = family()
    async with evicted.lab(there) as lab:
        below = await there.app.import_run(child)
        if ended_first:
            await below.resume()
            await lab.advance("1h")
            assert await done(lab, below) == 1
        run = await there.app.import_run(parent)
        assert (await run.info()).suspend_reason == "imported"
        await run.resume()
        if not ended_first:
            await lab.settle()
            await below.resume()
            await lab.advance("1h")
        assert await done(lab, run) == 1


async def test_the_time_limit_of_an_imported_run_begins_when_it_is_resumed(
    evicted: Place, memory_modes: Place
) -> None:
    def limited() -> Toy:
        toy = Toy()

        async def napping(ctx: Wf) -> None:
            await ctx.workflow.sleep("Nap", "9d")

        toy.workflow(napping, name="napping", timeout="1d")
        return toy

    here = limited()
    async with memory_modes.lab(here) as lab:
        run = await here.start("napping")
        await lab.settle()
        data = await run.export()
    there = limited()
    async with evicted.lab(there) as lab:
        run = await there.app.import_run(data)
        await lab.advance("2d")
        assert await run.status() == "suspended"
        await run.resume()
        await lab.advance("23h")
        assert await run.status() == "running"
        await lab.advance("1h")
        assert (await failure(lab, run)).error.type == "RunTimeoutError"


# --- replaying ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, -8])
async def test_an_export_replays_with_the_code_that_made_it(
    memory_modes: Place, deployed: Deployed, n: int, tmp_path: Path
) -> None:
    data = await exported(memory_modes, deployed, n)
    deployed.calls.clear()
    assert_replays(deployed.toy.app, data)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    assert_replays(deployed.toy.app, file)
    assert deployed.calls == []


def edited(body: Callable[[Wf], Any]) -> Toy:
    toy = Deployed().toy
    toy.registry.functions.pop("work")

    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        raise AssertionError("nothing is executed")

    toy.workflow(body, name="small")
    return toy


async def small(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    one = await do("One", "work", 1)
    await ctx.workflow.sleep("Nap", "1h")
    return int(one + await do("Two", "work", 2))


async def renamed(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    one = await do("Uno", "work", 1)
    await ctx.workflow.sleep("Nap", "1h")
    return int(one + await do("Two", "work", 2))


async def reordered(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    await ctx.workflow.sleep("Nap", "1h")
    one = await do("One", "work", 1)
    return int(one + await do("Two", "work", 2))


async def shorter(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    return int(await do("One", "work", 1))


async def inserted(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    one = await do("One", "work", 1)
    await do("Between", "work", 5)
    await ctx.workflow.sleep("Nap", "1h")
    return int(one + await do("Two", "work", 2))


async def guarded(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    one = await do("One", "work", 1)
    if ctx.workflow.patched("between"):
        await do("Between", "work", 5)
    await ctx.workflow.sleep("Nap", "1h")
    return int(one + await do("Two", "work", 2))


@pytest.mark.parametrize("body", [renamed, reordered, shorter, inserted])
async def test_code_that_takes_another_way_is_told_with_the_difference(
    memory_modes: Place, body: Callable[[Wf], Any]
) -> None:
    made = Deployed()
    made.toy.workflow(small, name="small")
    async with memory_modes.lab(made.toy) as lab:
        run = await made.toy.start("small")
        await lab.advance("1h")
        await done(lab, run)
        data = await run.export()
    with pytest.raises(ReplayDivergedError) as caught:
        edited(body).app.verify_replay(data)
    assert str(run) in str(caught.value)
    assert caught.value.difference


async def test_code_whose_edit_is_guarded_replays(memory_modes: Place) -> None:
    made = Deployed()
    made.toy.workflow(small, name="small")
    async with memory_modes.lab(made.toy) as lab:
        run = await made.toy.start("small")
        await lab.advance("1h")
        await done(lab, run)
        data = await run.export()
    edited(guarded).app.verify_replay(data)


async def test_the_replay_of_a_workflow_that_is_not_there(
    memory_modes: Place, deployed: Deployed
) -> None:
    data = await exported(memory_modes, deployed)
    with pytest.raises(UnknownWorkflowError):
        Toy().app.verify_replay(data)


# --- what is no export --------------------------------------------------------------------------


def _set(*path: Any, to: Any) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        part: Any = data
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = to

    return change


def _drop(*path: Any) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        part: Any = data
        for step in path[:-1]:
            part = part[step]
        del part[path[-1]]

    return change


DAMAGES: dict[str, tuple[Callable[[Data], None], str]] = {
    "format": (_set("format", to=2), "format"),
    "magic": (_set("pikku", to="runs"), "pikku"),
    "no run": (_drop("run"), "run"),
    "no steps": (_drop("steps"), "steps"),
    "no history": (_drop("history"), "history"),
    "status": (_set("run", "status", to="done"), "run.status"),
    "run id": (_set("run", "run_id", to="a b"), "run.run_id"),
    "run id type": (_set("run", "run_id", to=5), "run.run_id"),
    "input": (_set("run", "input", to="{"), "run.input"),
    "output": (_set("run", "output", to="]"), "run.output"),
    "step status": (_set("steps", 1, "status", to="dreaming"), "steps.1.status"),
    "step kind": (_set("steps", 1, "kind", to="magic"), "steps.1.kind"),
    "attempt": (_set("steps", 1, "attempt", to=0), "steps.1.attempt"),
    "key twice": (_set("steps", 2, "key", to="First"), "steps.2.key"),
    "result": (_set("steps", 1, "result", to="{,}"), "steps.1.result"),
    "delivery": (_set("steps", 1, "delivery", to=99), "steps.1.delivery"),
    "a step is missing": (_drop("steps", 1), "run.deliveries"),
    "deliveries": (_set("run", "deliveries", to=3), ""),
    "negative deliveries": (_set("run", "deliveries", to=-1), ""),
    "more": (_set("run", "surprise", to=1), "run.surprise"),
    "time": (_set("run", "created_us", to="yesterday"), "run.created_us"),
    "history": (_set("history", to=[{"kind": 5}]), "history.0"),
    "tags": (_set("run", "tags", to="text"), "run.tags"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
async def test_a_damaged_export_is_refused_with_the_place_of_the_fault(
    memory_modes: Place, deployed: Deployed, damage: str
) -> None:
    data = await exported(memory_modes, deployed)
    data["steps"].sort(key=lambda step: step["position"])
    assert data["steps"][1]["key"] == "First"
    broken = copy.deepcopy(data)
    change, place = DAMAGES[damage]
    change(broken)
    there = Deployed()
    async with memory_modes.lab(there.toy) as lab:
        with pytest.raises(HistoryFormatError) as caught:
            await there.toy.app.import_run(broken)
        assert place in f"{caught.value.place} {caught.value}"
        assert await everything(lab) == {}
    with pytest.raises(HistoryFormatError):
        there.toy.app.verify_replay(broken)
