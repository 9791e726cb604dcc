from shop.types import Order
from shop_pikku import Context, pikku_func


@pikku_func(expose=True)
async def place(ctx: Context, order: Order) -> list[Order]: ...
