"""`--metrics-port` and `--metrics`: what Prometheus is answered, by one process or by several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pikku._commands.output import tell
from pikku.errors import MissingDependencyError

if TYPE_CHECKING:
    from pikku._commands.target import Target
    from pikku._metrics import Exposition, Metrics
    from pikku.stores.base import Store


@dataclass(frozen=True, slots=True)
class Scrapes:
    """Where scrapes are answered."""

    host: str
    port: int


def metrics_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--metrics-port` and `--metrics-host`."""
    port = click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        help="Answer scrapes of Prometheus on this port; 0 takes a free one.  [default: no]",
    )
    host = click.option(
        "--metrics-host",
        default="127.0.0.1",
        show_default=True,
        help="The address of that port.",
    )
    return port(host(command))


def metrics_here(what: str) -> Metrics:
    """The metrics of this process, for the option *what*.

    Raises:
        MissingDependencyError: without the extra `metrics`.
    """
    try:
        from pikku._metrics import metrics_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise MissingDependencyError(what, "metrics") from error
    return metrics_of()


def exposition_of(store: Store, folder: str | None = None) -> Exposition:
    """What is told of this process, or of those that count in *folder*, and of *store*."""
    from asyncio import get_running_loop

    from pikku._metrics import Exposition

    return Exposition(store, get_running_loop(), folder=folder)


@asynccontextmanager
async def answering(
    scrapes: Scrapes | None, store: Store, folder: str | None = None
) -> AsyncGenerator[None, None]:
    """Answer scrapes meanwhile, and say where; without *scrapes*, do nothing."""
    if scrapes is None:
        yield
        return
    from pikku._metrics import exposed

    async with exposed(exposition_of(store, folder), scrapes.host, scrapes.port) as port:
        shown = f"[{scrapes.host}]" if ":" in scrapes.host else scrapes.host
        tell(f"metrics on http://{shown}:{port}/metrics")
        yield


@asynccontextmanager
async def answering_for_several(
    scrapes: Scrapes | None, target: Target
) -> AsyncGenerator[None, None]:
    """Answer scrapes for the processes that are started meanwhile, with the sum of what they
    count."""
    if scrapes is None:
        yield
        return
    metrics_here("--metrics-port")
    from pikku._metrics import shared_folder

    store = target.make_store()
    await store.open()
    try:
        with shared_folder() as folder:
            async with answering(scrapes, store, folder):
                yield
    finally:
        await store.close()
