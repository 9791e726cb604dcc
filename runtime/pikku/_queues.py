"""Queues from outside of workflows: what is wired to one, and the handles of the jobs in it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    overload,
)

from pikku._durations import Duration, duration_us
from pikku._ids import check_reason
from pikku.errors import DeclarationError, DurationError
from pikku.stores.lanes import QueueLimits

if TYPE_CHECKING:
    from datetime import datetime

    from pikku._app import Caller, OpenApp
    from pikku._functions import Func

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)
T = TypeVar("T")

JobStatus: TypeAlias = Literal["waiting", "running", "completed", "failed", "cancelled"]

_MAX_COUNT = 1_000_000


# --- what is wired to a queue -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many jobs in so much time: `RateLimit(100, "1min")`.

    Raises:
        DeclarationError: if *count* is no number from 1 on, or *per* no duration above zero.
    """

    count: int
    per: Duration

    def __post_init__(self) -> None:
        _check_count("RateLimit", "count", self.count)
        try:
            us = duration_us(self.per)
        except DurationError as error:
            raise DeclarationError(f"RateLimit: per: {error.message}", hint=error.hint) from error
        if us == 0:
            raise DeclarationError(
                f"RateLimit: per is {self.per!r}", hint='write how long it counts: "1min"'
            )

    @property
    def per_us(self) -> int:
        """The time in microseconds."""
        return duration_us(self.per)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """How the jobs of a queue are taken on. What is None has no limit of its own.

    Attributes:
        concurrency: how many of its jobs are executed at one time.
        group_concurrency: how many of those that were added with the same `group`.
        rate_limit: how many begin within a time.

    Raises:
        DeclarationError: if a value cannot be used.
    """

    concurrency: int | None = None
    group_concurrency: int | None = None
    rate_limit: RateLimit | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "group_concurrency"):
            value: object = getattr(self, name)
            if value is not None:
                _check_count("QueueConfig", name, value)
        if self.rate_limit is not None and not isinstance(self.rate_limit, RateLimit):
            raise DeclarationError(
                f"QueueConfig: rate_limit is {self.rate_limit!r}",
                hint='write rate_limit=RateLimit(100, "1min")',
            )

    @property
    def limits(self) -> QueueLimits:
        """The same as a store keeps to it."""
        rate = self.rate_limit
        return QueueLimits(
            self.concurrency,
            self.group_concurrency,
            None if rate is None else rate.count,
            0 if rate is None else rate.per_us,
        )


