"""The app: a registry, made ready for work by `async with app:`."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar, cast

from pikku._contexts import (
    FunctionContext,
    StepContext,
    WorkflowFunctionContext,
)
from pikku._functions import NO_INPUT, Registry, RpcAttributes, RpcRefAttributes
from pikku._payloads import PayloadCodec
from pikku._run import Run
from pikku._settings import Config, EngineOptions, Work, effective, project_folder
from pikku._workflow import WorkflowWire
from pikku.errors import (
    AppNotOpenError,
    ConfigurationError,
    InvalidInputError,
    SettingError,
    WorkflowBodyError,
)

if TYPE_CHECKING:
    from pikku._engine import Engine
    from pikku._history import RunInfo
    from pikku._jobs import ClaimedJob
    from pikku._live import Flight
    from pikku._processes import ProcessPool
    from pikku._records import RunStatus
    from pikku._replay import Replay
    from pikku.stores.base import Store

    class Caller(Protocol):
        """Who calls functions and starts workflows: the app, or a step on its behalf."""

        async def invoke(self, name: str, data: Any) -> Any: ...
        async def start_workflow(
            self, name: str, /, *data: Any, run_id: str | None = None, wait: bool = True
        ) -> Any: ...
        def get_run(self, name: str, run_id: str, /) -> Any: ...
        def run_async(self, coro: Coroutine[Any, Any, T]) -> T: ...


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
    ) -> None:
        self.registry = registry
        self.package = package
        self._bootstrap = bootstrap
        self._services = services
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

    def __repr__(self) -> str:
        return f"<App {self.package}>"

    # --- opening --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._open = await self._opened({}, None, None)
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
        store: str | None = None,
        services: Any = None,
        options: EngineOptions | None = None,
        queue_service: Literal["none", "store"] | None = None,
        work: Work | None = None,
    ) -> AbstractAsyncContextManager[Self]:
        """`async with app:` with some settings replaced.

        Args:
            store: the URL of the store, instead of the configured one.
            services: an object to use instead of what the services factory makes.
            options: how the engine works; the defaults are meant to be left alone.
            queue_service: `"store"` leaves runs to workers, instead of what is configured.
            work: be a worker, too, and take on this.
        """

        @asynccontextmanager
        async def opening() -> AsyncGenerator[Self, None]:
            self._open = await self._opened(
                {"store": store, "queue_service": queue_service}, services, options, work=work
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
    ) -> OpenApp:
        if self._open is not None and store is None:
            raise ConfigurationError(
                f"the app {self.package} is open already",
                hint="open it once in a process, such as in the server's lifespan",
            )
        from pikku._engine import Engine
        from pikku.stores import make_store

        self.register()
        project = project_folder(self.package, self._project)
        config, origins = effective(self._settings, overrides, project)
        closing = AsyncExitStack()
        async with AsyncExitStack() as undo:
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
                on_quiet=on_quiet,
            )
            opened.engine.make_pool = partial(_process_pool, opened, self.package)
            closing.push_async_callback(opened.engine.close)
            if prepare is not None:
                prepare(opened)
            await opened.engine.open()
            undo.pop_all()
        return opened

    def register(self) -> None:
        """Import every module that registers something; a second time does nothing."""
        if self._bootstrap is not None:
            importlib.import_module(self._bootstrap)

    async def _make_services(self, config: Config, closing: AsyncExitStack) -> Any:
        factory: Any = self._services
        if factory is None:
            return None
        if isinstance(factory, str):
            module, _, name = factory.partition(":")
            factory = getattr(importlib.import_module(module), name)
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

    async def invoke(self, name: str, data: Any = NO_INPUT) -> Any:
        """Call the function *name* directly, in this process: no step, nothing recorded."""
        return await _StepCaller(self, None).invoke(name, data)

    async def start_workflow(
        self, name: str, /, *data: Any, run_id: str | None = None, wait: bool = True
    ) -> Run[Any]:
        """Start a run of the workflow *name* and execute it in this process.

        Args:
            name: the name under which the workflow is wired.
            data: its input.
            run_id: an id of the caller's own; starting it again with the same workflow and input
                finds the run that is there.
            wait: return when the run has ended, or waits for a timer or a word from outside;
                otherwise at once.

        Raises:
            UnknownWorkflowError: no such workflow, with the nearest names.
            InvalidInputError: *data* does not fit its input; nothing was written.
            PayloadError: *data* cannot be stored, or is too large (`PayloadTooLargeError`);
                nothing was written.
            RunIdError: *run_id* cannot be one.
            RunConflictError: the id belongs to another start.
            AppNotOpenError: outside `async with app:`.
            StoreError: the store does not take it, or did not answer: then there may be a run, and
                starting it again under a *run_id* of one's own finds it.
        """
        refuse_in_workflow_body(f"start_workflow({name!r})")
        opened = self.opened
        wired = self.registry.workflow(name)
        declaration = wired.workflow.declaration
        where = f"workflow {name!r}"
        if declaration.takes_input and not data:
            raise InvalidInputError(where, [("input", "is missing")])
        declaration.output  # noqa: B018  # an annotation that cannot work is reported here
        text = declaration.input.admit(data[0] if data else None, where)
        made = await opened.engine.start(wired, text, run_id=run_id, wait=wait)
        return Run(made, name, lambda: self.opened)

    def get_run(self, name: str, run_id: str, /) -> Run[Any]:
        """The handle of a run that exists; nothing is read until it is used.

        Raises:
            UnknownWorkflowError: no such workflow.
        """
        self.registry.workflow(name)
        return Run(run_id, name, lambda: self.opened)

    async def list_runs(
        self,
        *,
        workflow: str | None = None,
        status: RunStatus | None = None,
        tag: str | None = None,
        limit: int = 50,
    ) -> list[RunInfo]:
        """The runs in the store that fit, newest first, at most *limit*."""
        from pikku._history import RunInfo
        from pikku._records import RunFilter

        found = await self.opened.engine.store.list_runs(RunFilter(workflow, status, tag, limit))
        return [RunInfo.of(run) for run in found]

    def run_async(self, coro: Coroutine[Any, Any, T]) -> T:
        """The result of *coro*, run on the app's event loop, for a thread of this process."""
        import asyncio

        loop = self.opened.engine.loop
        if asyncio._get_running_loop() is loop:
            coro.close()
            raise RuntimeError("run_async was called on the event loop itself; await instead")
        return asyncio.run_coroutine_threadsafe(coro, loop).result()


