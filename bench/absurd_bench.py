"""The peer Absurd: `absurd_bench.py [w1 w3]`, run by `peers.py` in an environment of its own.

A task is executed by an asynchronous worker in this process that polls its queue each 50 ms; who
waits for a result polls from 50 ms on, as the SDK does. Its modules, and those of the peers'
scripts, are not there where the bench is checked, so they are imported by name.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

sdk: Any = importlib.import_module("absurd_sdk")
schema: Any = importlib.import_module("absurdctl")
common: Any = importlib.import_module("common")

REPS = int(os.environ.get("REPS", "3"))
POLL_S = 0.05
STEPS = 20


async def chain(data: dict[str, int], ctx: Any) -> dict[str, int]:
    total = 0
    for i in range(data["steps"]):

        async def step(i: int = i) -> dict[str, Any]:
            return {"i": i, "ok": True}

        total += (await ctx.step(f"s{i}", step))["i"]
    return {"sum": total}


async def finish(client: Any, steps: int) -> float:
    began = time.perf_counter()
    task = await client.spawn("chain", {"steps": steps}, queue="default")
    snapshot = await client.await_task_result(task["task_id"])
    if snapshot.state != "completed":
        raise AssertionError(snapshot)
    return time.perf_counter() - began


async def pool(runs: int, concurrency: int, one: Callable[[], Awaitable[float]]) -> list[float]:
    took: list[float] = []
    left = iter(range(runs))

    async def worker() -> None:
        for _ in left:
            took.append(await one())

    await asyncio.gather(*[worker() for _ in range(min(runs, concurrency))])
    return took


async def cell(label: str, pid: int, client: Any, runs: int, steps: int, concurrency: int) -> None:
    rows: list[dict[str, float]] = []
    took: list[float] = []
    for _ in range(REPS):
        with common.Meter(db=pid) as meter:
            took += await pool(runs, concurrency, lambda: finish(client, steps))
        rows.append(meter.row(runs * steps, runs))
    found = {name: round(common.med([row[name] for row in rows]), 3) for name in rows[0]}
    common.emit("absurd", label, **found, **common.ms(took))


async def main(cells: list[str], url: str, pid: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(schema.BUNDLED_SCHEMA_SQL.encode())
    client, executor = sdk.AsyncAbsurd(url), sdk.AsyncAbsurd(url)
    await client.create_queue()
    executor.register_task("chain")(chain)
    worker = asyncio.create_task(executor.start_worker(concurrency=50, poll_interval=POLL_S))
    await pool(5, 5, lambda: finish(client, STEPS))
    if "w1" in cells:
        await cell("W1 c=1", pid, client, 20, STEPS, 1)
        await cell("W1 c=50", pid, client, 100, STEPS, 50)
    if "w3" in cells:
        await cell("W3", pid, client, 60, 1, 1)
    executor.stop_worker()
    await worker
    await client.close()
    await executor.close()


if __name__ == "__main__":
    with common.postgres_server() as (port, pid):
        url = f"postgresql://bench@127.0.0.1:{port}/postgres"
        asyncio.run(main(sys.argv[1:] or ["w1", "w3"], url, pid))
