"""`pikku db migrate`, and the commands on a PostgreSQL store."""

from __future__ import annotations

import json

import psycopg
from tests.cli.desk import Desk
from tests.cli.test_doctor import problems
from tests.cli.test_worker import eventually, stop


def test_a_schema_is_migrated_by_command_once(desk: Desk, postgres_url: str) -> None:
    at = f"{postgres_url}?migrate=0"
    refused = desk.pikku("--store", at, "runs", "start", "nap", "--input", '"10ms"')
    first = desk.pikku("--store", at, "db", "migrate")
    again = desk.pikku("--store", at, "db", "migrate", "--json")
    started = desk.pikku("--store", at, "runs", "start", "nap", "--input", '"1h"', "--id", "r1")

    assert refused.returncode == 2
    assert "has no schema yet, and version 2 is needed" in refused.stderr
    assert "help: pikku db migrate" in refused.stderr
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr.endswith(" is at version 2 of its schema now\n")
    assert json.loads(again.stdout)["migrated"] == []
    assert (started.returncode, started.stdout) == (0, "r1 running\n"), started.stderr
    assert desk.effects == ["before"]


def test_what_is_printed_can_be_run_by_hand(desk: Desk, postgres_url: str) -> None:
    at = f"{postgres_url}?migrate=0"
    printed = desk.pikku("--store", at, "db", "migrate", "--print")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(printed.stdout.encode())
    nothing = desk.pikku("--store", at, "db", "migrate", "--print")
    checked = desk.document("--store", at, "doctor")

    assert (printed.returncode, printed.stderr) == (0, "")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert not problems(checked)


def test_a_store_that_migrates_by_itself_says_so(desk: Desk) -> None:
    done = desk.pikku("db", "migrate")
    assert done.returncode == 0
    assert done.stderr.endswith(" is brought up to date by whoever opens it\n")


def test_a_worker_takes_what_another_process_has_started(desk: Desk, postgres_url: str) -> None:
    remote = {"PIKKU_STORE": postgres_url, "PIKKU_QUEUE_SERVICE": "store"}
    worker = desk.spawn("worker", **remote)
    try:
        started = desk.pikku("runs", "start", "nap", "--input", '"10ms"', "--id", "r1", **remote)
        assert started.returncode == 0, started.stderr
        eventually(lambda: desk.effects == ["before", "after"])
        shown = desk.pikku("runs", "show", "r1", **remote)
        assert "completed" in shown.stdout
        told = desk.pikku("doctor", "--json", **remote)
        assert not problems(json.loads(told.stdout))
    finally:
        stop(worker)
