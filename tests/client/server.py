"""A small server that keeps docs/http-contract.md, over an open app.

The tests hold the client against it. It has one token, and one person behind that.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from pydantic_core import from_json
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pikku import App, Run
from pikku._commands.documents import history_documents, show_document
from pikku._commands.waiting import wait_of
from pikku._error_info import ErrorInfo
from pikku._records import FINAL_STATUSES, Settle
from pikku.errors import (
    AlreadyDecidedError,
    ApproverError,
    DeclarationError,
    InvalidInputError,
    NoSuchStepError,
    PayloadError,
    PayloadTooLargeError,
    PikkuError,
    ResultTimeoutError,
    RunConflictError,
    RunIdError,
    RunNotFoundError,
    RunStateError,
    StoreError,
    UnknownFunctionError,
    UnknownSignalError,
    UnknownWorkflowError,
)

TOKEN: Final = "s3cret"
PERSON: Final = "ann"
Handler = Callable[["Server", Request], Awaitable[Response]]

_REFUSALS: Final[tuple[tuple[type[PikkuError], int, str], ...]] = (
    (RunNotFoundError, 404, "not_found"),
    (NoSuchStepError, 404, "not_found"),
    (UnknownFunctionError, 404, "not_found"),
    (UnknownWorkflowError, 404, "not_found"),
    (UnknownSignalError, 404, "not_found"),
    (RunConflictError, 409, "run_conflict"),
    (AlreadyDecidedError, 409, "already_decided"),
    (RunStateError, 409, "run_state"),
    (ApproverError, 403, "forbidden"),
    (PayloadTooLargeError, 413, "too_large"),
    (RunIdError, 400, "malformed"),
    (DeclarationError, 400, "malformed"),
    (StoreError, 503, "unavailable"),
)
_INTERNAL: Final = ("version", "pinned", "parent_step")
_TOLD_OF_STEPS: Final = (
    "key",
    "kind",
    "status",
    "attempt",
    "error",
    "progress",
    "due_at",
    "created_at",
    "started_at",
    "finished_at",
)
_TICK: Final = 0.01


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        self.status = status
        self.document = {"code": code, "message": message, "hint": None, "path": None, **more}
        super().__init__(message)


class Server:
    """The routes of one app.

    Attributes:
        asked: every request that came in, in order: its method and its path.
        before: called with each request; what it returns is the answer.
    """

    def __init__(self, app: App[Any]) -> None:
        self.app = app
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.before: Callable[[Request], Response | None] = lambda request: None
        self.after: Callable[[Request, Response], Response | None] = lambda request, response: None

    def asgi(self) -> Starlette:
        """The server as an ASGI application."""
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/rpc/{name}", Server._rpc),
            ("POST", "/workflows/{name}/runs", Server._start),
            ("GET", "/runs/{id}", Server._info),
            ("GET", "/runs/{id}/result", Server._result),
            ("GET", "/runs/{id}/events", Server._events),
            ("POST", "/runs/{id}/signals/{signal}", Server._signal),
            ("POST", "/runs/{id}/approvals/{step:path}", Server._decide),
            ("POST", "/runs/{id}/cancel", Server._cancel),
        ]
        return Starlette(
            routes=[
                Route(f"/pikku{path}", self._guarded(handler), methods=[method])
                for method, path, handler in routes
            ]
        )

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            self.asked.append((request.method, request.url.path))
            self.headers.append(dict(request.headers))
            try:
                if request.headers.get("authorization") != f"Bearer {TOKEN}":
                    raise Refusal(401, "unauthenticated", "the token is missing, or not valid")
                early = self.before(request)
                response = early or await handler(self, request)
            except Refusal as refusal:
                response = JSONResponse(refusal.document, refusal.status)
            except PikkuError as error:
                response = _refused(error)
            return self.after(request, response) or response

        return endpoint

    # --- functions

    async def _rpc(self, request: Request) -> Response:
        name = request.path_params["name"]
        func = self.app.registry.function(name)
        if not func.expose:
            raise UnknownFunctionError(name, ())
        codec, where = func.declaration.input, f"function {name!r}"
        given: tuple[Any, ...] = ()
        if func.declaration.takes_input:
            given = (codec.decode(codec.admit_json(await _text(request), where), where),)
        try:
            value = await self.app.invoke(name, *given)
        except PikkuError:
            raise
        except Exception as error:
            raise Refusal(500, "function_failed", f"{type(error).__name__}: {error}") from error
        text, _ = func.declaration.output.encode(value, f"the result of {where}")
        return Response(text, media_type="application/json")

    # --- workflows

    async def _start(self, request: Request) -> Response:
        name = request.path_params["name"]
        wired = self.app.registry.workflow(name)
        if not wired.expose:
            raise UnknownWorkflowError(name, ())
        body = await _object(request)
        run_id = body.get("run_id", request.headers.get("idempotency-key"))
        known = run_id and await self.app.opened.engine.store.load_run(run_id)
        declaration, where = wired.workflow.declaration, f"workflow {name!r}"
        data: tuple[Any, ...] = ()
        if declaration.takes_input:
            if "input" not in body:
                raise InvalidInputError(where, [("input", "is missing")])
            text = declaration.input.admit_json(json.dumps(body["input"]), where)
            data = (declaration.input.decode(text, where),)
        run = await self.app.start_workflow(
            name, *data, run_id=run_id, wait=False, started_by=PERSON
        )
        document = {"run_id": run.run_id, "workflow": name, "status": await run.status()}
        return JSONResponse(document, 200 if known else 201)

    # --- runs

    async def _run(self, request: Request) -> Run[Any]:
        run_id = request.path_params["id"]
        record = await self.app.opened.engine.store.load_run(run_id)
        if record is None or not self.app.registry.workflow(record.workflow).expose:
            raise RunNotFoundError(run_id, store="this server")
        return self.app.get_run(record.workflow, run_id)

    async def _info(self, request: Request) -> Response:
        run = await self._run(request)
        engine = self.app.opened.engine
        loaded = await engine.store.load_steps(run.run_id)
        assert loaded is not None
        document = show_document(loaded, wait_of(loaded, engine.clock.now_us()))
        told = {key: each for key, each in document["run"].items() if key not in _INTERNAL}
        steps = [{key: step[key] for key in _TOLD_OF_STEPS} for step in document["steps"]]
        waits, approvals = document["waits"], document["approvals"]
        return JSONResponse({"run": told, "waits": waits, "approvals": approvals, "steps": steps})

    async def _result(self, request: Request) -> Response:
        run = await self._run(request)
        wait = float(request.query_params.get("wait", 30))
        if not 0 <= wait <= 60:
            raise Refusal(400, "malformed", "wait is a number of seconds from 0 to 60")
        try:
            settle = await self.app.opened.engine.results.result(run.run_id, int(wait * 1e6))
        except ResultTimeoutError:
            return JSONResponse({"run_id": run.run_id, "status": await run.status()}, 202)
        return JSONResponse({"run_id": run.run_id, "status": settle.status, **_ended(settle)})

    async def _events(self, request: Request) -> Response:
        run = await self._run(request)
        seen = int(request.headers.get("last-event-id", 0))

        async def events() -> AsyncIterator[dict[str, str]]:
            nonlocal seen
            while True:
                status = await run.status()
                documents = history_documents(await run.history())
                for number, document in enumerate(documents[seen:], start=seen + 1):
                    data = json.dumps(document)
                    yield {"id": str(number), "event": document["kind"], "data": data}
                seen = max(seen, len(documents))
                if status in FINAL_STATUSES or status == "suspended":
                    yield {"event": "end", "data": json.dumps({"status": status})}
                    return
                await asyncio.sleep(_TICK)

        return EventSourceResponse(events())

    async def _signal(self, request: Request) -> Response:
        run = await self._run(request)
        name = request.path_params["signal"]
        payload: Any = self.app.registry.signal(name).payload
        where = f"signal {name!r}"
        data = payload.decode(payload.admit_json(await _text(request), where), where)
        key = request.headers.get("idempotency-key")
        await self.app.send_signal(run, name, data, signal_id=key)
        return JSONResponse({"run_id": run.run_id}, 202)

    async def _decide(self, request: Request) -> Response:
        run = await self._run(request)
        body = await _object(request)
        decide = {"approve": run.approve, "reject": run.reject}.get(body.get("decision", ""))
        if decide is None:
            raise Refusal(400, "malformed", "decision is approve or reject")
        step, note = request.path_params["step"], body.get("note", "")
        await decide(step, body.get("input"), by=PERSON, note=note)
        return JSONResponse({"run_id": run.run_id})

    async def _cancel(self, request: Request) -> Response:
        run = await self._run(request)
        body = await _object(request)
        await run.cancel(body.get("reason", ""))
        return JSONResponse({"run_id": run.run_id}, 202)


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
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = Server(app)
        config = uvicorn.Config(server.asgi(), lifespan="off", log_level="critical", ws="none")
        running = uvicorn.Server(config)
        task = asyncio.create_task(running.serve(sockets=[listening]))
        try:
            yield Served(server, f"http://127.0.0.1:{listening.getsockname()[1]}/pikku")
        finally:
            running.should_exit = running.force_exit = True
            await task


def _ended(settle: Settle) -> dict[str, Any]:
    if settle.status == "completed":
        return {"output": from_json(settle.output or "null")}
    error = ErrorInfo.from_json(settle.error) if settle.error else ErrorInfo("Exception", "")
    message = settle.reason if settle.status == "cancelled" else error.message
    return {"error": {"type": error.type, "message": message}}


def _refused(error: PikkuError) -> Response:
    document: dict[str, Any] = {"message": error.message, "hint": error.hint or None, "path": None}
    problems: list[tuple[str, str]] = []
    if isinstance(error, InvalidInputError):
        problems = error.problems
    elif isinstance(error, PayloadError) and not isinstance(error, PayloadTooLargeError):
        problems = [(error.path, error.problem)]
    if problems:
        listed = [{"path": _path(path), "message": words} for path, words in problems]
        document |= {"code": "invalid_input", "errors": listed, "path": listed[0]["path"]}
        return JSONResponse(document, 422)
    for kind, status, code in _REFUSALS:
        if isinstance(error, kind):
            headers = {"Retry-After": "1"} if status == 503 else None
            return JSONResponse(document | {"code": code}, status, headers)
    return JSONResponse(document | {"code": "internal"}, 500)


def _path(text: str) -> list[str | int]:
    """`input.lines[0].sku` as the names and indexes on the way."""
    parts = re.findall(r"\.([^.\[]+)|\[(\d+)\]", text)
    return [int(index) if index else name for name, index in parts]


async def _text(request: Request) -> str:
    body = await request.body()
    try:
        from_json(body)
    except ValueError as error:
        raise Refusal(400, "malformed", f"the body is no JSON: {error}") from None
    return body.decode()


async def _object(request: Request) -> dict[str, Any]:
    value: Any = from_json(await _text(request))
    if not isinstance(value, dict):
        raise Refusal(400, "malformed", "the body is no JSON object")
    return dict(value)
