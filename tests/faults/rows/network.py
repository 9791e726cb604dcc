"""What happens to connections: they are reset, cut, slow, or lead elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.faults.driver import FEW, LEASE_SECONDS
from tests.faults.invariants import Figures
from tests.faults.matrix import REDIS, SERVERS, Setting, proxy_of, row
from tests.servers.proxy import Directions


@row("7", SERVERS, seeds=2)
async def connections_reset(at: Setting) -> Figures:
    """Connections end at some byte of a request or of a reply."""
    async with at.site() as here, proxy_of(here.place) as proxy:
        # Half of the seeds say each commit in full, so that its answer can be met.
        spelled = here.place.spelled if here.dice.random() < 0.5 else ""
        when = here.place.commit if spelled == here.place.spelled else b""
        await here.start_workers(1, options=spelled)
        workers = await here.start_workers(1, through=proxy, options=spelled)
        await here.start_mixed(9)
        for number in range(12):
            async with here.network_fault("reset", workers):
                of: Any = here.dice.choice(["request", "reply"])
                after = here.dice.choice([0, 1, here.dice.randrange(2, 400)])
                proxy.reset_after(after, of, when=when)
                await asyncio.sleep(here.dice.uniform(0.02, 0.25))
            if number % 4 == 0:
                await here.start_mixed(2)
        proxy.heal()
        return await here.check()


@row("7, 22", SERVERS)
async def families_reset(at: Setting) -> Figures:
    """Answers to workers are lost while families are under way."""
    async with at.site() as here, proxy_of(here.place) as proxy:
        # All alike: of two of which one is told of work, the other gets none.
        await here.start_workers(1, options=here.place.spelled)
        workers = await here.start_workers(2, through=proxy, options=here.place.spelled)
        await here.start_families(3)
        for _ in range(6):
            await here.busy_worker(workers)
            async with here.network_fault("reset", workers):
                proxy.reset_after(here.dice.randrange(300), "reply", when=here.place.commit)
                await asyncio.sleep(0.2)
            await here.start_families(1)
        proxy.heal()
        return await here.check()


@row("8", SERVERS)
async def partitioned(at: Setting) -> Figures:
    """A worker is cut off, in both directions or in one, for longer than its lease."""
    async with at.site() as here, proxy_of(here.place) as proxy:
        await here.start_workers(1, *FEW)
        workers = await here.start_workers(1, through=proxy)
        directions: list[Directions] = ["both", "request", "reply"]
        for direction in here.dice.sample(directions, 2):
            await here.start_mixed(6)
            await here.busy_worker(workers)
            async with here.network_fault(f"partition {direction}", workers):
                proxy.drop(direction)
                await asyncio.sleep(LEASE_SECONDS + here.dice.uniform(0, 1))
                proxy.heal()
        return await here.check()


@row("8", SERVERS)
async def slow_network(at: Setting) -> Figures:
    """Everything arrives late, or byte by byte."""
    async with at.site() as here, proxy_of(here.place) as proxy:
        workers = await here.start_workers(2, through=proxy)
        await here.start_mixed(3)
        await here.busy_worker()
        async with here.network_fault("slow", workers):
            if at.seed % 2:
                proxy.chunk(1, "reply")
                # SQL is long: by the byte it would be by the minute.
                proxy.chunk(1 if at.store == REDIS else 16, "request")
            else:
                proxy.delay(here.dice.uniform(0.01, 0.08))
            await here.start_mixed(3)
            await here.ends()
            proxy.heal()
        await here.start_mixed(3)
        return await here.check()
