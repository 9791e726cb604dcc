"""What the tests of runs share: a small app of their own, labs, and a store that crashes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, overload

from pikku import App, FunctionContext, Registry, Run, WorkflowFunctionContext, WorkflowWire
from pikku._functions import Func, Workflow
from pikku._records import Op, Reply, StepRecord
from pikku._session import FOREVER_SECONDS
from pikku._settings import EngineOptions
from pikku.stores.base import Store
from pikku.testing import WorkflowLab

Ctx: TypeAlias = FunctionContext[Any, Any]
Wf: TypeAlias = WorkflowFunctionContext[Any, Any, WorkflowWire]
Lab: TypeAlias = WorkflowLab[Any]


class Toy:
    """An app with a registry of its own."""

    def __init__(self, *, services: Callable[..., Any] | str | None = None) -> None:
        self.registry = Registry("toy")
        self.app: App[Any] = App(registry=self.registry, package="toy", services=services)

    @overload
    def func(self, func: Callable[..., Any], /) -> Any: ...
    @overload
    def func(self, /, **options: Any) -> Callable[[Callable[..., Any]], Any]: ...
    def func(self, func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """`@toy.func`, as `@pikku_func` of a generated package."""
        return self.registry.pikku_func(func, **options)

    @overload
    def workflow(
        self, func: Callable[..., Any], /, *, name: str | None = None, **options: Any
    ) -> Any: ...
    @overload
    def workflow(
        self, /, *, name: str | None = None, **options: Any
    ) -> Callable[[Callable[..., Any]], Any]: ...
    def workflow(
        self, func: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any
    ) -> Any:
        """Decorate and wire in one go."""
        if func is None:
            return lambda each: self.workflow(each, name=name, **options)
        made: Workflow[Any, Any] = self.registry.pikku_workflow_func(func, **options)
        self.registry.wire_workflow(name=name or func.__name__, func=made)
        return made

    def replace(self, func: Callable[..., Any], *, name: str, **options: Any) -> None:
        """Deploy other code under the name of a workflow."""
        self.registry.workflows.pop(name)
        made: Workflow[Any, Any] = self.registry.pikku_workflow_func(func, **options)
        self.registry.wire_workflow(name=name, func=made)

    def replace_func(
        self, func: Callable[..., Any], *, name: str, **options: Any
    ) -> Func[Any, Any]:
        """Deploy other code under the name of a function."""
        self.registry.functions.pop(name)
        made: Func[Any, Any] = self.registry.pikku_func(func, name=name, **options)
        return made

    async def start(
        self, name: str, *data: Any, run_id: str | None = None, wait: bool = True
    ) -> Run[Any]:
        """A run of the workflow *name*."""
        return await self.app.start_workflow(name, *data, run_id=run_id, wait=wait)


@dataclass(frozen=True)
class World:
    """A place for runs: a store, and whether waiting runs stay in memory."""

    url: str
    sticky: int = 1000

    def options(self, **changes: Any) -> EngineOptions:
        """Engine options for a lab: its lease never ends, as its clock jumps."""
        options = EngineOptions(lease_seconds=FOREVER_SECONDS, sticky=self.sticky)
        return dataclasses.replace(options, **changes)

    def lab(
        self, toy: Toy, *, auto_advance: bool = True, services: Any = None, **changes: Any
    ) -> Lab:
        """The app, open for one test."""
        return WorkflowLab(
            toy.app,
            services=services,
            store=self.url,
            auto_advance=auto_advance,
            options=self.options(**changes),
        )

    def proxied(
        self, toy: Toy, proxy: Callable[[ProxyLab, Store], StoreProxy], **changes: Any
    ) -> ProxyLab:
        """A lab whose store is reached through what *proxy* makes."""
        lab = ProxyLab(toy.app, store=self.url, options=self.options(**changes))
        lab.proxy = proxy
        return lab


class StoreProxy:
    """A store in front of a store; counts what passes."""

    def __init__(self, lab: ProxyLab, store: Store) -> None:
        self.lab = lab
        self.inner = store
        self.applied: list[tuple[Op, ...]] = []
        self.reads: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name == "apply_now":  # every batch goes through `apply`
            raise AttributeError(name)
        return getattr(self.inner, name)

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        self.applied.append(tuple(ops))
        return await self.inner.apply(session, ops, want)

    async def load_steps(self, run_id: str) -> Any:
        self.reads.append("load_steps")
        return await self.inner.load_steps(run_id)

    async def load_run(self, run_id: str) -> Any:
        self.reads.append("load_run")
        return await self.inner.load_run(run_id)

    async def load_history(self, run_id: str) -> Any:
        self.reads.append("load_history")
        return await self.inner.load_history(run_id)


class ProxyLab(WorkflowLab[Any]):
    """A lab whose store is wrapped."""

    proxy: Callable[[ProxyLab, Store], StoreProxy]
    wrapped: StoreProxy

    async def _open(self) -> None:
        store: Any = self._store
        if not isinstance(store, StoreProxy):
            self.wrapped = self.proxy(self, store)
            self._store = self.wrapped
        await super()._open()

    @property
    def crashed(self) -> bool:
        return self._crashed

    async def __aenter__(self) -> Self:
        return await super().__aenter__()


class CrashingStore(StoreProxy):
    """Lets the process die at the *at*-th call: before it is carried out, or after it, the answer
    lost on its way."""

    def __init__(self, lab: ProxyLab, store: Store, at: int, *, before: bool) -> None:
        super().__init__(lab, store)
        self._at = at
        self._before = before

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        self.applied.append(tuple(ops))
        if len(self.applied) != self._at:
            return await self.inner.apply(session, ops, want)
        if not self._before:
            await self.inner.apply(session, ops, want)
        self.lab._crash()
        await asyncio.Event().wait()  # until the task that called dies with its process
        raise AssertionError("the process is dead")


async def steps_of(lab: Lab, run: Run[Any] | str) -> dict[str, StepRecord]:
    """The records of a run's steps, by key."""
    loaded = await lab._store.load_steps(str(run))
    assert loaded is not None
    return {step.key: step for step in loaded.steps}


async def settled(lab: Lab, run: Run[Any] | str) -> tuple[Any, ...]:
    """What a run ended as: status, output, error, and what matters of each step."""
    loaded = await lab._store.load_steps(str(run))
    assert loaded is not None
    record = loaded.run
    steps = sorted(
        (step.key, step.kind, step.target, step.status, step.result, step.failures)
        for step in loaded.steps
    )
    return record.status, record.output, record.error and "error", steps
