"""The promises of a store for runs, steps, jobs and sessions, as runnable checks; see
`pikku.testing.store_checks`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from pikku._records import (
    BeginStep,
    CancelRun,
    Commit,
    CompleteStep,
    CreateRun,
    Delivery,
    FireTimers,
    HistoryEntry,
    Job,
    Op,
    OpResult,
    ReapSessions,
    ReleaseRun,
    ReleaseStep,
    Reply,
    ReportProgress,
    RequeueRun,
    ResumeRun,
    RunFilter,
    RunRecord,
    Settle,
    StepKindName,
    StepRecord,
    StepStatus,
    StepWrite,
    WatchRun,
)
from pikku.stores.base import DEFAULT_QUEUE, INLINE_QUEUE, JOBS, MAIL, ORCHESTRATOR_QUEUE, Store
from pikku.testing.clock import FakeClock

Check = Callable[[Store, FakeClock], Awaitable[None]]

LEASE_US = 6_000_000
SECOND_US = 1_000_000
JOB_QUEUE = JOBS + DEFAULT_QUEUE


# --- words of the checks --------------------------------------------------------------------------


def new_run(
    run_id: str,
    *,
    claim: bool = False,
    workflow: str = "flow",
    input: str = "null",
    inline: bool = True,
    tags: tuple[str, ...] = (),
    timeout_us: int | None = None,
) -> CreateRun:
    """The creation of a run."""
    return CreateRun(run_id, workflow, input, "v1", inline, claim, tags, None, timeout_us)


def write(
    key: str,
    status: StepStatus,
    *,
    attempt: int = 1,
    kind: StepKindName = "rpc",
    result: str | None = None,
    error: str | None = None,
    wait_us: int | None = None,
    until_us: int | None = None,
    deliver: bool = False,
    failures: int = 0,
) -> StepWrite:
    """A step's new state."""
    return StepWrite(
        key,
        0,
        kind,
        "target",
        status,
        attempt,
        failures,
        0,
        "",
        '"input"',
        result,
        error,
        wait_us,
        until_us,
        deliver,
    )


def turn(
    run_id: str,
    number: int,
    base: int | None = 0,
    *,
    ends: Sequence[StepWrite] = (),
    asks: Sequence[StepWrite] = (),
    settle: Settle | None = None,
    history: tuple[HistoryEntry, ...] = (),
    cancel_reason: str | None = None,
) -> Commit:
    """One turn of a run."""
    return Commit(run_id, number, base, tuple(ends), tuple(asks), history, settle, cancel_reason)


async def one(store: Store, session: str, op: Op) -> OpResult:
    """What becomes of one operation in a batch of its own."""
    return (await store.apply(session, [op], {})).results[0]


async def must(store: Store, session: str, *ops: Op) -> Reply:
    """Carry out what has to work, and read the inbox."""
    reply = await store.apply(session, list(ops), {MAIL: 1})
    assert [result.code for result in reply.results] == ["ok"] * len(ops), reply.results
    return reply


async def claim(store: Store, session: str, count: int = 10) -> list[str]:
    """The runs that a session gets when it asks for work."""
    reply = await store.apply(session, [], {INLINE_QUEUE: count})
    return [loaded.run.run_id for loaded in reply.claimed]


async def run_of(store: Store, run_id: str) -> RunRecord:
    run = await store.load_run(run_id)
    assert run is not None, f"run {run_id} is missing"
    return run


async def step_of(store: Store, run_id: str, key: str) -> StepRecord:
    loaded = await store.load_steps(run_id)
    assert loaded is not None, f"run {run_id} is missing"
    found = {step.key: step for step in loaded.steps}
    assert key in found, f"step {key!r} is missing"
    return found[key]


async def dump(store: Store) -> list[Any]:
    """All that a store shows to readers."""
    runs = await store.list_runs(RunFilter(limit=10_000))
    shown: list[Any] = [await store.count_runs()]
    for run in sorted(runs, key=lambda each: each.run_id):
        loaded = await store.load_steps(run.run_id)
        assert loaded is not None
        assert loaded.run == run
        steps = sorted(loaded.steps, key=lambda step: step.key)
        shown.append((run, steps, await store.load_history(run.run_id)))
    return shown


async def refused(store: Store, session: str, op: Op, code: str) -> None:
    """Assert that *op* is refused with *code* and leaves no trace."""
    before = await dump(store)
    result = await one(store, session, op)
    assert result.code == code, f"{type(op).__name__}: {result.code} instead of {code}"
    assert await dump(store) == before, f"a refused {type(op).__name__} changed something"


async def owned(store: Store, *run_ids: str, session: str = "s1") -> None:
    """Runs that *session* executes."""
    store.beat(session, LEASE_US)
    for run_id in run_ids:
        await must(store, session, new_run(run_id, claim=True))
        assert (await run_of(store, run_id)).owner == session


# --- sessions -------------------------------------------------------------------------------------


async def check_beat_opens_a_session_and_extends_its_lease(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    for _ in range(4):
        clock.move_to(clock.now_us() + LEASE_US - 1)
        assert store.beat("s1", LEASE_US)
        await must(store, "s2", ReapSessions())
    assert (await run_of(store, "r")).owner == "s1"


async def check_beat_tells_a_reaped_session_that_its_runs_are_gone(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    clock.move_to(clock.now_us() + LEASE_US + 1)
    await must(store, "s2", ReapSessions())
    assert store.beat("s1", LEASE_US) is False
    assert store.beat("s1", LEASE_US) is False
    assert store.beat("s3", LEASE_US) is True
    assert not (await store.apply("s1", [], {})).session_alive
    await refused(store, "s1", turn("r", 1), "fenced")


async def check_beat_is_called_from_another_thread(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    assert await asyncio.to_thread(store.beat, "s1", LEASE_US)
    assert await asyncio.to_thread(store.beat, "s9", LEASE_US)


async def check_a_session_that_never_beat_gets_no_runs(store: Store, clock: FakeClock) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r"))
    assert await claim(store, "stranger") == []
    assert (await run_of(store, "r")).queued
    assert await claim(store, "s1") == ["r"]


# --- create_run -----------------------------------------------------------------------------------


async def check_create_run_claims_for_the_session(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    run = await run_of(store, "r")
    assert (run.status, run.owner, run.queued, run.turn) == ("running", "s1", False, 0)
    assert run.created_us == run.updated_us == clock.now_us()
    store.beat("s2", LEASE_US)
    assert await claim(store, "s2") == []


async def check_create_run_queues_where_it_is_not_claimed(store: Store, clock: FakeClock) -> None:
    store.beat("s1", LEASE_US)
    result = await one(store, "s1", new_run("r"))
    assert result.code == "ok"
    assert result.run is not None
    assert result.run.queued
    run = await run_of(store, "r")
    assert (run.owner, run.queued) == (None, True)
    assert await claim(store, "s1") == ["r"]


async def check_create_run_without_a_session_queues(store: Store, clock: FakeClock) -> None:
    result = await one(store, "stranger", new_run("r", claim=True))
    assert result.code == "ok"
    assert (await run_of(store, "r")).queued
    store.beat("s1", LEASE_US)
    assert await claim(store, "s1") == ["r"]


async def check_create_run_keeps_everything(store: Store, clock: FakeClock) -> None:
    op = CreateRun(
        "r", "flow ⚙", '{"a": "é\\u0000😀"}', "v7", False, False, ("t", "ü"), "ann", None
    )
    await must(store, "s1", op)
    run = await run_of(store, "r")
    assert (run.workflow, run.input, run.version) == (op.workflow, op.input, "v7")
    assert (run.inline, run.tags, run.started_by) == (False, ("t", "ü"), "ann")
    assert (run.run_attempt, run.deliveries, run.output, run.error) == (1, 0, None, None)
    store.beat("s1", LEASE_US)
    assert await claim(store, "s1") == []
    reply = await store.apply("s1", [], {ORCHESTRATOR_QUEUE: 5})
    assert [loaded.run.run_id for loaded in reply.claimed] == ["r"]


async def check_create_run_finds_the_one_that_is_there(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("a", "running")]))
    before = await dump(store)
    result = await one(store, "s2", new_run("r", workflow="other", claim=True))
    assert result.code == "exists"
    assert result.run == await run_of(store, "r")
    assert await dump(store) == before


# --- commit ---------------------------------------------------------------------------------------


async def check_commit_writes_steps_and_counts_the_turn(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("a", "running"), write("b", "pending")]))
    clock.move_to(clock.now_us() + SECOND_US)
    end = write("a", "succeeded", result='{"x": "é"}', deliver=True)
    await must(store, "s1", turn("r", 2, ends=[end], asks=[write("b", "running")]))
    run, a, b = (
        await run_of(store, "r"),
        await step_of(store, "r", "a"),
        await step_of(store, "r", "b"),
    )
    assert (run.turn, run.deliveries, run.updated_us) == (2, 1, clock.now_us())
    assert (a.status, a.result, a.delivery, a.worker) == ("succeeded", '{"x": "é"}', 1, "s1")
    assert a.finished_us == clock.now_us()
    assert a.started_us == clock.now_us() - SECOND_US
    assert (b.status, b.started_us, b.delivery) == ("running", clock.now_us(), None)


async def check_commit_numbers_outcomes_in_their_order(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    keys = ["c", "a", "b"]
    await must(store, "s1", turn("r", 1, asks=[write(key, "running") for key in "abc"]))
    ends = [write(key, "succeeded", result="1", deliver=True) for key in keys]
    await must(store, "s1", turn("r", 2, ends=ends))
    assert [(await step_of(store, "r", key)).delivery for key in keys] == [1, 2, 3]


async def check_commit_of_an_unknown_run_is_refused(store: Store, clock: FakeClock) -> None:
    store.beat("s1", LEASE_US)
    await refused(store, "s1", turn("nobody", 1, asks=[write("a", "running")]), "not_found")


async def check_commit_by_another_session_is_fenced(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    store.beat("s2", LEASE_US)
    op = turn("r", 1, asks=[write("a", "running")], settle=Settle("completed", "1"))
    await refused(store, "s2", op, "fenced")


async def check_commit_of_a_queued_run_is_fenced(store: Store, clock: FakeClock) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r"))
    await refused(store, "s1", turn("r", 1, asks=[write("a", "running")]), "fenced")


async def check_commit_of_a_skipped_or_past_turn_is_fenced(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1), turn("r", 2))
    for number in (0, 1, 4, 99):
        op = turn("r", number, asks=[write("late", "running")])
        await refused(store, "s1", op, "fenced")


async def check_commit_repeated_is_success_without_a_second_effect(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("a", "running")]))
    entry = HistoryEntry("attempt_failed", "a", 1, '"why"')
    op = turn(
        "r",
        2,
        ends=[write("a", "succeeded", result="1", deliver=True)],
        asks=[write("nap", "scheduled", kind="sleep", wait_us=SECOND_US)],
        history=(entry,),
    )
    await must(store, "s1", op)
    before = await dump(store)
    clock.move_to(clock.now_us() + 10)
    await must(store, "s1", op)
    await must(store, "s1", op)
    assert await dump(store) == before


async def check_commit_repeated_after_it_settled_is_success_without_a_second_effect(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "done", "parked")
    for run_id, settle in (("done", Settle("completed", "1")), ("parked", Settle("running"))):
        op = turn(run_id, 1, settle=settle)
        await must(store, "s1", op)
        before = await dump(store)
        assert (await one(store, "s1", op)).code == "ok", f"the repeated end of {run_id}"
        assert await dump(store) == before


async def check_commit_on_an_order_that_is_not_the_recorded_one_is_a_conflict(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("nap", "scheduled", kind="sleep", wait_us=1)]))
    clock.move_to(clock.now_us() + 1)
    await must(store, "s2", FireTimers())
    op = turn("r", 2, 0, ends=[write("a", "succeeded", result="1", deliver=True)])
    await refused(store, "s1", op, "conflict")
    await must(store, "s1", op._replace(base=1))
    assert (await step_of(store, "r", "a")).delivery == 2


