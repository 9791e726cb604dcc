"""The rows of the fault matrix: which scenario is played on which store, and how it is played."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.driver import Broken, Site, site
from tests.faults.invariants import Figures
from tests.faults.places import PLACES
from tests.servers.proxy import FaultProxy
from tests.servers.redis import Option

FILE, REDIS, POSTGRES, POOL = "sqlite", "redis", "postgres", "pgbouncer"
SERVERS = (REDIS, POSTGRES, POOL)
ALL = (FILE, *SERVERS)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a scenario is played, and the seed that decides what happens in it."""

    folder: Path
    seed: int
    store: str

    @asynccontextmanager
    async def site(
        self,
        *,
        server: dict[str, Option] | None = None,
        clock: bool = False,
        **options: Any,
    ) -> AsyncGenerator[Site, None]:
        """A store of its own, open, and a site on it; `clock`: one whose clock can be set."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        place = PLACES[self.store](self.folder, server)
        try:
            await asyncio.to_thread(place.open)
            if clock:
                await asyncio.to_thread(place.set_clock, 0)
            async with site(place, self.seed, **options) as opened:
                yield opened
        finally:
            await asyncio.to_thread(place.close)


Scenario = Callable[[Setting], Awaitable[Figures]]


@dataclass(frozen=True, slots=True)
class Row:
    """A scenario, the rows of the matrix that it belongs to, and the stores that it concerns.

    `seeds` says how many of them every run of the tests has on each store.
    """

    name: str
    numbers: str
    says: str
    scenario: Scenario
    stores: tuple[str, ...]
    seeds: int

    async def play(self, folder: Path, seed: int, store: str) -> Figures:
        """One scenario.

        Raises:
            Broken: a promise was; its words say with which seed.
        """
        try:
            return await self.scenario(Setting(folder, seed, store))
        except Broken as broken:
            raise Broken(f"{self.name} on {store}, seed {seed}: {broken}", broken.figures) from None


ROWS: dict[str, Row] = {}


def row(
    numbers: str, stores: tuple[str, ...] = ALL, *, seeds: int = 1
) -> Callable[[Scenario], Scenario]:
    """Declare a scenario as one of the matrix."""

    def declare(scenario: Scenario) -> Scenario:
        name = str(getattr(scenario, "__name__"))  # noqa: B009  # of a callable of any kind
        says = " ".join((scenario.__doc__ or "").split())
        ROWS[name] = Row(name, numbers, says, scenario, stores, seeds)
        return scenario

    return declare


@asynccontextmanager
async def proxy_of(upstream: Any) -> AsyncGenerator[FaultProxy, None]:
    """A proxy in front of what has a `host` and a `port`."""
    made = FaultProxy(upstream.host, upstream.port)
    await asyncio.to_thread(made.start)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)


def expect(true: object, what: str) -> None:
    """Raise `Broken` with these words unless it is true."""
    if not true:
        raise Broken(what)
