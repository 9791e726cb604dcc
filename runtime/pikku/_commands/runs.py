"""`pikku runs`: start, list, look at, cancel and resume runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from pikku._commands.output import put, put_json, tell
from pikku._commands.target import Target
from pikku._records import FINAL_STATUSES, RUN_STATUSES, RunFilter, RunStatus
from pikku.errors import (
    PikkuError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    RunStateError,
)

if TYPE_CHECKING:
    from pikku._commands.hosting import Stop
    from pikku._commands.waiting import Wait
    from pikku._engine import Engine
    from pikku._records import LoadedRun, RunRecord
    from pikku.stores.base import Store

T = TypeVar("T")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
run_id_argument = click.argument("run_id", metavar="ID")
waiting = click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
time_limit = click.option(
    "--timeout", metavar="DURATION", help="With --wait: for how long at most, such as 30s or 5min."
)


@click.group()
def runs() -> None:
    """Start, list, look at, cancel and resume runs."""


@runs.command()
@click.argument("name")
@click.option(
    "--input",
    "given",
    metavar="JSON|@FILE|-",
    help="The workflow's input: JSON text, a file that holds it, or - for stdin.",
)
@click.option("--id", "run_id", metavar="ID", help="An id of your own; makes starting idempotent.")
@waiting
@time_limit
@as_json
@click.pass_obj
def start(
    target: Target,
    name: str,
    given: str | None,
    run_id: str | None,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Start a run of the workflow NAME and execute it here.

    Without --wait, returns when the run has ended or waits for a timer or for somebody.
    """
    from pikku._commands.hosting import follow_unless_stopped, hosting, run_until_stopped

    text = _input_text(given)
    limit = _limit(wait, timeout)
    app = target.load_app()

    async def main(stop: Stop) -> tuple[LoadedRun, Wait]:
        async with hosting(app, target.store, sticky=False) as engine:
            wired = app.registry.workflow(name)
            declaration = wired.workflow.declaration
            where = f"workflow {name!r}"
            if text is not None:
                admitted = declaration.input.admit_json(text, where)
            elif declaration.takes_input:
                raise click.UsageError(f"{where} takes an input: pass --input JSON, @FILE or -")
            else:
                admitted = "null"
            found = None if run_id is None else await engine.store.load_run(run_id)
            started = await engine.start(wired, admitted, run_id=run_id, wait=False)
            tell(f"run {started} of {name}" + ("" if found is None else ", started before"))
            return await follow_unless_stopped(
                stop, engine, started, new=found is None, to_the_end=wait, timeout_us=limit
            )

    _conclude(*run_until_stopped(main), waited=wait, as_json=as_json)


@runs.command()
@run_id_argument
@waiting
@time_limit
@as_json
@click.pass_obj
def resume(target: Target, run_id: str, wait: bool, timeout: str | None, as_json: bool) -> None:
    """Go on with a run that is suspended or was interrupted, and execute it here."""
    from pikku._clock import SystemClock
    from pikku._commands.hosting import follow_unless_stopped, hosting, run_until_stopped

    limit = _limit(wait, timeout)
    app = target.load_app()
    began_us = SystemClock().now_us()

    async def main(stop: Stop) -> tuple[LoadedRun, Wait]:
        async with hosting(app, target.store, sticky=False) as engine:
            await _open_again(engine, run_id, began_us)
            return await follow_unless_stopped(
                stop, engine, run_id, new=False, to_the_end=wait, timeout_us=limit
            )

    _conclude(*run_until_stopped(main), waited=wait, as_json=as_json)


