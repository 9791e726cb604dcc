"""The transitions of a store, decided once: pure steps over the rows that a `Workspace` lends.

The memory store lends its own rows, the SQLite store those it has loaded in the transaction.
Each operation checks everything before its first write, so one that is refused changed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol, assert_never

from pikku._records import (
    ENDED_STEP,
    FINAL_STATUSES,
    CancelKind,
    CancelRun,
    Commit,
    CompleteStep,
    CreateRun,
    Delivery,
    FireTimers,
    HistoryEntry,
    Op,
    OpResult,
    ReapSessions,
    ReleaseRun,
    ResumeRun,
    RunRecord,
    Settle,
    StepRecord,
    StepWrite,
    copy_run,
    step_progress,
)
from pikku.stores.base import INLINE_QUEUE, ORCHESTRATOR_QUEUE

TimerKind = Literal["sleep", "retry", "timeout"]


class Timer(NamedTuple):
    """A due time of a run: of one of its steps, or (`key` empty) of the run itself."""

    due_us: int
    run_id: str
    key: str
    kind: TimerKind


class Workspace(Protocol):
    """The rows of one transaction. Rows that it lends may be changed in place; `save_…` says so."""

    @property
    def session(self) -> str: ...
    @property
    def now_us(self) -> int: ...
    def session_exists(self) -> bool: ...

    def run(self, run_id: str) -> RunRecord | None: ...
    def add_run(self, run: RunRecord) -> None: ...
    def save_run(self, run: RunRecord) -> None: ...

    def step(self, run_id: str, key: str) -> StepRecord | None: ...
    def save_step(self, run_id: str, step: StepRecord) -> None: ...

    def append_history(self, run_id: str, entry: HistoryEntry) -> None: ...

    def add_timer(self, timer: Timer) -> None: ...
    def drop_timers(self, run_id: str) -> None: ...
    def take_due_timers(self, limit: int) -> Iterable[Timer]: ...

    def enqueue(self, queue: str, run_id: str) -> None: ...
    def post(self, session: str, delivery: Delivery) -> None: ...
    def has_mail(self, run_id: str) -> bool: ...

    def expired_sessions(self) -> Iterable[str]: ...
    def runs_of(self, session: str, limit: int) -> Iterable[RunRecord]: ...
    def drop_session(self, session: str) -> None: ...


OK = OpResult("ok")
CONFLICT = OpResult("conflict")
FENCED = OpResult("fenced")
NOT_FOUND = OpResult("not_found")
SETTLED = OpResult("settled")
NOT_SUSPENDED = OpResult("not_suspended")


def carry_out(work: Workspace, op: Op) -> OpResult:
    """Decide and make the changes of *op*."""
    if type(op) is Commit:
        return commit(work, op)
    match op:
        case Commit():
            return commit(work, op)
        case CreateRun():
            return create_run(work, op)
        case CompleteStep():
            return complete_step(work, op)
        case CancelRun():
            return cancel_run(work, op)
        case ResumeRun():
            return resume_run(work, op)
        case ReleaseRun():
            return release_run(work, op)
        case FireTimers():
            return fire_timers(work, op)
        case ReapSessions():
            return reap_sessions(work, op)
        case _:
            assert_never(op)


def create_run(work: Workspace, op: CreateRun) -> OpResult:
    """A new run, owned by the session or queued; or the one that was there."""
    found = work.run(op.run_id)
    if found is not None:
        return OpResult("exists", copy_run(found))
    claimed = op.claim and work.session_exists()
    now = work.now_us
    run = RunRecord(
        run_id=op.run_id,
        workflow=op.workflow,
        status="running",
        input=op.input,
        output=None,
        error=None,
        version=op.version,
        inline=op.inline,
        run_attempt=1,
        owner=work.session if claimed else None,
        queued=not claimed,
        turn=0,
        turned_by=None,
        deliveries=0,
        tags=op.tags,
        started_by=op.started_by,
        created_us=now,
        updated_us=now,
        finished_us=None,
        cancel_us=None,
        cancel_kind=None,
        cancel_reason=None,
        cancel_delivery=None,
        suspend_reason=None,
    )
    work.add_run(run)
    if not claimed:
        work.enqueue(queue_of(run), op.run_id)
    if op.timeout_us is not None:
        work.add_timer(Timer(now + op.timeout_us, op.run_id, "", "timeout"))
    return OpResult("ok", copy_run(run))


def commit(work: Workspace, op: Commit) -> OpResult:
    """One turn of a run by its owner."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if op.turn == run.turn and run.turned_by == work.session:
        return OK
    if run.owner != work.session or op.turn != run.turn + 1:
        return FENCED
    if op.base is not None and run.deliveries != op.base:
        return CONFLICT
    if op.settle is not None and op.settle.status == "running" and work.has_mail(op.run_id):
        return CONFLICT
    run.turn = op.turn
    run.turned_by = work.session
    run.updated_us = work.now_us
    for write in op.ends:
        _write_step(work, run, write)
    for write in op.asks:
        _write_step(work, run, write)
    if op.history:
        for entry in op.history:
            work.append_history(op.run_id, entry._replace(at_us=work.now_us))
    if op.cancel_reason is not None and run.cancel_us is None:
        _request_cancel(work, run, "cancel", op.cancel_reason)
    if op.settle is not None:
        _settle(work, run, op.settle)
    work.save_run(run)
    return OK


