from pikku import Undo
from shop.types import Charge
from shop_pikku import Context, pikku_func


@pikku_func
async def charge(ctx: Context, data: Charge) -> str: ...


@pikku_func
async def refund(ctx: Context, data: Undo[Charge, str]) -> None: ...


@pikku_func
async def ping(ctx: Context) -> int: ...
