import enum
import functools
from collections import namedtuple
from dataclasses import dataclass, field
from decimal import *
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, PlainValidator, field_serializer
from shop.codes import Code, new_code

Point = namedtuple("Point", "x y")
LIMIT, LEAST = 100, 1


class Registered(type(BaseModel)):
    pass


class Listed(BaseModel, metaclass=Registered):
    name: str


class Money(BaseModel):
    amount: int

    @field_serializer("amount")
    def in_cents(self, amount: int) -> str:
        return f"{amount}c"


class Serial(str, enum.Enum):
    def _generate_next_value_(name, start, count, last):
        return name.lower()

    FIRST = enum.auto()


class Own:
    def __init__(self, what: str) -> None:
        self.what = what


if functools:

    class Odd(BaseModel):
        name: str


class Busy(BaseModel):
    for each in range(3):
        pass


@functools.lru_cache
def checked(value: int) -> int:
    return value


@dataclass
class Order:
    point: Point
    listed: Listed
    money: Money
    serial: Serial
    own: Own
    odd: Odd
    busy: Busy
    code: Code
    total: Decimal
    size: Annotated[int, Field(le=LIMIT)]
    plain: Annotated[int, PlainValidator(checked)]
    fine: Annotated[int, AfterValidator(checked)]
    made: str = field(default_factory=new_code)