def refuse_in_workflow_body(what: str) -> None:
    """Raise if the caller is a workflow's body, where *what* would repeat on every replay."""
    import asyncio

    from pikku._loop import RunLoop

    if isinstance(cast(object, asyncio._get_running_loop()), RunLoop):
        raise WorkflowBodyError(
            f"{what} in a workflow body would repeat on every replay",
            hint='make it a step: await ctx.workflow.do("What it does", …)',
        )


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


class _Wanted:
    """The `Cancellation` of a call outside any run."""

    requested = False


class _StepCaller:
    """`ctx.rpc` and `ctx.run_async` of a function: calls inherit the step they are made in."""

    def __init__(self, app: App[Any], step: StepContext | None) -> None:
        self._app = app
        self._step = step

    async def invoke(self, name: str, data: Any) -> Any:
        refuse_in_workflow_body(f"a direct call of {name!r}")
        app = self._app
        func = app.registry.function(name)
        declaration = func.declaration
        where = f"function {name!r}"
        if declaration.takes_input and data is NO_INPUT:
            raise InvalidInputError(where, [("input", "is missing")])
        text = declaration.input.admit(None if data is NO_INPUT else data, where)
        context = Contexts(app, app.opened).direct(self._step, name)
        arguments = (
            (context, declaration.input.decode(text, where))
            if declaration.takes_input
            else (context,)
        )
        if func.is_async:
            value = await func.func(*arguments)
        else:
            from asyncio import to_thread

            value = await to_thread(func.func, *arguments)
        return declaration.output.encode(value, f"the result of {where}")[1]

    async def start_workflow(
        self, name: str, /, *data: Any, run_id: str | None = None, wait: bool = True
    ) -> Run[Any]:
        return await self._app.start_workflow(name, *data, run_id=run_id, wait=wait)

    def get_run(self, name: str, run_id: str, /) -> Run[Any]:
        return self._app.get_run(name, run_id)

    def run_async(self, coro: Coroutine[Any, Any, T]) -> T:
        return self._app.run_async(coro)


class Contexts:
    """Makes the contexts that functions and workflows are given."""

    def __init__(self, app: App[Any], opened: OpenApp) -> None:
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

    def direct(self, step: StepContext | None, name: str) -> Any:
        from pikku._ids import new_run_id

        if step is None:
            step = StepContext("", new_run_id(), "", 1, _Wanted())
        return self._function(step, {"run_id": step.run_id, "step": step.name, "function": name})

    def _function(self, step: StepContext, extra: Mapping[str, object]) -> Any:
        app = self._app
        caller = _StepCaller(app, step)
        return app._context(
            self._opened.services,
            app._rpc(caller),
            self._logger(extra),
            step.run_id,
            step,
            caller,
        )

    def workflow(self, run_id: str, name: str, replay: Replay) -> Any:
        app = self._app
        engine = self._opened.engine
        recorder = self._recorder(
            app.registry, engine.clock, replay, engine.options.max_payload_bytes
        )
        return app._workflow_context(
            self._opened.services,
            app._rpc_refs(),
            self._logger({"run_id": run_id, "workflow": name}, replay),
            run_id,
            app._wire(recorder),
        )


def _argument(cls: type[Any], base: type[Any], index: int, default: type[Any]) -> type[Any]:
    """The class given for a type parameter of *base* where *cls* derives from it."""
    for each in getattr(cls, "__orig_bases__", ()):
        if typing.get_origin(each) is base:
            found = typing.get_args(each)[index]
            if isinstance(found, type) and found is not object:
                return found
    return default
