"""`pikku`: starts, follows and hosts runs; makes new projects; shows what the product does."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any, Final

import click

from pikku._commands import exports, repair, words
from pikku._commands.db import db
from pikku._commands.demo import demo
from pikku._commands.dev import dev
from pikku._commands.doctor import doctor
from pikku._commands.init import init
from pikku._commands.output import complain
from pikku._commands.queue import queue
from pikku._commands.runs import runs
from pikku._commands.schedule import schedule
from pikku._commands.serve import serve
from pikku._commands.target import Target
from pikku._commands.worker import worker
from pikku.errors import (
    InternalError,
    JobNotFoundError,
    NoSuchStepError,
    PikkuError,
    ReplayDivergedError,
    ResultTimeoutError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    UnknownQueueError,
    UnknownScheduleError,
    UnknownSignalError,
    UnknownWorkflowError,
)

INTERRUPTED: Final = 130
_EXIT_CODES: Final[tuple[tuple[type[PikkuError], int], ...]] = (
    (RunFailedError, 1),
    (InternalError, 1),
    (ReplayDivergedError, 1),
    (RunNotFoundError, 3),
    (UnknownWorkflowError, 3),
    (UnknownSignalError, 3),
    (UnknownScheduleError, 3),
    (NoSuchStepError, 3),
    (JobNotFoundError, 3),
    (UnknownQueueError, 3),
    (ResultTimeoutError, 4),
    (RunCancelledError, 5),
)
MISUSED: Final = 2


def exit_code(error: PikkuError) -> int:
    """The exit code that *error* ends a command with."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), MISUSED)


class Program(click.Group):
    """The group of all commands: errors of pikku's end it with one line and a code of the table."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PikkuError as error:
            complain(error)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--app",
    metavar="PACKAGE",
    help="The app's generated package; default: PIKKU_APP, else the nearest pyproject.toml.",
)
@click.option(
    "--store",
    metavar="URL",
    help="The store, such as sqlite:///runs.db; default: PIKKU_STORE, else the app's setting.",
)
@click.option("--version", is_flag=True, help="Print the version and exit.")
@click.pass_context
def main(context: click.Context, app: str | None, store: str | None, version: bool) -> None:
    """Durable workflows whose types hold.

    Exit codes: 0 fine, 1 the run failed or something is wrong, 2 wrong usage or configuration,
    3 not found, 4 timed out waiting, 5 the run was cancelled, 130 Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):
                stream.reconfigure(errors="backslashreplace")
    context.obj = Target(app, store)
    if version:
        from pikku import __version__

        click.echo(f"pikku {__version__}")
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (demo, init, dev, runs, queue, schedule, worker, serve, doctor, db):
    main.add_command(_command)
for _command in (
    *(words.signal, words.approvals, words.approve, words.reject),
    *(repair.cancel, repair.retry, repair.fork, repair.delete, repair.prune),
    *(exports.export, exports.import_, exports.replay),
):
    runs.add_command(_command)

if __name__ == "__main__":
    main()
