"""A run's history as a person reads it: step records and the log beside them, in one order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pikku._clock import as_datetime
from pikku._error_info import ErrorInfo
from pikku._records import GIVEN_UP, HistoryEntry, RunRecord, RunStatus, StepRecord


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run, its values as plain JSON data."""

    run_id: str
    workflow: str
    status: RunStatus
    input: Any
    output: Any
    error: ErrorInfo | None
    tags: tuple[str, ...]
    inline: bool
    run_attempt: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    cancel_reason: str | None
    suspend_reason: str | None
    version: str = ""
    parent: str | None = None
    parent_step: str | None = None
    depth: int = 0
    started_by: str | None = None
    pinned: bool = False
    forked_from: str | None = None

    @classmethod
    def of(cls, run: RunRecord) -> RunInfo:
        return cls(
            run.run_id,
            run.workflow,
            run.status,
            _value(run.input),
            _value(run.output),
            ErrorInfo.shown(run.error) if run.error else None,
            run.tags,
            run.inline,
            run.run_attempt,
            as_datetime(run.created_us),
            as_datetime(run.updated_us),
            _time(run.finished_us),
            _time(run.cancel_us),
            run.cancel_reason,
            run.suspend_reason,
            run.version,
            run.parent,
            run.parent_step,
            run.depth,
            run.started_by,
            run.pinned,
            run.forked_from,
        )


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One thing that happened in a run.

    `kind` is one of `run_started`, `step_started`, `step_succeeded`, `step_failed`,
    `sleep_started`, `sleep_ended`, `wait_started`, `wait_ended` (for a signal, with its payload;
    without one it timed out), `approval_asked`, `approval_ended` (with the decision; without one it
    expired), `child_started` (with the child's run id), `patched`, `given_up`, `attempt_failed`,
    `attempt_lost`, `handed_back`, `value_recorded`, `signal` (`step` is its name), `decision`,
    `cancel`, `suspend`, `resume`, `retry`, `fork`, `run_completed`, `run_failed`, `run_cancelled`.
    """

    at: datetime
    kind: str
    step: str | None = None
    attempt: int | None = None
    data: Any = None


def history_of(
    run: RunRecord, steps: Sequence[StepRecord], entries: Sequence[HistoryEntry]
) -> list[HistoryEvent]:
    """Every event of the run, in the order in which it happened."""
    events: list[tuple[tuple[int, int, int], HistoryEvent]] = []

    def add(
        at_us: int | None,
        order: tuple[int, int],
        kind: str,
        step: str | None = None,
        attempt: int | None = None,
        data: Any = None,
    ) -> None:
        if at_us is not None:
            event = HistoryEvent(as_datetime(at_us), kind, step, attempt, data)
            events.append(((at_us, *order), event))

    # Events of one instant are told step by step: its start, its attempts, its end. A patch has the
    # place of the step after it.
    steps = sorted(steps, key=lambda step: (step.position, step.kind != "patch", step.key))
    places = {step.key: step.position for step in steps}
    last = len(steps) + 1
    add(run.created_us, (-1, 0), "run_started", data=_value(run.input))
    for entry in entries:
        step = _step_of(entry, run, steps)
        order = (places.get(entry.step or "", last), _PHASES.get(entry.kind, 1))
        if step is not None:
            order = (step.position, -1 if entry.kind == "cancel" else 1)
        named = entry.step
        if entry.kind == "suspend" and step is not None:
            named = step.key
        add(entry.at_us, order, entry.kind, named, entry.attempt, _value(entry.data))
    for step in steps:
        start, end = (step.position, 0), (step.position, 2)
        match step.kind, step.status:
            case ("sleep" | "signal" | "approval") as kind, status:
                begun, ended = _WAITS[kind]
                add(step.created_us, start, begun, step.key, data=_asked(step))
                if status == "succeeded":
                    add(step.finished_us, end, ended, step.key, data=_value(step.result))
                elif status == "failed":
                    add(step.finished_us, end, "given_up", step.key)
            case "suspend", _:
                pass
            case "patch", _:
                add(step.finished_us, (step.position, -1), "patched", step.key)
            case "child", status:
                add(step.created_us, start, "child_started", step.key, step.attempt, step.job)
                if step.error == GIVEN_UP:
                    add(step.finished_us, end, "given_up", step.key)
                elif status in ("succeeded", "failed"):
                    value = _value(step.result if status == "succeeded" else step.error)
                    add(step.finished_us, end, f"step_{status}", step.key, step.attempt, value)
            case "side_effect", _:
                value = _value(step.result)
                add(step.finished_us, end, "value_recorded", step.key, data=value)
            case _, status:
                add(step.started_us, start, "step_started", step.key, step.attempt)
                if status in ("succeeded", "failed"):
                    value = _value(step.result if status == "succeeded" else step.error)
                    add(step.finished_us, end, f"step_{status}", step.key, step.attempt, value)
    if run.finished_us is not None:
        outcome = _value(run.output if run.status == "completed" else run.error)
        add(run.finished_us, (last + 1, 0), f"run_{run.status}", data=outcome)
    return [event for _, event in sorted(events, key=lambda each: each[0])]


def _step_of(entry: HistoryEntry, run: RunRecord, steps: Sequence[StepRecord]) -> StepRecord | None:
    """The step beside which an entry without a step of its own is told, of those of its instant."""
    for step in steps:
        match entry.kind, step.kind:
            case "signal", "signal":
                found = (step.target, step.finished_us) == (entry.step, entry.at_us)
            case "suspend", "suspend":
                found = step.created_us == entry.at_us
            case "resume", "suspend":
                found = step.finished_us == entry.at_us
            case "cancel", _:
                found = run.cancel_delivery is not None and step.after >= run.cancel_delivery
            case _:
                found = False
        if found:
            return step
    return None


_PHASES = {"step_started": 0, "run_failed": 2, "retry": 3}
_WAITS = {
    "sleep": ("sleep_started", "sleep_ended"),
    "signal": ("wait_started", "wait_ended"),
    "approval": ("approval_asked", "approval_ended"),
}


def _asked(step: StepRecord) -> Any:
    """What a wait is for: the signal's name, or what an approval asks."""
    return step.target or None if step.kind == "signal" else _value(step.job)


def _value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _time(us: int | None) -> datetime | None:
    return None if us is None else as_datetime(us)
