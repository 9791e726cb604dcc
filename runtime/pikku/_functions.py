"""Decorated functions: typed references to them, and the registry that knows them by name."""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, overload

from pikku._calls import Guards, Middleware, Permission, WiredMiddleware, checked_guards
from pikku._durations import Duration, duration_us
from pikku._queues import QueueConfig, WiredQueueWorker
from pikku._retry import DEFAULT_POLICY, Backoff, StepPolicy, as_backoff, checked_retries
from pikku._signals import Signal, WiredSignal
from pikku.errors import (
    DeclarationError,
    DuplicateNameError,
    UnknownFunctionError,
    UnknownQueueError,
    UnknownScheduleError,
    UnknownSignalError,
    UnknownWorkflowError,
    WorkflowBodyError,
    nearest,
)

if TYPE_CHECKING:
    from pikku._app import Caller
    from pikku._codec import Codec
    from pikku._run import Run

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")

Dispatch: TypeAlias = Literal["local", "queue"]
Executor: TypeAlias = Literal["process"]
CatchUp: TypeAlias = Literal["skip", "once", "all"]

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_RESERVED_QUEUES = ("orchestrator", "inline")
_RESERVED_WORKFLOWS = ("schedule:", "queue:")


class _NoInput:
    def __repr__(self) -> str:
        return "no input"


NO_INPUT: Any = _NoInput()


# --- references: what names a target ------------------------------------------------------


