"""`pikku-gen`: writes the typed package of a project, checks it, explains diagnostics."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

if TYPE_CHECKING:
    from pikku_gen.diagnostics import ReadLine
    from pikku_gen.pipeline import Outcome

Format = Literal["text", "json", "github", "sarif"]
DrawnAs = Literal["mermaid", "svg", "dot", "json"]
ToldAs = Literal["text", "json", "markdown"]
OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
NOT_FOUND: Final = 3
_SHOWN_CHANGES: Final = 3


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when the output is stale.")
@click.option("--fix", is_flag=True, help="First mend in the sources what is mechanical.")
@click.option("--watch", is_flag=True, help="Stay, and write again after every burst of edits.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "github", "sarif"]),
    default="text",
    show_default=True,
    help="How to print diagnostics.",
)
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of pyproject.toml; default: the nearest above the current one.",
)
@click.option("--version", is_flag=True, help="Print the version and exit.")
@click.pass_context
def main(
    context: click.Context,
    *,
    check: bool,
    fix: bool,
    watch: bool,
    style: Format,
    project: Path | None,
    version: bool,
) -> None:
    """Write the typed package of the project around the current folder.

    Reads decorated functions without importing them. Exit codes: 0 fine, 1 diagnostics or stale
    output, 2 wrong usage or configuration.
    """
    if version:
        click.echo(f"pikku-gen {_version()}")
        return
    if check and fix:
        raise click.UsageError("--check writes nothing, --fix does: choose one")
    if watch and (check or fix):
        raise click.UsageError("--watch writes the package and nothing else: leave the other out")
    if watch and style not in ("text", "json"):
        raise click.UsageError(f"--watch never ends, a report as {style} does: use text or json")
    if context.invoked_subcommand is None:
        if watch:
            context.exit(stay(project, style))
        context.with_resource(_uncollected())
        context.exit(build(project, style, check=check, fix=fix))


@main.command()
@click.argument("code")
@click.pass_context
def explain(context: click.Context, code: str) -> None:
    """Explain a diagnostic: its cause, an example, the remedy."""
    from pikku_gen import codes
    from pikku_gen.diagnostics import nearest

    text = codes.explain(code)
    if text is None:
        close = nearest(code.upper(), codes.TABLE)
        hint = f"; did you mean {close}?" if close else f"; there are {', '.join(codes.TABLE)}"
        click.echo(f"pikku-gen: no diagnostic has the code {code}{hint}", err=True)
        context.exit(MISUSED)
    click.echo(text, nl=False)


@main.command()
@click.argument("name")
@click.option(
    "--format",
    "style",
    type=click.Choice(["mermaid", "svg", "dot", "json"]),
    default="mermaid",
    show_default=True,
    help="How to draw it; json is as in the manifest.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; default: stdout.",
)
@click.pass_context
def graph(context: click.Context, name: str, style: DrawnAs, out: Path | None) -> None:
    """Draw the steps of the workflow NAME, as the sources have it now.

    Exit codes: 0 fine, 1 diagnostics, 2 wrong usage, 3 no workflow has this name.
    """
    context.exit(draw(_folder(context), name, style, out))


@main.command()
@click.argument("old")
@click.argument("new", required=False)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="How to print it; markdown is for a pull request.",
)
@click.option(
    "--store",
    metavar="URL",
    help="Also say which unfinished runs, jobs and ticks of it are touched.",
)
@click.option("--app", metavar="PACKAGE", help="The same for the store of this app.")
@click.pass_context
def diff(
    context: click.Context,
    old: str,
    new: str | None,
    style: ToldAs,
    store: str | None,
    app: str | None,
) -> None:
    """Say what becomes of runs, jobs and ticks in flight from OLD when NEW is deployed.

    Each is a git revision, a manifest.json, a generated package or a project's folder; NEW is the
    working tree where it is left out. Verdicts are safe, needs patched and breaking.

    Exit codes: 0 all are safe, 1 one is not, 2 wrong usage, or what cannot be read.
    """
    context.exit(compare(_folder(context), old, new, style, store, app))


@main.command()
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The client's own folder.",
)
@click.option("--name", help="Its distribution; default: as it is there, or <root>-client.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when the client is stale.")
@click.pass_context
def client(context: click.Context, out: Path, name: str | None, *, check: bool) -> None:
    """Write a client package for other code bases, with JSON Schema and OpenAPI beside it.

    It has what is exposed, copies of the types, and nothing of the server's code. Exit codes:
    0 fine, 1 diagnostics or stale, 2 wrong usage or configuration.
    """
    given = context.parent.params if context.parent else {}
    style: Format = given.get("style", "text")
    check = check or bool(given.get("check"))
    context.exit(write_client(_folder(context), out, name, style, check=check))


def _folder(context: click.Context) -> Path:
    """The project that a command works on."""
    from pikku_gen.config import find_project

    given: Path | None = context.parent.params.get("project") if context.parent else None
    return given.resolve() if given else find_project(Path.cwd()) or Path.cwd()


def draw(folder: Path, name: str, style: DrawnAs, out: Path | None) -> int:
    """Draws the step graph of a workflow; returns the exit code."""
    from pikku_gen import drawing
    from pikku_gen.diagnostics import all_near, as_text
    from pikku_gen.pipeline import read

    reading = read(folder)
    if reading.failed:
        text = as_text(reading.diagnostics, _reader(folder), color=_is_colored())
        click.echo(text, nl=False, err=True, color=True)
        return FAILED
    found = reading.workflow(name)
    if found is None:
        close = all_near(name, reading.workflows)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        hint = hint or f"; there are {', '.join(reading.workflows) or 'none'}"
        click.echo(f"pikku-gen: no workflow has the name {name}{hint}", err=True)
        return NOT_FOUND
    text = drawing.drawn(found, style)
    if out is None:
        click.echo(text, nl=False)
        return OK
    try:
        out.write_bytes(text.encode())
    except OSError as error:
        click.echo(f"pikku-gen: {out} cannot be written: {error.strerror}", err=True)
        return MISUSED
    return OK


def compare(
    folder: Path, old: str, new: str | None, style: ToldAs, store: str | None, app: str | None
) -> int:
    """Compares two states of a project and prints the verdicts; returns the exit code."""
    from dataclasses import replace

    from pikku_gen.diagnostics import as_text
    from pikku_gen.diff import report
    from pikku_gen.diff.runs import StoreError, runs_in_flight
    from pikku_gen.diff.sides import SideError, side_of

    try:
        told = report.report(side_of(old, folder), side_of(new, folder))
        if store or app:
            runs = runs_in_flight(folder, store, app, told.changed_queues)
            told = replace(told, runs=runs)
    except SideError as error:
        said = as_text(error.diagnostics, _reader(folder), color=_is_colored())
        click.echo(f"{said}pikku-gen: {error.message}", err=True, color=True)
        return MISUSED
    except StoreError as error:
        click.echo(f"pikku-gen: the runs cannot be listed: {error}", err=True)
        return MISUSED
    shown = {"text": report.as_text, "json": report.as_json, "markdown": report.as_markdown}
    click.echo(shown[style](told), nl=False)
    return OK if told.verdict == "safe" else FAILED


def build(project: Path | None, style: Format, *, check: bool, fix: bool = False) -> int:
    """Runs the generator and prints what it says; returns the exit code."""
    from pikku_gen.config import find_project
    from pikku_gen.pipeline import run

    folder = (project.resolve() if project else find_project(Path.cwd())) or Path.cwd()
    if fix:
        from pikku_gen import fixing

        count = fixing.fix(folder)
        click.echo(f"pikku-gen: mended {count} {'place' if count == 1 else 'places'}", err=True)
    return _said(run(folder, check=check), style, check=check)


def write_client(folder: Path, out: Path, name: str | None, style: Format, *, check: bool) -> int:
    """Writes a client and prints what is said about it; returns the exit code."""
    from pikku_gen.client.build import ClientNameError, build_client

    try:
        outcome = build_client(folder, out.resolve(), name, check=check)
    except ClientNameError as error:
        raise click.BadParameter(str(error), param_hint="--name") from error
    return _said(outcome, style, check=check)


def _said(outcome: Outcome, style: Format, *, check: bool) -> int:
    _print(outcome, style, check=check)
    if outcome.misconfigured:
        return MISUSED
    return FAILED if outcome.failed or (check and outcome.changes.stale) else OK


def stay(project: Path | None, style: Format) -> int:
    """Generates after every burst of edits, until a signal ends it; returns the exit code.

    With `json`, each beginning and each end is also one document on a line of stdout.
    """
    import json
    import signal

    from pikku_gen.config import find_project
    from pikku_gen.watching import Watcher, follow

    def put(event: str, **more: object) -> None:
        if style == "json":
            click.echo(json.dumps({"event": event, **more}, ensure_ascii=False))

    def began(changed: tuple[str, ...]) -> None:
        click.echo(f"pikku-gen: generating: {_listed(changed) or 'the whole project'}", err=True)
        put("began", changed=list(changed))

    def ended(outcome: Outcome | OSError, seconds: float) -> None:
        if isinstance(outcome, OSError):
            said = f"pikku-gen: {outcome.filename or 'a file'}: {outcome.strerror}"
            document: dict[str, object] = {"failed": True}
        else:
            text = diagnostics_text(outcome, color=_is_colored())
            click.echo(text, nl=False, err=True, color=True)
            said = summary(outcome, check=False)
            document = {"failed": outcome.failed, **_document(outcome, check=False)}
        click.echo(f"{said} ({seconds:.2f} s); waiting", err=True)
        put("ended", seconds=round(seconds, 3), **document)

    folder = (project.resolve() if project else find_project(Path.cwd())) or Path.cwd()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        follow(folder, Watcher(), began, ended)
    except KeyboardInterrupt:
        click.echo("pikku-gen: stopped", err=True)
    except OSError as error:
        click.echo(f"pikku-gen: the folders cannot be watched: {error}", err=True)
        click.echo("help: WATCHFILES_FORCE_POLLING=1 looks at them again and again", err=True)
        return MISUSED
    return OK


def _listed(changed: tuple[str, ...]) -> str:
    more = len(changed) - _SHOWN_CHANGES
    shown = [*changed[:_SHOWN_CHANGES], *([f"{more} more"] if more > 0 else [])]
    return ", ".join(shown)


@contextmanager
def _uncollected() -> Generator[None, None, None]:
    """No search for garbage: hardly any is made, and the program ends before it is missed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _print(outcome: Outcome, style: Format, *, check: bool) -> None:
    from pikku_gen import diagnostics

    found = outcome.diagnostics
    if style == "json":
        click.echo(diagnostics.dumps(_document(outcome, check=check)), nl=False)
        return
    if style == "sarif":
        from pikku_gen.sarif import as_sarif

        stale = summary(outcome, check=check) if check and outcome.changes.stale else ""
        document = as_sarif(
            found,
            _reader(outcome.folder),
            version=_version(),
            failed="" if not outcome.misconfigured else "the project cannot be read",
            notice=stale if not outcome.failed else "",
        )
        click.echo(diagnostics.dumps(document), nl=False)
        return
    if style == "github":
        click.echo(diagnostics.as_github(found), nl=False)
    else:
        text = diagnostics_text(outcome, color=_is_colored())
        click.echo(text, nl=False, err=True, color=True)
    if check and outcome.changes.stale and not outcome.failed:
        click.echo(outcome.diff, nl=False)
    click.echo(summary(outcome, check=check), err=True)


