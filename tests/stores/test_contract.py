"""Every promise of a store, for every store."""

from collections.abc import AsyncGenerator

import pytest

from pikku.stores import make_store
from pikku.stores.base import Store
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import CHECKS, Check


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(store_url: str, clock: FakeClock) -> AsyncGenerator[Store, None]:
    made = make_store(store_url, clock=clock)
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_the_store_keeps_its_promise(check: Check, store: Store, clock: FakeClock) -> None:
    await check(store, clock)
