from shop.generic import Maybe, Pair
from shop_pikku import Context, pikku_func


@pikku_func
async def newer(ctx: Context, data: Maybe) -> Pair[int]: ...
