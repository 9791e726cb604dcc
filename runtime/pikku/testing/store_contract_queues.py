"""The promises of a store for the jobs of queues, as runnable checks; see
`pikku.testing.store_checks`."""

from __future__ import annotations

from pikku._records import (
    JOB_KEY,
    JOB_RUNS,
    BeginStep,
    CancelRun,
    CompleteStep,
    CreateRun,
    DeleteRun,
    FireTimers,
    HistoryEntry,
    PutRun,
    ReapSessions,
    ReleaseStep,
    RequeueRun,
    RunFilter,
    WatchRun,
)
from pikku.stores.base import JOBS, MAIL, ORCHESTRATOR_QUEUE, Store
from pikku.stores.lanes import Place, QueueLimits, lane_of
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import (
    LEASE_US,
    SECOND_US,
    Check,
    claim,
    expire,
    grab,
    must,
    new_run,
    one,
    refused,
    run_of,
    step_of,
    write,
)

QUEUE = "mails"
FAILED = '{"type": "E", "message": "bad"}'


# --- words of the checks --------------------------------------------------------------------------


def new_job(
    run_id: str,
    *,
    priority: int = 0,
    group: str = "",
    delay_us: int | None = None,
    queue: str = QUEUE,
) -> CreateRun:
    """A job, added to a queue."""
    step = write(JOB_KEY, "scheduled", kind="job", wait_us=delay_us)
    step = step._replace(queue=lane_of(Place(queue, priority, group)), job='{"keep": true}')
    made = new_run(run_id, workflow=JOB_RUNS + queue, inline=False)
    return made._replace(job=step)


async def begun(store: Store, *sessions: str) -> None:
    for session in sessions or ("s1", "s2", "s3"):
        store.beat(session, LEASE_US)


async def taken(store: Store, session: str, count: int = 10, queue: str = QUEUE) -> list[str]:
    """The jobs that a session gets when it asks for some."""
    return [each.run_id for each in await grab(store, session, count, JOBS + queue)]


def done(run_id: str, *, attempt: int = 1, forget: bool = False) -> CompleteStep:
    return CompleteStep(run_id, JOB_KEY, attempt, "succeeded", '"well"', None, forget=forget)


def failed(run_id: str, *, attempt: int = 1, retry_us: int | None = None) -> CompleteStep:
    return CompleteStep(run_id, JOB_KEY, attempt, "failed", None, FAILED, retry_us)


# --- a job ----------------------------------------------------------------------------------------


async def check_create_run_of_a_job_queues_the_job_and_nothing_else(
    store: Store, clock: FakeClock
) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"))
    run = await run_of(store, "j")
    assert (run.status, run.owner, run.queued) == ("running", None, False)
    reply = await store.apply("s1", [], {ORCHESTRATOR_QUEUE: 9})
    assert list(reply.claimed) == []
    assert await claim(store, "s1") == []
    (job,) = await grab(store, "s2", 5, JOBS + QUEUE)
    assert (job.run_id, job.workflow, job.step.kind) == ("j", JOB_RUNS + QUEUE, "job")
    assert (job.step.status, job.step.attempt, job.step.worker) == ("running", 1, "s2")
    assert await taken(store, "s3") == []


async def check_create_run_of_a_job_that_is_there_finds_it(store: Store, clock: FakeClock) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"))
    result = await one(store, "s2", new_job("j", priority=9))
    assert (result.code, result.run and result.run.run_id) == ("exists", "j")
    assert await taken(store, "s2") == ["j"]
    assert await taken(store, "s2") == []


async def check_complete_step_of_a_job_ends_its_run(store: Store, clock: FakeClock) -> None:
    await begun(store)
    await must(store, "s1", new_job("good"), new_job("bad"))
    assert sorted(await taken(store, "s2")) == ["bad", "good"]
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s2", done("good"), failed("bad"))
    good, bad = await run_of(store, "good"), await run_of(store, "bad")
    assert (good.status, good.output, good.error) == ("completed", '"well"', None)
    assert (bad.status, bad.output, bad.error) == ("failed", None, FAILED)
    assert good.finished_us == bad.finished_us == clock.now_us()
    assert (await step_of(store, "good", JOB_KEY)).delivery == 1
    await refused(store, "s3", done("bad"), "fenced")


