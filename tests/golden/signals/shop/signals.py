import datetime as dt

from shop.types import Upgrade
from shop_pikku import wire_signal

upgraded = wire_signal(name="upgraded", payload=Upgrade, description="A user pays from now on")
stop = wire_signal(name="stop")
wire_signal(name="moved-to", payload=list[dt.date])
names = wire_signal(name="names", payload=None)
