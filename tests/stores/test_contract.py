"""Every promise of a store, for every store."""

import pytest

from pikku.stores.base import Store
from pikku.testing.clock import FakeClock
from pikku.testing.store_checks import CHECKS, Check


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_the_store_keeps_its_promise(check: Check, store: Store, clock: FakeClock) -> None:
    await check(store, clock)