async def check_complete_step_of_a_job_tells_who_watches_it(store: Store, clock: FakeClock) -> None:
    await begun(store)
    for run_id in ("kept", "forgotten"):
        await must(store, "s1", new_job(run_id), WatchRun(run_id))
    await taken(store, "s2")
    await must(store, "s2", done("kept"), done("forgotten", forget=True))
    inbox = (await store.apply("s1", [], {MAIL: 1})).inbox
    assert sorted((word.run_id, word.what, word.status, word.result) for word in inbox) == [
        ("forgotten", "ended", "completed", '"well"'),
        ("kept", "ended", "completed", '"well"'),
    ]


async def check_complete_step_forgets_a_job_that_completed(store: Store, clock: FakeClock) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"))
    await taken(store, "s2")
    await refused(store, "s3", done("j", forget=True), "fenced")
    await must(store, "s2", done("j", forget=True))
    assert await store.load_run("j") is None
    assert await store.count_runs(JOB_RUNS + QUEUE) == {}
    await must(store, "s2", done("j", forget=True))  # the answer was lost
    await must(store, "s1", new_job("j"))
    assert await taken(store, "s3") == ["j"]


async def check_complete_step_keeps_a_job_that_failed(store: Store, clock: FakeClock) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"))
    await taken(store, "s2")
    await must(store, "s2", failed("j")._replace(forget=True))
    assert (await run_of(store, "j")).status == "failed"


async def check_complete_step_of_a_job_puts_its_next_attempt_off(
    store: Store, clock: FakeClock
) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"))
    await taken(store, "s2")
    await must(store, "s2", failed("j", retry_us=SECOND_US))
    assert await taken(store, "s3") == []
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s1", FireTimers())
    assert await taken(store, "s3") == ["j"]
    step = await step_of(store, "j", JOB_KEY)
    assert (step.attempt, step.failures, step.worker) == (2, 1, "s3")
    assert [entry.kind for entry in await store.load_history("j")] == ["attempt_failed"]


async def check_create_run_puts_a_delayed_job_off(store: Store, clock: FakeClock) -> None:
    await begun(store)
    await must(store, "s1", new_job("j", delay_us=SECOND_US))
    assert await taken(store, "s2") == []
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s1", FireTimers())
    assert await taken(store, "s2") == ["j"]


async def check_a_delayed_job_is_not_granted_by_what_is_left_of_one_before_it(
    store: Store, clock: FakeClock
) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"), CancelRun("j", "enough"), DeleteRun("j"))
    await must(store, "s1", new_job("j", delay_us=SECOND_US))
    assert await taken(store, "s2") == []
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s1", FireTimers())
    assert await taken(store, "s2") == ["j"]


async def check_fire_timers_makes_a_job_wanted_from_then_on_whatever_the_clock_says(
    store: Store, clock: FakeClock
) -> None:
    await begun(store)
    await must(store, "s1", new_job("j", delay_us=SECOND_US))
    assert (await step_of(store, "j", JOB_KEY)).due_us == clock.now_us() + SECOND_US
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s1", FireTimers())
    assert (await step_of(store, "j", JOB_KEY)).due_us is None


async def check_reap_sessions_queues_a_job_again_and_gives_it_up_at_last(
    store: Store, clock: FakeClock
) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"))
    for number in (1, 2):
        session = f"w{number}"
        store.beat(session, LEASE_US)
        assert await taken(store, session) == ["j"]
        step = await step_of(store, "j", JOB_KEY)
        if step.status == "scheduled":
            await must(store, session, BeginStep("j", JOB_KEY, step.attempt))
        await expire(store, clock, "s1")
        await must(store, "s1", ReapSessions(max_lost=2, poisoned=FAILED))
        await refused(store, "s1", done("j", attempt=number), "fenced")
    run = await run_of(store, "j")
    assert (run.status, run.error) == ("failed", FAILED)
    assert (await step_of(store, "j", JOB_KEY)).lost == 2


async def check_release_step_gives_a_job_back(store: Store, clock: FakeClock) -> None:
    store.limit_queue(QUEUE, QueueLimits())
    await begun(store)
    await must(store, "s1", new_job("j", priority=3, group="g"))
    await taken(store, "s2")
    await must(store, "s2", ReleaseStep("j", JOB_KEY, 1))
    assert await taken(store, "s3") == ["j"]
    assert (await step_of(store, "j", JOB_KEY)).attempt == 2


# --- cancel, retry, repair ------------------------------------------------------------------------


async def check_cancel_run_ends_a_job_that_waits(store: Store, clock: FakeClock) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"), new_job("later", delay_us=SECOND_US))
    for run_id in ("j", "later"):
        await must(store, "s1", CancelRun(run_id, "why", forced=FAILED))
        run = await run_of(store, run_id)
        assert (run.status, run.error, run.cancel_reason) == ("cancelled", FAILED, "why")
        assert (await one(store, "s1", CancelRun(run_id, "why"))).code == "settled"
    clock.move_to(clock.now_us() + SECOND_US)
    await must(store, "s1", FireTimers())
    assert await taken(store, "s2") == []


