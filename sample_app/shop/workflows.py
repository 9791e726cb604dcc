"""The workflows of the shop: onboarding a user, fulfilling an order."""

from __future__ import annotations

import asyncio

from pikku import Backoff, StepFailedError
from shop.functions import cancel_shipment, charge, refund, reserve, ship
from shop.types import Charge, Fulfilment, Onboarded, Onboarding, Order, Shipment
from shop_pikku import WorkflowContext, pikku_workflow_func, wire_workflow


@pikku_workflow_func
async def onboarding_workflow(ctx: WorkflowContext, data: Onboarding) -> Onboarded:
    """Create the profile, wait a little, and say hello."""
    await ctx.workflow.do("Create user profile in database", "create_user_profile", data)
    message = await ctx.workflow.do(
        "Generate welcome message", lambda: f"Welcome to our platform, {data['email']}!"
    )
    await ctx.workflow.sleep("Wait 5 minutes before welcome email", "5min")
    await ctx.workflow.do(
        "Send welcome email", "send_email", {"to": data["email"], "message": message}
    )
    return {"success": True}


@pikku_workflow_func(timeout="14d")
async def order_workflow(ctx: WorkflowContext, order: Order) -> Fulfilment:
    """Reserve every article, charge the card, ship; without a shipment the money goes back."""
    reservations = await asyncio.gather(
        *[
            ctx.workflow.do(f"Reserve line {number}: {line.sku}", reserve, line)
            for number, line in enumerate(order.lines, start=1)
        ]
    )
    receipt = await ctx.workflow.do(
        "Charge card",
        charge,
        Charge(order.order_id, order.card, order.total),
        retries=3,
        retry_delay=Backoff.exponential("100ms", cap="1min"),
        timeout="30s",
    )
    try:
        tracking = await ctx.workflow.do(
            "Ship order",
            ship,
            Shipment(order.order_id, order.address, reservations),
            retries=1,
            on_error=cancel_shipment,
        )
    except StepFailedError as failed:
        await ctx.workflow.do("Refund charge", refund, receipt)
        reason = failed.error.message
        return Fulfilment(status="refunded", payment_id=receipt.payment_id, reason=reason)
    return Fulfilment(status="shipped", payment_id=receipt.payment_id, tracking=tracking)


wire_workflow(
    name="onboarding",
    description="User onboarding workflow",
    func=onboarding_workflow,
    tags=["onboarding", "users"],
)
wire_workflow(name="order", description="Order fulfilment", func=order_workflow, expose=True)
