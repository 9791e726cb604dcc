from shop.types import Upgrade
from shop_pikku import wire_signal

NAME = "computed"
OPTIONS = {"name": "x"}

upgraded = wire_signal(name="upgraded", payload=Upgrade)
twice = wire_signal(name="upgraded", payload=Upgrade)
moved = wire_signal(name="moved-to")
clash = wire_signal(name="moved_to")
computed = wire_signal(name=NAME)
described = wire_signal(name="described", description=NAME)
unpacked = wire_signal(**OPTIONS)
positional = wire_signal("positional")
nameless = wire_signal(payload=Upgrade)
option = wire_signal(name="option", type=Upgrade)
unresolved = wire_signal(name="unresolved", payload=Upgrad)
called = wire_signal(name="called", payload=type(NAME))
quoted = wire_signal(name="quoted", payload="Upgrade")


def make() -> None:
    inner = wire_signal(name="inner")
    print(inner)
