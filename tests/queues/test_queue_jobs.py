"""Jobs of queues are done once, with the retries, delays, priorities and limits they were added
with; what failed for good can be looked at and put back (`behaviour.md` 7)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.life.kit import PATIENCE, Place
from tests.runtime.kit import Ctx, Lab, Toy, Wf

import pikku._bodies
from pikku import BoundQueue, Job, QueueAttributes, QueueConfig, RateLimit, RpcAttributes, Work
from pikku.errors import (
    DeclarationError,
    InvalidInputError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobStateError,
    PayloadTooLargeError,
    TerminalError,
    UnknownQueueError,
    WorkflowBodyError,
)


@dataclass
class Mailer:
    """A toy app with a queue, and what has become of the mails."""

    toy: Toy
    config: QueueConfig = field(default_factory=QueueConfig)
    sent: list[str] = field(default_factory=list[str])
    failing: int = 0
    gate: asyncio.Event | None = None
    most: int = 0
    under_way: int = 0

    def __post_init__(self) -> None:
        async def send(ctx: Ctx, to: str) -> str:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                if self.gate is not None:
                    await self.gate.wait()
                if self.failing:
                    self.failing -= 1
                    raise ValueError("no route")
                if to == "nobody":
                    raise TerminalError("nobody is there")
                self.sent.append(to)
                return f"sent to {to} by {ctx.step.name}, attempt {ctx.step.attempt_count}"
            finally:
                self.under_way -= 1

        func = self.toy.func(retries=2, retry_delay="10s")(send)
        self.toy.registry.wire_queue_worker(queue="mails", func=func, config=self.config)

    @property
    def queue(self) -> BoundQueue[str, str]:
        return QueueAttributes(self.toy.app).mails

    @asynccontextmanager
    async def at(self, place: Place, **changes: Any) -> AsyncGenerator[Lab, None]:
        async with place.lab(self.toy, **changes) as lab:
            yield lab


@pytest.fixture
def mailer(toy: Toy) -> Mailer:
    return Mailer(toy)


# --- a job is done --------------------------------------------------------------------------------


async def test_a_job_is_done_and_its_result_comes_to_who_waits(
    mailer: Mailer, place: Place
) -> None:
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann", delay="1min")
        waiting = asyncio.ensure_future(job.result())
        await lab.settle()
        await lab.advance("1min")
        assert await waiting == "sent to ann by send, attempt 1"
    assert mailer.sent == ["ann"]


async def test_a_job_that_is_done_leaves_nothing_behind(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann")
        await lab.settle()
        assert mailer.sent == ["ann"]
        assert await job.info() is None
        with pytest.raises(JobNotFoundError, match="keep_result=True"):
            await job.result(timeout=PATIENCE)
        assert await lab.app.list_runs() == []
        assert await lab.app.count_runs() == {}


async def test_a_job_with_keep_result_tells_it_later(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann", keep_result=True)
        await lab.settle()
        assert await mailer.queue.get_job(job.job_id).result(timeout=PATIENCE) == (
            "sent to ann by send, attempt 1"
        )
        info = await job.info()
        assert info is not None
        assert (info.status, info.function, info.attempt) == ("completed", "send", 1)
        assert (await lab.app.opened.jobs.counts("mails")).completed == 1


async def test_a_job_may_begin_only_after_its_delay(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        await mailer.queue.add("ann", delay="5min")
        await lab.advance("299s")
        assert mailer.sent == []
        await lab.advance("1s")
        assert mailer.sent == ["ann"]


async def test_many_jobs_are_added_in_one_go(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        names = [f"n{number}" for number in range(120)]
        jobs = await mailer.queue.add_many(names)
        assert len({job.job_id for job in jobs}) == 120
        await lab.settle()
        assert sorted(mailer.sent) == sorted(names)


async def test_many_jobs_are_validated_before_the_first_is_added(
    mailer: Mailer, place: Place
) -> None:
    async with mailer.at(place) as lab:
        bad: Any = ["ann", 3]
        with pytest.raises(InvalidInputError, match="item 1 for queue 'mails'"):
            await mailer.queue.add_many(bad)
        await lab.settle()
        assert mailer.sent == []


async def test_a_second_job_of_an_id_is_the_first(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        first = await mailer.queue.add("ann", dedupe_id="order-1", delay="1h")
        second = await mailer.queue.add("bob", dedupe_id="order-1")
        assert first.job_id == second.job_id
        await lab.advance("1h")
        assert mailer.sent == ["ann"]
        third = await mailer.queue.add("eve", dedupe_id="order-1", keep_result=True)
        assert await third.result(timeout=PATIENCE) == "sent to eve by send, attempt 1"
    assert mailer.sent == ["ann", "eve"]


async def test_a_job_outlives_its_process(mailer: Mailer, place: Place) -> None:
    if place.url == "memory://":
        pytest.skip("a store in memory is gone with its app")
    async with mailer.at(place):
        await mailer.queue.add("ann", delay="1h")
    async with mailer.at(place) as lab:
        await lab.advance("1h")
    assert mailer.sent == ["ann"]


# --- failures -------------------------------------------------------------------------------------


async def test_a_job_that_fails_is_tried_again_after_its_delay(
    mailer: Mailer, place: Place
) -> None:
    mailer.failing = 2
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann", keep_result=True)
        await lab.settle()
        info = await job.info()
        assert info is not None
        assert (info.status, info.attempt, info.failures) == ("waiting", 2, 1)
        assert info.error == "ValueError: no route"
        await lab.advance("30s")
        assert await job.result(timeout=PATIENCE) == "sent to ann by send, attempt 3"


async def test_a_job_that_fails_for_good_is_a_dead_letter(mailer: Mailer, place: Place) -> None:
    mailer.failing = 99
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann", retries=1)
        await lab.advance("1min")
        with pytest.raises(JobFailedError) as caught:
            await job.result(timeout=PATIENCE)
        assert caught.value.caused_by(ValueError)
        assert str(caught.value) == (
            f"PKR402 job {job.job_id} failed: ValueError: no route "
            f"(pikku queue retry mails {job.job_id})"
        )
        assert mailer.failing == 97
        (dead,) = await lab.app.opened.jobs.listed("mails", "failed")
        assert (dead.job_id, dead.status, dead.failures) == (job.job_id, "failed", 2)


async def test_a_terminal_error_is_not_tried_again(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("nobody")
        await lab.settle()
        with pytest.raises(JobFailedError, match="nobody is there"):
            await job.result(timeout=PATIENCE)


async def test_a_dead_letter_that_is_retried_has_all_its_attempts(
    mailer: Mailer, place: Place
) -> None:
    mailer.failing = 3
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann", keep_result=True)
        await lab.advance("1min")
        control = lab.app.opened.jobs
        with pytest.raises(JobFailedError):
            await job.result(timeout=PATIENCE)
        mailer.failing = 1
        assert await control.retry_all("mails") == 1
        await lab.advance("1min")
        assert await job.result(timeout=PATIENCE) == "sent to ann by send, attempt 5"
        with pytest.raises(JobStateError, match="is completed and cannot be retried"):
            await control.retry("mails", job.job_id)
        with pytest.raises(JobNotFoundError):
            await control.retry("mails", "mails~nobody")


async def test_purging_removes_what_has_that_status(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        control = lab.app.opened.jobs
        await mailer.queue.add("nobody")
        kept = await mailer.queue.add("ann", keep_result=True)
        late = await mailer.queue.add("bob", delay="1h")
        await lab.settle()
        counts = await control.counts("mails")
        assert (counts.unfinished, counts.dead, counts.completed) == (1, 1, 1)
        assert await control.purge("mails", "failed") == 1
        assert await control.purge("mails", "running") == 1
        counts = await control.counts("mails")
        assert (counts.unfinished, counts.dead, counts.completed) == (0, 0, 1)
        assert await kept.info() is not None
        assert await late.info() is None
        await lab.advance("2h")
    assert mailer.sent == ["ann"]


# --- cancel ---------------------------------------------------------------------------------------


async def test_a_job_that_waits_can_be_cancelled(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann", delay="1h")
        await job.cancel("changed our mind")
        with pytest.raises(JobCancelledError, match="changed our mind"):
            await job.result(timeout=PATIENCE)
        await lab.advance("2h")
    assert mailer.sent == []


async def test_a_job_that_runs_is_asked_to_stop_and_not_tried_again(toy: Toy, place: Place) -> None:
    begun = asyncio.Event()

    @toy.func(retries=9)
    async def work(ctx: Ctx) -> None:
        begun.set()
        while not ctx.step.cancelled:
            await asyncio.sleep(0)
        raise ValueError("stopped half way")

    toy.registry.wire_queue_worker(queue="work", func=work)
    async with place.lab(toy) as lab:
        job = await lab.app.add_job("work")
        await asyncio.wait_for(begun.wait(), 30)
        await job.cancel("changed our mind")
        with pytest.raises(JobCancelledError, match="changed our mind"):
            await job.result(timeout="30s")


async def test_a_job_that_ends_all_the_same_is_recorded_so(mailer: Mailer, place: Place) -> None:
    mailer.gate = asyncio.Event()
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann", keep_result=True)
        while not mailer.under_way:
            await asyncio.sleep(0)
        await job.cancel("stop")
        mailer.gate.set()
        await lab.settle()
        assert await job.result(timeout=PATIENCE) == "sent to ann by send, attempt 1"


# --- priority, groups, limits ---------------------------------------------------------------------


async def test_jobs_of_a_higher_priority_come_first(toy: Toy, place: Place) -> None:
    mailer = Mailer(toy, QueueConfig(concurrency=1))
    mailer.gate = asyncio.Event()
    async with mailer.at(place) as lab:
        await mailer.queue.add("first")
        while not mailer.under_way:
            await asyncio.sleep(0)
        for name, priority in (("low", 0), ("high", 9), ("middle", 5)):
            await mailer.queue.add(name, priority=priority)
        mailer.gate.set()
        for _ in range(20):
            await lab.advance("1s")
    assert mailer.sent == ["first", "high", "middle", "low"]
    assert mailer.most == 1


async def test_no_more_jobs_of_a_group_run_than_it_may_have(toy: Toy, place: Place) -> None:
    under_way: Counter[str] = Counter()
    most: Counter[str] = Counter()
    done: list[str] = []

    @toy.func
    async def work(ctx: Ctx, name: str) -> None:
        under_way[name[0]] += 1
        most[name[0]] = max(most[name[0]], under_way[name[0]])
        for _ in range(5):
            await asyncio.sleep(0)
        under_way[name[0]] -= 1
        done.append(name)

    toy.registry.wire_queue_worker(queue="work", func=work, config=QueueConfig(group_concurrency=1))
    async with place.lab(toy) as lab:
        for number in range(3):
            await lab.app.add_job("work", f"a{number}", group="a")
            await lab.app.add_job("work", f"b{number}", group="b")
        for _ in range(8):
            await lab.advance("1s")
    assert most == {"a": 1, "b": 1}
    assert [name for name in done if name[0] == "a"] == ["a0", "a1", "a2"]
    assert [name for name in done if name[0] == "b"] == ["b0", "b1", "b2"]


async def test_no_more_jobs_begin_than_the_rate_lets(toy: Toy, place: Place) -> None:
    mailer = Mailer(toy, QueueConfig(rate_limit=RateLimit(2, "1min")))
    async with mailer.at(place) as lab:
        await mailer.queue.add_many([str(number) for number in range(5)])
        await lab.settle()
        assert len(mailer.sent) == 2
        await lab.advance("59s")
        assert len(mailer.sent) == 2
        await lab.advance("1s")
        assert len(mailer.sent) == 4
        await lab.advance("1min")
        assert len(mailer.sent) == 5


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"priority": 10}, "queue 'mails': priority is 10"),
        ({"priority": True}, "queue 'mails': priority is True"),
        ({"priority": -1}, "queue 'mails': priority is -1"),
        ({"group": ""}, "queue 'mails': group is ''"),
        ({"group": "x" * 129}, "queue 'mails': group is"),
        ({"group": "a\nb"}, "queue 'mails': group is"),
        ({"dedupe_id": "a b"}, "queue 'mails': dedupe_id is 'a b'"),
        ({"dedupe_id": "\udc00"}, "queue 'mails': dedupe_id is"),
        ({"retries": -1}, "queue 'mails': "),
        ({"keep_result": 1}, "queue 'mails': keep_result is 1"),
    ],
)
async def test_an_option_that_cannot_be_is_refused(
    mailer: Mailer, tmp_path: Any, options: dict[str, Any], says: str
) -> None:
    async with mailer.at(Place("memory://")) as lab:
        with pytest.raises(DeclarationError) as caught:
            await mailer.queue.add("ann", **options)
        assert str(caught.value).startswith(f"PKR203 {says}") or says in str(caught.value)
        await lab.settle()
    assert mailer.sent == []


async def test_a_queue_without_a_function_is_refused_with_the_nearest_name(
    mailer: Mailer,
) -> None:
    async with mailer.at(Place("memory://")) as lab:
        with pytest.raises(UnknownQueueError, match="mails"):
            await lab.app.add_job("mail", "ann")
        with pytest.raises(InvalidInputError, match="is missing"):
            await lab.app.add_job("mails")


async def test_a_workflow_body_adds_no_jobs(mailer: Mailer) -> None:
    @mailer.toy.workflow
    async def flow(ctx: Any) -> None:
        await mailer.queue.add("ann")

    async with mailer.at(Place("memory://")) as lab:
        run = await lab.app.start_workflow("flow")
        with pytest.raises(Exception, match="adding a job to 'mails' in a workflow body"):
            await run.result(timeout=PATIENCE)
    assert mailer.sent == []
    assert issubclass(WorkflowBodyError, Exception)


async def test_a_step_adds_a_job(mailer: Mailer, place: Place) -> None:
    @mailer.toy.func
    async def order(ctx: Ctx) -> str:
        job: Job[str] = await mailer.queue.add("ann", dedupe_id=ctx.step.invocation_id)
        return job.job_id

    @mailer.toy.workflow
    async def flow(ctx: Any) -> str:
        job_id: str = await ctx.workflow.do("Order", order)
        return job_id

    async with mailer.at(place) as lab:
        run = await lab.app.start_workflow("flow", wait=False)
        await lab.settle()
        assert (await run.result(timeout=PATIENCE)).startswith("mails~")
    assert mailer.sent == ["ann"]


# --- calls by a worker ----------------------------------------------------------------------------


def callables(toy: Toy) -> Any:
    """Functions to be called by name: `double` and `fails`."""

    @toy.func
    async def double(ctx: Ctx, number: int) -> int:
        return 2 * number

    @toy.func
    async def fails(ctx: Ctx) -> None:
        raise ValueError("no")

    return RpcAttributes(toy.app)


async def test_a_remote_call_is_made_by_a_worker(mailer: Mailer, store_url: str) -> None:
    rpc = callables(mailer.toy)
    async with mailer.at(Place(store_url, mode="remote")):
        assert await rpc.double.remote(4) == 8
        with pytest.raises(JobFailedError, match="ValueError: no"):
            await rpc.fails.remote()
        with pytest.raises(InvalidInputError):
            await rpc.double.remote("four")


async def test_of_a_remote_call_nothing_is_kept(mailer: Mailer, store_url: str) -> None:
    rpc = callables(mailer.toy)
    async with mailer.at(Place(store_url, mode="remote")) as lab:
        await rpc.double.remote(4)
        with pytest.raises(JobFailedError):
            await rpc.fails.remote()
        await lab.settle()
        left = await lab._opened.jobs.listed("default")

    assert left == []


@pytest.mark.parametrize("way", ["remote", "job"])
async def test_a_step_that_has_lost_a_worker_may_wait_for_one_that_is_the_same(
    mailer: Mailer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Such a step is executed alone, but not while it waits for a call, nor for long."""
    toy, lost = mailer.toy, asyncio.Event()
    rpc = callables(toy)
    if way == "job":
        monkeypatch.setattr(pikku._bodies, "ALONE_AT_MOST_SECONDS", 0.05)

    @toy.func(dispatch="queue")
    async def ask(ctx: Ctx, number: int) -> str:
        if ctx.step.attempt_count == 1:
            lab._crash()
            lost.set()
            await asyncio.Event().wait()
        if way == "remote":
            return str(await rpc.double.remote(number, timeout="1min"))
        job = await mailer.queue.add("ann", keep_result=True)
        return str(await job.result(timeout=PATIENCE)).split(" by ")[0]

    @toy.workflow(name="main")
    async def main(ctx: Wf) -> str:
        return str(await ctx.workflow.do("Ask", ask, 4))

    async with mailer.at(Place("memory://", mode="remote")) as lab:
        run = await toy.start("main", wait=False)
        await lost.wait()
        await lab.recover()
        assert await run.result(timeout=PATIENCE) == ("8" if way == "remote" else "sent to ann")


