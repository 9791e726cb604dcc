"""What a store keeps and what travels between engine and store: plain, immutable data.

Times are whole microseconds since 1970-01-01 UTC by the store's clock (`…_us`).
Values (`input`, `result`, `output`, `error`) are JSON text; only the codec looks inside.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

RunStatus = Literal["running", "suspended", "completed", "failed", "cancelled"]
FINAL_STATUSES: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
RUN_STATUSES: tuple[RunStatus, ...] = ("running", "suspended", "completed", "failed", "cancelled")

StepStatus = Literal["pending", "scheduled", "running", "succeeded", "failed"]
ENDED_STEP: frozenset[str] = frozenset({"succeeded", "failed"})
_STEP_RANK = {"pending": 0, "scheduled": 1, "running": 2, "failed": 3, "succeeded": 3}

StepKindName = Literal[
    "rpc",
    "inline",
    "sleep",
    "side_effect",
    "on_error",
    "signal",
    "approval",
    "suspend",
    "child",
    "patch",
    "job",
]
# What is recorded as the error of a wait that its function has given up.
GIVEN_UP = '{"type": "GivenUp", "message": "the function waits for it no longer"}'
# A run whose workflow has a name that begins so is a job: it has one step, of kind `job`, ends with
# it, and is executed by whoever claims that from its queue. Nobody orchestrates it.
JOB_RUNS = "queue:"
# The key of its step.
JOB_KEY = "job"
# Steps that end by a word from outside or, with a due time, when that has come.
WAITS: frozenset[str] = frozenset({"sleep", "signal", "approval"})

SuspendReason = Literal[
    "nondeterminism",
    "missing_function",
    "requested",
    "internal_error",
    "unreadable",
    "version",
    "imported",
]
CancelKind = Literal["cancel", "timeout"]


def step_progress(attempt: int, status: StepStatus) -> int:
    """(attempt, status) as one number that only grows over a step's life."""
    return attempt * 4 + _STEP_RANK[status]


# --- what a store keeps ----------------------------------------------------------


@dataclass(slots=True)
class RunRecord:
    """One execution of a workflow. A store hands out copies.

    `turn` counts the commits of the run's owners, `turned_by` is the session that made the last;
    `deliveries` counts the outcomes recorded so far. A child run has the id of its `parent`, the
    key of the step there that waits for it, and its `depth` below a run without parent. `pinned`:
    only a process that holds the run's `version` executes it. `traceparent` is the trace context of
    whoever started it, as W3C Trace Context writes it.
    """

    run_id: str
    workflow: str
    status: RunStatus
    input: str
    output: str | None
    error: str | None
    version: str
    inline: bool
    run_attempt: int
    owner: str | None
    queued: bool
    turn: int
    turned_by: str | None
    deliveries: int
    tags: tuple[str, ...]
    started_by: str | None
    created_us: int
    updated_us: int
    finished_us: int | None
    cancel_us: int | None
    cancel_kind: CancelKind | None
    cancel_reason: str | None
    cancel_delivery: int | None
    suspend_reason: str | None
    parent: str | None = None
    parent_step: str | None = None
    depth: int = 0
    pinned: bool = False
    forked_from: str | None = None
    traceparent: str | None = None


def is_job(run: RunRecord) -> bool:
    """Whether the run is a job of a queue."""
    return run.workflow.startswith(JOB_RUNS)


