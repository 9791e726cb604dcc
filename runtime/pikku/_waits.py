"""What a run waits for, read from its records: decided here, printed elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pikku._clock import as_datetime
from pikku._error_info import ErrorInfo
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

WaitKind = Literal[
    "approval", "signal", "child", "sleep", "retry", "start", "resume", "host", "nothing"
]
# What nothing in the run itself brings to an end.
RESTS: frozenset[str] = frozenset({"approval", "signal", "sleep", "retry", "start", "resume"})


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a run does not move at the moment.

    `kind` is `approval` or `signal` (until `until_us`, if that is said), `sleep` or `retry` (until
    `until_us`), `child` (until the run `other` has ended), `start` (its delay has not passed),
    `resume` (it is suspended), `host` (it could go on as soon as a process hosts it) or `nothing`
    (it is final, or being executed). `other` is the signal's name, too.
    """

    kind: WaitKind
    step: str | None = None
    until_us: int | None = None
    other: str | None = None

    @property
    def sentence(self) -> str:
        """In words; empty for `nothing`."""
        when = f"{as_datetime(self.until_us or 0):%Y-%m-%d %H:%M:%S} UTC"
        at_most = f", at most until {when}" if self.until_us is not None else ""
        match self.kind:
            case "approval":
                return f"waiting for somebody to decide{at_most} ({self.step})"
            case "signal":
                return f"waiting for signal {self.other!r}{at_most} ({self.step})"
            case "child":
                return f"waiting for run {self.other} ({self.step})"
            case "sleep":
                return f"sleeping until {when} ({self.step})"
            case "retry":
                return f"next attempt at {when} ({self.step})"
            case "start":
                return "not begun: it was started with a delay"
            case "resume":
                return "suspended: it goes on when it is resumed"
            case "host":
                return "waiting for a process that executes it"
            case "nothing":
                return ""


NOTHING = Wait("nothing")


def wait_of(loaded: LoadedRun, now_us: int) -> Wait:
    """What the run of *loaded* waits for: first what somebody has to do, then the next timer."""
    run = loaded.run
    moving = NOTHING if run.owner is not None else Wait("host")
    if run.status in FINAL_STATUSES:
        return NOTHING
    if run.status == "suspended":
        return Wait("resume")
    if run.queued or run.cancel_us is not None:
        return moving
    if never_begun(loaded):
        return Wait("start")
    if any(step.status in ("pending", "running") for step in loaded.steps):
        return moving
    scheduled = [step for step in loaded.steps if step.status == "scheduled"]
    timed = [(step.due_us, step) for step in scheduled if step.due_us is not None]
    if any(due_us <= now_us for due_us, _ in timed):
        return moving
    for kind in ("approval", "signal", "child"):
        for step in scheduled:
            if step.kind == kind:
                other = {"signal": step.target, "child": step.job}.get(kind)
                return Wait(kind, step.key, step.due_us, other)
    if not timed:
        return moving
    due_us, step = min(timed, key=lambda each: each[0])
    return Wait("sleep" if step.kind == "sleep" else "retry", step.key, due_us)


def never_begun(loaded: LoadedRun) -> bool:
    """Whether the run was started with a delay that has not passed yet."""
    run = loaded.run
    return run.status == "running" and not (run.owner or run.queued or run.turn or loaded.steps)


def open_approvals(loaded: LoadedRun) -> list[StepRecord]:
    """The approvals of the run that can be answered."""
    run = loaded.run
    if run.status in FINAL_STATUSES:
        return []
    return [
        step
        for step in loaded.steps
        if step.kind == "approval" and step.status not in ENDED_STEP and not is_past(run, step)
    ]


def is_past(run: RunRecord, step: StepRecord) -> bool:
    """Whether the step was asked for before the run was asked to unwind: nobody waits for it."""
    return run.cancel_delivery is not None and step.after < run.cancel_delivery


