"""Jobs: steps that cross a queue, packed by a run's owner and executed by whoever claims them."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any, NamedTuple

from pikku._bodies import ALONE_AT_MOST_SECONDS, Attempt, Bodies, End, Plan
from pikku._contexts import to_nobody
from pikku._functions import Func, Registry
from pikku._payloads import refuse_sealed
from pikku._records import (
    BeginStep,
    CompleteStep,
    Delivery,
    Job,
    Op,
    OpResult,
    ReleaseStep,
    StepRecord,
)
from pikku._retry import Backoff, StepPolicy
from pikku._telemetry import NOBODY, Observer

if TYPE_CHECKING:
    from pikku._replay import Ask

log = logging.getLogger("pikku")

# A process that lacks a job's function gives it back, and leaves it to others for this long: twice
# as long each time, as it may be that none has it.
LEFT_TO_OTHERS = Backoff.exponential("1s", cap="1min", jitter=0.0)


def pack_job(ask: Ask, traceparent: str | None = None) -> str | None:
    """What a worker must know of a step besides its record; None where the record says it all."""
    plan: Plan = ask.plan
    said: dict[str, Any] = {}
    if ask.name != ask.key:
        said["name"] = ask.name
    if plan.func is not None and plan.policy is not plan.func.policy:
        said["policy"] = _packed_policy(plan.policy)
    if plan.data != ask.input:
        said["data"] = plan.data
    if ask.kind == "on_error":
        said["where"] = plan.where
    if traceparent is not None:
        said["traceparent"] = traceparent
    return json.dumps(said, ensure_ascii=False) if said else None


def job_text(
    func: Func[Any, Any],
    policy: StepPolicy,
    *,
    keep: bool,
    traceparent: str | None = None,
) -> str:
    """What a worker must know of a job besides its record.

    Args:
        policy: the function's own, or another one.
        keep: whether its run is kept once it has completed.
    """
    said: dict[str, Any] = {"name": func.name}
    if policy is not func.policy:
        said["policy"] = _packed_policy(policy)
    if keep:
        said["keep"] = True
    if traceparent is not None:
        said["traceparent"] = traceparent
    return json.dumps(said, ensure_ascii=False)


def _packed_policy(policy: StepPolicy) -> list[Any]:
    backoff = policy.backoff
    times = (backoff.base_us, backoff.factor, backoff.cap_us, backoff.jitter)
    return [policy.retries, *times, policy.timeout_us]


class Ticket(NamedTuple):
    """What a step's record and its job say of one attempt; stands where a live run has an ask."""

    key: str
    name: str
    kind: str


class Unpacked(NamedTuple):
    """What a step's record and its job say to whoever executes it.

    `forget` says that it is a job which is gone once it has completed, `traceparent` to which trace
    it belongs.
    """

    plan: Plan
    name: str
    forget: bool
    traceparent: str | None


def _left_to_others_us(step: StepRecord) -> int:
    """For how long others are asked first, by how often it was given back before."""
    return LEFT_TO_OTHERS.delay_us(max(step.attempt - step.failures - step.lost, 1), 0.0)


class ClaimedJob:
    """One attempt of a job in this process."""

    __slots__ = (
        "ask",
        "attempt",
        "begun",
        "called_off",
        "failures",
        "forget",
        "lost",
        "plan",
        "queue",
        "report",
        "requested",
        "run_id",
        "traceparent",
        "workflow",
    )

    def __init__(self, job: Job, said: Unpacked) -> None:
        step = job.step
        self.run_id = job.run_id
        self.workflow = job.workflow
        self.queue = step.queue
        self.traceparent = said.traceparent
        self.ask = Ticket(step.key, said.name, step.kind)
        self.plan = said.plan
        self.attempt = step.attempt
        self.failures = step.failures
        self.lost = step.lost
        self.begun = step.status == "running"
        self.forget = said.forget
        self.requested = False  # asked to stop, by a timeout or a cancel
        self.called_off = False  # the run was cancelled: no further attempt
        self.report: Callable[[float, str], None] = to_nobody

    @property
    def fields(self) -> dict[str, Any]:
        """What a log record says of it."""
        return {
            "run_id": self.run_id,
            "workflow": self.workflow,
            "step": self.ask.name,
            "attempt": self.attempt,
        }


