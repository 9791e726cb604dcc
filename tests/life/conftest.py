"""Places for the whole life of a run: each store, in each mode, with runs kept or evicted."""

from pathlib import Path

import pytest
from tests.life.kit import Mode, Place
from tests.runtime.conftest import store_url as store_url
from tests.runtime.conftest import toy as toy


@pytest.fixture(params=["inline", "remote"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each way to execute a run."""
    mode: Mode = request.param
    return mode


@pytest.fixture(params=["kept", "evicted"])
def place(request: pytest.FixtureRequest, store_url: str, mode: Mode) -> Place:
    """Each store in each mode, with runs kept in memory while they wait, and with every wait a
    replay."""
    return Place(store_url, sticky=1000 if request.param == "kept" else 0, mode=mode)


@pytest.fixture
def evicted(store_url: str, mode: Mode) -> Place:
    """Each store in each mode, with every wait a replay."""
    return Place(store_url, sticky=0, mode=mode)


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, mode: Mode) -> Place:
    """Each store that processes share, in each mode, with every wait a replay."""
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
    elif request.param == "postgres":
        url = request.getfixturevalue("postgres_emptied_url")
    else:
        url = f"sqlite:///{tmp_path.joinpath('shared.db')}"
    return Place(url, sticky=0, mode=mode)


@pytest.fixture
def memory_modes(mode: Mode) -> Place:
    """A store in memory in each mode, for what needs many runs."""
    return Place("memory://", mode=mode)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a lab wait for the bodies of steps on a slow machine."""
    monkeypatch.setattr("pikku.testing.lab.BODIES_AT_MOST_SECONDS", 2.0)
