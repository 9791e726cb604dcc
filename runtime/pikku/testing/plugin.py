"""The pytest plugin: labs for the project's app, on the store that the command line names.

It has no async fixtures, so that it works under pytest-asyncio and anyio alike.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pikku import App
    from pikku.testing.lab import WorkflowLab
    from pikku.testing.replays import History


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--pikku-app`, `--pikku-store`, `--pikku-queue-service`, and ini options beside them."""
    group = parser.getgroup("pikku")
    for name, default, what in (
        ("app", "", "the generated package of the app under test"),
        ("store", "memory://", "the URL of the store of each lab"),
        ("queue_service", "none", "'store' has the runs of labs cross its queues"),
    ):
        option = f"--pikku-{name.replace('_', '-')}"
        group.addoption(option, dest=f"pikku_{name}", default=None, help=what)
        parser.addini(f"pikku_{name}", help=what, default=default)


def _setting(config: pytest.Config, name: str) -> str:
    given = config.getoption(f"pikku_{name}")
    return str(given if given is not None else config.getini(f"pikku_{name}"))


@pytest.fixture
def pikku_app(request: pytest.FixtureRequest) -> App[Any]:
    """The app of the package that `pikku_app` names, or else the variable `PIKKU_APP`."""
    package = _setting(request.config, "app") or os.environ.get("PIKKU_APP", "")
    if not package:
        pytest.fail("no app: write pikku_app = shop_pikku in pytest's settings", pytrace=False)
    app: App[Any] = importlib.import_module(package).app
    return app


@pytest.fixture
def workflow_lab(request: pytest.FixtureRequest) -> Callable[..., WorkflowLab[Any]]:
    """Makes labs: `async with workflow_lab(services=…) as lab`. The app, the store and the queue
    service are those of pytest's settings, unless they are given."""
    from pikku.testing.lab import WorkflowLab

    def make(app: App[Any] | None = None, **options: Any) -> WorkflowLab[Any]:
        tested: App[Any] = app or request.getfixturevalue("pikku_app")
        options.setdefault("store", _setting(request.config, "store"))
        options.setdefault("queue_service", _setting(request.config, "queue_service"))
        return WorkflowLab(tested, **options)

    return make


@pytest.fixture
def assert_replays(pikku_app: App[Any]) -> Callable[[History], None]:
    """`assert_replays("histories/order-1.json")`: see `pikku.testing.assert_replays`."""
    from pikku.testing.replays import assert_replays as check

    return lambda history: check(pikku_app, history)
