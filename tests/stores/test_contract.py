"""Every promise of a store, for every store."""

from collections.abc import AsyncGenerator

import pytest

from pikku.stores import make_store
from pikku.stores.base import Store
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import CHECKS, Check

# Promises that a store does not keep yet: (check, scheme of the store) -> what is wrong.
KNOWN: dict[tuple[str, str], str] = {}


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
async def test_the_store_keeps_its_promise(
    check: Check,
    store: Store,
    store_url: str,
    clock: FakeClock,
    request: pytest.FixtureRequest,
) -> None:
    known = check.__name__.removeprefix("check_"), store_url.partition(":")[0]
    if known in KNOWN:
        request.applymarker(pytest.mark.xfail(strict=True, reason=KNOWN[known]))
    await check(store, clock)
