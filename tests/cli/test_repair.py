"""`pikku runs cancel|retry|fork|delete|prune|export|import|replay|count`, and filters."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from tests.cli.desk import Desk
from tests.cli.test_doctor import problems


def failed(desk: Desk, *ids: str) -> None:
    """Runs of `careful` that failed at their second step."""
    for run_id in ids:
        assert desk.pikku("runs", "start", "careful", "--id", run_id).returncode == 1


def test_a_retry_goes_on_from_the_step_that_failed(desk: Desk) -> None:
    failed(desk, "c1")
    (desk.folder / "paper.txt").touch()

    written = desk.pikku("runs", "retry", "c1")
    carried_out = desk.pikku("runs", "resume", "c1", "--wait")
    again = desk.pikku("runs", "retry", "c1")

    assert (written.returncode, written.stdout) == (0, "c1 running, to be retried\n")
    assert (carried_out.returncode, carried_out.stdout) == (0, '"printed"\n'), carried_out.stderr
    assert desk.effects == ["careful"]
    assert again.returncode == 2
    assert "c1 is completed and cannot be retried" in again.stderr


def test_many_runs_are_retried_with_consent(desk: Desk) -> None:
    failed(desk, "c1", "c2")
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")

    refused = desk.pikku("runs", "retry", "--workflow", "careful")
    retried = desk.pikku("runs", "retry", "--workflow", "careful", "--yes")
    none = desk.document("runs", "retry", "--all", "--yes")

    assert refused.returncode == 2
    assert "2 runs would be retried; to do it without being asked: --yes" in refused.stderr
    assert (retried.returncode, retried.stdout) == (0, "2 runs retried\n")
    assert none == {"retried": 0}
    assert desk.document("runs", "count") == {"running": 3}


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry",),
        ("retry", "c1", "--all"),
        ("delete",),
        ("cancel", "--reason", "no more"),
        ("retry", "--all", "--wait", "--yes"),
    ],
)
def test_one_run_or_many_has_to_be_said(desk: Desk, arguments: tuple[str, ...]) -> None:
    done = desk.pikku("runs", *arguments)

    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_many_runs_are_cancelled_and_those_that_ended_are_not_counted(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n2", "--tag", "late")
    failed(desk, "c1")
    cancel = ("runs", "cancel", "--reason", "no more", "--yes")

    first = desk.pikku(*cancel, "--tag", "late")
    rest = desk.document(*cancel, "--all")
    carried_out = desk.pikku("runs", "resume", "n1", "--wait")

    assert (first.returncode, first.stdout) == (0, "1 run asked to unwind\n")
    assert rest == {"cancelled": 1}
    assert carried_out.returncode == 5


def test_somebody_at_a_terminal_is_asked(desk: Desk) -> None:
    failed(desk, "c1")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pikku.cli", "runs", "delete", "--all"],
        cwd=desk.folder,
        env=desk.environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as asked:
        os.write(ours, b"n\n")
        out, said = asked.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)

    assert "1 run would be deleted. Go on? [y/N]" in said
    assert (asked.returncode, out) == (1, "")
    assert desk.document("runs", "count") == {"failed": 1}


def test_a_fork_takes_another_input_from_a_step_on(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"10ms"', "--id", "n1", "--wait")
    fork = ("runs", "fork", "n1", "After", "--input", '"later"')

    written = desk.pikku(*fork, "--id", "n2")
    carried_out = desk.pikku("runs", "resume", "n2", "--wait")
    at_once = desk.pikku(*fork, "--wait")
    wrong = desk.pikku("runs", "fork", "n1", "Aftr")
    shown = desk.pikku("runs", "show", "n2").stdout

    assert (written.returncode, written.stdout) == (0, "n2 running, forked from n1\n")
    assert (carried_out.returncode, carried_out.stdout) == (0, '"later"\n'), carried_out.stderr
    assert at_once.stdout == '"later"\n'
    assert wrong.returncode == 3
    assert "  fork of  n1\n" in shown
    assert desk.effects == ["before", "after", "later", "later"]


def test_a_run_that_has_ended_is_deleted_and_no_other(desk: Desk) -> None:
    failed(desk, "c1")
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")

    gone = desk.pikku("runs", "delete", "c1")
    refused = desk.pikku("runs", "delete", "n1")
    unknown = desk.pikku("runs", "delete", "c1")

    assert (gone.returncode, gone.stdout) == (0, "c1 deleted\n")
    assert refused.returncode == 2
    assert "n1 has not ended and cannot be deleted" in refused.stderr
    assert unknown.returncode == 3
    assert desk.document("runs", "count") == {"running": 1}


def test_prune_removes_what_ended_long_ago(desk: Desk) -> None:
    failed(desk, "old", "new")
    with closing(sqlite3.connect(desk.folder / "runs.db")) as connection:
        connection.execute("UPDATE runs SET finished_us = 1 WHERE run_id = 'old'")
        connection.commit()

    other = desk.document("runs", "prune", "--older-than", "30d", "--status", "completed", "--yes")
    pruned = desk.pikku("runs", "prune", "--older-than", "30d", "--yes")

    assert other == {"deleted": 0}
    assert (pruned.returncode, pruned.stdout) == (0, "1 run deleted\n")
    assert desk.status("new") == "failed"


def test_an_exported_run_is_imported_into_another_store(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    other = ("--store", "sqlite:///other.db")

    exported = desk.pikku("runs", "export", "n1", "--out", "n1.json")
    imported = desk.pikku(*other, "runs", "import", "n1.json")
    again = desk.pikku(*other, "runs", "import", "n1.json")
    none = desk.pikku("runs", "import", "-", stdin="[]")

    assert exported.returncode == 0, exported.stderr
    assert (imported.returncode, imported.stdout) == (0, "n1 suspended, imported\n")
    assert again.returncode == 2
    assert "PKR306" in again.stderr
    assert none.returncode == 2
    assert "PKR328" in none.stderr


def test_replay_says_whether_the_code_still_takes_the_recorded_way(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"10ms"', "--id", "n1", "--wait")
    failed(desk, "c1")
    desk.pikku("runs", "export", "n1", "--out", "n1.json")

    one = desk.pikku("runs", "replay", "n1")
    everything = desk.pikku("runs", "replay", "--all")
    desk.edit('"After", note', '"Afterwards", note')
    changed = desk.pikku("runs", "replay", "--file", "n1.json")
    documents = desk.pikku("runs", "replay", "--all", "--json").stdout.splitlines()

    assert (one.returncode, one.stdout) == (0, "n1 of nap replays\n")
    assert everything.returncode == 0
    assert everything.stderr.endswith("2 runs replayed\n")
    assert changed.returncode == 1
    assert changed.stdout.startswith("n1 of nap does not replay: ")
    assert "at step 'After'" in changed.stdout
    assert {each["run_id"]: each["replays"] for each in map(json.loads, documents)} == {
        "n1": False,
        "c1": True,
    }
    assert desk.effects == ["before", "after", "careful"]


def test_list_and_count_find_by_text_and_time(desk: Desk) -> None:
    failed(desk, "c1")
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1", "--by", "grace")

    def found(*arguments: str) -> list[str]:
        lines = desk.pikku("runs", "list", *arguments, "--json").stdout.splitlines()
        return [json.loads(line)["run_id"] for line in lines]

    assert found("--text", "out of paper") == ["c1"]
    assert found("--text", "grace") == ["n1"]
    assert found("--since", "1h") == ["n1", "c1"]
    assert found("--until", "1h") == []
    assert found("--until", "2000-01-01T00:00") == []
    assert desk.pikku("runs", "count").stdout == "failed   1\nrunning  1\n"
    assert desk.document("runs", "count", "--workflow", "nap") == {"running": 1}
    assert desk.pikku("runs", "list", "--since", "soon").returncode == 2


def test_a_delayed_start_waits_for_its_time(desk: Desk) -> None:
    started = desk.pikku("runs", "start", "careful", "--id", "c1", "--delay", "1h")
    healthy = desk.document("doctor")
    with closing(sqlite3.connect(desk.folder / "runs.db")) as connection:
        connection.execute("DELETE FROM timers")
        connection.commit()
    broken = desk.document("doctor")
    repaired = desk.document("doctor", "--repair")

    assert (started.returncode, started.stdout) == (0, "c1 running\n")
    assert "not begun: it was started with a delay\n" in started.stderr
    assert problems(healthy) == []
    assert problems(broken) == [("c1", "c1 of careful waits for nothing that could happen")]
    assert problems(repaired) == []
    assert desk.effects == []
