# -*- coding: latin-1 -*-
from shop_pikku import Context, pikku_func


@pikku_func
async def latin(ctx: Context) -> None:
    """Grüße."""
