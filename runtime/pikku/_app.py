"""The app: a registry, made ready for work by `async with app:`."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    cast,
)

from pikku._access import Action, Session
from pikku._callers import Contexts, StepCaller, refuse_in_workflow_body
from pikku._clock import as_us
from pikku._contexts import (
    FunctionContext,
    WorkflowFunctionContext,
)
from pikku._durations import Duration, duration_us
from pikku._functions import (
    NO_INPUT,
    Registry,
    RpcAttributes,
    RpcRefAttributes,
    schedule_of,
)
from pikku._ids import check_askable, is_unicode
from pikku._payloads import PayloadCodec
from pikku._queues import Job
from pikku._records import RunFilter
from pikku._run import Run
from pikku._settings import Config, EngineOptions, Work, effective, project_folder
from pikku._workflow import WorkflowWire
from pikku.errors import (
    AppNotOpenError,
    ConfigurationError,
    DeclarationError,
    InvalidInputError,
    SettingError,
    UnknownWorkflowError,
)

if TYPE_CHECKING:
    from pikku._control import Control
    from pikku._engine import Engine
    from pikku._functions import Func, WiredWorkflow
    from pikku._history import RunInfo
    from pikku._job_control import JobControl
    from pikku._processes import ProcessPool
    from pikku._records import RunStatus
    from pikku._schedules import Schedules
    from pikku._telemetry import Observer
    from pikku._ticks import ScheduleInfo
    from pikku.stores.base import Store

    class Caller(Protocol):
        """Who calls functions and starts workflows: the app, or a step on its behalf."""

        async def invoke(self, name: str, data: Any) -> Any: ...
        async def start_workflow(self, name: str, /, *data: Any, **options: Any) -> Any: ...
        async def start_in_transaction(
            self, connection: object, name: str, /, *data: Any, **options: Any
        ) -> Any: ...
        async def start_many(
            self,
            name: str,
            items: Iterable[Any],
            /,
            *,
            tags: Sequence[str] = (),
            started_by: str | None = None,
        ) -> Any: ...
        def get_run(self, name: str, run_id: str, /) -> Any: ...
        async def call_remote(self, name: str, data: Any, timeout: Duration) -> Any: ...
        async def add_job(self, queue: str, /, *data: Any, **options: Any) -> Any: ...
        async def add_jobs(self, queue: str, /, *items: Any, **options: Any) -> Any: ...
        def get_job(self, queue: str, job_id: str, /) -> Any: ...
        def run_async(self, coro: Coroutine[Any, Any, T]) -> T: ...


Authorize: TypeAlias = Callable[[Any, Action], Coroutine[Any, Any, Session | None]]
_Message: TypeAlias = MutableMapping[str, Any]
Asgi: TypeAlias = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]],
    Awaitable[None],
]

# How many runs are created in one call to the store.
START_AT_ONCE = 500

T = TypeVar("T")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class QueueService(Protocol):
    """What makes runs remote by being there, as the attribute `queue_service` of the services.

    Where it is None, or the services have no such attribute, the settings decide.
    """


@dataclass(frozen=True, slots=True)
class StoreQueueService:
    """The store's own queues, for services that say themselves that runs are left to workers:

        Services(database, queue_service=StoreQueueService())

    It says what `queue_service = "store"` says in the settings, and holds nothing.
    """


class OpenApp:
    """What an app has while it is open.

    Attributes:
        origins: where each setting comes from.
        closing: what happens, in reverse order, when the app is closed.
    """

    engine: Engine

    def __init__(
        self,
        registry: Registry,
        services: Any,
        config: Config,
        origins: dict[str, str],
        closing: AsyncExitStack,
    ) -> None:
        self.registry = registry
        self.services = services
        self.config = config
        self.origins = origins
        self.closing = closing

    @cached_property
    def control(self) -> Control:
        """What is done to runs from outside."""
        from pikku._control import Control

        return Control(self)

    @cached_property
    def jobs(self) -> JobControl:
        """What is done to queues from outside."""
        from pikku._job_control import JobControl

        return JobControl(self)

    @cached_property
    def schedules(self) -> Schedules:
        """What is done to schedules."""
        from pikku._schedules import Schedules

        return Schedules(self.registry, self.engine)


class App(Generic[S_co]):
    """An application of pikku's: made without I/O, ready inside `async with app:`.

    Entering imports the modules that register something, opens the store and the services, and goes
    on with the runs that were left behind. While open it serves the whole process.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        package: str,
        bootstrap: str | None = None,
        services: str | Callable[..., Any] | None = None,
        context: type[Any] | None = None,
        workflow_context: type[Any] | None = None,
        settings: Mapping[str, str] | None = None,
        project: str | None = None,
        authorize: str | Authorize | None = None,
    ) -> None:
        self.registry = registry
        self.package = package
        self._bootstrap = bootstrap
        self._services = services
        self._authorize = authorize
        self._context: type[Any] = context or FunctionContext[Any, Any]
        self._workflow_context: type[Any] = (
            workflow_context or WorkflowFunctionContext[Any, Any, Any]
        )
        self._rpc = _argument(self._context, FunctionContext, 1, RpcAttributes)
        self._rpc_refs = _argument(
            self._workflow_context, WorkflowFunctionContext, 1, RpcRefAttributes
        )
        self._wire = _argument(self._workflow_context, WorkflowFunctionContext, 2, WorkflowWire)
        self._settings = dict(settings or {})
        self._project = project
        self._open: OpenApp | None = None
        self._observers: list[Observer] = []

    def __repr__(self) -> str:
        return f"<App {self.package}>"

    # --- opening --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._opened({}, None, None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        opened = self._open
        if opened is not None:
            try:  # what still runs may call functions and start runs until it has ended
                await opened.closing.aclose()
            finally:
                self._open = None

    def open(
        self,
        *,
        store: str | Store | None = None,
        services: Any = None,
        options: EngineOptions | None = None,
        queue_service: Literal["none", "store"] | None = None,
        work: Work | None = None,
        schedules: bool = True,
    ) -> AbstractAsyncContextManager[Self]:
        """`async with app:` with some settings replaced.

        Args:
            store: the URL of the store, instead of the configured one; or a store of one's own,
                not yet open, which the app opens and closes.
            services: an object to use instead of what the services factory makes.
            options: how the engine works; the defaults are meant to be left alone.
            queue_service: `"store"` leaves runs to workers, instead of what is configured.
            work: be a worker, too, and take on this.
            schedules: make sure that every schedule has its next tick, where runs are executed.
        """

        @asynccontextmanager
        async def opening() -> AsyncGenerator[Self, None]:
            named = store if store is None or isinstance(store, str) else None
            own = None if store is None or isinstance(store, str) else store
            async with AsyncExitStack() as stack:
                if own is not None and self._open is None:
                    await own.open()
                    stack.push_async_callback(own.close)
                await self._opened(
                    {"store": named, "queue_service": queue_service},
                    services,
                    options,
                    store=None if self._open is not None else own,
                    work=work,
                    schedules=schedules,
                )
                try:
                    yield self
                finally:
                    await self.__aexit__(None, None, None)

        return opening()

    async def _opened(
        self,
        overrides: Mapping[str, str | None],
        services: Any,
        options: EngineOptions | None,
        *,
        store: Store | None = None,
        on_quiet: Callable[[int | None], None] | None = None,
        work: Work | None = None,
        prepare: Callable[[OpenApp], None] | None = None,
        schedules: bool = True,
    ) -> OpenApp:
        if self._open is not None and store is None:
            raise ConfigurationError(
                f"the app {self.package} is open already",
                hint="open it once in a process, such as in the server's lifespan",
            )
        from pikku._engine import Engine
        from pikku._redaction import redact
        from pikku._telemetry import observer_of
        from pikku.stores import make_store

        self.register()
        project = project_folder(self.package, self._project)
        config, origins = effective(self._settings, overrides, project)
        redact(config.redact)
        closing = AsyncExitStack()
        async with AsyncExitStack() as undo:
            undo.callback(setattr, self, "_open", self._open)
            undo.push_async_callback(closing.aclose)
            if store is None:
                store = make_store(config.store, base=project)
                await store.open()
                closing.push_async_callback(store.close)
            if services is None:
                services = await self._make_services(config, closing)
            store = _sealed(store, services)
            remote = (
                config.queue_service == "store"
                or getattr(services, "queue_service", None) is not None
            )
            if remote and work is None and not store.shared:
                raise SettingError(
                    f"runs are left to workers, and {store.address} is seen by no other process",
                    hint="use a store that workers can reach, or leave the queue service out",
                )
            opened = OpenApp(self.registry, services, config, origins, closing)
            contexts = Contexts(self, opened)
            opened.engine = Engine(
                self.registry,
                store,
                contexts,
                options or EngineOptions(),
                remote=remote,
                work=work,
                retention=config.retention,
                on_quiet=on_quiet,
                observer=observer_of(self._observers),
            )
            opened.engine.make_pool = partial(_process_pool, opened, self.package)
            closing.push_async_callback(opened.engine.close)
            if prepare is not None:
                prepare(opened)
            self._open = opened  # for what was left behind, and begins before this has ended
            await opened.engine.open()
            if schedules and self.registry.schedules and opened.engine.executes_runs:
                await opened.schedules.begin_all()
            undo.pop_all()
        return opened

    def register(self) -> None:
        """Import every module that registers something; a second time does nothing."""
        if self._bootstrap is not None:
            importlib.import_module(self._bootstrap)
        if self.registry.schedules:
            from pikku._schedules import wire_ticks

            wire_ticks(self.registry)

    @property
    def authorize(self) -> Authorize | None:
        """The hook that says who asks for something over HTTP; None where there is none."""
        hook: Authorize | None = _named(self._authorize)
        return hook

    async def _make_services(self, config: Config, closing: AsyncExitStack) -> Any:
        factory: Any = _named(self._services)
        if factory is None:
            return None
        made = factory(config) if inspect.signature(factory).parameters else factory()
        if hasattr(made, "__aenter__"):
            return await closing.enter_async_context(made)
        if inspect.isawaitable(made):
            return await made
        return made

    @property
    def opened(self) -> OpenApp:
        """What is open here and now.

        Raises:
            AppNotOpenError: if nothing is.
        """
        opened = self._open
        if opened is None:
            raise AppNotOpenError(f"the app {self.package} is not open")
        return opened

    @property
    def services(self) -> S_co:
        """The services of the open app."""
        services: S_co = self.opened.services
        return services

    # --- calls ----------------------------------------------------------------------------------

    async def invoke(
        self, name: str, data: Any = NO_INPUT, *, session: Session | None = None
    ) -> Any:
        """Call the function *name* directly, in this process: no step, nothing recorded.

        Args:
            session: on whose behalf; permissions, and whatever it calls, are told.

        Raises:
            UnknownFunctionError: no such function, with the nearest names.
            InvalidInputError: *data* does not fit its input.
            PermissionDeniedError: one of its permissions says no.
            Exception: whatever the function raises.
        """
        return await StepCaller(self, None, session).invoke(name, data)

    def asgi(self) -> Asgi:
        """The way in over HTTP: an ASGI app that any server serves, and any framework mounts.

        Where the app is not open, it opens it in its own lifespan. `docs/http.md` has its routes.

        Raises:
            MissingDependencyError: without the extra `server`.
        """
        from pikku._http import make_asgi

        return make_asgi(self)

    async def start_workflow(
        self,
        name: str,
        /,
        *data: Any,
        run_id: str | None = None,
        wait: bool = True,
        tags: Sequence[str] = (),
        delay: Duration | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> Run[Any]:
        """Start a run of the workflow *name* and execute it in this process.

        Args:
            name: the name under which the workflow is wired.
            data: its input.
            run_id: an id of the caller's own; starting it again with the same workflow and input
                finds the run that is there.
            wait: return when the run has ended, or waits for a timer or a word from outside;
                otherwise at once.
            tags: besides those of the workflow, to find the run by.
            delay: how long from now the run begins.
            started_by: who starts it; approvals may be for that person, or for any other.
            pinned: have it executed only by processes that hold today's version of the workflow.

        Raises:
            UnknownWorkflowError: no such workflow, with the nearest names.
            InvalidInputError: *data* does not fit its input; nothing was written.
            PayloadError: *data* cannot be stored, or is too large (`PayloadTooLargeError`);
                nothing was written.
            RunIdError: *run_id* cannot be one.
            RunConflictError: the id belongs to another start.
            DurationError: *delay* is no duration.
            DeclarationError: *tags*, *started_by* or *pinned* cannot be.
            AppNotOpenError: outside `async with app:`.
            StoreError: the store does not take it, or did not answer: then there may be a run, and
                starting it again under a *run_id* of one's own finds it.
        """
        refuse_in_workflow_body(f"start_workflow({name!r})")
        opened = self.opened
        wired, text = self._admitted(name, data)
        where = f"workflow {name!r}"
        made = await opened.engine.start(
            wired,
            text,
            run_id=run_id,
            wait=wait,
            tags=_checked_tags(tags, where),
            delay_us=None if delay is None else duration_us(delay),
            started_by=_checked_person(started_by, where),
            pinned=_checked_flag(pinned, where),
        )
        return Run(made, name, lambda: self.opened)

    def _admitted(self, name: str, data: tuple[Any, ...]) -> tuple[WiredWorkflow, str]:
        """The workflow *name*, and *data* as the text of its input."""
        wired = self.registry.workflow(name)
        if schedule_of(name) is not None:  # pikku's own: `run_schedule`
            raise UnknownWorkflowError(name, ())
        declaration = wired.workflow.declaration
        where = f"workflow {name!r}"
        if declaration.takes_input and not data:
            raise InvalidInputError(where, [("input", "is missing")])
        declaration.output  # noqa: B018  # an annotation that cannot work is reported here
        return wired, declaration.input.admit(data[0] if data else None, where)

    async def start_in_transaction(
        self,
        connection: object,
        name: str,
        /,
        *data: Any,
        run_id: str | None = None,
        tags: Sequence[str] = (),
        delay: Duration | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> Run[Any]:
        """Start a run of the workflow *name* with the transaction that *connection* has open: it
        begins when that commits, and never if that is rolled back.

        Args:
            connection: one of psycopg (`Connection` or `AsyncConnection`) or of asyncpg, to the
                database that is the app's store.
            name, data, run_id, tags, delay, started_by, pinned: see `start_workflow`.

        Raises:
            TransactionError: the store is not in PostgreSQL, or *connection* has no transaction.
            UnknownWorkflowError, InvalidInputError, PayloadError, RunIdError, RunConflictError,
                DurationError, DeclarationError, AppNotOpenError: see `start_workflow`.
        """
        refuse_in_workflow_body(f"start_in_transaction({name!r})")
        opened = self.opened
        wired, text = self._admitted(name, data)
        where = f"workflow {name!r}"
        made = await opened.engine.start_in_transaction(
            connection,
            wired,
            text,
            run_id=run_id,
            tags=_checked_tags(tags, where),
            delay_us=None if delay is None else duration_us(delay),
            started_by=_checked_person(started_by, where),
            pinned=_checked_flag(pinned, where),
        )
        return Run(made, name, lambda: self.opened)

    async def start_many(
        self,
        name: str,
        items: Iterable[Any],
        /,
        *,
        tags: Sequence[str] = (),
        started_by: str | None = None,
    ) -> list[Run[Any]]:
        """Start a run of the workflow *name* for each of *items*, many in one call to the store,
        and wait for none of them. Every item is validated before the first run is started.

        Raises:
            UnknownWorkflowError, InvalidInputError, PayloadError, AppNotOpenError, StoreError: see
                `start_workflow`.
        """
        import asyncio

        refuse_in_workflow_body(f"start_many({name!r})")
        declaration = self.registry.workflow(name).workflow.declaration
        data = list(items)
        for place, item in enumerate(data):
            declaration.input.admit(item, f"item {place} for workflow {name!r}")
        runs: list[Run[Any]] = []
        for start in range(0, len(data), START_AT_ONCE):
            part = data[start : start + START_AT_ONCE]
            runs += await asyncio.gather(
                *(
                    self.start_workflow(name, item, wait=False, tags=tags, started_by=started_by)
                    for item in part
                )
            )
        return runs

    async def send_signal(
        self,
        run: Run[Any] | str,
        name: str,
        payload: Any = None,
        /,
        *,
        signal_id: str | None = None,
    ) -> None:
        """Send the signal *name* to a run; see `Run.signal`."""
        await self.opened.control.signal(check_askable(str(run)), name, payload, signal_id)

    def get_run(self, name: str, run_id: str, /) -> Run[Any]:
        """The handle of a run that exists; nothing is read until it is used.

        Raises:
            UnknownWorkflowError: no such workflow.
            RunIdError: no run can have this id.
        """
        self.registry.workflow(name)
        return Run(check_askable(run_id), name, lambda: self.opened)

    # --- queues ---------------------------------------------------------------------------------

    async def add_job(
        self,
        queue: str,
        /,
        *data: Any,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        dedupe_id: str | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> Job[Any]:
        """Add a job to *queue*, for a worker to call the function that is wired to it.

        Args:
            queue: the name of the queue.
            data: the input of the function.
            delay: how long from now it may begin.
            priority: 0 to 9; jobs of a higher one come first.
            retries: how many further attempts, instead of what the function declares.
            dedupe_id: an id of the caller's own; while there is a job of that id in the queue, be
                it a dead letter or a kept result, this is that job.
            group: what `group_concurrency` counts together; groups take turns.
            keep_result: keep the job once it has completed, with its result.

        Raises:
            UnknownQueueError: no function is wired to it, with the nearest names.
            InvalidInputError: *data* does not fit the input; nothing was written.
            PayloadError: *data* cannot be stored; nothing was written.
            DeclarationError, DurationError: an option cannot be used.
            AppNotOpenError: outside `async with app:`.
            StoreError: the store does not take it, or did not answer: then there may be a job, and
                adding it again under a *dedupe_id* finds it.
        """
        refuse_in_workflow_body(f"adding a job to {queue!r}")
        jobs = self.opened.jobs
        wired = self.registry.queue_worker(queue)
        where = f"queue {queue!r}"
        if wired.func.declaration.takes_input and not data:
            raise InvalidInputError(where, [("input", "is missing")])
        options = jobs.options(
            wired,
            delay=delay,
            priority=priority,
            retries=retries,
            dedupe_id=dedupe_id,
            group=group,
            keep_result=keep_result,
        )
        text = jobs.admitted(wired, data[0] if data else None, where)
        (job_id,) = await jobs.add(wired, [text], options)
        return Job(job_id, queue, lambda: self.opened)

    async def add_jobs(
        self,
        queue: str,
        items: Iterable[Any],
        /,
        *,
        delay: Duration | None = None,
        priority: int = 0,
        retries: int | None = None,
        group: str | None = None,
        keep_result: bool = False,
    ) -> list[Job[Any]]:
        """Add a job for each of *items*, many in one call to the store. Every item is validated
        before the first job is added; see `add_job`."""
        refuse_in_workflow_body(f"adding jobs to {queue!r}")
        jobs = self.opened.jobs
        wired = self.registry.queue_worker(queue)
        options = jobs.options(
            wired,
            delay=delay,
            priority=priority,
            retries=retries,
            group=group,
            keep_result=keep_result,
        )
        texts = [
            jobs.admitted(wired, item, f"item {place} for queue {queue!r}")
            for place, item in enumerate(items)
        ]
        made = await jobs.add(wired, texts, options)
        return [Job(job_id, queue, lambda: self.opened) for job_id in made]

    def get_job(self, queue: str, job_id: str, /) -> Job[Any]:
        """The handle of a job that exists; nothing is read until it is used.

        Raises:
            UnknownQueueError: no function is wired to the queue.
        """
        self.registry.queue_worker(queue)
        return Job(check_askable(job_id), queue, lambda: self.opened)

    async def call_remote(self, name: str, data: Any, timeout: Duration) -> Any:
        """See `BoundRpc.remote`."""
        refuse_in_workflow_body(f"a remote call of {name!r}")
        func, text = self._admitted_call(name, data)
        return await self.opened.jobs.call(func, text, timeout)

    def _admitted_call(self, name: str, data: Any) -> tuple[Func[Any, Any], str]:
        """The function *name*, and *data* as the text of its input."""
        func = self.registry.function(name)
        declaration = func.declaration
        where = f"function {name!r}"
        if declaration.takes_input and data is NO_INPUT:
            raise InvalidInputError(where, [("input", "is missing")])
        return func, declaration.input.admit(None if data is NO_INPUT else data, where)

    # --- many runs ------------------------------------------------------------------------------

    async def list_runs(
        self,
        *,
        workflow: str | None = None,
        status: RunStatus | None = None,
        tag: str | None = None,
        text: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
    ) -> list[RunInfo]:
        """The runs in the store that fit, newest first, at most *limit*.

        Args:
            text: what is to be found in the run's id, workflow, tags, starter or error.
        """
        from pikku._history import RunInfo

        wanted = _filter(workflow, status, tag, text, created_after, created_before)
        found = await self.opened.engine.store.list_runs(wanted._replace(limit=limit))
        return [RunInfo.of(run) for run in found]

    async def count_runs(
        self,
        *,
        workflow: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> dict[str, int]:
        """How many of the runs that fit have each status; statuses without runs are left out."""
        wanted = _filter(workflow, None, tag, text, created_after, created_before)
        opened = self.opened
        if wanted == _filter():
            return await opened.engine.store.count_runs()
        counts: dict[str, int] = {}
        async for run in opened.control.every(wanted):
            counts[run.status] = counts.get(run.status, 0) + 1
        return counts

    async def cancel_runs(
        self,
        reason: str,
        *,
        workflow: str | None = None,
        status: RunStatus | None = None,
        tag: str | None = None,
        text: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> int:
        """Cancel every run that fits and has not ended; how many."""
        wanted = _filter(workflow, status, tag, text, created_after, created_before)
        return await self.opened.control.cancel_all(wanted, reason)

    async def retry_runs(
        self,
        *,
        workflow: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> int:
        """Retry every failed run that fits; how many. A child is left out where a run above it is
        retried, which does its work anew, or where a later attempt of its step was made."""
        wanted = _filter(workflow, None, tag, text, created_after, created_before)
        return await self.opened.control.retry_all(wanted)

    async def delete_runs(
        self,
        *,
        workflow: str | None = None,
        status: RunStatus | None = None,
        tag: str | None = None,
        text: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        finished_before: datetime | None = None,
    ) -> int:
        """Delete every run that fits and has ended, with its history; how many."""
        wanted = _filter(workflow, status, tag, text, created_after, created_before)
        ended = None if finished_before is None else as_us(finished_before)
        return await self.opened.control.delete_all(wanted._replace(ended_before_us=ended))

    async def import_run(self, data: Mapping[str, Any]) -> Run[Any]:
        """Write a run that `Run.export` gave to this store. One that had not ended is suspended
        here, so that nothing of it happens a second time unless it is resumed.

        Raises:
            HistoryFormatError: *data* is no exported run.
            RunConflictError: there is a run of that id.
        """
        run = await self.opened.control.import_run(data)
        return Run(run.run_id, run.workflow, lambda: self.opened)

    def verify_replay(self, data: Mapping[str, Any]) -> None:
        """Replay an exported run with today's code; nothing is executed, and nothing need be open.

        Raises:
            HistoryFormatError: *data* is no exported run.
            UnknownWorkflowError: no workflow has the name of the run's.
            ReplayDivergedError: the code does not take the recorded way.
        """
        from pikku._exported import imported
        from pikku._verify import verify

        self.register()
        loaded, _ = imported(data)
        wired = self.registry.workflow(loaded.run.workflow)
        verify(loaded, wired, Contexts(self, None).workflow)

    # --- schedules --------------------------------------------------------------------------------

    async def list_schedules(self) -> list[ScheduleInfo]:
        """Every schedule of the app, and those that are left in the store, by name."""
        return await self.opened.schedules.listed()

    async def pause_schedule(self, name: str) -> None:
        """Have no tick of the schedule come until it is resumed; what is under way ends.

        Raises:
            UnknownScheduleError: no such schedule, with the nearest names.
        """
        refuse_in_workflow_body(f"pause_schedule({name!r})")
        await self.opened.schedules.pause(name)

    async def resume_schedule(self, name: str) -> None:
        """Have a paused schedule go on with its next tick from now; those that would have come
        meanwhile are not made up for.

        Raises:
            UnknownScheduleError: no such schedule, with the nearest names.
        """
        refuse_in_workflow_body(f"resume_schedule({name!r})")
        await self.opened.schedules.resume(name)

    async def run_schedule(self, name: str, *, wait: bool = True) -> Run[Any]:
        """Do here and now what the schedule does at a tick; its ticks come as before.

        Args:
            wait: as of `start_workflow`.

        Raises:
            UnknownScheduleError: no such schedule, with the nearest names.
        """
        refuse_in_workflow_body(f"run_schedule({name!r})")
        opened = self.opened
        wired, text, run_id = opened.schedules.asked(name)
        await opened.engine.start(wired, text, run_id=run_id, wait=wait)
        return Run(run_id, wired.name, lambda: self.opened)

    def run_async(self, coro: Coroutine[Any, Any, T]) -> T:
        """The result of *coro*, run on the app's event loop, for a thread of this process."""
        import asyncio

        loop = self.opened.engine.loop
        if asyncio._get_running_loop() is loop:
            coro.close()
            raise RuntimeError("run_async was called on the event loop itself; await instead")
        return asyncio.run_coroutine_threadsafe(coro, loop).result()


def _sealed(store: Store, services: Any) -> Store:
    """*store*, behind the codec of the services if they have one."""
    codec: object = getattr(services, "payload_codec", None)
    if codec is None:
        return store
    if not isinstance(codec, PayloadCodec):
        raise ConfigurationError(
            f"services.payload_codec is {codec!r}, which cannot seal and open text",
            hint="give it the methods of pikku.PayloadCodec: seal(text) and open(text)",
        )
    from pikku.stores.sealed import SealedStore

    return SealedStore(store, codec)


def _process_pool(opened: OpenApp, package: str) -> ProcessPool:
    from pikku._processes import ProcessPool

    config = opened.config
    overrides = {"store": config.store, "queue_service": config.queue_service}
    return ProcessPool(opened.engine.loop, package, overrides)


def _named(thing: Any) -> Any:
    """*thing*, or what `module:name` stands for."""
    if not isinstance(thing, str):
        return thing
    module, _, name = thing.partition(":")
    return getattr(importlib.import_module(module), name)


def _filter(
    workflow: str | None = None,
    status: RunStatus | None = None,
    tag: str | None = None,
    text: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> RunFilter:
    for name, given in (("workflow", workflow), ("tag", tag), ("text", text)):
        if given is not None and not is_unicode(given):
            raise DeclarationError(f"{name} is {given!r}", hint="text must be valid Unicode")
    return RunFilter(
        workflow,
        status,
        tag,
        before_us=None if created_before is None else as_us(created_before),
        after_us=None if created_after is None else as_us(created_after),
        text=text,
    )


def _checked_tags(tags: Sequence[str], where: str) -> Sequence[str]:
    """*tags*, if they are some."""
    given: object = tags
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(map(_is_plain, tags)):
        raise DeclarationError(f"{where}: tags is {tags!r}", hint='write tags=["one", "two"]')
    return tags


def _is_plain(tag: object) -> bool:
    return isinstance(tag, str) and bool(tag) and tag.isprintable()


def _checked_person(person: str | None, where: str) -> str | None:
    if person is not None and not _is_plain(person):
        raise DeclarationError(f"{where}: started_by is {person!r}", hint="give a name, or nothing")
    return person


def _checked_flag(pinned: bool, where: str) -> bool:
    if not isinstance(cast(object, pinned), bool):
        raise DeclarationError(f"{where}: pinned is {pinned!r}", hint="write True, or nothing")
    return pinned


def _argument(cls: type[Any], base: type[Any], index: int, default: type[Any]) -> type[Any]:
    """The class given for a type parameter of *base* where *cls* derives from it."""
    for each in getattr(cls, "__orig_bases__", ()):
        if typing.get_origin(each) is base:
            found = typing.get_args(each)[index]
            if isinstance(found, type) and found is not object:
                return found
    return default
