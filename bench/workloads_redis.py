"""The engine's workloads on Redis; like those of `workloads.py`, each in a child process.

In all but `redis_workers` one process starts the runs and executes them, as the peers' scripts do.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pikku import App
from pikku._settings import Work

from .meter import cpu_s, rss_mb
from .server import ServerMeter, redis_server
from .workloads import (
    LONG,
    Attempt,
    Context,
    Done,
    Flow,
    Index,
    Metrics,
    WorkflowContext,
    app,
    attempts,
    expect,
    flaky_step,
    pool,
    registry,
    step,
)

WARM_RUNS = 30
WARM_STEPS = 10
ALONE = 100
REST_S = 10
LOOK_EVERY_S = 0.01

executed: list[str] = []
woken: list[float] = []
due_at = 0.0


@registry.pikku_func
async def listed_step(ctx: Context, data: Attempt) -> Done:
    executed.append(f"{data['run']}:{data['i']}")
    return {"i": data["i"], "ok": True}


@registry.pikku_func
async def wake(ctx: Context, data: Index) -> Done:
    woken.append(time.time() - due_at)
    return {"i": data["i"], "ok": True}


@registry.pikku_workflow_func
async def queued(ctx: WorkflowContext, data: Flow) -> int:
    total = 0
    for i in range(data["steps"]):
        total += (await ctx.workflow.do(f"s{i}", step, Index(i=i), dispatch="queue"))["i"]
    return total


@registry.pikku_workflow_func
async def listed(ctx: WorkflowContext, data: Flow) -> int:
    total = 0
    for i in range(data["steps"]):
        attempt = Attempt(run=data["run"], i=i)
        total += (await ctx.workflow.do(f"s{i}", listed_step, attempt))["i"]
    return total


@registry.pikku_workflow_func
async def listed_queued(ctx: WorkflowContext, data: Flow) -> int:
    total = 0
    for i in range(data["steps"]):
        attempt = Attempt(run=data["run"], i=i)
        total += (await ctx.workflow.do(f"s{i}", listed_step, attempt, dispatch="queue"))["i"]
    return total


@registry.pikku_workflow_func
async def fan(ctx: WorkflowContext, data: Flow) -> int:
    asked = (ctx.workflow.do(f"s{i}", step, Index(i=i)) for i in range(data["steps"]))
    return sum(done["i"] for done in await asyncio.gather(*asked))


@registry.pikku_workflow_func
async def nap(ctx: WorkflowContext, data: Flow) -> int:
    await ctx.workflow.sleep_until("rest", datetime.fromtimestamp(data["steps"], UTC))
    done: Done = await ctx.workflow.do("wake", wake, Index(i=0))
    return done["i"]


@registry.pikku_workflow_func
async def rested_remotely(ctx: WorkflowContext, data: Flow) -> int:
    total = 0
    for i in range(data["steps"]):
        total += (await ctx.workflow.do(f"s{i}", listed_step, Attempt(run="r", i=i)))["i"]
    await ctx.workflow.sleep_until("rest", datetime.fromtimestamp(float(data["run"]), UTC))
    return total


for name, workflow in (
    ("queued", queued),
    ("listed", listed),
    ("listed_queued", listed_queued),
    ("fan", fan),
    ("nap", nap),
    ("rested_remotely", rested_remotely),
):
    registry.wire_workflow(name=name, func=workflow)

assert flaky_step  # registered by its module


# --- how it is driven ---------------------------------------------------------


@asynccontextmanager
async def opened(url: str, *, remote: bool) -> AsyncGenerator[App[None], None]:
    """The app, executing runs where they are started; *remote*: as a worker, too."""
    if remote:
        async with app.open(store=url, queue_service="store", work=Work()):
            yield app
    else:
        async with app.open(store=url, queue_service="none"):
            yield app


async def begin(workflow: str, run_id: str, steps: int) -> Any:
    flow = Flow(run=run_id, steps=steps)
    return await app.start_workflow(workflow, flow, run_id=run_id, wait=False)


async def finish(workflow: str, run_id: str, steps: int) -> None:
    """One run from start to result."""
    run = await begin(workflow, run_id, steps)
    expect(await run.result(), steps)


async def warm(workflow: str) -> None:
    await pool(WARM_RUNS, 10, lambda i: finish(workflow, f"w-{i}", WARM_STEPS))


async def redis_steps(
    data: Path,
    *,
    workflow: str,
    steps: int,
    runs: int,
    concurrency: int,
    remote: bool = False,
    fsync: str = "everysec",
) -> list[Metrics]:
    """`runs` runs of `steps` steps each."""
    with redis_server(data, fsync) as server:
        async with opened(server.url, remote=remote):
            await warm(workflow)
            attempts.clear()
            with ServerMeter(server) as meter:
                await pool(runs, concurrency, lambda i: finish(workflow, f"r-{i}", steps))
    metrics = meter.per_step(runs * steps)
    if attempts:
        metrics["attempt_calls"] = meter.calls / sum(attempts.values())
    if concurrency == 1:
        metrics |= await _one_more_step(data, workflow=workflow, steps=steps, remote=remote)
    return [metrics]


async def _one_more_step(data: Path, *, workflow: str, steps: int, remote: bool) -> Metrics:
    """What one step more costs a run alone: exact counts, without those of the run itself."""
    meters: list[ServerMeter] = []
    folder = data / "alone"
    folder.mkdir()
    with redis_server(folder) as server:
        async with opened(server.url, remote=remote):
            await finish(workflow, "w", steps)
            for more in (0, ALONE):
                with ServerMeter(server) as meter:
                    await finish(workflow, f"r-{more}", steps + more)
                meters.append(meter)
    few, many = meters
    return {
        "step_calls": (many.calls - few.calls) / ALONE,
        "step_commands": (many.commands - few.commands) / ALONE,
    }


async def redis_fsync(data: Path, **options: Any) -> list[Metrics]:
    """The same with an fsync for every write; `share` is its speed over that with one a second."""
    speeds: list[float] = []
    metrics: list[Metrics] = []
    for fsync in ("everysec", "always"):
        folder = data / fsync
        folder.mkdir()
        metrics = await redis_steps(folder, fsync=fsync, **options)
        speeds.append(metrics[0]["per_s"])
    metrics[0]["share"] = speeds[1] / speeds[0]
    return metrics


async def redis_latency(data: Path, *, runs: int) -> list[Metrics]:
    """One run of one step after the other, from its start to its result."""
    with redis_server(data) as server:
        async with opened(server.url, remote=True):
            await warm("rpc")
            with ServerMeter(server) as meter:
                took = await one_after_the_other("rpc", runs)
    return [meter.per_step(runs) | latency(took)]


async def one_after_the_other(workflow: str, runs: int) -> list[float]:
    """The seconds that each of the runs, of one step, takes from its start to its result."""
    took: list[float] = []
    for i in range(runs):
        began = time.perf_counter()
        await finish(workflow, f"r-{i}", 1)
        took.append(time.perf_counter() - began)
    return took


def latency(took: Sequence[float]) -> Metrics:
    ordered = sorted(took)
    return {
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1e3,
    }


async def redis_growth(
    data: Path, *, workflow: str, sizes: Sequence[int], early: int
) -> list[Metrics]:
    """A run of each size, alone. Growth, from the size `early` on: time, CPU and commands per step
    over those of `early`; `grown_commands`: over those of the smallest."""
    found: list[Metrics] = []
    with redis_server(data) as server:
        async with opened(server.url, remote=True):
            await warm(workflow)
            for size in sizes:
                with ServerMeter(server) as meter:
                    await finish(workflow, f"r-{size}", size)
                found.append(meter.per_step(size))
    for metrics in found:
        metrics["grown_commands"] = metrics["commands"] / found[0]["commands"]
    return grown(sizes, found, early)


def grown(sizes: Sequence[int], found: list[Metrics], early: int) -> list[Metrics]:
    """*found* with what a longer run takes, over the one of the size *early*."""
    base = found[sizes.index(early)]
    for size, metrics in zip(sizes, found, strict=True):
        if size > early:
            metrics["times_cpu"] = metrics["cpu_ms"] * size / (base["cpu_ms"] * early)
            metrics["times_wall"] = size / metrics["per_s"] / (early / base["per_s"])
    return found


async def redis_fans(data: Path, *, sizes: Sequence[int]) -> list[Metrics]:
    """One run that asks for all its steps at once. `times_fan`: time over the smallest's, as CPU;
    `times_wall` as wall."""
    found: list[Metrics] = []
    with redis_server(data) as server:
        async with opened(server.url, remote=True):
            await warm("fan")
            for size in sizes:
                with ServerMeter(server) as meter:
                    await finish("fan", f"r-{size}", size)
                found.append(meter.per_step(size))
    for size, metrics in zip(sizes[1:], found[1:], strict=True):
        metrics["times_fan"] = metrics["cpu_ms"] * size / (found[0]["cpu_ms"] * sizes[0])
        metrics["times_wall"] = found[0]["per_s"] * size / (metrics["per_s"] * sizes[0])
    return found


async def remote_record(data: Path, *, url: str, due: float) -> list[Metrics]:
    """A run of 3,000 steps that then sleeps; its process ends here."""
    async with app.open(store=url, queue_service="store", work=Work()):
        flow = Flow(run=str(due), steps=LONG)
        run: Any = await app.start_workflow("rested_remotely", flow, run_id="r", wait=False)
        while len(executed) < LONG or (await run.history())[-1].kind != "sleep_started":
            await asyncio.sleep(0.05)
    return [{}]


async def redis_replay(data: Path) -> list[Metrics]:
    """The run that another process left asleep, from its timer to its result."""
    with redis_server(data) as server:
        due = time.time() + REST_S
        options = json.dumps({"data": str(data), "url": server.url, "due": due})
        command = [sys.executable, "-m", "bench.child", "remote_record", options]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
        async with opened(server.url, remote=True):
            await warm("listed")
            executed.clear()
            await asyncio.sleep(max(0.0, due - 0.2 - time.time()))
            if time.time() > due:
                raise AssertionError(f"{LONG} steps were not recorded within {REST_S} s")
            with server.monitored() as sent, ServerMeter(server) as meter:
                expect(await app.get_run("rested_remotely", "r").result(timeout="1min"), LONG)
    if executed:
        raise AssertionError(f"{len(executed)} recorded steps were executed again")
    metrics = meter.per_step(1)
    metrics.pop("per_s")
    metrics["replay_ms"] = metrics["engine_ms"]
    metrics["replay_calls"] = _calls_of_work(sent)
    return [metrics]


def _calls_of_work(sent: Sequence[str]) -> int:
    """The calls but for heartbeats, looks at timers and leases, and that of who waits."""
    script = next(line for line in sent if '"commit"' in line).split('"')[3]
    others = ('"fire_timers"', '"reap_sessions"', '"watch_run"')
    work = [line for line in sent if f'"{script}"' in line]
    return sum(not any(op in line for op in others) for line in work)


async def redis_sleepers(data: Path, *, runs: int, rest_s: int) -> list[Metrics]:
    """Runs that are due together: each is woken once; how late their timers fire (until nothing
    holds them back but a worker), how late their next steps begin, and what they take of memory.
    CPU counts their start, too."""
    with redis_server(data) as server:
        async with opened(server.url, remote=True):
            await warm("rpc")
            with ServerMeter(server) as meter:
                found = await sleep_together(
                    runs, rest_s, server.timers, lambda: server.usage().memory_mb
                )
    metrics = meter.per_step(runs) | found
    metrics.pop("per_s")
    return [metrics]


async def sleep_together(
    runs: int, rest_s: int, timers: Callable[[], int], server_mb: Callable[[], float]
) -> Metrics:
    """Start the runs, have them sleep and wake at one time, and wait for their results."""
    global due_at
    rss, kept_mb = rss_mb(), server_mb()
    due_at = float(int(time.time()) + rest_s)
    handles: list[Any] = []

    async def one(i: int) -> None:
        handles.append(await begin("nap", f"r-{i}", int(due_at)))

    await pool(runs, 100, one)
    while timers() < runs:
        await asyncio.sleep(0.1)
    if time.time() > due_at:
        raise AssertionError(f"{runs} runs did not fall asleep within {rest_s} s")
    asleep_mb, kept_mb = rss_mb() - rss, server_mb() - kept_mb
    await asyncio.sleep(max(0.0, due_at - 0.3 - time.time()))
    with watched(timers) as left:
        results = await asyncio.gather(*[handle.result() for handle in handles])
    if results != [0] * runs or len(woken) != runs:
        raise AssertionError(f"{runs} sleepers were woken {len(woken)} times")
    fired = next(at for at, count in left if at > due_at and count <= runs // 100)
    return {
        "fired_p99_ms": (fired - due_at) * 1e3,
        "late_p99_ms": sorted(woken)[int(runs * 0.99)] * 1e3,
        "kb_run": asleep_mb * 1024 / runs,
        "server_kb_run": kept_mb * 1024 / runs,
    }


@contextmanager
def watched(timers: Callable[[], int]) -> Generator[list[tuple[float, int]]]:
    """How many timers are left, looked at again and again from a thread."""
    seen: list[tuple[float, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            seen.append((time.time(), timers()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


# --- workers of their own -----------------------------------------------------


async def redis_workers(
    data: Path, *, workflow: str, processes: Sequence[int], steps: int, runs: int
) -> list[Metrics]:
    """Runs started here and executed by 1, 2, ... other processes. `cpu_ms` is that of the workers
    and the server; `times_one`: over that with one worker. No step may be executed twice."""
    found: list[Metrics] = []
    for count in processes:
        folder = data / str(count)
        folder.mkdir()
        with redis_server(folder) as server, ExitStack() as stack:
            workers = [stack.enter_context(Worker(server.url)) for _ in range(count)]
            async with app.open(store=server.url, queue_service="store"):
                await warm(workflow)
                before = sum(worker.cpu() for worker in workers)
                with ServerMeter(server) as meter:
                    await pool(runs, runs, lambda i: finish(workflow, f"r-{i}", steps))
                used = sum(worker.cpu() for worker in workers) - before
            bodies = [body for worker in workers for body in worker.bodies()]
        if len(bodies) != len(set(bodies)):
            raise AssertionError(f"{len(bodies) - len(set(bodies))} steps were executed twice")
        metrics = meter.per_step(runs * steps, others_cpu=used)
        metrics["starter_ms"] = meter.own.cpu / (runs * steps) * 1e3
        metrics["engine_ms"] -= metrics["starter_ms"]
        metrics["cpu_ms"] -= metrics["starter_ms"]
        found.append(metrics)
        if found[0] is not metrics:
            metrics["times_one"] = metrics["cpu_ms"] / found[0]["cpu_ms"]
    return found


class Worker:
    """A worker in a process of its own, which says what it used and what it executed."""

    def __init__(self, url: str, workload: str = "remote_worker") -> None:
        options = json.dumps({"data": ".", "url": url})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.child", workload, options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        self._ask("ready")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def cpu(self) -> float:
        used: float = self._ask("cpu")
        return used

    def bodies(self) -> list[str]:
        said: list[str] = self._ask("bodies")
        return said

    def _ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


async def remote_worker(data: Path, *, url: str) -> list[Metrics]:
    """What a `Worker` starts: works and answers until its stdin ends."""
    answers: dict[str, Callable[[], object]] = {
        "ready": lambda: True,
        "cpu": cpu_s,
        "bodies": lambda: executed,
    }
    async with app.open(store=url, queue_service="store", work=Work()):
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(answers[line.strip()]()), flush=True)
    return []
