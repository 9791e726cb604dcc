from typing import Annotated

from pydantic import Field
from shop.types import Card, Cat, Dog, Options, Payment, Pet, Settings, Transfer
from shop_pikku import Context, pikku_func


@pikku_func
async def pay(ctx: Context, data: Card | Transfer) -> None: ...


@pikku_func
async def pay_many(ctx: Context, data: list[Card | Transfer | None]) -> "Card | str": ...


@pikku_func
async def keep(ctx: Context, data: Payment) -> Dog | Cat: ...


@pikku_func
async def walk(ctx: Context, data: Pet) -> Annotated[Dog | Cat, Field(discriminator="kind")]: ...


@pikku_func
async def dress(ctx: Context, data: Settings) -> None: ...