def complete_step(work: Workspace, op: CompleteStep) -> OpResult:
    """An outcome from whoever holds the step's lease."""
    run = work.run(op.run_id)
    step = None if run is None else work.step(op.run_id, op.key)
    if run is None or step is None:
        return NOT_FOUND
    if step.attempt == op.attempt and step.status in ENDED_STEP and step.worker == work.session:
        return OK
    if step.status != "running" or step.attempt != op.attempt or step.worker != work.session:
        return FENCED
    step.status = op.status
    step.result = op.result
    step.error = op.error
    step.finished_us = work.now_us
    if op.status == "failed":
        step.failures += 1
    if run.status not in FINAL_STATUSES:
        run.deliveries += 1
        step.delivery = run.deliveries
        run.updated_us = work.now_us
        _wake(
            work,
            run,
            Delivery(run.run_id, step.delivery, op.key, "step", op.status, op.result, op.error),
        )
    work.save_step(op.run_id, step)
    work.save_run(run)
    return OK


def cancel_run(work: Workspace, op: CancelRun) -> OpResult:
    """The request to unwind, recorded once."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.status in FINAL_STATUSES:
        return SETTLED
    if run.cancel_us is not None:
        return OK
    _request_cancel(work, run, op.kind, op.reason)
    work.save_run(run)
    return OK


def resume_run(work: Workspace, op: ResumeRun) -> OpResult:
    """A suspended run goes on."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.status != "suspended":
        return NOT_SUSPENDED
    run.status = "running"
    run.suspend_reason = None
    run.error = None
    run.updated_us = work.now_us
    work.append_history(op.run_id, HistoryEntry("resume", at_us=work.now_us))
    run.queued = True
    work.enqueue(queue_of(run), op.run_id)
    work.save_run(run)
    return OK


