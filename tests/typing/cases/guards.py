# ruff: noqa
"""What stands around functions is typed, and so is the session."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, reveal_type

from pikku import Call, Next
from shop_pikku import Context, pikku_func, wire_middleware


async def timed(ctx: Context, call: Call, next: Next) -> Any:
    reveal_type(call.function)  # R: str
    return await next(call.data)


async def without_next(ctx: Context, call: Call) -> Any:
    return call.data


async def is_clerk(ctx: Context, amount: Decimal) -> bool:
    return ctx.session is not None and ctx.session.user_id == "ann"


def plain(ctx: Context, amount: Decimal) -> bool:
    return True


async def says_more(ctx: Context, amount: Decimal) -> str:
    return "yes"


@pikku_func(middleware=[timed], permissions=[is_clerk])
async def pay(ctx: Context, amount: Decimal) -> Decimal:
    reveal_type(ctx.session)  # R: Customer | None
    ctx.session.user_id  # E: union-attr
    return amount


@pikku_func(middleware=[without_next])  # E: list-item
async def one(ctx: Context) -> None: ...


@pikku_func(permissions=[plain])  # E: list-item
async def two(ctx: Context) -> None: ...


@pikku_func(permissions=[says_more])  # E: list-item
async def three(ctx: Context) -> None: ...


wire_middleware(timed)
wire_middleware(timed, tags=["money"])
wire_middleware(plain)  # E: arg-type
wire_middleware(timed, tag=["money"])  # E: call-arg
