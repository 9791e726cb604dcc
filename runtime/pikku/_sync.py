"""The app for code without an event loop: the same engine on a loop in a thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, overload

from pikku._app import App
from pikku._durations import Duration
from pikku._functions import WorkflowRef
from pikku._queues import SyncQueueAttributes
from pikku._run import Run, SyncRun

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)
T = TypeVar("T")

WaitFor = Callable[[Coroutine[Any, Any, Any]], Any]


class SyncBoundWorkflow(WorkflowRef[I_contra, O_co]):
    """`shop.workflows.x`: a workflow that can be started from synchronous code."""

    def __init__(self, name: str, app: App[Any], wait_for: WaitFor) -> None:
        super().__init__(name)
        self._app = app
        self._wait_for = wait_for

    @overload
    def start(
        self: SyncBoundWorkflow[None, T],
        /,
        *,
        run_id: str | None = None,
        wait: bool = True,
        tags: Sequence[str] = (),
        delay: Duration | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> SyncRun[T]: ...
    @overload
    def start(
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
    ) -> SyncRun[O_co]: ...
    def start(self: Any, *data: Any, **options: Any) -> Any:
        """Start a run of it: see `App.start_workflow`."""
        run = self._wait_for(self._app.start_workflow(self.name, *data, **options))
        return SyncRun(run, self._wait_for)

    @overload
    def start_in_transaction(
        self: SyncBoundWorkflow[None, T],
        connection: object,
        /,
        *,
        run_id: str | None = None,
        tags: Sequence[str] = (),
        delay: Duration | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> SyncRun[T]: ...
    @overload
    def start_in_transaction(
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
    ) -> SyncRun[O_co]: ...
    def start_in_transaction(self: Any, connection: object, /, *data: Any, **options: Any) -> Any:
        """Start a run of it with the transaction of *connection*: see
        `App.start_in_transaction`."""
        starting = self._app.start_in_transaction(connection, self.name, *data, **options)
        return SyncRun(self._wait_for(starting), self._wait_for)

    def start_many(
        self,
        items: Iterable[I_contra],
        /,
        *,
        tags: Sequence[str] = (),
        started_by: str | None = None,
    ) -> list[SyncRun[O_co]]:
        """Start a run of it for each of *items*: see `App.start_many`."""
        starting = self._app.start_many(self.name, items, tags=tags, started_by=started_by)
        return [SyncRun(run, self._wait_for) for run in self._wait_for(starting)]


class SyncApp:
    """An open app for synchronous code."""

    def __init__(
        self,
        app: App[Any],
        names: Mapping[str, str],
        queues: Mapping[str, str],
        wait_for: WaitFor,
    ) -> None:
        self._app = app
        self._wait_for = wait_for
        self.queues = SyncQueueAttributes(app, queues, wait_for)
        self.workflows = SyncWorkflowAttributes(app, names, wait_for)

    def get_run(self, name: str, run_id: str, /) -> SyncRun[Any]:
        """The handle of a run that exists."""
        run: Run[Any] = self._app.get_run(name, run_id)
        return SyncRun(run, self._wait_for)


class SyncWorkflowAttributes:
    """`shop.workflows`: an attribute for each workflow."""

    def __init__(self, app: App[Any], names: Mapping[str, str], wait_for: WaitFor) -> None:
        self._app = app
        self._names = names
        self._wait_for = wait_for

    def __getattr__(self, attribute: str) -> SyncBoundWorkflow[Any, Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return SyncBoundWorkflow(self._names.get(attribute, attribute), self._app, self._wait_for)


def sync_opener(
    app: App[Any], names: Mapping[str, str], queues: Mapping[str, str]
) -> Callable[..., AbstractContextManager[SyncApp]]:
    """The `open_app` of a generated package."""

    @contextmanager
    def open_app(*, store: str | None = None) -> Generator[SyncApp, None, None]:
        """Open the app on an event loop of its own, for code that has none.

        Raises:
            RuntimeError: if called on an event loop; there `async with app:` is the way.
        """
        import asyncio
        import threading

        if asyncio._get_running_loop() is not None:
            raise RuntimeError("open_app was called on an event loop; write `async with app:`")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="pikku-app", daemon=True)
        thread.start()

        def wait_for(coro: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(coro, loop).result()

        opening = app.open(store=store)
        try:
            wait_for(_enter(opening))
            try:
                yield SyncApp(app, names, queues, wait_for)
            finally:
                wait_for(_leave(opening))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return open_app


async def _enter(opening: Any) -> None:
    await opening.__aenter__()


async def _leave(opening: Any) -> None:
    await opening.__aexit__(None, None, None)