async def test_a_remote_call_keeps_to_the_limit_of_payloads(mailer: Mailer) -> None:

    @mailer.toy.func
    async def echo(ctx: Ctx, text: str) -> str:
        return text

    place = Place("memory://", mode="remote")
    async with mailer.at(place, max_payload_bytes=100):
        rpc: Any = RpcAttributes(mailer.toy.app)
        assert await rpc.echo.remote("x" * 90) == "x" * 90
        with pytest.raises(PayloadTooLargeError, match="the input of function 'echo'"):
            await rpc.echo.remote("x" * 100)


# --- steps of workflows that cross the queue (`behaviour.md` 6.7) ---------------------------------


async def test_steps_that_cross_a_queue_keep_to_its_limits(toy: Toy, store_url: str) -> None:
    under_way = most = 0
    done: list[int] = []

    @toy.func(queue="work")
    async def work(ctx: Ctx, number: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(5):
            await asyncio.sleep(0)
        under_way -= 1
        done.append(number)

    @toy.workflow
    async def flow(ctx: Any) -> None:
        await ctx.workflow.map("Work", work, list(range(8)))

    toy.registry.wire_queue_worker(queue="work", func=work, config=QueueConfig(concurrency=2))
    async with Place(store_url, mode="remote").lab(toy) as lab:
        run = await lab.app.start_workflow("flow")
        for _ in range(8):
            await lab.advance("1s")
        await run.result(timeout=PATIENCE)
    assert sorted(done) == list(range(8))
    assert most == 2


# --- while the app opens --------------------------------------------------------------------------


async def test_what_begins_while_the_app_opens_adds_jobs_and_starts_runs(
    mailer: Mailer, tmp_path: Path
) -> None:
    app = mailer.toy.app

    @mailer.toy.func
    async def order(ctx: Ctx) -> str:
        begun.append(opening)
        return (await mailer.queue.add("ann")).queue

    @mailer.toy.workflow
    async def flow(ctx: Any) -> str:
        queue: str = await ctx.workflow.do("Order", order)
        return queue

    begun: list[bool] = []
    url = f"sqlite:///{tmp_path / 'runs.db'}?durability=process"
    async with app.open(store=url, queue_service="store"):
        run = await app.start_workflow("flow", wait=False)
    opening = True
    async with app.open(store=url, queue_service="store", work=Work()):
        opening = False
        assert await run.result(timeout="10s") == "mails"
    assert begun == [True]
