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
    GIVEN_UP,
    JOB_KEY,
    WAITS,
    Advertise,
    BeginStep,
    CancelKind,
    CancelRun,
    Commit,
    CompleteStep,
    CreateRun,
    DecideStep,
    DeleteRun,
    Delivery,
    FireTimers,
    HandRun,
    HistoryEntry,
    Job,
    Op,
    OpResult,
    PutRun,
    ReapSessions,
    ReleaseRun,
    ReleaseStep,
    ReportProgress,
    RequeueRun,
    ResumeRun,
    RunRecord,
    RunStatus,
    Settle,
    SignalRecord,
    SignalRun,
    StepRecord,
    StepWrite,
    WatchRun,
    copy_run,
    copy_step,
    is_forsaken,
    is_job,
    step_progress,
)
from pikku.stores.base import CALLED_OFF, INLINE_QUEUE, ORCHESTRATOR_QUEUE

TimerKind = Literal["sleep", "retry", "timeout", "start"]


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
    def whole_run(self, run_id: str) -> RunRecord | None: ...
    def add_run(self, run: RunRecord) -> None: ...
    def save_run(self, run: RunRecord) -> None: ...
    def put_run(self, run: RunRecord) -> None: ...
    def drop_run(self, run_id: str) -> None: ...

    def step(self, run_id: str, key: str) -> StepRecord | None: ...
    def save_step(self, run_id: str, step: StepRecord) -> None: ...
    def save_input(self, run_id: str, step: StepRecord) -> None: ...
    def open_steps(self, run_id: str) -> Iterable[StepRecord]: ...
    def steps(self, run_id: str) -> Iterable[StepRecord]: ...
    def drop_steps(self, run_id: str) -> None: ...

    def knows_signal(self, run_id: str, signal_id: str) -> bool: ...
    def add_signal(self, run_id: str, signal: SignalRecord) -> None: ...
    def take_signal(self, run_id: str, name: str, key: str) -> str | None: ...
    def give_signal_back(self, run_id: str, key: str) -> None: ...

    def append_history(self, run_id: str, entry: HistoryEntry) -> None: ...

    def add_timer(self, timer: Timer) -> None: ...
    def drop_timers(self, run_id: str) -> None: ...
    def take_due_timers(self, limit: int) -> Iterable[Timer]: ...

    def enqueue(self, queue: str, run_id: str) -> None: ...
    def push_job(self, queue: str, run_id: str, key: str, attempt: int) -> None: ...
    def post(self, session: str, delivery: Delivery) -> None: ...
    def has_mail(self, run_id: str) -> bool: ...
    def add_watcher(self, run_id: str) -> None: ...
    def take_watchers(self, run_id: str) -> Iterable[str]: ...

    def session_alive(self, session: str) -> bool: ...
    def expired_sessions(self) -> Iterable[str]: ...
    def runs_of(self, session: str, limit: int) -> Iterable[RunRecord]: ...
    def jobs_of(self, session: str, limit: int) -> Iterable[tuple[str, StepRecord]]: ...
    def drop_session(self, session: str) -> None: ...
    def advertise(self, holds: Iterable[str]) -> None: ...
    def holders(self, name: str) -> Iterable[str]: ...


