"""The functions of the shop: each does one thing, and does it once for each idempotency key."""

from __future__ import annotations

from decimal import Decimal

from pikku import StepFailure
from shop.types import Charge, Line, Onboarding, Receipt, SendEmail, Shipment
from shop_pikku import Context, pikku_func

DECLINED = "declined"
"""A card that is never accepted."""

FLAKY = "flaky"
"""A card whose first attempt fails."""

PRICE = Decimal("9.90")

NOWHERE = "nowhere"
"""An address to which nothing can be shipped."""


class CardDeclined(Exception):
    """The bank said no; asking again would not help."""


class NoCarrier(Exception):
    """Nobody delivers to this address."""


@pikku_func
async def create_user_profile(ctx: Context, data: Onboarding) -> None:
    """Create the profile of a new user."""
    key = ctx.step.invocation_id
    ctx.services.ledger.record("create_user_profile", key, user_id=data["user_id"])


@pikku_func(expose=True)
def send_email(ctx: Context, data: SendEmail) -> None:
    """Send an email. Synchronous: it runs in a thread."""
    ctx.services.mailer.send(ctx.step.invocation_id, data["to"], data["message"])


@pikku_func(expose=True)
async def quote(ctx: Context, lines: list[Line]) -> Decimal:
    """What an order of these lines would cost: every article has the same price."""
    return PRICE * sum(line.quantity for line in lines)


@pikku_func
def reserve(ctx: Context, line: Line) -> str:
    """Set an article aside, and return the reservation."""
    key = ctx.step.invocation_id
    ctx.services.ledger.record("reserve", key, sku=line.sku, quantity=str(line.quantity))
    return f"{line.sku}/{key}"


@pikku_func(retries=2, retry_delay="200ms", non_retryable=[CardDeclined])
async def charge(ctx: Context, data: Charge) -> Receipt:
    """Take money from a card; the key lets a second attempt find what the first one took."""
    key = ctx.step.invocation_id
    if data.card == DECLINED:
        raise CardDeclined(f"the card for order {data.order_id} was declined")
    if data.card == FLAKY and ctx.step.attempt_count == 1:
        raise ConnectionError("the bank did not answer")
    ctx.services.ledger.record("charge", key, order_id=data.order_id, amount=str(data.amount))
    return Receipt(payment_id=f"payment-{key}", amount=data.amount)


@pikku_func
async def ship(ctx: Context, data: Shipment) -> str:
    """Send the parcels of an order, and return the tracking number."""
    key = ctx.step.invocation_id
    if data.address == NOWHERE:
        raise NoCarrier(f"nobody delivers to {data.address}")
    ctx.services.ledger.record("ship", key, order_id=data.order_id)
    return f"track-{key}"


@pikku_func
async def cancel_shipment(ctx: Context, failure: StepFailure[Shipment]) -> None:
    """Give the reservations back after a shipment that failed."""
    key = ctx.step.invocation_id
    ctx.services.ledger.record("cancel_shipment", key, order_id=failure.input.order_id)


@pikku_func
async def refund(ctx: Context, receipt: Receipt) -> None:
    """Give the money of a payment back."""
    key = ctx.step.invocation_id
    ctx.services.ledger.record("refund", key, payment_id=receipt.payment_id)
