"""Scheduled tasks: once per tick over all processes, missed ticks by policy, changes and pauses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.life.kit import Place
from tests.runtime.kit import Ctx, Lab, Toy, Wf

from pikku import Run
from pikku._ticks import CatchUp, ScheduleInfo
from pikku.errors import UnknownScheduleError, UnknownWorkflowError

# A lab's clock begins at 2030-01-01T00:00Z.


class Clockwork(Toy):
    """An app with schedules that note when they were due."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []
        noted = self.noted

        @self.func
        async def note(ctx: Ctx, at: datetime) -> None:
            assert at.utcoffset() is not None
            noted.append(f"{at:%H:%M}")

        self.note = note

    def wire(
        self, schedule: str = "*/10 * * * *", *, func: Any = None, **options: Any
    ) -> Clockwork:
        self.registry.schedules.pop("report", None)
        self.registry.wire_scheduler(
            name="report", schedule=schedule, func=func or self.note, **options
        )
        return self


def opened(place: Place, toy: Toy, **changes: Any) -> Lab:
    lab = place.lab(toy, **changes)
    lab._schedules = True
    return lab


def beside(place: Place, lab: Lab, toy: Toy) -> Lab:
    other = place.beside(lab, toy)
    other._schedules = True
    return other


async def report(lab: Lab) -> ScheduleInfo:
    (info,) = await lab.app.list_schedules()
    return info


async def ids(lab: Lab) -> set[str]:
    return {
        f"{info.run_id.removeprefix('schedule:report:')} {info.status}"
        for info in await lab.app.list_runs(limit=1000)
    }


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def test_a_function_is_called_at_each_tick_with_its_time(place: Place) -> None:
    toy = Clockwork().wire(description="counts")

    async with opened(place, toy) as lab:
        before = await report(lab)
        await lab.advance("35min")
        after = await report(lab)
        left = await ids(lab)

    assert toy.noted == ["00:10", "00:20", "00:30"]
    assert (before.next_at, before.last_run, before.paused) == (at("2030-01-01T00:10"), None, False)
    assert (after.next_at, after.last_status) == (at("2030-01-01T00:40"), "completed")
    assert after.last_run == "schedule:report:20300101T003000Z"
    assert after.description == "counts"
    # those that completed last stay, and the next is there in advance
    assert left == {
        "20300101T002000Z completed",
        "20300101T003000Z completed",
        "20300101T004000Z running",
    }


async def test_a_function_without_an_input_is_called(evicted: Place) -> None:
    toy = Clockwork()
    called: list[int] = []

    @toy.func
    def count(ctx: Ctx) -> int:
        called.append(1)
        return 7

    async with opened(evicted, toy.wire("@hourly", func=count)) as lab:
        await lab.advance("125min")

    assert len(called) == 2


async def test_hours_are_those_of_the_time_zone(memory_modes: Place) -> None:
    toy = Clockwork().wire("30 2 * * *", timezone="Asia/Kolkata")

    async with opened(memory_modes, toy) as lab:
        await lab.advance("2d")

    assert toy.noted == ["21:00", "21:00"]


async def test_a_workflow_is_started_as_a_run_of_its_own(evicted: Place) -> None:
    toy = Clockwork()

    @toy.workflow
    async def nightly(ctx: Wf, due: datetime) -> str:
        await ctx.workflow.sleep("Wait", "5min")
        await ctx.workflow.do("Note", toy.note, due)
        return "noted"

    async with opened(evicted, toy.wire("@hourly", func=nightly)) as lab:
        await lab.advance("70min")
        run: Run[str] = lab.app.get_run("nightly", "report:20300101T010000Z")
        assert await run.result(timeout="3s") == "noted"
        info = await run.info()

    assert toy.noted == ["01:00"]
    assert info.started_by == "schedule:report"


async def test_a_function_keeps_its_retries_and_what_failed_is_kept(evicted: Place) -> None:
    toy = Clockwork()
    tried: list[str] = []

    @toy.func(retries=2, retry_delay="1min")
    async def fail(ctx: Ctx, due: datetime) -> None:
        tried.append(f"{due:%H:%M}")
        raise ValueError("no paper")

    async with opened(evicted, toy.wire("@hourly", func=fail)) as lab:
        await lab.advance("130min")
        info = await report(lab)
        left = await ids(lab)

    assert tried == ["01:00"] * 3 + ["02:00"] * 3
    assert (info.last_status, info.next_at) == ("failed", at("2030-01-01T03:00"))
    assert left == {
        "20300101T010000Z failed",
        "20300101T020000Z failed",
        "20300101T030000Z running",
    }


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("skip", ["00:10", "01:10"]),
        ("once", ["00:10", "01:00", "01:10"]),
        ("all", ["00:10", "00:20", "00:30", "00:40", "00:50", "01:00", "01:10"]),
    ],
)
async def test_what_was_missed_is_made_up_for_as_declared(
    shared: Place, catch_up: CatchUp, expected: list[str]
) -> None:
    toy = Clockwork().wire(catch_up=catch_up)
    async with opened(shared, toy) as lab:
        await lab.advance("15min")

    later = opened(shared, toy)
    later.clock.move_to(lab.clock.now_us() + 50 * 60_000_000)
    async with later:
        await later.settle()
        await later.advance("8min")

    assert toy.noted == expected


