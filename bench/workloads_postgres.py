"""The engine's workloads on PostgreSQL, and on a SQLite file that several processes share; like
those of `workloads_redis.py`, most of whose workflows they execute."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from .meter import Meter, sqlite_commits
from .postgres import PostgresMeter, PostgresServer, postgres_server
from .workloads import LONG, Metrics, app, attempts, database, expect, pool, store_url
from .workloads_redis import (
    ALONE,
    Worker,
    executed,
    finish,
    grown,
    latency,
    one_after_the_other,
    opened,
    sleep_together,
    warm,
)

REST_S = 25
TELLS_AFTER_S = 1.2  # a process of the server tells of its commits once a second


async def commits_of(server: PostgresServer, workflow: str, run_id: str) -> int:
    """How many commits the server has made, those of a run more among them."""
    await asyncio.sleep(TELLS_AFTER_S)
    await finish(workflow, run_id, 1)
    return server.commits()


async def postgres_steps(
    data: Path, *, workflow: str, steps: int, runs: int, concurrency: int, remote: bool = False
) -> list[Metrics]:
    """`runs` runs of `steps` steps each."""
    with postgres_server(data) as server:
        async with opened(server.url, remote=remote):
            await warm(workflow)
            before = await commits_of(server, workflow, "before")
            attempts.clear()
            with PostgresMeter(server) as meter:
                await pool(runs, concurrency, lambda i: finish(workflow, f"r-{i}", steps))
            tried = sum(attempts.values())
            commits = await commits_of(server, workflow, "after") - before
            metrics = meter.per_step(runs * steps)
            metrics["commits"] = commits / (runs * steps)
            if tried:
                metrics["attempt_statements"] = meter.statements / tried
            if concurrency == 1:
                metrics |= await _one_more_step(server, workflow, steps)
    return [metrics]


async def _one_more_step(server: PostgresServer, workflow: str, steps: int) -> Metrics:
    """What one step more costs a run alone: exact, without what the run itself costs."""
    sent: list[int] = []
    for more in (0, ALONE):
        with PostgresMeter(server) as meter:
            await finish(workflow, f"alone-{more}", steps + more)
        sent.append(meter.statements)
    return {"step_statements": round((sent[1] - sent[0]) / ALONE, 1)}


async def postgres_latency(data: Path, *, workflow: str, remote: bool, runs: int) -> list[Metrics]:
    """One run of one step after the other, from its start to its result."""
    with postgres_server(data) as server:
        async with opened(server.url, remote=remote):
            await warm(workflow)
            with PostgresMeter(server) as meter:
                took = await one_after_the_other(workflow, runs)
    return [meter.per_step(runs) | latency(took)]


async def postgres_apart(data: Path, *, runs: int) -> list[Metrics]:
    """The same between two processes: one starts the runs and waits, the other executes them."""
    with postgres_server(data) as server, Worker(server.url) as worker:
        async with app.open(store=server.url, queue_service="store"):
            await warm("rpc")
            before = worker.cpu()
            with PostgresMeter(server) as meter:
                took = await one_after_the_other("rpc", runs)
            metrics = meter.per_step(runs, others_cpu=worker.cpu() - before)
    metrics.pop("statements")  # the worker's are not counted
    return [metrics | latency(took)]


async def postgres_growth(
    data: Path, *, workflow: str, sizes: Sequence[int], early: int
) -> list[Metrics]:
    """A run of each size, alone."""
    found: list[Metrics] = []
    with postgres_server(data) as server:
        async with opened(server.url, remote=True):
            await warm(workflow)
            for size in sizes:
                with PostgresMeter(server) as meter:
                    await finish(workflow, f"r-{size}", size)
                found.append(meter.per_step(size))
    return grown(sizes, found, early)


async def postgres_replay(data: Path) -> list[Metrics]:
    """The run that another process left asleep, from its timer to its result."""
    with postgres_server(data) as server:
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
            with PostgresMeter(server) as meter:
                run = app.get_run("rested_remotely", "r")
                expect(await run.result(timeout="1min"), LONG)
    if executed:
        raise AssertionError(f"{len(executed)} recorded steps were executed again")
    return [meter.per_step(LONG)]


async def postgres_sleepers(data: Path, *, runs: int, rest_s: int) -> list[Metrics]:
    """Runs that are due together."""
    with postgres_server(data) as server:
        async with opened(server.url, remote=True):
            await warm("rpc")
            with PostgresMeter(server) as meter:
                found = await sleep_together(runs, rest_s, server.timers, server.disk_mb)
    metrics = meter.per_step(runs) | found
    metrics.pop("per_s")
    return [metrics]


# --- several processes --------------------------------------------------------


async def postgres_workers(
    data: Path, *, processes: Sequence[int], **options: Any
) -> list[Metrics]:
    """Runs started here and executed by 1, 2, ... other processes. `cpu_ms` is that of the workers
    and the server; `times_one`: over that with one worker. No step may be executed twice."""
    found: list[Metrics] = []
    data.chmod(0o711)  # the server's user has to get through
    for count in processes:
        folder = data / str(count)
        folder.mkdir()
        with postgres_server(folder) as server:
            metrics = await _executed_by(count, server.url, server.cpu_s, lambda: None, **options)
        found.append(metrics)
    return _over_one(found)


async def sqlite_workers(data: Path, *, processes: Sequence[int], **options: Any) -> list[Metrics]:
    """The same on one SQLite file, which all of them write to."""
    found: list[Metrics] = []
    for count in processes:
        folder = data / str(count)
        folder.mkdir()
        url, commits = store_url("full", folder), partial(sqlite_commits, database(folder))
        metrics = await _executed_by(count, url, lambda: 0.0, commits, **options)
        metrics.pop("server_ms")
        found.append(metrics)
    return _over_one(found)


async def _executed_by(
    count: int,
    url: str,
    server_cpu: Callable[[], float],
    commits: Callable[[], int | None],
    *,
    workflow: str,
    steps: int,
    runs: int,
) -> Metrics:
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(url)) for _ in range(count)]
        async with app.open(store=url, queue_service="store"):
            await warm(workflow)
            before, of_server = sum(worker.cpu() for worker in workers), server_cpu()
            made = commits()
            with Meter() as meter:
                await pool(runs, runs, lambda i: finish(workflow, f"r-{i}", steps))
            of_server = server_cpu() - of_server
            used = sum(worker.cpu() for worker in workers) - before
            made = None if made is None else (commits() or 0) - made
        bodies = [body for worker in workers for body in worker.bodies()]
    if len(bodies) != len(set(bodies)):
        raise AssertionError(f"{len(bodies) - len(set(bodies))} steps were executed twice")
    total = runs * steps
    others = meter.noise - (used + of_server) / (meter.wall * meter.cores)
    metrics = {
        "cpu_ms": (used + of_server) / total * 1e3,
        "engine_ms": used / total * 1e3,
        "server_ms": of_server / total * 1e3,
        "starter_ms": meter.cpu / total * 1e3,
        "per_s": total / meter.wall,
        "noise": max(0.0, others),
    }
    return metrics if made is None else metrics | {"commits": made / total}


def _over_one(found: list[Metrics]) -> list[Metrics]:
    for metrics in found[1:]:
        metrics["times_one"] = metrics["cpu_ms"] / found[0]["cpu_ms"]
    return found
