"""A run in the terminal: what it is, each step with its attempts, and what comes next."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Sequence

import click

from pikku import ErrorInfo
from pikku._clock import as_datetime
from pikku._commands.output import columns, printable, shortened
from pikku._durations import format_us
from pikku._records import (
    ENDED_STEP,
    FINAL_STATUSES,
    GIVEN_UP,
    WAITS,
    HistoryEntry,
    LoadedRun,
    RunRecord,
    StepRecord,
)
from pikku._waits import (
    Wait,
    open_approvals,
    outcome_of,
    suspension_of,
    unread_signals,
    value,
)

VALUE_WIDTH = 100
_COLORS = {
    "completed": "green",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "suspended": "yellow",
    "running": "cyan",
    "scheduled": "cyan",
}
_ATTEMPT_KINDS = {
    "attempt_failed": "failed",
    "attempt_lost": "lost with its process",
    "handed_back": "handed back",
}


_TARGETS = {"rpc": "{step.target}", "signal": "signal {step.target}", "child": "{step.target}"}


def colored(status: str) -> str:
    """A status in its colour."""
    return click.style(status, fg=_COLORS.get(status))


def run_lines(runs: Sequence[RunRecord]) -> list[str]:
    """A line a run, with the columns named on top."""
    rows = [("RUN", "WORKFLOW", "STATUS", "STARTED (UTC)", "TOOK", "TAGS")]
    for run in runs:
        took = format_us(run.finished_us - run.created_us) if run.finished_us else ""
        rows.append(
            (
                run.run_id,
                printable(run.workflow),
                run.status,
                f"{as_datetime(run.created_us):%Y-%m-%d %H:%M:%S}",
                took,
                printable(" ".join(run.tags)),
            )
        )
    return columns(rows)


def timeline(
    loaded: LoadedRun, entries: Sequence[HistoryEntry], wait: Wait, now_us: int
) -> list[str]:
    """The whole picture of one run."""
    run = loaded.run
    lines = [f"{printable(run.workflow)}  {run.run_id}  {colored(run.status)}"]
    facts = [("started", f"{as_datetime(run.created_us):%Y-%m-%d %H:%M:%S} UTC")]
    if run.finished_us is not None:
        facts.append(("took", format_us(run.finished_us - run.created_us)))
    if run.tags:
        facts.append(("tags", printable(", ".join(run.tags))))
    if run.started_by is not None:
        facts.append(("by", printable(run.started_by)))
    if run.parent is not None:
        facts.append(("parent", f"{run.parent}  {printable(run.parent_step or '')}"))
    if run.forked_from is not None:
        facts.append(("fork of", run.forked_from))
    if run.pinned:
        facts.append(("pinned", f"to version {run.version or '?'}"))
    if run.input != "null":
        facts.append(("input", _shown(run.input)))
    if run.status == "completed":
        facts.append(("output", _shown(run.output)))
    if run.cancel_us is not None:
        facts.append(("cancel", f"requested: {printable(run.cancel_reason or '')}"))
    lines += [f"  {line}" for line in columns(facts)]
    if loaded.steps:
        lines += ["", *_step_lines(loaded, entries, now_us)]
    for name, count in unread_signals(loaded, entries):
        times = "" if count == 1 else f", {count} times"
        lines += ["", f"signal {printable(name)} has come{times}, and no step has taken it"]
    lines += _ending(loaded, wait)
    return lines


def _step_lines(loaded: LoadedRun, entries: Sequence[HistoryEntry], now_us: int) -> list[str]:
    steps = loaded.steps
    is_over = loaded.run.status in FINAL_STATUSES
    attempts: defaultdict[str, list[HistoryEntry]] = defaultdict(list)
    for entry in entries:
        if entry.step is not None and entry.kind in _ATTEMPT_KINDS:
            attempts[entry.step].append(entry)
    width = min(max(len(printable(step.key)) for step in steps), 60)
    lines: list[str] = []
    for step in steps:
        name = shortened(step.key, 60).ljust(width)
        unfinished = is_over and step.status not in ENDED_STEP
        status = colored(step.status) + " " * (9 - len(step.status))
        target = _TARGETS.get(step.kind, step.kind.replace("_", " ")).format(step=step)
        span = ", not finished when the run ended" if unfinished else _span(step, now_us)
        given_up = step.error == GIVEN_UP
        if given_up:
            status, span = "given up ", ""
        lines.append(f"  {status}  {name}  {printable(target)}{span}")
        if step.status == "running" and step.progress is not None:
            lines.append(f"             {_progress(step.progress)}")
        for entry in attempts[step.key]:
            at = f"{as_datetime(entry.at_us):%H:%M:%S}"
            what = _ATTEMPT_KINDS[entry.kind]
            why = _error_sentence(entry.data)
            lines.append(
                f"             attempt {entry.attempt} {what} at {at}" + (f": {why}" if why else "")
            )
        if step.status == "failed" and not given_up:
            lines.append(f"             {_error_sentence(step.error)}")
            lines += _where(step.error)
    return lines


def _progress(text: str) -> str:
    """How far a running step says it is."""
    try:
        said = json.loads(text)
        share, note = float(said["done"]), str(said.get("note", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return shortened(printable(text), 80)
    return f"{share:.0%}" + (f": {shortened(printable(note), 80)}" if note else "")


def _where(text: str | None) -> list[str]:
    """The author's own lines of a recorded traceback, innermost last."""
    try:
        recorded: object = json.loads(text or "{}").get("traceback")
    except (ValueError, AttributeError):
        return []
    if not isinstance(recorded, str):
        return []
    frames = [line.strip() for line in recorded.splitlines() if line.lstrip().startswith("File ")]
    return [f"               {printable(frame)}" for frame in frames[-3:]]


