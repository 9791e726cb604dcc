"""`pikku runs cancel|retry|fork|delete|prune`: what is done to one run, or to many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from pikku._commands.choosing import (
    Chosen,
    as_json,
    choice,
    consent,
    counted,
    every_run,
    one_or_many,
    run_id_argument,
    time_limit,
    unasked,
    waiting,
)
from pikku._commands.output import put, put_json, tell
from pikku._commands.results import say_changed, text_of
from pikku._commands.runs import in_loop
from pikku._commands.target import Target
from pikku._commands.words import change, plain, read_value
from pikku._functions import NO_INPUT
from pikku._records import FINAL_STATUSES, RunFilter
from pikku.errors import RunNotFoundError, RunStateError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from pikku._app import App
    from pikku._commands.writing import Desk
    from pikku._control import Control
    from pikku._engine import Engine
    from pikku._records import RunRecord

maybe_run_id = click.argument("run_id", metavar="[ID]", required=False)


@click.command()
@maybe_run_id
@click.option("--reason", required=True, help="Why; recorded with the run.")
@click.option(
    "--force", is_flag=True, help="End a suspended run here and now, without cleaning up."
)
@choice()
@every_run
@unasked
@as_json
@click.pass_obj
def cancel(
    target: Target,
    run_id: str | None,
    reason: str,
    force: bool,
    chosen: Chosen,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Ask a run to unwind, or all runs that are chosen. The request is recorded; a process that
    hosts the app carries it out. With --force a run that is suspended, such as one whose code is
    gone, ends at once."""
    from pikku._commands.writing import writing
    from pikku._ids import check_reason

    check_reason(reason, "pikku runs cancel")
    if not one_or_many(run_id, chosen, every=every):
        _many(
            target,
            chosen.wanted,
            lambda run: run.finished_us is None and (force or run.cancel_us is None),
            lambda desk, each: desk.control.cancel(each, reason, force=force),
            ("asked to unwind", "cancelled"),
            yes=yes,
            as_json=as_json,
        )
        return
    one = run_id or ""

    async def request() -> tuple[RunRecord, bool]:
        async with writing(target) as desk:
            desk = _there(desk, target, one)
            settled = not await desk.control.cancel(one, reason, force=force)
            return (await desk.control.load(one)).run, settled

    run, settled = in_loop(request())
    if not settled:
        what = "cancel requested" if run.finished_us is None else "without cleaning up"
        say_changed(run, what, as_json=as_json)
        return
    if as_json:
        from pikku._documents import run_document

        put_json(run_document(run))
    raise RunStateError(
        f"run {run_id} is {run.status} and cannot be cancelled",
        hint=f"what became of it: pikku runs show {run_id}",
    )


