from shop_pikku import Context, pikku_func


@pikku_func(expose=False)
async def place(ctx: Context, order: str) -> None: ...