OK = OpResult("ok")
CONFLICT = OpResult("conflict")
FENCED = OpResult("fenced")
NOT_FOUND = OpResult("not_found")
SETTLED = OpResult("settled")
NOT_SUSPENDED = OpResult("not_suspended")
NOT_FAILED = OpResult("not_failed")
NOT_ENDED = OpResult("not_ended")
DECIDED = OpResult("decided")
NOBODY = OpResult("nobody")


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
        case BeginStep():
            return begin_step(work, op)
        case ReleaseStep():
            return release_step(work, op)
        case ReportProgress():
            return report_progress(work, op)
        case CancelRun():
            return cancel_run(work, op)
        case ResumeRun():
            return resume_run(work, op)
        case ReleaseRun():
            return release_run(work, op)
        case RequeueRun():
            return requeue_run(work, op)
        case WatchRun():
            return watch_run(work, op)
        case SignalRun():
            return signal_run(work, op)
        case DecideStep():
            return decide_step(work, op)
        case PutRun():
            return put_run(work, op)
        case DeleteRun():
            return delete_run(work, op)
        case Advertise():
            return advertise(work, op)
        case HandRun():
            return hand_run(work, op)
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
    delayed = op.delay_us is not None
    claimed = op.claim and op.job is None and not delayed and work.session_exists()
    queued = op.job is None and not claimed and not delayed
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
        queued=queued,
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
        parent=op.parent,
        parent_step=op.parent_step,
        depth=op.depth,
        pinned=op.pinned,
        traceparent=op.traceparent,
    )
    work.add_run(run)
    if op.job is not None:
        _write_step(work, run, op.job)
        return OpResult("ok", copy_run(run))
    if queued:
        work.enqueue(queue_of(run), op.run_id)
    begins = now + (op.delay_us or 0)
    if delayed:
        work.add_timer(Timer(begins, op.run_id, "", "start"))
    if op.timeout_us is not None:
        work.add_timer(Timer(begins + op.timeout_us, op.run_id, "", "timeout"))
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
    if op.children:
        for child in op.children:
            create_run(work, child)
    asked = {write.key for write in op.asks} if op.calls_off else ()
    if op.calls_off:  # what this gives back is there for what is asked for now
        _call_off(work, run, [key for key in op.calls_off if key not in asked])
    for write in op.asks:
        _write_step(work, run, write)
    if asked:
        _call_off(work, run, [key for key in op.calls_off if key in asked])
    if op.history:
        for entry in op.history:
            work.append_history(op.run_id, entry._replace(at_us=work.now_us))
    if op.cancel_reason is not None and run.cancel_us is None:
        _request_cancel(work, run, "cancel", op.cancel_reason)
    if op.settle is not None:
        parks = op.settle.status == "running"
        if parks and (op.asks or op.calls_off) and work.has_mail(op.run_id):
            _disown(work, run)  # a signal was there for a wait: nobody would see it
        else:
            _settle(work, run, op.settle)
    work.save_run(run)
    return OK


def complete_step(work: Workspace, op: CompleteStep) -> OpResult:
    """An outcome from whoever holds the step's lease."""
    run = work.run(op.run_id)
    step = None if run is None else work.step(op.run_id, op.key)
    if run is None or step is None:
        return OK if op.forget else NOT_FOUND
    if step.attempt == op.attempt and step.status in ENDED_STEP and step.worker == work.session:
        return OK
    if (
        op.retry_us is not None
        and step.attempt == op.attempt + 1
        and step.status == "scheduled"
        and step.worker is None
        and step.error is not None
        and step.error == op.error
    ):
        return OK
    if not _executes(work, step, op.attempt):
        return FENCED
    if op.status == "failed":
        step.failures += 1
        if op.retry_us is not None and run.status not in FINAL_STATUSES and run.cancel_us is None:
            work.append_history(
                op.run_id,
                HistoryEntry("attempt_failed", op.key, op.attempt, op.error, work.now_us),
            )
            _put_back(work, step, op.run_id, op.retry_us, attempt=op.attempt + 1, error=op.error)
            return OK
    step.result = op.result
    step.error = op.error
    if op.forget and op.status == "succeeded":
        _tell_watchers(work, Settle("completed", op.result), op.run_id)
        work.drop_run(op.run_id)
    else:
        _conclude(work, run, step, op.status)
    return OK


def begin_step(work: Workspace, op: BeginStep) -> OpResult:
    """The body of a claimed job begins."""
    step = work.step(op.run_id, op.key) if work.run(op.run_id) is not None else None
    if step is None:
        return NOT_FOUND
    if step.attempt != op.attempt or step.worker != work.session:
        return FENCED
    if step.status == "running":
        return OK
    if step.status != "scheduled":
        return FENCED
    step.status = "running"
    step.started_us = work.now_us
    step.error = None
    work.save_step(op.run_id, step)
    return OK


def release_step(work: Workspace, op: ReleaseStep) -> OpResult:
    """A claimed job goes back to its queue."""
    run = work.run(op.run_id)
    step = None if run is None else work.step(op.run_id, op.key)
    if run is None or step is None:
        return NOT_FOUND
    begun = step.status == "running"
    if step.attempt != op.attempt or step.worker != work.session:
        return FENCED
    if not begun and step.status != "scheduled":
        return FENCED
    if begun:
        work.append_history(
            op.run_id, HistoryEntry("handed_back", op.key, op.attempt, None, work.now_us)
        )
    if _is_off(run, step):
        _conclude(work, run, step, "failed")
    else:
        _put_back(work, step, op.run_id, op.wait_us, attempt=op.attempt + begun)
    return OK