@click.command()
@maybe_run_id
@click.option("--from", "from_step", metavar="STEP", help="Go back to this step that failed.")
@choice(status=False)
@every_run
@unasked
@waiting
@time_limit
@as_json
@click.pass_obj
def retry(
    target: Target,
    run_id: str | None,
    from_step: str | None,
    chosen: Chosen,
    every: bool,
    yes: bool,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Have a failed run go on from the step that failed, or all failed runs that are chosen. What
    succeeded is kept. What follows is executed by a host, or for one run here with --wait."""
    if one_or_many(run_id, chosen, every=every):
        one = run_id or ""

        async def again(control: Control, app: App[Any]) -> None:
            await control.retry(one, from_step)

        change(target, one, again, "to be retried", wait=wait, timeout=timeout, as_json=as_json)
        return
    if wait or from_step is not None:
        raise click.UsageError("--from and --wait go with one ID")
    _many(
        target,
        chosen.wanted._replace(status="failed"),
        lambda run: True,
        lambda desk, each: desk.control.retry(each, None),
        ("retried", "retried"),
        yes=yes,
        as_json=as_json,
        app=target.load_app(),
        narrow=lambda desk, found: desk.control.to_retry(found),
    )


@click.command()
@run_id_argument
@click.argument("step")
@click.option(
    "--input",
    "given",
    metavar="JSON|@FILE|-",
    help="What that step is given instead of what the workflow gives it.",
)
@click.option("--id", "new_id", metavar="ID", help="The id of the new run.")
@waiting
@time_limit
@as_json
@click.pass_obj
def fork(
    target: Target,
    run_id: str,
    step: str,
    given: str | None,
    new_id: str | None,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Make a new run that has everything of a run up to where STEP was asked for. It is executed by
    a host, or here with --wait."""
    from pikku._commands.results import limit_of
    from pikku._commands.runs import host
    from pikku._commands.writing import writing_for

    limit_of(timeout, wait=wait)
    text = text_of(given)
    app = target.load_app()

    async def fork_it(control: Control) -> str:
        data: Any = NO_INPUT
        if text is not None:
            data = await _step_input(control, app, run_id, step, text)
        made = await control.fork(run_id, step, data, new_id)
        tell(f"run {made}, a fork of run {run_id}")
        return made

    if wait:

        async def hosted(engine: Engine) -> str:
            return await fork_it(app.opened.control)

        host(target, hosted, wait=True, timeout=timeout, as_json=as_json)
        return

    async def write() -> RunRecord:
        async with writing_for(app, target) as desk:
            return (await desk.control.load(await fork_it(desk.control))).run

    run = in_loop(write())
    say_changed(run, f"forked from {run_id}", as_json=as_json)


async def _step_input(control: Control, app: App[Any], run_id: str, key: str, text: str) -> Any:
    """The input of a step, as what it calls wants it."""
    loaded = await control.load(run_id)
    for step in loaded.steps:
        if step.key == key and step.kind in ("rpc", "child"):
            codec = (
                app.registry.workflow(step.target).workflow.declaration.input
                if step.kind == "child"
                else app.registry.function(step.target).declaration.input
            )
            return read_value(codec, text, f"step {key!r}")
    return plain(text)


@click.command()
@maybe_run_id
@choice(finished=True)
@every_run
@unasked
@as_json
@click.pass_obj
def delete(
    target: Target, run_id: str | None, chosen: Chosen, every: bool, yes: bool, as_json: bool
) -> None:
    """Remove a run that has ended, or all that are chosen, with everything recorded of it."""
    from pikku._commands.writing import writing

    if not one_or_many(run_id, chosen, every=every):
        _delete_many(target, chosen.wanted, yes=yes, as_json=as_json)
        return
    one = run_id or ""

    async def request() -> None:
        async with writing(target) as desk:
            await _there(desk, target, one).control.delete(one)

    in_loop(request())
    if as_json:
        put_json({"run_id": one, "deleted": True})
    else:
        put(f"{one} deleted")


@click.command()
@click.option(
    "--older-than",
    required=True,
    metavar="DURATION",
    help="Only runs that ended longer ago than that, such as 30d.",
)
@click.option(
    "--status",
    type=click.Choice(sorted(FINAL_STATUSES)),
    help="Only runs that ended so.",
)
@unasked
@as_json
@click.pass_obj
def prune(target: Target, older_than: str, status: Any, yes: bool, as_json: bool) -> None:
    """Remove the runs that ended long ago. The setting `retention` does so by itself."""
    from pikku._clock import SystemClock
    from pikku._durations import duration_us

    before_us = SystemClock().now_us() - duration_us(older_than)
    _delete_many(
        target, RunFilter(status=status, ended_before_us=before_us), yes=yes, as_json=as_json
    )


def _delete_many(target: Target, wanted: RunFilter, *, yes: bool, as_json: bool) -> None:
    _many(
        target,
        wanted,
        lambda run: run.finished_us is not None,
        lambda desk, each: desk.control.delete(each),
        ("deleted", "deleted"),
        yes=yes,
        as_json=as_json,
    )


def _many(
    target: Target,
    wanted: RunFilter,
    fits: Callable[[RunRecord], bool],
    do: Callable[[Desk, str], Awaitable[object]],
    words: tuple[str, str],
    *,
    yes: bool,
    as_json: bool,
    app: App[Any] | None = None,
    narrow: Callable[[Desk, list[RunRecord]], Awaitable[list[RunRecord]]] | None = None,
) -> None:
    """Do something to all runs that are wanted and fit, if that is consented to; *words* are what
    would be done, and what was. *narrow* leaves out some of those that were found."""
    from pikku._commands.writing import chosen_runs, writing, writing_for
    from pikku._control import each_run

    would, was = words

    async def collect() -> list[RunRecord]:
        async with writing(target) as desk:
            found = await chosen_runs(desk, wanted, fits)
            return found if desk is None or narrow is None else await narrow(desk, found)

    found = in_loop(collect())
    if not consent(found, would, yes=yes):
        tell("nothing was done")
        click.get_current_context().exit(1)

    async def act() -> int:
        opening: AbstractAsyncContextManager[Desk | None]
        opening = writing(target) if app is None else writing_for(app, target)
        async with opening as desk:
            if desk is None:
                return 0
            there = desk
            chosen = [run.run_id for run in found]
            return await each_run(chosen, lambda run_id: do(there, run_id))

    done = in_loop(act()) if found else 0
    if as_json:
        put_json({was: done})
    else:
        put(f"{counted(done)} {would}")


def _there(desk: Desk | None, target: Target, run_id: str) -> Desk:
    if desk is None:
        raise RunNotFoundError(run_id, store=target.make_store().address)
    return desk
