from typing import TypeVar

import shop.types
from shop.types import Chrage, Receipt
from shop_pikku import Context, pikku_func

T = TypeVar("T")


@pikku_func
async def first(ctx: Context, data: Chrage) -> Receit: ...


@pikku_func
async def second(ctx: Context, data: "list[Nothing | Receipt]") -> shop.types.Recipt: ...


@pikku_func
async def third(ctx: Context, data: T) -> T: ...
