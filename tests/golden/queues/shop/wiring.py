import shop_pikku
from pikku import QueueConfig, RateLimit
from shop import functions
from shop.functions import send, send_receipt, sweep
from shop_pikku import wire_queue_worker as wire

wire(
    queue="receipts",
    func=send_receipt,
    config=QueueConfig(concurrency=20, group_concurrency=1, rate_limit=RateLimit(100, "1min")),
)
wire(queue="sweeping", func=sweep, config=None)
wire(queue="outgoing-mail", func=send)
shop_pikku.wire_queue_worker(queue="add", func=functions.sweep)
wire(queue="int", func=functions.sweep)
wire(queue="Job", func=functions.sweep)
wire(queue="class", func=functions.sweep)
