"""Runs over several processes: killed, resumed, resumed twice at once, drained."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing

import pytest
from tests.cli.desk import Desk, until


def test_two_processes_that_resume_at_once_execute_each_step_once(desk: Desk) -> None:
    with desk.spawn("runs", "start", "nap", "--input", '"1s"', "--id", "n1", "--wait") as killed:
        until(killed.stderr, lambda line: "sleeping until" in line)
        killed.kill()

    pair = [desk.spawn("runs", "resume", "n1", "--wait") for _ in range(2)]
    results = [each.communicate(timeout=60)[0] for each in pair]

    assert results == ['"after"\n', '"after"\n']
    assert [each.returncode for each in pair] == [0, 0]
    assert desk.effects == ["before", "after"]


def test_a_process_killed_in_mid_step_loses_that_attempt_only(desk: Desk) -> None:
    with desk.spawn("runs", "start", "three", "--id", "t1", "--wait") as killed:
        until(killed.stdout, lambda line: line == "holding\n")
        killed.kill()
    shown_after_the_kill = desk.pikku("runs", "show", "t1").stdout
    (desk.folder / "release.txt").touch()

    pair = [desk.spawn("runs", "resume", "t1", "--wait") for _ in range(2)]
    outcomes = [each.communicate(timeout=60) for each in pair]
    shown = desk.document("runs", "show", "t1")

    assert [each.returncode for each in pair] == [0, 0], outcomes
    assert Counter(desk.effects) == {"first": 1, "last": 1}
    assert [(step["key"], step["attempt"]) for step in shown["steps"]] == [
        ("First", 1),
        ("Hold", 2),
        ("Last", 1),
    ]
    assert "held by a process; should that one be gone" in shown_after_the_kill


def test_a_worker_goes_on_with_what_was_left_and_drains_on_the_first_signal(desk: Desk) -> None:
    with desk.spawn("runs", "start", "three", "--id", "t1", "--wait") as killed:
        until(killed.stdout, lambda line: line == "holding\n")
        killed.kill()

    with desk.spawn("worker") as worker:
        until(worker.stderr, lambda line: line.startswith("worker of desk_pikku on sqlite:"))
        until(worker.stdout, lambda line: line == "holding\n")
        worker.send_signal(signal.SIGTERM)
        until(worker.stderr, lambda line: line.startswith("SIGTERM: finishing"))
        (desk.folder / "release.txt").touch()
        said = worker.communicate(timeout=60)[1]

    assert worker.returncode == 0, said
    steps = {step["key"]: step["status"] for step in desk.document("runs", "show", "t1")["steps"]}
    assert steps["Hold"] == "succeeded"


def test_a_second_signal_ends_the_worker_at_once(desk: Desk) -> None:
    with desk.spawn("runs", "start", "three", "--id", "t1", "--wait") as first:
        until(first.stdout, lambda line: line == "holding\n")
        _signal_until_gone(first, signal.SIGTERM)

    assert first.returncode == 128 + signal.SIGTERM
    assert desk.status("t1") == "running"


def test_ctrl_c_while_waiting_ends_with_130_and_the_run_goes_on(desk: Desk) -> None:
    with desk.spawn("runs", "start", "nap", "--input", '"1h"', "--id", "n1", "--wait") as waiting:
        until(waiting.stderr, lambda line: "sleeping until" in line)
        waiting.send_signal(signal.SIGINT)
        said = waiting.communicate(timeout=60)[1]

    assert waiting.returncode == 130, said
    assert said.endswith("it goes on with: pikku worker, or: pikku runs resume n1 --wait\n")
    assert desk.status("n1") == "running"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_worker_ends_with_0(desk: Desk, number: int) -> None:
    with desk.spawn("worker") as worker:
        until(worker.stderr, lambda line: line.startswith("worker of"))
        worker.send_signal(number)
        said = worker.communicate(timeout=60)[1]

    assert worker.returncode == 0, said


def _signal_until_gone(process: subprocess.Popen[str], number: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        process.send_signal(number)
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        return
    raise AssertionError("the process did not end")


def test_the_doctor_names_a_run_whose_process_is_gone(desk: Desk) -> None:
    with desk.spawn("runs", "start", "three", "--id", "t1", "--wait") as killed:
        until(killed.stdout, lambda line: line == "holding\n")
        killed.kill()
    with closing(sqlite3.connect(desk.folder / "runs.db")) as connection:
        connection.execute("UPDATE sessions SET expires_us = 0")
        connection.commit()

    findings = [each for each in desk.document("doctor")["findings"] if each["area"] == "runs"]

    assert [(each["level"], each["run_id"]) for each in findings] == [("note", "t1")]
    assert findings[0]["text"] == (
        "t1 of three was left behind: the lease of its process has run out"
    )
