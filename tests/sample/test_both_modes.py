"""The sample app, unchanged, inline and remote: the same outcomes and the same effects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest

from pikku import App, Run, RunFailedError
from pikku.testing import WorkflowLab
from shop.functions import DECLINED, FLAKY, NOWHERE
from shop.services import Ledger, Mailer, Services
from shop.types import Line, Onboarding, Order
from shop_pikku import app

LINES = [Line(sku="apple", quantity=2), Line(sku="pear", quantity=1), Line(sku="nut", quantity=9)]


def order(name: str, *, card: str = "visa", address: str = "1 Main Street") -> Order:
    return Order(
        order_id=name,
        email=f"{name}@example.com",
        address=address,
        card=card,
        lines=LINES,
        total=Decimal("3.50"),
    )


ORDERS: dict[str, Order] = {
    "plain": order("plain"),
    "flaky": order("flaky", card=FLAKY),
    "declined": order("declined", card=DECLINED),
    "nowhere": order("nowhere", address=NOWHERE),
}
ONBOARDING: Onboarding = {"email": "ada@example.com", "user_id": "ada"}
Story = tuple[dict[str, Any], list[tuple[str, ...]]]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIKKU_STORE", "PIKKU_QUEUE_SERVICE"):
        monkeypatch.delenv(name, raising=False)


async def outcome_of(run: Run[Any]) -> Any:
    """What became of a run, as something to compare."""
    try:
        return await run.result(timeout="60s")
    except RunFailedError as failed:
        return failed.error.type, failed.error.message


def effects_of(ledger: Ledger) -> list[tuple[str, ...]]:
    """What was done and under which keys, without by whom, and in no order between runs."""
    return sorted(
        tuple(f"{name}={value}" for name, value in sorted(entry.items()) if name != "pid")
        for entry in ledger.entries()
    )


async def told_by_lab(
    url: str, queue_service: Literal["none", "store"], folder: Path, *, onboard: bool = True
) -> Story:
    """Every run, in one process with a clock that jumps."""
    ledger = Ledger(folder)
    services = Services(ledger, Mailer(ledger))
    shop: App[Services] = app
    async with WorkflowLab(shop, services=services, store=url, queue_service=queue_service):
        runs = [
            await app.start_workflow("order", each, run_id=name) for name, each in ORDERS.items()
        ]
        if onboard:
            runs.append(await app.start_workflow("onboarding", ONBOARDING, run_id="onboarding"))
        outcomes = {run.run_id: await outcome_of(run) for run in runs}
    return outcomes, effects_of(ledger)


@pytest.fixture
def workers(tmp_path: Path, redis_url: str) -> Generator[dict[str, subprocess.Popen[bytes]]]:
    """A worker that orchestrates and one that executes steps, so that every step crosses a
    queue."""
    hidden = ("PIKKU_", "SHOP_")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
    environment |= {
        "PIKKU_APP": "shop_pikku",
        "PIKKU_STORE": redis_url,
        "PIKKU_QUEUE_SERVICE": "store",
        "SHOP_DATA": str(tmp_path / "remote"),
    }
    with ExitStack() as stack:
        started: dict[str, subprocess.Popen[bytes]] = {}
        for queue in ("orchestrator", "default"):
            worker = subprocess.Popen(
                [sys.executable, "-m", "pikku.cli", "worker", "--queues", queue],
                cwd=tmp_path,
                env=environment,
            )
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            started[queue] = worker
        yield started


async def test_the_outcomes_and_effects_are_those_that_the_sample_promises(tmp_path: Path) -> None:
    outcomes, effects = await told_by_lab("memory://", "none", tmp_path)

    assert outcomes["onboarding"] == {"success": True}
    assert outcomes["plain"].status == outcomes["flaky"].status == "shipped"
    assert outcomes["nowhere"].status == "refunded"
    assert outcomes["declined"][1].endswith("the card for order declined was declined")
    assert sum("function=reserve" in each for each in effects) == len(ORDERS) * len(LINES)


@pytest.mark.parametrize("store", ["memory", "sqlite", "redis"])
async def test_in_one_process_both_modes_tell_the_same_story(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db"}.get(store)
    url = url or str(request.getfixturevalue("redis_url"))
    inline = await told_by_lab("memory://", "none", tmp_path / "inline")

    remote = await told_by_lab(url, "store", tmp_path / "remote")

    assert remote == inline


async def test_two_workers_on_a_redis_tell_the_story_that_one_process_tells(
    workers: dict[str, subprocess.Popen[bytes]], tmp_path: Path, redis_url: str
) -> None:
    inline = await told_by_lab("memory://", "none", tmp_path / "inline", onboard=False)
    remote = Ledger(tmp_path / "remote")
    here = Ledger(tmp_path / "here")
    services = Services(here, Mailer(here))

    async with app.open(store=redis_url, queue_service="store", services=services):
        runs = [
            await app.start_workflow("order", each, run_id=name) for name, each in ORDERS.items()
        ]
        outcomes = {run.run_id: await outcome_of(run) for run in runs}

    assert (outcomes, effects_of(remote)) == inline
    assert here.entries() == []
    assert {entry["pid"] for entry in remote.entries()} == {workers["default"].pid}
    for worker in workers.values():
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