def release_run(work: Workspace, op: ReleaseRun) -> OpResult:
    """The owner gives the run back."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.owner != work.session:
        return FENCED
    _disown(work, run)
    return OK


def fire_timers(work: Workspace, op: FireTimers) -> OpResult:
    """Due sleeps end, due retries and timeouts are announced."""
    for timer in work.take_due_timers(op.limit):
        run = work.run(timer.run_id)
        if run is None or run.status in FINAL_STATUSES:
            continue
        match timer.kind:
            case "sleep":
                step = work.step(timer.run_id, timer.key)
                if step is None or step.status != "scheduled":
                    continue
                run.deliveries += 1
                run.updated_us = work.now_us
                step.status = "succeeded"
                step.delivery = run.deliveries
                step.finished_us = work.now_us
                work.save_step(timer.run_id, step)
                _wake(
                    work,
                    run,
                    Delivery(run.run_id, run.deliveries, timer.key, "step", "succeeded"),
                )
            case "retry":
                _wake(work, run, Delivery(run.run_id, 0, timer.key, "retry"))
            case "timeout":
                if run.cancel_us is None:
                    _request_cancel(work, run, "timeout", "its timeout passed")
        work.save_run(run)
    return OK


def reap_sessions(work: Workspace, op: ReapSessions) -> OpResult:
    """Runs of sessions that fell silent are queued for somebody else."""
    left = op.limit
    for session in list(work.expired_sessions()):
        taken = list(work.runs_of(session, left))
        for run in taken:
            _disown(work, run)
        left -= len(taken)
        if left <= 0:
            break
        work.drop_session(session)
    return OK


def queue_of(run: RunRecord) -> str:
    """The queue on which a run waits for somebody to execute it."""
    return INLINE_QUEUE if run.inline else ORCHESTRATOR_QUEUE


def _disown(work: Workspace, run: RunRecord) -> None:
    run.owner = None
    if run.status == "running" and not run.queued:
        run.queued = True
        work.enqueue(queue_of(run), run.run_id)
    work.save_run(run)


def _write_step(work: Workspace, run: RunRecord, write: StepWrite) -> None:
    run_id = run.run_id
    step = work.step(run_id, write.key)
    now = work.now_us
    due = write.until_us if write.wait_us is None else now + write.wait_us
    status = write.status
    running = status == "running"
    ended = status in ENDED_STEP
    if step is None:
        step = StepRecord(
            write.key,
            write.position,
            write.kind,
            write.target,
            status,
            write.attempt,
            write.failures,
            write.lost,
            write.digest,
            write.input,
            write.result,
            write.error,
            work.session if running or ended else None,
            due,
            now,
            now if running or ended else None,
            now if ended else None,
            None,
        )
    else:
        before = step_progress(step.attempt, step.status)
        after = step_progress(write.attempt, status)
        # A failed step whose on_error handler has now ended is delivered without moving.
        late = write.deliver and step.delivery is None and step.status == status
        if after < before or (after == before and not late):
            return
        step.status = status
        step.attempt = write.attempt
        step.failures = write.failures
        step.lost = write.lost
        step.result = write.result
        step.error = write.error
        step.due_us = due
        if running:
            step.started_us = now
            step.worker = work.session
        elif ended and after != before:
            step.finished_us = now
    if write.deliver:
        run.deliveries += 1
        step.delivery = run.deliveries
    work.save_step(run_id, step)
    if due is not None and status == "scheduled":
        kind: TimerKind = "sleep" if write.kind == "sleep" else "retry"
        work.add_timer(Timer(due, run_id, write.key, kind))


def _settle(work: Workspace, run: RunRecord, settle: Settle) -> None:
    run.owner = None
    if settle.status == "running":
        return
    run.status = settle.status
    if settle.status == "suspended":
        run.suspend_reason = settle.reason
        run.error = settle.error
        work.append_history(
            run.run_id,
            HistoryEntry("suspend", data=json.dumps(settle.reason), at_us=work.now_us),
        )
        return
    run.output = settle.output
    run.error = settle.error
    run.finished_us = work.now_us
    work.drop_timers(run.run_id)


def _request_cancel(work: Workspace, run: RunRecord, kind: CancelKind, reason: str) -> None:
    run.deliveries += 1
    run.cancel_us = work.now_us
    run.cancel_kind = kind
    run.cancel_reason = reason
    run.cancel_delivery = run.deliveries
    run.updated_us = work.now_us
    work.drop_timers(run.run_id)
    work.append_history(
        run.run_id,
        HistoryEntry(
            "cancel", data=json.dumps({"kind": kind, "reason": reason}), at_us=run.cancel_us
        ),
    )
    if run.status == "suspended":
        run.status = "running"
        run.suspend_reason = None
    _wake(work, run, Delivery(run.run_id, run.deliveries, kind, "cancel", error=reason))


def _wake(work: Workspace, run: RunRecord, delivery: Delivery) -> None:
    if run.status != "running":
        return
    if run.owner is not None:
        work.post(run.owner, delivery)
    elif not run.queued:
        run.queued = True
        work.enqueue(queue_of(run), run.run_id)
