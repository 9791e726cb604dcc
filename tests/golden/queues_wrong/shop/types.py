from dataclasses import dataclass

from typing_extensions import TypedDict


class Parcel(TypedDict):
    sku: str


@dataclass
class Mail:
    to: str
