"""Schedules that are due together; each workload in a child process."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from pikku import App, Registry
from pikku._settings import Work

from .meter import cpu_s
from .server import redis_server
from .workloads import Context, Metrics, store_url

registry = Registry("schedules")
app: App[None] = App(registry=registry, package="schedules")
late: list[float] = []


@registry.pikku_func
async def note(ctx: Context, due: datetime) -> None:
    late.append(time.time() - due.timestamp())


async def schedules_sqlite(data: Path, *, schedules: int, minutes: int) -> list[Metrics]:
    """On SQLite, where the process that has the app open executes."""
    return [await _due_together(store_url("process", data), schedules, minutes, remote=False)]


async def schedules_redis(data: Path, *, schedules: int, minutes: int) -> list[Metrics]:
    """On Redis, in one worker."""
    with redis_server(data) as server:
        return [await _due_together(server.url, schedules, minutes, remote=True)]


async def _due_together(url: str, schedules: int, minutes: int, *, remote: bool) -> Metrics:
    """Open an app whose schedules are all due *minutes* from now, and see how late each is."""
    due = (int(time.time()) // 60 + 1 + minutes) * 60
    cron = f"{due // 60 % 60} * * * *"
    for i in range(schedules):
        registry.wire_scheduler(name=f"s-{i}", schedule=cron, func=note)
    options: dict[str, Any] = {"store": url, "queue_service": "none"}
    if remote:
        options |= {"queue_service": "store", "work": Work()}
    began = time.time()
    async with app.open(**options):
        opened_s = time.time() - began
        if time.time() > due:
            raise AssertionError(f"{schedules} schedules were not made within {minutes} min")
        await asyncio.sleep(due - 0.3 - time.time())
        spent = cpu_s()
        while len(late) < schedules:
            await asyncio.sleep(0.05)
        spent = cpu_s() - spent
        listed = await app.list_schedules()
    if len(late) != schedules or any(each.next_at is None for each in listed):
        raise AssertionError(f"{schedules} schedules were due {len(late)} times")
    ordered = sorted(late)
    return {
        "cpu_ms": spent * 1e3 / schedules,
        "opened_s": opened_s,
        "tick_p50_ms": ordered[schedules // 2] * 1e3,
        "tick_p99_ms": ordered[int(schedules * 0.99)] * 1e3,
    }
