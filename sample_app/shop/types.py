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


class Purchase(BaseModel):
    """Something that a member of the shop's staff wants to buy."""

    purchase_id: str
    item: str
    amount: Decimal = Field(gt=0)


class Verdict(BaseModel):
    """What comes with the decision on a purchase."""

    cost_centre: str


class Purchased(BaseModel):
    """How a purchase ended."""

    status: Literal["ordered", "rejected", "expired"]
    cost_centre: str | None = None


class Trial(TypedDict):
    """Who tries the shop's premium service."""

    user_id: str
    email: str


class Upgrade(TypedDict):
    """What a user has upgraded to."""

    plan: str


class TrialEnd(TypedDict):
    """How a trial ended: with a plan, or without one."""

    plan: str | None


class Migration(BaseModel):
    """How to bring the customers' records up to date."""

    page_size: int = Field(default=500, gt=0, le=10_000)
    tolerated_failures: int = Field(default=10, ge=0)


@dataclass
class Page:
    """A part of the customers: those that follow one, at most so many."""

    after: int
    size: int


class Migrated(BaseModel):
    """What a migration did."""

    migrated: int
    failed: list[int]


class Report(BaseModel):
    """How much was reserved of which article."""

    reserved: dict[str, int]
    total: int
