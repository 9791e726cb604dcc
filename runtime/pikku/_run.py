"""The handle of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pikku._durations import Duration, duration_us
from pikku._error_info import ErrorInfo
from pikku._functions import NO_INPUT
from pikku.errors import RunCancelledError, RunFailedError, RunNotFoundError

if TYPE_CHECKING:
    from pikku._app import OpenApp
    from pikku._control import ApprovalRequest
    from pikku._exported import ExportedRun
    from pikku._history import HistoryEvent, RunInfo
    from pikku._records import RunStatus
    from pikku._signals import Signal

P = TypeVar("P")
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

    async def children(self) -> list[Run[Any]]:
        """The runs that this one has started and waits or waited for, in the order in which it
        asked for them.

        Raises:
            RunNotFoundError: there is no such run.
        """
        loaded = await self._opened().control.load(self.run_id)
        return [
            Run(step.job, step.target, self._opened)
            for step in loaded.steps
            if step.kind == "child" and step.job is not None
        ]

    async def cancel(self, reason: str, *, force: bool = False) -> None:
        """Ask the run to unwind; its `finally` blocks may still take steps. A run that has ended
        stays as it is.

        Args:
            force: end a run that is suspended, such as one whose code is gone, here and now and
                without cleaning up; another one unwinds.

        Raises:
            RunNotFoundError: there is no such run.
            DeclarationError: *reason* says nothing.
        """
        await self._opened().control.cancel(self.run_id, reason, force=force)

    # --- words for it ---------------------------------------------------------------------------

    @overload
    async def signal(
        self, signal: Signal[None], payload: None = None, /, *, signal_id: str | None = None
    ) -> None: ...
    @overload
    async def signal(
        self, signal: Signal[P], payload: P, /, *, signal_id: str | None = None
    ) -> None: ...
    async def signal(
        self, signal: Signal[Any], payload: Any = None, /, *, signal_id: str | None = None
    ) -> None:
        """Send a signal to the run: the oldest step that waits for it goes on, or it waits in the
        run for one that will.

        Args:
            signal_id: the same id again sends nothing.

        Raises:
            InvalidInputError: *payload* is not what the signal declares; nothing was sent.
            UnknownSignalError: the app declares no such signal.
            RunNotFoundError: there is no such run.
            RunStateError: the run has ended.
        """
        await self._opened().control.signal(self.run_id, signal.name, payload, signal_id)

    async def approvals(self) -> list[ApprovalRequest]:
        """The approvals that wait for an answer.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return await self._opened().control.approvals(self.run_id)

    async def approve(
        self,
        step: str,
        data: Any = None,
        /,
        *,
        by: str | None = None,
        note: str = "",
        scopes: Collection[str] = (),
    ) -> None:
        """Say yes to the approval *step*, with the data that its schema asks for.

        Args:
            by: who answers; approvals that are not for anybody need it.
            note: kept beside the answer.
            scopes: what whoever answers is entitled to.

        Raises:
            NoSuchStepError: the run has no such approval.
            AlreadyDecidedError: it was answered, or has expired.
            ApproverError: whoever answers may not.
            InvalidInputError: *data* does not fit the schema.
            RunNotFoundError: there is no such run.
            RunStateError: the run has ended.
        """
        await self._opened().control.decide(self.run_id, step, "approved", data, by, note, scopes)

    async def reject(
        self,
        step: str,
        data: Any = None,
        /,
        *,
        by: str | None = None,
        note: str = "",
        scopes: Collection[str] = (),
    ) -> None:
        """Say no to the approval *step*; see `approve`. The data may be left out."""
        await self._opened().control.decide(self.run_id, step, "rejected", data, by, note, scopes)

    # --- repair ---------------------------------------------------------------------------------

    async def resume(self) -> None:
        """Open the run if it is suspended.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it is not suspended.
        """
        await self._opened().engine.resume(self.run_id)

    async def retry(self, *, from_step: str | None = None) -> None:
        """Have the run go on from the step whose failure ended it. What succeeded is kept.

        Args:
            from_step: the key of an earlier step that failed, to go back to that one.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it has not failed, or *from_step* has not; or a saga has undone what it
                would go back to: then fork it.
            NoSuchStepError: it has no step *from_step*.
        """
        await self._opened().control.retry(self.run_id, from_step)

    async def fork(
        self, step: str, /, *, input: Any = NO_INPUT, run_id: str | None = None
    ) -> Run[O_co]:
        """A new run with everything of this one up to where *step* (a key) was asked for; this one
        stays as it is.

        Args:
            input: what that step is given instead of what the workflow gives it.
            run_id: the id of the new run.

        Raises:
            RunNotFoundError: there is no such run.
            NoSuchStepError: it has no such step.
            RunStateError: the step was asked for while the run unwound, or takes no input.
            InvalidInputError: *input* does not fit what the step calls.
            RunIdError: *run_id* cannot be one.
            RunConflictError: it belongs to another run.
        """
        made = await self._opened().control.fork(self.run_id, step, input, run_id)
        return Run(made, self.workflow, self._opened)

    async def delete(self) -> None:
        """Remove the run, which must have ended, with everything that is recorded of it.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it has not ended.
        """
        await self._opened().control.delete(self.run_id)

    async def export(self) -> ExportedRun:
        """The run with its history as plain JSON data: for `App.import_run`, and for
        `pikku.testing.assert_replays`.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return await self._opened().control.export(self.run_id)


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

    def children(self) -> list[SyncRun[Any]]:
        """See `Run.children`."""
        found: list[Run[Any]] = self._wait_for(self._run.children())
        return [SyncRun(each, self._wait_for) for each in found]

    def cancel(self, reason: str, *, force: bool = False) -> None:
        """See `Run.cancel`."""
        self._wait_for(self._run.cancel(reason, force=force))

    @overload
    def signal(
        self, signal: Signal[None], payload: None = None, /, *, signal_id: str | None = None
    ) -> None: ...
    @overload
    def signal(self, signal: Signal[P], payload: P, /, *, signal_id: str | None = None) -> None: ...
    def signal(
        self, signal: Signal[Any], payload: Any = None, /, *, signal_id: str | None = None
    ) -> None:
        """See `Run.signal`."""
        self._wait_for(self._run.signal(signal, payload, signal_id=signal_id))

    def approvals(self) -> list[ApprovalRequest]:
        """See `Run.approvals`."""
        found: list[ApprovalRequest] = self._wait_for(self._run.approvals())
        return found

    def approve(
        self,
        step: str,
        data: Any = None,
        /,
        *,
        by: str | None = None,
        note: str = "",
        scopes: Collection[str] = (),
    ) -> None:
        """See `Run.approve`."""
        self._wait_for(self._run.approve(step, data, by=by, note=note, scopes=scopes))

    def reject(
        self,
        step: str,
        data: Any = None,
        /,
        *,
        by: str | None = None,
        note: str = "",
        scopes: Collection[str] = (),
    ) -> None:
        """See `Run.reject`."""
        self._wait_for(self._run.reject(step, data, by=by, note=note, scopes=scopes))

    def resume(self) -> None:
        """See `Run.resume`."""
        self._wait_for(self._run.resume())

    def retry(self, *, from_step: str | None = None) -> None:
        """See `Run.retry`."""
        self._wait_for(self._run.retry(from_step=from_step))

    def fork(
        self, step: str, /, *, input: Any = NO_INPUT, run_id: str | None = None
    ) -> SyncRun[O_co]:
        """See `Run.fork`."""
        made: Run[O_co] = self._wait_for(self._run.fork(step, input=input, run_id=run_id))
        return SyncRun(made, self._wait_for)

    def delete(self) -> None:
        """See `Run.delete`."""
        self._wait_for(self._run.delete())

    def export(self) -> ExportedRun:
        """See `Run.export`."""
        data: ExportedRun = self._wait_for(self._run.export())
        return data
