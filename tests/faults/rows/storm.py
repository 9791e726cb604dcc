"""Everything at once: a part of a soak."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.faults.driver import LEASE_SECONDS, Site
from tests.faults.invariants import Figures
from tests.faults.matrix import FILE, Setting, proxy_of, row
from tests.faults.places import BouncerPlace, PostgresPlace
from tests.servers.proxy import FaultProxy

FAULTS = ("kill", "stop", "lease", "server", "reset", "partition")


@row("23", seeds=2)
async def everything_at_once(at: Setting) -> Figures:
    """Kills, stops, lost leases, resets, partitions and a server that dies, at random."""
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(at.site())
        proxy = None
        if at.store != FILE:
            proxy = await stack.enter_async_context(proxy_of(here.place))
        await here.start_workers(2)
        await here.start_workers(1, through=proxy)
        for _ in range(6):
            await here.start_mixed(3)
            if here.dice.random() < 0.3:
                await here.start_families(1)
            await _strike(here, proxy)
            await asyncio.sleep(here.dice.uniform(0, 0.4))
        if proxy is not None:
            proxy.heal()
        return await here.check()


async def _strike(here: Site, proxy: FaultProxy | None) -> None:
    dice = here.dice
    proxied = [worker for worker in here.living if worker.proxied]
    fault = dice.choice(FAULTS if proxy is not None and proxied else FAULTS[:3])
    if fault == "kill":
        worker = await here.busy_worker()
        here.kill(worker)
        await here.start_workers(1, through=proxy if worker.proxied else None)
    elif fault == "stop":
        await here.in_background(here.freeze(await here.busy_worker(), LEASE_SECONDS + 0.5))
    elif fault == "lease":
        async with here.network_fault("reaped by hand", here.living):
            await asyncio.to_thread(here.place.expire)
    elif fault == "server":
        async with here.network_fault("server killed", here.living):
            await _kill_server(here)
    elif proxy is not None and fault == "reset":
        async with here.network_fault("reset", proxied):
            when = here.place.commit if here.place.spelled in here.url else b""
            proxy.reset_after(dice.randrange(300), "reply", when=when)
            await asyncio.sleep(0.2)
    elif proxy is not None:
        async with here.network_fault("partition", proxied):
            proxy.partition()
            await asyncio.sleep(LEASE_SECONDS + dice.uniform(0, 1))
            proxy.heal()


async def _kill_server(here: Site) -> None:
    place = here.place
    if isinstance(place, BouncerPlace) and here.dice.random() < 0.3:
        await asyncio.to_thread(place.pool.kill)
    elif isinstance(place, PostgresPlace) and here.dice.random() < 0.3:
        await asyncio.to_thread(lambda: place.server.restart(immediate=True))
        return
    else:
        await asyncio.to_thread(place.kill)
    await asyncio.sleep(here.dice.uniform(0, 0.5))
    await asyncio.to_thread(place.start)
