"""What the commands print: data on stdout, the rest on stderr, colour where it is welcome."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from logging import Logger

    from pikku.errors import PikkuError

_log: Logger | None = None


def is_colored(stream: TextIO) -> bool:
    """Whether *stream* gets colour: NO_COLOR forbids it, FORCE_COLOR asks for it, else a terminal
    does."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def put(text: str = "") -> None:
    """A line of data, on stdout."""
    click.echo(text, color=is_colored(sys.stdout))


def tell_by(log: Logger | None) -> None:
    """Have what is told from now on logged by *log*, so that stderr has one shape."""
    global _log
    _log = log


def tell(text: str = "") -> None:
    """A line about what happens, on stderr."""
    if _log is not None:
        if text.strip():
            _log.info("%s", click.unstyle(text).strip())
        return
    click.echo(text, err=True, color=is_colored(sys.stderr))


def put_json(value: Any) -> None:
    """One JSON document on one line of stdout."""
    click.echo(json.dumps(value, ensure_ascii=False))


def complain(error: PikkuError) -> None:
    """An error and the way out of it, on stderr."""
    message = " ".join(printable(error.message).split())
    if _log is not None:
        _log.error("%s", message, extra={"code": error.code, "help": error.hint})
        return
    tell(f"{click.style('error:', fg='red', bold=True)} {error.code} {message}")
    if error.hint:
        tell(f"{click.style('help:', fg='cyan')} {error.hint}")


def printable(text: str) -> str:
    """*text* with line ends kept and what could steer a terminal shown as an escape."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def shortened(text: str, width: int) -> str:
    """*text* on one line of at most *width* characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """*rows* as lines whose columns are aligned; the last column is left as it is."""
    if not rows:
        return []
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    return [
        "  ".join(
            [cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]]
        ).rstrip()
        for row in rows
    ]


def how_it_ended(code: int) -> str:
    """How a process with this exit code has ended."""
    if code >= 0:
        return f"ended with {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"