def _check_count(owner: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
        raise DeclarationError(
            f"{owner}: {name} is {value!r}", hint="write a whole number from 1 to 1 000 000"
        )


@dataclass(frozen=True, slots=True)
class WiredQueueWorker:
    """The function that does the jobs of a queue."""

    queue: str
    func: Func[Any, Any]
    config: QueueConfig


# --- jobs -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What is known of a job.

    Attributes:
        function: the name of the function that does it.
        attempt: the number of the attempt that runs or was the last, from 1; 0 before the first.
        failures: how many attempts have failed.
        error: what the last failure said.
        progress: how far the attempt that runs says it is, from 0 to 1.
        group: the group it was added with.
    """

    job_id: str
    queue: str
    function: str
    status: JobStatus
    attempt: int
    failures: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    progress: float | None
    group: str | None
    priority: int


class Job(Generic[O_co]):
    """One piece of work in a queue, wherever it is done. `str(job)` is its id.

    Attributes:
        job_id: the job's id.
        queue: the name of its queue.
    """

    def __init__(self, job_id: str, queue: str, opened: Callable[[], OpenApp]) -> None:
        self.job_id = job_id
        self.queue = queue
        self._opened = opened

    def __str__(self) -> str:
        return self.job_id

    def __repr__(self) -> str:
        return f"<Job {self.job_id} of {self.queue}>"

    async def result(self, *, timeout: Duration | None = None) -> O_co:
        """What the function returned, once it has. A job that was added without `keep_result=True`
        may be gone by then."""
        limit = None if timeout is None else duration_us(timeout)
        value: O_co = await self._opened().jobs.result(self.queue, self.job_id, limit)
        return value

    async def info(self) -> JobInfo | None:
        """What is known of it; None where the store has no such job, or no longer."""
        return await self._opened().jobs.info(self.queue, self.job_id)

    async def cancel(self, reason: str) -> None:
        """Take it out of the queue, or ask the attempt that runs to stop. A job that has ended
        stays as it is.

        Raises:
            DeclarationError: *reason* says nothing.
        """
        said = check_reason(reason, "job.cancel")
        await self._opened().jobs.cancel(self.queue, self.job_id, said)


class BoundQueue(Generic[I_contra, O_co]):
    """`queues.x`: a queue that jobs can be added to."""

    def __init__(self, name: str, caller: Caller) -> None:
        self.name = name
        self._caller = caller

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @overload
    async def add(
        self: BoundQueue[None, T],
        /,
        *,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        dedupe_id: str | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> Job[T]: ...
    @overload
    async def add(
        self,
        data: I_contra,
        /,
        *,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        dedupe_id: str | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> Job[O_co]: ...
    async def add(self: Any, *data: Any, **options: Any) -> Any:
        """Add a job: see `App.add_job`."""
        return await self._caller.add_job(self.name, *data, **options)

    async def add_many(
        self,
        items: Iterable[I_contra],
        /,
        *,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> list[Job[O_co]]:
        """Add a job for each of *items*: see `App.add_jobs`."""
        jobs: list[Job[O_co]] = await self._caller.add_jobs(
            self.name,
            items,
            delay=delay,
            priority=priority,
            retries=retries,
            group=group,
            keep_result=keep_result,
        )
        return jobs

    def get_job(self, job_id: str, /) -> Job[O_co]:
        """The handle of a job that exists; nothing is read until the handle is used."""
        job: Job[O_co] = self._caller.get_job(self.name, job_id)
        return job


class QueueAttributes:
    """`queues`: an attribute for each queue that a function is wired to. `names` maps the
    attributes whose queue has another name."""

    names: ClassVar[dict[str, str]] = {}

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __getattr__(self, attribute: str) -> BoundQueue[Any, Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return BoundQueue(self.names.get(attribute, attribute), self._caller)

    async def add(
        self,
        name: str,
        /,
        *data: Any,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        dedupe_id: str | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> Any:
        """Add a job to the queue *name*, as `queues.name.add(data)` does."""
        return await self._caller.add_job(
            name,
            *data,
            delay=delay,
            priority=priority,
            retries=retries,
            dedupe_id=dedupe_id,
            group=group,
            keep_result=keep_result,
        )


# --- the same without an event loop -------------------------------------------------------------


class SyncJob(Generic[O_co]):
    """The handle of a job for code without an event loop; see `Job`."""

    def __init__(self, job: Job[O_co], wait_for: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.job_id = job.job_id
        self.queue = job.queue
        self._job = job
        self._wait_for = wait_for

    def __str__(self) -> str:
        return self.job_id

    def result(self, *, timeout: Duration | None = None) -> O_co:
        """See `Job.result`."""
        value: O_co = self._wait_for(self._job.result(timeout=timeout))
        return value

    def info(self) -> JobInfo | None:
        """See `Job.info`."""
        value: JobInfo | None = self._wait_for(self._job.info())
        return value

    def cancel(self, reason: str) -> None:
        """See `Job.cancel`."""
        self._wait_for(self._job.cancel(reason))


class SyncBoundQueue(Generic[I_contra, O_co]):
    """`shop.queues.x`: a queue that synchronous code can add jobs to; see `BoundQueue`."""

    def __init__(
        self,
        queue: BoundQueue[I_contra, O_co],
        wait_for: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self.name = queue.name
        self._queue = queue
        self._wait_for = wait_for

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @overload
    def add(
        self: SyncBoundQueue[None, T],
        /,
        *,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        dedupe_id: str | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> SyncJob[T]: ...
    @overload
    def add(
        self,
        data: I_contra,
        /,
        *,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        dedupe_id: str | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> SyncJob[O_co]: ...
    def add(self: Any, *data: Any, **options: Any) -> Any:
        """See `BoundQueue.add`."""
        return SyncJob(self._wait_for(self._queue.add(*data, **options)), self._wait_for)

    def add_many(
        self,
        items: Iterable[I_contra],
        /,
        *,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> list[SyncJob[O_co]]:
        """See `BoundQueue.add_many`."""
        adding = self._queue.add_many(
            items,
            delay=delay,
            priority=priority,
            retries=retries,
            group=group,
            keep_result=keep_result,
        )
        return [SyncJob(job, self._wait_for) for job in self._wait_for(adding)]

    def get_job(self, job_id: str, /) -> SyncJob[O_co]:
        """See `BoundQueue.get_job`."""
        return SyncJob(self._queue.get_job(job_id), self._wait_for)


class SyncQueueAttributes:
    """`shop.queues`: the attributes of `queues`, for synchronous code."""

    def __init__(
        self,
        caller: Caller,
        names: Mapping[str, str],
        wait_for: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self._caller = caller
        self._names = names
        self._wait_for = wait_for

    def __getattr__(self, attribute: str) -> SyncBoundQueue[Any, Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return self._queue(self._names.get(attribute, attribute))

    def add(self, name: str, /, *data: Any, **options: Any) -> SyncJob[Any]:
        """Add a job to the queue *name*, as `shop.queues.name.add(data)` does."""
        job: SyncJob[Any] = self._queue(name).add(*data, **options)
        return job

    def _queue(self, name: str) -> SyncBoundQueue[Any, Any]:
        return SyncBoundQueue(BoundQueue[Any, Any](name, self._caller), self._wait_for)
