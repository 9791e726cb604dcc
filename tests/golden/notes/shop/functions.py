from dataclasses import dataclass

from shop_pikku import Context, pikku_func


@dataclass
class Charge:
    amount: int


@pikku_func
async def charge(ctx: Context, data: Charge) -> int: ...


@pikku_func
async def refund(ctx: Context, data: Charge) -> int: ...