def unpack_job(step: StepRecord, registry: Registry) -> Unpacked:
    """What executes a claimed step, and how.

    Raises:
        UnknownFunctionError: if this process does not have its function.
        SealError: if this process cannot open what it is given.
    """
    for text in (step.job, step.input):
        if text is not None:
            refuse_sealed(text, f"step {step.key!r}")
    said: dict[str, Any] = json.loads(step.job) if step.job else {}
    func = registry.function(step.target)
    policy = func.policy
    if "policy" in said:
        retries, base_us, factor, cap_us, jitter, timeout_us = said["policy"]
        policy = StepPolicy(retries, Backoff(base_us, factor, cap_us, jitter), timeout_us)
    name: str = said.get("name", step.key)
    where: str = said.get("where", f"step {name!r}")
    data: str | None = said.get("data", step.input)
    plan = Plan(func, None, data, func.declaration.output, policy, None, where)
    forget = step.kind == "job" and not said.get("keep", False)
    return Unpacked(plan, name, forget, said.get("traceparent"))


class Jobs:
    """The jobs that this process has claimed.

    Args:
        registry: where their functions are.
        bodies: executes them.
        submit: sends an operation with the next commit.
        begin: begins the body of an attempt.
        on_execute, on_recorded: told of (key, name) when a body begins, and when it is recorded.
        clock: seconds, as the host's loop counts them.
        later: calls something so many of them from now.
        observer: told of what is tried again, and of what is refused.
    """

    def __init__(
        self,
        registry: Registry,
        bodies: Bodies,
        *,
        submit: Callable[[Op, Callable[[OpResult], None]], None],
        begin: Callable[[ClaimedJob, Attempt], None],
        on_execute: Callable[[str, str], None],
        on_recorded: Callable[[str, str], None],
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        observer: Observer = NOBODY,
    ) -> None:
        self._registry = registry
        self._observer = observer
        self._bodies = bodies
        self._submit = submit
        self._begin = begin
        self._on_execute = on_execute
        self._on_recorded = on_recorded
        self._held: dict[tuple[str, str], ClaimedJob] = {}
        self._alone: list[ClaimedJob] = []
        self._alone_since = 0.0
        self._asked: ClaimedJob | None = None
        self._clock = clock
        self._later = later
        self._reminded = False
        self._closed = False

    @property
    def count(self) -> int:
        """How many jobs are held."""
        return len(self._held)

    @property
    def held(self) -> Set[tuple[str, str]]:
        """The run and the key of each."""
        return self._held.keys()

    @property
    def open_to_all(self) -> bool:
        """Whether a further job could begin at once."""
        return not self._alone and self._bodies.open_to_all

    def receive(self, jobs: list[Job]) -> None:
        """Execute what was claimed; a step that has lost a worker waits until it is alone."""
        claimed: list[ClaimedJob] = []
        for job in jobs:
            made = self._unpacked(job)
            if made is not None:
                self._held[made.run_id, made.ask.key] = made
                claimed.append(made)
        if not self._alone:
            self._alone_since = self._clock()
        for each in claimed:
            if each.begun:
                self._execute(each, alone=False)
            else:
                self._alone.append(each)
        self.next_alone()

    def _unpacked(self, job: Job) -> ClaimedJob | None:
        step = job.step
        try:
            said = unpack_job(step, self._registry)
        except Exception as error:
            log.error(
                "step %r of run %s cannot be executed here: %s",
                *(step.key, job.run_id, error),
                extra={"run_id": job.run_id, "workflow": job.workflow, "step": step.key},
            )
            self._submit(
                ReleaseStep(job.run_id, step.key, step.attempt, _left_to_others_us(step)),
                lambda result: None,
            )
            return None
        return ClaimedJob(job, said)

    def next_alone(self) -> None:
        """Let the first that must be alone begin, once it would be, or has waited long."""
        if not self._alone or self._asked is not None or self._closed:
            return
        job = self._alone[0]
        wait = self._alone_since + ALONE_AT_MOST_SECONDS - self._clock()
        if self._bodies.busy and wait > 0:
            if not self._reminded:
                self._reminded = True
                self._later(wait, self._remind)
            return
        self._asked = job

        def begun(result: OpResult) -> None:
            self._asked = None
            if job in self._alone:
                self._alone.remove(job)
            self._alone_since = self._clock()
            if result.code == "ok" and self._held.get((job.run_id, job.ask.key)) is job:
                job.begun = True
                self._execute(job, alone=True)
            else:
                self._forget(job)
                self._give_back(job, result)

        self._submit(BeginStep(job.run_id, job.ask.key, job.attempt), begun)

    def _remind(self) -> None:
        """Others may go on for longer than anybody has to wait for them."""
        self._reminded = False
        self.next_alone()

    def _execute(self, job: ClaimedJob, *, alone: bool) -> None:
        self._on_execute(job.ask.key, job.ask.name)
        attempt = Attempt(job.plan, functools.partial(self._ended, job), job)
        self._bodies.start(attempt, functools.partial(self._begin, job), alone)

    def _ended(self, job: ClaimedJob, end: End) -> None:
        if self._held.get((job.run_id, job.ask.key)) is not job:
            return
        retry_us: int | None = None
        policy = job.plan.policy
        if (
            end.failed
            and not end.final
            and not job.called_off
            and policy.allows_another(job.failures + 1)
        ):
            retry_us = end.after_us
            if retry_us is None:
                retry_us = policy.delay_us(job.failures + 1)
            if job.plan.func is not None:
                self._observer.retrying(job.plan.func.name)
        self._submit(
            CompleteStep(
                job.run_id,
                job.ask.key,
                job.attempt,
                "failed" if end.failed else "succeeded",
                end.text,
                end.error.to_json() if end.error else None,
                retry_us,
                job.forget,
            ),
            functools.partial(self._completed, job, retry_us is None),
        )

    def _completed(self, job: ClaimedJob, last: bool, result: OpResult) -> None:
        key = job.ask.key
        self._forget(job)
        if result.code == "ok":
            if last:
                self._on_recorded(key, job.ask.name)
        elif result.code == "error":
            log.error(
                "step %r of run %s cannot be recorded: %s",
                *(key, job.run_id, result.error),
                extra=job.fields,
            )
            self._give_back(job, result)
        else:
            self._observer.refused()
            log.warning(
                "step %r of run %s: a late outcome was refused",
                *(key, job.run_id),
                extra=job.fields,
            )

    def _forget(self, job: ClaimedJob) -> None:
        place = (job.run_id, job.ask.key)
        if self._held.get(place) is job:
            del self._held[place]
        self.next_alone()

    def _give_back(self, job: ClaimedJob, result: OpResult) -> None:
        """The store has refused what was said of a job: it is still ours, and goes to others."""
        if result.code == "error" and not self._closed:
            self._submit(
                ReleaseStep(job.run_id, job.ask.key, job.attempt, LEFT_TO_OTHERS.base_us),
                lambda result: None,
            )

    def stop(self, delivery: Delivery) -> None:
        """The run of a job unwinds: its attempt may stop."""
        job = self._held.get((delivery.run_id, delivery.key))
        if job is not None and job.attempt == delivery.attempt:
            job.requested = job.called_off = True
            self._bodies.called_off(job)

    def hand_back(self, *, begun: bool) -> None:
        """Give jobs back to their queues: those that have not begun, and with *begun* the rest."""
        for place, job in list(self._held.items()):
            if job.begun and not begun:
                continue
            if job in self._alone:
                self._alone.remove(job)
            job.requested = True
            self._bodies.called_off(job, hard=True)
            del self._held[place]
            self._submit(ReleaseStep(job.run_id, job.ask.key, job.attempt), lambda result: None)

    def drop(self) -> None:
        """Forget every job without a word: others have them now."""
        held = list(self._held.values())
        self._held.clear()
        self._alone.clear()
        for job in held:
            job.requested = True
            self._bodies.called_off(job, hard=True)

    def close(self) -> None:
        """Begin nothing more."""
        self._closed = True
