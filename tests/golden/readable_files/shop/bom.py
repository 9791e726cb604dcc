from shop_pikku import Context, pikku_func


@pikku_func
async def bom(ctx: Context) -> None: ...
