"""Sleeps: how long, until when, and how many at once."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest
from tests.runtime.kit import Toy, Wf, World, steps_of

from pikku.errors import DurationError


@pytest.mark.parametrize(
    ("duration", "us"),
    [
        ("1ms", 1_000),
        ("5min", 300_000_000),
        ("1h30min", 5_400_000_000),
        ("PT5M", 300_000_000),
        (timedelta(microseconds=7), 7),
        ("0s", 0),
        ("50w", 50 * 604_800_000_000),
    ],
)
async def test_a_sleep_ends_at_its_time_and_not_before(
    toy: Toy, world: World, duration: str | timedelta, us: int
) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf) -> None:
        await ctx.workflow.sleep("Wait", duration)

    async with world.lab(toy, auto_advance=False) as lab:
        begun = lab.clock.now_us()
        run = await toy.start("sleeper")
        if us > 0:
            await lab.advance(timedelta(microseconds=us - 1))
            assert await run.status() == "running"
            await lab.advance(timedelta(microseconds=1))
        await lab.settle()
        await lab.advance("0s")
        assert await run.status() == "completed"
        assert (await steps_of(lab, run))["Wait"].finished_us == begun + us


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-7))])
async def test_sleep_until_ends_at_that_moment(toy: Toy, world: World, zone: timezone) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf, hours: int) -> None:
        when = (await ctx.workflow.now()).astimezone(zone) + timedelta(hours=hours)
        await ctx.workflow.sleep_until("Wait", when)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("sleeper", 2)
        await lab.advance("119min59s")
        await lab.recover()
        assert await run.status() == "running"
        await lab.advance("1s")
        assert await run.status() == "completed"
        past = await toy.start("sleeper", -2)
        await lab.advance("0s")
        assert await past.status() == "completed"


@pytest.mark.parametrize("when", [datetime(2030, 1, 2), "2030-01-02", 5, None])
async def test_sleep_until_refuses_what_is_no_moment(toy: Toy, memory: World, when: object) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf) -> str:
        try:
            await ctx.workflow.sleep_until("Wait", when)  # type: ignore[arg-type]
        except DurationError as error:
            return str(error)
        return ""

    async with memory.lab(toy) as lab:
        run = await toy.start("sleeper")
        assert "aware datetime" in await run.result() or "time zone" in await run.result()
        assert await steps_of(lab, run) == {}


async def test_a_duration_that_is_none_is_refused_before_anything_is_written(
    toy: Toy, memory: World
) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf) -> int:
        refused = 0
        for wrong in (5000, -1, "", "5", timedelta(seconds=-1), None):
            try:
                await ctx.workflow.sleep("Wait", wrong)  # type: ignore[arg-type]
            except DurationError:
                refused += 1
        return refused

    async with memory.lab(toy) as lab:
        run = await toy.start("sleeper")
        assert await run.result() == 6
        assert await steps_of(lab, run) == {}


async def test_every_one_of_many_short_sleepers_wakes(toy: Toy, world: World) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf, number: int) -> int:
        await ctx.workflow.sleep("Wait", "1ms")
        return number

    async with world.lab(toy):
        runs = await asyncio.gather(*[toy.start("sleeper", number) for number in range(300)])
        assert [await run.result() for run in runs] == list(range(300))


async def test_a_sleeper_costs_a_timer_and_no_task(toy: Toy, store_url: str) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf) -> None:
        await ctx.workflow.sleep("Wait", "1d")

    async with World(store_url, sticky=0).lab(toy, auto_advance=False) as lab:
        await toy.start("sleeper")
        before = len(asyncio.all_tasks())
        await asyncio.gather(*[toy.start("sleeper") for _ in range(300)])
        await lab.settle()
        assert len(asyncio.all_tasks()) < before + 5
        assert len(lab._opened.engine._live) == 0


async def test_a_sleep_that_became_due_while_no_process_ran_ends_at_the_next_start(
    toy: Toy, world: World
) -> None:
    @toy.workflow
    async def sleeper(ctx: Wf) -> int:
        await ctx.workflow.sleep("Wait", "5min")
        return 1

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("sleeper")
        await lab.crash()
        lab.clock.move_to(lab.clock.now_us() + 86_400_000_000)
        await lab.recover()
        assert await run.result(timeout="5s") == 1
