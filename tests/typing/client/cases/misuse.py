"""Mistakes that a user of the depot's client can make; each is an error at its line."""

from __future__ import annotations

from depot_client import DepotClient, SyncDepotClient, signals
from depot_client.types import Order, Payment
from depot_client.types.depot.types import Line


async def misuse(shop: DepotClient, order: Order) -> None:
    await shop.rpc.prise(order)  # E: attr-defined
    await shop.rpc.price("order")  # E: arg-type
    await shop.rpc.price()  # E: call-arg
    await shop.rpc.ping(1)  # E: call-overload
    shop.rpc.ping()  # E: unused-coroutine
    (await shop.rpc.price(order)).upper()  # E: attr-defined
    await shop.workflows.secret.start()  # E: attr-defined
    await shop.workflows.order.start({"lines": []})  # E: arg-type
    await shop.workflows.order.start(order, run=1)  # E: call-arg
    run = await shop.workflows.order.start(order)
    text: str = await run.result()  # E: assignment
    await run.result(timeout=5)  # E: arg-type
    await run.signal(signals.paid, "cash")  # E: misc
    await run.signal(signals.elsewhere)  # E: attr-defined
    await run.signal("paid", Payment(amount=text))  # E: call-overload
    await shop.invoke("prise", order)  # E: call-overload
    await shop.invoke("price", "order")  # E: call-overload
    await shop.start_workflow("secret")  # E: call-overload
    await shop.rpc.all_lines({"items": []})  # E: arg-type
    Line(articleNumber="A1", quantity="two")  # E: arg-type


def misuse_without_a_loop(shop: SyncDepotClient, order: Order) -> None:
    shop.rpc.price(order).upper()  # E: attr-defined
    shop.workflows.count.start(order)  # E: call-overload
