"""A short model of the jobs of queues against the stores: any operations, in any order, by any
session, with answers lost and repeated."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.servers.fixtures import PostgresServers, RedisServers

from pikku._diagnosis import Symptom, diagnose
from pikku._records import (
    JOB_KEY,
    BeginStep,
    CancelRun,
    CompleteStep,
    CreateRun,
    DeleteRun,
    FireTimers,
    HistoryEntry,
    LoadedRun,
    Op,
    PutRun,
    ReapSessions,
    ReleaseStep,
    Reply,
    RequeueRun,
    StepStatus,
)
from pikku.stores import make_store
from pikku.stores.base import JOBS, Store
from pikku.stores.lanes import Place, QueueLimits, lane_of
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import LEASE_US
from pikku.testing.store_contract_queues import FAILED, QUEUE, new_job

SESSIONS = st.sampled_from(["s1", "s2", "s3"])
IDS = st.sampled_from(["a", "b", "c", "d", "e"])
WAITS = st.sampled_from([None, None, LEASE_US // 3])
FINAL = ("completed", "failed", "cancelled")
MAX_LOST = 2
PER_US = LEASE_US // 2
LIMITS = st.sampled_from(
    [
        QueueLimits(),
        QueueLimits(concurrency=2),
        QueueLimits(group_concurrency=1),
        QueueLimits(concurrency=3, group_concurrency=1),
        QueueLimits(rate=2, per_us=PER_US),
        QueueLimits(concurrency=2, group_concurrency=1, rate=3, per_us=PER_US),
    ]
)


class ModelJob:
    """What the model knows of a job: its place, and where it is in its life."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.status = "scheduled"
        self.attempt = 1
        self.failures = 0
        self.lost = 0
        self.worker: str | None = None
        self.due: int | None = None
        self.fired = True
        self.cancelled = False
        self.run_attempt = 1
        self.run = "running"

    def put(self, attempt: int, now: int, wait_us: int | None) -> None:
        """It waits for its next attempt."""
        self.status, self.attempt, self.worker = "scheduled", attempt, None
        self.due = now + wait_us if wait_us else None
        self.fired = self.due is None

    def end(self, status: Literal["succeeded", "failed"]) -> None:
        self.status = status
        good = status == "succeeded"
        self.run = "completed" if good else "cancelled" if self.cancelled else "failed"

    @property
    def held(self) -> bool:
        return self.worker is not None and self.run == "running"

    @property
    def shown(self) -> tuple[object, ...]:
        counts = (self.attempt, self.failures, self.lost, self.run_attempt)
        return (self.run, self.status, self.worker, *counts)


