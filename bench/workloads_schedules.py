"""Schedules that are due together; each workload in a child process."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from pikku import App, Registry
from pikku._settings import Work

from .meter import cpu_s
from .server import redis_server
from .workloads import Context, Metrics, store_url

late: defaultdict[float, list[float]] = defaultdict(list)


async def note(ctx: Context, due: datetime) -> None:
    late[due.timestamp()].append(time.time() - due.timestamp())


async def schedules_sqlite(data: Path, *, schedules: int, minutes: int) -> list[Metrics]:
    """On SQLite, where the process that has the app open executes."""
    url = store_url("process", data / "together"), store_url("process", data / "spread")
    return [
        await _due(url[spread], schedules, minutes, remote=False, spread=spread)
        for spread in (False, True)
    ]


async def schedules_redis(data: Path, *, schedules: int, minutes: int) -> list[Metrics]:
    """On Redis, in one worker."""
    found: list[Metrics] = []
    for spread in (False, True):
        folder = data / f"server-{len(found)}"
        folder.mkdir()
        with redis_server(folder) as server:
            found.append(await _due(server.url, schedules, minutes, remote=True, spread=spread))
    return found


async def _due(url: str, schedules: int, minutes: int, *, remote: bool, spread: bool) -> Metrics:
    """Open an app whose schedules are due *minutes* from now or, *spread* over the hour, a sixtieth
    of them; see how late each is."""
    due = (int(time.time()) // 60 + 1 + minutes) * 60
    late.clear()
    registry = Registry("schedules")
    app: App[None] = App(registry=registry, package="schedules")
    func = registry.pikku_func(note)
    for i in range(schedules):
        minute = (due // 60 + (i if spread else 0)) % 60
        registry.wire_scheduler(name=f"s-{i}", schedule=f"{minute} * * * *", func=func)
    options: dict[str, Any] = {"store": url, "queue_service": "none"}
    if remote:
        options |= {"queue_service": "store", "work": Work()}
    now_due = (schedules + 59) // 60 if spread else schedules
    began = time.time()
    async with app.open(**options):
        opened_s = time.time() - began
        if time.time() > due:
            raise AssertionError(f"{schedules} schedules were not made within {minutes} min")
        await asyncio.sleep(due - 0.3 - time.time())
        spent = cpu_s()
        while len(late[due]) < now_due:
            await asyncio.sleep(0.05)
        spent = cpu_s() - spent
        listed = await app.list_schedules()
    if len(late[due]) != now_due or any(each.next_at is None for each in listed):
        raise AssertionError(f"{now_due} schedules were due {len(late[due])} times")
    ordered = sorted(late[due])
    return {
        "cpu_ms": spent * 1e3 / now_due,
        "opened_s": opened_s,
        "tick_p50_ms": ordered[now_due // 2] * 1e3,
        "tick_p99_ms": ordered[int(now_due * 0.99)] * 1e3,
    }
