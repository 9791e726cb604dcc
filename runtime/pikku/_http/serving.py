"""A server of its own: uvicorn, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Generator

import uvicorn

from pikku._http.door import Door
from pikku.errors import ConfigurationError

# Answers under way get this long; streams and waits end at once.
GOODBYE_SECONDS = 10


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the command has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigurationError: there is no such address here, or somebody else listens.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        number = error.errno or 0
        words = os.strerror(number) if number > 0 else str(error)
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {words}",
            hint="choose another one: --port 8001",
        ) from error


async def serve(
    door: Door, listener: socket.socket, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Answer what comes to *listener* until *stop* is set; the app is open. Calls *ready* once."""
    config = uvicorn.Config(
        door,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GOODBYE_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    stopping = asyncio.ensure_future(stop.wait())
    ready()
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    door.closing.set()
    server.should_exit = True
    stopping.cancel()
    await serving
