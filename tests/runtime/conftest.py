"""Fixtures for tests of runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir
from tests.runtime.kit import Toy, World

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "pikku-hypothesis")
settings.register_profile("pikku", deadline=None, database=None, max_examples=60)
settings.load_profile("pikku")


@pytest.fixture
def toy() -> Toy:
    """A new app."""
    return Toy()


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind, new for each test."""
    if request.param == "memory":
        return "memory://"
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return url
    if request.param == "postgres":
        emptied: str = request.getfixturevalue("postgres_emptied_url")
        return emptied
    return f"sqlite:///{tmp_path.joinpath('runs.db')}"


@pytest.fixture(params=["kept", "evicted"])
def world(request: pytest.FixtureRequest, store_url: str) -> World:
    """Each store, with runs kept in memory while they wait, and with every wait a replay."""
    return World(store_url, sticky=1000 if request.param == "kept" else 0)


@pytest.fixture
def memory() -> World:
    """One new store in memory."""
    return World("memory://")
