"""`pikku-gen`: writes the typed package of a project, checks it, explains diagnostics."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

if TYPE_CHECKING:
    from pikku_gen.diagnostics import Diagnostic, ReadLine
    from pikku_gen.pipeline import Outcome

Format = Literal["text", "json", "github"]
OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when the output is stale.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "github"]),
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
    context: click.Context, *, check: bool, style: Format, project: Path | None, version: bool
) -> None:
    """Write the typed package of the project around the current folder.

    Reads decorated functions without importing them. Exit codes: 0 fine, 1 diagnostics or stale
    output, 2 wrong usage or configuration.
    """
    if version:
        click.echo(f"pikku-gen {_version()}")
        return
    if context.invoked_subcommand is None:
        context.exit(build(project, style, check=check))


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


def build(project: Path | None, style: Format, *, check: bool) -> int:
    """Runs the generator and prints what it says; returns the exit code."""
    from pikku_gen.config import find_project
    from pikku_gen.pipeline import run

    folder = project.resolve() if project else find_project(Path.cwd())
    outcome = run(folder or Path.cwd(), check=check)
    _print(outcome, style, check=check)
    if outcome.misconfigured:
        return MISUSED
    return FAILED if outcome.failed or (check and outcome.changes.stale) else OK


def _print(outcome: Outcome, style: Format, *, check: bool) -> None:
    from pikku_gen import diagnostics

    found = outcome.diagnostics
    if style == "json":
        click.echo(diagnostics.dumps(_document(outcome, check=check)), nl=False)
        return
    if style == "github":
        click.echo(diagnostics.as_github(found), nl=False)
    else:
        text = diagnostics_text(outcome, color=_is_colored())
        click.echo(text, nl=False, err=True, color=True)
    if check and outcome.changes.stale and not outcome.failed:
        click.echo(outcome.diff, nl=False)
    click.echo(_summary(outcome, found, check=check), err=True)


def diagnostics_text(outcome: Outcome, *, color: bool = False) -> str:
    """What a run says, with code frames from the project's files."""
    from pikku_gen.diagnostics import as_text

    return as_text(outcome.diagnostics, _reader(outcome.folder), color=color)


def _summary(outcome: Outcome, found: tuple[Diagnostic, ...], *, check: bool) -> str:
    changes = outcome.changes
    if outcome.failed:
        count = sum(item.severity == "error" for item in found)
        return f"pikku-gen: {count} {'error' if count == 1 else 'errors'}; nothing was written"
    if not changes.stale:
        return f"pikku-gen: {outcome.package} is up to date"
    parts = [f"{len(changes.written)} written"] if changes.written else []
    parts += [f"{len(changes.removed)} removed"] if changes.removed else []
    if check:
        stale = len(changes.written) + len(changes.removed)
        files = "1 file" if stale == 1 else f"{stale} files"
        return f"pikku-gen: {outcome.package} is stale ({files}); run pikku-gen"
    return f"pikku-gen: {outcome.package}: {', '.join(parts)}, {changes.unchanged} unchanged"


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
