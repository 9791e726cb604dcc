from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict, Union

from pydantic import BaseModel, Field


class Card(BaseModel):
    number: str


class Transfer(BaseModel):
    iban: str


class Dog(BaseModel):
    kind: Literal["dog"]


class Cat(BaseModel):
    kind: Literal["cat"]


@dataclass
class Payment:
    by: Card | Transfer
    pet: Dog | Cat


class Options(TypedDict):
    colour: str


class Settings(Options, total=False):
    size: int


Pet = Annotated[Union[Dog, Cat], Field(discriminator="kind")]
