"""What a call over HTTP costs the server: an echo beside plain Starlette and FastAPI.

`python -m bench.http` starts the three servers, each in a process of its own under uvicorn, sends
them the same requests in turns, and prints CPU of the server's process per request.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

REQUESTS, ROUNDS, CONNECTIONS = 3000, 7, 8
BODY = b'{"order_id":"1","lines":[{"sku":"apple","quantity":2}],"note":"as a gift"}'
SERVERS = ("starlette", "fastapi", "pikku")
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print the table."""
    if len(sys.argv) == 3:
        serve(sys.argv[1], int(sys.argv[2]))
    else:
        asyncio.run(measure())


# --- the servers ----------------------------------------------------------------------------------


def serve(name: str, descriptor: int) -> None:
    """Be one of the servers, on a socket that is open."""
    import uvicorn

    config = uvicorn.Config(_app(name), access_log=False, log_level="warning", http="h11")
    listener = socket.socket(fileno=descriptor)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


def _app(name: str) -> Any:
    from pydantic import BaseModel

    class Line(BaseModel):
        sku: str
        quantity: int

    class Order(BaseModel):
        order_id: str
        lines: list[Line]
        note: str

    if name == "starlette":
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import Response
        from starlette.routing import Route

        async def echo(request: Request) -> Response:
            order = Order.model_validate_json(await request.body())
            return Response(order.model_dump_json(), media_type="application/json")

        return Starlette(routes=[Route("/rpc/echo", echo, methods=["POST"])])
    if name == "fastapi":
        from fastapi import FastAPI

        api = FastAPI()

        async def echo_order(order: Order) -> Order:
            return order

        echo_order.__annotations__ = {"order": Order, "return": Order}
        api.post("/rpc/echo")(echo_order)
        return api
    from pikku import App, FunctionContext, Registry

    registry = Registry("bench")

    async def echo_function(ctx: FunctionContext[Any, Any], order: Order) -> Order:
        return order

    echo_function.__annotations__ = {"order": Order, "return": Order}
    registry.pikku_func(expose=True, name="echo")(echo_function)
    app: App[None] = App(registry=registry, package="bench", settings={"store": "memory://"})
    return app.asgi()


# --- the client -----------------------------------------------------------------------------------


async def measure() -> None:
    """Every server in every round, in turns."""
    spent: dict[str, list[float]] = {name: [] for name in SERVERS}
    async with _started() as running:
        for name in SERVERS:
            await _ask(running[name][0], REQUESTS // 4)
        for _ in range(ROUNDS):
            for name in SERVERS:
                port, pid = running[name]
                before = _cpu_s(pid)
                await _ask(port, REQUESTS)
                spent[name].append((_cpu_s(pid) - before) / REQUESTS * 1e6)
    plain = spent["starlette"]
    print(f"CPU of the server per request, {ROUNDS} rounds of {REQUESTS}, interleaved")
    print(f"{'server':<10} {'us':>6} {'min-max':>12} {'x starlette':>12} {'min-max':>12}")
    for name, found in spent.items():
        ratios = [one / other for one, other in zip(found, plain, strict=True)]
        print(
            f"{name:<10} {statistics.median(found):>6.0f} {_range(found, 0):>12} "
            f"{statistics.median(ratios):>12.2f} {_range(ratios, 2):>12}"
        )


def _range(found: list[float], digits: int) -> str:
    return f"{min(found):.{digits}f}-{max(found):.{digits}f}"


@asynccontextmanager
async def _started() -> AsyncGenerator[dict[str, tuple[int, int]], None]:
    """The port and the process of each server."""
    processes: list[subprocess.Popen[bytes]] = []
    running: dict[str, tuple[int, int]] = {}
    try:
        for name in SERVERS:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                command = [sys.executable, "-m", "bench.http", name, str(listener.fileno())]
                process = subprocess.Popen(command, pass_fds=[listener.fileno()])
                processes.append(process)
                running[name] = (listener.getsockname()[1], process.pid)
        yield running
    finally:
        for process in processes:
            process.terminate()
            process.wait()


async def _ask(port: int, count: int) -> None:
    head = (
        f"POST /rpc/echo HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY

    async def connection(share: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(share):
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()
        await writer.wait_closed()

    began = time.monotonic()
    await asyncio.gather(*(connection(count // CONNECTIONS) for _ in range(CONNECTIONS)))
    print(f"  {count / (time.monotonic() - began):.0f} requests/s", file=sys.stderr)


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()