async def check_commit_without_a_base_ignores_the_order(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("nap", "scheduled", kind="sleep", wait_us=1)]))
    clock.move_to(clock.now_us() + 1)
    await must(store, "s2", FireTimers())
    await must(store, "s1", turn("r", 2, None, settle=Settle("completed", "1")))
    assert (await run_of(store, "r")).status == "completed"


async def check_commit_parks(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, settle=Settle("running")))
    run = await run_of(store, "r")
    assert (run.status, run.owner, run.queued, run.finished_us) == ("running", None, False, None)
    assert await claim(store, "s1") == []
    await refused(store, "s1", turn("r", 2), "fenced")


async def check_commit_does_not_park_with_mail_waiting(store: Store, clock: FakeClock) -> None:
    await owned(store, "r", "calm")
    retry = write("a", "scheduled", attempt=2, failures=1, wait_us=1)
    await must(store, "s1", turn("r", 1, asks=[retry]))
    clock.move_to(clock.now_us() + 1)
    await must(store, "s2", FireTimers())
    before = await dump(store)
    batch: list[Op] = [turn("r", 2, settle=Settle("running"))]
    reply = await store.apply("s1", batch, {MAIL: 1})
    assert reply.results[0].code == "conflict"
    assert await dump(store) == before
    assert [mail.key for mail in reply.inbox] == ["a"]
    await must(store, "s1", turn("r", 2, settle=Settle("running")))


