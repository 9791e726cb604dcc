"""`pikku schedule`: what is printed, what is written, and that commands execute no tick."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.cli.desk import Desk

WIRED = """

from datetime import datetime


@registry.pikku_func
async def tidy(ctx: FunctionContext, due: datetime) -> None:
    with open("effects.txt", "a") as out:
        out.write(f"tidy {os.getpid()}\\n")


registry.wire_scheduler(name="tidy up", schedule="@yearly", func=tidy, description="once a year")
registry.wire_scheduler(
    name="report", schedule="30 2 29 2 *", timezone="Europe/Berlin", func=tidy, catch_up="skip"
)
"""


@pytest.fixture
def scheduled(desk: Desk) -> Desk:
    """The project with two schedules."""
    work = desk.folder / "desk" / "work.py"
    work.write_text(work.read_text() + WIRED)
    return desk


def said(text: str) -> str:
    """*text* with times and the random end of an id left open."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<TIME>", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "<MINUTE>", text)
    return re.sub(r"\d{8}T\d{6}Z\.[0-9a-f]{8}", "<STAMP>", text)


def test_list_shows_what_is_wired_and_makes_nothing(scheduled: Desk) -> None:
    listed = scheduled.pikku("schedule", "list")
    runs = scheduled.pikku("runs", "list")

    assert listed.returncode == 0, listed.stderr
    assert listed.stdout == (
        "NAME     SCHEDULE     TIME ZONE      NEXT (UTC)  LAST (UTC)  NOTE\n"
        "report   30 2 29 2 *  Europe/Berlin  -           -\n"
        "tidy up  @yearly      UTC            -           -\n"
    )
    assert "no runs" in runs.stderr


def test_run_is_executed_by_a_host_or_here_with_wait(scheduled: Desk) -> None:
    asked = scheduled.pikku("schedule", "run", "report")
    before = scheduled.effects
    done = scheduled.pikku("schedule", "run", "report", "--wait")

    assert (asked.returncode, said(asked.stdout)) == (0, "schedule:report:<STAMP>\n"), asked.stderr
    assert said(asked.stderr) == (
        "executed by the next host: pikku worker, or: "
        "pikku runs resume schedule:report:<STAMP> --wait\n"
    )
    assert before == []
    assert (done.returncode, done.stdout) == (0, '"done"\n'), done.stderr
    listed = scheduled.pikku("schedule", "list").stdout
    described = json.loads(scheduled.pikku("schedule", "list", "--json").stdout.splitlines()[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", described["last_at"])
    assert "report   30 2 29 2 *  Europe/Berlin  -           <TIME> completed\n" in said(listed)


def test_pause_resume_and_the_times_to_come(scheduled: Desk) -> None:
    paused = scheduled.pikku("schedule", "pause", "tidy up")
    shown = scheduled.pikku("schedule", "list").stdout
    resumed = scheduled.pikku("schedule", "resume", "tidy up")
    times = scheduled.pikku("schedule", "list", "--next", "2").stdout
    document = scheduled.document("schedule", "pause", "tidy up")

    assert (paused.returncode, paused.stdout) == (0, "tidy up paused\n"), paused.stderr
    assert "tidy up  @yearly      UTC            paused      -\n" in shown
    assert resumed.returncode == 0, resumed.stderr
    assert said(resumed.stdout) == "tidy up resumed, next at <MINUTE> UTC\n"
    assert said(times).endswith("\nreport\n\ntidy up\n  <MINUTE>\n  <MINUTE>\n")
    assert re.search(r"  \d{4}-01-01 00:00\n  \d{4}-01-01 00:00\n$", times)
    assert document == {
        "name": "tidy up",
        "schedule": "@yearly",
        "timezone": "UTC",
        "catch_up": "once",
        "description": "once a year",
        "paused": True,
        "wired": True,
        "next_at": [],
        "last_run": None,
        "last_status": None,
        "last_at": None,
    }


def test_a_schedule_that_is_gone_is_shown_and_can_be_removed(scheduled: Desk) -> None:
    scheduled.pikku("schedule", "resume", "report")
    wired = scheduled.pikku("schedule", "remove", "report")
    work: Path = scheduled.folder / "desk" / "work.py"
    work.write_text(work.read_text().replace('name="report", schedule', 'name="recount", schedule'))

    shown = scheduled.pikku("schedule", "list").stdout
    removed = scheduled.pikku("schedule", "remove", "report")
    again = scheduled.pikku("schedule", "list").stdout

    assert wired.returncode == 2
    assert "schedule 'report' is wired in desk_pikku" in wired.stderr
    assert "not wired" in shown
    assert (removed.returncode, removed.stdout) == (0, "report removed, 1 run\n"), removed.stderr
    assert "not wired" not in again


def test_an_unknown_schedule_ends_with_3(scheduled: Desk) -> None:
    for command in ("run", "pause", "resume"):
        unknown = scheduled.pikku("schedule", command, "raport")
        assert unknown.returncode == 3
        assert unknown.stderr == (
            "error: PKR207 unknown schedule 'raport'\nhelp: did you mean 'report'?\n"
        )
    assert scheduled.pikku("schedule", "remove", "gone").returncode == 3
