from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import TypedDict


class Upgrade(TypedDict):
    plan: str


@dataclass
class Charge:
    order_id: str
    amount: int
