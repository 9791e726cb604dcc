"""The promises of a store for waits, children, repair and hand-over, as runnable checks; see
`pikku.testing.store_checks`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pikku._records import (
    GIVEN_UP,
    Advertise,
    CancelRun,
    Commit,
    CreateRun,
    DecideStep,
    DeleteRun,
    FireTimers,
    HandRun,
    HistoryEntry,
    Op,
    PutRun,
    ReapSessions,
    RequeueRun,
    ResumeRun,
    RunFilter,
    Settle,
    SignalRun,
    StepKindName,
    StepRecord,
    StepStatus,
    StepWrite,
    WatchRun,
)
from pikku.stores.base import MAIL, Store
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import (
    LEASE_US,
    SECOND_US,
    Check,
    claim,
    must,
    new_run,
    one,
    owned,
    refused,
    run_of,
    step_of,
    turn,
    write,
)

HOUR_US = 3600 * SECOND_US


# --- words of the checks --------------------------------------------------------------------------


def wait(
    key: str,
    kind: StepKindName = "signal",
    *,
    target: str = "go",
    position: int = 0,
    wait_us: int | None = None,
    job: str | None = None,
    after: int = 0,
) -> StepWrite:
    """A wait that a run asks for."""
    return write(key, "scheduled", kind=kind, wait_us=wait_us)._replace(
        position=position, target=target, input=None, job=job, after=after
    )


def signal(signal_id: str = "one", *, run_id: str = "r", payload: str = "1") -> SignalRun:
    """A signal for a run."""
    return SignalRun(run_id, signal_id, "go", payload)


def child_of(run_id: str, key: str, child_id: str, **options: Any) -> CreateRun:
    """The start of a child."""
    made = new_run(child_id, workflow="child")
    return made._replace(parent=run_id, parent_step=key, depth=1, **options)


def with_child(
    run_id: str, number: int, key: str, child_id: str, *, handled: bool = False
) -> Commit:
    """The turn in which a run asks for a child."""
    asked = wait(key, "child", target="child", job=child_id)._replace(handled=handled)
    made = turn(run_id, number, asks=[asked])
    return made._replace(children=(child_of(run_id, key, child_id),))


def step(key: str, status: Any, *, attempt: int = 1, **values: Any) -> StepRecord:
    """A step record of a run that is put."""
    made = StepRecord(
        key, 0, "rpc", "target", status, attempt, 0, 0, "", None, None, None, None, None, 1, None,
        None, None,
    )  # fmt: skip
    return replace(made, **values)


async def words(store: Store, session: str = "s1") -> list[tuple[str, str, int]]:
    """What a session is told."""
    reply = await store.apply(session, [], {MAIL: 1})
    return [(word.what, word.key, word.number) for word in reply.inbox]


async def failed_run(store: Store, *steps: StepWrite) -> None:
    """A run that has failed."""
    await owned(store, "r")
    settle = Settle("failed", error='{"type": "E", "message": "bad"}')
    await must(store, "s1", turn("r", 1, ends=steps, settle=settle))


# --- signals --------------------------------------------------------------------------------------


async def check_signal_run_ends_the_wait_and_tells_the_owner(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w")]))
    await must(store, "s2", signal())
    assert await words(store) == [("step", "w", 1)]
    found = await step_of(store, "r", "w")
    assert (found.status, found.result, found.delivery) == ("succeeded", "1", 1)
    assert [(e.kind, e.step, e.data) for e in await store.load_history("r")] == [
        ("signal", "go", "1")
    ]


async def check_signal_run_wakes_a_parked_run_once(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w"), wait("v", position=1)]))
    await must(store, "s1", turn("r", 2, settle=Settle("running")))
    await must(store, "s2", signal("one"), signal("two"))
    store.beat("s2", LEASE_US)
    assert await claim(store, "s2") == ["r"]
    assert await claim(store, "s2") == []


async def check_signals_that_come_early_wait_and_are_taken_in_order(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s2", signal("one", payload="1"), signal("two", payload="2"))
    assert await words(store) == []
    await must(store, "s1", turn("r", 1, asks=[wait("w"), wait("v", position=1)]))
    assert [(await step_of(store, "r", key)).result for key in "wv"] == ["1", "2"]
    await must(store, "s1", turn("r", 2, 2, asks=[wait("u", position=2)]))
    assert (await step_of(store, "r", "u")).status == "scheduled"


async def check_signal_run_serves_the_oldest_wait_first(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    asks = [wait("second", position=5), wait("first", position=2)]
    await must(store, "s1", turn("r", 1, asks=asks))
    await must(store, "s2", signal())
    assert (await step_of(store, "r", "first")).status == "succeeded"
    assert (await step_of(store, "r", "second")).status == "scheduled"


async def check_signal_run_of_another_name_waits(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w", target="other")]))
    await must(store, "s2", signal())
    assert (await step_of(store, "r", "w")).status == "scheduled"


async def check_signal_run_with_one_id_is_sent_once(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s2", signal(), signal())
    await must(store, "s2", signal(payload="2"))
    await must(store, "s1", turn("r", 1, asks=[wait("w"), wait("v", position=1)]))
    assert (await step_of(store, "r", "w")).result == "1"
    assert (await step_of(store, "r", "v")).status == "scheduled"
    await must(store, "s2", signal())
    assert (await step_of(store, "r", "v")).status == "scheduled"
    assert len(await store.load_history("r")) == 1


async def check_signal_run_to_a_run_that_has_ended_or_is_unknown_is_refused(
    store: Store, clock: FakeClock
) -> None:
    await failed_run(store)
    await refused(store, "s2", signal(), "settled")
    await refused(store, "s2", signal(run_id="nobody"), "not_found")


async def check_a_wait_for_a_signal_times_out_without_a_payload(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w", wait_us=HOUR_US)]))
    clock.move_to(clock.now_us() + HOUR_US)
    await must(store, "s2", FireTimers())
    found = await step_of(store, "r", "w")
    assert (found.status, found.result, found.delivery) == ("succeeded", None, 1)
    await must(store, "s2", signal())
    assert (await step_of(store, "r", "w")).result is None


async def check_a_timer_of_a_wait_that_a_signal_has_ended_does_nothing(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w", wait_us=HOUR_US)]))
    await must(store, "s2", signal())
    clock.move_to(clock.now_us() + HOUR_US)
    await must(store, "s2", FireTimers())
    found = await step_of(store, "r", "w")
    assert (found.result, found.delivery) == ("1", 1)
    assert (await run_of(store, "r")).deliveries == 1


async def check_signal_run_is_not_taken_by_a_wait_from_before_the_cancel(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w")]))
    await must(store, "s2", CancelRun("r", "enough"))
    await must(store, "s2", signal())
    assert (await step_of(store, "r", "w")).status == "scheduled"
    await must(store, "s1", turn("r", 2, 1, asks=[wait("cleanup", position=1, after=1)]))
    assert (await step_of(store, "r", "cleanup")).result == "1"


async def check_commit_that_calls_a_wait_off_ends_it_undelivered(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w"), wait("v", position=1)]))
    await must(store, "s1", turn("r", 2)._replace(calls_off=("w",)))
    found = await step_of(store, "r", "w")
    assert (found.status, found.error, found.delivery) == ("failed", GIVEN_UP, None)
    await must(store, "s2", signal())
    assert (await step_of(store, "r", "v")).result == "1"
    assert (await step_of(store, "r", "w")).result is None


async def check_commit_that_calls_a_wait_off_gives_its_signal_back_once(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w")]))
    await must(store, "s2", signal("one", payload="1"), signal("two", payload="2"))
    await must(store, "s1", turn("r", 2, 1)._replace(calls_off=("w",)))
    await must(store, "s1", turn("r", 3, 1)._replace(calls_off=("w",)))
    asks = [wait(key, position=i) for i, key in enumerate("xyz", start=1)]
    await must(store, "s1", turn("r", 4, 1, asks=asks))
    found = [(await step_of(store, "r", key)).result for key in "xyz"]
    assert found == ["1", "2", None], found


async def check_commit_gives_a_signal_back_before_it_asks_for_waits(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w")]))
    await must(store, "s2", signal())
    asks = [wait("x", position=1)]
    await must(store, "s1", turn("r", 2, 1, asks=asks)._replace(calls_off=("w",)))
    assert (await step_of(store, "r", "x")).result == "1"


async def check_commit_gives_a_signal_back_to_who_waits_for_it_already(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w"), wait("v", position=1, wait_us=HOUR_US)]))
    await must(store, "s2", signal())
    await must(store, "s1", turn("r", 2, 1)._replace(calls_off=("w",)))
    found = await step_of(store, "r", "v")
    assert (found.status, found.result, found.delivery) == ("succeeded", "1", 2)
    clock.move_to(clock.now_us() + HOUR_US)
    await must(store, "s2", FireTimers())
    assert (await run_of(store, "r")).deliveries == 2


async def check_commit_gives_back_what_a_wait_took_that_it_calls_off_at_once(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("v", target="other")]))
    await must(store, "s2", signal())
    asks = [wait("x", position=1), wait("y", position=2)]
    await must(store, "s1", turn("r", 2, asks=asks)._replace(calls_off=("x",)))
    x, y = [await step_of(store, "r", key) for key in "xy"]
    assert (x.status, x.error, y.status, y.result) == ("succeeded", GIVEN_UP, "succeeded", "1")


async def check_commit_that_parks_though_a_signal_was_there_for_its_wait_queues_instead(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s2", signal())
    await must(store, "s1", turn("r", 1, asks=[wait("w")], settle=Settle("running")))
    run = await run_of(store, "r")
    assert (run.owner, run.queued) == (None, True)
    assert await claim(store, "s1") == ["r"]
    assert (await step_of(store, "r", "w")).result == "1"


async def check_commit_that_parks_is_refused_while_a_word_of_its_own_call_waits(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("w")]))
    ops: list[Op] = [signal(), turn("r", 2, None, settle=Settle("running"))]
    reply = await store.apply("s1", ops, {})
    assert [result.code for result in reply.results] == ["ok", "conflict"]
    assert (await run_of(store, "r")).owner == "s1"


# --- approvals ------------------------------------------------------------------------------------


def decision(text: str = '"yes"', *, run_id: str = "r", key: str = "a") -> DecideStep:
    """An answer."""
    return DecideStep(run_id, key, text)


async def check_decide_step_is_the_first_answer(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("a", "approval", job='"terms"')]))
    await must(store, "s2", decision())
    assert await words(store) == [("step", "a", 1)]
    found = await step_of(store, "r", "a")
    assert (found.status, found.result, found.job) == ("succeeded", '"yes"', '"terms"')
    await refused(store, "s2", decision('"no"'), "decided")
    await must(store, "s2", decision())
    assert [e.kind for e in await store.load_history("r")] == ["decision"]


async def check_decide_step_after_its_expiry_is_refused(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", turn("r", 1, asks=[wait("a", "approval", wait_us=HOUR_US)]))
    clock.move_to(clock.now_us() + HOUR_US)
    await must(store, "s2", FireTimers())
    await refused(store, "s2", decision(), "decided")


async def check_decide_step_that_makes_no_sense_is_refused(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    asks = [wait("a", "approval"), wait("w", position=1)]
    await must(store, "s1", turn("r", 1, asks=asks))
    await refused(store, "s2", decision(run_id="nobody"), "not_found")
    await refused(store, "s2", decision(key="nothing"), "not_found")
    await refused(store, "s2", decision(key="w"), "not_found")
    await must(store, "s2", CancelRun("r", "enough"))
    await refused(store, "s2", decision(), "settled")


# --- suspension -----------------------------------------------------------------------------------


async def check_resume_run_ends_what_the_run_asked_to_be_suspended_at(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    asked = write("audit", "scheduled", kind="suspend")
    settle = Settle("suspended", reason="requested")
    await must(store, "s1", turn("r", 1, ends=[asked], settle=settle))
    await must(store, "s2", ResumeRun("r"))
    found = await step_of(store, "r", "audit")
    assert (found.status, found.delivery) == ("succeeded", 1)
    assert await claim(store, "s1") == ["r"]
    await refused(store, "s2", ResumeRun("r"), "not_suspended")


async def check_resume_run_limits_the_time_of_an_imported_run(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "model")
    model = replace(await run_of(store, "model"), owner=None, turned_by=None, status="suspended")
    for reason in ("imported", "requested"):
        run = replace(model, run_id=reason, suspend_reason=reason)
        await must(store, "s1", PutRun(run, [], []))
        await must(store, "s1", ResumeRun(reason, HOUR_US))
    clock.move_to(clock.now_us() + HOUR_US)
    await must(store, "s1", FireTimers())
    assert (await run_of(store, "imported")).cancel_kind == "timeout"
    assert (await run_of(store, "requested")).cancel_kind is None


async def check_commit_that_suspends_after_a_cancel_queues_instead(
    store: Store, clock: FakeClock
) -> None:
    for number, reason in enumerate(("requested", "nondeterminism", "missing_function")):
        await owned(store, run_id := f"r{number}")
        await must(store, "s2", CancelRun(run_id, "enough"))
        settle = Settle("suspended", reason=reason)
        await must(store, "s1", turn(run_id, 1, None, settle=settle))
        run = await run_of(store, run_id)
        assert (run.status, run.owner, run.queued) == ("running", None, True)
        assert await claim(store, "s1") == [run_id]


async def check_commit_suspends_a_run_whose_owner_knows_that_it_unwinds(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    asked = write("audit", "scheduled", kind="suspend")
    await must(store, "s2", CancelRun("r", "enough"))
    settle = Settle("suspended", reason="missing_function", unwinding=True)
    await must(store, "s1", turn("r", 1, None, ends=[asked], settle=settle))
    run = await run_of(store, "r")
    assert (run.status, run.owner, run.queued) == ("suspended", None, False)
    assert (run.cancel_reason, run.cancel_delivery) == ("enough", 1)
    await must(store, "s2", CancelRun("r", "again"))
    assert (await run_of(store, "r")).status == "suspended"
    # Nobody waits any more for what was asked for before the run was asked to unwind.
    await must(store, "s2", ResumeRun("r"))
    assert (await step_of(store, "r", "audit")).status == "scheduled"
    run = await run_of(store, "r")
    assert (run.status, run.deliveries, run.cancel_delivery) == ("running", 1, 1)
    assert await claim(store, "s1") == ["r"]


async def check_cancel_run_by_force_ends_a_suspended_run_at_once(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "kid", "c"))
    await must(store, "s1", turn("r", 2, settle=Settle("suspended", reason="nondeterminism")))
    store.beat("s2", LEASE_US)
    await must(store, "s2", WatchRun("r"))
    await must(store, "s1", CancelRun("r", "enough", forced='{"type": "E"}'))
    run = await run_of(store, "r")
    assert (run.status, run.error, run.cancel_reason) == ("cancelled", '{"type": "E"}', "enough")
    assert run.finished_us == clock.now_us()
    assert (run.suspend_reason, run.cancel_delivery, run.queued) == (None, None, False)
    assert (await run_of(store, "c")).cancel_us is not None
    (word,) = (await store.apply("s2", [], {MAIL: 1})).inbox
    assert (word.what, word.key, word.status) == ("ended", "enough", "cancelled")
    await refused(store, "s2", CancelRun("r", "enough", forced="{}"), "settled")
    kinds = [entry.kind for entry in await store.load_history("r")]
    assert kinds == ["suspend", "cancel"]


async def check_cancel_run_by_force_keeps_the_first_reason(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s2", CancelRun("r", "first"))
    settle = Settle("suspended", reason="missing_function", unwinding=True)
    await must(store, "s1", turn("r", 1, None, settle=settle))
    await must(store, "s2", CancelRun("r", "second", forced="{}"))
    run = await run_of(store, "r")
    assert (run.status, run.cancel_reason) == ("cancelled", "first")


async def check_cancel_run_by_force_has_what_is_not_suspended_unwind(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s2", CancelRun("r", "enough", forced="{}"))
    run = await run_of(store, "r")
    assert (run.status, run.owner, run.cancel_delivery) == ("running", "s1", 1)


# --- children -------------------------------------------------------------------------------------


async def check_commit_creates_the_children_that_it_asks_for(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "c", "r~c"))
    child = await run_of(store, "r~c")
    assert (child.parent, child.parent_step, child.depth) == ("r", "c", 1)
    assert await claim(store, "s1") == ["r~c"]
    assert (await one(store, "s1", with_child("r", 1, "c", "r~c"))).code == "ok"
    assert await claim(store, "s1") == []


async def check_the_end_of_a_child_is_told_to_its_parent_once(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "c", "r~c"))
    store.beat("s2", LEASE_US)
    assert await claim(store, "s2") == ["r~c"]
    end = turn("r~c", 1, settle=Settle("completed", output='"made"'))
    await must(store, "s2", end)
    await must(store, "s2", end)
    assert await words(store) == [("step", "c", 1)]
    found = await step_of(store, "r", "c")
    assert (found.status, found.result, found.delivery) == ("succeeded", '"made"', 1)
    assert (await run_of(store, "r")).deliveries == 1


async def check_the_failure_of_a_child_fails_the_step_of_its_parent(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "c", "r~c"))
    await claim(store, "s1")
    error = '{"type": "E", "message": "bad"}'
    await must(store, "s1", turn("r~c", 1, settle=Settle("failed", error=error)))
    found = await step_of(store, "r", "c")
    assert (found.status, found.error, found.failures, found.delivery) == ("failed", error, 1, 1)


async def check_a_handled_failure_of_a_child_is_not_delivered(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "c", "r~c", handled=True))
    await claim(store, "s1")
    await must(store, "s1", turn("r~c", 1, settle=Settle("failed", error='{"type": "E"}')))
    found = await step_of(store, "r", "c")
    assert (found.status, found.delivery) == ("failed", None)
    assert (await run_of(store, "r")).deliveries == 0


async def check_cancel_run_reaches_children_and_theirs(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "c", "r~c"))
    assert await claim(store, "s1") == ["r~c"]
    await must(store, "s1", with_child("r~c", 1, "d", "r~d"))
    await must(store, "s2", CancelRun("r", "enough"))
    for run_id in ("r", "r~c", "r~d"):
        run = await run_of(store, run_id)
        assert (run.status, run.cancel_kind) == ("running", "cancel"), run_id
    await must(store, "s2", CancelRun("r", "again"))
    assert (await run_of(store, "r~d")).deliveries == 1


async def check_commit_that_settles_asks_the_children_it_leaves_to_unwind(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "c", "r~c"))
    settle = Settle("failed", error="{}", withdraw=True)
    await must(store, "s1", turn("r", 2, settle=settle))
    assert (await run_of(store, "r~c")).cancel_us is not None
    await claim(store, "s1")
    await must(store, "s1", turn("r~c", 1, None, settle=Settle("cancelled", error="{}")))
    found = await step_of(store, "r", "c")
    assert (found.status, found.delivery) == ("failed", None)
    assert (await run_of(store, "r")).status == "failed"


async def check_commit_that_calls_a_child_off_asks_it_to_unwind(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "c", "r~c"))
    await must(store, "s1", turn("r", 2)._replace(calls_off=("c",)))
    assert (await run_of(store, "r~c")).cancel_us is not None
    await claim(store, "s1")
    await must(store, "s1", turn("r~c", 1, None, settle=Settle("cancelled", error="{}")))
    found = await step_of(store, "r", "c")
    assert (found.status, found.error, found.delivery) == ("failed", GIVEN_UP, None)


async def check_requeue_run_tells_a_parent_of_a_child_that_has_ended(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s1", with_child("r", 1, "c", "r~c"))
    await must(store, "s1", RequeueRun("r"))
    assert (await step_of(store, "r", "c")).status == "scheduled"


# --- delayed starts -------------------------------------------------------------------------------


async def check_create_run_with_a_delay_is_queued_when_its_time_comes(
    store: Store, clock: FakeClock
) -> None:
    store.beat("s1", 10 * HOUR_US)
    made = new_run("r", claim=True, timeout_us=HOUR_US)._replace(delay_us=HOUR_US)
    await must(store, "s1", made)
    run = await run_of(store, "r")
    assert (run.owner, run.queued, run.status) == (None, False, "running")
    clock.move_to(clock.now_us() + HOUR_US - 1)
    await must(store, "s1", FireTimers())
    assert await claim(store, "s1") == []
    clock.move_to(clock.now_us() + 1)
    await must(store, "s1", FireTimers())
    assert await claim(store, "s1") == ["r"]
    assert (await run_of(store, "r")).cancel_us is None
    clock.move_to(clock.now_us() + HOUR_US)
    await must(store, "s1", FireTimers())
    assert (await run_of(store, "r")).cancel_kind == "timeout"


async def check_cancel_run_of_a_delayed_run_queues_it_at_once(
    store: Store, clock: FakeClock
) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r")._replace(delay_us=HOUR_US))
    await must(store, "s1", CancelRun("r", "enough"))
    assert await claim(store, "s1") == ["r"]


# --- whole runs -----------------------------------------------------------------------------------


async def check_put_run_writes_a_new_run_whole(store: Store, clock: FakeClock) -> None:
    await owned(store, "source")
    now = clock.now_us()
    source = await run_of(store, "source")
    run = replace(source, run_id="copy", owner=None, deliveries=1, forked_from="source", depth=2)
    steps = [
        step("a", "succeeded", result="1", delivery=1, created_us=now, finished_us=now),
        step("nap", "scheduled", kind="sleep", due_us=now + HOUR_US, created_us=now, after=1),
    ]
    entry = HistoryEntry("fork", "nap")
    await must(store, "s1", PutRun(run, steps, [entry]))
    loaded = await store.load_steps("copy")
    assert loaded is not None
    assert (loaded.run.queued, loaded.run.forked_from, loaded.run.deliveries) == (True, "source", 1)
    assert {each.key: each for each in loaded.steps} == {each.key: each for each in steps}
    assert [each.kind for each in await store.load_history("copy")] == ["fork"]
    assert await claim(store, "s1") == ["copy"]
    result = await one(store, "s1", PutRun(run, [], []))
    assert result.code == "exists"
    clock.move_to(now + HOUR_US)
    await must(store, "s1", FireTimers())
    assert (await step_of(store, "copy", "nap")).status == "succeeded"


async def check_put_run_over_a_failed_run_replaces_it(store: Store, clock: FakeClock) -> None:
    ends = [
        write("good", "succeeded", result="1", deliver=True),
        write("bad", "failed", error="{}", deliver=True),
    ]
    await failed_run(store, *ends)
    before = await store.load_steps("r")
    assert before is not None
    again = replace(before.run, status="running", error=None, finished_us=None, run_attempt=2)
    again.deliveries = 1
    good = next(each for each in before.steps if each.key == "good")
    bad = next(each for each in before.steps if each.key == "bad")
    fresh = replace(bad, status="scheduled", attempt=2, error=None, delivery=None)
    fresh = replace(fresh, worker=None, finished_us=None, started_us=None)
    expected: list[tuple[str, int, StepStatus]] = [
        (each.key, each.attempt, each.status) for each in before.steps
    ]
    retry = PutRun(again, [good, fresh], [HistoryEntry("retry", "bad", 2)], expected)
    await refused(store, "s1", retry._replace(expected=expected[:1]), "conflict")
    await must(store, "s1", retry)
    await must(store, "s1", retry)
    run = await run_of(store, "r")
    assert (run.status, run.error, run.run_attempt, run.queued) == ("running", None, 2, True)
    assert (await step_of(store, "r", "bad")).attempt == 2
    assert (await step_of(store, "r", "good")).result == "1"
    assert await claim(store, "s1") == ["r"]
    assert await claim(store, "s1") == []


async def check_put_run_gives_waiting_signals_to_the_waits_that_it_opens_again(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    await must(store, "s2", signal("one", payload="1"), signal("two", payload="2"))
    settle = Settle("failed", error='{"type": "E", "message": "bad"}')
    await must(store, "s1", turn("r", 1, None, settle=settle))
    before = await run_of(store, "r")
    again = replace(before, status="running", error=None, finished_us=None, run_attempt=2)
    waits = [
        step(key, "scheduled", kind="signal", target="go", position=position, created_us=1)
        for key, position in (("third", 3), ("first", 1), ("second", 2))
    ]
    await must(store, "s1", PutRun(again, waits, [], []))
    found = [(await step_of(store, "r", key)).result for key in ("first", "second", "third")]
    assert found == ["1", "2", None]
    assert (await run_of(store, "r")).deliveries == before.deliveries + 2
    await must(store, "s2", signal("three", payload="3"))
    assert (await step_of(store, "r", "third")).result == "3"


async def check_cancel_run_of_a_suspended_run_forgets_why_it_was_suspended(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    settle = Settle("suspended", error='{"type": "E", "message": "gone"}', reason="missing")
    await must(store, "s1", turn("r", 1, None, settle=settle))
    await must(store, "s1", CancelRun("r", "enough"))
    run = await run_of(store, "r")
    assert (run.status, run.error, run.suspend_reason) == ("running", None, None)


async def check_put_run_over_a_run_that_has_not_failed_is_refused(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    run = replace(await run_of(store, "r"), run_attempt=2)
    await refused(store, "s1", PutRun(run, [], [], []), "not_failed")
    await refused(store, "s1", PutRun(replace(run, run_id="x"), [], [], []), "not_found")


async def check_delete_run_leaves_nothing_and_frees_its_id(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s2", signal())
    await refused(store, "s1", DeleteRun("r"), "not_ended")
    await must(store, "s1", turn("r", 1, ends=[write("a", "succeeded", deliver=True)]))
    await must(store, "s1", turn("r", 2, 1, settle=Settle("completed", output="1")))
    await must(store, "s1", DeleteRun("r"))
    assert await store.load_run("r") is None
    assert await store.load_steps("r") is None
    assert await store.load_history("r") == []
    assert await store.list_runs(RunFilter()) == []
    assert not any((await store.count_runs()).values())
    await refused(store, "s1", DeleteRun("r"), "not_found")
    await must(store, "s1", new_run("r", claim=True))
    loaded = await store.load_steps("r")
    assert loaded is not None
    assert loaded.steps == ()
    await must(store, "s1", turn("r", 1, asks=[wait("w")]))
    assert (await step_of(store, "r", "w")).status == "scheduled"


# --- who holds what -------------------------------------------------------------------------------


async def check_hand_run_gives_the_run_to_the_first_that_holds_what_is_wanted(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    for session, holds in (("s2", ["flow", "flow@v1"]), ("s3", ["flow", "flow@v2"])):
        store.beat(session, LEASE_US)
        await must(store, session, Advertise(holds))
    await must(store, "s1", HandRun("r", ["flow@v2", "flow"]))
    assert (await run_of(store, "r")).owner == "s3"
    assert [what for what, _, _ in await words(store, "s3")] == ["hand"]
    assert await words(store, "s2") == []
    await refused(store, "s1", turn("r", 1), "fenced")
    await refused(store, "s1", HandRun("r", ["flow"]), "fenced")
    await must(store, "s3", turn("r", 1))


async def check_hand_run_finds_nobody_else(store: Store, clock: FakeClock) -> None:
    await owned(store, "r")
    await must(store, "s1", Advertise(["flow@v1"]))
    await refused(store, "s1", HandRun("r", ["flow@v1"]), "nobody")
    store.beat("s2", LEASE_US)
    await must(store, "s2", Advertise(["flow@v1"]))
    await must(store, "s2", Advertise(["other"]))
    await refused(store, "s1", HandRun("r", ["flow@v1"]), "nobody")
    await must(store, "s2", Advertise(["flow@v1"]))
    store.beat("s1", 10 * LEASE_US)
    clock.move_to(clock.now_us() + LEASE_US + 1)
    await refused(store, "s1", HandRun("r", ["flow@v1"]), "nobody")
    assert (await run_of(store, "r")).owner == "s1"


async def check_reap_sessions_takes_a_run_that_was_handed_to_the_dead(
    store: Store, clock: FakeClock
) -> None:
    await owned(store, "r")
    store.beat("s1", 10 * LEASE_US)
    store.beat("s2", LEASE_US)
    await must(store, "s2", Advertise(["flow"]))
    await must(store, "s1", HandRun("r", ["flow"]))
    clock.move_to(clock.now_us() + LEASE_US + 1)
    await must(store, "s1", ReapSessions())
    assert await claim(store, "s1") == ["r"]


# --- lists ----------------------------------------------------------------------------------------


async def check_list_runs_finds_by_text_and_time(store: Store, clock: FakeClock) -> None:
    store.beat("s1", 100 * HOUR_US)
    begun = clock.now_us()
    for number, run_id in enumerate(("apple-1", "pear-2", "apple-3")):
        clock.move_to(begun + number * SECOND_US)
        op = new_run(run_id, claim=True, tags=(f"tag{number}",))._replace(started_by=f"p{number}")
        await must(store, "s1", op)
    error = '{"type": "E", "message": "out of flour"}'
    await must(store, "s1", turn("pear-2", 1, settle=Settle("failed", error=error)))

    async def found(**wanted: Any) -> list[str]:
        return [run.run_id for run in await store.list_runs(RunFilter(**wanted))]

    assert await found(text="apple") == ["apple-3", "apple-1"]
    assert await found(text="apple", oldest_first=True) == ["apple-1", "apple-3"]
    assert await found(text="flour") == ["pear-2"]
    assert await found(text="tag0") == ["apple-1"]
    assert await found(text="p2") == ["apple-3"]
    assert await found(text="plum") == []
    assert await found(after_us=begun + SECOND_US) == ["apple-3", "pear-2"]
    assert await found(before_us=begun + SECOND_US) == ["apple-1"]
    assert await found(oldest_first=True, limit=1) == ["apple-1"]
    ended = clock.now_us()
    assert await found(status="failed", ended_before_us=ended) == []
    assert await found(status="failed", ended_before_us=ended + 1) == ["pear-2"]
    assert await found(ended_before_us=ended + 1) == ["pear-2"]


CHECKS: tuple[Check, ...] = tuple(
    value for name, value in list(globals().items()) if name.startswith("check_")
)