def report_progress(work: Workspace, op: ReportProgress) -> OpResult:
    """What a running attempt says of itself."""
    step = work.step(op.run_id, op.key) if work.run(op.run_id) is not None else None
    if step is None:
        return NOT_FOUND
    if not _executes(work, step, op.attempt):
        return FENCED
    step.progress = op.progress
    work.save_step(op.run_id, step)
    return OK


def _executes(work: Workspace, step: StepRecord, attempt: int) -> bool:
    """Whether the session executes this attempt: as the holder of its job, or under the lease of
    its run, which a session that was reaped has lost."""
    return (
        step.status == "running"
        and step.attempt == attempt
        and step.worker == work.session
        and (step.queue is not None or work.session_exists())
    )


def grant(work: Workspace, queue: str, run_id: str, key: str, attempt: int) -> Job | None:
    """The job for the session, unless it is no longer wanted or was granted before."""
    run = work.run(run_id)
    step = None if run is None else work.step(run_id, key)
    if run is None or step is None or run.status in FINAL_STATUSES:
        return None
    if (
        step.status != "scheduled"
        or step.attempt != attempt
        or step.queue != queue
        or step.worker is not None
        or (step.due_us is not None and step.due_us > work.now_us)  # the entry of a run before it
    ):
        return None
    step.worker = work.session
    if not step.lost:
        step.status = "running"
        step.started_us = work.now_us
        step.error = None
    work.save_step(run_id, step)
    return Job(run_id, run.workflow, copy_step(step))


def cancel_run(work: Workspace, op: CancelRun) -> OpResult:
    """The request to unwind, recorded once."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.status in FINAL_STATUSES:
        return SETTLED
    if op.forced is not None and run.status == "suspended":
        _end_by_force(work, run, op, op.forced)
        return OK
    if run.cancel_us is not None:
        return OK
    if is_job(run):
        _cancel_job(work, run, op)
        return OK
    _request_cancel(work, run, op.kind, op.reason)
    work.save_run(run)
    return OK


def _cancel_job(work: Workspace, run: RunRecord, op: CancelRun) -> None:
    _note_cancel(work, run, op)
    work.save_run(run)
    step = work.step(run.run_id, JOB_KEY)
    if step is None or step.status in ENDED_STEP:
        return
    if step.status == "running" and step.worker is not None:
        word = Delivery(run.run_id, 0, JOB_KEY, "stop", attempt=step.attempt)
        work.post(step.worker, word)
        return
    step.error = op.forced
    step.worker = None
    _conclude(work, run, step, "failed")


def _note_cancel(work: Workspace, run: RunRecord, op: CancelRun) -> None:
    run.cancel_us = work.now_us
    run.cancel_kind = op.kind
    run.cancel_reason = op.reason
    data = json.dumps({"kind": op.kind, "reason": op.reason})
    work.append_history(run.run_id, HistoryEntry("cancel", data=data, at_us=work.now_us))


def _end_by_force(work: Workspace, run: RunRecord, op: CancelRun, error: str) -> None:
    if run.cancel_us is None:
        _note_cancel(work, run, op)
    run.updated_us = work.now_us
    run.suspend_reason = None
    _settle(work, run, Settle("cancelled", error=error, reason=run.cancel_reason, withdraw=True))
    work.save_run(run)


def resume_run(work: Workspace, op: ResumeRun) -> OpResult:
    """A suspended run goes on."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.status != "suspended":
        return NOT_SUSPENDED
    limited = run.suspend_reason == "imported" and run.cancel_us is None
    if limited and op.timeout_us is not None:
        work.add_timer(Timer(work.now_us + op.timeout_us, op.run_id, "", "timeout"))
    run.status = "running"
    run.suspend_reason = None
    run.error = None
    run.updated_us = work.now_us
    work.append_history(op.run_id, HistoryEntry("resume", at_us=work.now_us))
    for step in list(work.open_steps(op.run_id)):
        if step.kind == "suspend" and not _is_past(run, step):
            _conclude(work, run, step, "succeeded")
    if is_job(run):
        work.save_run(run)
        return requeue_run(work, RequeueRun(op.run_id))
    if not run.queued:
        run.queued = True
        work.enqueue(queue_of(run), op.run_id)
    work.save_run(run)
    return OK


