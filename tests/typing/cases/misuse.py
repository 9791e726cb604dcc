# ruff: noqa
"""What must be an error, each at its own line, in both checkers."""

from __future__ import annotations

from decimal import Decimal

from pikku import StepFailure
from shop.functions import cancel_shipment, charge, send_email, ship
from shop.types import Charge, Onboarding, Receipt, Shipment
from shop.workflows import onboarding_workflow
from shop_pikku import (
    Context,
    WorkflowContext,
    get_run,
    pikku_func,
    pikku_workflow_func,
    rpc,
    start_workflow,
    wire_workflow,
    workflows,
)
from shop_pikku.sync import open_app

CHARGE = Charge("1", "card", Decimal(1))


@pikku_func
async def wrong_calls(ctx: Context, name: str) -> None:
    await ctx.rpc.chrge(CHARGE)  # E: attr-defined
    await ctx.rpc.charge({"order_id": "1"})  # E: arg-type
    await ctx.rpc.charge()  # E: call-arg
    await ctx.rpc.send_email({"to": "a"})  # E: typeddict-item
    await ctx.rpc.send_email({"to": "a", "message": "b", "copy": "c"})  # E: typeddict-unknown-key
    await ctx.rpc.send_email({"to": 1, "message": "b"})  # E: typeddict-item
    await ctx.rpc.invoke("chrge", CHARGE)  # E: call-overload
    await ctx.rpc.invoke(name, CHARGE)  # E: call-overload
    await ctx.rpc.invoke("charge", "1")  # E: call-overload
    receipt = await ctx.rpc.charge(CHARGE)
    receipt.payment  # E: attr-defined
    number: int = receipt.payment_id  # E: assignment
    ctx.rpc.charge(CHARGE)  # E: unused-coroutine
    ctx.services.ledgr  # E: attr-defined
    print(number)


@pikku_workflow_func
async def wrong_steps(ctx: WorkflowContext, data: Onboarding) -> str:
    await ctx.workflow.do("Unknown", "chrge", CHARGE)  # E: call-overload
    await ctx.workflow.do("Unknown", ctx.rpc.chrge, CHARGE)  # E: attr-defined
    await ctx.workflow.do("A plain string", data["email"], CHARGE)  # E: call-overload
    await ctx.workflow.do("Input", "charge", data)  # E: call-overload
    await ctx.workflow.do("Input", charge, data)  # E: misc
    await ctx.workflow.do("Input", ctx.rpc.charge, Receipt("1", Decimal(1)))  # E: misc
    await ctx.workflow.do("Missing", "send_email", {"to": "a"})  # E: call-overload
    await ctx.workflow.do("Extra", "send_email", {"to": "", "message": "", "c": ""})  # E: call-overload
    await ctx.workflow.do("Nothing", charge)  # E: arg-type
    await ctx.workflow.do("Handler", charge, CHARGE, on_error=send_email)  # E: arg-type
    await ctx.workflow.do("Handler", charge, CHARGE, on_error=cancel_shipment)  # E: misc
    await ctx.workflow.do("Option", charge, CHARGE, retry=3)  # E: call-overload
    await ctx.workflow.do("Option", charge, CHARGE, retries="3")  # E: call-overload
    await ctx.workflow.do("Option", charge, CHARGE, queue=1)  # E: call-overload
    await ctx.workflow.do("Option", "charge", CHARGE, dispatch="remote")  # E: call-overload
    await ctx.workflow.do("Inline", lambda: 1, queue="reports")  # E: call-overload
    await ctx.workflow.do("Inline", lambda: 1, dispatch="queue")  # E: call-overload
    await ctx.workflow.do(charge, CHARGE)  # E: call-overload
    await ctx.workflow.sleep("Wait", 5000)  # E: arg-type
    ctx.workflow.do("Forgotten", charge, CHARGE)  # E: unused-coroutine
    ctx.workflow.sleep("Forgotten", "5min")  # E: unused-coroutine
    await ctx.rpc.charge(CHARGE)  # E: operator
    await ctx.rpc.invoke("charge", CHARGE)  # E: attr-defined
    await ctx.rpc.start_workflow("onboarding", data)  # E: attr-defined
    await charge(ctx, CHARGE)  # E: operator
    receipt = await ctx.workflow.do("Charge", "charge", CHARGE)
    receipt["payment_id"]  # E: index
    return receipt  # E: return-value


@pikku_func(retrys=3)  # E: call-overload
async def wrong_option(ctx: Context) -> None: ...


@pikku_func(retries="3")  # E: call-overload
async def wrong_value(ctx: Context) -> None: ...


@pikku_func(queue=1)  # E: call-overload
async def wrong_queue(ctx: Context) -> None: ...


@pikku_func(dispatch="remote")  # E: call-overload
async def wrong_dispatch(ctx: Context) -> None: ...


@pikku_func(executor="thread")  # E: call-overload
async def wrong_executor(ctx: Context) -> None: ...


@pikku_func  # E: arg-type
async def wrong_context(ctx: WorkflowContext, data: Charge) -> None: ...


@pikku_workflow_func  # E: arg-type
def not_async(ctx: WorkflowContext, data: Charge) -> None: ...


async def plain(ctx: WorkflowContext) -> None: ...


@pikku_func
async def handler(ctx: Context, failure: StepFailure[Shipment]) -> None: ...


wire_workflow(name="charge", func=charge)  # E: arg-type
wire_workflow(name="plain", func=plain)  # E: arg-type
wire_workflow(func=onboarding_workflow)  # E: call-arg
wire_workflow(name="onboarding", func=onboarding_workflow, title="")  # E: call-arg


async def main(name: str) -> None:
    await start_workflow("onbording", {"email": "a", "user_id": "b"})  # E: call-overload
    await start_workflow(name, {"email": "a", "user_id": "b"})  # E: call-overload
    await start_workflow("onboarding", {"email": "a"})  # E: call-overload
    await start_workflow("onboarding", CHARGE)  # E: call-overload
    await workflows.onbording.start({"email": "a", "user_id": "b"})  # E: attr-defined
    start_workflow("onboarding", {"email": "a", "user_id": "b"})  # E: unused-coroutine
    run = await start_workflow("onboarding", {"email": "a", "user_id": "b"})
    (await run.result())["succes"]  # E: typeddict-item
    get_run("onbording", "1")  # E: call-overload
    await rpc.ship(CHARGE)  # E: arg-type
    print(ship.payment)  # E: attr-defined


def script() -> None:
    with open_app() as shop:
        shop.workflows.onboarding.start({"email": 1, "user_id": "b"})  # E: typeddict-item
        shop.workflows.nothing  # E: attr-defined
