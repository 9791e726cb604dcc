"""Sagas: steps that are undone, the last first, when what follows them fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, overload

from pikku._functions import NO_INPUT, Dispatch, RpcRef
from pikku._ids import MAX_STEP_NAME, check_step_name
from pikku.errors import CompensationError, DeclarationError, StepNameError

if TYPE_CHECKING:
    import asyncio

    from pikku._durations import Duration
    from pikku._retry import Backoff
    from pikku._workflow import Given, StepFailure

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


UNDO_SUFFIX = " (undo)"


class _Step(NamedTuple):
    name: str
    undo: Any
    given: Given
    output: Any


class Saga:
    """`async with ctx.workflow.saga() as saga`: what `saga.do` has done is undone, the last first,
    if the block is left by an error or by the run's cancellation. A step that is under way then is
    waited for, and undone if it succeeds.

    Every undoing is a step of its own, `name (undo)`. One that fails does not keep the others from
    being taken, and neither does a cancellation that comes meanwhile.
    """

    def __init__(self, ask: Callable[..., asyncio.Future[Any]], given: Callable[[], Given]) -> None:
        self._ask = ask
        self._given = given
        self._is_open = False
        self._under_way: dict[asyncio.Future[Any], None] = {}
        self._succeeded: list[_Step] = []
        self._cancelled: asyncio.CancelledError | None = None

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
            StepNameError: *step* names nothing, or is too long for its undoing to have a name.
        """
        if not isinstance(target, (RpcRef, str)) or not isinstance(undo, (RpcRef, str)):
            raise DeclarationError(
                f"saga step {step!r}: what is done and what undoes it are functions of the app",
                hint="decorate them with @pikku_func",
            )
        import asyncio

        if not self._is_open:
            raise DeclarationError(
                f"saga step {step!r} is taken outside of the block of its saga",
                hint="take it inside `async with ctx.workflow.saga() as saga:`",
            )
        if len(check_step_name(step)) > MAX_STEP_NAME - len(UNDO_SUFFIX):
            raise StepNameError(
                f"saga step {step[:40]!r}… has {len(step)} characters, and with "
                f"{UNDO_SUFFIX!r} more than {MAX_STEP_NAME}"
            )
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
        given = self._given()

        def ended(future: asyncio.Future[Any]) -> None:
            del self._under_way[future]
            if not future.cancelled() and future.exception() is None:
                output = given.copy(future.result())  # before the author has it
                self._succeeded.append(_Step(step, undo, given, output))

        self._under_way[future] = None
        future.add_done_callback(ended)
        return await asyncio.shield(future)

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        import asyncio

        self._is_open = False
        if not isinstance(error, (Exception, asyncio.CancelledError)):
            return
        failed = await self._unwind()
        stays_cancelled = isinstance(error, asyncio.CancelledError)
        if failed:
            could_not = CompensationError(failed)
            if not stays_cancelled and self._cancelled is None:
                raise could_not from error
            import logging

            logging.getLogger("pikku").error("a run is cancelled, and %s", could_not)
        if self._cancelled is not None and not stays_cancelled:
            raise self._cancelled from error

    async def _unwind(self) -> list[str]:
        """Undo what has succeeded; the names of the steps that could not be undone."""
        while self._under_way:
            await self._wait(next(iter(self._under_way)))
        return [each.name for each in reversed(self._succeeded) if not await self._undone(each)]

    async def _undone(self, step: _Step) -> bool:
        import logging

        options = (None,) * 7
        while True:
            cancelled = self._cancelled
            try:
                told = Undo(step.given.input(), step.output, step.name)
                # As large as the step's own input and output, which were stored.
                future = self._ask(
                    step.name + UNDO_SUFFIX,
                    step.undo,
                    told,
                    *options,
                    detached=False,
                    limited=False,
                )
            except Exception:
                logging.getLogger("pikku").exception("step %r cannot be undone", step.name)
                return False
            await self._wait(future)
            if future.exception() is None:
                return True
            if self._cancelled is cancelled:
                return False
            # The cancellation has ended it, or refused it another attempt: it is taken again.

    async def _wait(self, future: asyncio.Future[Any]) -> None:
        """Until *future* is done, and what listens to it has been told; a cancellation is kept for
        later."""
        import asyncio

        while True:
            try:
                await asyncio.wait([future])
                return
            except asyncio.CancelledError as cancelled:
                self._cancelled = cancelled
