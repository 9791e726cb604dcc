"""What a user of the depot's client writes, and the types that come of it."""

from __future__ import annotations

from decimal import Decimal
from typing import reveal_type
from uuid import uuid4

from depot_client import ClientRun, DepotClient, SyncDepotClient, errors, signals
from depot_client.types import Account, Lines, Order, Payment, Unit
from depot_client.types.depot.types import Line


def an_order() -> Order:
    return Order(
        order_id=uuid4(),
        lines=[Line(articleNumber="A1", quantity=2, unit=Unit.PIECE)],
        to=Order.Address(street="Main Street 1"),
        total=Decimal("19.90"),
        account=Account("ann"),
    )


async def attributes(shop: DepotClient) -> None:
    reveal_type(await shop.rpc.ping())  # R: int
    reveal_type(await shop.rpc.price(an_order()))  # R: Decimal
    reveal_type(await shop.rpc.stock(["A1"]))  # R: Page[Line]
    reveal_type(await shop.rpc.all_lines(Lines(items=[])))  # R: Sketch | None
    run = await shop.workflows.order.start(an_order(), run_id="order-1")
    reveal_type(run)  # R: ClientRun[Shipped]
    shipped = await run.result(timeout="1h")
    reveal_type(shipped.took)  # R: timedelta
    await run.signal(signals.paid, Payment(amount=shipped.total))
    await run.signal(signals.go_on)
    await run.approve("Approve / order", {"cost_centre": "7"}, note="fine")
    counted = await shop.workflows.count.start()
    reveal_type(await counted.result())  # R: int
    reveal_type(shop.workflows.order.get_run("order-1"))  # R: ClientRun[Shipped]


async def strings(shop: DepotClient) -> None:
    reveal_type(await shop.invoke("price", an_order()))  # R: Decimal
    reveal_type(await shop.invoke("ping"))  # R: int
    reveal_type(await shop.start_workflow("order", an_order()))  # R: ClientRun[Shipped]
    reveal_type(await shop.start_workflow("count"))  # R: ClientRun[int]
    reveal_type(shop.get_run("order-1"))  # R: ClientRun[Any]


async def following(run: ClientRun[int]) -> int | None:
    async for event in run.events():
        reveal_type(event.number)  # R: int
    reveal_type(await run.status() == "running")  # R: bool
    try:
        return await run.result(timeout="5min")
    except errors.RunFailedError as failed:
        reveal_type(failed.error_type)  # R: str
    except errors.InvalidInputError as refused:
        reveal_type(refused.problems[0].path)  # R: tuple[str | int, ...]
    return None


def without_a_loop() -> None:
    with SyncDepotClient("https://depot.example/pikku", token="t") as shop:
        reveal_type(shop.rpc.price(an_order()))  # R: Decimal
        run = shop.start_workflow("order", an_order())
        reveal_type(run.result())  # R: Shipped
        for event in run.events():
            reveal_type(event.kind)  # R: str
