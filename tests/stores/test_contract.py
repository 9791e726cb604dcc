"""Every promise of a store, for every store."""

import pytest

from pikku.stores.base import Store
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import CHECKS, Check
from pikku.testing.store_contract_life import LIFE_CHECKS

ALL = [*CHECKS, *LIFE_CHECKS]


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_the_store_keeps_its_promise(check: Check, store: Store, clock: FakeClock) -> None:
    await check(store, clock)
