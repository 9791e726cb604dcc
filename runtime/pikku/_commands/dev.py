"""`pikku dev`: generates, and starts the program anew, whenever something is saved."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from pikku._commands.logs import log_format_option

if TYPE_CHECKING:
    from pikku._commands.target import Target


@click.command()
@click.option("--types", is_flag=True, help="Check the types after every generation, with mypy.")
@log_format_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- PROGRAM ARGUMENTS...]")
@click.pass_context
def dev(
    context: click.Context, types: bool, log_format: str | None, command: tuple[str, ...]
) -> None:
    """Keep the generated package and a running program up to date with what is saved.

    The program is `pikku worker`, or what follows after `--`, such as your web server. After each
    burst of edits the package is generated again; if that went well, the program is asked to end by
    SIGTERM, finishes what is under way, and begins anew. One that ends by itself begins anew after
    the next change.
    """
    from pikku._commands.dev_programs import keep
    from pikku._commands.dev_states import State
    from pikku._commands.hosting import run_until_stopped

    target: Target = context.obj
    if command and shutil.which(command[0]) is None:
        raise click.UsageError(f"there is no program {command[0]!r}")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if target.app:
        environment["PIKKU_APP"] = target.app
    if target.store:
        environment["PIKKU_STORE"] = target.store
    if log_format:
        environment["PIKKU_LOG_FORMAT"] = log_format
    program = list(command) or [sys.executable, "-m", "pikku.cli", "worker"]
    state = State(always_types=types)
    context.exit(run_until_stopped(lambda stop: keep(stop, state, program, environment)))
