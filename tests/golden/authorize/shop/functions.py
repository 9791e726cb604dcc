from shop.guards import is_clerk, timed
from shop_pikku import Context, pikku_func


@pikku_func(expose=True, tags=["money"], middleware=[timed], permissions=[is_clerk])
async def pay(ctx: Context, amount: int) -> int:
    return amount
