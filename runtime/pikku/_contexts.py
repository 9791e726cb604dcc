"""The `ctx` of functions and workflows: what an author's code is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pikku._ids import invocation_id, new_run_id
from pikku.errors import ProgressError

if TYPE_CHECKING:
    from pikku._app import Caller
    from pikku._logging import ContextLogger

S_co = TypeVar("S_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)
W_co = TypeVar("W_co", covariant=True)
T = TypeVar("T")


if TYPE_CHECKING:

    class Cancellation(Protocol):
        """Whether an attempt is asked to stop."""

        @property
        def requested(self) -> bool: ...


def to_nobody(done: float, note: str) -> None:
    pass


class StepContext:
    """`ctx.step`: which attempt of which step this is.

    Attributes:
        name: the step's name; empty where a function is called outside any step.
        run_id: the run's id; empty likewise.
        attempt_count: from 1; attempts lost with their process count.
    """

    def __init__(
        self,
        run_id: str,
        key: str,
        name: str,
        attempt_count: int,
        cancellation: Cancellation,
        *,
        report: Callable[[float, str], None] = to_nobody,
    ) -> None:
        self.run_id = run_id
        self.name = name
        self._key = key
        self.attempt_count = attempt_count
        self._cancellation = cancellation
        self._report = report

    @property
    def key(self) -> str:
        """The step's key; of a call outside any step, one of its own."""
        made: str = self._key or self.__dict__.setdefault("_own_key", new_run_id())
        return made

    @property
    def invocation_id(self) -> str:
        """The idempotency key: the same for every attempt of this step, in every process. Give it
        to whatever must not happen twice."""
        return invocation_id(self.run_id, self.key)

    @property
    def cancelled(self) -> bool:
        """Whether the outcome is no longer wanted: the run was cancelled, or the timeout passed.
        Long work should look at it from time to time, and stop."""
        return self._cancellation.requested

    def progress(self, done: float, note: str = "") -> None:
        """Say how far a long step is: *done* from 0 to 1, and what it is at. From any thread, and
        as often as one likes; nothing of it outlives the attempt.

        Raises:
            ProgressError: if *done* is no number from 0 to 1.
        """
        if (
            isinstance(done, bool)
            or not isinstance(done, (int, float))
            or not math.isfinite(done)
            or not 0 <= done <= 1
        ):
            raise ProgressError(f"step {self.name!r} reports {done!r} as its progress")
        self._report(float(done), str(note))


class BaseContext(Generic[S_co, R_co]):
    """What both kinds of context have.

    Attributes:
        services: what the app's services factory made; None without a factory.
        rpc: the app's functions by attribute.
        logger: a logger whose records say where they come from.
        run_id: the run's id; empty where a function is called outside any run.
    """

    services: S_co
    rpc: R_co
    logger: ContextLogger
    run_id: str

    def __init__(self, services: Any, rpc: Any, logger: ContextLogger, run_id: str) -> None:
        self.services = services
        self.rpc = rpc
        self.logger = logger
        self.run_id = run_id


class FunctionContext(BaseContext[S_co, R_co]):
    """The `ctx` of a function.

    Attributes:
        step: which attempt of which step this is.
        session: who called it, or called what called it: what the `authorize` hook returned. None
            in a run, and where the program itself calls without one. The generated `Context` has
            the type that the hook says.
    """

    step: StepContext
    session: Any

    def __init__(
        self,
        services: Any,
        rpc: Any,
        logger: ContextLogger,
        run_id: str,
        step: StepContext,
        caller: Caller,
        session: Any = None,
    ) -> None:
        super().__init__(services, rpc, logger, run_id)
        self.step = step
        self.session = session
        self._caller = caller

    def run_async(self, coro: Coroutine[Any, Any, T], /) -> T:
        """The result of *coro*, run on the app's event loop; for synchronous functions.

        Raises:
            RuntimeError: if called on the event loop itself, which would wait for itself.
        """
        return self._caller.run_async(coro)


class WorkflowFunctionContext(BaseContext[S_co, R_co], Generic[S_co, R_co, W_co]):
    """The `ctx` of a workflow. It is no `FunctionContext`: its `rpc` holds targets, not calls."""

    workflow: W_co

    def __init__(
        self, services: Any, rpc: Any, logger: ContextLogger, run_id: str, workflow: Any
    ) -> None:
        super().__init__(services, rpc, logger, run_id)
        self.workflow = workflow
