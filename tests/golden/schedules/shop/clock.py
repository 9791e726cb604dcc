import shop_pikku
from shop import functions
from shop.functions import bill, by_alias, month_end, nightly_report, of_nothing, perhaps
from shop_pikku import wire_scheduler

ZONE = "Europe/Berlin"

wire_scheduler(
    name="nightly_report",
    schedule="0 3 * * *",
    timezone="Europe/Berlin",
    func=nightly_report,
    catch_up="once",
    description="What was sold",
)
wire_scheduler(name="hourly bill", schedule="@hourly", func=bill, catch_up="skip")
wire_scheduler(name="computed", schedule="0 " + "3 * * *", timezone=ZONE, func=functions.bill)
wire_scheduler(name="month-end", schedule="30 4 L * *", func=month_end, catch_up="all")
wire_scheduler(name="perhaps", schedule="0 0 * * mon-fri", func=perhaps)
wire_scheduler(name="by alias", schedule="*/5 8-17 * jan,feb 1", timezone="UTC", func=by_alias)
shop_pikku.wire_scheduler(name="nothing", schedule="@daily", func=of_nothing)
