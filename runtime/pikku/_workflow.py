"""`ctx.workflow`: the steps that a workflow's author writes."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast, overload

from pikku._decisions import Approvers, Decision
from pikku._durations import Duration, duration_us
from pikku._error_info import ErrorInfo
from pikku._functions import NO_INPUT, Dispatch, RpcRef, WorkflowRef
from pikku._ids import check_reason
from pikku._retry import Backoff
from pikku._signals import Signal
from pikku.errors import DeclarationError, DurationError, SignalTimeoutError

if TYPE_CHECKING:
    import asyncio
    from uuid import UUID

    from pikku._saga import Saga
    from pikku._signals import Received

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
P = TypeVar("P")
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

    class Given(Protocol):
        """What a step was given and has made, as it is recorded: whatever the author makes of these
        values is not seen."""

        def input(self) -> Any: ...
        def copy(self, output: Any) -> Any: ...

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
            *,
            limited: bool = True,
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

        def child(
            self,
            step: str,
            target: WorkflowRef[Any, Any] | str,
            data: Any,
            retries: int | None,
            retry_delay: Duration | Backoff | None,
            timeout: Duration | None,
            on_error: str | None,
            detached: bool,
        ) -> asyncio.Future[Any]: ...

        def signal(
            self, step: str, name: str, *, timeout_us: int | None
        ) -> asyncio.Future[Received | None]: ...

        def approval(
            self,
            step: str,
            *,
            schema: type[Any] | None,
            reason: str,
            expires_us: int | None,
            approvers: str,
            scope: str,
        ) -> asyncio.Future[Decision[Any] | None]: ...

        def side_effect(self, name: str) -> asyncio.Future[Any]: ...
        def suspend(self, reason: str) -> asyncio.Future[Any]: ...
        def cancel(self, reason: str) -> asyncio.Future[Any]: ...
        def patched(self, patch_id: str) -> bool: ...
        def is_workflow(self, name: str) -> bool: ...
        def given(self) -> Given: ...


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
        the function, its `finally` blocks may still take steps, and the run ends `cancelled`.

        Raises:
            DeclarationError: *reason* says nothing.
        """
        await self._recorder.cancel(check_reason(reason, "cancel"))

    async def suspend(self, reason: str, /) -> None:
        """Stand still until somebody resumes the run: `run.resume()`, `pikku runs resume`. Nothing
        else opens it. Steps under way end and are recorded; no other begins meanwhile.

        Args:
            reason: why, in a few words; it names the step in the run's history.
        """
        await self._recorder.suspend(reason)

    def patched(self, patch_id: str, /) -> bool:
        """Whether the run takes the new way at an edit: yes for runs that come here for the first
        time, no for those that had passed before the edit was deployed; the same on every replay.

            if ctx.workflow.patched("charge twice checked"):
                await ctx.workflow.do("Check account", check, order)
        """
        return self._recorder.patched(patch_id)

    async def wait_for_signal(
        self, step: str, signal: Signal[P], /, *, timeout: Duration | None = None
    ) -> P:
        """Wait until somebody sends *signal* to this run (`run.signal(…)`); one that came before is
        taken at once. Each signal is taken by one step, the oldest by the first that waits.

        Args:
            step: what the wait is for, in a few words.
            signal: what `wire_signal` returned, an attribute of `signals`, or its name.
            timeout: how long to wait at most; without it, for ever.

        Raises:
            SignalTimeoutError: it did not come in time.
            UnknownSignalError: no such signal is declared.
        """
        name: Any = signal.name if isinstance(cast(object, signal), Signal) else signal
        limit = None if timeout is None else duration_us(timeout)
        received = await self._recorder.signal(step, name, timeout_us=limit)
        if received is None:
            raise SignalTimeoutError(step, name)
        payload: P = received.value
        return payload

    @overload
    async def approval(
        self,
        step: str,
        /,
        *,
        schema: type[T],
        reason: str = "",
        expires_in: Duration | None = None,
        approvers: Approvers = "any",
        scope: str = "",
    ) -> Decision[T]: ...
    @overload
    async def approval(
        self,
        step: str,
        /,
        *,
        schema: None = None,
        reason: str = "",
        expires_in: Duration | None = None,
        approvers: Approvers = "any",
        scope: str = "",
    ) -> Decision[None]: ...
    async def approval(
        self,
        step: str,
        /,
        *,
        schema: Any = None,
        reason: str = "",
        expires_in: Duration | None = None,
        approvers: Approvers = "any",
        scope: str = "",
    ) -> Decision[Any]:
        """Wait until somebody decides: `run.approve(step, …)`, `run.reject(step, …)`. The first
        answer stands; it is recorded with who gave it and when.

        Args:
            step: what is to be decided, in a few words.
            schema: the class of the data that comes with an answer, defined at the top level of a
                module.
            reason: what whoever decides should know.
            expires_in: after how long nobody can answer any more, and the outcome is `expired`.
            approvers: who may answer: anybody, only who started the run, or only others.
            scope: what whoever answers must be entitled to.

        Raises:
            DeclarationError: an option cannot be.
            ApproverError: nobody could answer: the run does not say who started it.
        """
        if approvers not in ("any", "owner", "not_initiator"):
            raise DeclarationError(
                f"approval {step!r}: approvers is {approvers!r}",
                hint="write 'any', 'owner' or 'not_initiator'",
            )
        decision = await self._recorder.approval(
            step,
            schema=schema,
            reason=reason,
            expires_us=None if expires_in is None else duration_us(expires_in),
            approvers=approvers,
            scope=scope,
        )
        return Decision("expired") if decision is None else decision

    # --- several at once ------------------------------------------------------------------------

    @overload
    async def map(
        self,
        step: str,
        target: RpcRef[I, O] | WorkflowRef[I, O],
        items: Iterable[I],
        /,
        *,
        max_concurrency: int | None = None,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[I], object] | None = None,
        queue: str | None = None,
        dispatch: Dispatch | None = None,
    ) -> list[O]: ...
    @overload
    async def map(
        self,
        step: str,
        target: RpcRef[I, O] | WorkflowRef[I, O],
        items: Iterable[I],
        /,
        *,
        tolerated_failures: int,
        max_concurrency: int | None = None,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[I], object] | None = None,
        queue: str | None = None,
        dispatch: Dispatch | None = None,
    ) -> list[O | StepFailure[I]]: ...
    @overload
    async def map(
        self,
        step: str,
        target: Callable[[I], Coroutine[Any, Any, O]],
        items: Iterable[I],
        /,
        *,
        max_concurrency: int | None = None,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
    ) -> list[O]: ...
    @overload
    async def map(
        self,
        step: str,
        target: Callable[[I], O],
        items: Iterable[I],
        /,
        *,
        max_concurrency: int | None = None,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
    ) -> list[O]: ...
    @overload
    async def map(
        self,
        step: str,
        target: Callable[[I], Coroutine[Any, Any, O]],
        items: Iterable[I],
        /,
        *,
        tolerated_failures: int,
        max_concurrency: int | None = None,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
    ) -> list[O | StepFailure[I]]: ...
    @overload
    async def map(
        self,
        step: str,
        target: Callable[[I], O],
        items: Iterable[I],
        /,
        *,
        tolerated_failures: int,
        max_concurrency: int | None = None,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
    ) -> list[O | StepFailure[I]]: ...
    async def map(
        self,
        step: str,
        target: Any,
        items: Any,
        /,
        *,
        max_concurrency: int | None = None,
        tolerated_failures: int | None = None,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[Any, object] | None = None,
        queue: str | None = None,
        dispatch: Dispatch | None = None,
    ) -> list[Any]:
        """Take a step for each of *items*, at most *max_concurrency* at once; the results in the
        order of the items. The steps are named `step[0]`, `step[1]`, and so on.

        Args:
            step: what is done to each item, in a few words.
            target: a function or workflow of the app, or a callable of one argument, executed here.
            items: at most 10,000.
            max_concurrency: how many steps are under way at once; without it, all.
            tolerated_failures: how many items may fail; their places in the result hold the
                `StepFailure`.

        Raises:
            StepFailedError: an item has failed, or one more than are tolerated; no further step is
                begun then, children under way are cancelled, and an attempt under way ends and is
                recorded.
            FanOutError: *items* is no list, or has too many.
            DeclarationError: an option cannot be.
        """
        from pikku._fan_out import fan_out

        inline = callable(target) and not _is_named(target)

        def take(name: str, item: Any) -> asyncio.Future[Any]:
            return self._ask(
                name,
                functools.partial(target, item) if inline else target,
                NO_INPUT if inline else item,
                retries,
                retry_delay,
                timeout,
                on_error,
                queue,
                dispatch,
                None,
                detached=False,
            )

        given = None if inline else self._recorder.given
        return await fan_out(step, take, items, max_concurrency, tolerated_failures, given)

    @overload
    async def race(
        self, first: Awaitable[A], second: Awaitable[B], /
    ) -> tuple[Literal[0], A] | tuple[Literal[1], B]: ...
    @overload
    async def race(
        self, first: Awaitable[A], second: Awaitable[B], third: Awaitable[C], /
    ) -> tuple[Literal[0], A] | tuple[Literal[1], B] | tuple[Literal[2], C]: ...
    @overload
    async def race(
        self,
        first: Awaitable[A],
        second: Awaitable[B],
        third: Awaitable[C],
        fourth: Awaitable[D],
        /,
    ) -> (
        tuple[Literal[0], A] | tuple[Literal[1], B] | tuple[Literal[2], C] | tuple[Literal[3], D]
    ): ...
    @overload
    async def race(self, /, *awaitables: Awaitable[T]) -> tuple[int, T]: ...
    async def race(self, /, *awaitables: Awaitable[Any]) -> Any:
        """The place and the value of whatever ends first, in the recorded order; the others are
        cancelled. A wait that has lost takes no signal, and a child that has lost is cancelled; an
        attempt under way ends and is recorded.

        Raises:
            Exception: what the winner raises.
            DeclarationError: with fewer than two.
        """
        from pikku._fan_out import first_of

        return await first_of(awaitables)

    def saga(self) -> Saga:
        """Steps that are undone, the last first, if what follows fails or the run is cancelled.

        async with ctx.workflow.saga() as saga:
            seat = await saga.do("Book seat", book_seat, trip, undo=release_seat)
            await saga.do("Charge card", charge, trip.card, undo=refund)
        """
        from pikku._saga import Saga

        return Saga(self._ask, self._recorder.given)

    def _ask(
        self,
        step: str,
        target: Any,
        data: Any,
        retries: int | None,
        retry_delay: Duration | Backoff | None,
        timeout: Duration | None,
        on_error: RpcRef[Any, object] | str | None,
        queue: str | None,
        dispatch: Dispatch | None,
        returns: Any,
        *,
        detached: bool,
        limited: bool = True,
    ) -> asyncio.Future[Any]:
        """A future for the outcome of a step, of whatever kind *target* calls for. Not *limited*,
        its data may be as large as it is."""
        recorder = self._recorder
        handler = on_error.name if isinstance(on_error, RpcRef) else on_error
        if isinstance(target, RpcRef):
            name: str = target.name
        elif isinstance(target, str) and not recorder.is_workflow(target):
            name = target
        elif isinstance(target, str) or _is_named(target):
            if queue is not None or dispatch is not None or returns is not None:
                raise DeclarationError(
                    f"step {step!r}: a child run has no queue, dispatch or returns of its own",
                    hint="leave them out; the steps of the child have their own",
                )
            return recorder.child(
                step, target, data, retries, retry_delay, timeout, handler, detached
            )
        else:
            if detached:
                raise DeclarationError(
                    f"step {step!r}: only a workflow can be detached", hint="leave detached out"
                )
            return recorder.inline(
                step, target, retries, retry_delay, timeout, handler, queue, dispatch, returns
            )
        if detached:
            raise DeclarationError(
                f"step {step!r}: only a workflow can be detached", hint="leave detached out"
            )
        return recorder.rpc(
            step,
            name,
            data,
            retries,
            retry_delay,
            timeout,
            handler,
            queue,
            dispatch,
            limited=limited,
        )


