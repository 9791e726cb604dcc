"""`pikku runs signal|approvals|approve|reject`: words for runs that wait."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from pikku._commands.choosing import as_json, run_id_argument, time_limit, waiting
from pikku._commands.output import columns, printable, put, put_json, shortened, tell
from pikku._commands.results import limit_of, say_changed, text_of
from pikku._commands.runs import host, in_loop, load
from pikku._commands.target import Target

if TYPE_CHECKING:
    from pikku._app import App
    from pikku._codec import Codec
    from pikku._control import Control
    from pikku._engine import Engine
    from pikku._records import RunRecord

payload = click.option(
    "--input",
    "given",
    metavar="JSON|@FILE|-",
    help="What comes with it: JSON text, a file that holds it, or - for stdin.",
)


@click.command()
@run_id_argument
@click.argument("name")
@payload
@click.option(
    "--id", "signal_id", metavar="SIGNAL_ID", help="The same id again sends nothing more."
)
@waiting
@time_limit
@as_json
@click.pass_obj
def signal(
    target: Target,
    run_id: str,
    name: str,
    given: str | None,
    signal_id: str | None,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Send the signal NAME to a run. What follows is executed by a host, or here with --wait."""
    text = text_of(given)

    async def send(control: Control, app: App[Any]) -> None:
        codec = app.registry.signal(name).payload
        data = read_value(codec, text, f"signal {name!r}")
        await control.signal(run_id, name, data, signal_id)

    change(target, run_id, send, f"signal {name} sent", wait=wait, timeout=timeout, as_json=as_json)


@click.command()
@run_id_argument
@as_json
@click.pass_obj
def approvals(target: Target, run_id: str, as_json: bool) -> None:
    """List the approvals of a run that wait for an answer. Reads only."""
    from pikku._documents import approval_document
    from pikku._waits import open_approvals

    async def read() -> list[dict[str, Any]]:
        async with target.reading() as store:
            loaded, _ = await load(target, store, run_id)
            return [approval_document(step) for step in open_approvals(loaded)]

    found = in_loop(read())
    if as_json:
        for each in found:
            put_json(each)
        return
    if not found:
        tell("no approval waits")
        return
    rows = [("STEP", "FOR", "SCOPE", "EXPIRES (UTC)", "DATA", "REASON")]
    rows += [
        (
            shortened(each["step"], 60),
            each["approvers"],
            printable(each["scope"] or ""),
            (each["expires_at"] or "").partition(".")[0].replace("T", " "),
            each["schema"] or "",
            shortened(each["reason"], 80),
        )
        for each in found
    ]
    for line in columns(rows):
        put(line)


def _answer(outcome: Literal["approved", "rejected"]) -> Callable[..., None]:
    def answer(
        target: Target,
        run_id: str,
        step: str,
        given: str | None,
        by: str | None,
        note: str,
        scopes: tuple[str, ...],
        wait: bool,
        timeout: str | None,
        as_json: bool,
    ) -> None:
        text = text_of(given)

        async def decide(control: Control, app: App[Any]) -> None:
            data = await _answer_data(control, run_id, step, text)
            await control.decide(run_id, step, outcome, data, by, note, scopes)

        change(
            target,
            run_id,
            decide,
            f"{step!r} {outcome}",
            wait=wait,
            timeout=timeout,
            as_json=as_json,
        )

    options: list[Callable[[Any], Any]] = [
        run_id_argument,
        click.argument("step"),
        payload,
        click.option("--by", metavar="WHO", help="Who answers."),
        click.option("--note", default="", help="Kept beside the answer."),
        click.option(
            "--scope",
            "scopes",
            multiple=True,
            help="What whoever answers is entitled to; may be repeated.",
        ),
        waiting,
        time_limit,
        as_json,
        click.pass_obj,
    ]
    made: Any = answer
    for option in reversed(options):
        made = option(made)
    return cast("Callable[..., None]", made)


approve = click.command(
    "approve",
    help="Say yes to the approval STEP of a run. What follows is executed by a host, or here with "
    "--wait.",
)(_answer("approved"))
reject = click.command(
    "reject",
    help="Say no to the approval STEP of a run. What follows is executed by a host, or here with "
    "--wait.",
)(_answer("rejected"))


async def _answer_data(control: Control, run_id: str, key: str, text: str | None) -> Any:
    """The data that comes with an answer, as its approval wants it."""
    from pikku._answers import type_at
    from pikku._codec import codec_for

    if text is None:
        return None
    for request in await control.approvals(run_id):
        kind = type_at(request.schema) if request.step == key and request.schema else None
        if kind is not None:
            where = f"approval {key!r}"
            return read_value(codec_for(kind, where), text, where)
    return plain(text)


def read_value(codec: Codec, text: str | None, where: str) -> Any:
    """The value that JSON text stands for where *codec* is declared.

    Raises:
        InvalidInputError: if it stands for none.
    """
    return codec.decode(codec.admit_json("null" if text is None else text, where), where)


def plain(text: str) -> Any:
    """JSON text as plain data."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it is no JSON: {error}", param_hint="--input") from error


def change(
    target: Target,
    run_id: str,
    do: Callable[[Control, App[Any]], Awaitable[None]],
    what: str,
    *,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Do something to a run that needs its app: in the store, or with *wait* in a process that
    hosts the app and follows the run."""
    from pikku._commands.writing import writing_for

    limit_of(timeout, wait=wait)
    app = target.load_app()
    if wait:

        async def hosted(engine: Engine) -> str:
            await do(app.opened.control, app)
            return run_id

        host(target, hosted, wait=True, timeout=timeout, as_json=as_json)
        return

    async def write() -> RunRecord:
        async with writing_for(app, target) as desk:
            await do(desk.control, app)
            return (await desk.control.load(run_id)).run

    say_changed(in_loop(write()), what, as_json=as_json)
