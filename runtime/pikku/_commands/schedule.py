"""`pikku schedule`: look at schedules, run, pause, resume and remove them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from pikku._commands.choosing import as_json, counted, readable, time_limit, waiting
from pikku._commands.output import columns, printable, put, put_json, shortened, tell
from pikku._commands.results import limit_of
from pikku._commands.runs import host, in_loop
from pikku._commands.target import Target

if TYPE_CHECKING:
    from datetime import datetime

    from pikku._engine import Engine
    from pikku._schedules import Schedules
    from pikku._ticks import ScheduleInfo

name_argument = click.argument("name", metavar="NAME", callback=readable)


@click.group()
def schedule() -> None:
    """List, run, pause, resume and remove schedules.

    These commands write to the store and end: what follows is executed by a process that hosts the
    app, such as `pikku worker`, or of `run` here with --wait.
    """


@schedule.command("list")
@click.option(
    "--next",
    "count",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Print the next N times of each, too.",
)
@as_json
@click.pass_obj
def list_(target: Target, count: int | None, as_json: bool) -> None:
    """List the app's schedules, and those that are left in the store. Reads only."""

    async def read() -> list[ScheduleInfo]:
        async with _schedules(target) as schedules:
            return await schedules.listed()

    found = in_loop(read())
    if as_json:
        for each in found:
            put_json(_document(each, count or 1))
        return
    if not found:
        tell("no schedules")
        return
    rows = [("NAME", "SCHEDULE", "TIME ZONE", "NEXT (UTC)", "LAST (UTC)", "NOTE")]
    rows += [
        (
            shortened(each.name, 60),
            printable(each.schedule),
            each.timezone,
            "paused" if each.paused else _moment(each.next_at),
            _last(each),
            "" if each.wired else "not wired",
        )
        for each in found
    ]
    for line in columns(rows):
        put(line)
    for each in found if count else ():
        put()
        put(printable(each.name))
        for at in each.upcoming(count or 1):
            put(f"  {_moment(at)}")


@schedule.command()
@name_argument
@waiting
@time_limit
@as_json
@click.pass_obj
def run(target: Target, name: str, wait: bool, timeout: str | None, as_json: bool) -> None:
    """Do what the schedule NAME does, now; its ticks come as before."""
    limit_of(timeout, wait=wait)
    if wait:
        app = target.load_app()

        async def hosted(engine: Engine) -> str:
            return (await app.run_schedule(name, wait=False)).run_id

        host(target, hosted, wait=True, timeout=timeout, as_json=as_json)
        return

    async def write() -> str:
        async with _schedules(target) as schedules:
            return await schedules.ask(name)

    run_id = in_loop(write())
    if as_json:
        put_json({"run_id": run_id})
        return
    put(run_id)
    tell(f"executed by the next host: pikku worker, or: pikku runs resume {run_id} --wait")


@schedule.command()
@name_argument
@as_json
@click.pass_obj
def pause(target: Target, name: str, as_json: bool) -> None:
    """Have no tick of the schedule NAME come until it is resumed; what is under way ends."""

    async def write() -> ScheduleInfo:
        async with _schedules(target) as schedules:
            await schedules.pause(name)
            return await _one(schedules, name)

    info = in_loop(write())
    if as_json:
        put_json(_document(info, 1))
    else:
        put(f"{printable(name)} paused")


@schedule.command()
@name_argument
@as_json
@click.pass_obj
def resume(target: Target, name: str, as_json: bool) -> None:
    """Have the schedule NAME go on with its next tick from now."""

    async def write() -> ScheduleInfo:
        async with _schedules(target) as schedules:
            await schedules.resume(name)
            return await _one(schedules, name)

    info = in_loop(write())
    if as_json:
        put_json(_document(info, 1))
    else:
        put(f"{printable(name)} resumed, next at {_moment(info.next_at)} UTC")


@schedule.command()
@name_argument
@as_json
@click.pass_obj
def remove(target: Target, name: str, as_json: bool) -> None:
    """Remove what the store has of a schedule NAME that the app has no more."""
    app = target.load_app()

    async def write() -> int:
        async with _schedules(target) as schedules:
            if name in app.registry.schedules:
                raise click.UsageError(
                    f"schedule {name!r} is wired in {app.package}, and the next host would make it "
                    "again; take its wire_scheduler out, or: pikku schedule pause"
                )
            return await schedules.remove(name)

    count = in_loop(write())
    if as_json:
        put_json({"name": name, "runs": count})
    else:
        put(f"{printable(name)} removed, {counted(count)}")


@asynccontextmanager
async def _schedules(target: Target) -> AsyncGenerator[Schedules, None]:
    """The schedules of the app and its store, in a process that executes nothing."""
    from pikku._commands.writing import writing_for
    from pikku._schedules import Schedules

    app = target.load_app()
    async with writing_for(app, target) as desk:
        yield Schedules(app.registry, desk.engine)


async def _one(schedules: Schedules, name: str) -> ScheduleInfo:
    return next(each for each in await schedules.listed() if each.name == name)


def _document(info: ScheduleInfo, count: int) -> dict[str, Any]:
    from pikku._documents import iso_time

    return {
        "name": info.name,
        "schedule": info.schedule,
        "timezone": info.timezone,
        "catch_up": info.catch_up,
        "description": info.description,
        "paused": info.paused,
        "wired": info.wired,
        "next_at": [iso_time(at) for at in info.upcoming(count)],
        "last_run": info.last_run,
        "last_status": info.last_status,
        "last_at": None if info.last_at is None else iso_time(info.last_at),
    }


def _moment(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}".removesuffix(":00")


def _last(info: ScheduleInfo) -> str:
    if info.last_at is None:
        return "-"
    return f"{info.last_at:%Y-%m-%d %H:%M:%S} {info.last_status}"
