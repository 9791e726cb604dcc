from shop.functions import charge
from shop.types import Charge
from shop_pikku import (
    WorkflowContext,
    pikku_workflow_func,
    send_signal,
    signals,
    wire_workflow,
)


@pikku_workflow_func
async def flow(ctx: WorkflowContext, data: Charge) -> str:
    await ctx.workflow.wait_for_signal("Unknown name", "upgrade")
    await ctx.workflow.wait_for_signal("Unknown attribute", signals.upgrade)
    await ctx.workflow.wait_for_signal("Unknown reference", upgrade)
    await ctx.workflow.wait_for_signal("", signals.upgraded)
    await ctx.workflow.map("Unknown name", "chrge", [data])
    await ctx.workflow.do("Unknown child", "flwo", data)
    await ctx.workflow.do("Data of a child", "flow", {"order_id": "1"})
    await ctx.workflow.suspend("")
    ctx.workflow.suspend("Forgotten")
    ctx.workflow.map("Forgotten", charge, [data])
    ctx.workflow.approval("Forgotten")
    async with ctx.workflow.saga() as saga:
        await saga.do("A workflow", "flow", data, undo="refund")
        await saga.do("Unknown undo", charge, data, undo="refnd")
        await saga.do("Unknown undo", charge, data, undo=ctx.rpc.refnd)
        await saga.do("Data", "charge", 1, undo="refund")
        saga.do("Forgotten", charge, data, undo="refund")
    await ctx.workflow.race(
        ctx.workflow.do("Same", charge, data),
        ctx.workflow.do("Same", charge, data),
    )
    await send_signal("1", "upgraded", {"plan": "a"})
    return "done"


async def outside() -> None:
    await send_signal("1", "upgrade", {"plan": "a"})
    await send_signal("1", "upgraded", {"plan": 1})


wire_workflow(name="flow", func=flow)
wire_workflow(name="charge", func=flow)
