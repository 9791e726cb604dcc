"""What is left to a queue: work that nobody waits for, and that must not go too fast."""

from __future__ import annotations

from pikku import QueueConfig, RateLimit
from shop.functions import quote, send_email
from shop_pikku import wire_queue_worker

wire_queue_worker(
    queue="emails",
    func=send_email,
    config=QueueConfig(concurrency=20, group_concurrency=1, rate_limit=RateLimit(100, "1min")),
)
wire_queue_worker(queue="quotes", func=quote)
