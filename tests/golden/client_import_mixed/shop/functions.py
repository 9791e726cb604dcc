from dataclasses import dataclass

from shop_pikku import Context, pikku_func


@dataclass
class Order:
    name: str


@pikku_func(expose=True)
async def place(ctx: Context, order: Order) -> None: ...
