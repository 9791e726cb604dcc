"""What a store tells the doctor: leases, queues, jobs and timers, as they are now."""

from __future__ import annotations

from pikku._diagnosis import diagnose
from pikku._records import ReapSessions, RequeueRun, Settle
from pikku.stores.base import INLINE_QUEUE, JOBS, Store
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
