"""Runs and what happened in them, as far as they are anybody's business outside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from pikku._control import ApprovalRequest
from pikku._error_info import ErrorInfo
from pikku._history import HistoryEvent, RunInfo


def run_document(info: RunInfo, approvals: Sequence[ApprovalRequest]) -> dict[str, Any]:
    """The run itself, and the approvals that it waits for."""
    return {
        "run_id": info.run_id,
        "workflow": info.workflow,
        "status": info.status,
        "tags": list(info.tags),
        "input": info.input,
        "output": info.output,
        "error": None if info.error is None else error_document(info.error),
        "started_by": info.started_by,
        "created_at": _iso(info.created_at),
        "updated_at": _iso(info.updated_at),
        "finished_at": _time(info.finished_at),
        "cancel_requested_at": _time(info.cancel_requested_at),
        "cancel_reason": info.cancel_reason,
        "approvals": [_approval(each) for each in approvals],
    }


def error_document(error: ErrorInfo) -> dict[str, str]:
    """The error without what it says of the code."""
    return {"type": error.type, "message": error.message}


def event_document(event: HistoryEvent) -> dict[str, Any]:
    """One thing that happened."""
    return {
        "at": _iso(event.at),
        "kind": event.kind,
        "step": event.step,
        "attempt": event.attempt,
        "data": _shown(event),
    }


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


def _approval(request: ApprovalRequest) -> dict[str, Any]:
    return {
        "step": request.step,
        "reason": request.reason,
        "approvers": request.approvers,
        "scope": request.scope or None,
        "asked_at": _iso(request.asked_at),
        "expires_at": _time(request.expires_at),
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else _iso(at)


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
