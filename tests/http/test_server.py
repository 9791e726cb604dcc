"""Over real sockets: event streams, long polls, and `pikku serve` in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from tests.http.kit import Desk, serving

from pikku import App
from pikku._http import events
from pikku.errors import ConfigurationError, ExposureError, MissingDependencyError

PACKAGE = """\
from pikku import App, Registry

registry = Registry("desk_pikku")
app = App(
    registry=registry,
    package="desk_pikku",
    bootstrap="desk.work",
    settings={"store": "sqlite:///runs.db"},
    project="..",
)
"""
WORK = """\
import asyncio
from pathlib import Path

from desk_pikku import registry
from pikku import FunctionContext, WorkflowFunctionContext


@registry.pikku_func(expose=True)
async def echo(ctx: FunctionContext, data: str) -> str:
    return data


@registry.pikku_func
async def hold(ctx: FunctionContext) -> None:
    while not Path("release.txt").exists():
        await asyncio.sleep(0.01)


@registry.pikku_workflow_func
async def three(ctx: WorkflowFunctionContext) -> str:
    await ctx.workflow.do("First", lambda: 1)
    await ctx.workflow.do("Hold", hold)
    return "done"


registry.wire_workflow(name="three", func=three, expose=True)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for file, text in (
        ("pyproject.toml", '[tool.pikku]\nroot = "desk"\nstore = "sqlite:///runs.db"\n'),
        ("desk/__init__.py", ""),
        ("desk/work.py", WORK),
        ("desk_pikku/__init__.py", PACKAGE),
    ):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def program(project: Path, *arguments: str) -> Any:
    return asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pikku.cli", *arguments),
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def served(
    project: Path, *options: str
) -> AsyncGenerator[tuple[str, asyncio.subprocess.Process], None]:
    """`pikku serve`, and its URL."""
    server = await program(project, "serve", "--port", "0", *options)
    assert server.stderr is not None
    said = ""
    while not (found := re.search(r"serving desk_pikku on (http://\S+);", said)):
        line = await server.stderr.readline()
        assert line, said
        said += line.decode()
    try:
        yield found[1], server
    finally:
        if server.returncode is None:
            server.kill()
        await server.communicate()


async def next_event(lines: Any) -> tuple[str, Any]:
    """The next event of a stream of lines."""
    kind, data = "", None
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data = json.loads(value)
        elif not line and kind:
            return kind, data
    return "closed", None


async def test_the_server_hears_of_runs_that_another_process_executes(project: Path) -> None:
    async with served(project) as (url, server), httpx2.AsyncClient(base_url=url) as client:
        assert (await client.post("/rpc/echo", json="hello")).json() == "hello"
        other = await program(project, "runs", "start", "three", "--id", "r1", "--wait")
        while (await client.get("/runs/r1")).status_code == 404:
            await asyncio.sleep(0.02)
        waiting = asyncio.ensure_future(client.get("/runs/r1/result", params={"wait": 30}))
        async with client.stream("GET", "/runs/r1/events") as stream:
            lines = stream.aiter_lines()
            kinds = [(await next_event(lines))[0] for _ in range(4)]
            (project / "release.txt").touch()
            while (event := await next_event(lines))[0] != "end":
                kinds.append(event[0])

        assert kinds == [
            *("run_started", "step_started", "step_succeeded", "step_started"),
            *("step_succeeded", "run_completed"),
        ]
        assert event == ("end", {"status": "completed"})
        assert (await waiting).json() == {"run_id": "r1", "status": "completed", "output": "done"}
        await other.communicate()
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0


async def test_a_server_that_is_told_to_stop_ends_streams_and_waits(project: Path) -> None:
    async with served(project) as (url, server), httpx2.AsyncClient(base_url=url) as client:
        started = await client.post("/workflows/three/runs", json={"run_id": "r1"})
        assert started.status_code == 201
        waiting = asyncio.ensure_future(client.get("/runs/r1/result", params={"wait": 60}))
        async with client.stream("GET", "/runs/r1/events") as stream:
            lines = stream.aiter_lines()
            assert (await next_event(lines))[0] == "run_started"
            server.send_signal(signal.SIGTERM)
            while (event := await next_event(lines))[0] != "closed":
                assert event[0] != "end"
        assert (await waiting).status_code == 202
        (project / "release.txt").touch()
        assert await asyncio.wait_for(server.wait(), 20) == 0