def signal_run(work: Workspace, op: SignalRun) -> OpResult:
    """A signal ends the oldest wait for it, or waits in the run."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if work.knows_signal(op.run_id, op.signal_id):
        return OK
    if run.status in FINAL_STATUSES:
        return SETTLED
    now = work.now_us
    work.append_history(op.run_id, HistoryEntry("signal", op.name, None, op.payload, now))
    step = _waits_for(work, run, op.name)
    key = None if step is None else step.key
    work.add_signal(op.run_id, SignalRecord(op.signal_id, op.name, op.payload, now, key))
    if step is not None:
        step.result = op.payload
        _conclude(work, run, step, "succeeded")
    return OK


def _waits_for(work: Workspace, run: RunRecord, name: str) -> StepRecord | None:
    """The oldest step that waits for a signal of this name."""
    waiting = [
        step
        for step in work.open_steps(run.run_id)
        if step.kind == "signal" and step.target == name and not _is_past(run, step)
    ]
    return min(waiting, key=lambda each: each.position, default=None)


def _take_signal(work: Workspace, run: RunRecord, step: StepRecord) -> bool:
    """Whether a signal was there for the step, which has ended with it."""
    payload = work.take_signal(run.run_id, step.target, step.key)
    if payload is None:
        return False
    step.result = payload
    _conclude(work, run, step, "succeeded")
    return True


def _is_past(run: RunRecord, step: StepRecord) -> bool:
    """Whether the step was asked for before the run was asked to unwind: nobody waits for it."""
    return run.cancel_delivery is not None and step.after < run.cancel_delivery


def decide_step(work: Workspace, op: DecideStep) -> OpResult:
    """The answer to an approval, once."""
    run = work.run(op.run_id)
    step = None if run is None else work.step(op.run_id, op.key)
    if run is None or step is None or step.kind != "approval":
        return NOT_FOUND
    if step.status in ENDED_STEP:
        return OK if step.result == op.decision else DECIDED
    if run.status in FINAL_STATUSES or _is_past(run, step):
        return SETTLED
    work.append_history(op.run_id, HistoryEntry("decision", op.key, None, op.decision, work.now_us))
    step.result = op.decision
    _conclude(work, run, step, "succeeded")
    return OK


def put_run(work: Workspace, op: PutRun) -> OpResult:
    """A whole run, new or instead of a failed one."""
    found = work.run(op.run_id)
    run = copy_run(op.run)
    run.owner = run.turned_by = None
    run.queued = run.status == "running" and not is_job(run)
    if op.expected is None:
        if found is not None:
            return OpResult("exists", copy_run(found))
    else:
        if found is None:
            return NOT_FOUND
        if found.run_attempt == run.run_attempt:
            return OK
        if found.status != "failed":
            return NOT_FAILED
        there = {(step.key, step.attempt, step.status) for step in work.steps(op.run_id)}
        if found.run_attempt != run.run_attempt - 1 or there != set(op.expected):
            return CONFLICT
        run.turn = found.turn
        work.drop_steps(op.run_id)
    work.put_run(run)
    for given in sorted(op.steps, key=lambda each: each.position):
        step = copy_step(given)
        work.save_step(run.run_id, step)
        if step.status != "scheduled" or (step.kind == "job" and run.status != "running"):
            continue
        if step.kind == "signal" and _take_signal(work, run, step):
            continue
        if step.due_us is not None:
            kind: TimerKind = "sleep" if step.kind in WAITS else "retry"
            work.add_timer(Timer(step.due_us, run.run_id, step.key, kind))
        elif step.queue and step.kind == "job":
            work.push_job(step.queue, run.run_id, step.key, step.attempt)
    for entry in op.history:
        at_us = entry.at_us or work.now_us
        work.append_history(run.run_id, entry._replace(at_us=at_us))
    if run.queued:
        work.enqueue(queue_of(run), run.run_id)
    if op.timeout_us is not None:
        work.add_timer(Timer(work.now_us + op.timeout_us, run.run_id, "", "timeout"))
    return OK


def delete_run(work: Workspace, op: DeleteRun) -> OpResult:
    """Everything of an ended run goes."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.status not in FINAL_STATUSES:
        return NOT_ENDED
    work.drop_run(op.run_id)
    return OK


