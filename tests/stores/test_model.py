"""A short model of a store against the stores: any operations, in any order, by any session."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pikku._records import (
    CancelRun,
    Commit,
    CompleteStep,
    FireTimers,
    Op,
    ReapSessions,
    ReleaseRun,
    ResumeRun,
    Settle,
    StepStatus,
)
from pikku.stores import make_store
from pikku.stores.base import INLINE_QUEUE, Store
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import LEASE_US, new_run, turn, write

SESSIONS = st.sampled_from(["s1", "s2", "s3"])
RUNS = st.sampled_from(["r1", "r2"])
KEYS = st.sampled_from(["a", "b"])
FINAL = ("completed", "failed", "cancelled")


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


class StoreMachine(RuleBasedStateMachine):
    """Compares a store with the model after every operation."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.folder = tempfile.TemporaryDirectory()
        self.runs: dict[str, ModelRun] = {}
        self.leases: dict[str, int] = {}
        self.reaped: set[str] = set()
        self.last: tuple[str, Commit] | None = None

    @initialize()
    def open(self) -> None:
        made = make_store(self.url, base=Path(self.folder.name), clock=self.clock)
        self.store: Store = made
        self.runner.run(made.open())
        self.beat("s1")
        self.beat("s2")
        self.create("s1", "r1", True)

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def apply(self, session: str, op: Op) -> str:
        reply = self.runner.run(self.store.apply(session, [op], {}))
        assert reply.session_alive == (session in self.leases)
        self.read_mail(session, len(reply.inbox))
        return reply.results[0].code

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
        found = {step.key: [step.status, step.worker, step.delivery] for step in loaded.steps}
        assert found == model.steps

    @rule(session=SESSIONS)
    def beat(self, session: str) -> None:
        alive = self.store.beat(session, LEASE_US)
        assert alive == (session not in self.reaped)
        if alive:
            self.leases[session] = self.clock.now_us() + LEASE_US

    @rule(us=st.sampled_from([1, LEASE_US // 3, LEASE_US + 1]))
    def time_passes(self, us: int) -> None:
        self.clock.move_to(self.clock.now_us() + us)

    @rule(session=SESSIONS, run_id=RUNS, claim=st.booleans())
    def create(self, session: str, run_id: str, claim: bool) -> None:
        code = self.apply(session, new_run(run_id, claim=claim))
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
        skew=st.sampled_from([0, 0, 0, 0, 1, -1]),
        owner=st.booleans(),
    )
    def commit(
        self,
        session: str,
        run_id: str,
        key: str,
        status: str,
        settle: Any,
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
        end = None if settle is None else Settle(settle, reason="requested")
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
        if there is None or (there[0] == "running" and ask.status == "succeeded"):
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
            if op.settle.status != "running":
                run.status = op.settle.status
            if run.status in FINAL:
                run.naps.clear()

    def worker_of(self, run_id: str, key: str) -> str | None:
        loaded = self.runner.run(self.store.load_steps(run_id))
        assert loaded is not None
        return next(step.worker for step in loaded.steps if step.key == key)

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
        elif step[0] == "running" and step[1] == session:
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
        for dead in [each for each, until in self.leases.items() if until < now]:
            del self.leases[dead]
            self.reaped.add(dead)
            for run in self.runs.values():
                if run.owner == dead:
                    run.disown()
        assert self.apply(session, ReapSessions()) == "ok"
        for run_id in self.runs:
            self.check(run_id)

    @rule(session=SESSIONS, count=st.integers(1, 2))
    def claim(self, session: str, count: int) -> None:
        reply = self.runner.run(self.store.apply(session, [], {INLINE_QUEUE: count}))
        self.read_mail(session, len(reply.inbox))
        waiting = {
            run_id for run_id, run in self.runs.items() if run.queued and run.status == "running"
        }
        got = [loaded.run.run_id for loaded in reply.claimed]
        assert set(got) <= waiting
        assert len(got) == len(set(got))
        assert len(got) == (min(count, len(waiting)) if session in self.leases else 0)
        for run_id in got:
            self.runs[run_id].owner = session
            self.runs[run_id].queued = False
        for run_id, run in self.runs.items():
            loaded = self.runner.run(self.store.load_steps(run_id))
            assert loaded is not None
            run.queued = loaded.run.queued if run.status != "running" else run.queued
            self.check(run_id)


@pytest.mark.parametrize(
    ("url", "examples"),
    [("memory://", 150), ("sqlite:///model.db?durability=process", 40)],
    ids=["memory", "sqlite"],
)
def test_the_store_does_what_the_model_does(url: str, examples: int) -> None:
    machine: type[StoreMachine] = type("Machine", (StoreMachine,), {"url": url})
    case = machine.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=40, deadline=None)
    case().runTest()
