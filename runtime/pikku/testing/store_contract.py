"""The promises of a store as runnable checks: `async def check_…(store, clock)`.

Each check gets a store of its own, opened, empty and going by *clock*, and raises AssertionError
where a promise is broken. `CHECKS` lists them all. Nothing here needs a test framework:

    for check in CHECKS:
        await check(new_store(clock), clock)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from pikku._records import (
    CancelRun,
    Commit,
    CompleteStep,
    CreateRun,
    FireTimers,
    HistoryEntry,
    Op,
    OpResult,
    ReapSessions,
    ReleaseRun,
    Reply,
    ResumeRun,
    RunFilter,
    RunRecord,
    Settle,
    StepKindName,
    StepRecord,
    StepStatus,
    StepWrite,
)
from pikku.stores.base import INLINE_QUEUE, ORCHESTRATOR_QUEUE, Store
from pikku.testing.clock import FakeClock

Check = Callable[[Store, FakeClock], Awaitable[None]]

LEASE_US = 6_000_000
SECOND_US = 1_000_000


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
    """Carry out what has to work."""
    reply = await store.apply(session, list(ops), {})
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
    reply = await store.apply("s1", batch, {})
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