async def test_missed_ticks_are_made_up_for_one_after_the_other(evicted: Place) -> None:
    toy = Clockwork()
    under_way: list[int] = []
    most: list[int] = []

    @toy.func
    async def slow(ctx: Ctx, due: datetime) -> None:
        import asyncio

        under_way.append(1)
        most.append(len(under_way))
        await asyncio.sleep(0.01)
        under_way.pop()

    async with opened(evicted, toy.wire(catch_up="all", func=slow)) as lab:
        lab.clock.move_to(lab.clock.now_us() + 61 * 60_000_000)
        await lab.settle()

    assert most == [1] * 6


async def test_two_processes_make_one_tick(shared: Place) -> None:
    first, second = Clockwork().wire(), Clockwork().wire()

    async with opened(shared, first) as lab, beside(shared, lab, second) as other:
        for _ in range(6):
            await lab.advance("5min")
            await other.settle()
            await lab.settle()
        left = await ids(lab)

    assert sorted(first.noted + second.noted) == ["00:10", "00:20", "00:30"]
    assert left == {
        "20300101T002000Z completed",
        "20300101T003000Z completed",
        "20300101T004000Z running",
    }


async def test_a_process_that_stops_removes_no_schedule(shared: Place) -> None:
    toy = Clockwork().wire()
    async with opened(shared, toy) as lab:
        before = await ids(lab)

    other = beside(shared, lab, Clockwork())
    async with other:
        assert await ids(other) == before
        (info,) = await other.app.list_schedules()

    assert before == {"20300101T001000Z running"}
    assert (info.wired, info.next_at) == (False, at("2030-01-01T00:10"))


async def test_a_schedule_that_is_gone_is_listed_also_once_its_tick_was_due(shared: Place) -> None:
    toy = Clockwork().wire()
    async with opened(shared, toy) as lab:
        pass

    async with beside(shared, lab, Clockwork()) as other:
        await other.advance("15min")
        (info,) = await other.app.list_schedules()
        left = await ids(other)

    assert left == {"20300101T001000Z suspended"}
    assert (info.name, info.wired, info.next_at) == ("report", False, None)


async def test_a_process_that_dies_in_a_tick_leaves_it_to_the_next(evicted: Place) -> None:
    toy = Clockwork().wire()
    crashes = ["Look", "Make next tick", "Call"]

    async with opened(evicted, toy) as lab:
        await lab.advance("15min")
        for step in crashes:
            lab.crash_after(step)
            await lab.advance("10min")
            await lab.recover()
            await lab.settle()
        left = await ids(lab)

    assert toy.noted == ["00:10", "00:20", "00:30", "00:40"]
    assert left == {
        "20300101T003000Z completed",
        "20300101T004000Z completed",
        "20300101T005000Z running",
    }


async def test_a_changed_schedule_takes_over_where_the_old_one_ends(shared: Place) -> None:
    toy = Clockwork().wire("0,30 * * * *")
    async with opened(shared, toy) as lab:
        await lab.advance("35min")

    newer = beside(shared, lab, toy.wire("*/15 * * * *"))
    async with newer:
        await newer.advance("1h")
        left = await ids(newer)

    assert toy.noted == ["00:30", "00:45", "01:00", "01:15", "01:30"]
    assert {each for each in left if "running" in each} == {"20300101T014500Z running"}


async def test_old_and_new_processes_side_by_side_do_not_flap(shared: Place) -> None:
    old, new = Clockwork().wire("0 * * * *"), Clockwork().wire("*/30 * * * *")

    async with opened(shared, old) as lab:
        await lab.advance("65min")
        async with beside(shared, lab, new) as other:
            for _ in range(24):
                await lab.advance("5min")
                await other.settle()
                await lab.settle()
            left = {each for each in await ids(lab) if "running" in each}

    # whoever executes a tick, the newer schedule decides
    assert sorted(old.noted + new.noted) == ["01:00", "01:30", "02:00", "02:30", "03:00"]
    assert left == {"20300101T033000Z running"}


