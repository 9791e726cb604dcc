from dataclasses import dataclass
from typing import Any

from pikku import Action


@dataclass(frozen=True)
class Session:
    user_id: str


async def authorize(request: Any, action: Action) -> "Session":
    return Session("")
