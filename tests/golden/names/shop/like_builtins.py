from shop_pikku import Context, pikku_func


@pikku_func
async def list(ctx: Context, data: int) -> dict[str, int]:
    '''An RPC may be named like a builtin.

    Even with "quotes", \"\"\" and a back\\slash.
    '''


@pikku_func
async def Order(ctx: Context) -> None: ...


@pikku_func(name="invoke")
async def call(ctx: Context) -> None: ...
