from __future__ import annotations

import datetime as dt
import typing as t
from typing import TYPE_CHECKING, Annotated, Literal

import shop.types.orders
import shop_pikku as p
from pydantic import Field
from shop import billing
from shop.types import Amount, Person, Price
from shop_pikku import Context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .types import Team as Group


@p.pikku_func
async def by_module_alias(ctx: p.Context, data: dt.datetime) -> t.Optional[int]: ...


@p.pikku_func()
def quoted(ctx: "Context", data: "Group") -> "list[Person] | None": ...


@p.pikku_func(name="type.checking")
def under_type_checking(ctx: Context, data: Sequence[Amount]) -> Price: ...


@p.pikku_func
async def annotated(
    ctx: Context,
    data: Annotated[
        int,
        Field(gt=0, description="a number"),
    ],
) -> Literal["a", "b"]: ...


@p.pikku_func
async def two_orders(ctx: Context, data: billing.Order) -> shop.types.orders.Order: ...


@p.pikku_func
async def nested(ctx: Context, data: Person.Address) -> dict[str, "Person"]: ...


@p.pikku_func
async def uses_alias(ctx: Context, data: "Numbers") -> int: ...


Numbers = t.List[int]


@p.pikku_func
async def listed(ctx: Context, data: t.Any) -> "list[int]": ...


p.wire_signal(name="class", payload=dt.datetime)
named: object = p.wire_signal(name="list", payload=Person.Address)
p.wire_signal(name="Signal", payload=list[int])