def diagnostics_text(outcome: Outcome, *, color: bool = False) -> str:
    """What a run says, with code frames from the project's files."""
    from pikku_gen.diagnostics import as_text

    return as_text(outcome.diagnostics, _reader(outcome.folder), color=color)


def summary(outcome: Outcome, *, check: bool) -> str:
    """What a run did, or would do, in one line."""
    changes, found = outcome.changes, outcome.diagnostics
    if outcome.failed:
        count = sum(item.severity == "error" for item in found)
        return f"pikku-gen: {count} {'error' if count == 1 else 'errors'}; nothing was written"
    count = sum(item.severity == "warning" for item in found)
    warned = f"; {count} {'warning' if count == 1 else 'warnings'}" if count else ""
    if not changes.stale:
        return f"pikku-gen: {outcome.package} is up to date{warned}"
    parts = [f"{len(changes.written)} written"] if changes.written else []
    parts += [f"{len(changes.removed)} removed"] if changes.removed else []
    if check:
        stale = len(changes.written) + len(changes.removed)
        files = "1 file" if stale == 1 else f"{stale} files"
        return f"pikku-gen: {outcome.package} is stale ({files}); run {outcome.command}{warned}"
    written = f"{', '.join(parts)}, {changes.unchanged} unchanged"
    return f"pikku-gen: {outcome.package}: {written}{warned}"


def _document(outcome: Outcome, *, check: bool) -> dict[str, object]:
    from pikku_gen.diagnostics import as_json

    changes = outcome.changes
    return {
        "diagnostics": as_json(outcome.diagnostics),
        "package": outcome.package,
        "check": check,
        "stale": list(changes.written) + list(changes.removed) if check else [],
        "written": list(changes.written) if outcome.wrote else [],
        "removed": list(changes.removed) if outcome.wrote else [],
    }


def _reader(folder: Path) -> ReadLine:
    texts: dict[str, list[str]] = {}

    def read_line(path: str, line: int) -> str | None:
        if path not in texts:
            texts[path] = _lines(folder / path)
        lines = texts[path]
        return lines[line - 1] if 0 < line <= len(lines) else None

    return read_line


def _lines(path: Path) -> list[str]:
    from pikku_gen.scan.text import decode

    try:
        data = path.read_bytes()
    except OSError:
        return []
    text = decode(data)
    if not isinstance(text, str):
        text = data.decode("utf-8", errors="replace")
    return text.split("\n")


def _is_colored() -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stderr.isatty()


def _version() -> str:
    from importlib.metadata import version

    return version("pikku")
