from decimal import Decimal

from depot.shapes.plain import Page
from depot.types import Line, Lines, Order, Sketch
from depot_pikku import Context, pikku_func


@pikku_func(expose=True)
async def ping(ctx: Context) -> int:
    """Is anybody there?"""
    return 42


@pikku_func(expose=True)
async def price(ctx: Context, order: Order) -> Decimal:
    """What an order costs."""
    return order.total


@pikku_func(expose=True)
async def same(ctx: Context, order: Order) -> Order:
    """Give back what was sent."""
    return order


@pikku_func(expose=True)
def stock(ctx: Context, skus: list[str]) -> "Page[Line]":
    if "broken" in skus:
        raise RuntimeError("the shelf fell down")
    return Page[Line](items=[Line(articleNumber=sku) for sku in skus])


@pikku_func(expose=True, name="all-lines")
async def all_lines(ctx: Context, data: Lines) -> Sketch | None:
    return None


@pikku_func
async def restock(ctx: Context) -> None: ...
