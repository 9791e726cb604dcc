"""`pikku runs`: start, list and look at runs; the other commands of the group are beside."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pikku._commands.choosing import (
    Chosen,
    as_json,
    choice,
    run_id_argument,
    time_limit,
    waiting,
)
from pikku._commands.output import put, put_json, tell
from pikku._commands.results import conclude, limit_of, text_of
from pikku._commands.target import Target
from pikku.errors import RunNotFoundError, RunStateError

if TYPE_CHECKING:
    from pikku._commands.hosting import Stop
    from pikku._engine import Engine
    from pikku._records import LoadedRun, RunRecord
    from pikku._waits import Wait
    from pikku.stores.base import Store

T = TypeVar("T")


@click.group()
def runs() -> None:
    """Start, follow, change, repair and delete runs.

    A command that only changes a run writes that to the store and ends: what follows is executed by
    a process that hosts the app, such as `pikku worker`, or here with --wait. `start` and `resume`
    execute here, unless runs are left to workers.
    """


@runs.command()
@click.argument("name")
@click.option(
    "--input",
    "given",
    metavar="JSON|@FILE|-",
    help="The workflow's input: JSON text, a file that holds it, or - for stdin.",
)
@click.option("--id", "run_id", metavar="ID", help="An id of your own; makes starting idempotent.")
@click.option("--tag", "tags", multiple=True, help="A tag to find the run by; may be repeated.")
@click.option("--delay", metavar="DURATION", help="How long from now the run begins, such as 2h.")
@click.option("--by", "started_by", metavar="WHO", help="Who starts it, for approvals.")
@click.option(
    "--pinned",
    is_flag=True,
    help="Only processes that hold today's version of the workflow execute it.",
)
@waiting
@time_limit
@as_json
@click.pass_obj
def start(
    target: Target,
    name: str,
    given: str | None,
    run_id: str | None,
    tags: tuple[str, ...],
    delay: str | None,
    started_by: str | None,
    pinned: bool,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Start a run of the workflow NAME and execute it here.

    Without --wait, returns when the run has ended or waits for a timer or for somebody.
    """
    from pikku._commands.hosting import follow_unless_stopped, hosting, run_until_stopped

    text = text_of(given)
    limit = limit_of(timeout, wait=wait)
    app = target.load_app()

    async def main(stop: Stop) -> tuple[LoadedRun, Wait]:
        async with hosting(app, target.store, sticky=False) as engine:
            declaration = app.registry.workflow(name).workflow.declaration
            where = f"workflow {name!r}"
            data: list[Any] = []
            if text is not None:
                admitted = declaration.input.admit_json(text, where)
                data = [declaration.input.decode(admitted, where)]
            elif declaration.takes_input:
                raise click.UsageError(f"{where} takes an input: pass --input JSON, @FILE or -")
            found = None if run_id is None else await engine.store.load_run(run_id)
            run = await app.start_workflow(
                name,
                *data,
                run_id=run_id,
                wait=False,
                tags=tags,
                delay=delay,
                started_by=started_by,
                pinned=pinned,
            )
            tell(f"run {run} of {name}" + ("" if found is None else ", started before"))
            return await follow_unless_stopped(
                stop, engine, run.run_id, new=found is None, to_the_end=wait, timeout_us=limit
            )

    conclude(*run_until_stopped(main), waited=wait, as_json=as_json)


@runs.command()
@run_id_argument
@waiting
@time_limit
@as_json
@click.pass_obj
def resume(target: Target, run_id: str, wait: bool, timeout: str | None, as_json: bool) -> None:
    """Go on with a run that is suspended or was interrupted, and execute it here."""
    from pikku._clock import SystemClock

    began_us = SystemClock().now_us()

    async def open_again(engine: Engine) -> str:
        await _open_again(engine, run_id, began_us)
        return run_id

    host(target, open_again, wait=wait, timeout=timeout, as_json=as_json)


