from .money import *
from .people import Person as Person, Team
from shop.types import orders
