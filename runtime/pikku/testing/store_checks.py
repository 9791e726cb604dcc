"""Every promise of a store as a runnable check, for whoever writes another one.

Each check gets a store of its own, opened, empty and going by *clock*, and raises AssertionError
where a promise is broken. Nothing here needs a test framework:

    for check in CHECKS:
        await check(new_store(clock), clock)
"""

from __future__ import annotations

from pikku.testing import store_contract, store_contract_life, store_contract_queues
from pikku.testing.store_contract import Check

CHECKS: tuple[Check, ...] = (
    *store_contract.CHECKS,
    *store_contract_life.CHECKS,
    *store_contract_queues.CHECKS,
)

__all__ = ["CHECKS", "Check"]
