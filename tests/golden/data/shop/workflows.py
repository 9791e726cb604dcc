from __future__ import annotations

from shop.functions import charge, count, ping
from shop.types import Charge, Receipt, Refund, Reminder, SendEmail
from shop_pikku import WorkflowContext, pikku_workflow_func, wire_workflow


@pikku_workflow_func
async def right(ctx: WorkflowContext, data: Reminder) -> None:
    await ctx.workflow.do("1", "send_email", data)
    await ctx.workflow.do("2", "send_email", {"to": data["to"], "message": f"{data}"})
    await ctx.workflow.do("3", "send_email", {**data, "message": ""})
    await ctx.workflow.do("4", "count", True)
    await ctx.workflow.do("5", "note", None)
    await ctx.workflow.do("6", "total", [Charge("1", 1)])
    receipt = await ctx.workflow.do("7", charge, Charge("1", 1))
    await ctx.workflow.do("8", "note", receipt.payment_id)
    await ctx.workflow.do("9", ping)
    message = SendEmail(to="", message="")
    await ctx.workflow.do("10", "send_email", message)
    await ctx.workflow.do("11", "send_email", dict(data))
    data = something(data)
    await ctx.workflow.do("12", "send_email", unknown)


def something(data: Reminder) -> Reminder: ...


unknown: SendEmail


@pikku_workflow_func
async def wrong(ctx: WorkflowContext, data: Charge) -> None:
    await ctx.workflow.do("1", "send_email", data)
    await ctx.workflow.do("2", "send_email", {"to": data.amount, "message": ""})
    await ctx.workflow.do("3", "send_email", {"to": "a", "mesage": ""})
    await ctx.workflow.do("4", "count", "1")
    await ctx.workflow.do("5", "note", 1)
    await ctx.workflow.do("6", "total", [Charge("1", 1), "2"])
    receipt = await ctx.workflow.do("7", charge, Receipt("1"))
    await ctx.workflow.do("8", charge, receipt)
    await ctx.workflow.do("9", ping, data)
    await ctx.workflow.do("10", ctx.rpc.charge)
    refund: Refund = Refund("1", "why")
    await ctx.workflow.do("11", "charge", refund)
    number = 1
    await ctx.workflow.do("12", "send_email", number)
    result = await ctx.workflow.do("13", count, number)
    await ctx.workflow.do("14", count, result)


wire_workflow(name="right", func=right)
wire_workflow(name="wrong", func=wrong)
