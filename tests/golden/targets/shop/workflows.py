from __future__ import annotations

import shop.functions as shop_functions
from shop.functions import charge, ping
from shop.types import Charge, SendEmail
from shop_pikku import WorkflowContext, pikku_workflow_func, rpc, start_workflow, wire_workflow, workflows


@pikku_workflow_func
async def unwired(ctx: WorkflowContext) -> None: ...


@pikku_workflow_func
async def order(ctx: WorkflowContext, data: Charge) -> None:
    await ctx.workflow.do("Unknown string", "send_mail", {"to": "", "message": ""})
    await ctx.workflow.do("Unknown attribute", ctx.rpc.chrge, data)
    await ctx.workflow.do("Unknown workflow", workflows.ordr, data)
    await ctx.workflow.do("Unwired", unwired)
    await ctx.workflow.do("Unknown reference", chrge, data)
    await ctx.workflow.do("Imported elsewhere", shop_functions.ping)
    from shop.functions import ping as here

    await ctx.workflow.do("Imported here", here)
    await ctx.rpc.charge(data)
    await ctx.rpc.invoke("charge", data)
    await ctx.rpc.start_workflow("order", data)
    await start_workflow("order", data)
    await workflows.order.start(data)
    await rpc.ping()
    await charge(ctx, data)
    names = ctx.rpc
    await names.ping()
    await ctx.workflow.do("Inside", lambda: ctx.rpc.charge(data))

    async def fetch() -> str:
        return await rpc.ping()

    await ctx.workflow.do("Recorded as one step", fetch)


wire_workflow(name="order", func=order)
