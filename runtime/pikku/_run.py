"""The handle of a run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pikku._durations import Duration, duration_us
from pikku._error_info import ErrorInfo
from pikku.errors import RunCancelledError, RunFailedError, RunNotFoundError

if TYPE_CHECKING:
    from pikku._app import OpenApp
    from pikku._history import HistoryEvent, RunInfo
    from pikku._records import RunStatus

O_co = TypeVar("O_co", covariant=True)


class Run(Generic[O_co]):
    """One execution of a workflow, wherever it is executed. `str(run)` is its id.

    Attributes:
        run_id: the run's id.
        workflow: the name of its workflow.
    """

    def __init__(self, run_id: str, workflow: str, opened: Callable[[], OpenApp]) -> None:
        self.run_id = run_id
        self.workflow = workflow
        self._opened = opened

    def __str__(self) -> str:
        return self.run_id

    def __repr__(self) -> str:
        return f"<Run {self.run_id} of {self.workflow}>"

    async def result(self, *, timeout: Duration | None = None) -> O_co:
        """What the workflow returned, once it has; waits through sleeps and suspension.

        Raises:
            RunFailedError: the run failed.
            RunCancelledError: the run was cancelled.
            RunNotFoundError: there is no such run.
            ResultTimeoutError: it did not end within *timeout*; it goes on.
        """
        opened = self._opened()
        limit = None if timeout is None else duration_us(timeout)
        settle = await opened.engine.results.result(self.run_id, limit)
        if settle.status == "completed":
            declaration = opened.registry.workflow(self.workflow).workflow.declaration
            value: O_co = declaration.output.decode(
                settle.output or "null", f"the result of run {self.run_id}"
            )
            return value
        error = ErrorInfo.from_json(settle.error) if settle.error else ErrorInfo("Exception", "")
        if settle.status == "cancelled":
            raise RunCancelledError(self.run_id, self.workflow, settle.reason or error.message)
        raise RunFailedError(self.run_id, self.workflow, error)

    async def status(self) -> RunStatus:
        """`running`, `suspended`, `completed`, `failed` or `cancelled`.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return (await self.info()).status

    async def info(self) -> RunInfo:
        """What is recorded of the run itself.

        Raises:
            RunNotFoundError: there is no such run.
        """
        from pikku._history import RunInfo

        store = self._opened().engine.store
        run = await store.load_run(self.run_id)
        if run is None:
            raise RunNotFoundError(self.run_id, store=store.address)
        return RunInfo.of(run)

    async def history(self) -> list[HistoryEvent]:
        """Everything that happened in the run so far, in order.

        Raises:
            RunNotFoundError: there is no such run.
        """
        from pikku._history import history_of

        store = self._opened().engine.store
        loaded = await store.load_steps(self.run_id)
        if loaded is None:
            raise RunNotFoundError(self.run_id, store=store.address)
        return history_of(loaded.run, loaded.steps, await store.load_history(self.run_id))

    async def cancel(self, reason: str) -> None:
        """Ask the run to unwind; its `finally` blocks may still take steps. A run that has ended
        stays as it is.

        Raises:
            RunNotFoundError: there is no such run.
        """
        await self._opened().engine.cancel(self.run_id, reason)


class SyncRun(Generic[O_co]):
    """The handle of a run for code without an event loop; see `Run`."""

    def __init__(self, run: Run[O_co], wait_for: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.run_id = run.run_id
        self.workflow = run.workflow
        self._run = run
        self._wait_for = wait_for

    def __str__(self) -> str:
        return self.run_id

    def result(self, *, timeout: Duration | None = None) -> O_co:
        """See `Run.result`."""
        value: O_co = self._wait_for(self._run.result(timeout=timeout))
        return value

    def status(self) -> RunStatus:
        """See `Run.status`."""
        value: RunStatus = self._wait_for(self._run.status())
        return value

    def info(self) -> RunInfo:
        """See `Run.info`."""
        value: RunInfo = self._wait_for(self._run.info())
        return value

    def history(self) -> list[HistoryEvent]:
        """See `Run.history`."""
        value: list[HistoryEvent] = self._wait_for(self._run.history())
        return value

    def cancel(self, reason: str) -> None:
        """See `Run.cancel`."""
        self._wait_for(self._run.cancel(reason))
