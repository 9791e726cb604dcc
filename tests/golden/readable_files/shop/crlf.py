from shop_pikku import Context, pikku_func


@pikku_func
async def crlf(ctx: Context) -> int:
    """Two

    lines."""
    ...
