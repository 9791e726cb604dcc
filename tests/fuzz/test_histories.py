"""Any change of an exported run is refused with its place, or imported whole: it exports back to
the same document, every command shows it, and the doctor finds nothing wrong with it."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.fuzz.kit import ODD_TEXTS, mangled, mutated, odd_value, rounds
from tests.life.kit import Place
from tests.runtime.kit import Ctx, Lab, Toy, Wf

from pikku import Run, Undo
from pikku._codec import first_difference
from pikku._commands.timeline import run_lines, timeline
from pikku._commands.ward import cases_of, unfinished_runs
from pikku._documents import history_documents, show_document
from pikku._exported import imported
from pikku._records import HistoryEntry, RunFilter, RunRecord, StepRecord
from pikku._waits import wait_of
from pikku.errors import (
    HistoryFormatError,
    PikkuError,
    ReplayDivergedError,
    RunConflictError,
    RunStateError,
    UnknownWorkflowError,
)
from pikku.testing.replays import read_history

Data = dict[str, Any]


class Broken(Exception):
    pass


def kit() -> Toy:
    """An app with steps of each kind."""
    toy = Toy()
    word = toy.registry.wire_signal(name="word", payload=int)

    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        if n < 0:
            raise Broken("broken")
        return n

    @toy.func
    async def undo(ctx: Ctx, what: Undo[int, int]) -> None:
        return None

    @toy.workflow
    async def below(ctx: Wf, n: int) -> int:
        await ctx.workflow.sleep("Nap", "1h")
        return await ctx.workflow.do("Work", work, n)

    @toy.workflow
    async def job(ctx: Wf, n: int) -> list[Any]:
        drawn = await ctx.workflow.random()
        first = await ctx.workflow.do("First", work, 1)
        got = await ctx.workflow.wait_for_signal("Word", word, timeout="5d")
        said = await ctx.workflow.approval("Pay?", expires_in="9d")
        child, each = await asyncio.gather(
            ctx.workflow.do("Child", below, 4), ctx.workflow.map("Each", work, [5, 6])
        )
        async with ctx.workflow.saga() as saga:
            seat = await saga.do("Seat", work, 7, undo=undo)
            new = ctx.workflow.patched("edit")
            last = await ctx.workflow.do("Last", work, n, retries=2, retry_delay="1h")
        await ctx.workflow.suspend("look at it")
        return [drawn > 1, first, got, said.outcome, child, *each, seat, new, last]

    return toy


async def real_runs() -> list[Data]:
    """Exports of runs in every state that a run can be in."""
    found: list[Data] = []
    toy = kit()
    async with Place("memory://").lab(toy) as lab:

        async def keep() -> None:
            for info in await toy.app.list_runs(limit=100):
                found.append(dict(await toy.app.get_run(info.workflow, info.run_id).export()))

        good = await toy.start("job", 8, wait=False)
        bad = await toy.start("job", -8, wait=False)
        off = await toy.start("job", 3, wait=False)
        await lab.settle()
        await keep()
        for run in (good, bad, off):
            await toy.app.send_signal(run, "word", 3)
            await lab.settle()
            await run.approve("Pay?", by="bob")
        await lab.settle()
        await off.cancel("enough")
        await lab.settle()
        await keep()
        await lab.advance("1h")
        await keep()
        await lab.advance("3h")
        await good.resume()
        await lab.settle()
        await keep()
    unlike = {json.dumps(each, sort_keys=True): each for each in found}
    return list(unlike.values())


@pytest.fixture(scope="module")
def runs() -> list[Data]:
    found = asyncio.run(real_runs())
    assert {run["run"]["status"] for run in found} == {
        "running",
        "suspended",
        "completed",
        "failed",
        "cancelled",
    }
    return found


@pytest.fixture(params=["memory", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "redis":
        return Place(request.getfixturevalue("redis_url"))
    return Place("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db")


def changed(document: Data, draw: Random) -> Any:
    """The document with changes anywhere, or in one place that matters."""
    if draw.random() < 0.5:
        return mutated(document, draw, draw.choice([1, 1, 1, 2, 4]))
    made = copy.deepcopy(document)
    part = draw.choice([made["run"], *made["steps"], *made["history"]])
    name = draw.choice(list(part))
    texts = ["null", "NaN", "[", "{}", '{"message": 5}', '"\\ud800"', "[" * 300 + "]" * 300]
    words = ["running", "failed", "succeeded", "completed", "rpc", "child", "sleep", "approval"]
    part[name] = draw.choice([*ODD_TEXTS, *texts, *words, 0, 1, 2, None, odd_value(draw)])
    return made


def whole(document: Data) -> Data:
    """What a store has to keep of a document: all but which process had the run, and that a run
    under way is suspended."""
    kept: Data = json.loads(json.dumps(document))
    for part, kind in [(kept["run"], RunRecord), *((s, StepRecord) for s in kept["steps"])]:
        for field in dataclasses.fields(kind):
            if field.default is not dataclasses.MISSING:
                part.setdefault(field.name, field.default)
        for name in ("owner", "turned_by", "worker", "queue", "queued"):
            part.pop(name, None)
        if isinstance(part.get("due_us"), int):
            part["due_us"] = int(float(part["due_us"]))  # as a store may keep it
    for entry in kept["history"]:
        for name, default in HistoryEntry._field_defaults.items():
            entry.setdefault(name, default)
    if kept["run"]["finished_us"] is None:
        kept["run"] |= {"status": "suspended", "suspend_reason": "imported"}
    kept["steps"].sort(key=lambda step: step["key"])
    return kept


async def taken(lab: Lab, data: Any) -> str | None:
    """The id of the imported run; None where it is refused as it should be."""
    before = await lab._store.count_runs()
    try:
        run = await lab.app.import_run(data)
    except (HistoryFormatError, RunStateError) as error:
        assert isinstance(error, HistoryFormatError) or "not here" in error.message
        assert str(error).startswith(error.code)
        str(error).encode()
        assert await lab._store.count_runs() == before
        return None
    except RunConflictError:
        return None
    return run.run_id


async def assert_whole(lab: Lab, run_id: str, data: Data) -> None:
    """The run can be loaded, listed and shown, and is exported as it was imported."""
    workflow = data["run"]["workflow"]
    store = lab._store
    handle: Run[Any] = Run(run_id, workflow, lambda: lab.app.opened)
    exported, given = whole(dict(await handle.export())), whole(data)
    assert first_difference(json.dumps(exported), json.dumps(given)) is None
    loaded = await store.load_steps(run_id)
    assert loaded is not None
    assert loaded.fault is None
    entries = list(await store.load_history(run_id))
    now_us = store.clock.now_us()
    wait = wait_of(loaded, now_us)
    assert (await handle.info()).run_id == run_id
    json.dumps(show_document(loaded, wait, entries)).encode()
    json.dumps(history_documents(await handle.history())).encode()
    "".join(timeline(loaded, entries, wait, now_us)).encode()
    listed = await store.list_runs(RunFilter(workflow=workflow, text=run_id, limit=999))
    assert run_id in [run.run_id for run in listed]
    "".join(run_lines(listed)).encode()


async def test_a_mutated_history_is_refused_or_imported_whole(
    runs: list[Data], place: Place
) -> None:
    """Many into one store, as nobody asks the others."""
    toy = kit()
    there: dict[str, Data] = {}
    async with place.lab(toy) as lab:
        for number, draw in enumerate(rounds(150, f"history {place.url[:5]}")):
            document = copy.deepcopy(draw.choice(runs))
            document["run"]["run_id"] = f"run-{number:06}"
            data = changed(document, draw)
            run_id = await taken(lab, data)
            if run_id is not None:
                await assert_whole(lab, run_id, data)
                there[run_id] = data

        assert there
        assert await cases_of(lab._store, await unfinished_runs(lab._store)) == []


async def test_a_mutated_history_replays_diverges_or_is_refused(runs: list[Data]) -> None:
    toy = kit()
    for draw in rounds(150, "replay"):
        data = changed(draw.choice(runs), draw)
        try:
            toy.app.verify_replay(data)
        except (HistoryFormatError, ReplayDivergedError, UnknownWorkflowError) as error:
            str(error).encode()


async def test_an_imported_run_that_was_mutated_can_be_resumed_retried_and_deleted(
    runs: list[Data],
) -> None:
    toy = kit()
    async with Place("memory://").lab(toy) as lab:
        for number, draw in enumerate(rounds(60, "resume")):
            document = copy.deepcopy(draw.choice(runs))
            document["run"]["run_id"] = f"run-{number:06}"
            data = changed(document, draw)
            run_id = await taken(lab, data)
            if run_id is None:
                continue
            run = lab.app.get_run("job", run_id)
            for word in (run.resume(), run.retry()):
                try:
                    await word
                except PikkuError as error:
                    str(error).encode()
            await lab.settle()
            await run.cancel("that was all")
            await lab.advance("1h")
            await run.history()
            if await run.status() in ("completed", "failed", "cancelled"):
                await run.delete()


async def test_an_unchanged_history_is_imported_whole(runs: list[Data], place: Place) -> None:
    async with place.lab(kit()) as lab:
        for number, document in enumerate(runs):
            data = copy.deepcopy(document)
            data["run"]["run_id"] = f"run-{number:06}"
            run_id = await taken(lab, data)

            if run_id is None:
                waits = [step for step in data["steps"] if step["kind"] == "child"]
                assert data["run"]["finished_us"] is None
                assert [step for step in waits if step["status"] == "scheduled"]
                continue
            await assert_whole(lab, run_id, data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("format", True),
        ("run.turn", "3"),
        ("run.turn", 2**63),
        ("run.inline", 0),
        ("run.workflow", "\ud800"),
        ("run.input", "NaN"),
        ("run.input", "[" * 100_000),
        ("run.error", '{"message": 5}'),
        ("run.created_us", 10**18),
        ("run.finished_us", None),
        ("run.cancel_reason", "why"),
        ("run.forked_from", ""),
        ("run.tags", ["a\x00b"]),
        ("steps.0.key", "x" * 70_000),
        ("steps.0.target", "x" * 70_000),
        ("steps.0.position", -1),
        ("steps.0.progress", "half"),
        ("history.0.kind", "x" * 300),
        ("history.0.attempt", 0),
        ("history.0.at_us", 0),
    ],
)
def test_what_no_store_would_give_back_is_refused(runs: list[Data], place: str, value: Any) -> None:
    data = next(run for run in runs if run["run"]["status"] == "completed" and run["history"])
    data = copy.deepcopy(data)
    holder: Any = data
    *way, name = place.split(".")
    for part in way:
        holder = holder[int(part) if part.isdigit() else part]
    holder[name] = value

    with pytest.raises(HistoryFormatError):
        imported(data)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "run",
        {},
        {"pikku": "run"},
        {1: 2},
        {"pikku": "run", "format": 1, "run": {1: 2}, "steps": {1}, "history": ()},
    ],
)
def test_what_is_no_document_is_refused(data: Any) -> None:
    with pytest.raises(HistoryFormatError):
        imported(data)


def test_a_file_that_holds_no_history_is_refused(tmp_path: Path, runs: list[Data]) -> None:
    file = tmp_path / "run.json"
    good = json.dumps(runs[0]).encode()
    for draw in rounds(60, "file"):
        file.write_bytes(mangled(good, draw, draw.randint(1, 3)))
        try:
            imported(read_history(file))
        except HistoryFormatError as error:
            str(error).encode()