async def test_what_was_due_before_a_change_is_done_after_it(shared: Place) -> None:
    toy = Clockwork().wire("*/10 * * * *", catch_up="all")
    async with opened(shared, toy) as lab:
        pass

    later = opened(shared, toy.wire("@hourly", catch_up="all"))
    later.clock.move_to(lab.clock.now_us() + 35 * 60_000_000)
    async with later:
        await later.settle()
        await later.advance("30min")

    assert toy.noted == ["00:10", "00:20", "00:30", "01:00"]


async def test_a_paused_schedule_stands_still_until_it_is_resumed(place: Place) -> None:
    toy = Clockwork().wire()

    async with opened(place, toy) as lab:
        await lab.advance("15min")
        await lab.app.pause_schedule("report")
        await lab.app.pause_schedule("report")
        paused = await report(lab)
        await lab.advance("30min")
        await lab.app.resume_schedule("report")
        resumed = await report(lab)
        await lab.advance("10min")
        await lab.app.pause_schedule("report")
        await lab.settle()
        await lab.app.resume_schedule("report")
        await lab.advance("10min")

    assert (paused.paused, paused.next_at) == (True, None)
    assert (resumed.paused, resumed.next_at) == (False, at("2030-01-01T00:50"))
    assert toy.noted == ["00:10", "00:50", "01:00"]


async def test_a_pause_outlives_every_process(shared: Place) -> None:
    toy = Clockwork().wire()
    async with opened(shared, toy) as lab:
        await lab.app.pause_schedule("report")

    async with beside(shared, lab, toy.wire("*/5 * * * *")) as other:
        await other.advance("30min")
        assert toy.noted == []
        await other.app.resume_schedule("report")
        await other.advance("7min")

    assert toy.noted == ["00:35"]


async def test_a_schedule_runs_when_asked_and_its_ticks_come_as_before(place: Place) -> None:
    toy = Clockwork().wire()

    async with opened(place, toy) as lab:
        await lab.advance("5min")
        run = await lab.app.run_schedule("report")
        await lab.settle()
        assert await run.result(timeout="3s") == "done"
        asked = await report(lab)
        await lab.advance("10min")

    assert toy.noted == ["00:05", "00:10"]
    assert (asked.last_run, asked.next_at) == (run.run_id, at("2030-01-01T00:10"))


async def test_a_tick_cancelled_by_hand_is_left_out(evicted: Place) -> None:
    toy = Clockwork().wire()

    async with opened(evicted, toy) as lab:
        await lab.app.cancel_runs("not today", workflow="schedule:report")
        await lab.settle()
        await lab.advance("25min")

    assert toy.noted == ["00:20"]


async def test_a_clock_that_is_set_back_repeats_no_tick(evicted: Place) -> None:
    toy = Clockwork().wire()

    async with opened(evicted, toy) as lab:
        await lab.advance("25min")
        lab.clock._now_us -= 20 * 60_000_000
        await lab.app.pause_schedule("report")
        await lab.app.resume_schedule("report")
        await lab.advance("26min")

    assert toy.noted == ["00:10", "00:20", "00:30"]


async def test_an_overlapping_tick_is_kept_until_a_later_one_drops_it(memory_modes: Place) -> None:
    import asyncio

    toy = Clockwork()
    gate = asyncio.Event()

    @toy.func
    async def long(ctx: Ctx, due: datetime) -> None:
        toy.noted.append(f"{due:%H:%M}")
        if due.minute == 10:
            await gate.wait()

    async with opened(memory_modes, toy.wire(func=long)) as lab:
        await lab.advance("25min")
        gate.set()
        await lab.settle()
        await lab.advance("10min")
        left = await ids(lab)

    assert toy.noted == ["00:10", "00:20", "00:30"]
    assert left == {
        "20300101T002000Z completed",
        "20300101T003000Z completed",
        "20300101T004000Z running",
    }


async def test_in_a_lab_schedules_are_off_unless_asked_for(memory_modes: Place) -> None:
    toy = Clockwork().wire()

    async with memory_modes.lab(toy, auto_advance=True) as lab:
        await lab.advance("1h")
        assert toy.noted == []
        run = await lab.tick("report")
        assert await run.result(timeout="3s") == "done"

    assert toy.noted == ["01:00"]


async def test_an_unknown_schedule_is_refused_with_the_nearest_names(memory_modes: Place) -> None:
    toy = Clockwork().wire()

    async with opened(memory_modes, toy) as lab:
        for ask in (lab.app.pause_schedule, lab.app.resume_schedule, lab.app.run_schedule):
            with pytest.raises(UnknownScheduleError, match="did you mean 'report'"):
                await ask("raport")
        with pytest.raises(UnknownWorkflowError) as caught:
            await lab.app.start_workflow("schedule:report")
    assert "schedule:" not in (caught.value.hint or "")
