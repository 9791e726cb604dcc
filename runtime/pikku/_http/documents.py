"""Runs and what happened in them, as far as they are anybody's business outside."""

from __future__ import annotations

from typing import Any, cast

from pikku._documents import event_document as whole_event_document
from pikku._documents import show_document
from pikku._error_info import ErrorInfo
from pikku._history import HistoryEvent
from pikku._records import LoadedRun
from pikku._waits import wait_of

# What the run and its steps are to those who have started it; the rest is the deployment's.
_OF_RUNS = (
    "run_id",
    "workflow",
    "status",
    "tags",
    "input",
    "output",
    "error",
    "started_by",
    "parent",
    "forked_from",
    "run_attempt",
    "created_at",
    "updated_at",
    "finished_at",
    "cancel_requested_at",
    "cancel_reason",
    "suspend_reason",
)
_OF_STEPS = (
    "key",
    "kind",
    "status",
    "attempt",
    "error",
    "progress",
    "due_at",
    "created_at",
    "started_at",
    "finished_at",
)


def run_document(loaded: LoadedRun, now_us: int) -> dict[str, Any]:
    """The run, what it waits for, the approvals that can be answered, and its steps."""
    whole = show_document(loaded, wait_of(loaded, now_us))
    return {
        "run": {key: whole["run"][key] for key in _OF_RUNS},
        "waits": whole["waits"],
        "approvals": whole["approvals"],
        "steps": [{key: step[key] for key in _OF_STEPS} for step in whole["steps"]],
    }


def error_document(error: ErrorInfo) -> dict[str, str]:
    """The error without what it says of the code."""
    return {"type": error.type, "message": error.message}


def event_document(event: HistoryEvent) -> dict[str, Any]:
    """One thing that happened, without what it says of the code."""
    return {**whole_event_document(event), "data": _shown(event)}


def _shown(event: HistoryEvent) -> Any:
    data = event.data
    if event.kind not in _TOLD_IN_PART or not isinstance(data, dict):
        return data
    whole = cast("dict[str, Any]", data)
    return {key: whole[key] for key in _TOLD_IN_PART[event.kind] if key in whole}


_ERROR = ("type", "message")
_TOLD_IN_PART = {
    "step_failed": _ERROR,
    "attempt_failed": _ERROR,
    "run_failed": _ERROR,
    "run_cancelled": _ERROR,
    "given_up": _ERROR,
    "approval_asked": ("reason", "approvers", "scope"),
}
