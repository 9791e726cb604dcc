import datetime as dt

from depot.types import Order, Payment, Shipped, Verdict
from depot_pikku import WorkflowContext, pikku_workflow_func, signals, wire_signal, wire_workflow

paid = wire_signal(name="paid", payload=Payment, description="The money is there.")
wire_signal(name="go-on")
wire_signal(name="elsewhere", payload=Verdict)


@pikku_workflow_func
async def order_workflow(ctx: WorkflowContext, order: Order) -> Shipped:
    """Wait for the money, ask where it is much, ship."""
    payment = await ctx.workflow.wait_for_signal("Wait for the money", "paid")
    note = payment.method
    if order.total > 1000:
        decision = await ctx.workflow.approval("Approve / order", schema=Verdict)
        note = decision.outcome
    return Shipped(
        at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        took=dt.timedelta(minutes=5),
        total=payment.amount,
        note=note,
    )


@pikku_workflow_func
async def count_workflow(ctx: WorkflowContext) -> int:
    """Count what there is."""
    await ctx.workflow.wait_for_signal("Wait for word", signals.go_on)
    return 3


@pikku_workflow_func
async def broken_workflow(ctx: WorkflowContext, fails: bool) -> None:
    """Fail, or wait for ever."""
    if fails:
        raise ValueError("no such luck")
    await ctx.workflow.suspend("for nothing")


@pikku_workflow_func
async def secret_workflow(ctx: WorkflowContext) -> None:
    await ctx.workflow.wait_for_signal("Wait", "elsewhere")


wire_workflow(name="order", func=order_workflow, expose=True, description="An order")
wire_workflow(name="count", func=count_workflow, expose=True)
wire_workflow(name="broken", func=broken_workflow, expose=True)
wire_workflow(name="secret", func=secret_workflow)
