from shop_pikku import Context, pikku_func

print("never printed")
raise RuntimeError("never raised")


@pikku_func
async def raises(ctx: Context) -> None: ...