async def test_an_address_that_others_reach_needs_a_hook(project: Path) -> None:
    server = await program(project, "serve", "--host", "0.0.0.0", "--port", "0")
    _, said = await server.communicate()

    assert server.returncode == 2
    assert f"{ExposureError.code} 0.0.0.0 can be reached from other machines" in said.decode()


async def test_a_port_that_is_taken_is_told(project: Path) -> None:
    desk = Desk()
    async with desk.app.open(store="memory://"), serving(desk.app) as url:
        server = await program(project, "serve", "--port", url.rpartition(":")[2])
        _, said = await server.communicate()

    assert server.returncode == 2
    assert "Address already in use\nhelp: choose another one: --port 8001" in said.decode()
    assert ConfigurationError.code in said.decode()


async def test_a_stream_is_kept_alive_and_a_client_that_goes_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.05)
    desk = Desk()
    async with desk.app.open(store="memory://"), serving(desk.app) as url:
        await desk.app.start_workflow("hold", run_id="r1", wait=False)
        async with (
            httpx2.AsyncClient(base_url=url) as client,
            client.stream("GET", "/runs/r1/events") as stream,
        ):
            async for line in stream.aiter_lines():
                if line.startswith(":"):
                    break
            assert not desk.app.opened.engine.results.nobody_waits
        async with asyncio.timeout(5):
            while not desk.app.opened.engine.results.nobody_waits:
                await asyncio.sleep(0.01)
        desk.gate.set()


async def test_a_client_that_does_not_wait_for_a_result_leaves_nothing() -> None:
    desk = Desk()
    async with desk.app.open(store="memory://"), serving(desk.app) as url:
        await desk.app.start_workflow("hold", run_id="r1", wait=False)
        async with httpx2.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx2.ReadTimeout):
                await client.get("/runs/r1/result", params={"wait": 60}, timeout=0.2)
        async with asyncio.timeout(5):
            while not desk.app.opened.engine.results.nobody_waits:
                await asyncio.sleep(0.01)
        desk.gate.set()


class Messages:
    """The server's side of a lifespan."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.wanted: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.came = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.sent.append(message["type"])
        self.came.set()


@pytest.mark.parametrize("open_already", [False, True])
async def test_a_server_of_its_own_opens_the_app_unless_it_is_open(
    open_already: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIKKU_STORE", "memory://")
    desk, life = Desk(), Messages()
    if open_already:
        await desk.app.__aenter__()
    door: Any = desk.app.asgi()
    living = asyncio.ensure_future(door({"type": "lifespan"}, life.wanted.get, life.send))

    life.wanted.put_nowait({"type": "lifespan.startup"})
    await life.came.wait()
    async with desk.client() as client:
        assert (await client.post("/rpc/ping")).json() == "pong"
    life.wanted.put_nowait({"type": "lifespan.shutdown"})
    await living

    assert life.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert (desk.app._open is not None) == open_already
    await desk.app.__aexit__(None, None, None)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pikku._http.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.requests", None)

    with pytest.raises(MissingDependencyError) as caught:
        Desk().app.asgi()

    assert caught.value.hint == "pip install 'pikku[server]'"


async def test_a_hook_that_cannot_be_imported_fails_the_servers_start(project: Path) -> None:
    package = project / "desk_pikku" / "__init__.py"
    text = package.read_text().replace('project="..",', 'project="..", authorize="desk.auth:who",')
    package.write_text(text)
    server = await program(project, "serve", "--port", "0")
    _, said = await server.communicate()

    assert server.returncode == 2
    assert "the authorize hook of desk_pikku cannot be imported" in said.decode()


async def test_an_app_that_cannot_be_opened_fails_the_servers_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIKKU_STORE", "nonsense://")
    app: App[Any] = Desk().app
    server = uvicorn.Server(uvicorn.Config(app.asgi(), port=0, log_config=None))

    with pytest.raises(SystemExit):
        await server.serve()

    assert not server.started


async def test_pikku_serve_takes_the_limits(project: Path) -> None:
    wrong = await program(project, "serve", "--request-rate", "often")
    _, said = await wrong.communicate()
    assert wrong.returncode == 2
    assert b"write 600/1min" in said

    limits = ("--max-streams", "0", "--request-rate", "3/1h")
    async with served(project, *limits) as (url, _), httpx2.AsyncClient(base_url=url) as client:
        stream = await client.get("/runs/r1/events")
        codes = [(await client.post("/rpc/echo", json="x")).status_code for _ in range(3)]

    assert (stream.status_code, stream.headers["retry-after"]) == (503, "5")
    assert codes == [200, 200, 429]
