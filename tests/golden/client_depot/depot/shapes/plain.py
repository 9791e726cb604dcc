"""Shapes that know nothing of the depot."""

from __future__ import annotations

import enum
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel

T = TypeVar("T")


class Unit(enum.Enum):
    """How an article is counted."""

    PIECE = "pc"
    KILO = "kg"

    @property
    def is_weighed(self) -> bool:
        return self is Unit.KILO


class Page(BaseModel, Generic[T]):
    items: list[T]
    after: int | None = None

    def __len__(self) -> int:
        return len(self.items)


class Place(NamedTuple):
    """Where something lies."""

    aisle: int
    shelf: str = "A"


class Line(BaseModel):
    """A line that is drawn, not ordered."""

    start: Place
    end: Place
