"""When schedules are due, and what becomes of ticks: tables, with no store and no clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from pikku._ids import check_run_id
from pikku._ticks import (
    CatchUp,
    Tick,
    Verdict,
    asked_id,
    healed,
    last_tick,
    next_tick,
    pause_id,
    started_id,
    tick_id,
    ticks_after,
    verdict,
    version_of,
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def a_tick(when: str, catch_up: CatchUp = "once", **changes: Any) -> Tick:
    values: dict[str, Any] = {
        "name": "report",
        "schedule": "*/10 * * * *",
        "timezone": "UTC",
        "catch_up": catch_up,
        "at": at(when),
        "since": at("2030-01-01T00:00"),
    }
    return Tick(**{**values, **changes})


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "expected"),
    [
        ("@hourly", "UTC", "2030-01-01T00:00", ["2030-01-01T01:00", "2030-01-01T02:00"]),
        ("0 3 * * *", "UTC", "2030-01-01T03:00", ["2030-01-02T03:00"]),
        ("0 3 * * *", "UTC", "2030-01-01T02:59:59.999999", ["2030-01-01T03:00"]),
        # the last Sunday of March 2030 in Berlin: 02:00 to 03:00 does not exist
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2030-03-30T00:00",
            ["2030-03-30T01:30", "2030-03-31T01:00", "2030-04-01T00:30"],
        ),
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2030-03-31T00:15",
            ["2030-03-31T00:30", "2030-03-31T01:00", "2030-03-31T01:30"],
        ),
        # the last Sunday of October: 02:00 to 03:00 comes twice, and a fixed time once
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2030-10-26T12:00",
            ["2030-10-27T00:30", "2030-10-28T01:30"],
        ),
        ("30 2 * * *", "Europe/Berlin", "2030-10-27T01:10", ["2030-10-28T01:30"]),
        (
            "0 * * * *",
            "Europe/Berlin",
            "2030-10-26T23:30",
            ["2030-10-27T00:00", "2030-10-27T01:00", "2030-10-27T02:00"],
        ),
        # an island whose summer time is half an hour
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2030-10-05T00:00",
            ["2030-10-05T15:30", "2030-10-06T15:15"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2030-04-06T12:00",
            ["2030-04-06T14:45", "2030-04-07T15:15"],
        ),
        ("30 9 * * *", "Asia/Kolkata", "2030-01-01T00:00", ["2030-01-01T04:00"]),
        ("0 0 29 2 *", "UTC", "2030-01-01T00:00", ["2032-02-29T00:00", "2036-02-29T00:00"]),
        ("0 0 29 2 *", "UTC", "2096-03-01T00:00", ["2104-02-29T00:00"]),
        ("0 0 31 * *", "UTC", "2030-01-31T00:00", ["2030-03-31T00:00"]),
        ("0 12 * * SUN", "UTC", "2030-01-01T00:00", ["2030-01-06T12:00"]),
    ],
)
def test_what_is_due_next(schedule: str, zone: str, after: str, expected: list[str]) -> None:
    found = list(islice(ticks_after(schedule, zone, at(after)), len(expected)))

    assert found == [at(each) for each in expected]


@pytest.mark.parametrize(
    ("schedule", "zone", "tick", "until", "expected"),
    [
        ("*/10 * * * *", "UTC", "2030-01-01T00:00", "2030-01-01T05:07", "2030-01-01T05:00"),
        ("*/10 * * * *", "UTC", "2030-01-01T00:00", "2030-01-01T00:00", "2030-01-01T00:00"),
        ("*/10 * * * *", "UTC", "2030-01-01T00:00", "2030-01-01T00:10", "2030-01-01T00:10"),
        ("* * * * *", "UTC", "2020-01-01T00:00", "2030-01-01T00:00:59", "2030-01-01T00:00"),
        ("0 3 * * *", "UTC", "2030-01-05T03:00", "2030-01-05T02:00", "2030-01-05T03:00"),
        ("30 2 * * *", "Europe/Berlin", "2030-03-30T01:30", "2030-03-31T04:00", "2030-03-31T01:00"),
        ("30 2 * * *", "Europe/Berlin", "2030-10-26T00:30", "2030-10-27T01:40", "2030-10-27T00:30"),
    ],
)
def test_the_last_one_of_those_that_were_missed(
    schedule: str, zone: str, tick: str, until: str, expected: str
) -> None:
    assert last_tick(schedule, zone, at(tick), at(until)) == at(expected)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo"])
@pytest.mark.parametrize("schedule", ["*/20 * * * *", "30 2 * * *", "5 1,2,3 * * *", "0 */2 * * *"])
def test_what_was_due_last_is_what_came_by_going_forward(schedule: str, zone: str) -> None:
    for start in ("2030-03-28T00:00", "2030-10-24T00:00", "2030-04-04T00:00"):
        times = list(islice(ticks_after(schedule, zone, at(start)), 200))
        assert times == sorted(set(times))
        for place in range(0, 200, 7):
            until = times[place] + timedelta(seconds=30)
            assert last_tick(schedule, zone, times[0], until) == times[place]


T = "2030-01-01T01:00"
NEXT = "2030-01-01T01:10"


def then(
    work: str | None, following: str | None, said: str = "done", *, in_turn: bool = False
) -> Verdict:
    return Verdict(work and at(work), following and at(following), said, in_turn)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("catch_up", "now", "expected"),
    [
        ("skip", "2030-01-01T01:00:00.004", then(T, NEXT)),
        ("once", "2030-01-01T01:00:00.004", then(T, NEXT)),
        ("all", "2030-01-01T01:00:00.004", then(T, NEXT)),
        ("skip", "2030-01-01T01:01", then(T, NEXT)),
        ("skip", "2030-01-01T01:01:01", then(None, NEXT, "missed by 1 min")),
        ("skip", "2030-01-01T04:05", then(None, "2030-01-01T04:10", "missed by 3 h")),
        ("skip", "2030-01-04T04:05", then(None, "2030-01-04T04:10", "missed by 3 d")),
        ("once", "2030-01-01T04:05", then("2030-01-01T04:00", "2030-01-01T04:10")),
        ("all", "2030-01-01T04:05", then(T, NEXT, in_turn=True)),
        ("all", NEXT, then(T, NEXT, in_turn=True)),
        # the clock was set back meanwhile: nothing comes twice
        ("skip", "2030-01-01T00:00", then(T, NEXT)),
        ("once", "2030-01-01T00:00", then(T, NEXT)),
        ("all", "2029-01-01T00:00", then(T, NEXT)),
    ],
)
def test_missed_ticks_by_policy(catch_up: CatchUp, now: str, expected: Verdict) -> None:
    assert verdict(a_tick(T, catch_up), at(now)) == expected


@pytest.mark.parametrize(
    ("catch_up", "ends", "expected"),
    [
        ("once", "2030-01-01T00:59", then(None, None, "replaced")),
        ("once", "2030-01-01T02:35", then("2030-01-01T02:30", None)),
        ("skip", "2030-01-01T02:35", then(None, None, "missed by 3 h")),
        ("all", "2030-01-01T02:35", then(T, NEXT, in_turn=True)),
        ("all", "2030-01-01T01:05", then(T, None)),
    ],
)
def test_a_row_ends_where_a_younger_one_begins(
    catch_up: CatchUp, ends: str, expected: Verdict
) -> None:
    found = verdict(a_tick(T, catch_up), at("2030-01-01T04:05"), row_ends=at(ends))

    assert found == expected


def test_nothing_comes_of_a_tick_while_its_schedule_is_paused() -> None:
    assert verdict(a_tick(T, "all"), at(T), paused=True) == then(None, None, "paused")


@pytest.mark.parametrize(
    ("now", "ends", "paused", "following"),
    [
        ("2030-01-01T00:30", None, False, NEXT),
        ("2030-01-01T03:05", None, False, "2030-01-01T03:10"),
        ("2030-01-01T00:30", None, True, None),
        ("2030-01-01T00:30", "2030-01-01T00:20", False, None),
    ],
)
def test_a_tick_that_was_cancelled_is_left_out_and_its_row_goes_on(
    now: str, ends: str | None, paused: bool, following: str | None
) -> None:
    found = healed(a_tick(T), at(now), row_ends=ends and at(ends), paused=paused)  # type: ignore[arg-type]

    assert found == then(None, following, "cancelled")


def test_ids_are_those_of_the_tick() -> None:
    berlin = datetime.fromisoformat("2026-01-31T04:00:00+01:00")

    assert tick_id("report", berlin) == "schedule:report:20260131T030000Z"
    assert tick_id("report", berlin, 2) == "schedule:report:20260131T030000Z.2"
    assert started_id("schedule:report:20260131T030000Z.2", a_tick(T), berlin) == (
        "report:20260131T030000Z"
    )
    asked = asked_id("report", berlin, "abcd")
    assert started_id(asked, a_tick(T, kind="asked"), berlin) == "report:20260131T030000Z.abcd"
    assert pause_id("report") == "schedule:report:paused"


@pytest.mark.parametrize("name", ["nightly report", "{a|b}", "a~b", "50%", "ä" * 100, "x" * 500])
def test_every_name_makes_ids(name: str) -> None:
    made = [tick_id(name, at(T), 10), pause_id(name), asked_id(name, at(T), "12345678")]

    for each in made:
        assert check_run_id(each) == each
        assert "~" not in each
    assert made != [tick_id(name + "x", at(T), 10), pause_id(name + "x"), ""]


def test_the_version_says_when_and_nothing_else() -> None:
    assert version_of("@daily", "UTC", "once") == version_of("0  0 * * *", "UTC", "once")
    assert version_of("@daily", "UTC", "once") != version_of("@daily", "UTC", "all")
    assert version_of("@daily", "UTC", "once") != version_of("@daily", "Europe/Berlin", "once")


def test_a_schedule_may_come_to_its_end() -> None:
    assert next_tick("0 0 1 1 *", "UTC", at("2030-06-01T00:00")) == at("2031-01-01T00:00")
