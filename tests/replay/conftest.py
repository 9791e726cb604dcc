"""The fixtures of `tests/runtime`, for runs that are repeated."""

import pytest
from tests.runtime.conftest import memory, store_url, toy, world

__all__ = ["memory", "store_url", "toy", "world"]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a lab wait for the bodies of steps on a slow machine."""
    monkeypatch.setattr("pikku.testing.lab.BODIES_AT_MOST_SECONDS", 2.0)
