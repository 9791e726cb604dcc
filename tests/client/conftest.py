"""The depot of tests/golden/client_depot: its server over real sockets, and its client."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.client.server import TOKEN, Served, served

from pikku_gen import generate
from pikku_gen.client.build import build_client

ROOT = Path(__file__).parents[2]
DEPOT = ROOT / "tests" / "golden" / "client_depot"
NAMES = ("depot", "depot_pikku", "depot_client")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The generated and importable project; its client is in the folder `client`."""
    folder = tmp_path_factory.mktemp("client") / "project"
    shutil.copytree(DEPOT, folder, ignore=shutil.ignore_patterns("expected", "__pycache__"))
    assert not generate(folder).failed
    assert not build_client(folder, folder / "client", None).failed
    sys.path[:0] = [str(folder), str(folder / "client")]
    yield folder
    sys.path.remove(str(folder))
    sys.path.remove(str(folder / "client"))
    for name in [each for each in sys.modules if each.partition(".")[0] in NAMES]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def types(project: Path) -> Any:
    """`depot_client.types`."""
    return importlib.import_module("depot_client.types")


@pytest.fixture(scope="session")
def client_package(project: Path) -> Any:
    """`depot_client`."""
    return importlib.import_module("depot_client")


@pytest.fixture
async def depot(project: Path) -> AsyncGenerator[Served, None]:
    """The depot's server, over a store in memory."""
    app = importlib.import_module("depot_pikku").app
    async with app.open(store="memory://"), served(app) as made:
        yield made


@pytest.fixture
async def shop(depot: Served, client_package: Any) -> AsyncGenerator[Any, None]:
    """The asynchronous client of the depot."""
    async with client_package.DepotClient(depot.url, token=TOKEN) as client:
        yield client


Order = Callable[..., Any]


@pytest.fixture
def order(types: Any) -> Order:
    """Makes orders."""

    def make(**changes: Any) -> Any:
        line = importlib.import_module("depot_client.types.depot.types").Line
        given: dict[str, Any] = {
            "order_id": "6a5fe5c2-0f0b-4b2f-9d5e-2b4c4c1b7f10",
            "lines": [line(articleNumber="A1", quantity=2, unit=types.Unit.KILO)],
            "to": types.Order.Address(street="Main Street 1"),
            "total": "19.90",
            "account": types.Account("ann"),
            "due": "2026-02-03",
            "discount": {"code": "X", "amount": "1.50", "currency": types.Currency.EURO},
            "extras": {"wrapped": True, "greeting": ["a", 1, None]},
        }
        return types.Order(**(given | changes))

    return make
