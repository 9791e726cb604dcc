"""The ASGI app: finds what a request asks for, who asks, and has it done."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pikku._access import Action, ActionKind, Session
from pikku._error_info import ErrorInfo
from pikku._http import calls, events, runs
from pikku._http.answers import Refusal, json_answer, not_found, refusal_of
from pikku._http.incoming import Incoming, asker_of
from pikku._http.limits import Limits
from pikku._http.openapi import openapi
from pikku._ids import is_unicode
from pikku.errors import (
    DeclarationError,
    PermissionDeniedError,
    StoreError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from pikku._app import App
    from pikku._metrics import Exposition

log = logging.getLogger("pikku.http")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class Route(NamedTuple):
    """What a path asks for, by which method."""

    method: str
    kind: ActionKind
    handler: Callable[[Incoming], Awaitable[Response]]
    name: str | None = None
    run_id: str | None = None
    part: str = ""

    @property
    def shape(self) -> str:
        """The path with what varies left open."""
        return _SHAPES[self.kind]


_SHAPES: dict[ActionKind, str] = {
    "rpc": "/rpc/{name}",
    "start": "/workflows/{name}/runs",
    "read": "/runs/{run_id}",
    "result": "/runs/{run_id}/result",
    "events": "/runs/{run_id}/events",
    "cancel": "/runs/{run_id}/cancel",
    "signal": "/runs/{run_id}/signals/{name}",
    "approve": "/runs/{run_id}/approvals/{step}",
}


class Door:
    """The way in to *app*: an ASGI app that answers for what is exposed, and for nothing else.

    As the whole of a server, it opens the app in its lifespan and closes it again; mounted in
    another app, it needs the app open around it.

    Attributes:
        closing: set when the server is about to stop: streams end, waits are answered.
        metrics: what is answered at `/metrics`; None: nothing, there is no such path.
    """

    def __init__(self, app: App[Any], metrics: Exposition | None = None) -> None:
        self._app = app
        self.metrics = metrics
        self.closing = asyncio.Event()
        self._limits = Limits()
        self._described: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<Door of {self._app.package}>"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1000, "reason": ""})

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open the app when the server starts, unless it is open, and close it when that ends."""
        await receive()
        self.closing = asyncio.Event()
        async with AsyncExitStack() as stack:
            try:
                if self._app._open is None:
                    await stack.enter_async_context(self._app)
                _ = self._app.authorize  # one that cannot be imported is told now
            except Exception as error:
                log.exception("%s cannot be opened", self._app.package)
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.closing.set()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except Exception as error:
            response = self._refusal(request, error).answer()
        await response(scope, receive, send)

    def _refusal(self, request: Request, error: Exception) -> Refusal:
        """What is answered instead, where *error* was raised."""
        refusal = refusal_of(error)
        if refusal is None:
            log.error(
                "%s %r cannot be answered",
                *(request.method, request.scope["path"]),
                exc_info=error,
            )
            refusal = Refusal(500, "internal", "something went wrong here")
        return refusal

    async def _answer(self, request: Request) -> Response:
        segments = segments_of(request.scope)
        if segments == ["openapi.json"]:
            _check_method(request, "GET")
            self._check_near(request)
            return json_answer(self._description(request.scope.get("root_path", "")))
        if segments == ["metrics"] and self.metrics is not None:
            _check_method(request, "GET")
            self._check_near(request)
            text = await asyncio.to_thread(self.metrics.text)
            return Response(text, headers={"content-type": self.metrics.content_type})
        route = route_of(segments)
        if route is None:
            raise not_found()
        _check_method(request, route.method)
        opened = self._app._open
        if opened is None or not opened.engine.observer.active:
            return await self._answer_route(request, route)
        watched = opened.engine.observer.answering(route.method, route.shape, request.headers)
        with watched:
            try:
                response = await self._answer_route(request, route)
            except ClientDisconnect:
                watched.end(outcome="disconnected")
                raise
            except Exception as error:
                # What a caller did wrong is no error of this server.
                refusal = refusal_of(error)
                fault = refusal is None or refusal.status >= 500
                watched.end(ErrorInfo.of(error) if fault else None, outcome="refused")
                raise
            watched.end(outcome=str(response.status_code))
            return response

    async def _answer_route(self, request: Request, route: Route) -> Response:
        action = Action(route.kind, route.name, route.run_id)
        opened = self._app.opened
        options = opened.engine.options
        try:
            session = await self._session(request, action)
        except Exception:  # whoever is not let in is counted, too
            self._limits.count(asker_of(request, None), options)
            raise
        self._limits.count(asker_of(request, session), options)
        incoming = Incoming(
            self._app, opened, request, action, session, route.part, self.closing, self._limits
        )
        return await route.handler(incoming)

    def _description(self, root: str) -> bytes:
        """The OpenAPI document of the app where it is mounted at *root*."""
        if root not in self._described:
            self._app.register()
            self._described[root] = to_json(openapi(self._app, root))
        return self._described[root]

    async def _session(self, request: Request, action: Action) -> Session | None:
        """Who asks, as the hook says; without a hook nobody, and only from this machine.

        Raises:
            UnauthorizedError, PermissionDeniedError: as the hook says.
            Refusal: there is no hook, and somebody elsewhere asks.
        """
        hook = self._app.authorize
        if hook is None:
            self._check_near(request)
            return None
        try:
            session = await hook(request, action)
        except (UnauthorizedError, PermissionDeniedError, StoreError):
            raise
        except Exception as error:
            raise RuntimeError("the authorize hook failed") from error
        if session is None:
            raise UnauthorizedError("the authorize hook knows nobody")
        who: object = session.user_id
        if not isinstance(who, str) or not who or not who.isprintable() or not is_unicode(who):
            raise DeclarationError(
                f"the authorize hook returned a session whose user_id is {who!r}",
                hint="a user_id is a text that can be printed",
            )
        return session

    def _check_near(self, request: Request) -> None:
        """Refuse whoever is not on this machine, where no hook asks who it is: also a page of
        another site whose name was made to lead here."""
        if self._app.authorize is not None:
            return
        near = request.client is None or is_loopback(request.client.host)
        if not near or not _names_loopback(request.headers.get("host", "")):
            raise Refusal(
                403,
                "forbidden",
                "only this machine is answered, as nothing asks who is there",
                'name a hook: [tool.pikku] authorize = "module:function"',
            )


