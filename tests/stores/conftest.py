"""The fixtures of `tests/runtime`, and a store of each kind."""

from collections.abc import AsyncGenerator

import pytest
from tests.runtime.conftest import memory, store_url, toy, world

from pikku.stores import make_store
from pikku.stores.base import Store
from pikku.testing.clock import FakeClock

__all__ = ["memory", "store_url", "toy", "world"]


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture
async def store(store_url: str, clock: FakeClock) -> AsyncGenerator[Store, None]:
    """A store of each kind, open, empty and going by that clock."""
    made = make_store(store_url, clock=clock)
    await made.open()
    yield made
    await made.close()