@dataclass(slots=True)
class StepRecord:
    """One recorded unit of a run. A store hands out copies.

    `position` is the step's place in the order in which the function asked. `attempt` counts
    from 1 and includes lost ones; `failures` are the attempts that ended in an
    error, `lost` those whose process died. `worker` is the session that executes or executed the
    current attempt. `delivery` is the place of the outcome in the run's order, once it has one.

    A step that crosses a queue has the name of that `queue` and, as `job`, what a worker must know
    besides (JSON text); without a queue its run's owner executes it; an empty one says that the
    job was called off. `error` of a step that waits for its next attempt is why. `handled`: its
    last failure goes to an `on_error` handler before it is delivered, or may get another attempt
    from the run's owner. `progress` is what the running attempt said of itself (JSON text).

    `after` counts the outcomes that the function had been given when it asked. The `target` of a
    signal step is the signal's name; the `job` of a child step is the child's run id, that of an
    approval what its answer must satisfy (JSON text). A wait that its function has given up has
    `error`, and no delivery that anybody sees.
    """

    key: str
    position: int
    kind: StepKindName
    target: str
    status: StepStatus
    attempt: int
    failures: int
    lost: int
    digest: str
    input: str | None
    result: str | None
    error: str | None
    worker: str | None
    due_us: int | None
    created_us: int
    started_us: int | None
    finished_us: int | None
    delivery: int | None
    queue: str | None = None
    job: str | None = None
    handled: bool = False
    progress: str | None = None
    after: int = 0


def is_forsaken(step: StepRecord, run: RunRecord) -> bool:
    """Whether the run's owner would have to execute the step, and somebody else was about to: the
    first turn of whoever takes a run over should have put that right."""
    return (
        run.turned_by == run.owner
        and step.status == "running"
        and step.queue is None
        and step.kind not in WAITS
        and step.kind != "child"
        and is_wanted(step, run)
        and step.worker != run.owner
    )


def is_wanted(step: StepRecord, run: RunRecord) -> bool:
    """Whether the run may still wait for the step: it is open, was asked for, and not called off.
    A step that a fork was given waits to be asked for; one that the run was suspended at has ended
    with that."""
    if step.status in ENDED_STEP or step.status == "pending" or step.kind == "suspend":
        return False
    return run.cancel_delivery is None or step.after >= run.cancel_delivery


class SignalRecord(NamedTuple):
    """A signal that was sent to a run, and the `step` that it ended, once there is one."""

    signal_id: str
    name: str
    payload: str
    at_us: int
    step: str | None = None


_run_values = operator.attrgetter(*(field.name for field in fields(RunRecord)))
step_values = operator.attrgetter(*(field.name for field in fields(StepRecord)))


def copy_run(run: RunRecord) -> RunRecord:
    """A run of its own with the same values."""
    return RunRecord(*_run_values(run))


def copy_step(step: StepRecord) -> StepRecord:
    """A step of its own with the same values."""
    return StepRecord(*step_values(step))


class HistoryEntry(NamedTuple):
    """One line of a run's history.

    `kind` is `attempt_failed`, `attempt_lost`, `handed_back`, `cancel`, `suspend`, `resume`,
    `signal`, `decision`, `retry` or `fork`; `data` is JSON text. `step` is a step's key; of a
    signal it is the name.
    """

    kind: str
    step: str | None = None
    attempt: int | None = None
    data: str | None = None
    at_us: int = 0


class LoadedRun(NamedTuple):
    """All that a replay needs, read in one go."""

    run: RunRecord
    steps: tuple[StepRecord, ...]
    fault: Exception | None = None  # why the steps cannot be read


class Job(NamedTuple):
    """A step that a worker has claimed: `running` in its name, or still `scheduled` where an
    attempt was lost before, so that nothing counts before the body begins (`BeginStep`)."""

    run_id: str
    workflow: str
    step: StepRecord


# --- operations: what one batch is made of -----------------------------------------


class StepWrite(NamedTuple):
    """A step's new state inside a `Commit`; the store adds times, worker and delivery number.

    `wait_us` asks for a timer that far from the store's now, `until_us` for one at that time.
    `deliver` marks an outcome that the run's function sees: it gets the next delivery number.
    A `scheduled` step with a `queue` becomes a job there, at once or when its time has come.
    `known` is when the step was asked for and when its attempt began, where the run's owner has
    seen all of its life: a store may take such a write for the whole record, without a look at
    what is there.
    """

    key: str
    position: int
    kind: StepKindName
    target: str
    status: StepStatus
    attempt: int
    failures: int
    lost: int
    digest: str
    input: str | None
    result: str | None
    error: str | None
    wait_us: int | None
    until_us: int | None
    deliver: bool
    queue: str | None = None
    job: str | None = None
    handled: bool = False
    known: tuple[int, int] | None = None
    after: int = 0