def _span(step: StepRecord, now_us: int) -> str:
    if step.kind == "sleep":
        if step.finished_us is not None:
            return f", {format_us(step.finished_us - step.created_us)}"
        if step.due_us is None:
            return ""
        left = f", {format_us(step.due_us - now_us)} left" if step.due_us > now_us else ", due"
        return f", sleeping until {as_datetime(step.due_us):%H:%M:%S} UTC{left}"
    if step.kind in WAITS:
        return _wait_span(step, now_us)
    if step.kind == "child":
        took = (
            "" if step.finished_us is None else f", {format_us(step.finished_us - step.created_us)}"
        )
        attempts = f", {step.attempt} attempts" if step.attempt > 1 else ""
        return f", run {_child(step)}{attempts}{took}"
    if step.status == "scheduled" and step.due_us is not None:
        return f", attempt {step.attempt} at {as_datetime(step.due_us):%H:%M:%S} UTC"
    attempts = f", {step.attempt} attempts" if step.attempt > 1 else ""
    if step.started_us is None:
        return attempts
    if step.finished_us is None:
        return f"{attempts}, for {format_us(max(0, now_us - step.started_us))}"
    return f"{attempts}, {format_us(step.finished_us - step.started_us)}"


def _wait_span(step: StepRecord, now_us: int) -> str:
    """How a wait for a word from outside has ended, or until when it lasts."""
    if step.finished_us is not None:
        outcome = outcome_of(step) if step.kind == "approval" else None
        if step.kind == "signal" and step.result is None:
            outcome = "timed out"
        took = format_us(step.finished_us - step.created_us)
        return f", {printable(outcome)}, {took}" if outcome else f", {took}"
    until = ""
    if step.due_us is not None:
        until = f", at most until {as_datetime(step.due_us):%Y-%m-%d %H:%M:%S} UTC"
    return f", waiting for {format_us(max(0, now_us - step.created_us))}{until}"


def _child(step: StepRecord) -> str:
    """The id of the run that a step has started."""
    if step.job is not None:
        return step.job
    started = value(step.result)
    return started if isinstance(started, str) else "?"


def _ending(loaded: LoadedRun, wait: Wait) -> list[str]:
    run = loaded.run
    if run.status == "failed":
        return ["", f"failed: {_error_sentence(run.error)}"]
    if run.status == "cancelled":
        return ["", f"cancelled: {printable(run.cancel_reason or '')}"]
    suspension = suspension_of(run)
    if suspension is not None:
        return [
            "",
            f"suspended ({suspension.reason}): {printable(suspension.explanation)}",
            f"what to do: {suspension.remedy}",
        ]
    go_on = f"pikku worker, or: pikku runs resume {run.run_id} --wait"
    if run.status != "running":
        return []
    if wait.kind == "nothing":
        return ["", f"held by a process; should that one be gone, it goes on with: {go_on}"]
    if wait.kind == "host":
        return ["", wait.sentence, f"what to do: {go_on}"]
    asked = open_approvals(loaded)
    if wait.kind == "approval":
        ways = [
            f"pikku runs approve {run.run_id} {shlex.quote(printable(each.key))}" for each in asked
        ]
        return ["", printable(wait.sentence), *(f"answered by: {way}" for way in ways)]
    if wait.kind == "signal":
        way = f"pikku runs signal {run.run_id} {shlex.quote(printable(wait.other or ''))}"
        return ["", printable(wait.sentence), f"sent by: {way}"]
    if wait.kind == "child":
        return ["", printable(wait.sentence), f"more: pikku runs show {wait.other}"]
    return ["", printable(wait.sentence), f"executed by any process that hosts the app: {go_on}"]


def _error_sentence(text: str | None) -> str:
    if text is None:
        return ""
    try:
        error = ErrorInfo.shown(text)
    except (ValueError, KeyError, TypeError):
        return shortened(text, VALUE_WIDTH)
    return printable(f"{error.type}: {error.message}")


def _shown(text: str | None) -> str:
    return shortened(json.dumps(value(text), ensure_ascii=False), VALUE_WIDTH)
