"""`pikku serve`: the way in over HTTP, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pikku._commands.logs import log_options
from pikku._commands.output import tell
from pikku._commands.scrapes import exposition_of, metrics_here
from pikku._commands.target import Target
from pikku.errors import DeclarationError, ExposureError, MissingDependencyError

if TYPE_CHECKING:
    from socket import socket

    from pikku._app import App
    from pikku._commands.hosting import Stop
    from pikku._metrics import Metrics
    from pikku._queues import RateLimit
    from pikku._settings import EngineOptions


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> RateLimit | None:
    """So many within a time: `600/1min`."""
    from pikku._queues import RateLimit

    if value is None:
        return None
    count, _, per = value.partition("/")
    try:
        return RateLimit(int(count), per)
    except (ValueError, DeclarationError):
        raise click.BadParameter(f"{value!r} is no rate: write 600/1min") from None


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port to listen on; 0 takes a free one.",
)
@click.option(
    "--metrics",
    is_flag=True,
    help="Answer scrapes of Prometheus at /metrics, for whoever reaches the port.",
)
@click.option(
    "--max-streams",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="How many event streams may be open.",
)
@click.option(
    "--max-streams-per-session",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="How many of them one person may have.",
)
@click.option(
    "--request-rate",
    callback=_rate,
    metavar="COUNT/TIME",
    help="How many requests one person may make, such as 600/1min; no limit otherwise.",
)
@log_options
@click.pass_obj
def serve(
    target: Target,
    host: str,
    port: int,
    metrics: bool,
    max_streams: int,
    max_streams_per_session: int,
    request_rate: RateLimit | None,
    log_format: str | None,
    log_level: str,
) -> None:
    """Answer calls of what is exposed over HTTP, until SIGTERM or Ctrl-C.

    Runs that are started are executed here, or by workers where `queue_service` says so.
    """
    from pikku._commands.hosting import blaming, log_to_stderr, register, run_until_stopped
    from pikku._settings import EngineOptions

    app = target.load_app()
    register(app)
    try:
        from pikku._http.door import is_loopback
        from pikku._http.serving import listening
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pikku"):
            raise
        raise MissingDependencyError("pikku serve", "server") from error
    with blaming(f"the authorize hook of {app.package} cannot be imported"):
        hook = app.authorize
    if hook is None and not is_loopback(host):
        raise ExposureError(f"{host} can be reached from other machines, and there is no hook")
    listener = listening(host, port)
    log_to_stderr(target, log_format, log_level)
    counted = metrics_here("--metrics") if metrics else None
    options = EngineOptions(
        max_streams=max_streams,
        max_streams_per_session=max_streams_per_session,
        request_rate=request_rate,
    )
    run_until_stopped(lambda stop: _serve(stop, target, app, listener, counted, options))


async def _serve(
    stop: Stop,
    target: Target,
    app: App[Any],
    listener: socket,
    metrics: Metrics | None,
    options: EngineOptions,
) -> None:
    from pikku._commands.hosting import exit_if_held_up, hosting
    from pikku._http.door import Door
    from pikku._http.serving import serve as serve_door

    async with hosting(app, target.store, sticky=True, metrics=metrics, options=options) as engine:
        stop.under_way = lambda: engine.in_flight
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        await serve_door(
            Door(app, None if metrics is None else exposition_of(engine.store)),
            listener,
            stop.asked,
            lambda: tell(f"serving {app.package} on http://{shown}:{port}; {engine.store.address}"),
        )
    tell("stopped")
    await exit_if_held_up(0)
