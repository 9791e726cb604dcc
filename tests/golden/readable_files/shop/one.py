from shop.two import Two
from shop_pikku import Context, pikku_func


class One: ...


@pikku_func
async def circular(ctx: Context, data: Two) -> "One": ...
