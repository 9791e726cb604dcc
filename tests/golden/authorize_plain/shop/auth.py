from dataclasses import dataclass
from typing import Any

from pikku import Action


@dataclass(frozen=True)
class Session:
    user_id: str


def authorize(request: Any, action: Action) -> Session | None:
    return None
