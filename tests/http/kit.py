"""An app that exposes some of what it has, and ways to ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
from pydantic import BaseModel, Field
from starlette.requests import Request
from typing_extensions import TypedDict

from pikku import (
    Action,
    App,
    Call,
    FunctionContext,
    Next,
    PermissionDeniedError,
    PublicError,
    Registry,
    RetryError,
    RpcRef,
    Run,
    RunInfo,
    Signal,
    UnauthorizedError,
    WorkflowFunctionContext,
    WorkflowWire,
)
from pikku._http import make_asgi
from pikku._http.serving import listening, serve

Ctx = FunctionContext[Any, Any]
Wf = WorkflowFunctionContext[Any, Any, WorkflowWire]


class Line(BaseModel):
    sku: str
    quantity: int = Field(ge=1)


class Order(BaseModel):
    order_id: str
    lines: list[Line]
    total: Decimal


class Plan(TypedDict):
    name: str


@dataclass(frozen=True)
class Person:
    user_id: str
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Support(Person):
    """Somebody who may see the runs of others, and answer for them."""

    def may_access(self, run: RunInfo, action: Action, /) -> bool:
        if action.kind == "cancel":
            raise PermissionDeniedError("ask somebody else")
        return action.kind in ("read", "approve")


class OutOfPaper(PublicError):
    pass


class Desk:
    """The app, and what has happened in it.

    Attributes:
        called: the functions that were called, with their input.
        asked: what the hook was asked.
    """

    def __init__(self, *, hook: bool = False) -> None:
        self.called: list[Any] = []
        self.asked: list[Action] = []
        self.gate = asyncio.Event()
        self.registry = Registry("desk_pikku")
        self.app: App[Any] = App(
            registry=self.registry,
            package="desk_pikku",
            authorize=self.authorize if hook else None,
        )
        self._functions()
        self._workflows()

    async def authorize(self, request: Request, action: Action) -> Person | None:
        """Lets in whoever says a name; `Bearer support` may see more."""
        self.asked.append(action)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        match token:
            case "":
                return None
            case "expired":
                raise UnauthorizedError("the token has expired")
            case "banned":
                raise PermissionDeniedError("not any more")
            case "confused":
                await self.app.invoke("total", {})
                return None
            case "broken":
                raise RuntimeError("secret: the directory is down")
            case "nameless":
                return Person("")
            case "support":
                return Support("support", ("money",))
            case _:
                return Person(token)

    def func(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """`@desk.func(…)`, as `@pikku_func(…)` of a generated package."""

        def decorate(func: Callable[..., Any]) -> Any:
            return self.registry.pikku_func(func, **options)

        return decorate

    def workflow(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """Decorate and wire in one go."""

        def decorate(func: Callable[..., Any]) -> Any:
            made = self.registry.pikku_workflow_func(func)
            self.registry.wire_workflow(func=made, **options)
            return made

        return decorate

    def _functions(self) -> None:
        called = self.called

        @self.func(expose=True)
        async def echo(ctx: Ctx, data: Any) -> Any:
            called.append(data)
            return data

        @self.func(expose=True)
        async def total(ctx: Ctx, order: Order) -> Decimal:
            called.append(order)
            return order.total * len(order.lines)

        @self.func(expose=True)
        def ping(ctx: Ctx) -> str:
            called.append("ping")
            return "pong"

        @self.func(expose=True, name="with/slash and ü")
        async def odd(ctx: Ctx) -> int:
            return 1

        @self.func()
        async def inner(ctx: Ctx, data: Any) -> Any:
            called.append(("inner", data))
            return data

        @self.func(expose=True)
        async def outer(ctx: Ctx, data: Any) -> Any:
            return await ctx.rpc.inner(data)

        @self.func(expose=True)
        async def fail(ctx: Ctx, how: str) -> None:
            called.append(how)
            if how == "public":
                raise OutOfPaper("out of paper")
            if how == "later":
                raise RetryError(after=timedelta(seconds=7))
            if how == "input":
                await ctx.rpc.total({"nonsense": 1})
            raise ValueError("secret: the password is 1234")

        async def is_clerk(ctx: Ctx, data: Any) -> bool:
            return ctx.session is not None and ctx.session.user_id == "clerk"

        async def seen(ctx: Ctx, call: Call, next: Next) -> Any:
            called.append(f"seen {call.function}")
            return await next(call.data)

        @self.func(expose=True, permissions=[is_clerk], middleware=[seen])
        async def guarded(ctx: Ctx) -> str:
            called.append("guarded")
            return f"hello {ctx.session.user_id}"

        @self.func(expose=True)
        async def begin(ctx: Ctx) -> str:
            run: Run[str] = await ctx.rpc.start_workflow("greet", "ann", wait=False)
            return run.run_id

    def _workflows(self) -> None:
        @self.workflow(name="greet", expose=True)
        async def greet(ctx: Wf, name: str) -> str:
            greeting: str = await ctx.workflow.do("Say it", lambda: f"hello {name}")
            return greeting

        @self.workflow(name="order", expose=True)
        async def order(ctx: Wf, order: Order) -> Decimal:
            return order.total

        @self.workflow(name="hold", expose=True)
        async def hold(ctx: Wf) -> str:
            await ctx.workflow.do("Before", lambda: 1)
            await ctx.workflow.do("Hold", self.gate.wait)
            return "held"

        @self.workflow(name="break down", expose=True)
        async def break_down(ctx: Wf) -> None:
            await ctx.workflow.do("Break", RpcRef[str, None]("fail"), "now", retries=0)

        @self.workflow(name="trial", expose=True)
        async def trial(ctx: Wf) -> str:
            plan = await ctx.workflow.wait_for_signal("Wait", Signal[Plan]("upgraded"))
            return plan["name"]

        @self.workflow(name="purchase", expose=True)
        async def purchase(ctx: Wf) -> str:
            decision = await ctx.workflow.approval(
                "Approve it", schema=Plan, reason="it is dear", approvers="not_initiator"
            )
            return f"{decision.outcome} by {decision.decided_by}"

        @self.workflow(name="nap", expose=True)
        async def nap(ctx: Wf) -> None:
            await ctx.workflow.suspend("until somebody looks")

        self.workflow(name="internal")(_internal)
        self.registry.wire_signal(name="upgraded", payload=Plan)

    def replace_broken(self) -> None:
        """Deploy a `fail` that does not."""
        self.registry.functions.pop("fail")

        @self.func(name="fail")
        async def mended(ctx: Ctx, how: str) -> None:
            pass

    @asynccontextmanager
    async def open(self, store: str = "memory://") -> AsyncGenerator[httpx2.AsyncClient, None]:
        """The app, open, and somebody on this machine who asks it."""
        async with self.app.open(store=store), self.client() as client:
            try:
                yield client
            finally:
                self.gate.set()

    def client(
        self, *, base: str = "http://localhost", near: str = "127.0.0.1"
    ) -> httpx2.AsyncClient:
        """Somebody who asks."""
        transport = httpx2.ASGITransport(self.app.asgi(), client=(near, 1234))
        return httpx2.AsyncClient(transport=transport, base_url=base)


@asynccontextmanager
async def serving(app: App[Any]) -> AsyncGenerator[str, None]:
    """The URL of a server of *app*, which is open."""
    listener, stop = listening("127.0.0.1", 0), asyncio.Event()
    ready = asyncio.Event()
    server = asyncio.ensure_future(serve(make_asgi(app), listener, stop, ready.set))
    try:
        await ready.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        await server


async def _internal(ctx: Wf) -> None:
    await ctx.workflow.sleep("Rest", "1h")


def bearer(name: str) -> dict[str, str]:
    """The headers of somebody of this name."""
    return {"authorization": f"Bearer {name}"}


def events_in(text: str) -> list[tuple[str, str, Any]]:
    """Each event of a stream: its id, its kind, its data."""
    found: list[tuple[str, str, Any]] = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line.partition(": ") for line in block.splitlines() if not line.startswith(":")]
        event = {name: value for name, _, value in lines}
        if event:
            found.append((event.get("id", ""), event["event"], json.loads(event["data"])))
    return found
