"""The fixtures of `tests/runtime`, for runs that are repeated."""

from tests.runtime.conftest import memory, store_url, toy, world

__all__ = ["memory", "store_url", "toy", "world"]
