"""`ctx.workflow`: the steps that a workflow's author writes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from pikku._durations import Duration, duration_us
from pikku._error_info import ErrorInfo
from pikku._functions import NO_INPUT, Dispatch, RpcRef
from pikku._retry import Backoff
from pikku.errors import DurationError

if TYPE_CHECKING:
    import asyncio
    from uuid import UUID

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")


@dataclass(frozen=True)
class StepFailure(Generic[I]):
    """What an `on_error` handler is told.

    Attributes:
        input: the input of the step that failed.
        error: the error of its last attempt.
        step_name: the step's name.
        attempt_count: how many attempts it had.
    """

    input: I
    error: ErrorInfo
    step_name: str
    attempt_count: int


if TYPE_CHECKING:

    class Recorder(Protocol):
        """Where the steps of one run go; the engine's side of `ctx.workflow`."""

        def rpc(
            self,
            step: str,
            target: str,
            data: Any,
            retries: int | None,
            retry_delay: Duration | Backoff | None,
            timeout: Duration | None,
            on_error: str | None,
            queue: str | None,
            dispatch: Dispatch | None,
        ) -> asyncio.Future[Any]: ...

        def inline(
            self,
            step: str,
            target: Callable[[], Any],
            retries: int | None,
            retry_delay: Duration | Backoff | None,
            timeout: Duration | None,
            on_error: str | None,
            queue: str | None,
            dispatch: Dispatch | None,
            returns: Any,
        ) -> asyncio.Future[Any]: ...

        def sleep(
            self, step: str, *, wait_us: int | None = None, until_us: int | None = None
        ) -> asyncio.Future[Any]: ...

        def side_effect(self, name: str) -> asyncio.Future[Any]: ...
        def cancel(self, reason: str) -> asyncio.Future[Any]: ...


class WorkflowSteps:
    """Every kind of step but `do`, whose string names are generated."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def sleep(self, step: str, duration: Duration, /) -> None:
        """Wait that long. The wait survives restarts and costs a row in the store, not a task.

        Args:
            step: what the wait is for, in a few words.
            duration: `500ms 5s 5min 2h 1d 1w`, `1h30min`, `PT5M` or a timedelta.

        Raises:
            DurationError: for anything else; a bare number is refused.
        """
        await self._recorder.sleep(step, wait_us=duration_us(duration))

    async def sleep_until(self, step: str, when: datetime, /) -> None:
        """Wait until *when*, which must have a time zone; a time in the past does not wait.

        Raises:
            DurationError: if *when* is no datetime, or has no time zone.
        """
        if not isinstance(when, datetime):
            raise DurationError(
                f"sleep_until({step!r}): {when!r} is no datetime", hint="give an aware datetime"
            )
        if when.utcoffset() is None:
            raise DurationError(
                f"sleep_until({step!r}): {when} has no time zone",
                hint="such as datetime(2030, 1, 1, tzinfo=UTC)",
            )
        until_us = int(when.timestamp()) * 1_000_000 + when.microsecond
        await self._recorder.sleep(step, until_us=until_us)

    async def now(self) -> datetime:
        """The time, in UTC, recorded the first time and the same on every replay."""
        value: datetime = await self._recorder.side_effect("now()")
        return value

    async def uuid4(self) -> UUID:
        """A random UUID, recorded the first time and the same on every replay."""
        value: UUID = await self._recorder.side_effect("uuid4()")
        return value

    async def random(self) -> float:
        """A number from 0 up to 1, recorded the first time and the same on every replay."""
        value: float = await self._recorder.side_effect("random()")
        return value

    async def cancel(self, reason: str, /) -> None:
        """Cancel this run: `asyncio.CancelledError` is raised here and at every other await of
        the function, its `finally` blocks may still take steps, and the run ends `cancelled`."""
        await self._recorder.cancel(reason)


class WorkflowWire(WorkflowSteps):
    """`ctx.workflow` without generated names."""

    @overload
    async def do(
        self,
        step: str,
        target: RpcRef[None, O],
        /,
        *,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[None], object] | None = None,
        queue: str | None = None,
        dispatch: Dispatch | None = None,
    ) -> O: ...
    @overload
    async def do(
        self,
        step: str,
        target: RpcRef[I, O],
        data: I,
        /,
        *,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[I], object] | None = None,
        queue: str | None = None,
        dispatch: Dispatch | None = None,
    ) -> O: ...
    @overload
    async def do(
        self,
        step: str,
        target: Callable[[], Coroutine[Any, Any, T]],
        /,
        *,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[None], object] | None = None,
        returns: type[T] | None = None,
    ) -> T: ...
    @overload
    async def do(
        self,
        step: str,
        target: Callable[[], T],
        /,
        *,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[None], object] | None = None,
        returns: type[T] | None = None,
    ) -> T: ...
    async def do(
        self,
        step: str,
        target: Any,
        data: Any = NO_INPUT,
        /,
        *,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[Any, object] | None = None,
        queue: str | None = None,
        dispatch: Dispatch | None = None,
        returns: Any = None,
    ) -> Any:
        """Take a step: execute *target* once, and remember what came of it.

        Args:
            step: what the step does, in a few words; it names the step in the run's history.
            target: a function of the app (object, attribute of `ctx.rpc`, or its name), executed
                with *data*; or a callable without arguments, executed here at once.
            data: the function's input.
            retries: how many further attempts a failure gets; default: as declared, else 0.
            retry_delay: how long to wait before each: a duration, or a `Backoff`.
            timeout: how long one attempt may take.
            on_error: a function that is told of the failure after the last attempt, before the
                error is raised here.
            queue: the queue whose workers execute it; default: as declared, else the project's.
            dispatch: "queue" hands it to a worker by way of the queue, always; "local" lets the
                worker that executes the workflow do it at once; default: as declared, else
                "local". A queue of its own is always crossed.
            returns: the type of what a callable without a return annotation returns.

        Raises:
            StepFailedError: after the last attempt.
            DeclarationError: an option cannot be, or is none that *target* could have.
            InvalidInputError: *data* does not fit the function's declared input.
            PayloadError: *data* cannot be stored.
            StepNameError: *step* is empty or no string.
        """
        handler = None if on_error is None else on_error.name
        if isinstance(target, RpcRef):
            name: str = target.name
        elif isinstance(target, str):
            name = target
        else:
            return await self._recorder.inline(
                step, target, retries, retry_delay, timeout, handler, queue, dispatch, returns
            )
        return await self._recorder.rpc(
            step, name, data, retries, retry_delay, timeout, handler, queue, dispatch
        )
