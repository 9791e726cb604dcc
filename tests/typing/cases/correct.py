# ruff: noqa
"""Everything a user may write about the sample app; no checker complains."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import assert_type

from pikku import Backoff, Run, StepFailure
from shop.functions import cancel_shipment, charge, reserve, send_email, ship
from shop.services import Services
from shop.types import Charge, Fulfilment, Line, Onboarded, Onboarding, Receipt, SendEmail, Shipment
from shop.workflows import onboarding_workflow
from shop_pikku import (
    Context,
    WorkflowContext,
    app,
    get_run,
    pikku_func,
    pikku_workflow_func,
    rpc,
    start_workflow,
    wire_workflow,
    workflows,
)
from shop_pikku.sync import open_app

MONEY = Decimal(1)


@pikku_func
async def no_input(ctx: Context) -> int:
    reveal_type(ctx.services)  # R: Services
    reveal_type(ctx.step.invocation_id)  # R: str
    reveal_type(await ctx.rpc.charge(Charge("1", "card", MONEY)))  # R: Receipt
    reveal_type(await ctx.rpc.invoke("charge", Charge("1", "card", MONEY)))  # R: Receipt
    await ctx.rpc.send_email({"to": "a", "message": "b"})
    await ctx.rpc.invoke("send_email", {"to": "a", "message": "b"})
    run = await ctx.rpc.start_workflow("onboarding", {"email": "a", "user_id": "b"}, wait=False)
    assert_type(run, Run[Onboarded])
    return 1


@pikku_func(
    name="another",
    expose=True,
    retries=1,
    retry_delay=timedelta(seconds=1),
    timeout="5s",
    non_retryable=[ValueError],
    queue="reports",
    dispatch="queue",
    executor="process",
    tags=["a"],
    description="An RPC with every option",
)
def synchronous(ctx: Context, data: list[int]) -> dict[str, int]:
    receipt = ctx.run_async(ctx.rpc.charge(Charge("1", "card", MONEY)))
    reveal_type(receipt)  # R: Receipt
    return {"sum": sum(data)}


@pikku_func
async def on_failure(ctx: Context, failure: StepFailure[Line]) -> None:
    reveal_type(failure.input)  # R: Line
    reveal_type(failure.error.message)  # R: str


@pikku_workflow_func(timeout="1d")
async def everything(ctx: WorkflowContext, data: Onboarding) -> str:
    reveal_type(ctx.services)  # R: Services
    reveal_type(await ctx.workflow.do("By reference", charge, Charge("1", "c", MONEY)))  # R: Receipt
    reveal_type(await ctx.workflow.do("By attribute", ctx.rpc.ship, Shipment("", "", [])))  # R: str
    reveal_type(await ctx.workflow.do("By name", "charge", Charge("1", "c", MONEY)))  # R: Receipt
    reveal_type(await ctx.workflow.do("Without input", no_input))  # R: int
    reveal_type(await ctx.workflow.do("Inline", lambda: data["email"]))  # R: str
    reveal_type(await ctx.workflow.do("Inline coroutine", lambda: compute(3)))  # R: int
    reveal_type(await ctx.workflow.do("Typed", lambda: Receipt("1", MONEY), returns=Receipt))  # R: Receipt
    await ctx.workflow.do("A dictionary", "send_email", {"to": data["email"], "message": ""})
    await ctx.workflow.do("Constructor", send_email, SendEmail(to="", message=""))
    await ctx.workflow.do(
        "Options",
        ship,
        Shipment("1", "street", []),
        retries=3,
        retry_delay=Backoff.exponential("1s", cap="1min"),
        timeout="30s",
        on_error=cancel_shipment,
        queue="parcels",
        dispatch="queue",
    )
    await ctx.workflow.do("In place", "charge", Charge("1", "c", MONEY), dispatch="local")
    await ctx.workflow.do("On a queue", no_input, queue="reports", dispatch=None)
    await ctx.workflow.sleep("Wait", "5min")
    await ctx.workflow.sleep("Wait again", timedelta(minutes=5))
    await ctx.workflow.sleep_until("Wait until", await ctx.workflow.now())
    reveal_type(await ctx.workflow.random())  # R: float
    one, two = await asyncio.gather(
        ctx.workflow.do("One", reserve, Line(sku="a", quantity=1)),
        ctx.workflow.do("Two", charge, Charge("1", "c", MONEY)),
    )
    reveal_type(one)  # R: str
    reveal_type(two)  # R: Receipt
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ctx.workflow.do("In a group", no_input))
    reveal_type(task.result())  # R: int
    return str((await ctx.workflow.uuid4()).hex)


@pikku_workflow_func
async def nothing(ctx: WorkflowContext) -> None: ...


async def compute(number: int) -> int:
    return number


wire_workflow(name="everything", func=everything)
wire_workflow(name="nothing", func=nothing, description="No input", tags=("a",), expose=True)


async def main() -> None:
    async with app:
        run = await start_workflow("onboarding", {"email": "a", "user_id": "b"}, run_id="1")
        assert_type(run, Run[Onboarded])
        reveal_type((await run.result(timeout="1min"))["success"])  # R: bool
        assert_type(get_run("onboarding", "1"), Run[Onboarded])
        assert_type(workflows.onboarding.get_run("1"), Run[Onboarded])
        order = get_run("order", "2")
        assert_type(order, Run[Fulfilment])
        reveal_type((await order.result()).tracking)  # R: str | None
        await workflows.onboarding.start({"email": "a", "user_id": "b"}, wait=False)
        reveal_type(await rpc.ship(Shipment("1", "street", [])))  # R: str
        reveal_type(onboarding_workflow.name)  # R: str


def script() -> None:
    with open_app(store="memory://") as shop:
        run = shop.workflows.onboarding.start({"email": "a", "user_id": "b"})
        reveal_type(run.result(timeout="10min")["success"])  # R: bool
        reveal_type(shop.get_run("order", "1").result().reason)  # R: str | None


def services_are_typed(services: Services) -> None:
    reveal_type(services.ledger.entries())  # R: list[dict[str, object]]
