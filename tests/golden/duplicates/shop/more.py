from shop_pikku import Context, pikku_func


@pikku_func
async def charge(ctx: Context) -> None: ...


@pikku_func(name="send-email")
async def send(ctx: Context) -> None: ...
