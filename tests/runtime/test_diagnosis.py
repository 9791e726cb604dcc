"""A run that has no next action is found, and one that has is left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from tests.runtime.kit import Ctx, ProxyLab, StoreProxy, Toy, Wf

from pikku import RunCancelledError, RunFailedError, StepFailedError
from pikku._diagnosis import diagnose
from pikku._records import Examination, LoadedRun, Op, Reply, RunRecord, StepRecord
from pikku._session import FOREVER_SECONDS
from pikku._settings import EngineOptions
from pikku.stores.memory import MemoryStore

NOW = 1_000_000_000
LIVE, OTHER, DEAD, UNKNOWN = "live", "other", "dead", "unknown"

PARKED = RunRecord(
    run_id="r1",
    workflow="flow",
    status="running",
    input="null",
    output=None,
    error=None,
    version="",
    inline=False,
    run_attempt=1,
    owner=None,
    queued=False,
    turn=3,
    turned_by=None,
    deliveries=0,
    tags=(),
    started_by=None,
    created_us=0,
    updated_us=0,
    finished_us=None,
    cancel_us=None,
    cancel_kind=None,
    cancel_reason=None,
    cancel_delivery=None,
    suspend_reason=None,
)
AWAY = StepRecord(
    key="Send",
    position=0,
    kind="rpc",
    target="send",
    status="scheduled",
    attempt=1,
    failures=0,
    lost=0,
    digest="",
    input="null",
    result=None,
    error=None,
    worker=None,
    due_us=None,
    created_us=1,
    started_us=None,
    finished_us=None,
    delivery=None,
    queue="default",
)
LOCAL = dataclasses.replace(AWAY, queue=None)
SLEEP = dataclasses.replace(LOCAL, key="Nap", kind="sleep", due_us=NOW + 5)
SIGNAL = dataclasses.replace(LOCAL, key="Wait", kind="signal", target="go")
APPROVAL = dataclasses.replace(LOCAL, key="Ask", kind="approval", job="{}")
CHILD = dataclasses.replace(LOCAL, key="Child", kind="child", target="other", job="c1")
DONE = dataclasses.replace(LOCAL, key="Done", status="succeeded", result="1", delivery=1)
JOB = frozenset({("r1", "Send", 1)})


def a_run(**changes: Any) -> RunRecord:
    return dataclasses.replace(PARKED, **changes)


def a(step: StepRecord, **changes: Any) -> StepRecord:
    return dataclasses.replace(step, **changes)


def timer(key: str, kind: str) -> frozenset[tuple[str, str, str]]:
    return frozenset({("r1", key, kind)})


def found_in(
    run: RunRecord,
    *steps: StepRecord,
    queued: bool = False,
    jobs: frozenset[tuple[str, str, int]] = frozenset(),
    timers: frozenset[tuple[str, str, str]] = frozenset(),
    ended: frozenset[str] = frozenset(),
    gone: frozenset[str] = frozenset(),
) -> list[tuple[str, str]]:
    """Kind and text of each symptom."""
    sessions = {LIVE: NOW + 1, OTHER: NOW + 1, DEAD: NOW - 1}
    queue = frozenset({"r1"}) if queued else frozenset[str]()
    examination = Examination(NOW, sessions, queue, jobs, timers)
    symptoms = diagnose(LoadedRun(run, steps), examination, ended, gone)
    return [(symptom.kind, symptom.text) for symptom in symptoms]


HEALTHY: dict[str, tuple[RunRecord, tuple[StepRecord, ...], dict[str, Any]]] = {
    "parked on a signal": (PARKED, (SIGNAL,), {}),
    "parked on an approval": (PARKED, (APPROVAL,), {}),
    "parked on a signal that may time out": (
        PARKED,
        (a(SIGNAL, due_us=NOW + 5),),
        {"timers": timer("Wait", "sleep")},
    ),
    "parked on a child": (PARKED, (CHILD,), {}),
    "started with a delay": (a_run(turn=0), (), {"timers": timer("", "start")}),
    "queued, a step of a fork to be asked for": (
        a_run(queued=True, turn=0),
        (a(LOCAL, status="pending"),),
        {"queued": True},
    ),
    "a signal that was waited for before it unwinds": (
        a_run(owner=LIVE, cancel_us=5, cancel_delivery=1, deliveries=1),
        (a(SIGNAL, due_us=NOW + 5),),
        {},
    ),
    "a patch": (
        PARKED,
        (SIGNAL, a(LOCAL, key="p", kind="patch", status="succeeded", result="true")),
        {},
    ),
    "owned": (a_run(owner=LIVE), (a(LOCAL, status="running", worker=LIVE),), {}),
    "taken over, a step to be begun anew": (
        a_run(owner=LIVE, turned_by=DEAD),
        (a(LOCAL, status="running", worker=DEAD),),
        {},
    ),
    "owned, what others execute": (
        a_run(owner=LIVE, turned_by=LIVE),
        (a(AWAY, status="running", worker=OTHER), a(LOCAL, key="b", status="running", worker=LIVE)),
        {},
    ),
    "owned, the retry of a step announced": (a_run(owner=LIVE), (a(LOCAL, due_us=NOW - 1),), {}),
    "queued": (a_run(queued=True), (LOCAL,), {"queued": True}),
    "parked on a job": (PARKED, (AWAY,), {"jobs": JOB}),
    "parked on a job that somebody executes": (
        PARKED,
        (a(AWAY, status="running", worker=LIVE),),
        {},
    ),
    "parked on a job that waits to be alone": (PARKED, (a(AWAY, worker=LIVE, lost=1),), {}),
    "parked on a next attempt": (
        PARKED,
        (a(AWAY, attempt=2, due_us=NOW + 5),),
        {"timers": timer("Send", "retry")},
    ),
    "parked on a sleep": (PARKED, (SLEEP,), {"timers": timer("Nap", "sleep")}),
    "parked on an overdue sleep": (
        PARKED,
        (a(SLEEP, due_us=NOW - 5),),
        {"timers": timer("Nap", "sleep")},
    ),
    "parked on an overdue local attempt": (
        PARKED,
        (a(LOCAL, due_us=NOW - 5),),
        {"timers": timer("Send", "retry")},
    ),
    "unwinding, with a sleep that was called off": (
        a_run(owner=LIVE, cancel_us=5, cancel_delivery=1, deliveries=1),
        (a(SLEEP, created_us=4),),
        {},
    ),
    "suspended": (a_run(status="suspended"), (LOCAL,), {}),
    "completed, its job still queued": (a_run(status="completed", deliveries=7), (AWAY,), {}),
    "a failure that its handler has still to see": (
        a_run(queued=True),
        (a(AWAY, status="failed", error="{}", handled=True),),
        {"queued": True},
    ),
    "sealed values": (
        a_run(queued=True, input="sealed:abc", deliveries=1),
        (a(DONE, result="sealed:abc"),),
        {"queued": True},
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_run_with_a_next_action_is_left_alone(name: str) -> None:
    run, steps, store = HEALTHY[name]

    assert found_in(run, *steps, **store) == []


BROKEN: dict[str, tuple[RunRecord, tuple[StepRecord, ...], dict[str, Any], tuple[str, str]]] = {
    "its owner is unknown": (
        a_run(owner=UNKNOWN),
        (a(LOCAL, status="running"),),
        {},
        ("owner", "belongs to a session that the store does not know"),
    ),
    "the lease of its owner has run out": (
        a_run(owner=DEAD),
        (a(LOCAL, status="running"),),
        {},
        ("left_behind", "was left behind: the lease of its process has run out"),
    ),
    "its owner goes on without a step that somebody else had begun": (
        a_run(owner=LIVE, turned_by=LIVE),
        (a(LOCAL, status="running", worker=DEAD),),
        {},
        ("left_behind", "step 'Send' was left behind by a session that does not own the run"),
    ),
    "queued without an entry": (
        a_run(queued=True),
        (LOCAL,),
        {},
        ("queue", "is marked as queued and stands in no queue"),
    ),
    "parked with nothing to wait for": (
        a_run(deliveries=1),
        (DONE,),
        {},
        ("unattended", "waits for nothing that could happen"),
    ),
    "asked to unwind, and parked": (
        a_run(cancel_us=5, cancel_delivery=1, deliveries=1),
        (a(SLEEP, created_us=4),),
        {},
        ("unattended", "was asked to unwind, and nobody sees to it"),
    ),
    "an entry although it is not queued": (
        a_run(),
        (LOCAL,),
        {"queued": True},
        ("unattended", "step 'Send' is scheduled and nobody executes the run"),
    ),
    "a step of its owner runs, and there is none": (
        PARKED,
        (a(LOCAL, status="running", worker=LIVE),),
        {},
        ("unattended", "step 'Send' is running and nobody executes the run"),
    ),
    "no job": (
        a_run(owner=LIVE),
        (AWAY,),
        {},
        ("job", "step 'Send' is scheduled on queue 'default' and has no job there"),
    ),
    "the job of another attempt": (
        PARKED,
        (a(AWAY, attempt=2),),
        {"jobs": JOB},
        ("job", "step 'Send' is scheduled on queue 'default' and has no job there"),
    ),
    "its worker is unknown": (
        a_run(owner=LIVE),
        (a(AWAY, status="running", worker=UNKNOWN),),
        {},
        ("holder", "step 'Send' is held by a session that the store does not know"),
    ),
    "the lease of its worker has run out": (
        PARKED,
        (a(AWAY, worker=DEAD, lost=1),),
        {"jobs": JOB},
        ("left_behind", "step 'Send' was left behind: the lease of its worker has run out"),
    ),
    "a job runs, and nobody holds it": (
        PARKED,
        (a(AWAY, status="running"),),
        {},
        ("holder", "step 'Send' is running and nobody holds it"),
    ),
    "a sleep without a timer": (
        a_run(owner=LIVE),
        (SLEEP,),
        {"timers": timer("Nap", "retry")},
        ("timer", "step 'Nap' sleeps without a timer"),
    ),
    "a next attempt without a timer": (
        a_run(queued=True),
        (a(LOCAL, attempt=2, due_us=NOW + 5),),
        {"queued": True},
        ("timer", "attempt 2 of step 'Send' waits for its time without a timer"),
    ),
    "a signal that may time out, without a timer": (
        PARKED,
        (a(SIGNAL, due_us=NOW + 5),),
        {},
        ("timer", "step 'Wait' has to end in time, and is without a timer"),
    ),
    "an approval that expires, without a timer": (
        PARKED,
        (a(APPROVAL, due_us=NOW + 5),),
        {},
        ("timer", "step 'Ask' has to end in time, and is without a timer"),
    ),
    "a child that has ended": (
        PARKED,
        (CHILD,),
        {"ended": frozenset({"c1"})},
        ("child", "step 'Child' waits for run c1, which has ended"),
    ),
    "a child that is gone": (
        PARKED,
        (CHILD,),
        {"gone": frozenset({"c1"})},
        ("gone", "step 'Child' waits for run c1, which is not there"),
    ),
    "a delayed start without a timer": (
        a_run(turn=0),
        (),
        {},
        ("unattended", "waits for nothing that could happen"),
    ),
    "parked on a step that nobody has asked for": (
        PARKED,
        (a(LOCAL, status="pending"),),
        {},
        ("unattended", "waits for nothing that could happen"),
    ),
    "a sleep while it unwinds, without a timer": (
        a_run(owner=LIVE, cancel_us=5, cancel_delivery=1, deliveries=1),
        (a(SLEEP, created_us=6, after=1),),
        {},
        ("timer", "step 'Nap' sleeps without a timer"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_run_without_a_next_action_is_found(name: str) -> None:
    run, steps, store, expected = BROKEN[name]

    assert found_in(run, *steps, **store) == [expected]


NONSENSE: dict[str, tuple[RunRecord, tuple[StepRecord, ...], str]] = {
    "an unknown status": (a_run(status="dancing"), (), "its status is 'dancing'"),
    "attempt 0 of the run": (
        a_run(status="suspended", run_attempt=0),
        (),
        "its attempt is number 0",
    ),
    "an input that is no JSON": (
        a_run(status="suspended", input="{"),
        (),
        "its input is no JSON",
    ),
    "an unknown status of a step": (
        a_run(status="suspended"),
        (a(LOCAL, status="dancing"),),
        "the status of step 'Send' is 'dancing'",
    ),
    "an unknown kind of step": (
        a_run(status="suspended"),
        (a(LOCAL, kind="dance"),),
        "the kind of step 'Send' is 'dance'",
    ),
    "attempt 0 of a step": (
        a_run(status="suspended"),
        (a(LOCAL, attempt=0),),
        "the attempt of step 'Send' is number 0",
    ),
    "a result that is no JSON": (
        a_run(status="suspended", deliveries=1),
        (a(DONE, result="[1,"),),
        "step 'Done': its result is no JSON",
    ),
    "an outcome that is not delivered": (
        a_run(status="suspended"),
        (a(DONE, delivery=None),),
        "the outcome of step 'Done' has no place in the run's order",
    ),
    "a number on a step that has not ended": (
        a_run(status="suspended", deliveries=1),
        (a(LOCAL, delivery=1),),
        "step 'Send' has outcome number 1 and is scheduled",
    ),
    "missing numbers": (
        a_run(status="suspended", deliveries=10**15),
        (DONE,),
        "of 1000000000000000 outcomes, number 2, 3, 4, 5, 6, … is missing",
    ),
    "a number twice": (
        a_run(status="suspended", deliveries=1),
        (DONE, a(DONE, key="Again")),
        "of 1 outcomes, number 1 is there twice",
    ),
    "a number of a step and of the cancel": (
        a_run(status="suspended", deliveries=1, cancel_us=1, cancel_delivery=1),
        (DONE,),
        "of 1 outcomes, number 1 is there twice",
    ),
    "a number past the last": (
        a_run(status="suspended"),
        (DONE,),
        "of 0 outcomes, number 1 is out of range",
    ),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_records_that_make_no_sense_are_found(name: str) -> None:
    run, steps, text = NONSENSE[name]

    assert found_in(run, *steps) == [("corrupt", f"its records make no sense: {text}")]


def test_a_symptom_in_another_state_is_another_symptom() -> None:
    nothing = Examination(NOW, {}, frozenset(), frozenset(), frozenset())

    [first] = diagnose(LoadedRun(a_run(queued=True), ()), nothing)
    [second] = diagnose(LoadedRun(a_run(queued=True, turn=4), ()), nothing)

    assert first.text == second.text
    assert first != second


# --- what the engine makes is never called wrong ------------------------------------------------


class Watched(StoreProxy):
    """Examines every run after every batch."""

    looks = 0

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        reply = await super().apply(session, ops, want)
        store = self.inner
        assert isinstance(store, MemoryStore)
        found = await store.examine()
        for run_id in store._runs:
            loaded = await store.load_steps(run_id)
            assert loaded is not None
            assert diagnose(loaded, found) == []
            self.looks += 1
        return reply


@pytest.mark.parametrize("sticky", [0, 1000])
@pytest.mark.parametrize("mode", ["none", "store"])
@pytest.mark.parametrize("dispatch", [None, "queue"])
async def test_at_no_moment_is_a_healthy_run_called_wrong(
    toy: Toy, mode: Literal["none", "store"], sticky: int, dispatch: str | None
) -> None:
    @toy.func(dispatch=dispatch)
    async def double(ctx: Ctx, number: int) -> int:
        return 2 * number

    @toy.func(dispatch=dispatch, retries=2, retry_delay="10s")
    async def at_third(ctx: Ctx) -> int:
        if ctx.step.attempt_count < 3:
            raise ValueError("not yet")
        return 3

    @toy.func(dispatch=dispatch)
    async def fail(ctx: Ctx) -> None:
        raise ValueError("never")

    @toy.func(dispatch=dispatch)
    async def handle(ctx: Ctx, failure: Any) -> None: ...

    @toy.workflow
    async def everything(ctx: Wf) -> int:
        import asyncio

        do = ctx.workflow.do
        numbers = await asyncio.gather(*(do(f"Double {n}", double, n) for n in range(3)))
        await asyncio.gather(do("At third", at_third), ctx.workflow.sleep("Nap", "15s"))
        await ctx.workflow.uuid4()
        await do("Here", lambda: 1)
        try:
            await do("Fail", fail, on_error=handle)
        except StepFailedError:
            await ctx.workflow.sleep("Nap", "1h")
        return sum(numbers)

    @toy.workflow
    async def cancelled(ctx: Wf) -> None:
        import asyncio

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.workflow.sleep("Nap", "1h"))
                group.create_task(ctx.workflow.do("At third", at_third))
        finally:
            await ctx.workflow.do("Clean up", double, 1)
            await ctx.workflow.sleep("Cool down", "1s")

    @toy.workflow(timeout="30min")
    async def late(ctx: Wf) -> None:
        await ctx.workflow.sleep("Nap", "1h")

    lab = ProxyLab(
        toy.app,
        queue_service=mode,
        options=EngineOptions(lease_seconds=FOREVER_SECONDS, sticky=sticky),
    )
    lab.proxy = Watched
    async with lab:
        runs = [await toy.start(name, wait=False) for name in ("everything", "late")]
        unwinding = await toy.start("cancelled", wait=False)
        await unwinding.cancel("enough")

        assert await runs[0].result() == 6
        with pytest.raises(RunFailedError):
            await runs[1].result()
        with pytest.raises(RunCancelledError):
            await unwinding.result()
        assert isinstance(lab.wrapped, Watched)
        assert lab.wrapped.looks > 20