class Settle(NamedTuple):
    """How a run leaves its owner: final, suspended, or parked (`running`). `withdraw` says that
    the run has jobs or children under way, which nobody wants any more. A run that was asked to
    unwind meanwhile is queued instead of being suspended, unless its owner knows that it is
    `unwinding`."""

    status: RunStatus
    output: str | None = None
    error: str | None = None
    reason: str | None = None
    withdraw: bool = False
    unwinding: bool = False


class CreateRun(NamedTuple):
    """Create a run, or find the one that has this id. Claimed for the calling session at once
    when `claim`, else queued; with `delay_us`, queued that far from now.

    With a `job`, which is scheduled on a queue, the run is that job: nobody owns it, and a delay is
    the job's own.
    """

    run_id: str
    workflow: str
    input: str
    version: str
    inline: bool
    claim: bool
    tags: tuple[str, ...]
    started_by: str | None
    timeout_us: int | None
    parent: str | None = None
    parent_step: str | None = None
    depth: int = 0
    pinned: bool = False
    delay_us: int | None = None
    traceparent: str | None = None
    job: StepWrite | None = None


class Commit(NamedTuple):
    """One turn of a run, written whole or not at all. Fence: the session owns the run.

    `turn` is the run's last turn plus one; the same turn again is a repeat and changes nothing.
    `base` is how many outcomes the function had been given before those in `ends`. When the store
    has recorded others meanwhile, nothing is written and the answer is `conflict`: the function
    saw an order that is not the recorded one, so it is replayed and its outcomes come again.
    None where the order no longer matters: the function has ended, or is stopped. A run that would
    park (`settle.status` is `running`) while a word for it is waiting is a `conflict`, too.

    A signal step among `asks` takes the oldest signal of its name that waits in the run, at once.
    `children` are the runs that child steps among `asks` wait for. `calls_off` are waits and
    children that the function has given up: what is open ends as failed without being delivered, a
    child is asked to unwind, and a signal that was taken in vain waits again.
    """

    run_id: str
    turn: int
    base: int | None
    ends: Sequence[StepWrite]
    asks: Sequence[StepWrite]
    history: Sequence[HistoryEntry] = ()
    settle: Settle | None = None
    cancel_reason: str | None = None
    children: Sequence[CreateRun] = ()
    calls_off: Sequence[str] = ()


class CompleteStep(NamedTuple):
    """Record an outcome for a run that the session need not own. Fence: the step's lease: it is
    running this attempt in this session.

    A failure with `retry_us` is followed by another attempt that far from now, unless the run has
    been asked to unwind. A failure of a step that is `handled` wakes the run without being
    delivered: its handler comes first. The outcome of a job ends its run; with `forget`, a run that
    completes so is removed, and one that is gone has had its outcome.
    """

    run_id: str
    key: str
    attempt: int
    status: Literal["succeeded", "failed"]
    result: str | None
    error: str | None
    retry_us: int | None = None
    forget: bool = False


class BeginStep(NamedTuple):
    """Say that the body of a claimed job begins now. Fence: the session has claimed it."""

    run_id: str
    key: str
    attempt: int


class ReleaseStep(NamedTuple):
    """Give a claimed job back to its queue, unfinished; it counts as nothing. `wait_us` puts the
    next attempt off. Fence: the session has claimed it."""

    run_id: str
    key: str
    attempt: int
    wait_us: int | None = None


