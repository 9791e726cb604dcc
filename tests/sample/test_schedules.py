"""The shop's nightly report."""

from __future__ import annotations

from pathlib import Path

from pikku.testing import WorkflowLab
from shop.services import Ledger, Mailer, Services
from shop_pikku import app


async def test_the_report_is_made_every_night_at_three_in_berlin(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.record("reserve", "r1", sku="apple", quantity="2")

    async with WorkflowLab(app, services=Services(ledger, Mailer(ledger)), schedules=True) as lab:
        await lab.advance("2d")
        (info,) = await app.list_schedules()

    assert lab.executions("Call") == 2
    assert info.last_run == "schedule:nightly_report:20300102T020000Z"