async def check_cancel_run_stops_a_job_that_runs(store: Store, clock: FakeClock) -> None:
    await begun(store)
    await must(store, "s1", new_job("stops"), new_job("ends"), new_job("dies"))
    assert len(await taken(store, "s2")) == 3
    for run_id in ("stops", "ends", "dies"):
        await must(store, "s1", CancelRun(run_id, "why", forced=FAILED))
    inbox = (await store.apply("s2", [], {MAIL: 1})).inbox
    assert sorted((word.run_id, word.key, word.what) for word in inbox) == [
        (run_id, JOB_KEY, "stop") for run_id in ("dies", "ends", "stops")
    ]
    await must(store, "s2", failed("stops", retry_us=0), done("ends"))
    assert (await run_of(store, "stops")).status == "cancelled"
    assert (await run_of(store, "ends")).status == "completed"
    await expire(store, clock, "s1")
    await must(store, "s1", ReapSessions())
    assert (await run_of(store, "dies")).status == "cancelled"
    assert await taken(store, "s1") == []


async def check_put_run_queues_a_job_that_is_retried(store: Store, clock: FakeClock) -> None:
    store.limit_queue(QUEUE, QueueLimits())
    await begun(store)
    await must(store, "s1", new_job("j", group="g"))
    await taken(store, "s2")
    await must(store, "s2", failed("j"))
    loaded = await store.load_steps("j")
    assert loaded is not None
    run, step = loaded.run, loaded.steps[0]
    run.status, run.run_attempt, run.error, run.finished_us = "running", 2, None, None
    run.deliveries = 0
    step.status, step.attempt, step.failures, step.error = "scheduled", 2, 0, None
    step.worker = step.finished_us = step.delivery = None
    op = PutRun(run, [step], [HistoryEntry("retry")], [(JOB_KEY, 1, "failed")])
    await must(store, "s1", op)
    again = await run_of(store, "j")
    assert (again.status, again.queued, again.owner) == ("running", False, None)
    assert await taken(store, "s3") == ["j"]
    await must(store, "s3", done("j", attempt=2))
    assert (await run_of(store, "j")).status == "completed"


async def check_requeue_run_gives_a_job_its_place_in_the_queue(
    store: Store, clock: FakeClock
) -> None:
    await begun(store)
    await must(store, "s1", new_job("j"))
    await must(store, "s1", RequeueRun("j"))
    assert await taken(store, "s2") == ["j"]
    assert await taken(store, "s3") == []
    await must(store, "s1", RequeueRun("j"))  # it is held: it stays where it is
    assert await taken(store, "s3") == []
    assert (await run_of(store, "j")).queued is False


# --- lists ----------------------------------------------------------------------------------------


async def check_list_runs_leaves_jobs_out_unless_they_are_named(
    store: Store, clock: FakeClock
) -> None:
    await begun(store)
    await must(store, "s1", new_run("r", claim=True), new_job("j"), new_job("other", queue="other"))
    assert [run.run_id for run in await store.list_runs(RunFilter())] == ["r"]
    assert [run.run_id for run in await store.list_runs(RunFilter(status="running"))] == ["r"]
    named = RunFilter(workflow=JOB_RUNS + QUEUE)
    assert [run.run_id for run in await store.list_runs(named)] == ["j"]
    assert await store.count_runs() == {"running": 1}
    assert await store.count_runs(JOB_RUNS + QUEUE) == {"running": 1}
    assert await store.count_runs("flow") == {"running": 1}
    assert await store.count_jobs() == {QUEUE: 1, "other": 1}
    await taken(store, "s2")
    assert await store.count_jobs() == {"other": 1}


# --- priority, groups, limits ---------------------------------------------------------------------


async def check_apply_claims_jobs_of_high_priority_first(store: Store, clock: FakeClock) -> None:
    store.limit_queue(QUEUE, QueueLimits())
    await begun(store)
    for run_id, priority in (("a", 0), ("b", 5), ("c", 9), ("d", 5), ("e", 0)):
        await must(store, "s1", new_job(run_id, priority=priority))
    assert await store.count_jobs() == {QUEUE: 5}
    got = [run_id for _ in range(5) for run_id in await taken(store, "s2", 1)]
    assert got == ["c", "b", "d", "a", "e"]