class ReportProgress(NamedTuple):
    """Keep what a running attempt says of itself. Fence: the step's lease, or the run's."""

    run_id: str
    key: str
    attempt: int
    progress: str


class WatchRun(NamedTuple):
    """Have the session told (`Delivery`, `ended`) when the run is final. If it is already, the
    answer is `settled` with the run."""

    run_id: str


class RequeueRun(NamedTuple):
    """Give an unfinished run a next action wherever it has none: a queue entry, jobs and timers
    that its records call for. What has one keeps it; a job that is there twice is granted once."""

    run_id: str


class CancelRun(NamedTuple):
    """Ask a run to unwind, and its children with it. A run that no one executes is queued, so that
    somebody does.

    With `forced`, the error (JSON text) of its end, a run that is suspended ends at once without
    unwinding; the first reason stands. A job that has not begun ends at once with that error; one
    that has is asked to stop, and gets no further attempt.
    """

    run_id: str
    reason: str
    kind: CancelKind = "cancel"
    forced: str | None = None


class ResumeRun(NamedTuple):
    """Open a suspended run; what it asked to be suspended at has happened then. Where it was
    imported, it may take `timeout_us` from now on."""

    run_id: str
    timeout_us: int | None = None


class SignalRun(NamedTuple):
    """Send a signal to a run that has not ended: to the oldest step that waits for one of its name,
    else it waits in the run. The same `signal_id` again changes nothing."""

    run_id: str
    signal_id: str
    name: str
    payload: str


class DecideStep(NamedTuple):
    """End an approval that is open: `decision` (JSON text) is its result. `decided` where it has
    ended with another one."""

    run_id: str
    key: str
    decision: str


class PutRun(NamedTuple):
    """Write a whole run: a new one (`expected` is None), or a failed one over again.

    The failed run must have its steps in the (key, attempt, status) that are `expected`, else the
    answer is `conflict`, and be one `run_attempt` behind `run`. A run whose status is `running` is
    queued; what is scheduled with a due time gets its timer, the run one `timeout_us` from now.
    """

    run: RunRecord
    steps: Sequence[StepRecord]
    history: Sequence[HistoryEntry]
    expected: Sequence[tuple[str, int, StepStatus]] | None = None
    timeout_us: int | None = None

    @property
    def run_id(self) -> str:
        return self.run.run_id


class DeleteRun(NamedTuple):
    """Remove a run that has ended, with everything that is recorded of it."""

    run_id: str


class Advertise(NamedTuple):
    """Say which workflows the session can execute (`workflow@version`), instead of what it said
    before. It must say so again after its lease was lost."""

    holds: Sequence[str]


class HandRun(NamedTuple):
    """Make another live session that advertises one of `wanted`, the first best, the owner of a
    run, and tell it so. Fence: the session owns the run."""

    run_id: str
    wanted: Sequence[str]


class ReleaseRun(NamedTuple):
    """Give a run back to the queue, unfinished. Fence: the session owns the run."""

    run_id: str


class FireTimers(NamedTuple):
    """Let due timers fire, at most `limit`."""

    limit: int = 500


class ReapSessions(NamedTuple):
    """Take the runs and jobs of expired sessions away and queue them, at most `limit`.

    A job whose body had begun has lost an attempt; the `max_lost`-th ends the step with the error
    `poisoned` (JSON text).
    """

    limit: int = 200
    max_lost: int = 3
    poisoned: str = "{}"


Op = (
    CreateRun
    | Commit
    | CompleteStep
    | BeginStep
    | ReleaseStep
    | ReportProgress
    | CancelRun
    | ResumeRun
    | ReleaseRun
    | RequeueRun
    | WatchRun
    | SignalRun
    | DecideStep
    | PutRun
    | DeleteRun
    | Advertise
    | HandRun
    | FireTimers
    | ReapSessions
)

