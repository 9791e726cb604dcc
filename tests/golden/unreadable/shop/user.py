from shop.broken_types import Order
from shop_pikku import Context, pikku_func


@pikku_func
async def use(ctx: Context, data: Order) -> None: ...
