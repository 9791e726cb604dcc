from decimal import Decimal
from typing import NewType

Amount = NewType("Amount", Decimal)
Price = int | Decimal