def advertise(work: Workspace, op: Advertise) -> OpResult:
    """What the session can execute."""
    if work.session_exists():
        work.advertise(op.holds)
    return OK


def hand_run(work: Workspace, op: HandRun) -> OpResult:
    """The run goes to somebody who can execute it."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.owner != work.session:
        return FENCED
    for name in op.wanted:
        for session in work.holders(name):
            if session != work.session and work.session_alive(session):
                run.owner = session
                work.save_run(run)
                work.post(session, Delivery(run.run_id, 0, name, "hand"))
                return OK
    return NOBODY


def release_run(work: Workspace, op: ReleaseRun) -> OpResult:
    """The owner gives the run back."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.owner != work.session:
        return FENCED
    _disown(work, run)
    return OK


def requeue_run(work: Workspace, op: RequeueRun) -> OpResult:
    """An unfinished run gets the next actions that its records call for."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.status in FINAL_STATUSES:
        return SETTLED
    if is_job(run) and run.status != "running":
        return OK
    if run.owner is not None and not work.session_alive(run.owner):
        run.owner = None
    open_steps = list(work.open_steps(run.run_id))
    if run.owner is not None and any(is_forsaken(step, run) for step in open_steps):
        run.owner = None  # whoever takes it up next executes what its owner does not
    if run.status == "running" and run.owner is None and not is_job(run):
        run.queued = True
        work.enqueue(queue_of(run), run.run_id)
    work.save_run(run)
    for step in open_steps:
        away = step.queue is not None
        held = away and step.worker is not None and work.session_alive(step.worker)
        if held or (step.status == "running" and not away):
            continue
        if _is_off(run, step):
            _conclude(work, run, step, "failed")
        elif step.status == "running":
            _put_back(work, step, run.run_id, None, attempt=step.attempt + 1)
        elif run.cancel_us is not None and step.created_us <= run.cancel_us:
            continue
        elif step.kind == "child":
            child = work.whole_run(step.job) if step.job is not None else None
            if child is not None and child.status in FINAL_STATUSES:
                _tell_parent(work, child)
        elif step.due_us is not None and (step.kind in WAITS or step.due_us > work.now_us):
            kind: TimerKind = "sleep" if step.kind in WAITS else "retry"
            work.add_timer(Timer(step.due_us, run.run_id, step.key, kind))
        elif step.kind == "sleep":
            work.add_timer(Timer(work.now_us, run.run_id, step.key, "sleep"))
        elif away:
            _put_back(work, step, run.run_id, None, attempt=step.attempt)
    return OK


def watch_run(work: Workspace, op: WatchRun) -> OpResult:
    """The session wants to know how the run ends."""
    run = work.run(op.run_id)
    if run is None:
        return NOT_FOUND
    if run.status in FINAL_STATUSES:
        return OpResult("settled", copy_run(run))
    work.add_watcher(op.run_id)
    return OK


def fire_timers(work: Workspace, op: FireTimers) -> OpResult:
    """Due sleeps end, due attempts are queued or announced, due timeouts unwind their runs."""
    for timer in work.take_due_timers(op.limit):
        run = work.run(timer.run_id)
        if run is None or run.status in FINAL_STATUSES:
            continue
        step = work.step(timer.run_id, timer.key) if timer.key else None
        if timer.kind == "timeout":
            if run.cancel_us is None:
                _request_cancel(work, run, "timeout", "its timeout passed")
        elif timer.kind == "start":
            _wake(work, run, Delivery(run.run_id, 0, "", "retry"))
        elif step is None or step.status != "scheduled":
            continue
        elif timer.kind == "sleep":
            _conclude(work, run, step, "succeeded")
        elif step.due_us is not None and step.due_us > timer.due_us:
            continue  # put off since then
        elif step.queue:
            if step.worker is None:
                step.due_us = None  # it is wanted from now on, also where the clock is set back
                work.save_step(timer.run_id, step)
                work.push_job(step.queue, timer.run_id, timer.key, step.attempt)
        else:
            _wake(work, run, Delivery(run.run_id, 0, timer.key, "retry"))
        work.save_run(run)
    return OK


def reap_sessions(work: Workspace, op: ReapSessions) -> OpResult:
    """What expired sessions held is queued for somebody else."""
    left = op.limit
    for session in list(work.expired_sessions()):
        taken = list(work.runs_of(session, left))
        for run in taken:
            _disown(work, run)
        left -= len(taken)
        held = list(work.jobs_of(session, left)) if left > 0 else []
        for run_id, step in held:
            _take_away(work, run_id, step, op)
        left -= len(held)
        if left <= 0:
            break
        work.drop_session(session)
    return OK


def _take_away(work: Workspace, run_id: str, step: StepRecord, op: ReapSessions) -> None:
    run = work.run(run_id)
    if run is None or run.status in FINAL_STATUSES:
        step.worker = None
        work.save_step(run_id, step)
        return
    if step.status == "scheduled" and not _is_off(run, step):
        _put_back(work, step, run_id, None, attempt=step.attempt)
        return
    step.lost += 1
    work.append_history(
        run_id, HistoryEntry("attempt_lost", step.key, step.attempt, None, work.now_us)
    )
    if _is_off(run, step):
        _conclude(work, run, step, "failed")
    elif step.lost < op.max_lost or not step.queue:
        _put_back(work, step, run_id, None, attempt=step.attempt + 1)
    else:
        step.error = op.poisoned
        _conclude(work, run, step, "failed")


def _put_back(
    work: Workspace,
    step: StepRecord,
    run_id: str,
    wait_us: int | None,
    *,
    attempt: int,
    error: str | None = None,
) -> None:
    """The step waits for its next attempt, in its queue or for its time; *error* is why it was not
    the last. Called off, it waits for ever."""
    step.status = "scheduled"
    step.attempt = attempt
    step.worker = None
    step.progress = None
    step.error = error
    step.due_us = work.now_us + wait_us if wait_us else None
    work.save_step(run_id, step)
    if step.due_us is not None:
        work.add_timer(Timer(step.due_us, run_id, step.key, "retry"))
    elif step.queue:
        work.push_job(step.queue, run_id, step.key, attempt)


def _conclude(
    work: Workspace, run: RunRecord, step: StepRecord, status: Literal["succeeded", "failed"]
) -> None:
    """Record the outcome of a step outside its run's turns, and wake the run."""
    step.status = status
    step.finished_us = work.now_us
    if step.kind == "job":
        _end_job(work, run, step)
    elif run.status not in FINAL_STATUSES:
        run.updated_us = work.now_us
        if step.kind == "on_error" or (status == "failed" and step.handled):
            word = Delivery(
                run.run_id, 0, step.key, "handle", status, None, step.error, step.attempt
            )
        else:
            run.deliveries += 1
            step.delivery = run.deliveries
            word = Delivery(
                run.run_id,
                step.delivery,
                step.key,
                "step",
                status,
                step.result,
                step.error,
                step.attempt,
            )
        _wake(work, run, word)
        work.save_run(run)
    work.save_step(run.run_id, step)


