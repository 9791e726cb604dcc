from dataclasses import dataclass


@dataclass
class Order:
    invoice: str
