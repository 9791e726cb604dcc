"""Who asks the shop over HTTP."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass

from starlette.requests import Request

from pikku import Action


@dataclass(frozen=True)
class Customer:
    """What `ctx.session` is, in a call that comes from outside."""

    user_id: str


async def authorize(request: Request, action: Action) -> Customer | None:
    """The customer whose token the request has; `SHOP_TOKENS` has them, as `ann:secret,bob:…`."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    for pair in os.environ.get("SHOP_TOKENS", "").split(","):
        name, _, token = pair.partition(":")
        if token and hmac.compare_digest(token.encode(), given.encode()):
            return Customer(name)
    return None
