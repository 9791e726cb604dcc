from pikku import QueueConfig
from shop.types import Mail, Parcel
from shop_pikku import Context, pikku_func, queues, wire_queue_worker

NAME = "computed"
OPTIONS = {"queue": "x"}


@pikku_func
async def send(ctx: Context, data: Mail) -> None: ...


@pikku_func
async def pack(ctx: Context, data: Parcel) -> None: ...


async def plain(ctx: Context, data: Mail) -> None: ...


wire_queue_worker(queue="mail", func=send)
wire_queue_worker(queue="mail", func=pack)
wire_queue_worker(queue="out-going", func=send)
wire_queue_worker(queue="out_going", func=send)
wire_queue_worker(queue="parcels", func=pack)
wire_queue_worker(queue="plain", func=plain)
wire_queue_worker(queue="typo", func=sned)
wire_queue_worker(queue="lambda", func=lambda ctx: None)
wire_queue_worker(queue="no room", func=send)
wire_queue_worker(queue="inline", func=send)
wire_queue_worker(queue=NAME, func=send)
wire_queue_worker("positional", send)
wire_queue_worker(**OPTIONS)
wire_queue_worker(queue="nothing")
wire_queue_worker(queue="option", func=send, concurency=QueueConfig(concurrency=1))


def make() -> None:
    wire_queue_worker(queue="inner", func=send)


async def outside(data: Mail) -> None:
    await queues.mial.add(data)
    await queues.add("mial", data)
    await queues.mail.add(1)
    await queues.add("parcels", {"sku": 1})
    await queues.parcels.add({"ksu": "1"}, priority=1)
    queues.parcel.get_job("1")