@runs.command("list")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--status", type=click.Choice(RUN_STATUSES), help="Only runs with this status.")
@click.option("--tag", help="Only runs with this tag.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@as_json
@click.pass_obj
def list_(
    target: Target,
    workflow: str | None,
    status: str | None,
    tag: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first. Reads only."""
    wanted = RunFilter(workflow, cast("RunStatus | None", status), tag, limit)

    async def read() -> list[RunRecord]:
        async with target.reading() as store:
            return [] if store is None else await store.list_runs(wanted)

    found = _run(read())
    if as_json:
        from pikku._commands.documents import run_document

        for each in found:
            put_json(run_document(each))
        return
    from pikku._commands.timeline import run_lines

    if not found:
        tell("no runs")
        return
    for line in run_lines(found):
        put(line)
    if len(found) == limit:
        tell(f"the newest {limit}; more with --limit")


@runs.command()
@run_id_argument
@as_json
@click.pass_obj
def show(target: Target, run_id: str, as_json: bool) -> None:
    """Show a run as a timeline: its steps, their attempts, what comes next. Reads only."""
    from pikku._commands.documents import show_document
    from pikku._commands.timeline import timeline
    from pikku._commands.waiting import wait_of

    async def read() -> None:
        async with target.reading() as store:
            loaded, store = await _loaded(target, store, run_id)
            now_us = store.clock.now_us()
            wait = wait_of(loaded, now_us)
            if as_json:
                put_json(show_document(loaded, wait))
                return
            for line in timeline(loaded, await store.load_history(run_id), wait, now_us):
                put(line)

    _run(read())


@runs.command()
@run_id_argument
@as_json
@click.pass_obj
def history(target: Target, run_id: str, as_json: bool) -> None:
    """Print everything that happened in a run, in order. Reads only."""
    from pikku._commands.documents import history_documents
    from pikku._commands.output import columns, printable, shortened
    from pikku._history import history_of

    async def read() -> None:
        async with target.reading() as store:
            loaded, store = await _loaded(target, store, run_id)
            events = history_of(loaded.run, loaded.steps, await store.load_history(run_id))
        if as_json:
            for document in history_documents(events):
                put_json(document)
            return
        rows = [
            (
                f"{event.at:%Y-%m-%d %H:%M:%S.%f}"[:-3],
                event.kind,
                printable(event.step or "") + (f" ({event.attempt})" if event.attempt else ""),
                "" if event.data is None else shortened(json.dumps(event.data), 80),
            )
            for event in events
        ]
        for line in columns(rows):
            put(line)

    _run(read())


@runs.command()
@run_id_argument
@click.option("--reason", required=True, help="Why; recorded with the run.")
@as_json
@click.pass_obj
def cancel(target: Target, run_id: str, reason: str, as_json: bool) -> None:
    """Ask a run to unwind. The request is recorded; a process that hosts the app carries it out."""
    from pikku._records import CancelRun

    async def request() -> tuple[RunRecord, bool]:
        async with target.reading() as store:
            if store is None:
                raise RunNotFoundError(run_id, store=target.make_store().address)
            reply = await store.apply("", [CancelRun(run_id, reason)], {})
            result = reply.results[0]
            if result.error is not None:
                raise result.error
            run = await store.load_run(run_id)
            if run is None:
                raise RunNotFoundError(run_id, store=store.address)
            return run, result.code == "settled"

    run, settled = _run(request())
    if as_json:
        from pikku._commands.documents import run_document

        put_json(run_document(run))
    if settled:
        raise RunStateError(
            f"run {run_id} is {run.status} and cannot be cancelled",
            hint=f"what became of it: pikku runs show {run_id}",
        )
    if not as_json:
        put(f"{run_id} {run.status}, cancel requested")
        if run.owner is None:
            tell(f"carried out by the next host: pikku worker, or: pikku runs resume {run_id}")


# --- what the commands share -------------------------------------------------------------------


def _run(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return asyncio.run(work)


async def _open_again(engine: Engine, run_id: str, began_us: int) -> None:
    """Resume the run if it is suspended; one that was interrupted needs no more than a host.

    Raises:
        RunStateError: if it had ended before this command began.
    """
    try:
        await engine.resume(run_id)
    except RunStateError:
        run = await engine.store.load_run(run_id)
        if run is None or run.finished_us is None or run.finished_us < began_us:
            raise
    run = await engine.store.load_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id, store=engine.store.address)
    tell(f"run {run_id} of {run.workflow}")
    if run.owner not in (None, engine.session_id):
        tell("another process holds it; it is taken over once that one is gone")


async def _loaded(target: Target, store: Store | None, run_id: str) -> tuple[LoadedRun, Store]:
    loaded = None if store is None else await store.load_steps(run_id)
    if store is None or loaded is None:
        address = target.make_store().address if store is None else store.address
        raise RunNotFoundError(run_id, store=address)
    return loaded, store


def _input_text(given: str | None) -> str | None:
    if given is None:
        return None
    try:
        if given == "-":
            return sys.stdin.read()
        if given.startswith("@"):
            return Path(given[1:]).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise click.BadParameter(f"{given[1:]}: {error.strerror}", param_hint="--input") from error
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{given}: it is not UTF-8", param_hint="--input") from error
    return given


def _limit(wait: bool, timeout: str | None) -> int | None:
    if timeout is None:
        return None
    if not wait:
        raise click.UsageError("--timeout goes with --wait")
    from pikku._durations import duration_us

    return duration_us(timeout)


def _conclude(loaded: LoadedRun, wait: Wait, *, waited: bool, as_json: bool) -> None:
    """Print how a hosted run stands, and raise for one that failed or was cancelled."""
    from pikku import ErrorInfo
    from pikku._commands.documents import outcome_document

    run = loaded.run
    if as_json:
        put_json(outcome_document(run, wait))
    elif waited and run.status == "completed":
        put(run.output or "null")
    else:
        put(f"{run.run_id} {run.status}")
    if run.status not in FINAL_STATUSES:
        if wait.kind != "resume" and wait.sentence:
            tell(wait.sentence)
            tell(f"it goes on with: pikku worker, or: pikku runs resume {run.run_id} --wait")
        return
    error = ErrorInfo.shown(run.error) if run.error else ErrorInfo("Exception", "")
    ended: PikkuError | None = None
    if run.status == "failed":
        ended = RunFailedError(run.run_id, run.workflow, error)
    elif run.status == "cancelled":
        ended = RunCancelledError(run.run_id, run.workflow, run.cancel_reason or error.message)
    if ended is not None:
        raise ended