def _end_job(work: Workspace, run: RunRecord, step: StepRecord) -> None:
    """The run of a job ends as its step has."""
    if run.status in FINAL_STATUSES:
        return
    run.deliveries += 1
    step.delivery = run.deliveries
    run.updated_us = work.now_us
    status: RunStatus = "completed"
    if step.status == "failed":
        status = "failed" if run.cancel_us is None else "cancelled"
    _settle(work, run, Settle(status, step.result, step.error, reason=run.cancel_reason))
    work.save_run(run)


def _is_off(run: RunRecord, step: StepRecord) -> bool:
    """Whether the step is a job that was cancelled: it gets no further attempt."""
    return step.kind == "job" and run.cancel_us is not None


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
            write.queue,
            write.job,
            write.handled,
            None,
            write.after,
        )
    else:
        before = step_progress(step.attempt, step.status)
        after = step_progress(write.attempt, status)
        # A failed step whose on_error handler has now ended is delivered without moving.
        if after == before and write.deliver and step.delivery is None:
            run.deliveries += 1
            step.delivery = run.deliveries
            work.save_step(run_id, step)
        # The attempt that its run's owner would have made crosses a queue after all, or the run of
        # a child that is retried has been made.
        leaves = status == "scheduled" and (
            (write.queue is not None and step.queue is None)
            or (write.kind == "child" and step.job is None)
        )
        if after < before or (after == before and not leaves):
            return
        if step.input is None and write.input is not None:  # a retry asks for it anew
            step.input, step.digest = write.input, write.digest
            work.save_input(run_id, step)
        step.status = status
        step.attempt = write.attempt
        step.failures = write.failures
        step.lost = write.lost
        step.result = write.result
        step.error = write.error
        step.due_us = due
        step.queue = write.queue
        step.job = write.job
        step.handled = write.handled
        step.progress = None
        if status == "scheduled":
            step.worker = None
        if running:
            step.started_us = now
            step.worker = work.session
        elif ended:
            step.finished_us = now
    if write.deliver:
        run.deliveries += 1
        step.delivery = run.deliveries
    work.save_step(run_id, step)
    if status != "scheduled":
        return
    if write.kind == "signal" and _take_signal(work, run, step):
        return
    if due is not None:
        kind: TimerKind = "sleep" if write.kind in WAITS else "retry"
        work.add_timer(Timer(due, run_id, write.key, kind))
    elif write.queue is not None:
        work.push_job(write.queue, run_id, write.key, write.attempt)


