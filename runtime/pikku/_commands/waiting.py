"""What a run waits for, read from its records: decided here, printed elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from pikku import ErrorInfo
from pikku._clock import as_datetime
from pikku._records import FINAL_STATUSES, LoadedRun, RunRecord, StepRecord

WaitKind = Literal["sleep", "retry", "resume", "host", "nothing"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a run does not move at the moment.

    `kind` is `sleep` or `retry` (until `until_us`), `resume` (it is suspended), `host` (it could
    go on as soon as a process hosts it) or `nothing` (it is final, or being executed).
    """

    kind: WaitKind
    step: str | None = None
    until_us: int | None = None

    @property
    def sentence(self) -> str:
        """In words; empty for `nothing`."""
        when = f"{as_datetime(self.until_us or 0):%Y-%m-%d %H:%M:%S} UTC"
        match self.kind:
            case "sleep":
                return f"sleeping until {when} ({self.step})"
            case "retry":
                return f"next attempt at {when} ({self.step})"
            case "resume":
                return "suspended: it goes on when it is resumed"
            case "host":
                return "waiting for a process that executes it"
            case "nothing":
                return ""


NOTHING = Wait("nothing")


def wait_of(loaded: LoadedRun, now_us: int) -> Wait:
    """What the run of *loaded* waits for."""
    run = loaded.run
    if run.status in FINAL_STATUSES:
        return NOTHING
    if run.status == "suspended":
        return Wait("resume")
    if run.queued or run.cancel_us is not None:
        return NOTHING if run.owner is not None else Wait("host")
    if any(step.status in ("pending", "running") for step in loaded.steps):
        return NOTHING if run.owner is not None else Wait("host")
    timed = [
        (step.due_us, step)
        for step in loaded.steps
        if step.status == "scheduled" and step.due_us is not None
    ]
    if not timed:
        return NOTHING if run.owner is not None else Wait("host")
    due_us, step = min(timed, key=lambda each: each[0])
    if due_us <= now_us:
        return NOTHING if run.owner is not None else Wait("host")
    return Wait("sleep" if step.kind == "sleep" else "retry", step.key, due_us)


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
        case _:
            explanation = explanation or reason
            remedy = f"when it may go on: {resume}"
    return Suspension(reason, explanation, remedy)


def progress_line(step: StepRecord) -> str | None:
    """A line about where *step* has got to; None while there is nothing to say."""
    if step.kind == "side_effect":
        return None
    match step.status:
        case "succeeded":
            return f"{step.key}: {'over' if step.kind == 'sleep' else 'done'}"
        case "failed":
            error = ErrorInfo.shown(step.error) if step.error else ErrorInfo("Exception", "")
            return f"{step.key}: failed: {error.type}: {error.message}"
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


def value(text: str | None) -> object:
    """A recorded value as plain data; the text itself where it is no JSON."""
    if text is None:
        return None
    try:
        decoded: object = json.loads(text)
    except ValueError:
        return text
    return decoded