async def check_apply_claims_no_more_than_a_group_may_have(store: Store, clock: FakeClock) -> None:
    store.limit_queue(QUEUE, QueueLimits(group_concurrency=1))
    await begun(store)
    for run_id, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("x", ""), ("y", "")):
        await must(store, "s1", new_job(run_id, group=group, priority=2 if run_id == "a2" else 0))
    assert sorted(await taken(store, "s2")) == ["a2", "b1", "x", "y"]
    reply = await store.apply("s3", [], {JOBS + QUEUE: 5})
    assert (list(reply.jobs), list(reply.more)) == ([], [])
    assert reply.next_due_us is not None
    assert clock.now_us() < reply.next_due_us <= clock.now_us() + SECOND_US
    await must(store, "s2", failed("a2", retry_us=0))
    assert await taken(store, "s3", 1) == ["a2"]
    await must(store, "s3", done("a2", attempt=2, forget=True))
    assert await taken(store, "s3") == ["a1"]


async def check_apply_claims_again_for_a_group_whose_worker_died(
    store: Store, clock: FakeClock
) -> None:
    store.limit_queue(QUEUE, QueueLimits(concurrency=1, group_concurrency=1))
    await begun(store)
    await must(store, "s1", new_job("j", group="a"), new_job("k", group="a"))
    assert await taken(store, "s2") == ["j"]
    assert await taken(store, "s3") == []
    await expire(store, clock, "s1")
    await must(store, "s1", ReapSessions())
    assert len(await taken(store, "s1")) == 1
    assert await taken(store, "s1") == []


async def check_apply_claims_of_a_low_priority_beside_many_groups_that_are_full(
    store: Store, clock: FakeClock
) -> None:
    store.limit_queue(QUEUE, QueueLimits(group_concurrency=1))
    await begun(store)
    groups = [f"g{number}" for number in range(120)]
    await must(store, "s1", *(new_job(f"{each} 1", group=each, priority=9) for each in groups))
    first = await taken(store, "s2", len(groups))
    assert len(first + await taken(store, "s2", len(groups))) == len(groups)
    await must(store, "s1", *(new_job(f"{each} 2", group=each, priority=9) for each in groups))
    await must(store, "s1", new_job("low", group="low"))
    assert await taken(store, "s2") == ["low"]


async def check_apply_claims_no_more_than_a_queue_may_have(store: Store, clock: FakeClock) -> None:
    store.limit_queue(QUEUE, QueueLimits(concurrency=2))
    await begun(store)
    await must(store, "s1", *(new_job(f"j{number}") for number in range(5)))
    first = await taken(store, "s2")
    assert len(first) == 2
    assert await taken(store, "s3") == []
    await must(store, "s2", done(first[0]))
    second = await taken(store, "s3")
    assert len(second) == 1
    await must(store, "s2", ReleaseStep(first[1], JOB_KEY, 1))
    assert len(await taken(store, "s3")) == 1
    await must(store, "s1", CancelRun(second[0], "why"))
    assert await taken(store, "s2") == []


async def check_apply_claims_at_the_rate_of_a_queue(store: Store, clock: FakeClock) -> None:
    store.limit_queue(QUEUE, QueueLimits(rate=2, per_us=SECOND_US))
    await begun(store)
    await must(store, "s1", *(new_job(f"j{number}") for number in range(5)))
    opened = clock.now_us()
    assert len(await taken(store, "s2", 1)) == 1
    clock.move_to(opened + SECOND_US // 2)
    assert len(await taken(store, "s2", 5)) == 1
    reply = await store.apply("s3", [], {JOBS + QUEUE: 5})
    assert (list(reply.jobs), list(reply.more)) == ([], [])
    assert reply.next_due_us == opened + SECOND_US
    clock.move_to(opened + SECOND_US - 1)
    assert await taken(store, "s3") == []
    clock.move_to(opened + SECOND_US)
    assert len(await taken(store, "s3")) == 2


async def check_apply_keeps_timers_beside_the_rate_of_a_queue(
    store: Store, clock: FakeClock
) -> None:
    store.limit_queue(QUEUE, QueueLimits(rate=1, per_us=60 * SECOND_US))
    await begun(store)
    await must(store, "s1", new_job("a"), new_job("b"), new_job("c", delay_us=SECOND_US))
    due = clock.now_us() + SECOND_US
    assert len(await taken(store, "s2", 1)) == 1
    assert (await store.apply("s2", [], {JOBS + QUEUE: 5})).next_due_us == due


CHECKS: tuple[Check, ...] = tuple(
    value for name, value in list(globals().items()) if name.startswith("check_")
)
