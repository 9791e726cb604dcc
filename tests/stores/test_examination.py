"""What a store tells the doctor: leases, queues, jobs and timers, as they are now."""

from __future__ import annotations

from pikku._diagnosis import diagnose
from pikku._records import (
    CancelRun,
    CompleteStep,
    Holdings,
    ReapSessions,
    ReleaseRun,
    RequeueRun,
    Settle,
)
from pikku.stores.base import INLINE_QUEUE, JOBS, ORCHESTRATOR_QUEUE, Store
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import LEASE_US, SECOND_US, must, new_run, turn, write


async def symptoms_of(store: Store, run_id: str) -> list[str]:
    loaded = await store.load_steps(run_id)
    assert loaded is not None
    return [symptom.kind for symptom in diagnose(loaded, await store.examine())]


async def test_an_empty_store_has_nothing_under_way(store: Store, clock: FakeClock) -> None:
    found = await store.examine()

    assert found.now_us == clock.now_us()
    assert not found.sessions and not found.queued and not found.jobs and not found.timers


async def test_everything_that_could_move_a_run_is_told(store: Store, clock: FakeClock) -> None:
    store.beat("s1", LEASE_US)
    lease_ends = clock.now_us() + LEASE_US
    await must(store, "s1", new_run("queued"), new_run("late", timeout_us=SECOND_US))
    await must(store, "s1", new_run("parked", claim=True, inline=False))
    job = write("Send", "scheduled")._replace(queue="default")
    later = write("Later", "scheduled", attempt=2, wait_us=SECOND_US)._replace(queue="default")
    nap = write("Nap", "scheduled", kind="sleep", wait_us=SECOND_US)
    await must(store, "s1", turn("parked", 1, asks=[job, later, nap], settle=Settle("running")))

    found = await store.examine()

    assert found.sessions == {"s1": lease_ends}
    assert found.queued == {"queued", "late"}
    assert found.jobs == {("parked", "Send", 1)}
    assert found.timers == {
        ("late", "", "timeout"),
        ("parked", "Later", "retry"),
        ("parked", "Nap", "sleep"),
    }
    for run_id in ("queued", "late", "parked"):
        assert await symptoms_of(store, run_id) == []


async def test_what_was_claimed_is_in_no_queue_any_more(store: Store) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r1", claim=True, inline=False), new_run("r2"))
    job = write("Send", "scheduled")._replace(queue="default")
    await must(store, "s1", turn("r1", 1, asks=[job], settle=Settle("running")))

    await store.apply("s1", [], {INLINE_QUEUE: 1, JOBS + "default": 1})

    found = await store.examine()
    assert not found.queued and not found.jobs
    assert await symptoms_of(store, "r1") == await symptoms_of(store, "r2") == []


async def test_a_run_whose_holders_are_gone_is_found_and_requeued(
    store: Store, clock: FakeClock
) -> None:
    store.beat("s1", LEASE_US)
    store.beat("s2", LEASE_US)
    await must(store, "s1", new_run("r1", claim=True, inline=False))
    job = write("Send", "scheduled")._replace(queue="default")
    await must(store, "s1", turn("r1", 1, asks=[job]))
    await store.apply("s2", [], {JOBS + "default": 1})

    clock.move_to(clock.now_us() + LEASE_US + 1)
    before = await symptoms_of(store, "r1")
    await must(store, "s3", RequeueRun("r1"))

    assert before == ["left_behind", "left_behind"]
    assert await symptoms_of(store, "r1") == []


async def test_a_session_past_its_lease_requeues_what_it_holds_itself(
    store: Store, clock: FakeClock
) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r1", claim=True))
    clock.move_to(clock.now_us() + LEASE_US + 1)

    await must(store, "s1", RequeueRun("r1"))

    run = await store.load_run("r1")
    assert run is not None
    assert (run.owner, run.queued) == (None, True)


async def test_a_run_that_was_requeued_is_not_taken_from_its_next_owner(
    store: Store, clock: FakeClock
) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r1", claim=True))
    clock.move_to(clock.now_us() + LEASE_US + 1)
    await must(store, "s2", RequeueRun("r1"))
    store.beat("s3", LEASE_US)
    await store.apply("s3", [], {INLINE_QUEUE: 1})

    await must(store, "s3", ReapSessions())

    run = await store.load_run("r1")
    assert run is not None
    assert run.owner == "s3"


async def forsaken(store: Store) -> None:
    """A run of `s2` whose step is in the hands of `s1`, which had it before."""
    store.beat("s1", LEASE_US)
    store.beat("s2", LEASE_US)
    await must(store, "s1", new_run("r1", claim=True, inline=False))
    asks = [write("Here", "running"), write("Nap", "scheduled", kind="sleep", wait_us=SECOND_US)]
    await must(store, "s1", turn("r1", 1, asks=asks), ReleaseRun("r1"))
    await store.apply("s2", [], {ORCHESTRATOR_QUEUE: 1})
    # Nobody does so: the first turn of who takes a run over begins such a step anew.
    await must(store, "s2", turn("r1", 2, asks=[write("Other", "running")]))


async def test_a_step_that_the_owner_of_its_run_does_not_execute_is_found_and_begun_anew(
    store: Store,
) -> None:
    await forsaken(store)
    before = await symptoms_of(store, "r1")

    await must(store, "s3", RequeueRun("r1"), RequeueRun("r1"))

    assert before == ["left_behind"]
    assert await symptoms_of(store, "r1") == []
    [loaded] = (await store.apply("s1", [], {ORCHESTRATOR_QUEUE: 5})).claimed
    assert loaded.run.turn == 2
    again = turn("r1", 3, asks=[write("Here", "running", attempt=2)])
    assert (await store.apply("s2", [again], {})).results[0].code == "fenced"
    await must(store, "s1", again)


async def test_what_a_run_that_unwinds_has_left_is_nothing_to_its_owner(store: Store) -> None:
    await forsaken(store)
    await must(store, "s3", CancelRun("r1", "enough"))

    assert await symptoms_of(store, "r1") == []
    await must(store, "s3", RequeueRun("r1"))

    run = await store.load_run("r1")
    assert run is not None
    assert run.owner == "s2"


async def test_a_session_is_told_what_it_holds(store: Store) -> None:
    for session in ("s1", "s2"):
        store.beat(session, LEASE_US)
    await must(store, "s1", new_run("r1", claim=True, inline=False), new_run("r2", claim=True))
    jobs = [write(key, "scheduled")._replace(queue="default") for key in ("a", "b", "c")]
    await must(store, "s1", turn("r1", 1, asks=[*jobs, write("Here", "running")]))
    granted = (await store.apply("s2", [], {JOBS + "default": 2})).jobs

    assert await store.holdings("s1") == Holdings(frozenset({"r1", "r2"}), frozenset())
    held = {("r1", each.step.key) for each in granted}
    assert await store.holdings("s2") == Holdings(frozenset(), frozenset(held))
    assert len(held) == 2

    await must(store, "s2", CompleteStep("r1", granted[0].step.key, 1, "succeeded", "1", None))
    await must(store, "s1", turn("r2", 1, settle=Settle("running")))

    assert await store.holdings("s1") == Holdings(frozenset({"r1"}), frozenset())
    assert await store.holdings("s2") == Holdings(
        frozenset(), frozenset({("r1", granted[1].step.key)})
    )
    assert await store.holdings("nobody") == Holdings(frozenset(), frozenset())
