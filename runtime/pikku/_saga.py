"""Sagas: steps that are undone, the last first, when what follows them fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, overload

from pikku._functions import NO_INPUT, Dispatch, RpcRef
from pikku.errors import CompensationError, DeclarationError, StepFailedError

if TYPE_CHECKING:
    import asyncio

    from pikku._durations import Duration
    from pikku._retry import Backoff
    from pikku._workflow import StepFailure

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


@dataclass(frozen=True)
class Undo(Generic[I, O]):
    """What a function is given that undoes a step.

    Attributes:
        input: what the step was given.
        output: what it made.
        step_name: the step's name.
    """

    input: I
    output: O
    step_name: str


class _Done(NamedTuple):
    step: str
    undo: Any
    input: Any
    output: Any


class _InDoubt(NamedTuple):
    step: str
    undo: Any
    input: Any
    future: Any


class Saga:
    """`async with ctx.workflow.saga() as saga`: what `saga.do` has done is undone, the last first,
    if the block is left by an error or by the run's cancellation. A step that is under way when the
    cancellation comes is waited for, and undone if it succeeds.

    Every undoing is a step of its own, `name (undo)`. One that fails does not keep the others from
    being taken.
    """

    def __init__(self, ask: Callable[..., asyncio.Future[Any]]) -> None:
        self._ask = ask
        self._done: list[_Done] = []
        self._in_doubt: list[_InDoubt] = []

    @overload
    async def do(
        self,
        step: str,
        target: RpcRef[None, O],
        /,
        *,
        undo: RpcRef[Undo[None, O], object],
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
        undo: RpcRef[Undo[I, O], object],
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[StepFailure[I], object] | None = None,
        queue: str | None = None,
        dispatch: Dispatch | None = None,
    ) -> O: ...
    async def do(
        self,
        step: str,
        target: Any,
        data: Any = NO_INPUT,
        /,
        *,
        undo: Any,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        on_error: RpcRef[Any, object] | None = None,
        queue: str | None = None,
        dispatch: Dispatch | None = None,
    ) -> Any:
        """Take a step, as `ctx.workflow.do` does, and remember how to undo it.

        Args:
            undo: a function of the app that is given an `Undo`: the step's input and output.

        Raises:
            StepFailedError: after the last attempt.
            DeclarationError: an option cannot be.
        """
        if not isinstance(target, (RpcRef, str)) or not isinstance(undo, (RpcRef, str)):
            raise DeclarationError(
                f"saga step {step!r}: what is done and what undoes it are functions of the app",
                hint="decorate them with @pikku_func",
            )
        import asyncio

        future = self._ask(
            step,
            target,
            data,
            retries,
            retry_delay,
            timeout,
            on_error,
            queue,
            dispatch,
            None,
            detached=False,
        )
        given = None if data is NO_INPUT else data
        try:
            output = await asyncio.shield(future)
        except asyncio.CancelledError:
            self._in_doubt.append(_InDoubt(step, undo, given, future))
            raise
        self._done.append(_Done(step, undo, given, output))
        return output

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        import asyncio

        if not isinstance(error, (Exception, asyncio.CancelledError)):
            return
        failed = await self._unwind()
        if not failed:
            return
        if isinstance(error, asyncio.CancelledError):
            import logging

            logging.getLogger("pikku").error("%s", CompensationError(failed))
        else:
            raise CompensationError(failed) from error

    async def _unwind(self) -> list[str]:
        """Undo what has succeeded; the names of the steps that could not be undone."""
        import asyncio

        for step, undo, given, future in self._in_doubt:
            try:
                self._done.append(_Done(step, undo, given, await asyncio.shield(future)))
            except StepFailedError:
                continue
        failed: list[str] = []
        for step, undo, given, output in reversed(self._done):
            told = Undo(given, output, step)
            try:
                await self._ask(
                    f"{step} (undo)",
                    undo,
                    told,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    detached=False,
                )
            except StepFailedError:
                failed.append(step)
        return failed
