"""Words for runs from a process that executes none of them: it changes the store and is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from pikku._control import Control
from pikku._settings import EngineOptions
from pikku._telemetry import NOBODY

if TYPE_CHECKING:
    from pikku._app import App, OpenApp
    from pikku._commands.target import Target
    from pikku._functions import Registry
    from pikku._records import Op, OpResult, RunFilter, RunRecord
    from pikku.stores.base import Store

AT_ONCE = 200


class Clerk:
    """What `Control` needs of an engine, with nothing of what executes runs."""

    def __init__(self, store: Store, *, remote: bool) -> None:
        self.store = store
        self.clock = store.clock
        self.options = EngineOptions()
        self.remote = remote
        self.results = self
        self.observer = NOBODY
        self._asked: list[tuple[Op, asyncio.Future[OpResult]]] = []
        self._writer: asyncio.Task[None] | None = None

    def forget(self, run_id: str) -> None:
        """Nothing is remembered."""

    async def request(self, op: Op) -> OpResult:
        """The store's answer to *op*; what is asked for at the same time goes in one batch.

        Raises:
            StoreError: if the store did not take it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[OpResult] = loop.create_future()
        self._asked.append((op, future))
        if self._writer is None:
            self._writer = loop.create_task(self._write())
        result = await future
        if result.error is not None:
            raise result.error
        return result

    async def _write(self) -> None:
        await asyncio.sleep(0)
        while self._asked:
            part, self._asked = self._asked[:AT_ONCE], self._asked[AT_ONCE:]
            try:
                reply = await self.store.apply("", [op for op, _ in part], {})
            except Exception as error:
                for _, future in part:
                    future.set_exception(error)
                continue
            for (_, future), result in zip(part, reply.results, strict=True):
                if not future.done():
                    future.set_result(result)
        self._writer = None


class Desk:
    """What `Control` needs of an open app."""

    def __init__(self, registry: Registry, clerk: Clerk) -> None:
        self.registry = registry
        self.engine = clerk
        self.control = Control(cast("OpenApp", self))


@asynccontextmanager
async def writing(target: Target, *, make: bool = False) -> AsyncGenerator[Desk | None, None]:
    """The store, for what needs nothing of the app; None where nothing has been stored yet, unless
    it is to be made."""
    from pikku import Registry

    async with target.reading(make=make) as store:
        yield None if store is None else Desk(Registry(""), Clerk(store, remote=False))


@asynccontextmanager
async def writing_for(app: App[Any], target: Target) -> AsyncGenerator[Desk, None]:
    """The store, with what the app knows of its signals, workflows and types, and its codec.

    Raises:
        ConfigurationError: if the app's own code raises when it is imported or opened.
    """
    from pikku._app import _sealed  # pyright: ignore[reportPrivateUsage]
    from pikku._commands.hosting import blaming, register

    register(app)
    config, _ = target.settings()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(target.reading(make=True))
        assert store is not None
        with blaming(f"{app.package} cannot be opened"):
            services = await app._make_services(config, stack)  # pyright: ignore[reportPrivateUsage]
        remote = (
            config.queue_service == "store" or getattr(services, "queue_service", None) is not None
        )
        yield Desk(app.registry, Clerk(_sealed(store, services), remote=remote))


async def chosen_runs(
    desk: Desk | None, wanted: RunFilter, fits: Callable[[RunRecord], bool]
) -> list[RunRecord]:
    """All runs that are wanted and fit."""
    if desk is None:
        return []
    return [run async for run in desk.control.every(wanted) if fits(run)]
