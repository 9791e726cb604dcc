"""The product's server, in front of which something can go wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from pikku import Action, App, Session
from pikku.errors import UnauthorizedError

TOKEN: Final = "s3cret"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Instead = Callable[[Request], Response | None]


@dataclass(frozen=True)
class Person:
    """Somebody with the token."""

    user_id: str = "ann"


async def authorize(request: Request, action: Action) -> Session:
    """Whoever has the token is one person."""
    if request.headers.get("authorization") != f"Bearer {TOKEN}":
        raise UnauthorizedError("the token is missing, or not valid")
    return Person()


class Server:
    """An app's door below `/pikku`.

    Attributes:
        asked: every request that came in, in order: its method and its path.
        headers: those of each.
        before: called with each request; what it returns is the answer, and nothing is done.
        after: called with each request; what it returns is the answer, and all is done.
    """

    def __init__(self, app: App[Any]) -> None:
        self.app = app
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.before: Instead = lambda request: None
        self.after: Instead = lambda request: None
        self._door = app.asgi()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        request = Request(scope)
        self.asked.append((request.method, request.url.path))
        self.headers.append(dict(request.headers))
        elsewhere = not request.url.path.startswith("/pikku/")
        early = Response("Not Found", 404) if elsewhere else self.before(request)
        if early is not None:
            await early(scope, receive, send)
            return
        instead = self.after(request)
        await self._door({**scope, "root_path": "/pikku"}, receive, send if not instead else _lose)
        if instead is not None:
            await instead(scope, receive, send)


async def _lose(message: Message) -> None:
    """Nobody hears it."""


@dataclass(frozen=True)
class Served:
    """A server that listens at an address."""

    server: Server
    url: str

    @property
    def app(self) -> App[Any]:
        """The app behind it."""
        return self.server.app


@asynccontextmanager
async def served(app: App[Any]) -> AsyncGenerator[Served, None]:
    """The server of an open app, on a free port."""
    hook, app._authorize = app._authorize, authorize
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = Server(app)
        config = uvicorn.Config(server, lifespan="off", log_level="critical", ws="none")
        running = uvicorn.Server(config)
        task = asyncio.create_task(running.serve(sockets=[listening]))
        try:
            yield Served(server, f"http://127.0.0.1:{listening.getsockname()[1]}/pikku")
        finally:
            running.should_exit = running.force_exit = True
            await task
            app._authorize = hook