def _is_named(target: object) -> bool:
    return isinstance(target, (str, RpcRef, WorkflowRef))


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
        self, step: str, target: WorkflowRef[None, Any], /, *, detached: Literal[True]
    ) -> str: ...
    @overload
    async def do(
        self, step: str, target: WorkflowRef[I, Any], data: I, /, *, detached: Literal[True]
    ) -> str: ...
    @overload
    async def do(
        self,
        step: str,
        target: WorkflowRef[None, O],
        /,
        *,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[None], object] | None = None,
    ) -> O: ...
    @overload
    async def do(
        self,
        step: str,
        target: WorkflowRef[I, O],
        data: I,
        /,
        *,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[I], object] | None = None,
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
        detached: bool = False,
    ) -> Any:
        """Take a step: execute *target* once, and remember what came of it.

        Args:
            step: what the step does, in a few words; it names the step in the run's history.
            target: a function of the app (object, attribute of `ctx.rpc`, or its name), executed
                with *data*; a workflow (object, attribute of `workflows`, or its name), which
                becomes a run of its own, a child of this one; or a callable without arguments,
                executed here at once.
            data: the function's or the workflow's input.
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
            detached: start the workflow and wait no longer; the step's value is the id of its run,
                which neither fails nor is cancelled with this one.

        Raises:
            StepFailedError: after the last attempt.
            DeclarationError: an option cannot be, or is none that *target* could have.
            InvalidInputError: *data* does not fit the function's declared input.
            PayloadError: *data* cannot be stored.
            StepNameError: *step* is empty or no string.
        """
        return await self._ask(
            step,
            target,
            data,
            retries,
            retry_delay,
            timeout,
            on_error,
            queue,
            dispatch,
            returns,
            detached=detached,
        )