class RpcRef(Generic[I_contra, O_co]):
    """A typed name of a function: a target for `do`, never callable."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class BoundRpc(RpcRef[I_contra, O_co]):
    """`ctx.rpc.x` in a function: a target, and callable."""

    def __init__(self, name: str, caller: Caller) -> None:
        super().__init__(name)
        self._caller = caller

    @overload
    async def __call__(self: BoundRpc[None, T]) -> T: ...
    @overload
    async def __call__(self, data: I_contra, /) -> O_co: ...
    async def __call__(self: Any, *data: Any) -> Any:
        """Call the function here and now: no step, no retries, nothing recorded.

        Raises:
            UnknownFunctionError: if no function has this name.
            InvalidInputError: if *data* does not fit the function's declared input.
            Exception: whatever the function raises.
        """
        return await self._caller.invoke(self.name, data[0] if data else NO_INPUT)

    @overload
    async def remote(self: BoundRpc[None, T], /, *, timeout: Duration = "30s") -> T: ...
    @overload
    async def remote(self, data: I_contra, /, *, timeout: Duration = "30s") -> O_co: ...
    async def remote(self: Any, *data: Any, timeout: Duration = "30s") -> Any:
        """Have a worker call the function, on its queue, with the retries that it declares.

        Raises:
            UnknownFunctionError, InvalidInputError: as for a call here.
            SettingError: the app leaves nothing to workers.
            JobFailedError: the function failed for good.
            ResultTimeoutError: no result within *timeout*; the call is called off.
        """
        return await self._caller.call_remote(self.name, data[0] if data else NO_INPUT, timeout)


class WorkflowRef(Generic[I_contra, O_co]):
    """A typed name of a workflow."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class BoundWorkflow(WorkflowRef[I_contra, O_co]):
    """`workflows.x`: a workflow that can be started."""

    def __init__(self, name: str, caller: Caller) -> None:
        super().__init__(name)
        self._caller = caller

    @overload
    async def start(
        self: BoundWorkflow[None, T],
        /,
        *,
        run_id: str | None = None,
        wait: bool = True,
        tags: Sequence[str] = (),
        delay: Duration | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> Run[T]: ...
    @overload
    async def start(
        self,
        data: I_contra,
        /,
        *,
        run_id: str | None = None,
        wait: bool = True,
        tags: Sequence[str] = (),
        delay: Duration | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> Run[O_co]: ...
    async def start(self: Any, *data: Any, **options: Any) -> Any:
        """Start a run of it: see `App.start_workflow`."""
        return await self._caller.start_workflow(self.name, *data, **options)

    @overload
    async def start_in_transaction(
        self: BoundWorkflow[None, T],
        connection: object,
        /,
        *,
        run_id: str | None = None,
        tags: Sequence[str] = (),
        delay: Duration | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> Run[T]: ...
    @overload
    async def start_in_transaction(
        self,
        connection: object,
        data: I_contra,
        /,
        *,
        run_id: str | None = None,
        tags: Sequence[str] = (),
        delay: Duration | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> Run[O_co]: ...
    async def start_in_transaction(
        self: Any, connection: object, /, *data: Any, **options: Any
    ) -> Any:
        """Start a run of it with the transaction of *connection*: see
        `App.start_in_transaction`."""
        return await self._caller.start_in_transaction(connection, self.name, *data, **options)

    async def start_many(
        self,
        items: Iterable[I_contra],
        /,
        *,
        tags: Sequence[str] = (),
        started_by: str | None = None,
    ) -> list[Run[O_co]]:
        """Start a run of it for each of *items*: see `App.start_many`."""
        runs: list[Run[O_co]] = await self._caller.start_many(
            self.name, items, tags=tags, started_by=started_by
        )
        return runs

    def get_run(self, run_id: str, /) -> Run[O_co]:
        """The handle of a run that exists; nothing is read until the handle is used."""
        run: Run[O_co] = self._caller.get_run(self.name, run_id)
        return run


class ExternalWorkflow(WorkflowRef[I_contra, O_co]):
    """A workflow of another code base whose processes share the store: a target for `do`."""

    def __init__(self, name: str, input: Any, output: Any) -> None:
        super().__init__(name)
        self._types = (input, output)

    @property
    def takes_input(self) -> bool:
        """Whether it is started with a value."""
        return self._types[0] is not None

    @property
    def input(self) -> Codec:
        """The codec of its input."""
        return self._codec(0, "input")

    @property
    def output(self) -> Codec:
        """The codec of its result."""
        return self._codec(1, "result")

    def _codec(self, place: int, what: str) -> Codec:
        from pikku._codec import codec_for

        return codec_for(self._types[place], f"{what} of external workflow {self.name!r}")


@overload
def external_workflow(name: str, *, input: type[I], output: type[O]) -> ExternalWorkflow[I, O]: ...
@overload
def external_workflow(
    name: str, *, input: type[I], output: None = None
) -> ExternalWorkflow[I, None]: ...
@overload
def external_workflow(
    name: str, *, input: None = None, output: type[O]
) -> ExternalWorkflow[None, O]: ...
@overload
def external_workflow(
    name: str, *, input: None = None, output: None = None
) -> ExternalWorkflow[None, None]: ...
def external_workflow(name: str, *, input: Any = None, output: Any = None) -> Any:
    """A workflow of another code base whose processes work on the same store, as a target of `do`.

    Args:
        name: the name under which it is wired there.
        input: the type of its input; None where it takes none.
        output: the type of its result; None where it has none.
    """
    return ExternalWorkflow[Any, Any](name, input, output)


# --- what the decorators return -------------------------------------------------------------


class Func(RpcRef[I_contra, O_co]):
    """What `@pikku_func` returns. `func` is the plain function, for calling it in a unit test.

    `crosses` says whether a step that calls it goes through the queue even where it could be
    executed in place.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        *,
        name: str | None = None,
        expose: bool = False,
        retries: int | None = None,
        retry_delay: Duration | Backoff | None = None,
        timeout: Duration | None = None,
        non_retryable: Sequence[type[Exception]] = (),
        queue: str | None = None,
        dispatch: Dispatch | None = None,
        executor: Executor | None = None,
        tags: Sequence[str] = (),
        description: str = "",
        middleware: Sequence[Middleware] = (),
        permissions: Sequence[Permission] = (),
    ) -> None:
        self.declaration = _Declaration(func, "function")
        super().__init__(name if name is not None else func.__name__)
        self.func = func
        self.is_async = inspect.iscoroutinefunction(func)
        self.expose = expose
        self.tags = tuple(tags)
        self.description = description or inspect.getdoc(func) or ""
        self.non_retryable = tuple(non_retryable)
        self.policy = step_policy(
            self.declaration.place, DEFAULT_POLICY, retries, retry_delay, timeout
        )
        place = self.declaration.place
        self.guards = Guards(
            checked_guards(place, "middleware", middleware),
            checked_guards(place, "permissions", permissions),
        )
        check_route(place, queue, dispatch)
        if executor not in (None, "process"):
            raise DeclarationError(
                f"{self.declaration.place}: executor is {executor!r}",
                hint='write executor="process", or leave it out',
            )
        self.queue = queue
        self.dispatch: Dispatch | None = dispatch
        self.executor: Executor | None = executor
        self.crosses = queue is not None or dispatch == "queue"


class Workflow(WorkflowRef[I_contra, O_co]):
    """What `@pikku_workflow_func` returns; unrelated to `Func`. It has a name once it is wired."""

    def __init__(self, func: Callable[..., Any], *, timeout: Duration | None = None) -> None:
        self.declaration = _Declaration(func, "workflow")
        super().__init__(func.__name__)
        if not inspect.iscoroutinefunction(func):
            raise DeclarationError(
                f"workflow {place_of(func)} is not `async def`",
                hint="a workflow awaits its steps; write `async def`",
            )
        self.func = func
        self.timeout_us = None if timeout is None else duration_us(timeout)


class WiredWorkflow:
    """A workflow under the name by which it is started."""

    def __init__(
        self,
        name: str,
        workflow: Workflow[Any, Any],
        description: str,
        tags: Sequence[str],
        expose: bool,
    ) -> None:
        self.name = name
        self.workflow = workflow
        self.description = description
        self.tags = tuple(tags)
        self.expose = expose


@dataclass(frozen=True, slots=True)
class WiredSchedule:
    """A function or workflow, and when it is due."""

    name: str
    schedule: str
    timezone: str
    func: Func[Any, Any] | Workflow[Any, Any]
    catch_up: CatchUp
    description: str


class _Declaration:
    """The parameters of a decorated function and, once needed, the codecs of their types."""

    def __init__(self, func: Callable[..., Any], kind: str) -> None:
        if not inspect.isfunction(func):
            raise DeclarationError(
                f"{func!r} is no function and cannot be a pikku {kind}",
                hint="decorate a plain function, once",
            )
        self.place = place_of(func)
        self._func = func
        self._kind = kind
        self._codecs: tuple[Codec, Codec] | None = None
        code = func.__code__
        count = code.co_argcount
        if count not in (1, 2) or code.co_kwonlyargcount or code.co_flags & 0x0C:
            raise DeclarationError(
                f"{kind} {self.place} takes {inspect.signature(func)}",
                hint="declare a context, and at most one input: (ctx: Context, data: Data)",
            )
        self.takes_input = count == 2
        self._input_name = code.co_varnames[1] if self.takes_input else ""

    @property
    def input_type(self) -> Any:
        """The declared input; without an input, None.

        Raises:
            DeclarationError: if its annotation cannot be resolved.
        """
        declared: dict[str, Any] = self._func.__annotations__
        if self._input_name not in declared:
            return None
        wanted = {self._input_name: declared[self._input_name]}
        owner = f"{self._kind} {self.place}"
        return resolve_annotations(wanted, self._func, owner)[self._input_name]

    @property
    def input(self) -> Codec:
        """The codec of the declared input; without an input, that of None."""
        return (self._codecs or self._resolve())[0]

    @property
    def output(self) -> Codec:
        """The codec of the declared return type; without one, that of plain values."""
        return (self._codecs or self._resolve())[1]

    def _resolve(self) -> tuple[Codec, Codec]:
        from pikku._codec import PLAIN, codec_for

        declared: dict[str, Any] = self._func.__annotations__
        wanted = {name: declared[name] for name in (self._input_name, "return") if name in declared}
        if self.takes_input and self._input_name not in wanted:
            raise DeclarationError(
                f"{self._kind} {self.place}: its input {self._input_name!r} has no annotation",
                hint="say what it takes, so that it can be stored and checked",
            )
        types = resolve_annotations(wanted, self._func, f"{self._kind} {self.place}")
        given = (
            codec_for(types[self._input_name], f"input of {self.place}")
            if (self.takes_input)
            else codec_for(None, f"input of {self.place}")
        )
        made = codec_for(types["return"], f"result of {self.place}") if "return" in types else PLAIN
        self._codecs = (given, made)
        return self._codecs


def resolve_annotations(
    wanted: dict[str, Any], func: Callable[..., Any], owner: str
) -> dict[str, Any]:
    """The types that annotations mean, in the module that wrote them.

    Raises:
        DeclarationError: if a name in them is not known there at run time.
    """
    holder = SimpleNamespace(__annotations__=wanted)
    try:
        return typing.get_type_hints(
            holder, globalns=getattr(func, "__globals__", {}), include_extras=True
        )
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise DeclarationError(
            f"{owner}: an annotation cannot be resolved: {error}",
            hint="import the type at module level, outside `if TYPE_CHECKING:`",
        ) from error


def step_policy(
    owner: str,
    declared: StepPolicy,
    retries: int | None,
    retry_delay: Duration | Backoff | None,
    timeout: Duration | None,
) -> StepPolicy:
    """*declared* with what is given put over it.

    Raises:
        DeclarationError: if a value cannot be used, naming *owner*.
    """
    if retries is None and retry_delay is None and timeout is None:
        return declared
    try:
        return StepPolicy(
            declared.retries if retries is None else checked_retries(retries),
            declared.backoff if retry_delay is None else as_backoff(retry_delay),
            declared.timeout_us if timeout is None else duration_us(timeout),
        )
    except ValueError as error:
        raise DeclarationError(f"{owner}: {error}") from error


def check_route(owner: str, queue: object, dispatch: object) -> None:
    """Refuse what cannot say where a step is executed.

    Raises:
        DeclarationError: if a value cannot be used, or the two contradict, naming *owner*.
    """
    if queue is not None:
        check_queue_name(owner, queue)
    if dispatch not in (None, "local", "queue"):
        raise DeclarationError(
            f"{owner}: dispatch is {dispatch!r}",
            hint='write dispatch="queue" or dispatch="local", or leave it out',
        )
    if queue is not None and dispatch == "local":
        raise DeclarationError(
            f'{owner}: queue={queue!r} and dispatch="local" contradict each other',
            hint="a queue of its own is always crossed: leave one of them out",
        )


def check_queue_name(owner: str, queue: object) -> None:
    """Refuse what is no name for a queue.

    Raises:
        DeclarationError: naming *owner*.
    """
    if not isinstance(queue, str) or not _QUEUE_NAME.fullmatch(queue):
        raise DeclarationError(
            f"{owner}: {queue!r} is no name for a queue",
            hint="use 1 to 64 of the characters A-Z a-z 0-9 _ . -",
        )
    if queue in _RESERVED_QUEUES:
        raise DeclarationError(
            f"{owner}: the queue name {queue!r} is taken by pikku itself",
            hint="give the queue another name",
        )


def _check_schedule(owner: str, schedule: object, timezone: object) -> None:
    from pikku._cron import cron_fields, time_zone, zone_names

    try:
        cron_fields(schedule)
    except ValueError as error:
        hint = "write minute, hour, day of the month, month and day of the week: 0 3 * * *"
        raise DeclarationError(f"{owner}: {error}", hint=hint) from None
    try:
        time_zone(timezone)
    except ValueError as error:
        known = zone_names()
        hint = nearest(str(timezone), known) if len(known) > 1 else "pip install tzdata"
        raise DeclarationError(f"{owner}: {error}", hint=hint) from None


def _takes_tick(declared: Any) -> bool:
    """Whether an input can be nothing, or the time at which something was due."""
    origin = typing.get_origin(declared)
    if origin is typing.Annotated:
        return _takes_tick(typing.get_args(declared)[0])
    if origin in (typing.Union, UnionType):
        return any(_takes_tick(each) for each in typing.get_args(declared))
    return declared in (None, NoneType, datetime)


def schedule_of(workflow: str) -> str | None:
    """The name of the schedule whose ticks are runs of *workflow*; None where it is another."""
    name = workflow.removeprefix("schedule:")
    return None if name == workflow else name


def place_of(func: Callable[..., Any]) -> str:
    """`module:qualname`, which is how a decorated function is told from another."""
    module = func.__module__
    if module == "__main__":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        if spec is not None:
            module = spec.name
    return f"{module}:{func.__qualname__}"


# --- the registry ----------------------------------------------------------------------------


class Registry:
    """The functions, workflows, queues, schedules and signals of one generated package.

    Each package has its own, so two apps in one process never meet. `versions` has the version of
    each workflow by its name, as far as it is known.
    """

    def __init__(self, name: str, *, versions: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.versions = dict(versions or {})
        self.functions: dict[str, Func[Any, Any]] = {}
        self.queues: set[str] = set()
        self.workflows: dict[str, WiredWorkflow] = {}
        self.queue_workers: dict[str, WiredQueueWorker] = {}
        self.schedules: dict[str, WiredSchedule] = {}
        self.signals: dict[str, WiredSignal[Any]] = {}
        self.middleware: list[WiredMiddleware] = []
        self._guards: dict[Func[Any, Any], Guards] = {}

    def pikku_func(self, func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Register *func*, or return the decorator that will, with *options*.

        Raises:
            DuplicateNameError: if another function has the name.
            DeclarationError: if its parameters or options cannot work.
        """
        if func is None:

            def decorate(each: Callable[..., Any]) -> Any:
                return self.pikku_func(each, **options)

            return decorate
        made: Func[Any, Any] = Func(func, **options)
        there = self.functions.get(made.name)
        if there is not None and there.declaration.place != made.declaration.place:
            raise DuplicateNameError(
                f"two functions are named {made.name!r}: "
                f"{there.declaration.place} and {made.declaration.place}"
            )
        self.functions[made.name] = made
        if made.queue is not None:
            self.queues.add(made.queue)
        return made

    def pikku_workflow_func(self, func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a workflow of *func*, or return the decorator that will, with *options*.

        Raises:
            DeclarationError: if it is not `async def`, or its parameters cannot work.
        """
        if func is None:

            def decorate(each: Callable[..., Any]) -> Any:
                return self.pikku_workflow_func(each, **options)

            return decorate
        return Workflow[Any, Any](func, **options)

    def wire_workflow(
        self,
        *,
        name: str,
        func: Workflow[Any, Any],
        description: str = "",
        tags: Sequence[str] = (),
        expose: bool = False,
    ) -> None:
        """Give the workflow *func* the *name* under which it is started.

        Raises:
            DuplicateNameError: if another workflow has the name.
            DeclarationError: if *func* is no workflow, or the name or a tag is empty.
        """
        if not isinstance(func, Workflow):
            raise DeclarationError(
                f"wire_workflow(name={name!r}): func is {func!r}",
                hint="decorate the function with @pikku_workflow_func",
            )
        if not name or not isinstance(name, str):
            raise DeclarationError(f"wire_workflow: {name!r} is no name for a workflow")
        if name.startswith(_RESERVED_WORKFLOWS):
            raise DeclarationError(
                f"wire_workflow: the name {name!r} begins with what pikku keeps for itself",
                hint="give the workflow a name without `schedule:` or `queue:` in front",
            )
        if isinstance(tags, str) or not all(isinstance(tag, str) and tag for tag in tags):
            raise DeclarationError(
                f"wire_workflow(name={name!r}): tags is {tags!r}", hint='write tags=["one", "two"]'
            )
        there = self.workflows.get(name)
        if there is not None and there.workflow.declaration.place != func.declaration.place:
            raise DuplicateNameError(
                f"two workflows are named {name!r}: "
                f"{there.workflow.declaration.place} and {func.declaration.place}"
            )
        func.name = name
        self.workflows[name] = WiredWorkflow(name, func, description, tags, expose)

    def wire_queue_worker(
        self, *, queue: str, func: Func[Any, Any], config: QueueConfig | None = None
    ) -> None:
        """Have *func* do the jobs of *queue*.

        Raises:
            DuplicateNameError: if another function does them.
            DeclarationError: if *func* is no function, or *queue* no name for a queue.
        """
        owner = f"wire_queue_worker(queue={queue!r})"
        check_queue_name("wire_queue_worker", queue)
        if not isinstance(func, Func):
            raise DeclarationError(
                f"{owner}: func is {func!r}", hint="decorate the function with @pikku_func"
            )
        if config is not None and not isinstance(config, QueueConfig):
            raise DeclarationError(
                f"{owner}: config is {config!r}", hint="write config=QueueConfig(concurrency=20)"
            )
        there = self.queue_workers.get(queue)
        if there is not None and there.func.declaration.place != func.declaration.place:
            raise DuplicateNameError(
                f"two functions do the jobs of queue {queue!r}: "
                f"{there.func.declaration.place} and {func.declaration.place}",
                hint="give each queue one function",
            )
        self.queues.add(queue)
        self.queue_workers[queue] = WiredQueueWorker(queue, func, config or QueueConfig())

    def wire_scheduler(
        self,
        *,
        name: str,
        schedule: str,
        func: RpcRef[Any, Any] | WorkflowRef[Any, Any],
        timezone: str = "UTC",
        catch_up: CatchUp = "once",
        description: str = "",
    ) -> None:
        """Have *func* called, or a run of it started, whenever *schedule* is due.

        Args:
            schedule: a cron expression of five fields, or one of `@hourly`, `@daily`, `@midnight`,
                `@weekly`, `@monthly`, `@yearly` and `@annually`.
            timezone: where its hours are told.
            catch_up: what becomes of times at which nothing ran: they are skipped, made up for
                once, or all.

        Raises:
            DuplicateNameError: if another schedule has the name.
            DeclarationError: if *func* takes anything but a `datetime`, or another value cannot be
                used.
        """
        if not isinstance(name, str) or not name or not name.isprintable():
            raise DeclarationError(f"wire_scheduler: {name!r} is no name for a schedule")
        owner = f"wire_scheduler(name={name!r})"
        if not isinstance(func, (Func, Workflow)):
            raise DeclarationError(
                f"{owner}: func is {func!r}",
                hint="decorate the function with @pikku_func or @pikku_workflow_func",
            )
        if not _takes_tick(func.declaration.input_type):
            raise DeclarationError(
                f"{owner}: {func.declaration.place} takes another input than a datetime",
                hint="let it take nothing, or the time at which it was due: a datetime",
            )
        if catch_up not in typing.get_args(CatchUp):
            raise DeclarationError(
                f"{owner}: catch_up is {catch_up!r}", hint='write "skip", "once" or "all"'
            )
        _check_schedule(owner, schedule, timezone)
        made = WiredSchedule(name, schedule, timezone, func, catch_up, description)
        there = self.schedules.get(name)
        if there is not None and there.func.declaration.place != func.declaration.place:
            raise DuplicateNameError(
                f"two schedules are named {name!r}: "
                f"{there.func.declaration.place} and {func.declaration.place}"
            )
        self.schedules[name] = made

    def wire_signal(self, *, name: str, payload: Any = None, description: str = "") -> Signal[Any]:
        """Declare the signal *name*, with the type of what comes with it.

        Raises:
            DuplicateNameError: if the name is declared with another payload.
            DeclarationError: if it is no name.
        """
        if not isinstance(name, str) or not name or not name.isprintable():
            raise DeclarationError(f"wire_signal: {name!r} is no name for a signal")
        there = self.signals.get(name)
        if there is not None and there.declared is not payload and there.declared != payload:
            raise DuplicateNameError(
                f"two signals are named {name!r}: with {there.declared!r} and with {payload!r}"
            )
        made = self.signals[name] = WiredSignal(name, payload, description)
        return made

    def wire_middleware(self, *middleware: Middleware, tags: Sequence[str] | None = None) -> None:
        """Put *middleware* around functions, the first one outermost, inside of what was wired
        before.

        Args:
            tags: only around functions that have one of these.

        Raises:
            DeclarationError: if it is no `async def`, or *tags* are none.
        """
        found = checked_guards("wire_middleware", "middleware", middleware)
        if tags is not None and (
            isinstance(tags, str)
            or not tags
            or not all(isinstance(tag, str) and tag for tag in tags)
        ):
            raise DeclarationError(
                f"wire_middleware: tags is {tags!r}",
                hint='write tags=["one", "two"], or leave it out for every function',
            )
        self.middleware += [WiredMiddleware(each, frozenset(tags or ())) for each in found]
        self._guards.clear()

    def guards(self, func: Func[Any, Any]) -> Guards:
        """What stands around *func*: middleware for all functions, then for its tags, then its
        own; and its permissions."""
        if not self.middleware:
            return func.guards
        found = self._guards.get(func)
        if found is None:
            tags = frozenset(func.tags)
            everywhere = [each.middleware for each in self.middleware if not each.tags]
            tagged = [each.middleware for each in self.middleware if each.tags & tags]
            middleware = (*everywhere, *tagged, *func.guards.middleware)
            found = self._guards[func] = Guards(middleware, func.guards.permissions)
        return found

    def queue_worker(self, queue: str) -> WiredQueueWorker:
        """What does the jobs of this *queue*.

        Raises:
            UnknownQueueError: with the nearest names.
        """
        try:
            return self.queue_workers[queue]
        except (KeyError, TypeError):
            raise UnknownQueueError(str(queue), self.queue_workers) from None

    def schedule(self, name: str) -> WiredSchedule:
        """The schedule of this *name*.

        Raises:
            UnknownScheduleError: with the nearest names.
        """
        try:
            return self.schedules[name]
        except (KeyError, TypeError):
            raise UnknownScheduleError(str(name), self.schedules) from None

    def signal(self, name: str) -> WiredSignal[Any]:
        """The declared signal of this *name*.

        Raises:
            UnknownSignalError: with the nearest names.
        """
        try:
            return self.signals[name]
        except (KeyError, TypeError):
            raise UnknownSignalError(str(name), self.signals) from None

    def function(self, name: str) -> Func[Any, Any]:
        """The function of this *name*.

        Raises:
            UnknownFunctionError: with the nearest names.
        """
        try:
            return self.functions[name]
        except (KeyError, TypeError):
            raise UnknownFunctionError(str(name), self.functions) from None

    def workflow(self, name: str) -> WiredWorkflow:
        """The wired workflow of this *name*.

        Raises:
            UnknownWorkflowError: with the nearest names.
        """
        try:
            return self.workflows[name]
        except (KeyError, TypeError):
            known = [each for each in self.workflows if schedule_of(each) is None]
            raise UnknownWorkflowError(str(name), known) from None


# --- attribute objects: what generated classes derive from --------------------------------------


class RpcAttributes:
    """`ctx.rpc` of a function: an attribute for each function. `names` maps the attributes whose
    function has another name."""

    names: typing.ClassVar[dict[str, str]] = {}

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __getattr__(self, attribute: str) -> BoundRpc[Any, Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return BoundRpc(self.names.get(attribute, attribute), self._caller)

    async def invoke(self, name: str, /, *data: Any) -> Any:
        """Call the function *name* here and now, as `ctx.rpc.name(data)` does."""
        return await self._caller.invoke(name, data[0] if data else NO_INPUT)

    async def start_workflow(self, name: str, /, *data: Any, **options: Any) -> Any:
        """Start a run: see `App.start_workflow`."""
        return await self._caller.start_workflow(name, *data, **options)


class RpcRefAttributes:
    """`ctx.rpc` of a workflow: the same attributes as targets for `do`, not callable."""

    names: typing.ClassVar[dict[str, str]] = {}

    def __getattr__(self, attribute: str) -> RpcRef[Any, Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if attribute in ("invoke", "start_workflow"):
            raise WorkflowBodyError(
                f"ctx.rpc.{attribute} in a workflow body would repeat on every replay",
                hint='make it a step: await ctx.workflow.do("What it does", "name", data)',
            )
        return _UncallableRef(self.names.get(attribute, attribute))


class _UncallableRef(RpcRef[Any, Any]):
    def __call__(self, *data: Any) -> Coroutine[Any, Any, Any]:
        raise WorkflowBodyError(
            f"a direct call of {self.name!r} in a workflow body would repeat on every replay",
            hint='make it a step: await ctx.workflow.do("What it does", '
            f"ctx.rpc.{self.name}, data)",
        )


class WorkflowAttributes:
    """`workflows`: an attribute for each workflow. `names` as in `RpcAttributes`."""

    names: typing.ClassVar[dict[str, str]] = {}

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __getattr__(self, attribute: str) -> BoundWorkflow[Any, Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return BoundWorkflow(self.names.get(attribute, attribute), self._caller)