async def check_commit_parks_a_run_while_another_one_has_mail(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r", "calm")
    await must(store, "s2", CancelRun("r", "x"))
    await must(store, "s1", turn("calm", 1, settle=Settle("running")))
    assert (await run_of(store, "calm")).owner is None


async def check_commit_settles_a_run_for_good(store: Store, clock: FakeClock) -> None:
    endings = [
        Settle("completed", output='"out"'),
        Settle("failed", error='{"type": "E"}'),
        Settle("cancelled", error='{"type": "C"}', reason="why"),
    ]
    for number, settle in enumerate(endings):
        run_id = f"r{number}"
        await owned(store, run_id)
        nap = write("nap", "scheduled", kind="sleep", wait_us=SECOND_US)
        await must(store, "s1", turn(run_id, 1, asks=[nap]))
        await must(store, "s1", turn(run_id, 2, settle=settle))
        run = await run_of(store, run_id)
        assert (run.status, run.output, run.error) == (settle.status, settle.output, settle.error)
        assert (run.owner, run.queued, run.finished_us) == (None, False, clock.now_us())
        for op in (turn(run_id, 3), ReleaseRun(run_id)):
            await refused(store, "s1", op, "fenced")
        await refused(store, "s1", CancelRun(run_id, "late"), "settled")
        await refused(store, "s1", ResumeRun(run_id), "not_suspended")
    before = await dump(store)
    clock.move_to(clock.now_us() + 10 * SECOND_US)
    reply = await must(store, "s1", FireTimers())
    assert reply.inbox == () or list(reply.inbox) == []
    assert await dump(store) == before
    assert await claim(store, "s1") == []


async def check_commit_suspends(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    op = turn("r", 1, settle=Settle("suspended", error='{"type": "N"}', reason="nondeterminism"))
    await must(store, "s1", op)
    run = await run_of(store, "r")
    assert (run.status, run.suspend_reason, run.owner) == ("suspended", "nondeterminism", None)
    assert run.finished_us is None
    assert [entry.kind for entry in await store.load_history("r")] == ["suspend"]
    assert await claim(store, "s1") == []


async def check_commit_never_moves_a_step_back(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    order: list[tuple[StepStatus, int]] = [
        ("pending", 1),
        ("scheduled", 1),
        ("running", 1),
        ("scheduled", 2),
        ("running", 2),
        ("succeeded", 2),
    ]
    number = 1
    for index, (status, attempt) in enumerate(order):
        await must(store, "s1", turn("r", number, asks=[write("a", status, attempt=attempt)]))
        number += 1
        for back, earlier in order[:index]:
            stale = write("a", back, attempt=earlier, result='"stale"', error='"stale"')
            await must(store, "s1", turn("r", number, ends=[stale]))
            number += 1
            step = await step_of(store, "r", "a")
            assert (step.status, step.attempt) == (status, attempt)
            assert '"stale"' not in (step.result, step.error)
    failed = write("a", "failed", attempt=2, error='"late"', deliver=True)
    await must(store, "s1", turn("r", number, None, ends=[failed]))
    step = await step_of(store, "r", "a")
    assert (step.status, step.error) == ("succeeded", None)


async def check_commit_delivers_a_failure_after_its_handler(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    failed = write("a", "failed", error='"why"', failures=1)
    await must(store, "s1", turn("r", 1, ends=[failed]))
    assert (await step_of(store, "r", "a")).delivery is None
    await must(store, "s1", turn("r", 2, ends=[failed._replace(deliver=True)]))
    assert (await step_of(store, "r", "a")).delivery == 1
    assert (await run_of(store, "r")).deliveries == 1


async def check_commit_keeps_history_in_order(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    for number in range(1, 4):
        entries = (HistoryEntry("attempt_failed", "a", number, f'"{number}"'),)
        await must(store, "s1", turn("r", number, history=entries))
        clock.move_to(clock.now_us() + 1)
    found = await store.load_history("r")
    assert [(entry.kind, entry.step, entry.attempt, entry.data) for entry in found] == [
        ("attempt_failed", "a", number, f'"{number}"') for number in range(1, 4)
    ]
    assert [entry.at_us - found[0].at_us for entry in found] == [0, 1, 2]


async def check_commit_records_a_cancel_request_from_inside(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, cancel_reason="enough"))
    run = await run_of(store, "r")
    assert (run.status, run.cancel_us, run.cancel_reason) == ("running", clock.now_us(), "enough")
    assert (run.cancel_kind, run.cancel_delivery, run.deliveries) == ("cancel", 1, 1)
    await must(store, "s1", turn("r", 2, None, cancel_reason="again"))
    assert (await run_of(store, "r")).cancel_reason == "enough"


async def check_apply_carries_out_the_rest_of_a_batch(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    batch: list[Op] = [
        new_run("x"),
        turn("r", 7),
        turn("r", 1, asks=[write("a", "running")]),
        CancelRun("nobody", "x"),
        new_run("y"),
    ]
    reply = await store.apply("s1", batch, {INLINE_QUEUE: 5})
    assert [result.code for result in reply.results] == ["ok", "fenced", "ok", "not_found", "ok"]
    assert [loaded.run.run_id for loaded in reply.claimed] == ["x", "y"]
    assert (await step_of(store, "r", "a")).status == "running"


async def check_apply_brings_the_inbox_once_and_where_it_is_wanted(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r", "other")
    await must(store, "s2", CancelRun("r", "x"))
    mail = [*(await store.apply("s1", [turn("other", 1)], {INLINE_QUEUE: 5})).inbox]
    mail += (await store.apply("s1", [turn("other", 2)], {INLINE_QUEUE: 5, MAIL: 1})).inbox
    assert [word.run_id for word in mail] == ["r"]
    await must(store, "s2", CancelRun("other", "x"))
    assert [word.run_id for word in (await store.apply("s1", [], {})).inbox] == ["other"]
    assert list((await store.apply("s1", [], {MAIL: 1})).inbox) == []


# --- complete_step --------------------------------------------------------------------------------


async def leased_step(store: Store, *, owner: str | None) -> None:
    """Step `a` of run `r` runs in session `s1`; the run itself is *owner*'s, or parked."""
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("a", "running"), write("b", "running")]))
    if owner is None:
        await must(store, "s1", turn("r", 2, settle=Settle("running")))
    elif owner != "s1":
        store.beat(owner, LEASE_US)
        await must(store, "s1", ReleaseRun("r"))
        assert await claim(store, owner) == ["r"]


def done(
    key: str = "a",
    *,
    attempt: int = 1,
    status: Literal["succeeded", "failed"] = "succeeded",
) -> CompleteStep:
    if status == "failed":
        return CompleteStep("r", key, attempt, "failed", None, '"why"')
    return CompleteStep("r", key, attempt, "succeeded", '"done"', None)


async def check_complete_step_records_and_tells_the_owner_once(
    store: Store, clock: FakeClock
) -> None:
    await leased_step(store, owner="s2")
    await must(store, "s1", done())
    step = await step_of(store, "r", "a")
    assert (step.status, step.result, step.delivery) == ("succeeded", '"done"', 1)
    await must(store, "s1", done())
    mail = list((await store.apply("s2", [], {})).inbox)
    assert [(each.key, each.what, each.number, each.result) for each in mail] == [
        ("a", "step", 1, '"done"')
    ]
    assert list((await store.apply("s2", [], {})).inbox) == []


async def check_complete_step_wakes_a_parked_run_exactly_once(
    store: Store, clock: FakeClock
) -> None:
    await leased_step(store, owner=None)
    await must(store, "s1", done("a"), done("b", status="failed"))
    assert (await run_of(store, "r")).queued
    reply = await store.apply("s1", [], {INLINE_QUEUE: 5})
    assert [loaded.run.run_id for loaded in reply.claimed] == ["r"]
    steps = {step.key: step for step in reply.claimed[0].steps}
    assert [steps[key].delivery for key in "ab"] == [1, 2]
    assert (steps["b"].status, steps["b"].error, steps["b"].failures) == ("failed", '"why"', 1)
    assert await claim(store, "s1") == []


async def check_complete_step_without_its_lease_is_fenced(store: Store, clock: FakeClock) -> None:
    await leased_step(store, owner="s2")
    await refused(store, "s2", done(), "fenced")
    await refused(store, "s1", done(attempt=2), "fenced")
    await refused(store, "s1", done("nothing"), "not_found")
    await refused(store, "s1", done()._replace(run_id="nobody"), "not_found")
    await must(store, "s2", turn("r", 2, asks=[write("a", "running", attempt=2)]))
    await refused(store, "s1", done(), "fenced")
    await must(store, "s2", done(attempt=2))
    await refused(store, "s1", done(), "fenced")


async def check_complete_step_keeps_the_first_outcome(store: Store, clock: FakeClock) -> None:
    await leased_step(store, owner="s2")
    await must(store, "s1", done())
    before = await dump(store)
    await one(store, "s1", done(status="failed"))
    assert await dump(store) == before


async def check_complete_step_of_a_final_run_wakes_nobody(store: Store, clock: FakeClock) -> None:
    await leased_step(store, owner="s2")
    await must(store, "s2", turn("r", 2, settle=Settle("completed", "1")))
    run = await run_of(store, "r")
    await one(store, "s1", done())
    after = await run_of(store, "r")
    assert (after.status, after.output, after.finished_us) == ("completed", "1", run.finished_us)
    assert (after.queued, after.deliveries) == (False, run.deliveries)
    assert list((await store.apply("s2", [], {INLINE_QUEUE: 5})).inbox) == []


# --- cancel_run, resume_run, release_run ----------------------------------------------------------


async def check_cancel_run_tells_the_owner_once(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s2", CancelRun("r", "first"))
    before = await dump(store)
    await must(store, "s2", CancelRun("r", "second"))
    assert await dump(store) == before
    run = await run_of(store, "r")
    assert (run.status, run.cancel_reason, run.cancel_us) == ("running", "first", clock.now_us())
    mail = list((await store.apply("s1", [], {})).inbox)
    assert [(each.what, each.key, each.error, each.number) for each in mail] == [
        ("cancel", "cancel", "first", 1)
    ]
    assert [entry.kind for entry in await store.load_history("r")] == ["cancel"]


async def check_cancel_run_queues_a_parked_run_once(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    nap = write("nap", "scheduled", kind="sleep", wait_us=SECOND_US)
    await must(store, "s1", turn("r", 1, asks=[nap], settle=Settle("running")))
    await must(store, "s2", CancelRun("r", "x"))
    assert await claim(store, "s1") == ["r"]
    assert await claim(store, "s1") == []
    clock.move_to(clock.now_us() + 2 * SECOND_US)
    reply = await must(store, "s1", FireTimers())
    assert list(reply.inbox) == []
    assert (await step_of(store, "r", "nap")).status == "scheduled"


async def check_cancel_run_opens_a_suspended_run(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, settle=Settle("suspended", reason="requested")))
    await must(store, "s2", CancelRun("r", "x"))
    run = await run_of(store, "r")
    assert (run.status, run.suspend_reason) == ("running", None)
    assert await claim(store, "s1") == ["r"]


async def check_cancel_run_of_an_unknown_run_is_refused(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await refused(store, "s1", CancelRun("nobody", "x"), "not_found")


async def check_resume_run_opens_a_suspended_run_once(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    settle = Settle("suspended", error='{"type": "N"}', reason="nondeterminism")
    await must(store, "s1", turn("r", 1, settle=settle))
    await must(store, "s2", ResumeRun("r"))
    run = await run_of(store, "r")
    assert (run.status, run.suspend_reason, run.error) == ("running", None, None)
    await refused(store, "s2", ResumeRun("r"), "not_suspended")
    assert await claim(store, "s1") == ["r"]
    assert await claim(store, "s1") == []
    assert [entry.kind for entry in await store.load_history("r")] == ["suspend", "resume"]


async def check_resume_run_of_a_run_that_is_not_suspended_is_refused(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await refused(store, "s2", ResumeRun("r"), "not_suspended")
    await must(store, "s1", turn("r", 1, settle=Settle("running")))
    await refused(store, "s2", ResumeRun("r"), "not_suspended")
    await refused(store, "s2", ResumeRun("nobody"), "not_found")
    assert await claim(store, "s1") == []


async def check_a_suspended_run_is_opened_by_nothing_but_resume_and_cancel(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    asks = [
        write("a", "running"),
        write("nap", "scheduled", kind="sleep", wait_us=SECOND_US),
        write("again", "scheduled", attempt=2, wait_us=SECOND_US),
    ]
    await must(store, "s1", turn("r", 1, asks=asks))
    await must(store, "s1", turn("r", 2, settle=Settle("suspended", reason="requested")))
    await must(store, "s1", CompleteStep("r", "a", 1, "succeeded", "1", None))
    clock.move_to(clock.now_us() + 2 * SECOND_US)
    await must(store, "s1", FireTimers(), ReapSessions())
    assert (await run_of(store, "r")).status == "suspended"
    assert await claim(store, "s1") == []
    await must(store, "s1", ResumeRun("r"))
    reply = await store.apply("s1", [], {INLINE_QUEUE: 5})
    steps = {step.key: step for step in reply.claimed[0].steps}
    assert (steps["a"].status, steps["nap"].status) == ("succeeded", "succeeded")


async def check_release_run_queues_it_for_somebody_else(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("a", "running")]))
    await must(store, "s1", ReleaseRun("r"))
    run = await run_of(store, "r")
    assert (run.owner, run.queued, run.status) == (None, True, "running")
    await refused(store, "s1", ReleaseRun("r"), "fenced")
    await refused(store, "s1", turn("r", 2), "fenced")
    store.beat("s2", LEASE_US)
    assert await claim(store, "s2") == ["r"]
    assert await claim(store, "s2") == []


async def check_release_run_by_another_session_is_fenced(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await refused(store, "s2", ReleaseRun("r"), "fenced")
    await refused(store, "s1", ReleaseRun("nobody"), "not_found")


# --- fire_timers ----------------------------------------------------------------------------------


async def check_fire_timers_never_early_and_once(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    begun = clock.now_us()
    asks = [
        write("wait", "scheduled", kind="sleep", wait_us=SECOND_US),
        write("until", "scheduled", kind="sleep", until_us=begun + 2 * SECOND_US),
    ]
    reply = await must(store, "s1", turn("r", 1, asks=asks))
    assert reply.next_due_us == begun + SECOND_US
    for now, ended in (
        (SECOND_US - 1, 0),
        (SECOND_US, 1),
        (2 * SECOND_US - 1, 1),
        (2 * SECOND_US, 2),
    ):
        clock.move_to(begun + now)
        await must(store, "s2", FireTimers())
        await must(store, "s2", FireTimers())
        assert (await run_of(store, "r")).deliveries == ended
    mail = [
        (each.key, each.number, each.status) for each in (await store.apply("s1", [], {})).inbox
    ]
    assert mail == [("wait", 1, "succeeded"), ("until", 2, "succeeded")]
    assert (await step_of(store, "r", "wait")).finished_us == begun + SECOND_US
    assert (await store.apply("s1", [], {})).next_due_us is None


async def check_fire_timers_ends_sleeps_in_the_order_in_which_they_are_due(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    waits = {"c": 3, "a": 1, "b": 2}
    asks = [write(key, "scheduled", kind="sleep", wait_us=us) for key, us in waits.items()]
    await must(store, "s1", turn("r", 1, asks=asks))
    clock.move_to(clock.now_us() + 10)
    await must(store, "s1", FireTimers())
    assert [(await step_of(store, "r", key)).delivery for key in "abc"] == [1, 2, 3]


async def check_fire_timers_wakes_every_sleeper_even_of_one_instant(
    store: Store, clock: FakeClock
) -> None:
    store.beat("s1", LEASE_US)
    nap = write("nap", "scheduled", kind="sleep", wait_us=1000)
    for number in range(60):
        await must(store, "s1", new_run(f"r{number}", claim=True))
        await must(store, "s1", turn(f"r{number}", 1, asks=[nap], settle=Settle("running")))
    clock.move_to(clock.now_us() + 1000)
    await must(store, "s1", FireTimers(limit=25))
    first = await claim(store, "s1", 100)
    assert len(first) == 25
    await must(store, "s1", FireTimers(limit=25), FireTimers(limit=25))
    assert len({*first, *await claim(store, "s1", 100)}) == 60


async def check_fire_timers_announces_a_retry_without_a_delivery_number(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    retry = write("a", "scheduled", attempt=2, failures=1, wait_us=SECOND_US)
    await must(store, "s1", turn("r", 1, asks=[write("a", "running")]))
    await must(store, "s1", turn("r", 2, ends=[retry]))
    clock.move_to(clock.now_us() + SECOND_US)
    reply = await must(store, "s1", FireTimers())
    assert [(mail.key, mail.what, mail.number) for mail in reply.inbox] == [("a", "retry", 0)]
    step, run = await step_of(store, "r", "a"), await run_of(store, "r")
    assert (step.status, step.attempt, run.deliveries) == ("scheduled", 2, 0)


async def check_fire_timers_queues_a_parked_run_once_for_two_timers(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    asks = [
        write("nap", "scheduled", kind="sleep", wait_us=1),
        write("a", "scheduled", attempt=2, wait_us=1),
    ]
    await must(store, "s1", turn("r", 1, asks=asks, settle=Settle("running")))
    clock.move_to(clock.now_us() + 1)
    await must(store, "s1", FireTimers())
    assert await claim(store, "s1") == ["r"]
    assert await claim(store, "s1") == []


async def check_fire_timers_asks_a_run_past_its_timeout_to_unwind(
    store: Store, clock: FakeClock
) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True, timeout_us=SECOND_US))
    clock.move_to(clock.now_us() + SECOND_US - 1)
    await must(store, "s1", FireTimers())
    assert (await run_of(store, "r")).cancel_us is None
    clock.move_to(clock.now_us() + 1)
    reply = await must(store, "s1", FireTimers())
    assert [(mail.what, mail.key) for mail in reply.inbox] == [("cancel", "timeout")]
    run = await run_of(store, "r")
    assert (run.status, run.cancel_kind, run.cancel_us) == ("running", "timeout", clock.now_us())


# --- claims, reap_sessions ------------------------------------------------------------------------


async def check_claim_is_exclusive_and_first_come_first_served(
    store: Store, clock: FakeClock
) -> None:
    store.beat("s1", LEASE_US)
    store.beat("s2", LEASE_US)
    for number in range(6):
        await must(store, "s1", new_run(f"r{number}"))
    got = [await claim(store, session, 2) for session in ("s1", "s2", "s1", "s2")]
    assert got == [["r0", "r1"], ["r2", "r3"], ["r4", "r5"], []]
    assert [(await run_of(store, f"r{n}")).owner for n in range(6)] == ["s1", "s1", "s2", "s2"] + [
        "s1"
    ] * 2


async def check_claim_comes_with_all_steps(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write(f"step {n}", "running") for n in range(30)]))
    await must(store, "s1", ReleaseRun("r"))
    reply = await store.apply("s1", [], {INLINE_QUEUE: 1})
    loaded = reply.claimed[0]
    assert loaded == await store.load_steps("r")
    assert len(loaded.steps) == 30
    assert loaded.run.owner == "s1"


async def check_claim_takes_only_from_the_queues_asked_for(store: Store, clock: FakeClock) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("inline"), new_run("remote", inline=False))
    reply = await store.apply("s1", [], {"other": 5})
    assert list(reply.claimed) == []
    reply = await store.apply("s1", [], {INLINE_QUEUE: 5, ORCHESTRATOR_QUEUE: 5})
    assert sorted(loaded.run.run_id for loaded in reply.claimed) == ["inline", "remote"]


async def check_claim_passes_over_a_run_that_ended_in_the_queue(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", ReleaseRun("r"))
    assert await claim(store, "s1") == ["r"]
    await must(store, "s1", turn("r", 1, settle=Settle("completed", "1")))
    assert await claim(store, "s1") == []


async def check_reap_sessions_takes_only_from_the_expired(store: Store, clock: FakeClock) -> None:
    await owned(store, "a", "b")
    await must(store, "s1", turn("a", 1, asks=[write("x", "running")]))
    clock.move_to(clock.now_us() + LEASE_US - 10)
    await owned(store, "c", session="s2")
    await must(store, "s2", ReapSessions())
    assert await claim(store, "s2") == []
    clock.move_to(clock.now_us() + 11)
    await must(store, "s2", ReapSessions())
    assert sorted(await claim(store, "s2")) == ["a", "b"]
    assert [(await run_of(store, run_id)).owner for run_id in "abc"] == ["s2"] * 3
    step = await step_of(store, "a", "x")
    assert (step.status, step.attempt, step.worker) == ("running", 1, "s1")


async def check_reap_sessions_leaves_a_zombie_nothing_to_write(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("a", "running")]))
    clock.move_to(clock.now_us() + LEASE_US + 1)
    store.beat("s2", LEASE_US)
    await must(store, "s2", ReapSessions())
    assert await claim(store, "s2") == ["r"]
    await must(store, "s2", turn("r", 2, asks=[write("a", "running", attempt=2)]))
    end = write("a", "succeeded", result='"zombie"', deliver=True)
    for op in (turn("r", 2, ends=[end]), turn("r", 3, ends=[end]), ReleaseRun("r")):
        await refused(store, "s1", op, "fenced")
    await refused(store, "s1", CompleteStep("r", "a", 1, "succeeded", '"zombie"', None), "fenced")
    assert await claim(store, "s1") == []


async def check_commit_made_again_hides_none_of_its_steps(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    job = write("job", "scheduled")._replace(queue=DEFAULT_QUEUE, position=1)
    asks = [write("nap", "scheduled", kind="sleep", wait_us=SECOND_US), job]
    await must(store, "s1", turn("r", 1, asks=asks))
    clock.move_to(clock.now_us() + SECOND_US)
    reply = await store.apply("s1", [turn("r", 1, asks=asks), FireTimers()], {JOB_QUEUE: 5})
    assert [result.code for result in reply.results] == ["ok", "ok"]
    assert [job.step.key for job in reply.jobs] == ["job"]
    assert (await step_of(store, "r", "nap")).status == "succeeded"


async def check_reap_sessions_gives_nothing_to_a_session_that_it_takes_from(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "mine")
    store.beat("s2", 10 * LEASE_US)
    await must(store, "s2", new_run("waiting"))
    clock.move_to(clock.now_us() + LEASE_US + 1)
    reply = await store.apply("s1", [ReapSessions()], {INLINE_QUEUE: 5})
    assert (reply.session_alive, reply.claimed) == (False, [])
    assert [(await run_of(store, run_id)).owner for run_id in ("mine", "waiting")] == [None] * 2
    assert sorted(await claim(store, "s2")) == ["mine", "waiting"]


async def check_reap_sessions_is_bounded_and_goes_on(store: Store, clock: FakeClock) -> None:
    await owned(store, *[f"r{number}" for number in range(7)])
    clock.move_to(clock.now_us() + LEASE_US + 1)
    store.beat("s2", LEASE_US)
    found: list[str] = []
    for _ in range(5):
        await must(store, "s2", ReapSessions(limit=3))
        got = await claim(store, "s2", 100)
        assert len(got) <= 3
        found += got
    assert sorted(found) == [f"r{number}" for number in range(7)]


async def check_reap_sessions_leaves_what_has_ended(store: Store, clock: FakeClock) -> None:
    await owned(store, "done", "suspended", "parked")
    await must(
        store,
        "s1",
        turn("done", 1, settle=Settle("completed", "1")),
        turn("suspended", 1, settle=Settle("suspended", reason="requested")),
        turn("parked", 1, settle=Settle("running")),
    )
    clock.move_to(clock.now_us() + LEASE_US + 1)
    store.beat("s2", LEASE_US)
    before = await dump(store)
    await must(store, "s2", ReapSessions())
    assert await dump(store) == before
    assert await claim(store, "s2") == []


# --- jobs -----------------------------------------------------------------------------------------


def job(
    key: str,
    *,
    attempt: int = 1,
    queue: str = DEFAULT_QUEUE,
    handled: bool = False,
    wait_us: int | None = None,
    kind: StepKindName = "rpc",
    lost: int = 0,
) -> StepWrite:
    """A step that is to cross a queue."""
    made = write(key, "scheduled", attempt=attempt, kind=kind, wait_us=wait_us)
    return made._replace(queue=queue, job='{"job": "é"}', handled=handled, lost=lost)


async def dispatched(
    store: Store,
    *asks: StepWrite,
    parked: bool = False,
    run_id: str = "r",
    timeout_us: int | None = None,
) -> None:
    """A run of session `s1` (or parked) that has asked for *asks*; `s2` and `s3` are there too."""
    for session in ("s1", "s2", "s3"):
        store.beat(session, LEASE_US)
    op = new_run(run_id, claim=True, inline=False, timeout_us=timeout_us)
    await must(store, "s1", op)
    await must(store, "s1", turn(run_id, 1, asks=asks))
    if parked:
        await must(store, "s1", turn(run_id, 2, settle=Settle("running")))


async def grab(store: Store, session: str, count: int = 10, queue: str = JOB_QUEUE) -> list[Job]:
    """The jobs that a session gets when it asks for some."""
    reply = await store.apply(session, [], {queue: count})
    assert list(reply.claimed) == []
    return list(reply.jobs)


async def got(store: Store, session: str, *keys: str, run_id: str = "r") -> list[Job]:
    """Have a session claim jobs, which have to be these."""
    jobs = await grab(store, session)
    assert sorted((each.run_id, each.step.key) for each in jobs) == [
        (run_id, key) for key in sorted(keys)
    ]
    return jobs


async def nothing_to_grab(store: Store, *sessions: str) -> None:
    for session in sessions or ("s1", "s2", "s3"):
        assert await grab(store, session) == [], f"{session} got a job"


async def orchestrated(store: Store, session: str) -> list[str]:
    """The remote runs that a session gets when it asks for work."""
    reply = await store.apply(session, [], {ORCHESTRATOR_QUEUE: 10})
    return [loaded.run.run_id for loaded in reply.claimed]


async def mail_of(store: Store, session: str) -> list[Delivery]:
    return list((await store.apply(session, [], {})).inbox)


async def repeated(store: Store, session: str, op: Op) -> None:
    """Assert that *op*, sent again as after a lost answer, changes nothing."""
    before = await dump(store)
    await one(store, session, op)
    await one(store, session, op)
    assert await dump(store) == before, f"a repeated {type(op).__name__} changed something"


async def expire(store: Store, clock: FakeClock, *alive: str) -> None:
    """Let the leases of all sessions run out, but for those that are *alive*."""
    for session in alive:
        store.beat(session, 2 * LEASE_US)
    clock.move_to(clock.now_us() + LEASE_US + 1)


def ended_by(saying: str, attempt: int, *, key: str = "a") -> Op:
    """What an executor may say of its attempt."""
    ops: dict[str, Op] = {
        "done": CompleteStep("r", key, attempt, "succeeded", '"stale"', None),
        "failed": CompleteStep("r", key, attempt, "failed", None, '"stale"'),
        "retried": CompleteStep("r", key, attempt, "failed", None, '"stale"', retry_us=0),
        "put off": CompleteStep("r", key, attempt, "failed", None, '"stale"', retry_us=9),
        "begin": BeginStep("r", key, attempt),
        "release": ReleaseStep("r", key, attempt),
        "put back": ReleaseStep("r", key, attempt, 9),
        "progress": ReportProgress("r", key, attempt, '"stale"'),
    }
    return ops[saying]


SAYINGS = ("done", "failed", "retried", "put off", "begin", "release", "put back", "progress")


async def silenced(store: Store, session: str, attempt: int, *, key: str = "a") -> None:
    """Assert that nothing that *session* says of an attempt counts."""
    for saying in SAYINGS:
        op = ended_by(saying, attempt, key=key)
        if saying in ("retried", "put off"):  # which look like the repeat of a failure
            await repeated(store, session, op)
        else:
            await refused(store, session, op, "fenced")


def step_word(number: int, key: str = "a", attempt: int = 1) -> Delivery:
    return Delivery("r", number, key, "step", "succeeded", '"done"', None, attempt)


async def check_job_is_granted_once(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a", handled=True))
    asked = await step_of(store, "r", "a")
    assert (asked.status, asked.worker, asked.queue) == ("scheduled", None, DEFAULT_QUEUE)
    clock.move_to(clock.now_us() + 5)
    [granted] = await got(store, "s2", "a")
    step = await step_of(store, "r", "a")
    assert granted == Job("r", "flow", step)
    assert (step.status, step.worker, step.attempt, step.lost) == ("running", "s2", 1, 0)
    assert (step.started_us, step.input, step.job) == (clock.now_us(), '"input"', '{"job": "é"}')
    assert (step.kind, step.target, step.handled) == ("rpc", "target", True)
    await nothing_to_grab(store)


async def check_job_of_a_repeated_commit_is_granted_once(store: Store, clock: FakeClock) -> None:
    await dispatched(store)
    op = turn("r", 2, asks=[job("a"), job("b")])
    await must(store, "s1", op)
    await must(store, "s1", op)
    await got(store, "s2", "a", "b")
    await must(store, "s1", op)
    await nothing_to_grab(store)
    await must(store, "s2", done())
    await must(store, "s1", op)
    await nothing_to_grab(store)


async def check_job_is_granted_in_the_batch_that_makes_it(store: Store, clock: FakeClock) -> None:
    await dispatched(store)
    reply = await store.apply("s1", [turn("r", 2, asks=[job("a")])], {JOB_QUEUE: 1})
    assert [each.step.key for each in reply.jobs] == ["a"]
    assert (await step_of(store, "r", "a")).worker == "s1"
    await nothing_to_grab(store)


async def check_job_that_must_wait_is_not_granted_before_its_time(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a", wait_us=SECOND_US), parked=True)
    begun = clock.now_us()
    assert (await store.apply("s1", [], {})).next_due_us == begun + SECOND_US
    clock.move_to(begun + SECOND_US - 1)
    await must(store, "s1", FireTimers())
    await nothing_to_grab(store)
    clock.move_to(begun + SECOND_US)
    await must(store, "s1", FireTimers(), FireTimers())
    assert await orchestrated(store, "s1") == []
    await got(store, "s2", "a")
    await nothing_to_grab(store)


async def check_job_put_off_again_is_not_granted_at_its_earlier_time(
    store: Store, clock: FakeClock
) -> None:
    begun = clock.now_us()
    await dispatched(store, job("a", wait_us=SECOND_US))
    await must(store, "s1", turn("r", 2, asks=[job("a", attempt=2, wait_us=3 * SECOND_US)]))
    clock.move_to(begun + 2 * SECOND_US)
    await must(store, "s1", FireTimers())
    await nothing_to_grab(store)
    clock.move_to(begun + 3 * SECOND_US)
    await must(store, "s1", FireTimers())
    await got(store, "s2", "a")
    await nothing_to_grab(store)


async def check_job_whose_step_its_owner_executes_is_not_granted(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"), job("b"))
    running = job("a")._replace(status="running", queue=None, job=None)
    failed = job("b")._replace(status="failed", error='"why"', deliver=True)
    await must(store, "s1", turn("r", 2, ends=[failed], asks=[running]))
    await nothing_to_grab(store)
    assert (await step_of(store, "r", "a")).worker == "s1"


async def check_job_is_taken_over_by_a_later_attempt(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s1", turn("r", 2, asks=[job("a", attempt=2)]))
    await silenced(store, "s2", 1)
    [granted] = await got(store, "s3", "a")
    assert granted.step.attempt == 2
    await expire(store, clock, "s1", "s3")
    await must(store, "s1", ReapSessions())
    step = await step_of(store, "r", "a")
    assert (step.status, step.worker, step.attempt, step.lost) == ("running", "s3", 2, 0)


async def check_claim_takes_jobs_only_from_wanted_queues_and_no_more_than_wanted(
    store: Store, clock: FakeClock
) -> None:
    asks = [*(job(key) for key in "abc"), job("other", queue="mail"), job("far", queue="reports")]
    await dispatched(store, *asks)
    await must(store, "s1", new_run("waiting", inline=False))
    assert await grab(store, "s2", 0) == []
    assert await grab(store, "s2", queue=DEFAULT_QUEUE) == []
    reply = await store.apply("s2", [], {JOB_QUEUE: 2, "jobs:mail": 5, "jobs:empty": 5})
    assert sorted(each.step.key for each in reply.jobs) == ["a", "b", "other"]
    assert (list(reply.claimed), list(reply.more)) == ([], [JOB_QUEUE])
    reply = await store.apply("s3", [], {JOB_QUEUE: 5, ORCHESTRATOR_QUEUE: 5})
    assert [each.step.key for each in reply.jobs] == ["c"]
    assert [loaded.run.run_id for loaded in reply.claimed] == ["waiting"]
    reply = await store.apply("s3", [], {JOB_QUEUE: 5, ORCHESTRATOR_QUEUE: 5, "jobs:mail": 5})
    assert (list(reply.jobs), list(reply.claimed), list(reply.more)) == ([], [], [])
    assert [each.step.key for each in await grab(store, "s2", queue="jobs:reports")] == ["far"]


async def check_claim_tells_of_more_until_nothing_is_left(store: Store, clock: FakeClock) -> None:
    await dispatched(store, *(job(f"{number}") for number in range(5)))
    await must(store, "s1", *(new_run(f"r{number}", inline=False) for number in range(5)))
    found: list[str] = []
    for _ in range(20):
        reply = await store.apply("s2", [], {JOB_QUEUE: 1, ORCHESTRATOR_QUEUE: 2})
        found += [each.step.key for each in reply.jobs]
        found += [loaded.run.run_id for loaded in reply.claimed]
        left = {JOB_QUEUE, ORCHESTRATOR_QUEUE} & set(reply.more)
        if not left and not reply.jobs and not reply.claimed:
            break
        if JOB_QUEUE not in reply.more:
            assert len([each for each in found if len(each) == 1]) == 5
    assert len(found) == len(set(found)) == 10


async def check_claim_passes_over_jobs_that_nobody_wants(store: Store, clock: FakeClock) -> None:
    stale = [job(f"stale {number}") for number in range(5)]
    await dispatched(store, *stale, job("again"))
    running = [each._replace(status="running", queue=None, job=None) for each in stale]
    await must(store, "s1", turn("r", 2, asks=[*running, job("again", attempt=2)]))
    found: list[tuple[str, int]] = []
    for _ in range(20):
        reply = await store.apply("s2", [], {JOB_QUEUE: 1})
        found += [(each.step.key, each.step.attempt) for each in reply.jobs]
        if JOB_QUEUE not in reply.more:
            break
    assert found == [("again", 2)]


async def check_claim_shares_jobs_between_sessions(store: Store, clock: FakeClock) -> None:
    keys = [f"step {number}" for number in range(9)]
    await dispatched(store, *(job(key) for key in keys))
    held: dict[str, str] = {}
    for turn_of in ("s1", "s2", "s3") * 3:
        for each in await grab(store, turn_of, 2):
            assert each.step.key not in held
            held[each.step.key] = turn_of
    assert sorted(held) == keys
    for key, session in held.items():
        assert (await step_of(store, "r", key)).worker == session


async def check_a_session_that_never_beat_gets_no_jobs(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"))
    assert await grab(store, "stranger") == []
    await got(store, "s2", "a")


async def check_claim_after_the_session_was_reaped_gets_no_jobs(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await expire(store, clock, "s1")
    await must(store, "s1", ReapSessions())
    assert await grab(store, "s2") == []
    await got(store, "s1", "a")


# --- begin_step -----------------------------------------------------------------------------------


async def lost_before(store: Store, clock: FakeClock, *asks: StepWrite) -> None:
    """Jobs whose attempt was lost with session `dead` and that wait for their next."""
    store.beat("dead", LEASE_US)
    await dispatched(store, *(asks or (job("a"),)))
    assert len(await grab(store, "dead")) == len(asks or "a")
    await expire(store, clock, "s1", "s2", "s3")
    await must(store, "s1", ReapSessions())


async def check_begin_step_begins_what_was_lost_before(store: Store, clock: FakeClock) -> None:
    await lost_before(store, clock)
    [granted] = await got(store, "s2", "a")
    step = await step_of(store, "r", "a")
    assert granted == Job("r", "flow", step)
    assert (step.status, step.worker, step.attempt, step.lost) == ("scheduled", "s2", 2, 1)
    await nothing_to_grab(store)
    for saying in ("done", "failed", "retried", "put off", "progress"):
        await refused(store, "s2", ended_by(saying, 2), "fenced")
    await refused(store, "s3", BeginStep("r", "a", 2), "fenced")
    for attempt in (1, 3):
        await refused(store, "s2", BeginStep("r", "a", attempt), "fenced")
    clock.move_to(clock.now_us() + 5)
    begin = BeginStep("r", "a", 2)
    await must(store, "s2", begin)
    step = await step_of(store, "r", "a")
    assert (step.status, step.worker, step.started_us) == ("running", "s2", clock.now_us())
    clock.move_to(clock.now_us() + 5)
    await repeated(store, "s2", begin)
    await must(store, "s2", begin, done(attempt=2))
    assert await mail_of(store, "s1") == [step_word(1, attempt=2)]


async def check_begin_step_of_a_step_its_owner_says_was_lost(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a", attempt=2, lost=1))
    [granted] = await got(store, "s2", "a")
    assert (granted.step.status, granted.step.worker) == ("scheduled", "s2")
    await must(store, "s2", BeginStep("r", "a", 2), done(attempt=2))


async def check_begin_step_of_what_is_not_claimed_is_refused(
    store: Store, clock: FakeClock
) -> None:
    await lost_before(store, clock)
    await refused(store, "s2", BeginStep("r", "a", 2), "fenced")
    await refused(store, "s2", BeginStep("r", "nothing", 1), "not_found")
    await refused(store, "s2", BeginStep("nobody", "a", 1), "not_found")
    await got(store, "s2", "a")
    await must(store, "s2", BeginStep("r", "a", 2), done(attempt=2))
    await refused(store, "s2", BeginStep("r", "a", 2), "fenced")


# --- complete_step of a job -----------------------------------------------------------------------


async def check_complete_step_of_a_job_tells_the_owner_once(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"), job("b"))
    await got(store, "s2", "a", "b")
    clock.move_to(clock.now_us() + 5)
    await must(store, "s2", done("b"), done("a"))
    await repeated(store, "s2", done("a"))
    await repeated(store, "s2", done("b"))
    assert await mail_of(store, "s1") == [step_word(1, "b"), step_word(2, "a")]
    assert await mail_of(store, "s1") == []
    step, run = await step_of(store, "r", "a"), await run_of(store, "r")
    assert (step.status, step.result, step.delivery) == ("succeeded", '"done"', 2)
    assert (step.worker, step.finished_us, run.updated_us) == ("s2", *[clock.now_us()] * 2)
    assert (run.owner, run.queued, run.deliveries) == ("s1", False, 2)
    assert await store.load_history("r") == []
    await nothing_to_grab(store)


async def check_complete_step_by_the_owner_itself_comes_with_the_answer(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s1", "a")
    reply = await must(store, "s1", done())
    assert list(reply.inbox) == [step_word(1)]
    await must(store, "s1", turn("r", 2, 1, asks=[job("b")]))


async def check_complete_step_of_jobs_queues_a_parked_run_once(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"), job("b"), parked=True)
    await got(store, "s2", "a", "b")
    await must(store, "s2", done("b", status="failed"))
    await must(store, "s2", done("a"))
    await repeated(store, "s2", done("a"))
    reply = await store.apply("s3", [], {ORCHESTRATOR_QUEUE: 5})
    [loaded] = reply.claimed
    steps = {step.key: step for step in loaded.steps}
    assert [steps[key].delivery for key in "ba"] == [1, 2]
    assert (steps["b"].status, steps["b"].error, steps["b"].failures) == ("failed", '"why"', 1)
    assert await orchestrated(store, "s1") == await orchestrated(store, "s2") == []
    assert await mail_of(store, "s1") == await mail_of(store, "s2") == []


async def check_complete_step_keeps_a_run_from_parking_unread(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"), job("b", handled=True))
    await got(store, "s2", "a", "b")
    await must(store, "s2", done("b", status="failed"))
    reply = await store.apply("s1", [turn("r", 2, settle=Settle("running"))], {MAIL: 1})
    assert [result.code for result in reply.results] == ["conflict"]
    assert [mail.what for mail in reply.inbox] == ["handle"]
    await must(store, "s2", done("a"))
    await refused_and_read(store, turn("r", 2, 0, settle=Settle("running")))
    await must(store, "s1", turn("r", 2, 1, settle=Settle("running")))


async def refused_and_read(store: Store, op: Commit) -> None:
    reply = await store.apply("s1", [op], {MAIL: 1})
    assert [result.code for result in reply.results] == ["conflict"]
    assert len(reply.inbox) == 1


async def check_complete_step_that_failed_for_good_is_delivered(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s2", done(status="failed"))
    await repeated(store, "s2", done(status="failed"))
    assert await mail_of(store, "s1") == [Delivery("r", 1, "a", "step", "failed", None, '"why"', 1)]
    step = await step_of(store, "r", "a")
    assert (step.status, step.failures, step.attempt, step.error) == ("failed", 1, 1, '"why"')
    await nothing_to_grab(store)


async def check_complete_step_leaves_a_handled_failure_to_its_handler(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a", handled=True), job("b", handled=True))
    await got(store, "s2", "a", "b")
    failed = done(status="failed")
    await must(store, "s2", failed)
    await repeated(store, "s2", failed)
    assert await mail_of(store, "s1") == [
        Delivery("r", 0, "a", "handle", "failed", None, '"why"', 1)
    ]
    step = await step_of(store, "r", "a")
    assert (step.status, step.delivery, step.failures) == ("failed", None, 1)
    assert (await run_of(store, "r")).deliveries == 0
    handler = job("a!", kind="on_error")
    await must(store, "s1", turn("r", 2, asks=[handler]))
    await got(store, "s3", "a!")
    await must(store, "s3", done("a!"))
    await repeated(store, "s3", done("a!"))
    [word] = await mail_of(store, "s1")
    assert (word.what, word.key, word.number, word.status) == ("handle", "a!", 0, "succeeded")
    assert (await step_of(store, "r", "a!")).status == "succeeded"
    assert (await run_of(store, "r")).deliveries == 0
    end = write("a", "failed", error='"why"', failures=1, deliver=True)
    await must(store, "s1", turn("r", 3, 0, ends=[end]))
    assert (await step_of(store, "r", "a")).delivery == 1
    await must(store, "s2", done("b"))
    assert await mail_of(store, "s1") == [step_word(2, "b")]


async def check_complete_step_of_a_handler_that_failed_is_no_delivery(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a!", kind="on_error"), parked=True)
    await got(store, "s2", "a!")
    await must(store, "s2", done("a!", status="failed"))
    step, run = await step_of(store, "r", "a!"), await run_of(store, "r")
    assert (step.status, step.error, step.delivery) == ("failed", '"why"', None)
    assert (run.deliveries, run.queued) == (0, True)
    assert await orchestrated(store, "s3") == ["r"]
    assert await orchestrated(store, "s3") == []


async def check_complete_step_of_a_handled_failure_queues_a_parked_run_once(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a", handled=True), job("b", handled=True), parked=True)
    await got(store, "s2", "a", "b")
    await must(store, "s2", done("a", status="failed"), done("b", status="failed"))
    assert (await run_of(store, "r")).deliveries == 0
    assert await orchestrated(store, "s3") == ["r"]
    assert await orchestrated(store, "s3") == []


async def check_complete_step_with_a_retry_at_once(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a", handled=True))
    await got(store, "s2", "a")
    clock.move_to(clock.now_us() + 5)
    failed = done(status="failed")._replace(retry_us=0)
    await must(store, "s2", failed)
    assert await store.load_history("r") == [
        HistoryEntry("attempt_failed", "a", 1, '"why"', clock.now_us())
    ]
    step, run = await step_of(store, "r", "a"), await run_of(store, "r")
    assert (step.status, step.attempt, step.failures, step.lost) == ("scheduled", 2, 1, 0)
    assert (step.worker, step.delivery, run.deliveries, run.queued) == (None, None, 0, False)
    assert (await one(store, "s2", failed)).code == "ok"
    await repeated(store, "s2", failed)
    assert await mail_of(store, "s1") == []
    [granted] = await got(store, "s3", "a")
    assert (granted.step.status, granted.step.attempt) == ("running", 2)
    assert (granted.step.job, granted.step.input) == ('{"job": "é"}', '"input"')
    await repeated(store, "s2", failed)
    await nothing_to_grab(store)
    await silenced(store, "s2", 2)
    await must(store, "s3", done(attempt=2))
    await repeated(store, "s2", failed)
    assert await mail_of(store, "s1") == [step_word(1, attempt=2)]
    assert len(await store.load_history("r")) == 1


async def check_complete_step_with_a_retry_later(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"), parked=True)
    await got(store, "s2", "a")
    failed = done(status="failed")._replace(retry_us=SECOND_US)
    begun = clock.now_us()
    reply = await must(store, "s2", failed)
    assert reply.next_due_us == begun + SECOND_US
    clock.move_to(begun + 10)
    assert (await one(store, "s2", failed)).code == "ok"
    await repeated(store, "s2", failed)
    step = await step_of(store, "r", "a")
    assert (step.status, step.attempt, step.due_us) == ("scheduled", 2, begun + SECOND_US)
    clock.move_to(begun + SECOND_US - 1)
    await must(store, "s1", FireTimers())
    await nothing_to_grab(store)
    clock.move_to(begun + SECOND_US)
    await must(store, "s1", FireTimers())
    assert await orchestrated(store, "s1") == []
    await got(store, "s3", "a")
    await must(store, "s1", FireTimers())
    await nothing_to_grab(store)
    await must(store, "s3", done(attempt=2))
    assert await orchestrated(store, "s1") == ["r"]


async def check_complete_step_counts_each_failure(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"))
    for attempt in (1, 2, 3):
        [granted] = await got(store, "s2" if attempt % 2 else "s3", "a")
        assert (granted.step.attempt, granted.step.failures) == (attempt, attempt - 1)
        assert granted.step.worker is not None
        failed = done(attempt=attempt, status="failed")
        last = attempt == 3
        await must(store, granted.step.worker, failed._replace(retry_us=None if last else 0))
    step = await step_of(store, "r", "a")
    assert (step.status, step.attempt, step.failures) == ("failed", 3, 3)
    kinds = [(entry.kind, entry.attempt) for entry in await store.load_history("r")]
    assert kinds == [("attempt_failed", 1), ("attempt_failed", 2)]
    [word] = await mail_of(store, "s1")
    assert (word.number, word.status, word.attempt) == (1, "failed", 3)


async def check_complete_step_is_not_retried_once_its_run_unwinds(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"), job("b", handled=True), job("c"))
    await got(store, "s2", "a", "b", "c")
    await must(store, "s3", CancelRun("r", "enough"))
    retried = done(status="failed")._replace(retry_us=0)
    await must(store, "s2", retried, retried._replace(key="b", retry_us=SECOND_US))
    await repeated(store, "s2", retried)
    steps = [await step_of(store, "r", key) for key in "ab"]
    assert [(s.status, s.attempt, s.failures, s.delivery) for s in steps] == [
        ("failed", 1, 1, 2),
        ("failed", 1, 1, None),
    ]
    words = [(word.what, word.key, word.number) for word in await mail_of(store, "s1")]
    assert words == [("cancel", "cancel", 1), ("step", "a", 2), ("handle", "b", 0)]
    await must(store, "s2", done("c"))
    assert (await step_of(store, "r", "c")).delivery == 3
    clock.move_to(clock.now_us() + 2 * SECOND_US)
    await must(store, "s1", FireTimers())
    await nothing_to_grab(store)


async def check_complete_step_of_a_job_of_a_suspended_run_waits_for_resume(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s1", turn("r", 2, settle=Settle("suspended", reason="requested")))
    await must(store, "s2", done())
    assert (await step_of(store, "r", "a")).delivery == 1
    assert await orchestrated(store, "s1") == []
    assert await mail_of(store, "s1") == []
    await must(store, "s1", ResumeRun("r"))
    reply = await store.apply("s1", [], {ORCHESTRATOR_QUEUE: 5})
    assert [step.status for step in reply.claimed[0].steps] == ["succeeded"]


async def check_complete_step_of_a_job_after_the_end_is_recorded_undelivered(
    store: Store, clock: FakeClock
) -> None:
    for number, settle in enumerate((Settle("completed", "1"), Settle("cancelled", error="{}"))):
        run_id = f"r{number}"
        keys = [f"{run_id} {each}" for each in ("done", "failed", "retried", "handled")]
        asks = [job(key, handled=key.endswith("handled")) for key in keys]
        await dispatched(store, *asks, run_id=run_id)
        await got(store, "s2", *keys, run_id=run_id)
        await must(store, "s1", turn(run_id, 2, settle=settle))
        run = await run_of(store, run_id)
        ops: list[CompleteStep] = [CompleteStep(run_id, keys[0], 1, "succeeded", '"late"', None)]
        ops += [CompleteStep(run_id, key, 1, "failed", None, '"late"') for key in keys[1:]]
        ops[2] = ops[2]._replace(retry_us=0)
        await must(store, "s2", *ops)
        for op in ops:
            await repeated(store, "s2", op)
        steps = [await step_of(store, run_id, key) for key in keys]
        assert [step.status for step in steps] == ["succeeded", "failed", "failed", "failed"]
        assert [step.result or step.error for step in steps] == ['"late"'] * 4
        assert [step.delivery for step in steps] == [None] * 4
        assert [step.finished_us for step in steps] == [clock.now_us()] * 4
        assert await run_of(store, run_id) == run
        await nothing_to_grab(store)
        assert await orchestrated(store, "s1") == []
        assert await mail_of(store, "s1") == []


async def check_complete_step_by_whoever_does_not_execute_it_is_fenced(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await silenced(store, "s2", 1)
    await got(store, "s2", "a")
    for session in ("s1", "s3", "stranger"):
        await silenced(store, session, 1)
    for attempt in (0, 2):
        await silenced(store, "s2", attempt)
    for saying in SAYINGS:
        await refused(store, "s2", ended_by(saying, 1, key="nothing"), "not_found")
        unknown = ended_by(saying, 1)._replace(run_id="nobody")  # type: ignore[call-arg]
        await refused(store, "s2", unknown, "not_found")
    assert await mail_of(store, "s1") == []
    await nothing_to_grab(store)
    await must(store, "s2", done())


async def check_complete_step_with_a_retry_by_a_zombie_is_fenced(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("lost"), job("handed back"), job("taken over"))
    keys = ("lost", "handed back", "taken over")
    await got(store, "s2", *keys)
    await must(store, "s2", ReleaseStep("r", "handed back", 1))
    await must(store, "s1", turn("r", 2, asks=[job("taken over", attempt=2)]))
    await expire(store, clock, "s1", "s3")
    await must(store, "s1", ReapSessions())
    for key in keys:
        for session in ("s2", "s3"):
            await refused(store, session, ended_by("retried", 1, key=key), "fenced")


async def check_complete_step_of_a_job_keeps_the_first_outcome(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s2", done())
    for saying in SAYINGS:
        before = await dump(store)
        await one(store, "s2", ended_by(saying, 1))
        assert await dump(store) == before, saying
        await silenced(store, "s3", 1)
    assert await mail_of(store, "s1") == [step_word(1)]
    await nothing_to_grab(store)


# --- release_step ---------------------------------------------------------------------------------


async def check_release_step_that_had_begun_counts_as_nothing(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s2", ReportProgress("r", "a", 1, "1"))
    release = ReleaseStep("r", "a", 1)
    await must(store, "s2", release)
    assert await store.load_history("r") == [
        HistoryEntry("handed_back", "a", 1, None, clock.now_us())
    ]
    step = await step_of(store, "r", "a")
    assert (step.status, step.attempt, step.failures, step.lost) == ("scheduled", 2, 0, 0)
    assert (step.worker, step.progress, step.delivery) == (None, None, None)
    assert (await run_of(store, "r")).deliveries == 0
    await repeated(store, "s2", release)
    await silenced(store, "s2", 1)
    [granted] = await got(store, "s3", "a")
    assert (granted.step.status, granted.step.attempt) == ("running", 2)
    await repeated(store, "s2", release)
    await nothing_to_grab(store)
    assert await mail_of(store, "s1") == []


async def check_release_step_that_had_not_begun_stays_the_same_attempt(
    store: Store, clock: FakeClock
) -> None:
    await lost_before(store, clock)
    history = await store.load_history("r")
    await got(store, "s2", "a")
    release = ReleaseStep("r", "a", 2)
    await must(store, "s2", release)
    await repeated(store, "s2", release)
    step = await step_of(store, "r", "a")
    assert (step.status, step.attempt, step.lost, step.worker) == ("scheduled", 2, 1, None)
    assert await store.load_history("r") == history
    await refused(store, "s2", BeginStep("r", "a", 2), "fenced")
    await got(store, "s3", "a")
    await nothing_to_grab(store)
    await must(store, "s3", BeginStep("r", "a", 2), done(attempt=2))


async def check_release_step_puts_the_next_attempt_off(store: Store, clock: FakeClock) -> None:
    await lost_before(store, clock, job("begun"), job("not begun"))
    begun = clock.now_us()
    await got(store, "s2", "begun", "not begun")
    await must(store, "s2", BeginStep("r", "begun", 2))
    ops = [ReleaseStep("r", key, 2, SECOND_US) for key in ("begun", "not begun")]
    await must(store, "s2", *ops)
    for op in ops:
        await repeated(store, "s2", op)
    clock.move_to(begun + SECOND_US - 1)
    await must(store, "s1", FireTimers())
    await nothing_to_grab(store)
    clock.move_to(begun + SECOND_US)
    await must(store, "s1", FireTimers(), FireTimers())
    jobs = {each.step.key: each.step.attempt for each in await grab(store, "s3")}
    assert jobs == {"begun": 3, "not begun": 2}
    await nothing_to_grab(store)


async def check_release_step_of_an_ended_run_is_not_granted_again(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s1", turn("r", 2, settle=Settle("completed", "1")))
    run = await run_of(store, "r")
    await one(store, "s2", ReleaseStep("r", "a", 1))
    assert await run_of(store, "r") == run
    await nothing_to_grab(store)


async def check_release_step_of_a_withdrawn_job_is_not_granted_again(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s3", CancelRun("r", "enough"))
    assert [word.what for word in await mail_of(store, "s2")] == ["stop"]
    await must(store, "s2", ReleaseStep("r", "a", 1))
    await nothing_to_grab(store)


# --- report_progress ------------------------------------------------------------------------------


async def check_report_progress_is_kept_until_the_next_attempt(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await refused(store, "s2", ReportProgress("r", "a", 1, "0"), "fenced")
    await got(store, "s2", "a")
    for progress in ('{"done": 0.5}', '{"done": 0.75, "note": "é"}'):
        op = ReportProgress("r", "a", 1, progress)
        await must(store, "s2", op)
        await repeated(store, "s2", op)
        assert (await step_of(store, "r", "a")).progress == progress
    await must(store, "s2", done(status="failed")._replace(retry_us=0))
    assert (await step_of(store, "r", "a")).progress is None
    [granted] = await got(store, "s3", "a")
    assert granted.step.progress is None
    await must(store, "s3", ReportProgress("r", "a", 2, "2"))
    await refused(store, "s2", ReportProgress("r", "a", 1, "1"), "fenced")
    assert await mail_of(store, "s1") == []
    assert (await run_of(store, "r")).deliveries == 0
    await expire(store, clock, "s1", "s2")
    await must(store, "s1", ReapSessions())
    assert (await step_of(store, "r", "a")).progress is None


async def check_report_progress_of_a_step_under_its_run_s_lease(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, write("a", "running"))
    await must(store, "s1", ReportProgress("r", "a", 1, "1"))
    await refused(store, "s2", ReportProgress("r", "a", 1, "2"), "fenced")
    assert (await step_of(store, "r", "a")).progress == "1"
    await must(store, "s1", turn("r", 2, asks=[write("a", "running", attempt=2)]))
    assert (await step_of(store, "r", "a")).progress is None
    await must(store, "s1", ReportProgress("r", "a", 2, "2"))


async def check_report_progress_by_a_reaped_session_is_fenced(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, write("a", "running"))
    await expire(store, clock, "s2")
    await must(store, "s2", ReapSessions())
    await refused(store, "s1", ReportProgress("r", "a", 1, "1"), "fenced")


# --- reap_sessions with jobs ----------------------------------------------------------------------


async def check_reap_sessions_counts_a_begun_job_as_lost(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"), job("b"))
    await got(store, "s2", "a", "b")
    await must(store, "s2", ReportProgress("r", "a", 1, "1"), done("b"))
    await expire(store, clock, "s1", "s3")
    run = await run_of(store, "r")
    reap = ReapSessions()
    await must(store, "s3", reap)
    await repeated(store, "s3", reap)
    assert await store.load_history("r") == [
        HistoryEntry("attempt_lost", "a", 1, None, clock.now_us())
    ]
    step = await step_of(store, "r", "a")
    assert (step.status, step.attempt, step.failures, step.lost) == ("scheduled", 2, 0, 1)
    assert (step.worker, step.delivery, step.progress) == (None, None, None)
    assert (await step_of(store, "r", "b")).status == "succeeded"
    assert await run_of(store, "r") == run
    assert [word.key for word in await mail_of(store, "s1")] == ["b"]
    await silenced(store, "s2", 1)
    await silenced(store, "s2", 2)
    [granted] = await got(store, "s3", "a")
    assert (granted.step.attempt, granted.step.status) == (2, "scheduled")
    await nothing_to_grab(store, "s1", "s3")
    assert store.beat("s2", LEASE_US) is False
    assert not (await store.apply("s2", [], {JOB_QUEUE: 1})).session_alive


async def check_reap_sessions_does_not_count_a_job_that_had_not_begun(
    store: Store, clock: FakeClock
) -> None:
    await lost_before(store, clock)
    history = await store.load_history("r")
    await got(store, "s2", "a")
    await expire(store, clock, "s1", "s3")
    await must(store, "s3", ReapSessions(), ReapSessions())
    step = await step_of(store, "r", "a")
    assert (step.status, step.attempt, step.lost, step.worker) == ("scheduled", 2, 1, None)
    assert await store.load_history("r") == history
    await silenced(store, "s2", 2)
    await got(store, "s3", "a")
    await nothing_to_grab(store, "s1", "s3")


async def check_reap_sessions_leaves_the_jobs_of_the_living(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"), job("b"))
    await grab(store, "s2", 1)
    await grab(store, "s3", 1)
    await expire(store, clock, "s2", "s3")
    before = [await step_of(store, "r", key) for key in "ab"]
    await must(store, "s2", ReapSessions())
    assert [await step_of(store, "r", key) for key in "ab"] == before
    assert await orchestrated(store, "s2") == ["r"]
    mine = next(step.key for step in before if step.worker == "s3")
    await must(store, "s3", done(mine))
    assert await mail_of(store, "s2") == [step_word(1, mine)]


async def check_reap_sessions_gives_up_what_was_lost_too_often(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"), job("b", handled=True), job("c"))
    for lost in (1, 2, 3):
        dying = f"dying {lost}"
        store.beat(dying, LEASE_US)
        await got(store, dying, "a", "b", *("c" if lost < 3 else ""))
        if lost > 1:
            await must(store, dying, BeginStep("r", "a", lost), BeginStep("r", "b", lost))
        if lost == 2:
            begin = BeginStep("r", "c", 2)
            await must(store, dying, begin, CompleteStep("r", "c", 2, "succeeded", '"c"', None))
        await expire(store, clock, "s1", "s2", "s3")
        await must(store, "s3", ReapSessions(max_lost=3, poisoned='"poison"'))
    step, handled = await step_of(store, "r", "a"), await step_of(store, "r", "b")
    assert (step.status, step.attempt, step.lost, step.failures) == ("failed", 3, 3, 0)
    assert (step.error, step.delivery, step.finished_us) == ('"poison"', 2, clock.now_us())
    assert (handled.status, handled.error, handled.delivery) == ("failed", '"poison"', None)
    words = {word.key: word for word in await mail_of(store, "s1")}
    assert words["a"] == Delivery("r", 2, "a", "step", "failed", None, '"poison"', 3)
    assert words["b"] == Delivery("r", 0, "b", "handle", "failed", None, '"poison"', 3)
    assert sorted(words) == ["a", "b", "c"]
    lost_attempts = sorted(
        (entry.step or "", entry.attempt or 0)
        for entry in await store.load_history("r")
        if entry.kind == "attempt_lost"
    )
    assert lost_attempts == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("b", 3), ("c", 1)]
    await nothing_to_grab(store, "s1", "s2", "s3")


async def check_reap_sessions_queues_a_parked_run_for_what_it_gave_up(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"), job("b"), parked=True)
    await got(store, "s2", "a", "b")
    await expire(store, clock, "s3")
    await must(store, "s3", ReapSessions(max_lost=1, poisoned='"poison"'))
    reply = await store.apply("s3", [], {ORCHESTRATOR_QUEUE: 5})
    [loaded] = reply.claimed
    assert sorted((step.delivery, step.error) for step in loaded.steps) == [
        (1, '"poison"'),
        (2, '"poison"'),
    ]
    assert await orchestrated(store, "s3") == []


async def check_reap_sessions_drops_the_inbox_of_the_dead(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s2", done())
    await expire(store, clock, "s2")
    await must(store, "s2", ReapSessions())
    assert await mail_of(store, "s1") == []
    reply = await store.apply("s2", [], {ORCHESTRATOR_QUEUE: 5})
    assert [step.status for step in reply.claimed[0].steps] == ["succeeded"]
    assert await mail_of(store, "s1") == await mail_of(store, "s2") == []


async def check_reap_sessions_of_jobs_is_bounded_and_goes_on(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, *(job(f"{number}") for number in range(7)))
    assert len(await grab(store, "s2")) == 7
    await expire(store, clock, "s1", "s3")
    found: list[str] = []
    for _ in range(6):
        await must(store, "s3", ReapSessions(limit=3))
        jobs = await grab(store, "s3")
        assert len(jobs) <= 3
        found += [each.step.key for each in jobs]
    assert sorted(found) == [f"{number}" for number in range(7)]
    assert store.beat("s2", LEASE_US) is False


async def check_reap_sessions_takes_runs_and_jobs_of_one_session(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s1", "a")
    await expire(store, clock, "s2")
    await must(store, "s2", ReapSessions())
    reply = await store.apply("s2", [], {JOB_QUEUE: 5, ORCHESTRATOR_QUEUE: 5})
    assert [each.step.lost for each in reply.jobs] == [1]
    assert [loaded.run.run_id for loaded in reply.claimed] == ["r"]
    await must(store, "s2", BeginStep("r", "a", 2))
    reply = await must(store, "s2", done(attempt=2))
    assert list(reply.inbox) == [step_word(1, attempt=2)]


async def check_reap_sessions_leaves_the_jobs_of_an_ended_run(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store, job("a"))
    await got(store, "s2", "a")
    await must(store, "s1", turn("r", 2, settle=Settle("completed", "1", withdraw=True)))
    run, history = await run_of(store, "r"), await store.load_history("r")
    await expire(store, clock, "s1", "s3")
    await must(store, "s3", ReapSessions(max_lost=1), ReapSessions(max_lost=1))
    assert await run_of(store, "r") == run
    assert await store.load_history("r") == history
    await nothing_to_grab(store, "s1", "s3")
    await silenced(store, "s2", 1)


async def check_reap_sessions_queues_the_cleanup_of_a_run_that_unwinds(
    store: Store, clock: FakeClock
) -> None:
    await dispatched(store)
    await must(store, "s3", CancelRun("r", "enough"))
    await must(store, "s1", turn("r", 2, 1, asks=[job("clean up")]))
    await got(store, "s2", "clean up")
    await expire(store, clock, "s1", "s3")
    await must(store, "s3", ReapSessions())
    await got(store, "s3", "clean up")
    await must(store, "s3", BeginStep("r", "clean up", 2), done("clean up", attempt=2))


async def check_complete_step_by_a_reaped_session_is_fenced(store: Store, clock: FakeClock) -> None:
    await dispatched(store, write("a", "running"))
    await expire(store, clock, "s2")
    await must(store, "s2", ReapSessions())
    await refused(store, "s1", done(), "fenced")
    assert await orchestrated(store, "s2") == ["r"]
    await refused(store, "s1", done(), "fenced")


# --- the jobs of a run that unwinds or has ended --------------------------------------------------


async def under_way(store: Store, clock: FakeClock, **options: Any) -> None:
    """A run with a job in each state: `held` was lost before and is claimed by `s2`, `running` is
    executed by `s2`, `waiting` is in the queue, `later` waits for its time."""
    store.beat("dead", LEASE_US)
    await dispatched(store, job("held"), **options)
    await got(store, "dead", "held")
    await expire(store, clock, "s1", "s2", "s3")
    await must(store, "s1", ReapSessions())
    asks = [job("running"), job("later", wait_us=SECOND_US)]
    await must(store, "s1", turn("r", 2, asks=asks))
    await got(store, "s2", "held", "running")
    await must(store, "s1", turn("r", 3, asks=[job("waiting")]))


async def withdrawn(store: Store, clock: FakeClock, *, owner_words: int) -> None:
    """Assert that the jobs of `under_way` are called off, once."""
    words = sorted(await mail_of(store, "s2"))
    assert words == [
        Delivery("r", 0, "held", "stop", attempt=2),
        Delivery("r", 0, "running", "stop", attempt=1),
    ]
    assert len(await mail_of(store, "s1")) == owner_words
    assert await mail_of(store, "s3") == []
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s1", FireTimers())
    await nothing_to_grab(store)
    await silenced(store, "s2", 2, key="held")
    await silenced(store, "s2", 1, key="waiting")
    assert await mail_of(store, "s2") == []


async def check_cancel_run_withdraws_its_jobs(store: Store, clock: FakeClock) -> None:
    await under_way(store, clock)
    cancel = CancelRun("r", "enough")
    await must(store, "s3", cancel)
    await repeated(store, "s3", cancel)
    await withdrawn(store, clock, owner_words=1)
    await must(store, "s2", done("running"))
    assert await mail_of(store, "s1") == [step_word(2, "running")]


async def check_cancel_run_shows_its_jobs_as_called_off(store: Store, clock: FakeClock) -> None:
    await under_way(store, clock)
    await must(store, "s3", CancelRun("r", "enough"))
    loaded = await store.load_steps("r")
    assert loaded is not None
    assert [step.queue for step in loaded.steps] == [""] * 4
    await must(store, "s2", done("running"))
    await must(store, "s1", turn("r", 4, None, asks=[job("clean up")]))
    assert (await step_of(store, "r", "running")).queue == ""
    assert (await step_of(store, "r", "clean up")).queue == DEFAULT_QUEUE


async def check_cancel_run_of_a_parked_run_withdraws_its_jobs(
    store: Store, clock: FakeClock
) -> None:
    await under_way(store, clock)
    await must(store, "s1", turn("r", 4, settle=Settle("running")))
    await must(store, "s3", CancelRun("r", "enough"))
    await withdrawn(store, clock, owner_words=0)
    assert await orchestrated(store, "s1") == ["r"]
    assert await orchestrated(store, "s1") == []


async def check_cancel_from_inside_withdraws_the_jobs(store: Store, clock: FakeClock) -> None:
    await under_way(store, clock)
    op = turn("r", 4, cancel_reason="enough")
    await must(store, "s1", op)
    await must(store, "s1", op)
    await withdrawn(store, clock, owner_words=0)


async def check_timeout_of_a_run_withdraws_its_jobs(store: Store, clock: FakeClock) -> None:
    await under_way(store, clock, timeout_us=LEASE_US + SECOND_US // 2)
    clock.move_to(clock.now_us() + SECOND_US // 2)
    await must(store, "s3", FireTimers())
    assert (await run_of(store, "r")).cancel_kind == "timeout"
    await withdrawn(store, clock, owner_words=1)


async def check_cancel_run_lets_cleanup_jobs_be_granted(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"))
    await must(store, "s3", CancelRun("r", "enough"))
    assert [(word.what, word.number) for word in await mail_of(store, "s1")] == [("cancel", 1)]
    await must(store, "s1", turn("r", 2, 1, asks=[job("clean up")]))
    await got(store, "s2", "clean up")
    assert await mail_of(store, "s2") == []
    await must(store, "s2", done("clean up"))
    assert await mail_of(store, "s1") == [step_word(2, "clean up")]


async def check_commit_that_settles_withdraws_the_jobs(store: Store, clock: FakeClock) -> None:
    await under_way(store, clock)
    op = turn("r", 4, settle=Settle("completed", "1", withdraw=True))
    await must(store, "s1", op)
    await must(store, "s1", op)
    await withdrawn(store, clock, owner_words=0)
    run = await run_of(store, "r")
    await must(store, "s2", done("running"))
    step = await step_of(store, "r", "running")
    assert (step.status, step.delivery) == ("succeeded", None)
    assert await run_of(store, "r") == run


async def check_a_run_that_has_ended_has_no_job_granted(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"), job("later", wait_us=SECOND_US))
    await must(store, "s1", turn("r", 2, settle=Settle("failed", error="{}")))
    await nothing_to_grab(store)
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s1", FireTimers())
    await nothing_to_grab(store)


# --- watch_run ------------------------------------------------------------------------------------


async def check_watch_run_tells_each_watcher_once(store: Store, clock: FakeClock) -> None:
    endings = [
        Settle("completed", output='"é"'),
        Settle("failed", error='{"type": "E"}'),
        Settle("cancelled", error='{"type": "C"}', reason="why"),
    ]
    for number, settle in enumerate(endings):
        run_id = f"r{number}"
        await dispatched(store, run_id=run_id)
        watch = WatchRun(run_id)
        before = await dump(store)
        for session in ("s1", "s2", "s3", "s2"):
            await must(store, session, watch)
        assert await dump(store) == before
        op = turn(run_id, 2, settle=settle)
        reply = await must(store, "s1", op)
        word = Delivery(
            run_id, 0, settle.reason or "", "ended", settle.status, settle.output, settle.error
        )
        assert list(reply.inbox) == [word]
        await must(store, "s1", op)
        for session in ("s2", "s3"):
            assert await mail_of(store, session) == [word]
        for session in ("s1", "s2", "s3"):
            assert await mail_of(store, session) == []


async def check_watch_run_of_an_ended_run_answers_with_it(store: Store, clock: FakeClock) -> None:
    await dispatched(store)
    await must(store, "s1", turn("r", 2, settle=Settle("completed", "1")))
    for _ in range(2):
        result = await one(store, "s2", WatchRun("r"))
        assert (result.code, result.run) == ("settled", await run_of(store, "r"))
    assert await mail_of(store, "s2") == []
    await refused(store, "s2", WatchRun("nobody"), "not_found")


async def check_watch_run_outlasts_a_change_of_owner(store: Store, clock: FakeClock) -> None:
    await dispatched(store)
    await must(store, "s2", WatchRun("r"))
    await must(store, "s1", turn("r", 2, settle=Settle("suspended", reason="requested")))
    assert await mail_of(store, "s2") == []
    await must(store, "s1", ResumeRun("r"))
    assert await orchestrated(store, "s3") == ["r"]
    await must(store, "s3", turn("r", 3, settle=Settle("running")))
    await must(store, "s3", CancelRun("r", "x"))
    assert await orchestrated(store, "s3") == ["r"]
    assert await mail_of(store, "s2") == []
    await must(store, "s3", turn("r", 4, 1, settle=Settle("cancelled", reason="x")))
    assert [(word.what, word.status, word.key) for word in await mail_of(store, "s2")] == [
        ("ended", "cancelled", "x")
    ]


async def check_watch_run_of_a_dead_watcher_tells_nobody(store: Store, clock: FakeClock) -> None:
    await dispatched(store)
    for session in ("s2", "s3"):
        await must(store, session, WatchRun("r"))
    await expire(store, clock, "s1", "s3")
    await must(store, "s1", ReapSessions())
    await must(store, "s1", turn("r", 2, settle=Settle("completed", "1")))
    assert await mail_of(store, "s2") == []
    assert [word.what for word in await mail_of(store, "s3")] == ["ended"]


# --- requeue_run ----------------------------------------------------------------------------------


async def check_requeue_run_leaves_what_has_a_next_action(store: Store, clock: FakeClock) -> None:
    await under_way(store, clock)
    nap = write("nap", "scheduled", kind="sleep", wait_us=SECOND_US)
    await must(store, "s1", turn("r", 4, asks=[nap, write("local", "running")]))
    before = await dump(store)
    for _ in range(3):
        await must(store, "s3", RequeueRun("r"))
    assert await dump(store) == before
    assert await orchestrated(store, "s3") == []
    await got(store, "s3", "waiting")
    await nothing_to_grab(store, "s2", "s3")
    await must(store, "s2", BeginStep("r", "held", 2), done("held", attempt=2), done("running"))
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s3", FireTimers(), FireTimers())
    await got(store, "s3", "later")
    await nothing_to_grab(store, "s2", "s3")
    words = [(word.what, word.key, word.number) for word in await mail_of(store, "s1")]
    assert words == [("step", "held", 1), ("step", "running", 2), ("step", "nap", 3)]


async def check_requeue_run_takes_a_run_from_a_dead_owner(store: Store, clock: FakeClock) -> None:
    await dispatched(store, write("local", "running"))
    await expire(store, clock, "s2", "s3")
    await must(store, "s2", RequeueRun("r"), RequeueRun("r"))
    assert await orchestrated(store, "s2") == ["r"]
    assert await orchestrated(store, "s3") == []
    await refused(store, "s1", turn("r", 2), "fenced")
    run = await run_of(store, "r")
    assert run.owner == "s2"
    await must(store, "s3", ReapSessions(), RequeueRun("r"))
    assert await run_of(store, "r") == run
    assert await orchestrated(store, "s3") == []
    await must(store, "s2", turn("r", 2, asks=[write("local", "running", attempt=2)]))


async def check_requeue_run_queues_a_parked_run(store: Store, clock: FakeClock) -> None:
    await dispatched(store, parked=True)
    await must(store, "s2", RequeueRun("r"))
    await repeated(store, "s2", RequeueRun("r"))
    assert await orchestrated(store, "s2") == ["r"]
    assert await orchestrated(store, "s3") == await orchestrated(store, "s2") == []
    assert (await run_of(store, "r")).owner == "s2"


async def check_requeue_run_of_a_queued_run_is_granted_once(store: Store, clock: FakeClock) -> None:
    store.beat("s2", LEASE_US)
    await must(store, "s2", new_run("r", inline=False), new_run("inline"))
    await must(store, "s2", RequeueRun("r"), RequeueRun("inline"), RequeueRun("r"))
    assert await orchestrated(store, "s2") == ["r"]
    assert await claim(store, "s2") == ["inline"]
    assert await orchestrated(store, "s2") == await claim(store, "s2") == []
    await must(store, "s2", turn("r", 1, settle=Settle("running")))
    assert await orchestrated(store, "s2") == []


async def check_requeue_run_takes_a_job_from_a_dead_worker(store: Store, clock: FakeClock) -> None:
    await under_way(store, clock)
    await expire(store, clock, "s1", "s3")
    await must(store, "s1", RequeueRun("r"), FireTimers())
    await repeated(store, "s1", RequeueRun("r"))
    jobs = {each.step.key: each.step.attempt for each in await grab(store, "s3")}
    assert jobs == {"held": 2, "running": 2, "waiting": 1, "later": 1}
    await nothing_to_grab(store)
    for key, attempts in (("held", (1, 2)), ("running", (1, 2))):
        for attempt in attempts:
            await silenced(store, "s2", attempt, key=key)
    before = await dump(store)
    await must(store, "s1", ReapSessions())
    assert await dump(store) == before
    await nothing_to_grab(store)
    await must(store, "s3", done("waiting"))
    assert [word.key for word in await mail_of(store, "s1")] == ["waiting"]


async def check_requeue_run_does_not_wake_a_sleep_early_or_twice(
    store: Store, clock: FakeClock
) -> None:
    nap = write("nap", "scheduled", kind="sleep", wait_us=SECOND_US)
    await dispatched(store, nap, job("later", wait_us=SECOND_US), parked=True)
    begun = clock.now_us()
    await must(store, "s2", RequeueRun("r"), FireTimers(), RequeueRun("r"))
    assert await orchestrated(store, "s2") == ["r"]
    assert (await step_of(store, "r", "nap")).status == "scheduled"
    await nothing_to_grab(store)
    clock.move_to(begun + SECOND_US - 1)
    await must(store, "s3", RequeueRun("r"), FireTimers())
    await nothing_to_grab(store)
    clock.move_to(begun + SECOND_US)
    await must(store, "s3", RequeueRun("r"), FireTimers(), FireTimers())
    assert [(word.key, word.number) for word in await mail_of(store, "s2")] == [("nap", 1)]
    await got(store, "s3", "later")
    await nothing_to_grab(store)


async def check_requeue_run_opens_nothing_that_is_closed(store: Store, clock: FakeClock) -> None:
    await dispatched(store, job("a"))
    await must(store, "s1", turn("r", 2, settle=Settle("suspended", reason="requested")))
    await must(store, "s2", RequeueRun("r"))
    assert (await run_of(store, "r")).status == "suspended"
    assert await orchestrated(store, "s2") == []
    await dispatched(store, job("b"), run_id="ended")
    await must(store, "s1", turn("ended", 2, settle=Settle("completed", "1")))
    await refused(store, "s2", RequeueRun("ended"), "settled")
    await refused(store, "s2", RequeueRun("nobody"), "not_found")
    assert await orchestrated(store, "s2") == []
    assert [each.run_id for each in await grab(store, "s2")] in ([], ["r"])


async def check_requeue_run_does_not_bring_back_what_the_cancel_ended(
    store: Store, clock: FakeClock
) -> None:
    nap = write("nap", "scheduled", kind="sleep", wait_us=SECOND_US)
    await dispatched(store, nap, parked=True)
    await must(store, "s3", CancelRun("r", "enough"))
    await must(store, "s3", RequeueRun("r"))
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s3", FireTimers())
    assert (await step_of(store, "r", "nap")).status == "scheduled"
    assert (await run_of(store, "r")).deliveries == 1


async def check_requeue_run_does_not_bring_back_withdrawn_jobs(
    store: Store, clock: FakeClock
) -> None:
    await under_way(store, clock)
    await must(store, "s3", CancelRun("r", "enough"))
    await must(store, "s3", RequeueRun("r"), RequeueRun("r"))
    await withdrawn(store, clock, owner_words=1)


# --- reads ----------------------------------------------------------------------------------------


async def check_reads_of_an_unknown_run_find_nothing(store: Store, clock: FakeClock) -> None:
    assert await store.load_run("nobody") is None
    assert await store.load_steps("nobody") is None
    assert await store.load_history("nobody") == []
    assert await store.list_runs(RunFilter()) == []
    assert await store.count_runs() == {}


async def check_reads_hand_out_copies(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[write("a", "running")]))
    before = await dump(store)
    run = await run_of(store, "r")
    run.status = "failed"
    run.turn = 99
    step = await step_of(store, "r", "a")
    step.status = "failed"
    (await store.list_runs(RunFilter()))[0].workflow = "changed"
    (await store.load_history("r")).append(HistoryEntry("changed"))
    assert await dump(store) == before


async def check_list_runs_filters_newest_first(store: Store, clock: FakeClock) -> None:
    await owned(store)
    for number in range(6):
        workflow = "even" if number % 2 == 0 else "odd"
        tags = ("first",) if number < 2 else ("later", "x")
        op = new_run(f"r{number}", claim=True, workflow=workflow, tags=tags)
        await must(store, "s1", op)
        clock.move_to(clock.now_us() + 1)
    await must(store, "s1", turn("r5", 1, settle=Settle("failed", error="{}")))

    async def listed(**wanted: Any) -> list[str]:
        return [run.run_id for run in await store.list_runs(RunFilter(**wanted))]

    assert await listed() == ["r5", "r4", "r3", "r2", "r1", "r0"]
    assert await listed(limit=2) == ["r5", "r4"]
    assert await listed(workflow="even") == ["r4", "r2", "r0"]
    assert await listed(status="failed") == ["r5"]
    assert await listed(status="running", workflow="odd") == ["r3", "r1"]
    assert await listed(tag="first") == ["r1", "r0"]
    assert await listed(tag="x", limit=1) == ["r5"]
    assert await listed(tag="fir") == []
    cut = (await run_of(store, "r3")).created_us
    assert await listed(before_us=cut) == ["r2", "r1", "r0"]
    assert await store.count_runs() == {"running": 5, "failed": 1}


CHECKS: tuple[Check, ...] = tuple(
    value for name, value in list(globals().items()) if name.startswith("check_")
)
