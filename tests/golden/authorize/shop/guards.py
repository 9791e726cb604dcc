from typing import Any

from pikku import Call, Next
from shop_pikku import Context, pikku_func, wire_middleware


async def timed(ctx: Context, call: Call, next: Next) -> Any:
    return await next(call.data)


async def is_clerk(ctx: Context, data: object) -> bool:
    return ctx.session is not None and ctx.session.user_id == "clerk"


wire_middleware(timed)
wire_middleware(timed, tags=["money"])