def unread_signals(loaded: LoadedRun, entries: Sequence[HistoryEntry]) -> list[tuple[str, int]]:
    """The signals that have come and that no step has taken yet: name and number."""
    came = Counter(entry.step or "" for entry in entries if entry.kind == "signal")
    taken = Counter(
        step.target
        for step in loaded.steps
        if step.kind == "signal" and step.result is not None and step.error != GIVEN_UP
    )
    return sorted((came - taken).items())


@dataclass(frozen=True, slots=True)
class Suspension:
    """Why a run is suspended, and what to do about it."""

    reason: str
    explanation: str
    remedy: str


def suspension_of(run: RunRecord) -> Suspension | None:
    """Why *run* is suspended; None if it is not."""
    if run.status != "suspended":
        return None
    reason = run.suspend_reason or "requested"
    explanation = ErrorInfo.shown(run.error).message if run.error else ""
    resume = f"pikku runs resume {run.run_id}"
    match reason:
        case "nondeterminism":
            explanation = explanation or "its code no longer asks for what its history recorded"
            remedy = f"deploy the code that matches its history, then: {resume}"
        case "missing_function":
            explanation = explanation or "a function or workflow that it needs is not there"
            remedy = f"deploy it; the run goes on with the next host, or with: {resume}"
        case "version":
            explanation = explanation or "no process holds the version that it is pinned to"
            remedy = "start a process with that version; the run goes on there"
        case _:
            explanation = explanation or reason
            remedy = f"when it may go on: {resume}"
    if run.cancel_us is not None:
        end_it = f"pikku runs cancel {run.run_id} --force --reason …"
        remedy += f"; it unwinds then; or end it without cleaning up: {end_it}"
    return Suspension(reason, explanation, remedy)


def progress_line(step: StepRecord) -> str | None:
    """A line about where *step* has got to; None while there is nothing to say."""
    if step.kind in ("side_effect", "patch"):
        return None
    if step.error == GIVEN_UP:
        return f"{step.key}: given up"
    match step.status:
        case "succeeded":
            return f"{step.key}: {_end(step)}"
        case "failed":
            error = ErrorInfo.shown(step.error) if step.error else ErrorInfo("Exception", "")
            return f"{step.key}: failed: {error.type}: {error.message}"
        case "scheduled" if step.kind == "child":
            return f"{step.key}: run {step.job}"
        case "scheduled" if step.kind in WAITS and step.kind != "sleep":
            what = "a decision" if step.kind == "approval" else f"signal {step.target!r}"
            return f"{step.key}: waiting for {what}"
        case "scheduled" if step.due_us is not None:
            until = f"{as_datetime(step.due_us):%H:%M:%S} UTC"
            if step.kind == "sleep":
                return f"{step.key}: sleeping until {until}"
            return f"{step.key}: attempt {step.attempt} at {until}"
        case "running":
            return f"{step.key}: started" + (
                f" (attempt {step.attempt})" if step.attempt > 1 else ""
            )
        case _:
            return None


def _end(step: StepRecord) -> str:
    if step.kind == "sleep":
        return "over"
    if step.kind == "signal":
        return "timed out" if step.result is None else f"signal {step.target!r} came"
    if step.kind == "approval":
        return outcome_of(step) or "decided"
    return "done"


def outcome_of(step: StepRecord) -> str | None:
    """How an approval has ended, and by whose word; None while it has not, or where the answer
    cannot be read."""
    if step.status != "succeeded":
        return None
    if step.result is None:
        return "expired"
    try:
        said = json.loads(step.result)
        by = said["decided_by"]
        return f"{said['outcome']} by {by}" if by else str(said["outcome"])
    except (ValueError, KeyError, TypeError):
        return None


def value(text: str | None) -> object:
    """A recorded value as plain data; the text itself where it is no JSON."""
    if text is None:
        return None
    try:
        decoded: object = json.loads(text)
    except ValueError:
        return text
    return decoded
