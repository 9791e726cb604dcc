"""`pikku doctor` on runs: what lost its next action is found, and with --repair gets one."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.cli.desk import Desk
from tests.cli.test_worker import REMOTE, START_NAP, eventually, stop

from pikku._commands import ward
from pikku._diagnosis import Symptom
from pikku._records import Examination, LoadedRun
from pikku.stores.base import Store
from pikku.stores.memory import MemoryStore
from pikku.testing.store_contract import must, new_run

ON_A_QUEUE = "@registry.pikku_func(dispatch='queue')\nasync def note"


def change(desk: Desk, *statements: str) -> None:
    """Damage the store."""
    with closing(sqlite3.connect(desk.folder / "runs.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def rows(desk: Desk, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(desk.folder / "runs.db")) as connection:
        return connection.execute(query).fetchall()


def problems(report: Any) -> list[tuple[str, str]]:
    """Run and text of each problem with a run."""
    return [
        (each["run_id"], each["text"])
        for each in report["findings"]
        if each["area"] == "runs" and each["level"] == "problem"
    ]


def test_a_queued_run_that_stands_in_no_queue_is_found_and_queued_again(tmp_path: Path) -> None:
    project = Desk(tmp_path / "shed")
    Desk(tmp_path).pikku("init", "shed")
    given = '{"name": "Ada", "email": "ada@example.com"}'
    start = ("runs", "start", "welcome", "--id", "w1", "--input", given)
    project.pikku(*start, **REMOTE)
    with closing(sqlite3.connect(project.folder / ".pikku" / "runs.db")) as connection:
        connection.execute("DELETE FROM queue")
        connection.commit()

    found = project.pikku("doctor")
    again = project.pikku("doctor")
    repaired = project.pikku("doctor", "--repair")
    afterwards = project.pikku("doctor")

    for told in (found, again):
        assert told.returncode == 1
        assert "w1 of welcome is marked as queued and stands in no queue\n" in told.stdout
        assert "help: give it a next action: pikku doctor --repair\n" in told.stdout
        assert told.stdout.endswith("1 problem\n")
    assert repaired.returncode == 0
    assert "w1 of welcome was queued again\n" in repaired.stdout
    assert repaired.stdout.endswith("everything is fine\n")
    assert afterwards.returncode == 0
    with project.spawn("worker", **REMOTE) as worker:
        result = project.pikku(*start, "--wait", **REMOTE)
        stop(worker)
    assert result.returncode == 0, result.stderr


def test_a_lost_job_is_found_and_pushed_again(desk: Desk) -> None:
    desk.edit("@registry.pikku_func\nasync def note", ON_A_QUEUE)
    desk.pikku(*START_NAP, **REMOTE)
    with desk.spawn("worker", "--queues", "orchestrator", **REMOTE) as worker:
        eventually(lambda: bool(rows(desk, "SELECT 1 FROM jobs")))
        stop(worker)
    healthy = desk.document("doctor")
    change(desk, "DELETE FROM jobs")

    broken = desk.document("doctor")
    repaired = desk.document("doctor", "--repair")
    with desk.spawn("worker", **REMOTE) as worker:
        result = desk.pikku(*START_NAP, "--wait", **REMOTE)
        stop(worker)

    text = "step 'Before' is scheduled on queue 'default' and has no job there"
    assert problems(healthy) == []
    assert problems(broken) == [("n1", f"n1 of nap: {text}")]
    assert broken["repaired"] == []
    assert problems(repaired) == []
    assert repaired["repaired"] == [{"run_id": "n1", "workflow": "nap", "found": [text]}]
    assert result.stdout == '"after"\n'
    assert desk.effects == ["before", "after"]


def test_a_lost_timer_is_found_and_set_again(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    timers = rows(desk, "SELECT * FROM timers")
    change(desk, "DELETE FROM timers")

    broken = desk.document("doctor")
    repaired = desk.document("doctor", "--repair")

    assert problems(broken) == [("n1", "n1 of nap: step 'Nap' sleeps without a timer")]
    assert problems(repaired) == []
    assert rows(desk, "SELECT * FROM timers") == timers
    assert desk.effects == ["before"]


def test_a_run_of_a_session_that_the_store_has_forgotten_goes_on_after_the_repair(
    desk: Desk,
) -> None:
    desk.pikku(*START_NAP, **REMOTE)
    change(desk, "DELETE FROM queue", "UPDATE runs SET queued = 0, owner = 'nobody'")

    broken = desk.document("doctor")
    repaired = desk.document("doctor", "--repair")
    with desk.spawn("worker", **REMOTE) as worker:
        result = desk.pikku(*START_NAP, "--wait", **REMOTE)
        stop(worker)

    text = "n1 of nap belongs to a session that the store does not know"
    assert problems(broken) == [("n1", text)]
    assert problems(repaired) == []
    assert result.stdout == '"after"\n'


def test_a_repair_counts_what_was_lost_with_a_process(desk: Desk) -> None:
    desk.edit("@registry.pikku_func\nasync def note", ON_A_QUEUE)
    desk.pikku(*START_NAP, **REMOTE)
    with desk.spawn("worker", "--queues", "orchestrator", **REMOTE) as worker:
        eventually(lambda: bool(rows(desk, "SELECT 1 FROM jobs")))
        stop(worker)
    change(
        desk,
        "DELETE FROM jobs",
        "UPDATE steps SET status = 'running', worker = 'gone'",
        "DELETE FROM sessions",
        "INSERT INTO sessions VALUES ('gone', 0)",
    )

    before = desk.document("doctor")
    repaired = desk.document("doctor", "--repair")

    [note] = [each for each in before["findings"] if each["run_id"] == "n1"]
    assert (note["level"], note["text"]) == (
        "note",
        "n1 of nap: step 'Before' was left behind: the lease of its worker has run out",
    )
    assert [each["run_id"] for each in repaired["repaired"]] == ["n1"]
    assert rows(desk, "SELECT status, attempt, lost, worker FROM steps") == [
        ("scheduled", 2, 1, None)
    ]


def test_records_that_make_no_sense_stay_as_they_are(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    change(desk, "UPDATE steps SET attempt = 0 WHERE key = 'Nap'")

    done = desk.pikku("doctor", "--repair", "--json")

    report = json.loads(done.stdout)
    text = "its records make no sense: the attempt of step 'Nap' is number 0"
    assert done.returncode == 1
    assert problems(report) == [("n1", f"n1 of nap: {text}")]
    assert report["repaired"] == []


def test_a_run_with_an_unknown_status_is_found(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    change(desk, "UPDATE runs SET status = 'dancing'")

    report = desk.document("doctor")

    text = "n1 of nap: its records make no sense: its status is 'dancing'"
    assert problems(report) == [("n1", text)]


def test_what_waits_for_a_worker_is_no_problem(desk: Desk) -> None:
    for number in range(3):
        desk.pikku("runs", "start", "failing", "--id", f"f{number}", **REMOTE)

    report = desk.document("doctor")

    notes = [each for each in report["findings"] if each["area"] == "runs"]
    assert [(each["level"], each["run_id"]) for each in notes] == [
        ("note", "f2"),
        ("note", "f1"),
        ("note", "f0"),
    ]
    assert notes[0]["text"] == "f2 of failing waits for a process that executes it"


# --- while others are at work -------------------------------------------------------------------


class Moving:
    """A store in which a run is claimed, executed and queued again between any two reads."""

    def __init__(self, inner: Store, *, moves: bool) -> None:
        self._inner = inner
        self._moves = moves
        self._turn = 0
        self.looks = 0

    async def examine(self) -> Examination:
        self.looks += 1
        found = await self._inner.examine()
        return found._replace(sessions={"s1": found.now_us + 1}, queued=frozenset())

    async def load_steps(self, run_id: str) -> LoadedRun | None:
        loaded = await self._inner.load_steps(run_id)
        assert loaded is not None
        self._turn += self._moves
        loaded.run.turn = self._turn
        return loaded


@pytest.mark.parametrize("moves", [True, False])
async def test_only_what_stands_still_is_called_wrong(
    monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    monkeypatch.setattr(ward, "LOOK_AGAIN_SECONDS", 0)
    inner = MemoryStore()
    await must(inner, "s1", new_run("r1"))
    store: Any = Moving(inner, moves=moves)

    cases = await ward.cases_of(store, await ward.unfinished_runs(inner))

    assert [case.run_id for case in cases] == ([] if moves else ["r1"])
    assert store.looks == (2 if moves else 3)


async def test_runs_that_were_created_in_one_moment_are_all_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ward, "PAGE", 3)
    store = MemoryStore()
    names = [f"r{number}" for number in range(20)]
    for start in range(0, 20, 10):
        await must(store, "s1", *(new_run(name) for name in names[start : start + 10]))

    runs = await ward.unfinished_runs(store)

    assert sorted(runs) == sorted(names)


async def test_a_repair_of_a_run_that_has_ended_meanwhile_is_none() -> None:
    store = MemoryStore()
    case = ward.Case("r1", "flow", (Symptom("queue", "stands in no queue"),))

    assert await ward.mend(store, [case]) == []