class QueueMachine(RuleBasedStateMachine):
    """Compares the jobs of a store with the model after every operation."""

    new_url: ClassVar[list[Callable[[], str]]]  # one, in a list so that it does not bind

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.folder = tempfile.TemporaryDirectory()
        self.jobs: dict[str, ModelJob] = {}
        self.leases: dict[str, int] = {}
        self.reaped: set[str] = set()
        self.opened, self.begun = -PER_US, 0
        self.last: tuple[str, Op] | None = None

    @initialize(limits=LIMITS)
    def open(self, limits: QueueLimits) -> None:
        made = make_store(self.new_url[0](), base=Path(self.folder.name), clock=self.clock)
        self.store: Store = made
        self.runner.run(made.open())
        self.limits = limits
        made.limit_queue(QUEUE, limits)
        for session in ("s1", "s2"):
            self.beat(session)

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.see_the_doctor()
                self.everything_ends()
        finally:
            if hasattr(self, "store"):
                self.runner.run(self.store.close())
            self.runner.close()
            self.folder.cleanup()

    def see_the_doctor(self) -> None:
        assert {each.kind for _, each in self.symptoms()} <= {"left_behind"}
        self.store.beat("doctor", LEASE_US)
        self.apply("doctor", ReapSessions(limit=100, max_lost=MAX_LOST, poisoned=FAILED))
        assert not self.symptoms()

    def symptoms(self) -> list[tuple[str, Symptom]]:
        found = self.runner.run(self.store.examine())
        loaded = [self.load(job_id) for job_id in self.jobs]
        return [
            (run.run.run_id, symptom)
            for run in loaded
            if run is not None
            for symptom in diagnose(run, found)
        ]

    def everything_ends(self) -> None:
        """Whatever is left is claimed and done in time, by whoever asks often enough."""
        for _ in range(40):
            self.clock.move_to(self.clock.now_us() + LEASE_US)
            self.store.beat("last", 10 * LEASE_US)
            ops: list[Op] = [ReapSessions(max_lost=MAX_LOST, poisoned=FAILED), FireTimers()]
            reply = self.send("last", ops, {JOBS + QUEUE: 1})
            for job in reply.jobs:
                attempt = job.step.attempt
                begin, end = (
                    BeginStep(job.run_id, JOB_KEY, attempt),
                    CompleteStep(job.run_id, JOB_KEY, attempt, "succeeded", "1", None, forget=True),
                )
                done = self.send("last", [begin, end], {})
                assert [result.code for result in done.results] == ["ok", "ok"]
        left = [self.load(job_id) for job_id in self.jobs]
        assert [run for run in left if run is not None and run.run.status not in FINAL] == []
        assert self.runner.run(self.store.count_jobs()) == {}

    # --- words ----------------------------------------------------------------------------------

    def send(self, session: str, ops: list[Op], want: dict[str, int]) -> Reply:
        return self.runner.run(self.store.apply(session, ops, want))

    def apply(self, session: str, op: Op) -> str:
        return self.send(session, [op], {}).results[0].code

    def say(self, session: str, op: Op, code: str) -> None:
        self.last = session, op
        assert self.apply(session, op) == code
        self.check()

    def load(self, job_id: str) -> LoadedRun | None:
        return self.runner.run(self.store.load_steps(job_id))

    def check(self) -> None:
        for job_id in ("a", "b", "c", "d", "e"):
            found, loaded = self.jobs.get(job_id), self.load(job_id)
            if found is None or loaded is None:
                assert (found, loaded) == (None, None)
                continue
            run, (step,) = loaded.run, loaded.steps
            assert (run.owner, run.queued) == (None, False)
            counts = (step.attempt, step.failures, step.lost, run.run_attempt)
            assert (run.status, step.status, step.worker, *counts) == found.shown
            assert step.queue == lane_of(found.place)
            assert (run.finished_us is None) == (run.status == "running")

    def alive(self, session: str | None) -> bool:
        return session is not None and self.leases.get(session, -1) >= self.clock.now_us()

    def whoever(self, session: str, job_id: str, holder: bool) -> str:
        found = self.jobs.get(job_id)
        return found.worker if holder and found is not None and found.worker else session

    # --- sessions and time ----------------------------------------------------------------------

    @rule(session=SESSIONS)
    def beat(self, session: str) -> None:
        alive = self.store.beat(session, LEASE_US)
        assert alive == (session not in self.reaped)
        if alive:
            self.leases[session] = self.clock.now_us() + LEASE_US

    @rule(us=st.sampled_from([1, LEASE_US // 3, LEASE_US + 1]), beating=st.sets(SESSIONS))
    def time_passes(self, us: int, beating: set[str]) -> None:
        for session in sorted(beating):
            self.beat(session)
        self.clock.move_to(self.clock.now_us() + us)

    @rule(session=SESSIONS)
    def fire(self, session: str) -> None:
        for found in self.jobs.values():
            if found.due is not None and found.due <= self.clock.now_us():
                found.fired = True
        self.say(session, FireTimers(), "ok")

    @rule(session=SESSIONS)
    def reap(self, session: str) -> None:
        now = self.clock.now_us()
        if self.leases.get(session, now) < now:
            return  # whether it takes away from itself is not promised
        for dead in [each for each, until in self.leases.items() if until < now]:
            del self.leases[dead]
            self.reaped.add(dead)
            for found in self.jobs.values():
                if found.worker != dead or found.run != "running":
                    continue
                if found.status == "scheduled":
                    found.put(found.attempt, now, None)
                    continue
                found.lost += 1
                if found.cancelled or found.lost >= MAX_LOST:
                    found.end("failed")
                else:
                    found.put(found.attempt + 1, now, None)
        self.say(session, ReapSessions(max_lost=MAX_LOST, poisoned=FAILED), "ok")

    # --- jobs -----------------------------------------------------------------------------------

    @rule(
        session=SESSIONS,
        job_id=IDS,
        priority=st.sampled_from([0, 0, 1, 9]),
        group=st.sampled_from(["", "g", "h"]),
        wait_us=WAITS,
    )
    def add(
        self, session: str, job_id: str, priority: int, group: str, wait_us: int | None
    ) -> None:
        op = new_job(job_id, priority=priority, group=group, delay_us=wait_us)
        there = job_id in self.jobs
        if not there:
            made = self.jobs[job_id] = ModelJob(Place(QUEUE, priority, group))
            made.put(1, self.clock.now_us(), wait_us)
        self.say(session, op, "exists" if there else "ok")

    @rule(session=SESSIONS, count=st.integers(1, 3))
    def claim(self, session: str, count: int) -> None:
        reply = self.send(session, [], {JOBS + QUEUE: count})
        if session not in self.leases:
            assert list(reply.jobs) == []
            return
        got = [job.run_id for job in reply.jobs]
        waiting = {
            job_id: found
            for job_id, found in self.jobs.items()
            if (found.run, found.status, found.worker) == ("running", "scheduled", None)
            and found.fired
        }
        assert set(got) <= set(waiting), "granted twice, before its time or after its end"
        allowed = self.allowed(waiting, count)
        assert len(got) == allowed
        left = [found.place.priority for each, found in waiting.items() if each not in got]
        if got and left and self.limits.group_concurrency is None:
            assert min(waiting[each].place.priority for each in got) >= max(left)
        if left and allowed < count:
            due, now = reply.next_due_us, self.clock.now_us()
            assert due is not None
            assert due <= now + max(PER_US, 250_000)
        for job in reply.jobs:
            found = self.jobs[job.run_id]
            found.worker = session
            found.status = "scheduled" if found.lost else "running"
        if self.limits.rate is not None and got:
            opened, begun = self.window()
            self.opened, self.begun = opened, begun + len(got)
        self.limits_are_kept()
        self.check()

    def allowed(self, waiting: dict[str, ModelJob], count: int) -> int:
        """How many of those that wait have to be granted."""
        held = [found.place.group for found in self.jobs.values() if found.held]
        limits = self.limits
        if limits.concurrency is not None:
            count = min(count, max(0, limits.concurrency - len(held)))
        if limits.rate is not None:
            count = min(count, limits.rate - self.window()[1])
        groups = Counter(found.place.group for found in waiting.values())
        most, busy = limits.group_concurrency, Counter(held)
        fit = sum(
            number if not group or most is None else min(number, max(0, most - busy[group]))
            for group, number in groups.items()
        )
        return min(count, fit)

    def window(self) -> tuple[int, int]:
        """When the window under way opened, which the first job that is claimed in it does, and
        how many were."""
        now = self.clock.now_us()
        over = now >= self.opened + self.limits.per_us
        return (now, 0) if over else (self.opened, self.begun)

    def limits_are_kept(self) -> None:
        held = [found.place.group for found in self.jobs.values() if found.held]
        limits = self.limits
        assert limits.concurrency is None or len(held) <= limits.concurrency
        counts = Counter(group for group in held if group)
        most = limits.group_concurrency
        assert most is None or all(count <= most for count in counts.values())

    @rule(session=SESSIONS, job_id=IDS, holder=st.booleans(), skew=st.sampled_from([0, 0, 0, -1]))
    def begin(self, session: str, job_id: str, holder: bool, skew: int) -> None:
        session, found = self.whoever(session, job_id, holder), self.jobs.get(job_id)
        attempt = max(1, (found.attempt if found else 1) + skew)
        op = BeginStep(job_id, JOB_KEY, attempt)
        if found is None:
            self.say(session, op, "not_found")
        elif found.held and (found.worker, found.attempt) == (session, attempt):
            found.status = "running"
            self.say(session, op, "ok")
        else:
            self.say(session, op, "fenced")

    @rule(
        session=SESSIONS,
        job_id=IDS,
        good=st.booleans(),
        retry_us=st.sampled_from([None, 0, LEASE_US // 3]),
        forget=st.booleans(),
        holder=st.sampled_from([True, True, True, False]),
        skew=st.sampled_from([0, 0, 0, -1]),
    )
    def complete(
        self,
        session: str,
        job_id: str,
        good: bool,
        retry_us: int | None,
        forget: bool,
        holder: bool,
        skew: int,
    ) -> None:
        session, found = self.whoever(session, job_id, holder), self.jobs.get(job_id)
        attempt = max(1, (found.attempt if found else 1) + skew)
        status: Literal["succeeded", "failed"] = "succeeded" if good else "failed"
        retry_us = None if good else retry_us
        error = None if good else FAILED
        result = '"well"' if good else None
        op = CompleteStep(job_id, JOB_KEY, attempt, status, result, error, retry_us, forget)
        self.say(session, op, self.repeated(session, found, op))

    def completed(self, session: str, found: ModelJob | None, op: CompleteStep) -> str:
        """What is said to an outcome, and what becomes of the job."""
        if found is None:
            return "ok" if op.forget else "not_found"
        mine = (found.attempt, found.worker) == (op.attempt, session)
        if found.run in FINAL:
            return "ok" if mine and found.status in ("succeeded", "failed") else "fenced"
        if not (mine and found.status == "running"):
            return "fenced"
        if op.status == "failed":
            found.failures += 1
            if op.retry_us is not None and not found.cancelled:
                found.put(op.attempt + 1, self.clock.now_us(), op.retry_us)
                return "ok"
        elif op.forget:
            del self.jobs[op.run_id]
            return "ok"
        found.end(op.status)
        return "ok"

    @rule(session=SESSIONS, job_id=IDS, wait_us=WAITS, holder=st.sampled_from([True, True, False]))
    def release(self, session: str, job_id: str, wait_us: int | None, holder: bool) -> None:
        session, found = self.whoever(session, job_id, holder), self.jobs.get(job_id)
        op = ReleaseStep(job_id, JOB_KEY, 1 if found is None else found.attempt, wait_us)
        if found is None:
            self.say(session, op, "not_found")
        elif not found.held or found.worker != session:
            self.say(session, op, "fenced")
        else:
            if found.cancelled:
                found.end("failed")
            else:
                begun = found.status == "running"
                found.put(found.attempt + begun, self.clock.now_us(), wait_us)
            self.say(session, op, "ok")

    @rule(session=SESSIONS, job_id=IDS, forced=st.booleans())
    def cancel(self, session: str, job_id: str, forced: bool) -> None:
        found = self.jobs.get(job_id)
        op = CancelRun(job_id, "why", forced=FAILED if forced else None)
        if found is None:
            self.say(session, op, "not_found")
        elif found.run in FINAL:
            self.say(session, op, "settled")
        else:
            first = not found.cancelled
            found.cancelled = True
            if first and found.status == "scheduled":
                found.worker = None
                found.end("failed")
            self.say(session, op, "ok")

    @rule(session=SESSIONS, job_id=IDS)
    def delete(self, session: str, job_id: str) -> None:
        found = self.jobs.get(job_id)
        if found is None:
            self.say(session, DeleteRun(job_id), "not_found")
        elif found.run not in FINAL:
            self.say(session, DeleteRun(job_id), "not_ended")
        else:
            del self.jobs[job_id]
            self.say(session, DeleteRun(job_id), "ok")

    @rule(session=SESSIONS, job_id=IDS)
    def requeue(self, session: str, job_id: str) -> None:
        found, now = self.jobs.get(job_id), self.clock.now_us()
        if found is None:
            self.say(session, RequeueRun(job_id), "not_found")
            return
        if found.run in FINAL:
            self.say(session, RequeueRun(job_id), "settled")
            return
        if found.worker is None or not self.alive(found.worker):
            if found.cancelled:
                found.worker = found.worker if found.status == "running" else None
                found.end("failed")
            elif found.status == "running":
                found.put(found.attempt + 1, now, None)
            elif found.due is None or found.due <= now:
                found.put(found.attempt, now, None)
        self.say(session, RequeueRun(job_id), "ok")

    @rule(session=SESSIONS, job_id=IDS, late=st.booleans())
    def retry(self, session: str, job_id: str, late: bool) -> None:
        found, loaded = self.jobs.get(job_id), self.load(job_id)
        if found is None or loaded is None or found.run not in FINAL:
            return
        run, (step,) = loaded.run, loaded.steps
        again = replace(
            run,
            status="running",
            run_attempt=run.run_attempt + 1,
            output=None,
            error=None,
            finished_us=None,
            deliveries=0,
        )
        put = replace(
            step,
            status="scheduled",
            attempt=step.attempt + 1,
            failures=0,
            lost=0,
            error=None,
            worker=None,
            due_us=None,
            finished_us=None,
            delivery=None,
        )
        expected: list[tuple[str, int, StepStatus]] = [(JOB_KEY, step.attempt + late, step.status)]
        op = PutRun(again, [put], [HistoryEntry("retry")], expected)
        if found.run != "failed":
            self.say(session, op, "not_failed")
        elif late:
            self.say(session, op, "conflict")
        else:
            found.put(found.attempt + 1, self.clock.now_us(), None)
            found.failures = found.lost = 0
            found.run, found.run_attempt = "running", found.run_attempt + 1
            self.say(session, op, "ok")

    @precondition(lambda self: self.last is not None)
    @rule()
    def repeat(self) -> None:
        """The answer to the last operation was lost, and it is said again."""
        assert self.last is not None
        session, op = self.last
        match op:
            case CompleteStep():
                found = self.jobs.get(op.run_id)
                wanted = self.repeated(session, found, op)
                assert self.apply(session, op) == wanted
            case DeleteRun() | ReleaseStep() | ReapSessions() | RequeueRun():
                return  # a repeat is another one
            case PutRun():
                found = self.jobs.get(op.run_id)
                if found is not None and found.run_attempt == op.run.run_attempt:
                    assert self.apply(session, op) == "ok"
            case BeginStep():
                found = self.jobs.get(op.run_id)
                mine = found is not None and found.held and found.worker == session
                if found is not None and mine and found.attempt == op.attempt:
                    found.status = "running"
                self.apply(session, op)
            case CreateRun() | CancelRun():
                if op.run_id in self.jobs:
                    code = "exists" if isinstance(op, CreateRun) else "ok"
                    assert self.apply(session, op) in (code, "settled")
            case _:
                return
        self.check()

    def repeated(self, session: str, found: ModelJob | None, op: CompleteStep) -> str:
        said = found is not None and found.status == "scheduled" and found.worker is None
        if said and found is not None and op.retry_us is not None:
            if found.attempt == op.attempt + 1 and found.failures:
                loaded = self.load(op.run_id)
                assert loaded is not None
                return "ok" if loaded.steps[0].error == op.error else "fenced"
        return self.completed(session, found, op)


@pytest.mark.timeout(600)  # what breaks the model is made small before it is shown
@pytest.mark.parametrize(
    ("store", "examples"),
    [("memory", 60), ("sqlite", 40), ("redis", 20), ("postgres", 20)],
    ids=["memory", "sqlite", "redis", "postgres"],
)
def test_a_store_does_with_jobs_what_the_model_does(
    store: str, examples: int, request: pytest.FixtureRequest
) -> None:
    new_urls: dict[str, Callable[[], str]] = {
        "memory": lambda: "memory://",
        "sqlite": lambda: "sqlite:///model.db?durability=process",
    }
    if store == "redis":
        servers: RedisServers = request.getfixturevalue("redis_servers")
        new_urls["redis"] = servers.databases().fresh_url
    if store == "postgres":
        made: PostgresServers = request.getfixturevalue("postgres_servers")
        new_urls["postgres"] = made.emptied_url
    new_url: list[Any] = [new_urls[store]]
    machine: type[QueueMachine] = type("Machine", (QueueMachine,), {"new_url": new_url})
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
    )
    case().runTest()
