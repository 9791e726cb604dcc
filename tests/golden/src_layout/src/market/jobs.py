from market_pikku import Context, pikku_func


@pikku_func
async def only_one(ctx: Context, data: int) -> int: ...
