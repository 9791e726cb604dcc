from shop.types import Mail
from shop_pikku import Context, pikku_func, queues


@pikku_func(retries=3, retry_delay="10s", timeout="30s")
async def send_receipt(ctx: Context, data: Mail) -> None:
    """Sends a receipt by mail."""


@pikku_func
def sweep(ctx: Context) -> int: ...


@pikku_func(name="mail.send", queue="bulk")
async def send(ctx: Context, data: list[Mail]) -> dict[str, int]: ...


@pikku_func
async def order(ctx: Context, data: Mail) -> None:
    job = await queues.receipts.add(data, delay="5min", dedupe_id="order-1", keep_result=True)
    await queues.add("receipts", Mail("a@example.com"), priority=5)
    await queues.add("sweeping")
    await queues.outgoing_mail.add_many([[data]])
    queues.receipts.get_job(job.job_id)
