from shop.types import Item
from shop_pikku import Context, pikku_func


@pikku_func
async def ping(ctx: Context) -> None: ...


@pikku_func
async def reserve(ctx: Context, item: Item) -> str:
    return item.id