@lru_cache(maxsize=256)
def _names_loopback(host: str) -> bool:
    """Whether the header *host* names this machine, with any port."""
    try:
        named = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return named is not None and is_loopback(named)


def _check_method(request: Request, method: str) -> None:
    if request.method != method:
        raise Refusal(
            405,
            "method_not_allowed",
            f"this is asked for by {method}",
            headers={"allow": method},
        )


def segments_of(scope: Message) -> list[str]:
    """The parts of the path below the place where the app is mounted, each decoded by itself, so
    that a name may hold a slash.

    Raises:
        Refusal: a part is no text.
    """
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    raw: bytes | None = scope.get("raw_path")
    text = path if raw is None else raw.partition(b"?")[0].decode("latin-1")
    parts = text.split("/")[1:]
    if root and (path == root or path.startswith(f"{root}/")):
        parts = parts[root.count("/") :]
    try:
        return parts if raw is None else [unquote(part, errors="strict") for part in parts]
    except UnicodeDecodeError:
        raise not_found() from None


def route_of(segments: list[str]) -> Route | None:
    """What these parts of a path ask for."""
    if not all(segments):
        return None
    match segments:
        case ["rpc", name]:
            return Route("POST", "rpc", calls.call, name)
        case ["workflows", name, "runs"]:
            return Route("POST", "start", runs.start, name)
        case ["runs", run_id]:
            return Route("GET", "read", runs.read, run_id=run_id)
        case ["runs", run_id, "result"]:
            return Route("GET", "result", runs.result, run_id=run_id)
        case ["runs", run_id, "events"]:
            return Route("GET", "events", events.follow, run_id=run_id)
        case ["runs", run_id, "cancel"]:
            return Route("POST", "cancel", runs.cancel, run_id=run_id)
        case ["runs", run_id, "signals", name]:
            return Route("POST", "signal", runs.signal, run_id=run_id, part=name)
        case ["runs", run_id, "approvals", step]:
            return Route("POST", "approve", runs.approve, run_id=run_id, part=step)
        case _:
            return None


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether *host* is this machine and no other can be meant."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