OpCode = Literal[
    "ok",
    "exists",
    "conflict",
    "fenced",
    "not_found",
    "settled",
    "not_suspended",
    "error",
    "not_failed",
    "not_ended",
    "decided",
    "nobody",
]


class OpResult(NamedTuple):
    """What became of one operation.

    `run` is set for `CreateRun`: the new run, or the one that was there (`exists`); and for a
    `WatchRun` that is `settled`. `error` is set for `error`: that operation failed alone.
    """

    code: OpCode
    run: RunRecord | None = None
    error: Exception | None = None


class Delivery(NamedTuple):
    """Word for a session.

    For the owner of a run: `step`, an outcome recorded by somebody else; `cancel`, a request to
    unwind (`key` is its kind, `error` the reason); `retry`, an attempt that has become due;
    `handle`, a last failure that its handler has to see first, or how that handler ended; `hand`,
    the run is the session's from now on. For whoever executes a step: `stop`, its run unwinds. For
    whoever watches a run: `ended` (`key` is the reason, `result` the output). `number` is the place
    in the run's order of what the function will see, else 0.
    """

    run_id: str
    number: int
    key: str
    what: Literal["step", "cancel", "retry", "handle", "stop", "ended", "hand"]
    status: StepStatus | RunStatus | None = None
    result: str | None = None
    error: str | None = None
    attempt: int = 1


NOT_ASKED = -1


class Reply(NamedTuple):
    """The answer to one batch.

    `next_due_us` is the time of the next timer, or when to ask again for what the limits of a queue
    hold back; None without one, `NOT_ASKED` where the store had no reason to look. `more` are the
    wanted queues that may hold more than was claimed.
    """

    results: list[OpResult]
    claimed: Sequence[LoadedRun] = ()
    inbox: Sequence[Delivery] = ()
    next_due_us: int | None = None
    session_alive: bool = True
    jobs: Sequence[Job] = ()
    more: Sequence[str] = ()


class Examination(NamedTuple):
    """What could move a run, as the store has it now: leases by session (until when), runs and jobs
    in queues, timers by run, key and kind."""

    now_us: int
    sessions: Mapping[str, int]
    queued: frozenset[str]
    jobs: frozenset[tuple[str, str, int]]
    timers: frozenset[tuple[str, str, str]]
    unreadable: Mapping[str, str] = {}


class Holdings(NamedTuple):
    """What a store takes a session to hold: the runs that it owns, and the jobs that it has claimed
    (run and step key)."""

    runs: frozenset[str]
    jobs: frozenset[tuple[str, str]]


class RunFilter(NamedTuple):
    """Which runs to list, newest first unless `oldest_first`. `None` means any, and leaves the jobs
    of queues out: those are listed by the name of their `workflow`.

    `before_us` and `after_us` bound when the run was created (from `after_us` on),
    `ended_before_us` when it ended. `text` is found in its id, workflow, tags, starter or error.
    """

    workflow: str | None = None
    status: RunStatus | None = None
    tag: str | None = None
    limit: int = 50
    before_us: int | None = None
    after_us: int | None = None
    ended_before_us: int | None = None
    text: str | None = None
    oldest_first: bool = False


def fits(run: RunRecord, wanted: RunFilter) -> bool:
    """Whether *run* is among what is *wanted*."""
    text = wanted.text
    return (
        (run.workflow == wanted.workflow if wanted.workflow is not None else not is_job(run))
        and (wanted.status is None or run.status == wanted.status)
        and (wanted.tag is None or wanted.tag in run.tags)
        and (wanted.before_us is None or run.created_us < wanted.before_us)
        and (wanted.after_us is None or run.created_us >= wanted.after_us)
        and (
            wanted.ended_before_us is None
            or (run.finished_us is not None and run.finished_us < wanted.ended_before_us)
        )
        and (
            not text
            or text in run.run_id
            or text in run.workflow
            or any(text in tag for tag in run.tags)
            or text in (run.started_by or "")
            or text in (run.error or "")
        )
    )
