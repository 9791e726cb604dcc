"""`pikku runs export|import|replay`: runs as files, and today's code against them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from pikku._commands.choosing import Chosen, as_json, choice, counted, every_run, run_id_argument
from pikku._commands.output import put, put_json, tell
from pikku._commands.results import say_changed
from pikku._commands.runs import in_loop, load
from pikku._commands.target import Target
from pikku.errors import HistoryFormatError, ReplayDivergedError

if TYPE_CHECKING:
    from pikku._records import RunRecord


@click.command()
@run_id_argument
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file instead of stdout.",
)
@click.pass_obj
def export(target: Target, run_id: str, out: Path | None) -> None:
    """Print a run with its history as JSON, for `import` and `replay`. Reads only; sealed values
    stay sealed."""
    text = json.dumps(in_loop(_exported(target, run_id)), ensure_ascii=False, indent=1)
    if out is None:
        put(text)
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"{out}: {error.strerror}", param_hint="--out") from error
    tell(f"run {run_id} is in {out}")


@click.command("import")
@click.argument("file", metavar="FILE|-")
@as_json
@click.pass_obj
def import_(target: Target, file: str, as_json: bool) -> None:
    """Write an exported run to the store. One that had not ended is suspended there, so that
    nothing of it happens a second time unless it is resumed."""
    from pikku._commands.writing import writing

    data = _read(file)

    async def write() -> RunRecord:
        async with writing(target, make=True) as desk:
            assert desk is not None
            made = await desk.control.import_run(data)
            return (await desk.control.load(made.run_id)).run

    say_changed(in_loop(write()), "imported", as_json=as_json)


@click.command()
@click.argument("run_ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--file", "files", metavar="FILE", multiple=True, help="An exported run; may be repeated."
)
@choice()
@every_run
@as_json
@click.pass_context
def replay(
    context: click.Context,
    run_ids: tuple[str, ...],
    files: tuple[str, ...],
    chosen: Chosen,
    every: bool,
    as_json: bool,
) -> None:
    """Say whether today's code takes the way that recorded runs took. Nothing is executed, and
    nothing written. Exits 1 if it does not, with the first difference of each run."""
    from pikku._commands.hosting import register
    from pikku._commands.writing import writing

    target: Target = context.obj
    if not (run_ids or files or every or chosen.anything):
        raise click.UsageError(
            "give an ID, a --file, or say which runs, such as --status completed"
        )
    app = target.load_app()
    register(app)
    replayed = diverged = 0

    def check(data: Any) -> None:
        nonlocal replayed, diverged
        replayed += 1
        difference: str | None = None
        try:
            app.verify_replay(data)
        except ReplayDivergedError as error:
            diverged += 1
            difference = error.difference
        run_id, workflow = data["run"]["run_id"], data["run"]["workflow"]
        if as_json:
            document = {"run_id": run_id, "workflow": workflow, "replays": difference is None}
            put_json({**document, "difference": difference})
        elif difference is None:
            put(f"{run_id} of {workflow} replays")
        else:
            put(f"{run_id} of {workflow} does not replay: {difference}")

    for file in files:
        check(_read(file))
    for run_id in run_ids:
        check(in_loop(_exported(target, run_id)))

    async def check_chosen() -> None:
        from pikku._exported import exported

        async with writing(target) as desk:
            if desk is None:
                return
            async for run in desk.control.every(chosen.wanted):
                check(exported(await desk.control.load(run.run_id), ()))

    if every or chosen.anything:
        in_loop(check_chosen())
    if not as_json and replayed != 1:
        tell(
            f"{counted(replayed)} replayed, {diverged} of them diverged"
            if diverged
            else f"{counted(replayed)} replayed"
        )
    if diverged:
        if not as_json:
            tell(f"help: {ReplayDivergedError.remedy}")
        context.exit(1)


async def _exported(target: Target, run_id: str) -> Any:
    from pikku._exported import exported

    async with target.reading() as store:
        loaded, store = await load(target, store, run_id)
        return exported(loaded, await store.load_history(run_id))


def _read(file: str) -> Any:
    """The exported run in a file.

    Raises:
        HistoryFormatError: it holds none.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HistoryFormatError("", f"{file} is not UTF-8") from error
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise HistoryFormatError("", f"{file} holds no JSON: {error}") from error
    if not isinstance(data, dict):
        raise HistoryFormatError("", f"{file} holds {type(data).__name__}")
    return cast("dict[str, Any]", data)
