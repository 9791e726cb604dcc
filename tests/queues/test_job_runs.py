"""What is done to runs by their ids does something sensible to jobs, and loses nothing of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.life.kit import PATIENCE, Place
from tests.queues.test_queue_jobs import Mailer
from tests.queues.test_queue_jobs import mailer as mailer
from tests.runtime.kit import Toy

from pikku._functions import NO_INPUT
from pikku.errors import HistoryFormatError, JobCancelledError, NoSuchStepError, RunStateError

WEEK = {"completed": 604_800_000_000, "failed": 604_800_000_000, "cancelled": 604_800_000_000}


@pytest.fixture
def place(evicted: Place) -> Place:
    """Each store, in each mode."""
    return evicted


async def dead(mailer: Mailer, lab: Any, **options: Any) -> Any:
    """A job that has failed for good."""
    mailer.failing = 99
    job = await mailer.queue.add("ann", retries=0, keep_result=True, **options)
    await lab.settle()
    mailer.failing = 0
    info = await job.info()
    assert info is not None
    assert info.status == "failed"
    return job


async def test_a_dead_letter_that_is_retried_as_a_run_is_done(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        job = await dead(mailer, lab, priority=3, group="g")
        control = lab.app.opened.control
        with pytest.raises(NoSuchStepError):
            await control.retry(job.job_id, "another")
        await control.retry(job.job_id, None)
        await lab.settle()
        assert await job.result(timeout=PATIENCE) == "sent to ann by send, attempt 2"
        with pytest.raises(RunStateError, match="is completed and cannot be retried"):
            await control.retry(job.job_id, None)


async def test_a_job_is_not_forked(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        job = await dead(mailer, lab)
        with pytest.raises(RunStateError, match="is a job and cannot be forked"):
            await lab.app.opened.control.fork(job.job_id, "job", NO_INPUT, None)


async def test_a_job_that_is_imported_is_done_when_it_is_resumed(
    mailer: Mailer, place: Place
) -> None:
    async with mailer.at(place) as lab:
        control = lab.app.opened.control
        job = await mailer.queue.add("ann", delay="1h", priority=3, group="g", keep_result=True)
        data = await control.export(job.job_id)
        with pytest.raises(RunStateError, match="has not ended"):
            await control.delete(job.job_id)
        assert await control.cancel(job.job_id, "moves")
        await lab.settle()
        await control.delete(job.job_id)
        await control.import_run(data)
        info = await job.info()
        assert info is not None
        assert (info.status, info.priority, info.group) == ("waiting", 3, "g")
        await lab.advance("2h")
        assert mailer.sent == []
        await lab.app.opened.engine.resume(job.job_id)
        await lab.settle()
        assert await job.result(timeout=PATIENCE) == "sent to ann by send, attempt 1"


async def test_an_imported_dead_letter_can_be_put_back(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        opened = lab.app.opened
        job = await dead(mailer, lab, group="g")
        data = await opened.control.export(job.job_id)
        await opened.control.delete(job.job_id)
        await opened.control.import_run(data)
        await opened.jobs.retry("mails", job.job_id)
        await lab.settle()
        assert await job.result(timeout=PATIENCE) == "sent to ann by send, attempt 2"


@pytest.mark.parametrize(
    "changes",
    [{"queue": None}, {"queue": "letters"}, {"queue": "mails/x/"}, {"kind": "rpc"}, {"key": "j"}],
)
async def test_a_job_that_would_lie_in_no_queue_is_not_imported(
    mailer: Mailer, changes: Mapping[str, Any]
) -> None:
    async with mailer.at(Place("memory://")) as lab:
        control = lab.app.opened.control
        job = await mailer.queue.add("ann", delay="1h")
        data: Any = await control.export(job.job_id)
        data["steps"][0] |= changes
        with pytest.raises(HistoryFormatError, match="job"):
            await control.import_run(data)


async def test_a_job_is_cancelled_as_a_run(mailer: Mailer, place: Place) -> None:
    async with mailer.at(place) as lab:
        control = lab.app.opened.control
        job = await mailer.queue.add("ann", delay="1h")
        assert await control.cancel(job.job_id, "not needed")
        with pytest.raises(JobCancelledError, match="not needed"):
            await job.result(timeout=PATIENCE)
        assert not await control.cancel(job.job_id, "again")


async def test_retention_removes_dead_letters_and_kept_results(
    toy: Toy, place: Place, mailer: Mailer
) -> None:
    async with mailer.at(place) as lab:
        engine = lab.app.opened.engine
        engine._retention = WEEK
        failed = await dead(mailer, lab)
        kept = await mailer.queue.add("bob", keep_result=True)
        off = await mailer.queue.add("eve", delay="1min")
        await off.cancel("not needed")
        late = await mailer.queue.add("eve", delay="30d")
        await lab.settle()

        async def left() -> list[str]:
            await engine._prune()
            await lab.settle()
            return [job.job_id for job in (failed, kept, off, late) if await job.info()]

        await lab.advance("6d")
        assert len(await left()) == 4
        await lab.advance("2d")
        assert await left() == [late.job_id]
