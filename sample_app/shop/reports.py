"""A report: each article is counted on its own, and the counts are put together."""

from __future__ import annotations

from shop.types import Report
from shop_pikku import (
    Context,
    WorkflowContext,
    pikku_func,
    pikku_workflow_func,
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