@runs.command("list")
@choice()
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@as_json
@click.pass_obj
def list_(target: Target, chosen: Chosen, limit: int, as_json: bool) -> None:
    """List runs, newest first. Reads only."""

    async def read() -> list[RunRecord]:
        async with target.reading() as store:
            wanted = chosen.wanted._replace(limit=limit)
            return [] if store is None else await store.list_runs(wanted)

    found = in_loop(read())
    if as_json:
        from pikku._documents import run_document

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
@choice(status=False)
@as_json
@click.pass_obj
def count(target: Target, chosen: Chosen, as_json: bool) -> None:
    """Count runs by their status. Reads only."""
    from pikku._commands.output import columns
    from pikku._commands.writing import writing

    async def read() -> dict[str, int]:
        async with writing(target) as desk:
            if desk is None:
                return {}
            if not chosen.anything:
                return await desk.engine.store.count_runs()
            counts: dict[str, int] = {}
            async for run in desk.control.every(chosen.wanted):
                counts[run.status] = counts.get(run.status, 0) + 1
            return counts

    found = {status: number for status, number in sorted(in_loop(read()).items()) if number}
    if as_json:
        put_json(found)
        return
    if not found:
        tell("no runs")
    for line in columns([(status, str(number)) for status, number in found.items()]):
        put(line)


@runs.command()
@run_id_argument
@as_json
@click.pass_obj
def show(target: Target, run_id: str, as_json: bool) -> None:
    """Show a run as a timeline: its steps, their attempts, what comes next. Reads only."""
    from pikku._commands.timeline import timeline
    from pikku._documents import show_document
    from pikku._waits import wait_of

    async def read() -> None:
        async with target.reading() as store:
            loaded, store = await load(target, store, run_id)
            now_us = store.clock.now_us()
            wait = wait_of(loaded, now_us)
            entries = await store.load_history(run_id)
            if as_json:
                put_json(show_document(loaded, wait, entries))
                return
            for line in timeline(loaded, entries, wait, now_us):
                put(line)

    in_loop(read())


@runs.command()
@run_id_argument
@as_json
@click.pass_obj
def history(target: Target, run_id: str, as_json: bool) -> None:
    """Print everything that happened in a run, in order. Reads only."""
    from pikku._commands.output import columns, printable, shortened
    from pikku._documents import history_documents
    from pikku._history import history_of

    async def read() -> None:
        async with target.reading() as store:
            loaded, store = await load(target, store, run_id)
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

    in_loop(read())


# --- what the commands share -------------------------------------------------------------------


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*, on an event loop of its own."""
    import asyncio

    return asyncio.run(work)


def host(
    target: Target,
    change: Callable[[Engine], Coroutine[Any, Any, str]],
    *,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Host the app, *change* something, and execute and follow the run that it names."""
    from pikku._commands.hosting import follow_unless_stopped, hosting, run_until_stopped

    limit = limit_of(timeout, wait=wait)
    app = target.load_app()

    async def main(stop: Stop) -> tuple[LoadedRun, Wait]:
        async with hosting(app, target.store, sticky=False) as engine:
            run_id = await change(engine)
            return await follow_unless_stopped(
                stop, engine, run_id, new=False, to_the_end=wait, timeout_us=limit
            )

    conclude(*run_until_stopped(main), waited=wait, as_json=as_json)


async def _open_again(engine: Engine, run_id: str, began_us: int) -> None:
    """Resume the run if it is suspended; one that was interrupted needs no more than a host.

    Raises:
        RunStateError: if it had ended before this command began.
    """
    try:
        await engine.resume(run_id)
    except RunStateError:
        run = await engine.store.load_run(run_id)
        if run is None or (run.finished_us is not None and run.finished_us < began_us):
            raise
    run = await engine.store.load_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id, store=engine.store.address)
    tell(f"run {run_id} of {run.workflow}")
    if run.owner not in (None, engine.session_id):
        tell("another process holds it; it is taken over once that one is gone")


async def load(target: Target, store: Store | None, run_id: str) -> tuple[LoadedRun, Store]:
    """The run with its steps, and the store that has it.

    Raises:
        RunNotFoundError: if there is none.
    """
    loaded = None if store is None else await store.load_steps(run_id)
    if store is None or loaded is None:
        address = target.make_store().address if store is None else store.address
        raise RunNotFoundError(run_id, store=address)
    return loaded, store
