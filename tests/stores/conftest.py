"""The fixtures of `tests/runtime`, and every store there is, on every server that is here."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.runtime.conftest import memory, store_url, toy, world
from tests.servers import postgres, redis
from tests.servers.fixtures import PostgresServers, RedisServers

from pikku.stores import make_store
from pikku.stores.base import Store
from pikku.testing.clock import FakeClock

__all__ = ["memory", "store_url", "toy", "world"]

# A name stands for the server that the tests prefer: absent, the test is skipped, or fails.
PLACES: list[str | redis.Program | postgres.Program] = [
    "memory",
    "sqlite",
    *(redis.servers() or ["redis"]),
    *(postgres.servers() or ["postgres"]),
]


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture(params=PLACES, ids=str)
def place_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind, on each version of its server, new for each test."""
    place: str | redis.Program | postgres.Program = request.param
    if place == "memory":
        return "memory://"
    if place == "sqlite":
        return f"sqlite:///{tmp_path.joinpath('runs.db')}"
    if place == "redis" or isinstance(place, redis.Program):
        caches: RedisServers = request.getfixturevalue("redis_servers")
        return caches.databases(place if isinstance(place, redis.Program) else None).fresh_url()
    databases: PostgresServers = request.getfixturevalue("postgres_servers")
    return databases.emptied_url(place if isinstance(place, postgres.Program) else None)


@pytest.fixture
async def store(place_url: str, clock: FakeClock) -> AsyncGenerator[Store, None]:
    """A store of each kind, open, empty and going by that clock."""
    made = make_store(place_url, clock=clock)
    await made.open()
    yield made
    await made.close()
