from shop_pikku import Context, pikku_func


@pikku_func
async def unreachable(ctx: Context) -> None: ...
