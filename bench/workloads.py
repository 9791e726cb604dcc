"""The engine's workloads: the one module of the bench that uses pikku's runtime.

Each workload runs in a child process of its own, returns metrics, and checks its results
before it reports a figure.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from pikku import (
    App,
    FunctionContext,
    Registry,
    RpcAttributes,
    RpcRefAttributes,
    WorkflowFunctionContext,
    WorkflowWire,
)

from .meter import Meter, cpu_s, rss_mb, sqlite_commits

Context = FunctionContext[None, RpcAttributes]
WorkflowContext = WorkflowFunctionContext[None, RpcRefAttributes, WorkflowWire]
Metrics = dict[str, float]

STEPS = 20
LONG = 3000
WINDOW = 100
WARM_RUNS = 30
PILE = 500
REST_S = 2

registry = Registry("bench")


# --- what is executed ---------------------------------------------------------


class Index(TypedDict):
    i: int


class Done(TypedDict):
    i: int
    ok: bool


class Attempt(TypedDict):
    run: str
    i: int


class Payload(TypedDict):
    id: int
    ts: int
    tag: str
    values: list[int]


class Flow(TypedDict):
    run: str
    steps: int


executed = 0
attempts: dict[str, int] = {}
windows: list[tuple[float, float]] = []


def failures_of(key: str) -> int:
    """How often a flaky step fails before it succeeds: 0, 1 or 2, the same for every peer."""
    digest = 2166136261
    for byte in key.encode():
        digest = ((digest ^ byte) * 16777619) & 0xFFFFFFFF
    return digest % 3


@registry.pikku_func
async def step(ctx: Context, data: Index) -> Done:
    return {"i": data["i"], "ok": True}


@registry.pikku_func
async def flaky_step(ctx: Context, data: Attempt) -> Payload:
    key = f"{data['run']}:{data['i']}"
    attempts[key] = attempt = attempts.get(key, 0) + 1
    if attempt <= failures_of(key):
        raise RuntimeError(f"transient {attempt} on {key}")
    i = data["i"]
    return {"id": i + attempt, "ts": i, "tag": f"payload-{i}", "values": [1, 2, 3, 4, 5, 6, 7, 8]}


def record_of(i: int) -> Callable[[], Done]:
    """The inline step of every cell: no work, a small result, and like the peers' no declared type:
    what a validated result costs is in the cells of RPC steps."""
    return lambda: _executed(i)


def _executed(i: int) -> Done:
    global executed
    executed += 1
    return {"i": i, "ok": True}


@registry.pikku_workflow_func
async def inline(ctx: WorkflowContext, data: Flow) -> int:
    total = 0
    for i in range(data["steps"]):
        total += (await ctx.workflow.do(f"s{i}", record_of(i)))["i"]
    return total


@registry.pikku_workflow_func
async def rpc(ctx: WorkflowContext, data: Flow) -> int:
    total = 0
    for i in range(data["steps"]):
        total += (await ctx.workflow.do(f"s{i}", step, Index(i=i)))["i"]
    return total


@registry.pikku_workflow_func
async def flaky(ctx: WorkflowContext, data: Flow) -> int:
    total = 0
    for i in range(data["steps"]):
        attempt = Attempt(run=data["run"], i=i)
        total += (await ctx.workflow.do(f"s{i}", flaky_step, attempt, retries=2))["ts"]
    return total


@registry.pikku_workflow_func
async def long(ctx: WorkflowContext, data: Flow) -> int:
    total, marks = 0, {0: cpu_s()}
    for i in range(data["steps"]):
        total += (await ctx.workflow.do(f"s{i}", record_of(i)))["i"]
        if i + 1 in (WINDOW, LONG - WINDOW, LONG):
            marks[i + 1] = cpu_s()
    if data["steps"] == LONG:
        windows.append((marks[WINDOW] - marks[0], marks[LONG] - marks[LONG - WINDOW]))
    return total


@registry.pikku_workflow_func
async def rested(ctx: WorkflowContext, data: Flow) -> int:
    total = 0
    for i in range(data["steps"]):
        total += (await ctx.workflow.do(f"s{i}", record_of(i)))["i"]
    await ctx.workflow.sleep("rest", f"{REST_S}s")
    return total


for name, workflow in (
    ("inline", inline),
    ("rpc", rpc),
    ("flaky", flaky),
    ("long", long),
    ("rested", rested),
):
    registry.wire_workflow(name=name, func=workflow)

app: App[None] = App(registry=registry, package="bench")


# --- how it is driven ---------------------------------------------------------


def store_url(kind: str, data: Path) -> str:
    """The store of a cell: `memory`, `process` or `full` (SQLite by durability)."""
    if kind == "memory":
        return "memory://"
    url = f"sqlite:///{database(data)}"
    return f"{url}?durability=process" if kind == "process" else url


def database(data: Path) -> Path:
    return data / "runs.db"


async def finish(workflow: str, run_id: str, steps: int) -> None:
    """One run from start to result."""
    run = await app.start_workflow(workflow, Flow(run=run_id, steps=steps))
    expect(await run.result(), steps)


def expect(result: Any, steps: int) -> None:
    if result != steps * (steps - 1) // 2:
        raise AssertionError(f"{steps} steps gave {result!r}")


async def pool(runs: int, concurrency: int, one: Callable[[int], Awaitable[None]]) -> None:
    """`runs` calls of `one`, `concurrency` of them at a time."""
    left = iter(range(runs))

    async def worker() -> None:
        for i in left:
            await one(i)

    await asyncio.gather(*[worker() for _ in range(min(runs, concurrency))])


async def warm(workflow: str) -> None:
    await pool(WARM_RUNS, 10, lambda i: finish(workflow, f"warm-{i}", STEPS))


async def steps(data: Path, *, workflow: str, store: str, runs: int, concurrency: int) -> Metrics:
    """`runs` runs of 20 steps; commits per step on SQLite."""
    async with app.open(store=store_url(store, data)):
        await warm(workflow)
        before = sqlite_commits(database(data))
        with Meter() as meter:
            await pool(runs, concurrency, lambda i: finish(workflow, f"r-{i}", STEPS))
        after = sqlite_commits(database(data))
    metrics = meter.per_step(runs * STEPS)
    if before is not None and after is not None:
        metrics["commits"] = (after - before) / (runs * STEPS)
    return metrics


async def long_runs(data: Path, *, store: str, runs: int) -> Metrics:
    """Runs of 3,000 steps, one after the other; growth: the last 100 steps over the first."""
    async with app.open(store=store_url(store, data)):
        await warm("long")
        await finish("long", "warm", LONG)
        windows.clear()
        with Meter() as meter:
            for i in range(runs):
                await finish("long", f"r-{i}", LONG)
    metrics = meter.per_step(runs * LONG)
    early, late = (statistics.median(each) for each in zip(*windows, strict=True))
    metrics["growth"] = late / early
    return metrics


async def pile(data: Path, *, runs: int) -> Metrics:
    """Finished runs pile up in memory; growth: the last 500 runs over the first 500."""
    async with app.open(store=store_url("memory", data)):
        await warm("inline")
        rss = rss_mb()
        with Meter() as early:
            await pool(PILE, 50, lambda i: finish("inline", f"early-{i}", STEPS))
        await pool(runs - 2 * PILE, 50, lambda i: finish("inline", f"between-{i}", STEPS))
        with Meter() as late:
            await pool(PILE, 50, lambda i: finish("inline", f"late-{i}", STEPS))
        kept = rss_mb() - rss
    metrics = late.per_step(PILE * STEPS)
    metrics["growth"] = late.cpu / early.cpu
    metrics["kb_run"] = kept * 1024 / runs
    return metrics


async def record(data: Path) -> Metrics:
    """A run of 3,000 steps that then sleeps; its process ends here."""
    async with app.open(store=store_url("process", data)):
        await app.start_workflow("rested", Flow(run="r", steps=LONG), run_id="r")
    if executed != LONG:
        raise AssertionError(f"{executed} of {LONG} steps were executed")
    return {}


async def replay(data: Path) -> Metrics:
    """The run that another process left asleep, from opening the store to its result."""
    command = [sys.executable, "-m", "bench.child", "record", json.dumps({"data": str(data)})]
    subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)
    time.sleep(REST_S)  # the timer is due when the store is opened: no waiting is measured
    with Meter() as meter:
        async with app.open(store=store_url("process", data)):
            expect(await app.get_run("rested", "r").result(timeout="1min"), LONG)
    if executed:
        raise AssertionError(f"{executed} recorded steps were executed again")
    return meter.per_step(LONG)
