"""Trials: two weeks, a reminder on the tenth day, and an upgrade at any time."""

from __future__ import annotations

import asyncio

from shop.types import Trial, TrialEnd, Upgrade
from shop_pikku import WorkflowContext, pikku_workflow_func, wire_signal, wire_workflow

upgraded = wire_signal(name="upgraded", payload=Upgrade, description="The user has chosen a plan")


@pikku_workflow_func
async def trial_workflow(ctx: WorkflowContext, trial: Trial) -> TrialEnd:
    """Wait for the upgrade, at most for the fourteen days."""

    async def remind() -> None:
        await ctx.workflow.sleep("Wait until day 10", "10d")
        await ctx.workflow.do(
            "Remind of the end",
            "send_email",
            {"to": trial["email"], "message": "Your trial ends in four days"},
        )

    reminder = asyncio.create_task(remind())
    first = await ctx.workflow.race(
        ctx.workflow.wait_for_signal("Wait for upgrade", upgraded),
        ctx.workflow.sleep("Trial", "14d"),
    )
    reminder.cancel()
    if first[0] == 1:
        await ctx.workflow.do(
            "Say goodbye",
            "send_email",
            {"to": trial["email"], "message": "Your trial has ended"},
        )
        return {"plan": None}
    return {"plan": first[1]["plan"]}


wire_workflow(name="trial", description="Fourteen days for free", func=trial_workflow)