def _call_off(work: Workspace, run: RunRecord, keys: Iterable[str]) -> None:
    """The function has given waits or children up."""
    given_back: dict[str, None] = {}
    for key in keys:
        step = work.step(run.run_id, key)
        if step is None or step.error == GIVEN_UP:
            continue
        if step.status not in ENDED_STEP:
            if step.kind == "child":
                _cancel_child(work, run, step)
            step.status = "failed"
            step.finished_us = work.now_us
        elif step.kind == "signal" and step.result is not None:
            work.give_signal_back(run.run_id, key)
            given_back[step.target] = None
        else:
            continue
        step.error = GIVEN_UP
        work.save_step(run.run_id, step)
    for name in given_back:
        step = _waits_for(work, run, name)
        while step is not None and _take_signal(work, run, step):
            step = _waits_for(work, run, name)


def _cancel_child(work: Workspace, run: RunRecord, step: StepRecord) -> None:
    child = work.run(step.job) if step.job is not None else None
    if child is not None and child.status not in FINAL_STATUSES and child.cancel_us is None:
        _request_cancel(work, child, "cancel", f"run {run.run_id} waits for it no longer")
        work.save_run(child)


def _tell_parent(work: Workspace, run: RunRecord) -> None:
    """The step of the parent that waits for the run has its outcome."""
    parent = work.run(run.parent) if run.parent is not None else None
    step = work.step(run.parent, run.parent_step or "") if run.parent is not None else None
    if parent is None or step is None or step.job != run.run_id or step.status in ENDED_STEP:
        return
    if run.status == "completed":
        step.result = run.output
        _conclude(work, parent, step, "succeeded")
    else:
        step.error = run.error
        step.failures += 1
        _conclude(work, parent, step, "failed")


def _settle(work: Workspace, run: RunRecord, settle: Settle) -> None:
    suspended = settle.status == "suspended"
    if suspended and run.cancel_us is not None and not settle.unwinding:
        _disown(work, run)  # asked to unwind meanwhile: whoever takes it up next does that
        return
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
    if settle.withdraw:
        _withdraw(work, run)
    _tell_watchers(work, settle, run.run_id)
    if run.parent is not None:
        _tell_parent(work, run)


def _tell_watchers(work: Workspace, settle: Settle, run_id: str) -> None:
    ended = Delivery(
        run_id, 0, settle.reason or "", "ended", settle.status, settle.output, settle.error
    )
    for session in work.take_watchers(run_id):
        if work.session_alive(session):
            work.post(session, ended)


def _withdraw(work: Workspace, run: RunRecord) -> None:
    """No job of the run is granted any more, those who execute one are told, and its children are
    asked to unwind."""
    run_id = run.run_id
    for step in list(work.open_steps(run_id)):
        if step.kind == "child":
            _cancel_child(work, run, step)
        if step.queue is None:
            continue
        if step.worker is not None:
            work.post(step.worker, Delivery(run_id, 0, step.key, "stop", attempt=step.attempt))
        if step.status == "scheduled":
            step.worker = None
        step.queue = CALLED_OFF
        work.save_step(run_id, step)


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
        run.error = None
    _withdraw(work, run)
    _wake(work, run, Delivery(run.run_id, run.deliveries, kind, "cancel", error=reason))


def _wake(work: Workspace, run: RunRecord, delivery: Delivery) -> None:
    if run.status != "running":
        return
    if run.owner is not None:
        work.post(run.owner, delivery)
    elif not run.queued:
        run.queued = True
        work.enqueue(queue_of(run), run.run_id)
