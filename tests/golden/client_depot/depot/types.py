"""What goes in and out. Imports nothing generated."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import depot.money as money
from depot.shapes import Page, Unit
from depot.shapes.plain import Line as Drawn
from depot.shapes.plain import Place
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

Sku: TypeAlias = str
Speed = Literal["slow", "fast"]
Extras = dict[str, object]  # pikku: opaque
Stamp = create_model("Stamp", by=(str, ...))


class Line(BaseModel):
    """One article of an order."""

    model_config = ConfigDict(populate_by_name=True)

    sku: Sku = Field(alias="articleNumber", min_length=1)
    quantity: int = Field(default=1, gt=0)
    unit: Unit = Unit.PIECE

    @field_validator("sku")
    @classmethod
    def is_upper(cls, value: str) -> str:
        if value != value.upper():
            raise ValueError("is written in capitals")
        return value


class Order(BaseModel):
    """What somebody ordered."""

    class Address(BaseModel):
        """Where it goes."""

        street: str
        city: str = "Bern"

    order_id: uuid.UUID
    lines: list[Line] = Field(min_length=1)
    to: Address
    total: money.Amount
    account: money.Account
    speed: Speed = "slow"
    due: dt.date | None = None
    discount: money.Discount | None = None
    extras: Extras | None = None


@dataclass
class Shipped:
    """How an order ended."""

    at: dt.datetime
    took: dt.timedelta
    total: money.Amount
    places: list[Place] = field(default_factory=list)
    note: str = ""
    stamp: Stamp | None = None  # pikku: opaque

    def __post_init__(self) -> None:
        self.note = self.note.strip()


class Payment(BaseModel):
    amount: money.Amount
    method: Literal["card", "cash"] = "card"


class Verdict(BaseModel):
    """Comes with the answer to an approval; nothing that is exposed names it."""

    cost_centre: str


Lines = Page[Line]


class Sketch(BaseModel):
    drawn: list[Drawn]
