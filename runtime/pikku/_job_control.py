"""Jobs of queues, seen from outside: adding them, their results, dead letters and their repair."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pikku._clock import as_datetime
from pikku._control import each_run
from pikku._durations import Duration, duration_us
from pikku._error_info import ErrorInfo, cancellation
from pikku._functions import step_policy
from pikku._ids import is_unicode, new_run_id
from pikku._jobs import job_text
from pikku._payloads import check_size
from pikku._queues import JobInfo, JobStatus
from pikku._records import (
    FINAL_STATUSES,
    JOB_KEY,
    JOB_RUNS,
    CancelRun,
    CreateRun,
    DeleteRun,
    LoadedRun,
    RunFilter,
    StepWrite,
)
from pikku._repair import retried_job
from pikku.errors import (
    DeclarationError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobStateError,
    PikkuError,
    ResultTimeoutError,
    RunNotFoundError,
    SettingError,
)
from pikku.stores.base import DEFAULT_QUEUE
from pikku.stores.lanes import MAX_GROUP_BYTES, MAX_PRIORITY, Place, lane_of, place_of

if TYPE_CHECKING:
    from pikku._app import OpenApp
    from pikku._functions import Func
    from pikku._queues import WiredQueueWorker
    from pikku._records import RunStatus

ADD_AT_ONCE = 500
MAX_DEDUPE_BYTES = 128


class JobOptions(NamedTuple):
    """How a job is added, checked.

    `text` is what its step says of it to whoever executes it.
    """

    wait_us: int | None
    lane: str
    text: str
    dedupe_id: str | None


class QueueCounts(NamedTuple):
    """What a queue holds: jobs that wait for a worker, those that are unfinished (with these), the
    dead letters, and those that completed and are kept."""

    waiting: int
    unfinished: int
    dead: int
    completed: int


class JobControl:
    """The open app's side of queues."""

    def __init__(self, opened: OpenApp) -> None:
        self._opened = opened
        self._engine = opened.engine
        self._registry = opened.registry
        self._store = opened.engine.store

    @property
    def _traceparent(self) -> str | None:
        """The trace that whoever adds a job is in."""
        return self._engine.observer.traceparent

    # --- adding ---------------------------------------------------------------------------------

    def options(
        self,
        wired: WiredQueueWorker,
        *,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        dedupe_id: str | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> JobOptions:
        """How a job is added to a queue.

        Raises:
            DeclarationError, DurationError: if a value cannot be used.
        """
        where = f"queue {wired.queue!r}"
        policy = step_policy(where, wired.func.policy, retries, None, None)
        place = Place(wired.queue, _priority(priority, where), _group(group, where))
        if not isinstance(cast(object, keep_result), bool):
            raise DeclarationError(
                f"{where}: keep_result is {keep_result!r}", hint="write True, or nothing"
            )
        return JobOptions(
            None if delay is None else duration_us(delay) or None,
            lane_of(place),
            job_text(wired.func, policy, keep=keep_result, traceparent=self._traceparent),
            None if dedupe_id is None else _dedupe_id(dedupe_id, where),
        )

    def admitted(self, wired: WiredQueueWorker, data: Any, where: str) -> str:
        """*data* as the text of a job's input.

        Raises:
            InvalidInputError, PayloadError: if it cannot be.
        """
        text = wired.func.declaration.input.admit(data, where)
        self._check_size(text, where)
        return text

    def _check_size(self, text: str, where: str) -> None:
        check_size(text, self._engine.options.max_payload_bytes, f"the input of {where}")

    async def add(
        self, wired: WiredQueueWorker, texts: Sequence[str], options: JobOptions
    ) -> list[str]:
        """Add a job for each of *texts*; their ids.

        Raises:
            StoreError: if the store does not take them; those before may be there.
        """
        made: list[str] = []
        for start in range(0, len(texts), ADD_AT_ONCE):
            part = texts[start : start + ADD_AT_ONCE]
            self._engine.intake.fills(wired.queue)
            made += await asyncio.gather(
                *(self._create(wired.func, text, options) for text in part)
            )
        return made

    async def _create(self, func: Func[Any, Any], text: str, options: JobOptions) -> str:
        queue = place_of(options.lane).queue
        # The part before the mark is alike in all jobs of a queue: they lie together.
        job_id = f"{queue}~{options.dedupe_id or new_run_id()}"
        step = StepWrite(
            JOB_KEY, 0, "job", func.name, "scheduled", 1, 0, 0, "", text, None, None,
            options.wait_us, None, False, options.lane, options.text,
        )  # fmt: skip
        op = CreateRun(
            job_id, JOB_RUNS + queue, "null", "", False, False, (), None, None,
            traceparent=self._traceparent, job=step,
        )  # fmt: skip
        result = await self._engine.ask(op)
        if result.code == "ok":
            self._engine.results.forget(job_id)  # of one that had the same id
        return job_id

    async def call(self, func: Func[Any, Any], text: str, timeout: Duration) -> Any:
        """What a worker makes of a call of *func*.

        Raises:
            SettingError: if the app leaves nothing to workers.
            PayloadTooLargeError: if what it is given is too large.
            ResultTimeoutError: if it has not ended in time; it is called off.
            JobFailedError: if the function failed.
        """
        if not self._engine.remote:
            raise SettingError(
                f"a remote call of {func.name!r}: this app leaves nothing to workers",
                hint='set queue_service = "store" in [tool.pikku], or call it directly',
            )
        limit = duration_us(timeout)
        self._check_size(text, f"function {func.name!r}")
        queue = func.queue or DEFAULT_QUEUE
        options = JobOptions(
            None,
            queue,
            job_text(func, func.policy, keep=False, traceparent=self._traceparent),
            None,
        )
        job_id = await self._create(func, text, options)
        self._engine.bodies.let_others_in()  # whoever calls may have been alone here
        try:
            return await self.result(queue, job_id, limit, func=func)
        except (ResultTimeoutError, asyncio.CancelledError, JobFailedError):
            self._engine.spawn(self._drop_call(queue, job_id))
            raise

    async def _drop_call(self, queue: str, job_id: str) -> None:
        """Nobody waits for a call any longer: its job goes, or ends and is kept as retention has
        it where it has begun."""
        with suppress(PikkuError):
            await self.cancel(queue, job_id, "nobody waits for it any longer")
            await self._engine.request(DeleteRun(job_id))

    # --- one job --------------------------------------------------------------------------------

    async def result(
        self,
        queue: str,
        job_id: str,
        timeout_us: int | None,
        *,
        func: Func[Any, Any] | None = None,
    ) -> Any:
        """What the function returned, once it has.

        Raises:
            JobFailedError: it failed for good.
            JobCancelledError: it was cancelled.
            JobNotFoundError: there is no such job, or no longer.
            ResultTimeoutError: it did not end in time; it goes on.
        """
        func = func or self._registry.queue_worker(queue).func
        try:
            settle = await self._engine.results.result(job_id, timeout_us, watches=True)
        except RunNotFoundError:
            raise JobNotFoundError(job_id, store=self._store.address) from None
        if settle.status == "completed":
            output = func.declaration.output
            return output.decode(settle.output or "null", f"the result of job {job_id}")
        error = ErrorInfo.from_json(settle.error) if settle.error else ErrorInfo("Exception", "")
        if settle.status == "cancelled":
            raise JobCancelledError(job_id, queue, settle.reason or error.message)
        raise JobFailedError(job_id, queue, error)

    async def info(self, queue: str, job_id: str) -> JobInfo | None:
        """What is known of a job."""
        loaded = await self._store.load_steps(job_id)
        return None if loaded is None or not _is_of(loaded, queue) else job_info(loaded)

    async def cancel(self, queue: str, job_id: str, reason: str) -> None:
        """Take a job out of its queue, or ask its attempt to stop."""
        error = cancellation(job_id, JOB_RUNS + queue, reason)
        await self._engine.request(CancelRun(job_id, reason, forced=error))

    # --- many jobs ------------------------------------------------------------------------------

    async def waiting(self) -> dict[str, int]:
        """How many jobs wait in each queue; queues without are left out."""
        return await self._store.count_jobs()

    async def count(self, queue: str, status: RunStatus) -> int:
        """How many jobs of a queue have this status."""
        return (await self._store.count_runs(JOB_RUNS + queue)).get(status, 0)

    async def counts(self, queue: str, waiting: dict[str, int] | None = None) -> QueueCounts:
        """What a queue holds; *waiting* are the jobs that wait in each, where they were counted."""
        counted = await self._store.count_jobs() if waiting is None else waiting
        runs = await self._store.count_runs(JOB_RUNS + queue)
        unfinished = runs.get("running", 0) + runs.get("suspended", 0)
        return QueueCounts(
            counted.get(queue, 0), unfinished, runs.get("failed", 0), runs.get("completed", 0)
        )

    async def listed(
        self, queue: str, status: RunStatus | None = None, limit: int = 50
    ) -> list[JobInfo]:
        """Jobs of a queue, newest first."""
        wanted = RunFilter(workflow=JOB_RUNS + queue, status=status, limit=limit)
        runs = await self._store.list_runs(wanted)
        loaded = await asyncio.gather(*(self._store.load_steps(run.run_id) for run in runs))
        return [job_info(each) for each in loaded if each is not None and each.steps]

    async def retry(self, queue: str, job_id: str) -> None:
        """Put a dead letter back into its queue, with all its attempts before it.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has not failed.
        """
        loaded = await self._store.load_steps(job_id)
        if loaded is None or not _is_of(loaded, queue):
            raise JobNotFoundError(job_id, store=self._store.address)
        if loaded.run.status != "failed":
            raise JobStateError(
                f"job {job_id} is {loaded.run.status} and cannot be retried",
                hint="only a job that has failed for good is",
            )
        await self._engine.request(retried_job(loaded, now_us=self._engine.clock.now_us()))
        self._engine.results.forget(job_id)

    async def retry_all(self, queue: str) -> int:
        """Put every dead letter of a queue back into it; how many."""
        return await self._each_of(queue, "failed", lambda job_id: self.retry(queue, job_id))

    async def purge(self, queue: str, status: RunStatus) -> int:
        """Remove the jobs of a queue that have this status, and cancel them first where they have
        not ended; how many."""

        async def remove(job_id: str) -> None:
            if status not in FINAL_STATUSES:
                await self.cancel(queue, job_id, "the queue is purged")
            await self._engine.request(DeleteRun(job_id))

        return await self._each_of(queue, status, remove)

    async def _each_of(
        self, queue: str, status: RunStatus, act: Callable[[str], Awaitable[None]]
    ) -> int:
        wanted = RunFilter(workflow=JOB_RUNS + queue, status=status)
        jobs = [run.run_id async for run in self._opened.control.every(wanted)]
        return await each_run(jobs, act, passed_over=(JobNotFoundError, JobStateError))


def job_info(loaded: LoadedRun) -> JobInfo:
    """What the records of a job say."""
    run, step = loaded.run, loaded.steps[0]
    status: JobStatus = "waiting"
    if run.status in ("completed", "failed", "cancelled"):
        status = cast("JobStatus", run.status)
    elif step.status == "running":
        status = "running"
    place = place_of(step.queue or "")
    error = ErrorInfo.shown(step.error) if step.error else None
    said: Any = json.loads(step.progress) if step.progress else None
    begun = step.started_us is not None
    return JobInfo(
        run.run_id,
        run.workflow.removeprefix(JOB_RUNS),
        step.target,
        status,
        step.attempt if begun else 0,
        step.failures,
        as_datetime(run.created_us),
        None if step.started_us is None else as_datetime(step.started_us),
        None if run.finished_us is None else as_datetime(run.finished_us),
        None if error is None else f"{error.type}: {error.message}",
        None if said is None else said["done"],
        place.group or None,
        place.priority,
    )


def _is_of(loaded: LoadedRun, queue: str) -> bool:
    return loaded.run.workflow == JOB_RUNS + queue and bool(loaded.steps)


def _priority(given: object, where: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= MAX_PRIORITY:
        raise DeclarationError(
            f"{where}: priority is {given!r}",
            hint="write a whole number from 0 to 9; jobs of a higher one come first",
        )
    return given


def _group(given: object, where: str) -> str:
    if given is None:
        return ""
    if not _is_name(given, MAX_GROUP_BYTES):
        raise DeclarationError(
            f"{where}: group is {given!r}", hint=f"give it a name of 1 to {MAX_GROUP_BYTES} bytes"
        )
    return cast(str, given)


def _dedupe_id(given: object, where: str) -> str:
    if not _is_name(given, MAX_DEDUPE_BYTES) or any(char in "{}| " for char in cast(str, given)):
        raise DeclarationError(
            f"{where}: dedupe_id is {given!r}",
            hint=f"give it an id of 1 to {MAX_DEDUPE_BYTES} bytes, without blanks, braces and bars",
        )
    return cast(str, given)


def _is_name(given: object, most: int) -> bool:
    return (
        isinstance(given, str)
        and given.isprintable()
        and is_unicode(given)
        and 0 < len(given.encode()) <= most
    )
