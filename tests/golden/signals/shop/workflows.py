import asyncio

from shop.functions import charge, refund
from shop.signals import upgraded
from shop.types import Charge, Upgrade
from shop_pikku import WorkflowContext, pikku_workflow_func, signals, wire_workflow, workflows


@pikku_workflow_func
async def trial(ctx: WorkflowContext, data: Charge) -> Upgrade:
    if ctx.workflow.patched("asks first"):
        await ctx.workflow.approval("May this go on?", expires_in="3d")
    index, _ = await ctx.workflow.race(
        ctx.workflow.wait_for_signal("Told to stop", signals.stop),
        ctx.workflow.sleep("Trial period", "14d"),
    )
    if index == 0:
        await ctx.workflow.suspend("stopped by the user")
    await reserve(ctx, data)
    await ctx.workflow.do("Clean up", "cleaning")
    await ctx.workflow.do("Clean up later", workflows.cleaning, detached=True)
    return await ctx.workflow.wait_for_signal("Upgraded", upgraded, timeout="1w")


async def reserve(ctx: WorkflowContext, data: Charge) -> None:
    async with ctx.workflow.saga() as saga:
        await saga.do("Charge", charge, data, undo=refund)
        await saga.do("Charge again", "charge", data, undo="refund")
    await ctx.workflow.map("Charge each", "charge", [data], tolerated_failures=1)
    await ctx.workflow.map("Try each", "trial", [data], max_concurrency=2)


@pikku_workflow_func
async def cleaning(ctx: WorkflowContext) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ctx.workflow.wait_for_signal("Told", "upgraded"))
        await ctx.workflow.sleep("Rest", "1h")
        await task


wire_workflow(name="trial", func=trial)
wire_workflow(name="cleaning", func=cleaning)
