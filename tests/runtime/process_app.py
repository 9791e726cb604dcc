"""A small app that child processes import: its functions say where they were executed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias, cast, overload

from pikku import (
    App,
    Config,
    FunctionContext,
    Registry,
    RetryError,
    TerminalError,
    WorkflowFunctionContext,
    WorkflowWire,
)

registry = Registry("process_app")


@dataclass
class Services:
    pid: int
    store: str


@asynccontextmanager
async def make_services(config: Config) -> AsyncGenerator[Services, None]:
    if fifo := os.environ.get("PROCESS_APP_HELLO"):
        announce(fifo, "making services")
    broken = os.environ.get("PROCESS_APP_BROKEN", "")
    if broken:
        raise OSError(broken)
    yield Services(os.getpid(), config.store)
    if farewell := os.environ.get("PROCESS_APP_FAREWELL"):
        Path(farewell).write_text(f"{os.getpid()} closed")


app: App[Services] = App(registry=registry, package=__name__, services=make_services)

Ctx: TypeAlias = FunctionContext[Services, Any]
Flow: TypeAlias = WorkflowFunctionContext[Services, Any, WorkflowWire]


class Refused(Exception):
    """What some functions raise."""


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Order:
    sku: str
    price: Decimal
    at: datetime


@dataclass
class Receipt:
    order: Order
    sizes: dict[str, Size]
    total: Decimal | None


@overload
def process(func: Callable[..., Any], /) -> Any: ...
@overload
def process(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...
def process(func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """`@pikku_func(executor="process")`."""
    return registry.pikku_func(func, executor="process", **options)


def announce(fifo: str, what: str = "") -> None:
    """Write a line that says who is here. The pipe is closed when the process is gone."""
    file = os.open(fifo, os.O_WRONLY)
    os.write(file, f"{what or os.getpid()}\n".encode())


@process
def where(ctx: Ctx) -> list[int]:
    return [os.getpid(), ctx.services.pid]


@process
async def where_async(ctx: Ctx) -> list[int]:
    await asyncio.sleep(0)
    return [os.getpid(), ctx.services.pid]


@process
def setting(ctx: Ctx) -> str:
    return ctx.services.store


@process
def crunch(ctx: Ctx, count: int) -> int:
    return sum(number * number for number in range(count))


@process
def identity(ctx: Ctx) -> list[Any]:
    step = ctx.step
    return [ctx.run_id, step.run_id, step.key, step.name, step.attempt_count, step.invocation_id]


@process
def sell(ctx: Ctx, order: Order) -> Receipt:
    return Receipt(order, {order.sku: Size.LARGE}, order.price * 2)


@process
def lie(ctx: Ctx) -> int:
    return cast(int, "no number")


@process
def big(ctx: Ctx, text: str) -> str:
    return text[::-1]


@process
def refuse(ctx: Ctx, message: str) -> None:
    raise Refused(message)


@process(non_retryable=[Refused])
async def refuse_for_good(ctx: Ctx, message: str) -> None:
    raise Refused(message)


@process
def give_up(ctx: Ctx) -> None:
    raise TerminalError("no use", code="E1")


@process
def come_back(ctx: Ctx) -> None:
    raise RetryError("later", after=timedelta(seconds=90))


@process
def leave(ctx: Ctx) -> None:
    sys.exit(3)


@process
async def leave_async(ctx: Ctx) -> None:
    sys.exit(3)


@process
def vanish(ctx: Ctx) -> None:
    os._exit(3)


@process
def be_killed(ctx: Ctx) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@process
def be_killed_once(ctx: Ctx, mark: str) -> str:
    if not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@process
def spin(ctx: Ctx, fifo: str) -> None:
    announce(fifo)
    while True:
        pass


@process
async def spin_async(ctx: Ctx, fifo: str) -> None:
    announce(fifo)
    while True:
        pass


@process(timeout="1min", retries=1)
def spin_once(ctx: Ctx, fifo: str) -> int:
    if ctx.step.attempt_count == 1:
        announce(fifo)
        while True:
            pass
    return os.getpid()


@process
def spin_with_help(ctx: Ctx, fifo: str) -> None:
    code = "import os, sys, time; os.write(1, b'helper\\n'); time.sleep(600)"
    with open(fifo, "wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)


@process
def until_cancelled(ctx: Ctx, fifo: str) -> str:
    announce(fifo)
    while not ctx.step.cancelled:
        time.sleep(0.001)
    return "stopped early"


@process
async def until_cancelled_async(ctx: Ctx, fifo: str) -> str:
    announce(fifo)
    while not ctx.step.cancelled:  # the loop does not get a turn
        pass
    return "stopped early"


@process
def talk(ctx: Ctx) -> str:
    print("a print in a function")
    sys.stdout.write("x" * 100_000 + "\n")
    os.write(1, b"\x00\x00\x00\x00\x00\x00\x00\x02{}")
    subprocess.run([sys.executable, "-c", "print('from a child of the child')"], check=True)
    return str(sys.stdin.read())


@process
def tell(ctx: Ctx) -> None:
    ctx.logger.info("at work on %s", "it", extra={"rows": 3})
    try:
        raise Refused("caught")
    except Refused:
        ctx.logger.exception("it went wrong")


@process
def advance(ctx: Ctx) -> None:
    ctx.step.progress(0)
    thread = threading.Thread(target=ctx.step.progress, args=(0.5, "half"))
    thread.start()
    thread.join()
    ctx.step.progress(1, "done")


@process
def advance_too_far(ctx: Ctx) -> None:
    ctx.step.progress(1.5)


@process
def call_others(ctx: Ctx) -> list[Any]:
    return [ctx.run_async(ctx.rpc.crunch(3)), ctx.run_async(ctx.rpc.where())[0], os.getpid()]


@process
async def start_a_run(ctx: Ctx) -> None:
    await ctx.rpc.start_workflow("computing", 3)


@process
async def ask_after_a_run(ctx: Ctx) -> None:
    await app.get_run("computing", "a-run").status()


async def computing(ctx: Flow, count: int) -> Any:
    return await ctx.workflow.do("Crunch", crunch, count)


async def stepping(
    ctx: WorkflowFunctionContext[Services, Any, WorkflowWire], step: list[Any]
) -> Any:
    name, data, retries = step
    wf: Any = ctx.workflow
    return await wf.do("Step", name, *data, retries=retries)


for each in (computing, stepping):
    registry.wire_workflow(name=each.__name__, func=registry.pikku_workflow_func(each))

UTC_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
