"""Inputs and outputs of the shop: a TypedDict, a dataclass or a model, as each fits best.

This module imports nothing generated, so type checkers read it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, Field
from typing_extensions import TypedDict


class Onboarding(TypedDict):
    """Who signed up."""

    email: str
    user_id: str


class Onboarded(TypedDict):
    """What onboarding ends with."""

    success: bool


class SendEmail(TypedDict):
    """One email."""

    to: str
    message: str


class Line(BaseModel):
    """One article of an order."""

    sku: str
    quantity: int = Field(gt=0)


class Order(BaseModel):
    """What a buyer ordered."""

    order_id: str
    email: str
    address: str
    card: str
    lines: list[Line] = Field(min_length=1)
    total: Decimal = Field(gt=0)


@dataclass
class Charge:
    """Money to take from a card."""

    order_id: str
    card: str
    amount: Decimal


@dataclass
class Receipt:
    """Money that was taken."""

    payment_id: str
    amount: Decimal


@dataclass
class Shipment:
    """Parcels to send."""

    order_id: str
    address: str
    reservations: list[str]


class Fulfilment(BaseModel):
    """How an order ended."""

    status: Literal["shipped", "refunded"]
    payment_id: str
    tracking: str | None = None
    reason: str | None = None
