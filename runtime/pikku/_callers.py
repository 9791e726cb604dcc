"""Who calls functions on behalf of a step or a session, and the contexts that they are given."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pikku._access import Session
from pikku._calls import called, deeper
from pikku._clock import Clock, SystemClock
from pikku._contexts import StepContext
from pikku._durations import Duration
from pikku._functions import schedule_of
from pikku._run import Run
from pikku._settings import EngineOptions
from pikku.errors import WorkflowBodyError

if TYPE_CHECKING:
    from pikku._app import App, OpenApp
    from pikku._functions import Func
    from pikku._jobs import ClaimedJob
    from pikku._live import Flight
    from pikku._queues import Job
    from pikku._records import RunRecord
    from pikku._replay import Replay

T = TypeVar("T")


def refuse_in_workflow_body(what: str) -> None:
    """Raise if the caller is a workflow's body, where *what* would repeat on every replay."""
    import asyncio

    from pikku._loop import RunLoop

    if isinstance(cast(object, asyncio._get_running_loop()), RunLoop):
        raise WorkflowBodyError(
            f"{what} in a workflow body would repeat on every replay",
            hint='make it a step: await ctx.workflow.do("What it does", …)',
        )


class _Wanted:
    """The `Cancellation` of a call outside any run."""

    requested = False


class StepCaller:
    """`ctx.rpc` and `ctx.run_async` of a function: calls inherit the step they are made in, and the
    session that it was called with.

    Args:
        chain: the functions that have called one another on the way here.
    """

    def __init__(
        self,
        app: App[Any],
        step: StepContext | None,
        session: Session | None = None,
        chain: tuple[str, ...] = (),
    ) -> None:
        self._app = app
        self._step = step
        self._session = session
        self._chain = chain

    async def invoke(self, name: str, data: Any) -> Any:
        refuse_in_workflow_body(f"a direct call of {name!r}")
        func, text = self._app._admitted_call(name, data)
        declaration = func.declaration
        where = f"function {name!r}"
        given = declaration.input.decode(text, where) if declaration.takes_input else None
        value = await self.call(func, given)
        return declaration.output.encode(value, f"the result of {where}")[1]

    async def call(self, func: Func[Any, Any], data: Any) -> Any:
        """What *func* returns, given *data* of its declared type, with all that stands around it;
        the result is not validated."""
        app, declaration, name = self._app, func.declaration, func.name
        chain = deeper(self._chain, name)
        context = Contexts(app, app.opened).direct(self._step, name, self._session, chain)

        async def body(data: Any) -> Any:
            arguments = (context, data) if declaration.takes_input else (context,)
            if func.is_async:
                return await func.func(*arguments)
            from asyncio import to_thread

            return await to_thread(func.func, *arguments)

        return await called(app.registry.guards(func), func, data, context, body)

    async def start_workflow(self, name: str, /, *data: Any, **options: Any) -> Run[Any]:
        return await self._app.start_workflow(name, *data, **self._started_by(options))

    async def start_in_transaction(
        self, connection: object, name: str, /, *data: Any, **options: Any
    ) -> Run[Any]:
        options = self._started_by(options)
        return await self._app.start_in_transaction(connection, name, *data, **options)

    def _started_by(self, options: dict[str, Any]) -> dict[str, Any]:
        """*options*, and who starts: whoever called, where nothing else is said."""
        if self._session is None or options.get("started_by") is not None:
            return options
        return {**options, "started_by": self._session.user_id}

    async def start_many(
        self,
        name: str,
        items: Iterable[Any],
        /,
        *,
        tags: Sequence[str] = (),
        started_by: str | None = None,
    ) -> list[Run[Any]]:
        options = self._started_by({"tags": tags, "started_by": started_by})
        return await self._app.start_many(name, items, **options)

    def get_run(self, name: str, run_id: str, /) -> Run[Any]:
        return self._app.get_run(name, run_id)

    async def call_remote(self, name: str, data: Any, timeout: Duration) -> Any:
        return await self._app.call_remote(name, data, timeout)

    async def add_job(self, queue: str, /, *data: Any, **options: Any) -> Job[Any]:
        return await self._app.add_job(queue, *data, **options)

    async def add_jobs(self, queue: str, /, *items: Any, **options: Any) -> list[Job[Any]]:
        return await self._app.add_jobs(queue, *items, **options)

    def get_job(self, queue: str, job_id: str, /) -> Job[Any]:
        return self._app.get_job(queue, job_id)

    def run_async(self, coro: Coroutine[Any, Any, T]) -> T:
        return self._app.run_async(coro)


class Contexts:
    """Makes the contexts that functions and workflows are given."""

    def __init__(self, app: App[Any], opened: OpenApp | None) -> None:
        from pikku._logging import ContextLogger
        from pikku._recorder import RunRecorder

        self._app = app
        self._opened = opened
        self._logger = ContextLogger
        self._recorder = RunRecorder

    def function(self, run_id: str, flight: Flight | ClaimedJob, workflow: str) -> Any:
        ask = flight.ask
        step = StepContext(run_id, ask.key, ask.name, flight.attempt, flight, report=flight.report)
        extra = {
            "run_id": run_id,
            "workflow": workflow,
            "step": ask.name,
            "attempt": flight.attempt,
        }
        return self._function(step, extra)

    def direct(
        self,
        step: StepContext | None,
        name: str,
        session: Session | None = None,
        chain: tuple[str, ...] = (),
    ) -> Any:
        if step is None:
            step = StepContext("", "", "", 1, _Wanted())
        extra = {"run_id": step.run_id, "step": step.name, "function": name}
        return self._function(step, extra, session, chain)

    def _function(
        self,
        step: StepContext,
        extra: Mapping[str, object],
        session: Session | None = None,
        chain: tuple[str, ...] = (),
    ) -> Any:
        app = self._app
        caller = StepCaller(app, step, session, chain)
        assert self._opened is not None
        return app._context(
            self._opened.services,
            app._rpc(caller),
            self._logger(extra),
            step.run_id,
            step,
            caller,
            session,
        )

    def workflow(self, run: RunRecord, replay: Replay) -> Any:
        app = self._app
        opened = self._opened
        clock: Clock = SystemClock()
        limit = EngineOptions().max_payload_bytes
        if opened is not None:
            clock = opened.engine.clock
            limit = opened.engine.options.max_payload_bytes
        extra = {"run_id": run.run_id, "workflow": run.workflow}
        if opened is not None and run.traceparent is not None and opened.engine.observer.active:
            # Its loop is no place for a current span; the trace is the one it was started in.
            extra["trace_id"] = run.traceparent.split("-")[1]
        made = app._workflow_context(
            None if opened is None else opened.services,
            app._rpc_refs(),
            self._logger(extra, replay),
            run.run_id,
            app._wire(
                self._recorder(app.registry, clock, replay, limit, run.depth, run.started_by)
            ),
        )
        if (name := schedule_of(run.workflow)) is None:
            return made
        from pikku._schedules import TickContext

        target = app.registry.schedules[name].func
        schedules = None if opened is None else opened.schedules
        return TickContext(made.workflow, run.run_id, target, schedules)
