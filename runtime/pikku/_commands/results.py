"""What a command is given as values, and how it says what became of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pikku._commands.output import put, put_json, tell
from pikku._records import FINAL_STATUSES
from pikku.errors import PikkuError, RunCancelledError, RunFailedError

if TYPE_CHECKING:
    from pikku._records import LoadedRun, RunRecord
    from pikku._waits import Wait


def text_of(given: str | None) -> str | None:
    """The JSON text that `--input` names: itself, `@file`, or `-` for stdin."""
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


def limit_of(timeout: str | None, *, wait: bool) -> int | None:
    """For how long to wait, in microseconds."""
    if timeout is None:
        return None
    if not wait:
        raise click.UsageError("--timeout goes with --wait")
    from pikku._durations import duration_us

    return duration_us(timeout)


def conclude(loaded: LoadedRun, wait: Wait, *, waited: bool, as_json: bool) -> None:
    """Print how a hosted run stands, and raise for one that failed or was cancelled."""
    from pikku import ErrorInfo
    from pikku._documents import outcome_document

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
            tell(f"it goes on with: {way_to_go_on(run.run_id)}")
        return
    error = ErrorInfo.shown(run.error) if run.error else ErrorInfo("Exception", "")
    ended: PikkuError | None = None
    if run.status == "failed":
        ended = RunFailedError(run.run_id, run.workflow, error)
    elif run.status == "cancelled":
        ended = RunCancelledError(run.run_id, run.workflow, run.cancel_reason or error.message)
    if ended is not None:
        raise ended


def say_changed(run: RunRecord, what: str, *, as_json: bool) -> None:
    """Print that something was written, and who carries it out."""
    if as_json:
        from pikku._documents import run_document

        put_json(run_document(run))
        return
    put(f"{run.run_id} {run.status}, {what}")
    if run.owner is None and run.status == "running":
        tell(f"carried out by the next host: pikku worker, or: pikku runs resume {run.run_id}")


def way_to_go_on(run_id: str) -> str:
    """The commands that execute a run."""
    return f"pikku worker, or: pikku runs resume {run_id} --wait"
