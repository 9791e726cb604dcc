from typing import Any

from pikku import Call, Next
from shop_pikku import Context, wire_middleware


async def timed(ctx: Context, call: Call, next: Next) -> Any:
    return await next(call.data)


async def is_clerk(ctx: Context, data: object) -> bool:
    return ctx.session is not None and ctx.session.user_id == "clerk"


wire_middleware()
wire_middleware(tags=["money"])
wire_middleware(timed, tag=["money"])


def later() -> None:
    wire_middleware(timed)
