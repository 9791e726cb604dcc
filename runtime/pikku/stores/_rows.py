"""What of a record the SQL stores write, in the order in which their statements name it."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from typing import Any

from pikku._records import RunRecord, StepRecord

Row = tuple[Any, ...]


def added_run(run: RunRecord) -> Row:
    """A run that begins. No turn is taken in it yet."""
    return (
        run.run_id,
        run.workflow,
        run.status,
        run.version,
        run.inline,
        run.run_attempt,
        run.owner,
        run.queued,
        json.dumps(run.tags),
        run.started_by,
        run.created_us,
        run.updated_us,
        run.parent,
        run.parent_step,
        run.depth,
        run.pinned,
        run.forked_from,
        run.traceparent,
    )


rare: Callable[[RunRecord], Row] = operator.attrgetter(
    "status", "owner", "queued", "run_attempt", "cancel_us", "turned_by"
)
"""What most commits leave as it was: where none of it has changed, the turn alone is written."""

saved_run: Callable[[RunRecord], Row] = operator.attrgetter(
    "status",
    "run_attempt",
    "owner",
    "queued",
    "turn",
    "turned_by",
    "deliveries",
    "updated_us",
    "finished_us",
    "cancel_us",
    "cancel_kind",
    "cancel_reason",
    "cancel_delivery",
    "suspend_reason",
)
"""What a transition may change."""


def put_run(run: RunRecord, tags: object) -> Row:
    """What is settled when a run is added, and changes only where it is put; *tags* as the store
    keeps them."""
    return (
        run.workflow,
        run.version,
        run.inline,
        tags,
        run.started_by,
        run.created_us,
        run.parent,
        run.parent_step,
        run.depth,
        run.pinned,
        run.forked_from,
        run.traceparent,
    )


saved_step: Callable[[StepRecord], Row] = operator.attrgetter(
    "status",
    "attempt",
    "failures",
    "lost",
    "result",
    "error",
    "worker",
    "due_us",
    "started_us",
    "finished_us",
    "delivery",
    "queue",
    "job",
    "handled",
    "progress",
)
"""What a transition may change."""
