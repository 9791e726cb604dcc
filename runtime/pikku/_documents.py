"""Runs, steps and histories as the JSON documents that `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pikku._clock import as_datetime
from pikku._error_info import ErrorInfo
from pikku._records import HistoryEntry, LoadedRun, RunRecord, StepRecord
from pikku._waits import Wait, open_approvals, suspension_of, unread_signals, value

if TYPE_CHECKING:
    from pikku._history import HistoryEvent


def run_document(run: RunRecord) -> dict[str, Any]:
    """The run itself."""
    suspension = suspension_of(run)
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "status": run.status,
        "tags": list(run.tags),
        "input": value(run.input),
        "output": value(run.output),
        "error": _error(run.error),
        "version": run.version or None,
        "pinned": run.pinned,
        "started_by": run.started_by,
        "parent": run.parent,
        "parent_step": run.parent_step,
        "forked_from": run.forked_from,
        "run_attempt": run.run_attempt,
        "created_at": _time(run.created_us),
        "updated_at": _time(run.updated_us),
        "finished_at": _time(run.finished_us),
        "cancel_requested_at": _time(run.cancel_us),
        "cancel_reason": run.cancel_reason,
        "suspend_reason": suspension.reason if suspension else None,
    }


def outcome_document(run: RunRecord, wait: Wait) -> dict[str, Any]:
    """What `runs start` and `runs resume` end with."""
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "status": run.status,
        "output": value(run.output),
        "error": _error(run.error),
        "waits": wait_document(wait),
    }


def show_document(
    loaded: LoadedRun, wait: Wait, entries: Sequence[HistoryEntry] = ()
) -> dict[str, Any]:
    """What `runs show` shows."""
    return {
        "run": run_document(loaded.run),
        "waits": wait_document(wait),
        "approvals": [step.key for step in open_approvals(loaded)],
        "unread_signals": dict(unread_signals(loaded, entries)),
        "steps": [_step(step) for step in loaded.steps],
    }


def approval_document(step: StepRecord) -> dict[str, Any]:
    """An approval that waits for its answer."""
    from pikku._answers import AnswerTerms

    terms = AnswerTerms.from_json(step.job or "{}")
    return {
        "step": step.key,
        "reason": terms.reason,
        "approvers": terms.approvers,
        "scope": terms.scope or None,
        "schema": terms.schema,
        "asked_at": _time(step.created_us),
        "expires_at": _time(step.due_us),
    }


def wait_document(wait: Wait) -> dict[str, Any] | None:
    """What a run waits for; None while it moves and once it is final."""
    if wait.kind == "nothing":
        return None
    document = {"for": wait.kind, "step": wait.step, "until": _time(wait.until_us)}
    if wait.other is not None:
        document["signal" if wait.kind == "signal" else "run_id"] = wait.other
    return document


def history_documents(events: Sequence[HistoryEvent]) -> list[dict[str, Any]]:
    """One document an event, in their order."""
    return [event_document(event) for event in events]


def event_document(event: HistoryEvent) -> dict[str, Any]:
    """One thing that happened."""
    return {
        "at": iso_time(event.at),
        "kind": event.kind,
        "step": event.step,
        "attempt": event.attempt,
        "data": event.data,
    }


def _step(step: StepRecord) -> dict[str, Any]:
    return {
        "key": step.key,
        "kind": step.kind,
        "target": step.target,
        "status": step.status,
        "attempt": step.attempt,
        "failed_attempts": step.failures,
        "lost_attempts": step.lost,
        "input": value(step.input),
        "result": value(step.result),
        "error": _error(step.error),
        "queue": step.queue or None,
        "child": step.job if step.kind == "child" else None,
        "progress": value(step.progress),
        "due_at": _time(step.due_us),
        "created_at": _time(step.created_us),
        "started_at": _time(step.started_us),
        "finished_at": _time(step.finished_us),
    }


def _error(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    error = ErrorInfo.shown(text)
    return {"type": error.type, "message": error.message, "code": error.code}


def _time(us: int | None) -> str | None:
    return None if us is None else iso_time(as_datetime(us))


def iso_time(at: datetime) -> str:
    """A time as every document has it: UTC to the microsecond, with a Z."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
