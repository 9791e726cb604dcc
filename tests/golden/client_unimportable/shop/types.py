from dataclasses import dataclass

from no_such_library.money import Money


@dataclass
class Order:
    total: Money
