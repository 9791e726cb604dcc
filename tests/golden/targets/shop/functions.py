from shop.types import Charge, Receipt, SendEmail
from shop_pikku import Context, pikku_func


@pikku_func
async def send_email(ctx: Context, data: SendEmail) -> None: ...


@pikku_func
async def charge(ctx: Context, data: Charge) -> Receipt: ...


@pikku_func
async def ping(ctx: Context) -> str: ...
