"""The sample app's longer lives: a purchase that is approved, a trial, a migration and a report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

from pikku import Run, RunFailedError
from pikku.errors import ApproverError
from shop.services import Customers, Ledger, Mailer, Services
from shop.types import Line, Migration, Purchase, Purchased, Trial, Upgrade, Verdict
from shop_pikku import app, signals, workflows
from shop_pikku.testing import WorkflowLab

TRIAL: Trial = {"user_id": "ada", "email": "ada@example.com"}
Mode = Literal["none", "store"]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIKKU_STORE", "PIKKU_QUEUE_SERVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    ledger = Ledger(tmp_path / "shop")
    return Services(ledger, Mailer(ledger))


@pytest.fixture(params=["none", "store"], ids=["inline", "remote"])
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def lab(services: Services, store: str, mode: Mode) -> WorkflowLab:
    return WorkflowLab(services=services, store=store, queue_service=mode, auto_advance=False)


def done(services: Services) -> list[object]:
    return [entry["function"] for entry in services.ledger.entries()]


def purchase(amount: str) -> Purchase:
    return Purchase(purchase_id=f"p{amount}", item="a new oven", amount=Decimal(amount))


async def bought(run: Run[Purchased]) -> Purchased:
    return await run.result(timeout="10s")


async def test_a_cheap_purchase_needs_nobody(lab: WorkflowLab, services: Services) -> None:
    async with lab:
        run = await workflows.purchase.start(purchase("10"))

        assert await bought(run) == Purchased(status="ordered")
        await lab.settle()
    assert done(services) == ["reserve_budget", "place_order", "send_email"]


async def test_a_dear_purchase_waits_for_somebody_else_than_its_initiator(
    lab: WorkflowLab, services: Services
) -> None:
    async with lab:
        run = await workflows.purchase.start(purchase("5000"), started_by="ann")
        await lab.settle()
        (request,) = await run.approvals()
        assert (request.step, request.reason) == ("Approve purchase", "a new oven for 5000")
        with pytest.raises(ApproverError):
            await run.approve("Approve purchase", Verdict(cost_centre="kitchen"), by="ann")
        assert done(services) == ["reserve_budget"]

        await run.approve("Approve purchase", Verdict(cost_centre="kitchen"), by="bob")

        assert await bought(run) == Purchased(status="ordered", cost_centre="kitchen")
        await lab.settle()
    assert done(services) == ["reserve_budget", "place_order", "send_email"]
    assert services.ledger.entries()[-1]["message"] == "ordered a new oven for 5000"


@pytest.mark.parametrize("outcome", ["rejected", "expired"])
async def test_without_a_yes_the_budget_is_given_back(
    lab: WorkflowLab, services: Services, outcome: str
) -> None:
    async with lab:
        run = await workflows.purchase.start(purchase("5000"), started_by="ann")
        await lab.settle()
        if outcome == "rejected":
            await run.reject("Approve purchase", by="bob", note="too dear")
        else:
            await lab.advance("3d")

        assert (await bought(run)).status == outcome
    assert done(services) == ["reserve_budget", "release_budget"]


async def test_a_cancelled_purchase_gives_the_budget_back(
    lab: WorkflowLab, services: Services
) -> None:
    async with lab:
        run = await workflows.purchase.start(purchase("5000"), started_by="ann")
        await lab.settle()
        await run.cancel("changed my mind")
        await lab.settle()

        assert await run.status() == "cancelled"
    assert done(services) == ["reserve_budget", "release_budget"]


@pytest.mark.parametrize(("day", "emails"), [("2d", 0), ("12d", 1)])
async def test_an_upgrade_ends_a_trial_at_any_time(
    lab: WorkflowLab, services: Services, day: str, emails: int
) -> None:
    async with lab:
        run = await workflows.trial.start(TRIAL)
        await lab.advance(day)
        await run.signal(signals.upgraded, Upgrade(plan="gold"))

        assert await run.result(timeout="10s") == {"plan": "gold"}
        await lab.advance("30d")
    assert len(done(services)) == emails


async def test_a_trial_reminds_on_day_10_and_ends_on_day_14(
    lab: WorkflowLab, services: Services
) -> None:
    async with lab:
        run = await workflows.trial.start(TRIAL)
        await lab.advance("9d")
        assert done(services) == []
        await lab.advance("1d")
        assert done(services) == ["send_email"]
        await lab.advance("4d")

        assert await run.result(timeout="10s") == {"plan": None}
    assert done(services) == ["send_email", "send_email"]


async def test_a_report_adds_up_what_was_counted_article_by_article(
    lab: WorkflowLab, services: Services
) -> None:
    async with lab:
        for number, sku in enumerate(["apple", "pear", "apple"], start=1):
            line = Line(sku=sku, quantity=number)
            services.ledger.record("reserve", str(number), sku=sku, quantity=str(line.quantity))
        run = await workflows.report.start(["apple", "pear", "nut"])
        report = await run.result(timeout="10s")

    assert report.reserved == {"apple": 4, "pear": 2, "nut": 0}
    assert report.total == 6


def customers(services: Services, count: int, broken: tuple[int, ...] = ()) -> Customers:
    made = services.customers
    made.add(
        "nobody" if number in broken else f"Customer{number}@Example.com"
        for number in range(1, count + 1)
    )
    return made


async def test_a_migration_lists_the_broken_records_and_goes_on(
    lab: WorkflowLab, services: Services
) -> None:
    table = customers(services, 250, broken=(7, 180))
    async with lab:
        run = await workflows.migration.start(Migration(page_size=100, tolerated_failures=1))
        done = await run.result(timeout="60s")

    assert (done.migrated, done.failed) == (248, [7, 180])
    assert table.updates() == {0: 2, 1: 248}


async def test_a_migration_stops_at_more_failures_than_are_tolerated_and_is_retried(
    lab: WorkflowLab, services: Services
) -> None:
    table = customers(services, 30, broken=(7, 8))
    async with lab:
        run = await workflows.migration.start(Migration(page_size=10, tolerated_failures=1))
        with pytest.raises(RunFailedError, match="has no email address"):
            await run.result(timeout="60s")
        services.customers.mend()
        await run.retry()
        done = await run.result(timeout="60s")

    # The failure that was tolerated before the last one stays what the run was told.
    assert done.migrated + len(done.failed) == 30
    # Attempts that were under way when the run failed may have been made once more.
    assert sum(count for times, count in table.updates().items() if times) == done.migrated


def test_ten_thousand_records_are_migrated_once_each_although_the_process_is_killed_half_way(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "shop")
    table = customers(Services(ledger, Mailer(ledger)), 10_000, broken=(5_001,))
    environment = {
        **os.environ,
        "PIKKU_APP": "shop_pikku",
        "PIKKU_STORE": f"sqlite:///{tmp_path}/runs.db",
        "SHOP_DATA": str(tmp_path / "shop"),
    }
    start = [sys.executable, "-m", "pikku.cli", "runs", "start", "migration", "--id", "m"]
    start += ["--input", '{"page_size": 1000}']
    killed = 0
    for part in (2_000, 5_000, 8_000):
        process = subprocess.Popen(start, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
        while process.poll() is None and table.updates().get(0, 0) > 10_000 - part:
            time.sleep(0.02)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed == 3

    subprocess.run(start, cwd=tmp_path, env=environment, check=True, timeout=240)

    updates = Counter(table.updates())
    assert updates[0] == 1
    # What was under way at a kill, at most twenty records, may have been done once more.
    again = sum(count for times, count in updates.items() if times > 1)
    assert again <= 20 * killed
    assert updates.total() == 10_000


async def test_the_app_is_the_one_of_the_package() -> None:
    assert WorkflowLab().app is app
