"""Purchases: a budget is reserved, somebody else approves what is dear, and without that the budget
is given back."""

from __future__ import annotations

from decimal import Decimal

from pikku import Undo
from shop.types import Purchase, Purchased, SendEmail, Verdict
from shop_pikku import (
    Context,
    WorkflowContext,
    pikku_func,
    pikku_workflow_func,
    queues,
    wire_workflow,
)

LIMIT = Decimal(1000)
"""What may be bought without asking."""

OFFICE = "purchases@shop.example"
"""Where receipts go."""


class NotApproved(Exception):
    """Nobody said yes."""


@pikku_func
async def reserve_budget(ctx: Context, purchase: Purchase) -> str:
    """Set the money aside, and return the reservation."""
    key = ctx.step.invocation_id
    ctx.services.ledger.record("reserve_budget", key, purchase_id=purchase.purchase_id)
    return f"budget-{key}"


@pikku_func
async def release_budget(ctx: Context, undo: Undo[Purchase, str]) -> None:
    """Give the money that was set aside back."""
    key = ctx.step.invocation_id
    ctx.services.ledger.record("release_budget", key, reservation=undo.output)


@pikku_func
async def place_order(ctx: Context, purchase: Purchase) -> None:
    """Order at the supplier, and leave the receipt to the mail queue: one, however often this is
    tried."""
    key = ctx.step.invocation_id
    ctx.services.ledger.record("place_order", key, purchase_id=purchase.purchase_id)
    receipt = SendEmail(to=OFFICE, message=f"ordered {purchase.item} for {purchase.amount}")
    await queues.emails.add(receipt, dedupe_id=key, group=OFFICE)


@pikku_workflow_func
async def purchase_workflow(ctx: WorkflowContext, purchase: Purchase) -> Purchased:
    """Reserve the budget, wait for a person where it is dear, and order."""
    outcome = Purchased(status="ordered")
    try:
        async with ctx.workflow.saga() as saga:
            await saga.do("Reserve budget", reserve_budget, purchase, undo=release_budget)
            if purchase.amount > LIMIT:
                decision = await ctx.workflow.approval(
                    "Approve purchase",
                    schema=Verdict,
                    reason=f"{purchase.item} for {purchase.amount}",
                    expires_in="3d",
                    approvers="not_initiator",
                )
                if decision.outcome != "approved":
                    outcome = Purchased(status=decision.outcome)
                    raise NotApproved
                if decision.data is not None:
                    outcome = Purchased(status="ordered", cost_centre=decision.data.cost_centre)
            await ctx.workflow.do("Place order", place_order, purchase)
    except NotApproved:
        return outcome
    return outcome


wire_workflow(
    name="purchase",
    description="A purchase, approved where it is dear",
    func=purchase_workflow,
    tags=["purchases"],
)
