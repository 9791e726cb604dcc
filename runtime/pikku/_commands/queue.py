"""`pikku queue`: look at the jobs of queues, put dead letters back, and remove jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import click

from pikku._commands.choosing import agreed, as_json, counted, readable, unasked
from pikku._commands.output import columns, printable, put, put_json, shortened, tell
from pikku._commands.runs import in_loop
from pikku._commands.target import Target
from pikku.errors import UnknownQueueError

if TYPE_CHECKING:
    from datetime import datetime

    from pikku._app import OpenApp
    from pikku._job_control import JobControl, QueueCounts
    from pikku._queues import JobInfo
    from pikku._records import RunStatus

# What a job of each status is kept as.
_RUN_STATUS: dict[str, RunStatus] = {
    "waiting": "running",
    "failed": "failed",
    "completed": "completed",
    "cancelled": "cancelled",
}

name_argument = click.argument("name", metavar="QUEUE", callback=readable)
some = click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many."
)


@click.group()
def queue() -> None:
    """List queues, look at their jobs and dead letters, put these back, and remove jobs.

    These commands write to the store and end; jobs are done by a process that hosts the app, such
    as `pikku worker`.
    """


@queue.command("list")
@as_json
@click.pass_obj
def list_(target: Target, as_json: bool) -> None:
    """List the queues of the app, and those that hold jobs. Reads only."""

    async def read() -> list[tuple[str, QueueCounts, str]]:
        async with _jobs(target) as (jobs, wired):
            waiting = await jobs.waiting()
            names = sorted({*wired, *waiting})
            return [(name, await jobs.counts(name, waiting), wired.get(name, "")) for name in names]

    found = in_loop(read())
    if as_json:
        for name, counts, function in found:
            put_json({"queue": name, "function": function or None, **counts._asdict()})
        return
    if not found:
        tell("no queues")
        return
    rows: list[tuple[str, ...]] = [("QUEUE", "FUNCTION", "WAITING", "UNFINISHED", "DEAD", "KEPT")]
    rows += [
        (name, function or "-", *(str(count) for count in counts))
        for name, counts, function in found
    ]
    for line in columns(rows):
        put(line)


@queue.command()
@name_argument
@click.option("--status", type=click.Choice([*_RUN_STATUS]), help="Only jobs of this status.")
@some
@as_json
@click.pass_obj
def show(target: Target, name: str, status: str | None, limit: int, as_json: bool) -> None:
    """Show the jobs of QUEUE, newest first: those that wait or run, and those that are kept."""

    async def read() -> list[JobInfo]:
        async with _jobs(target, name) as (jobs, _):
            return await jobs.listed(name, _RUN_STATUS.get(status or ""), limit)

    _put_jobs(in_loop(read()), f"no jobs in {printable(name)}", as_json=as_json)


@queue.command()
@name_argument
@some
@as_json
@click.pass_obj
def dead(target: Target, name: str, limit: int, as_json: bool) -> None:
    """Show the dead letters of QUEUE, newest first: jobs that have failed for good."""

    async def read() -> list[JobInfo]:
        async with _jobs(target, name) as (jobs, _):
            return await jobs.listed(name, "failed", limit)

    found = in_loop(read())
    _put_jobs(found, f"no dead letters in {printable(name)}", as_json=as_json)
    if found and not as_json:
        tell(f"to put them back: pikku queue retry {name} --all, or one by its id")


@queue.command()
@name_argument
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="Every dead letter of the queue.")
@as_json
@click.pass_obj
def retry(target: Target, name: str, job_id: str | None, every: bool, as_json: bool) -> None:
    """Put the dead letter ID of QUEUE back, or all of them, with all their attempts before them."""
    if bool(job_id) == every:
        raise click.UsageError("give the id of a job, or --all")

    async def write() -> int:
        async with _jobs(target, name) as (jobs, _):
            if job_id is None:
                return await jobs.retry_all(name)
            await jobs.retry(name, job_id)
            return 1

    count = in_loop(write())
    if as_json:
        put_json({"queue": name, "retried": count})
    else:
        put(f"{counted(count, 'job')} back in {printable(name)}")


@queue.command()
@name_argument
@click.option(
    "--status",
    type=click.Choice([*_RUN_STATUS]),
    required=True,
    help="The jobs to remove; what waits or runs is cancelled first.",
)
@unasked
@as_json
@click.pass_obj
def purge(target: Target, name: str, status: str, yes: bool, as_json: bool) -> None:
    """Remove the jobs of QUEUE that have this status."""

    async def count() -> int:
        async with _jobs(target, name) as (jobs, _):
            return await jobs.count(name, _RUN_STATUS[status])

    async def write() -> int:
        async with _jobs(target, name) as (jobs, _):
            return await jobs.purge(name, _RUN_STATUS[status])

    found = in_loop(count())
    if found and not agreed(f"{counted(found, 'job')} would be removed", yes=yes):
        raise click.Abort
    removed = in_loop(write()) if found else 0
    if as_json:
        put_json({"queue": name, "removed": removed})
    else:
        put(f"{counted(removed, 'job')} removed from {printable(name)}")


@asynccontextmanager
async def _jobs(
    target: Target, name: str | None = None
) -> AsyncGenerator[tuple[JobControl, dict[str, str]], None]:
    """The jobs in the app's store, in a process that executes nothing; and the functions of the
    queues that are wired.

    Raises:
        UnknownQueueError: no function is wired to the queue *name*, and nothing is kept of it.
    """
    from pikku._commands.writing import writing_for
    from pikku._job_control import JobControl

    app = target.load_app()
    async with writing_for(app, target) as desk:
        workers = app.registry.queue_workers
        wired = {name: worker.func.name for name, worker in workers.items()}
        jobs = JobControl(cast("OpenApp", desk))
        if name is not None and name not in wired and not any(await jobs.counts(name)):
            raise UnknownQueueError(name, wired)
        yield jobs, wired


def _put_jobs(found: list[JobInfo], nothing: str, *, as_json: bool) -> None:
    if as_json:
        for each in found:
            put_json(_document(each))
        return
    if not found:
        tell(nothing)
        return
    rows = [("JOB", "STATUS", "ATTEMPT", "PRIORITY", "GROUP", "ADDED (UTC)", "ERROR")]
    rows += [
        (
            shortened(each.job_id, 80),
            each.status,
            str(each.attempt),
            str(each.priority),
            "-" if each.group is None else shortened(each.group, 30),
            f"{each.created_at:%Y-%m-%d %H:%M:%S}",
            "" if each.error is None else shortened(each.error, 80),
        )
        for each in found
    ]
    for line in columns(rows):
        put(line)


def _document(info: JobInfo) -> dict[str, Any]:
    return {
        "job_id": info.job_id,
        "queue": info.queue,
        "function": info.function,
        "status": info.status,
        "attempt": info.attempt,
        "failures": info.failures,
        "priority": info.priority,
        "group": info.group,
        "progress": info.progress,
        "created_at": _moment(info.created_at),
        "started_at": _moment(info.started_at),
        "finished_at": _moment(info.finished_at),
        "error": info.error,
    }


def _moment(at: datetime | None) -> str | None:
    from pikku._documents import iso_time

    return None if at is None else iso_time(at)
