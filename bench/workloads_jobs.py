"""Jobs of queues that do nothing; each workload in a child process.

On Redis as the peers' script does it: this process adds the jobs, 50 at a time, a worker in another
one does them, and its last one tells this one through a list of the server. Elsewhere one process
does both.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from typing_extensions import TypedDict

from pikku import App, Registry
from pikku._settings import Work

from .meter import Meter, cpu_s, sqlite_commits
from .postgres import PostgresMeter, postgres_server
from .server import ServerMeter, redis_server
from .workloads import Context, Metrics, database, pool, store_url
from .workloads_redis import Worker, latency

DONE = "bench:done"
AT_ONCE = 50
WARM_JOBS = 300


class Count(TypedDict):
    """How many jobs there are of this kind: the last of them says so."""

    n: int


registry = Registry("jobs")
app: App[None] = App(registry=registry, package="jobs")
count = 0
told = asyncio.Event()
tell: Callable[[], object] = told.set


async def nothing(ctx: Context, data: Count) -> None:
    global count
    count += 1
    if count >= data["n"]:
        count = 0
        tell()


registry.wire_queue_worker(queue="jobs", func=registry.pikku_func(nothing, retries=3))


async def one_by_one(jobs: int) -> None:
    async def add(i: int) -> None:
        await app.add_job("jobs", Count(n=jobs))

    await pool(jobs, AT_ONCE, add)


async def in_bulk(jobs: int) -> None:
    await app.add_jobs("jobs", [Count(n=jobs)] * jobs)


WAYS: tuple[Callable[[int], Awaitable[None]], ...] = (one_by_one, in_bulk)


async def until_told() -> None:
    await told.wait()
    told.clear()


# --- on Redis -----------------------------------------------------------------


async def jobs_redis(data: Path, *, jobs: int, alone: int) -> list[Metrics]:
    """Jobs added one by one, then in bulk, then one after the other: from its adding until this
    process has heard that it is done."""
    found: list[Metrics] = []
    with redis_server(data) as server, Worker(server.url, "jobs_worker") as worker:
        client = redis.asyncio.Redis(port=server.port)

        async def heard() -> None:
            waiting: Any = client.blpop([DONE], timeout=60)
            if await waiting is None:
                raise AssertionError("the jobs were not done within 60 s")

        async with app.open(store=server.url, queue_service="store"):
            await one_by_one(WARM_JOBS)
            await heard()
            for add in WAYS:
                used = worker.cpu()
                with ServerMeter(server) as meter:
                    await add(jobs)
                    await heard()
                found.append(meter.per_step(jobs, others_cpu=worker.cpu() - used))
            took: list[float] = []
            for _ in range(alone):
                began = time.perf_counter()
                await app.add_job("jobs", Count(n=1))
                await heard()
                took.append(time.perf_counter() - began)
        await client.aclose()
    return [*found, {"cpu_ms": found[0]["cpu_ms"]} | latency(took)]


async def jobs_worker(data: Path, *, url: str) -> list[Metrics]:
    """What a `Worker` starts: does jobs and answers until its stdin ends."""
    global tell
    port = urlsplit(url).port
    assert port is not None
    tell = partial(redis.Redis(port=port).lpush, DONE, "done")
    answers: dict[str, Callable[[], object]] = {"ready": lambda: True, "cpu": cpu_s}
    async with app.open(store=url, queue_service="store", work=Work()):
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(answers[line.strip()]()), flush=True)
    return []


# --- in one process -----------------------------------------------------------


async def jobs_sqlite(data: Path, *, store: str, jobs: int) -> list[Metrics]:
    """On SQLite, one by one, then in bulk."""
    found: list[Metrics] = []
    async with app.open(store=store_url(store, data), queue_service="none"):
        await one_by_one(WARM_JOBS)
        await until_told()
        for add in WAYS:
            before = sqlite_commits(database(data)) or 0
            with Meter() as meter:
                await add(jobs)
                await until_told()
            commits = (sqlite_commits(database(data)) or 0) - before
            found.append(meter.per_step(jobs) | {"commits": commits / jobs})
    return found


async def jobs_postgres(data: Path, *, jobs: int) -> list[Metrics]:
    """On PostgreSQL, one by one, then in bulk."""
    found: list[Metrics] = []
    with postgres_server(data) as server:
        async with app.open(store=server.url, queue_service="store", work=Work()):
            await one_by_one(WARM_JOBS)
            await until_told()
            for add in WAYS:
                with PostgresMeter(server) as meter:
                    await add(jobs)
                    await until_told()
                found.append(meter.per_step(jobs))
    return found
