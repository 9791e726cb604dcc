"""A report: each article is counted on its own, and the counts are put together; and one of all
that is reserved, every night."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from shop.types import Report
from shop_pikku import (
    Context,
    WorkflowContext,
    pikku_func,
    pikku_workflow_func,
    wire_scheduler,
    wire_workflow,
)


@pikku_func
def count_reserved(ctx: Context, sku: str) -> int:
    """How much of an article is reserved."""
    entries = ctx.services.ledger.entries()
    lines = [entry for entry in entries if entry["function"] == "reserve" and entry["sku"] == sku]
    return sum(int(str(line["quantity"])) for line in lines)


@pikku_workflow_func
async def report_workflow(ctx: WorkflowContext, skus: list[str]) -> Report:
    """Count every article, then add it all up."""
    counts = await ctx.workflow.map("Count article", count_reserved, skus, max_concurrency=8)
    reserved = dict(zip(skus, counts, strict=True))
    return Report(reserved=reserved, total=sum(counts))


wire_workflow(name="report", description="Reserved articles", func=report_workflow)


@pikku_func(retries=2, retry_delay="1min")
def nightly_report(ctx: Context, due: datetime) -> Report:
    """How much of every article is reserved by then."""
    reserved: Counter[str] = Counter()
    for entry in ctx.services.ledger.entries():
        if entry["function"] == "reserve":
            reserved[str(entry["sku"])] += int(str(entry["quantity"]))
    return Report(reserved=dict(reserved), total=reserved.total())


wire_scheduler(
    name="nightly_report",
    schedule="0 3 * * *",
    timezone="Europe/Berlin",
    func=nightly_report,
    description="Reserved articles, every night",
)
