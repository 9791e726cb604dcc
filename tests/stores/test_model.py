"""A short model of a store against the stores: any operations, in any order, by any session."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.servers.fixtures import PostgresServers, RedisServers

from pikku._diagnosis import Symptom, diagnose
from pikku._records import (
    BeginStep,
    CancelRun,
    Commit,
    CompleteStep,
    FireTimers,
    Op,
    ReapSessions,
    ReleaseRun,
    ReleaseStep,
    Reply,
    ReportProgress,
    RequeueRun,
    ResumeRun,
    Settle,
    StepRecord,
    StepStatus,
    WatchRun,
)
from pikku.stores import make_store
from pikku.stores.base import INLINE_QUEUE, MAIL, ORCHESTRATOR_QUEUE, Store
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import JOB_QUEUE, LEASE_US, job, new_run, turn, write

SESSIONS = st.sampled_from(["s1", "s2", "s3", "s4"])
RUNS = st.sampled_from(["r1", "r2", "r3"])  # r1 is inline, the others are remote
REMOTE = st.sampled_from(["r2", "r3"])
KEYS = st.sampled_from(["a", "b"])
JOBS = st.sampled_from(["j", "k"])
SKEWS = st.sampled_from([0, 0, 0, 0, 1, -1])
WAITS = st.sampled_from([None, None, LEASE_US // 3])
FINAL = ("completed", "failed", "cancelled")
ENDED = ("succeeded", "failed")
MAX_LOST = 2


class ModelJob:
    """What the model knows of a step that crosses a queue.

    `granted`: whether asking for work brings it: "yes", "no", or "maybe" where nothing is promised.
    """

    def __init__(self) -> None:
        self.status = "scheduled"
        self.attempt = 0
        self.failures = 0
        self.lost = 0
        self.worker: str | None = None
        self.delivery: int | None = None
        self.progress: str | None = None
        self.handled = False
        self.wanted = True
        self.granted = "no"
        self.due: int | None = None

    def put(self, attempt: int, now: int, wait_us: int | None, granted: str = "yes") -> None:
        """It waits for its next attempt."""
        self.status = "scheduled"
        self.attempt = attempt
        self.worker = None
        self.progress = None
        self.due = now + wait_us if wait_us else None
        self.granted = granted if self.due is None else "no"

    def shown(self) -> list[Any]:
        counts = [self.attempt, self.failures, self.lost]
        return [self.status, self.worker, self.delivery, *counts, self.progress]


def shown(step: StepRecord) -> list[Any]:
    """What the model compares of a step."""
    found = [step.status, step.worker, step.delivery]
    if step.job is None:
        return found
    return [*found, step.attempt, step.failures, step.lost, step.progress]


class ModelRun:
    """What the model knows of a run."""

    def __init__(self, owner: str | None) -> None:
        self.status = "running"
        self.owner = owner
        self.queued = owner is None
        self.turn = 0
        self.turned_by: str | None = None
        self.deliveries = 0
        self.cancel: str | None = None
        self.steps: dict[str, list[Any]] = {}  # key: status, worker, delivery
        self.naps: dict[str, int] = {}
        self.jobs: dict[str, ModelJob] = {}
        self.watchers: set[str] = set()
        self.mail = 0

    def wake(self) -> None:
        if self.status == "running":
            if self.owner is not None:
                self.mail += 1
            else:
                self.queued = True

    def disown(self) -> None:
        self.owner = None
        self.mail = 0
        self.queued = self.queued or self.status == "running"

    def conclude(self, job: ModelJob, status: str) -> None:
        job.status = status
        if self.status not in FINAL:
            if status == "succeeded" or not job.handled:
                self.deliveries += 1
                job.delivery = self.deliveries
            self.wake()


class StoreMachine(RuleBasedStateMachine):
    """Compares a store with the model after every operation."""

    new_url: ClassVar[list[Callable[[], str]]]  # one, in a list so that it does not bind

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.folder = tempfile.TemporaryDirectory()
        self.runs: dict[str, ModelRun] = {}
        self.leases: dict[str, int] = {}
        self.reaped: set[str] = set()
        self.last: tuple[str, Commit] | None = None
        self.posted: dict[str, list[tuple[str, str, str]]] = {}
        self.reader: str | None = None
        self.read: list[tuple[str, str, str]] = []

    @initialize()
    def open(self) -> None:
        made = make_store(self.new_url[0](), base=Path(self.folder.name), clock=self.clock)
        self.store: Store = made
        self.runner.run(made.open())
        self.beat("s1")
        self.beat("s2")
        self.create("s1", "r1", True)
        self.create("s2", "r2", True)
        self.create("s1", "r3", True)

    def teardown(self) -> None:
        try:
            self.see_the_doctor()
        finally:
            self.close()

    def see_the_doctor(self) -> None:
        """No run has lost what its records say it has; what waits for nothing, as no engine would
        leave it, or was left behind by a process, has its next action after a repair."""
        assert {each.kind for _, each in self.symptoms()} <= {"unattended", "left_behind"}
        self.store.beat("doctor", LEASE_US)
        ops: list[Op] = [ReapSessions(limit=100, max_lost=MAX_LOST)]
        self.runner.run(self.store.apply("doctor", ops, {}))
        again: list[Op] = [RequeueRun(run_id) for run_id, _ in self.symptoms()]
        if again:
            self.runner.run(self.store.apply("doctor", again, {}))
        assert not self.symptoms()

    def symptoms(self) -> list[tuple[str, Symptom]]:
        found = self.runner.run(self.store.examine())
        loaded = [self.runner.run(self.store.load_steps(run_id)) for run_id in self.runs]
        return [
            (run.run.run_id, symptom)
            for run in loaded
            if run is not None
            for symptom in diagnose(run, found)
        ]

    def close(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def apply(self, session: str, op: Op) -> str:
        return self.send(session, [op], {}).results[0].code

    def send(self, session: str, ops: list[Op], want: dict[str, int]) -> Reply:
        reply = self.runner.run(self.store.apply(session, ops, {**want, MAIL: 1}))
        if session in self.leases:
            assert reply.session_alive
        elif not ops:
            assert not reply.session_alive
        called_off = [word for word in reply.inbox if word.what in ("stop", "ended")]
        self.read_mail(session, len(reply.inbox) - len(called_off))
        self.reader = session
        self.read += [(word.what, word.run_id, word.key) for word in called_off]
        return reply

    @invariant()
    def words_come_once(self) -> None:
        """Of the words for executors and watchers, exactly those that are due have come."""
        if self.reader is not None:
            assert sorted(self.read) == sorted(self.posted.pop(self.reader, []))
        self.reader = None
        self.read = []

    def post(self, session: str, what: str, run_id: str, key: str) -> None:
        self.posted.setdefault(session, []).append((what, run_id, key))

    def alive(self, session: str | None) -> bool:
        return session is not None and self.leases.get(session, -1) >= self.clock.now_us()

    def withdraw(self, run_id: str) -> None:
        for key, found in self.runs[run_id].jobs.items():
            if found.status in ENDED or not found.wanted:
                continue
            if found.worker is not None:
                self.post(found.worker, "stop", run_id, key)
            if found.status == "scheduled":
                found.worker = None
                found.wanted = False
                found.granted = "no"

    def read_mail(self, session: str, count: int) -> None:
        owned = [run for run in self.runs.values() if run.owner == session]
        assert count >= sum(run.mail for run in owned)
        for run in owned:
            run.mail = 0

    def check(self, run_id: str) -> None:
        model = self.runs.get(run_id)
        loaded = self.runner.run(self.store.load_steps(run_id))
        if model is None:
            assert loaded is None
            return
        assert loaded is not None
        run = loaded.run
        assert (run.status, run.owner, run.queued, run.turn, run.deliveries, run.cancel_reason) == (
            model.status,
            model.owner,
            model.queued,
            model.turn,
            model.deliveries,
            model.cancel,
        )
        jobs = {key: job.shown() for key, job in model.jobs.items()}
        assert {step.key: shown(step) for step in loaded.steps} == model.steps | jobs

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

    @rule(session=SESSIONS, run_id=RUNS, claim=st.booleans())
    def create(self, session: str, run_id: str, claim: bool) -> None:
        code = self.apply(session, new_run(run_id, claim=claim, inline=run_id == "r1"))
        if run_id in self.runs:
            assert code == "exists"
        else:
            assert code == "ok"
            owner = session if claim and session in self.leases else None
            self.runs[run_id] = ModelRun(owner)
        self.check(run_id)

    def expected(self, session: str, op: Commit) -> str:
        run = self.runs.get(op.run_id)
        if run is None:
            return "not_found"
        if op.turn == run.turn and run.turned_by == session:
            return "ok (repeat)"
        if run.owner != session or op.turn != run.turn + 1:
            return "fenced"
        if op.base is not None and op.base != run.deliveries:
            return "conflict"
        if op.settle is not None and op.settle.status == "running" and run.mail:
            return "conflict"
        return "ok"

    @rule(
        session=SESSIONS,
        run_id=RUNS,
        key=KEYS,
        status=st.sampled_from(["running", "succeeded", "nap"]),
        settle=st.sampled_from([None, None, None, "running", "suspended", "completed"]),
        withdraw=st.booleans(),
        skew=SKEWS,
        owner=st.booleans(),
    )
    def commit(
        self,
        session: str,
        run_id: str,
        key: str,
        status: str,
        settle: Any,
        withdraw: bool,
        skew: int,
        owner: bool,
    ) -> None:
        run = self.runs.get(run_id)
        if owner and run is not None and run.owner is not None:
            session = run.owner
        base = 0 if run is None else run.deliveries + (skew == 1)
        number = (0 if run is None else run.turn) + 1 + min(skew, 0)
        if status == "nap":
            ask = write(f"nap {key}", "scheduled", kind="sleep", wait_us=LEASE_US // 2)
        else:
            step_status: StepStatus = "running" if status == "running" else "succeeded"
            ask = write(key, step_status, result="1", deliver=status == "succeeded")
        withdraw = withdraw and settle == "completed"
        end = None if settle is None else Settle(settle, reason="requested", withdraw=withdraw)
        self.do_commit(session, turn(run_id, number, base, asks=[ask], settle=end))

    def do_commit(self, session: str, op: Commit) -> None:
        expected = self.expected(session, op)
        code = self.apply(session, op)
        assert code == expected.split()[0]
        if expected == "ok":
            self.last = (session, op)
            self.carry_out(session, self.runs[op.run_id], op)
        self.check(op.run_id)

    def carry_out(self, session: str, run: ModelRun, op: Commit) -> None:
        run.turn += 1
        run.turned_by = session
        (ask,) = op.asks
        there = run.steps.get(ask.key)
        if ask.queue is not None:
            found = run.jobs.setdefault(ask.key, ModelJob())
            if ask.attempt > found.attempt:
                found.handled = ask.handled
                found.failures, found.lost, found.wanted = ask.failures, ask.lost, True
                found.put(ask.attempt, self.clock.now_us(), ask.wait_us)
        elif there is None or (there[0] == "running" and ask.status == "succeeded"):
            worker = session if ask.status == "running" else there[1] if there else None
            run.deliveries += ask.deliver
            run.steps[ask.key] = [ask.status, worker, run.deliveries if ask.deliver else None]
            if ask.kind == "sleep":
                run.naps[ask.key] = self.clock.now_us() + LEASE_US // 2
            new_worker = self.worker_of(op.run_id, ask.key)
            if there is None and ask.status == "succeeded":  # a step that ended as it began
                run.steps[ask.key][1] = new_worker
        if op.settle is not None:
            run.owner = None
            run.mail = 0
            if op.settle.status == "suspended" and run.cancel is not None:
                run.queued = True
            elif op.settle.status != "running":
                run.status = op.settle.status
            if run.status in FINAL:
                run.naps.clear()
                if op.settle.withdraw:
                    self.withdraw(op.run_id)
                for watcher in sorted(run.watchers):
                    if self.alive(watcher):
                        self.post(watcher, "ended", op.run_id, "requested")

    def worker_of(self, run_id: str, key: str) -> str | None:
        loaded = self.runner.run(self.store.load_steps(run_id))
        assert loaded is not None
        return next(step.worker for step in loaded.steps if step.key == key)

    @rule(
        session=SESSIONS,
        run_id=REMOTE,
        key=JOBS,
        again=st.booleans(),
        handled=st.booleans(),
        wait_us=WAITS,
        owner=st.sampled_from([True, True, True, False]),
    )
    def ask_for_a_job(
        self,
        session: str,
        run_id: str,
        key: str,
        again: bool,
        handled: bool,
        wait_us: int | None,
        owner: bool,
    ) -> None:
        run = self.runs[run_id]
        if owner and run.owner is not None:
            session = run.owner
        there = run.jobs.get(key)
        attempt = 1 if there is None else there.attempt
        if again and there is not None and there.status not in ENDED and there.due is None:
            attempt += 1
        ask = job(key, attempt=attempt, handled=handled, wait_us=wait_us)
        self.do_commit(session, turn(run_id, run.turn + 1, run.deliveries, asks=[ask]))

    def job(
        self, session: str, run_id: str, key: str, skew: int, worker: bool
    ) -> tuple[str, ModelRun, ModelJob | None, int]:
        """Who says something of which attempt: often whoever executes it."""
        run = self.runs[run_id]
        found = run.jobs.get(key)
        if worker and found is not None and found.worker is not None:
            session = found.worker
        return session, run, found, (1 if found is None else found.attempt) + skew

    def say(self, session: str, op: Op, code: str, *, twice: bool) -> None:
        """Apply an operation on a job; a second time too, as after a lost answer."""
        assert self.apply(session, op) == code
        if twice:
            self.apply(session, op)

    @rule(
        session=SESSIONS,
        run_id=REMOTE,
        key=JOBS,
        status=st.sampled_from(["succeeded", "failed", "failed"]),
        retry_us=st.sampled_from([None, 0, LEASE_US // 3]),
        skew=SKEWS,
        worker=st.sampled_from([True, True, False]),
        twice=st.booleans(),
    )
    def complete_job(
        self,
        session: str,
        run_id: str,
        key: str,
        status: Any,
        retry_us: int | None,
        skew: int,
        worker: bool,
        twice: bool,
    ) -> None:
        session, run, found, attempt = self.job(session, run_id, key, skew, worker)
        retry_us = retry_us if status == "failed" else None
        op = CompleteStep(run_id, key, attempt, status, None, '"why"', retry_us)
        if found is None:
            self.say(session, op, "not_found", twice=twice)
        elif found.status in ENDED and (found.attempt, found.worker) == (attempt, session):
            self.say(session, op, "ok", twice=twice)
        elif (found.status, found.attempt, found.worker) == ("running", attempt, session):
            self.say(session, op, "ok", twice=twice)
            found.failures += status == "failed"
            if retry_us is not None and run.status not in FINAL and run.cancel is None:
                found.put(attempt + 1, self.clock.now_us(), retry_us)
            else:
                run.conclude(found, status)
                if run.owner == session:
                    run.mail = 0  # the answer brought it
        elif retry_us is not None and (found.status, found.worker) == ("scheduled", None):
            assert self.apply(session, op) in ("ok", "fenced")  # it may be a repeat
        else:
            self.say(session, op, "fenced", twice=twice)
        self.check(run_id)

    @rule(
        session=SESSIONS,
        run_id=REMOTE,
        key=JOBS,
        skew=SKEWS,
        worker=st.sampled_from([True, True, True, False]),
        twice=st.booleans(),
    )
    def begin_job(
        self, session: str, run_id: str, key: str, skew: int, worker: bool, twice: bool
    ) -> None:
        session, _, found, attempt = self.job(session, run_id, key, skew, worker)
        op = BeginStep(run_id, key, attempt)
        if found is None:
            self.say(session, op, "not_found", twice=twice)
        elif found.status in ENDED or (found.attempt, found.worker) != (attempt, session):
            self.say(session, op, "fenced", twice=twice)
        else:
            self.say(session, op, "ok", twice=twice)
            found.status = "running"
        self.check(run_id)

    @rule(
        session=SESSIONS,
        run_id=REMOTE,
        key=JOBS,
        wait_us=WAITS,
        skew=SKEWS,
        worker=st.sampled_from([True, True, False]),
        twice=st.booleans(),
    )
    def release_job(
        self,
        session: str,
        run_id: str,
        key: str,
        wait_us: int | None,
        skew: int,
        worker: bool,
        twice: bool,
    ) -> None:
        session, run, found, attempt = self.job(session, run_id, key, skew, worker)
        op = ReleaseStep(run_id, key, attempt, wait_us)
        if found is None:
            self.say(session, op, "not_found", twice=twice)
        elif found.status in ENDED or (found.attempt, found.worker) != (attempt, session):
            self.say(session, op, "fenced", twice=twice)
        elif run.cancel is None:
            self.say(session, op, "ok", twice=twice)
            begun = found.status == "running"
            found.put(attempt + begun, self.clock.now_us(), wait_us)
        self.check(run_id)

    @rule(
        session=SESSIONS,
        run_id=REMOTE,
        key=JOBS,
        progress=st.sampled_from(["1", "2"]),
        skew=SKEWS,
        worker=st.booleans(),
        twice=st.booleans(),
    )
    def report(
        self,
        session: str,
        run_id: str,
        key: str,
        progress: str,
        skew: int,
        worker: bool,
        twice: bool,
    ) -> None:
        session, _, found, attempt = self.job(session, run_id, key, skew, worker)
        op = ReportProgress(run_id, key, attempt, progress)
        if found is None:
            self.say(session, op, "not_found", twice=twice)
        elif (found.status, found.attempt, found.worker) != ("running", attempt, session):
            self.say(session, op, "fenced", twice=twice)
        else:
            self.say(session, op, "ok", twice=twice)
            found.progress = progress
        self.check(run_id)

    @rule(session=SESSIONS, run_id=RUNS, twice=st.booleans())
    def watch(self, session: str, run_id: str, twice: bool) -> None:
        run = self.runs[run_id]
        self.say(
            session,
            WatchRun(run_id),
            "settled" if run.status in FINAL else "ok",
            twice=twice,
        )
        run.watchers.add(session)
        self.check(run_id)

    @rule(session=SESSIONS, run_id=RUNS, twice=st.booleans())
    def requeue(self, session: str, run_id: str, twice: bool) -> None:
        run = self.runs[run_id]
        dead = run.owner is not None and not self.alive(run.owner)
        self.say(
            session, RequeueRun(run_id), "settled" if run.status in FINAL else "ok", twice=twice
        )
        if run.status not in FINAL:
            if dead:
                run.owner = None
                run.mail = 0
            run.queued = run.queued or (run.status == "running" and run.owner is None)
            for found in run.jobs.values():
                if found.status in ENDED or self.alive(found.worker) or not found.wanted:
                    continue
                if found.status == "running":
                    # Of a run that unwinds, it depends on when the job was asked for.
                    granted = "yes" if run.cancel is None else "maybe"
                    found.put(found.attempt + 1, self.clock.now_us(), None, granted=granted)
                elif found.due is None or found.due <= self.clock.now_us():
                    unsure = run.cancel is not None or found.granted == "maybe"
                    granted = "maybe" if unsure else "yes"
                    found.put(found.attempt, self.clock.now_us(), None, granted=granted)
        self.check(run_id)

    @precondition(lambda self: self.last is not None)
    @rule()
    def repeat_the_last_commit(self) -> None:
        assert self.last is not None
        self.do_commit(*self.last)

    @rule(session=SESSIONS, run_id=RUNS, key=KEYS)
    def complete(self, session: str, run_id: str, key: str) -> None:
        run = self.runs.get(run_id)
        if run is None:
            return
        code = self.apply(session, CompleteStep(run_id, key, 1, "succeeded", "1", None))
        step = run.steps.get(key)
        if step is None:
            assert code == "not_found"
        elif step[0] == "running" and step[1] == session and session in self.leases:
            assert code == "ok"
            step[0] = "succeeded"
            if run.status not in FINAL:
                run.deliveries += 1
                step[2] = run.deliveries
                run.wake()
                if run.owner == session:
                    run.mail = 0  # the answer brought it
        else:
            assert code == ("ok" if step[0] == "succeeded" and step[1] == session else "fenced")
        self.check(run_id)

    @rule(session=SESSIONS, run_id=RUNS)
    def cancel(self, session: str, run_id: str) -> None:
        run = self.runs.get(run_id)
        code = self.apply(session, CancelRun(run_id, "why"))
        if run is None:
            assert code == "not_found"
        elif run.status in FINAL:
            assert code == "settled"
        else:
            assert code == "ok"
            if run.cancel is None:
                run.cancel = "why"
                run.deliveries += 1
                run.naps.clear()
                self.withdraw(run_id)
                run.status = "running"
                run.wake()
                if run.owner == session:
                    run.mail = 0
        self.check(run_id)

    @rule(session=SESSIONS, run_id=RUNS)
    def resume(self, session: str, run_id: str) -> None:
        run = self.runs.get(run_id)
        code = self.apply(session, ResumeRun(run_id))
        if run is None:
            assert code == "not_found"
        elif run.status != "suspended":
            assert code == "not_suspended"
        else:
            assert code == "ok"
            run.status = "running"
            run.queued = True
        self.check(run_id)

    @rule(session=SESSIONS, run_id=RUNS)
    def release(self, session: str, run_id: str) -> None:
        run = self.runs.get(run_id)
        code = self.apply(session, ReleaseRun(run_id))
        if run is None:
            assert code == "not_found"
        elif run.owner != session:
            assert code == "fenced"
        else:
            assert code == "ok"
            run.disown()
        self.check(run_id)

    @rule(session=SESSIONS)
    def fire(self, session: str) -> None:
        now = self.clock.now_us()
        due = [(r, key) for r in self.runs.values() for key, at in r.naps.items() if at <= now]
        for run, key in sorted(due, key=lambda each: each[0].naps[each[1]]):
            del run.naps[key]
            run.deliveries += 1
            run.steps[key][0] = "succeeded"
            run.wake()
        for found in [each for run in self.runs.values() for each in run.jobs.values()]:
            if found.due is not None and found.due <= now and found.wanted:
                found.due = None
                found.granted = "yes"
        assert self.apply(session, FireTimers()) == "ok"
        for run_id, run in self.runs.items():
            loaded = self.runner.run(self.store.load_steps(run_id))
            assert loaded is not None
            for step in loaded.steps:  # naps of one instant may be told in any order
                if step.kind == "sleep" and step.delivery is not None:
                    run.steps[step.key][2] = step.delivery
            numbers = [step.delivery for step in loaded.steps if step.delivery is not None]
            assert len(numbers) == len(set(numbers))
            self.check(run_id)

    @rule(session=SESSIONS)
    def reap(self, session: str) -> None:
        now = self.clock.now_us()
        if self.leases.get(session, now) < now:
            return  # whether it takes away from itself is not promised
        told: list[tuple[ModelRun, str]] = []
        for dead in [each for each, until in self.leases.items() if until < now]:
            del self.leases[dead]
            self.reaped.add(dead)
            self.posted.pop(dead, None)
            for run in self.runs.values():
                if run.owner == dead:
                    run.disown()
                for key, found in run.jobs.items():
                    if found.worker == dead and found.status not in ENDED:
                        self.take_away(run, found)
                        told += [(run, key)] if found.status == "failed" else []
        assert self.apply(session, ReapSessions(max_lost=MAX_LOST)) == "ok"
        for run_id, run in self.runs.items():
            loaded = self.runner.run(self.store.load_steps(run_id))
            assert loaded is not None
            for step in loaded.steps:  # jobs given up together may be told in any order
                if (run, step.key) in told and run.jobs[step.key].delivery is not None:
                    run.jobs[step.key].delivery = step.delivery
            numbers = [step.delivery for step in loaded.steps if step.delivery is not None]
            assert len(numbers) == len(set(numbers))
            self.check(run_id)

    def take_away(self, run: ModelRun, found: ModelJob) -> None:
        if run.status in FINAL:
            found.worker = None
        elif found.status == "scheduled":
            found.put(found.attempt, self.clock.now_us(), None)
        else:
            found.lost += 1
            if run.cancel is not None:  # whether it is queued again depends on when it was asked
                found.put(found.attempt + 1, self.clock.now_us(), None, granted="maybe")
            elif found.lost < MAX_LOST:
                found.put(found.attempt + 1, self.clock.now_us(), None)
            else:
                run.conclude(found, "failed")

    @rule(session=SESSIONS, count=st.integers(1, 2))
    def claim(self, session: str, count: int) -> None:
        asked = (INLINE_QUEUE, ORCHESTRATOR_QUEUE)
        reply = self.send(session, [], dict.fromkeys(asked, count))
        assert list(reply.jobs) == []
        got = [loaded.run.run_id for loaded in reply.claimed]
        assert len(got) == len(set(got))
        for inline in (True, False):
            of_queue = [run_id for run_id in self.runs if (run_id == "r1") == inline]
            waiting = {
                run_id
                for run_id in of_queue
                if self.runs[run_id].queued and self.runs[run_id].status == "running"
            }
            taken = [run_id for run_id in got if run_id in of_queue]
            assert set(taken) <= waiting
            assert len(taken) == (min(count, len(waiting)) if session in self.leases else 0)
        for run_id in got:
            self.runs[run_id].owner = session
            self.runs[run_id].queued = False
        for run_id, run in self.runs.items():
            loaded = self.runner.run(self.store.load_steps(run_id))
            assert loaded is not None
            run.queued = loaded.run.queued if run.status != "running" else run.queued
            self.check(run_id)

    @rule(session=SESSIONS, count=st.integers(1, 3))
    def claim_jobs(self, session: str, count: int) -> None:
        reply = self.send(session, [], {JOB_QUEUE: count})
        assert list(reply.claimed) == []
        waiting = [
            (run, found)
            for run in self.runs.values()
            for found in run.jobs.values()
            if found.status == "scheduled" and found.worker is None and run.status not in FINAL
        ]
        sure = sum(
            (run.status, found.granted) == ("running", "yes") and found.wanted
            for run, found in waiting
        )
        assert len(reply.jobs) <= (count if session in self.leases else 0)
        short = session in self.leases and len(reply.jobs) < min(count, sure)
        assert not short or JOB_QUEUE in reply.more
        for granted in reply.jobs:
            run = self.runs[granted.run_id]
            found = run.jobs[granted.step.key]
            assert found in [each for _, each in waiting], "granted although nobody wants it"
            assert found.granted != "no", "granted before its time, or after it was called off"
            found.worker = session
            found.granted = "no"
            found.due = None
            found.status = "scheduled" if found.lost else "running"
            assert shown(granted.step) == found.shown()
        for run_id in self.runs:
            self.check(run_id)


@pytest.mark.timeout(600)  # what breaks the model is made small before it is shown
@pytest.mark.parametrize(
    ("store", "examples"),
    [("memory", 150), ("sqlite", 40), ("redis", 300), ("postgres", 40)],
    ids=["memory", "sqlite", "redis", "postgres"],
)
def test_the_store_does_what_the_model_does(
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
    new_url = [new_urls[store]]
    machine: type[StoreMachine] = type("Machine", (StoreMachine,), {"new_url": new_url})
    case = machine.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=60, deadline=None)
    case().runTest()
