from shop_pikku import Context, pikku_func


@pikku_func(middlewares=[], permission=[])
async def pay(ctx: Context, amount: int) -> int:
    return amount
