# ruff: noqa
"""What must be an error, each at its own line, in both checkers."""

from __future__ import annotations

from decimal import Decimal

from pikku import StepFailure, Undo, external_workflow
from shop.functions import cancel_shipment, charge, reserve, send_email, ship
from shop.purchases import release_budget, reserve_budget
from shop.trials import upgraded
from shop.types import Charge, Line, Onboarding, Purchase, Receipt, Shipment, Verdict
from shop.workflows import onboarding_workflow
from shop_pikku import (
    Context,
    WorkflowContext,
    get_run,
    pikku_func,
    pikku_workflow_func,
    rpc,
    send_signal,
    signals,
    start_workflow,
    wire_signal,
    wire_workflow,
    workflows,
)
from shop_pikku.sync import open_app
from shop_pikku.testing import WorkflowLab

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
    await ctx.workflow.do("Option", charge, CHARGE, retry_delay=5)  # E: call-overload
    await ctx.workflow.do("Option", "charge", CHARGE, timeout=30)  # E: call-overload
    await ctx.workflow.do("Option", ctx.rpc.charge, CHARGE, non_retryable=[OSError])  # E: call-overload
    await ctx.workflow.do("Handler", ctx.rpc.charge, CHARGE, on_error=lambda failure: None)  # E: call-overload
    await ctx.workflow.do("Handler", "charge", CHARGE, on_error=cancel_shipment)  # E: call-overload
    returned = await ctx.workflow.do("Returns", lambda: Receipt("1", Decimal(1)), returns=Receipt)
    returned.payment  # E: attr-defined
    await ctx.workflow.do("Returns", lambda: 1, returns="int")  # E: call-overload
    await ctx.workflow.do("Option", "charge", CHARGE, dispatch="remote")  # E: call-overload
    await ctx.workflow.do("Inline", lambda: 1, queue="reports")  # E: call-overload
    await ctx.workflow.do("Inline", lambda: 1, dispatch="queue")  # E: call-overload
    await ctx.workflow.do(charge, CHARGE)  # E: call-overload
    await ctx.workflow.sleep("Wait", 5000)  # E: arg-type
    ctx.workflow.do("Forgotten", charge, CHARGE)  # E: unused-coroutine
    ctx.workflow.sleep("Forgotten", "5min")  # E: unused-coroutine
    ctx.workflow.now()  # E: unused-coroutine
    await ctx.workflow.sleep("5min")  # E: call-arg
    later: str = await ctx.workflow.now()  # E: assignment
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


@pikku_func
async def unreserve(ctx: Context, done: Undo[Line, int]) -> None: ...


stopped = wire_signal(name="stopped")
elsewhere = external_workflow("elsewhere", input=Line, output=Receipt)


@pikku_workflow_func
async def wrong_waits(ctx: WorkflowContext, data: Onboarding) -> None:
    number: int = await ctx.workflow.wait_for_signal("By object", upgraded)  # E: arg-type
    number = await ctx.workflow.wait_for_signal("By name", "upgraded")  # E: assignment
    await ctx.workflow.wait_for_signal("Unknown", "upgrade")  # E: call-overload
    await ctx.workflow.wait_for_signal("Unknown", signals.upgrade)  # E: attr-defined
    await ctx.workflow.wait_for_signal("A plain string", data["email"])  # E: call-overload
    await ctx.workflow.wait_for_signal(upgraded)  # E: call-overload
    await ctx.workflow.wait_for_signal("Wait", upgraded, timeout=5)  # E: call-overload
    ctx.workflow.wait_for_signal("Forgotten", upgraded)  # E: unused-coroutine
    decision = await ctx.workflow.approval("Approve", schema=Verdict)
    decision.data.cost_centre  # E: union-attr
    number = decision.data  # E: assignment
    if decision.outcome == "approve":  # E: comparison-overlap
        return
    await ctx.workflow.approval("Approve", approvers="boss")  # E: call-overload
    await ctx.workflow.approval("Approve", Verdict)  # E: call-overload
    await ctx.workflow.approval("Approve", schema=Verdict, expires_in=3)  # E: call-overload
    ctx.workflow.approval("Forgotten", schema=Verdict)  # E: unused-coroutine
    first = await ctx.workflow.race(
        ctx.workflow.wait_for_signal("Upgrade", upgraded), ctx.workflow.sleep("Trial", "14d")
    )
    first[1]["plan"]  # E: index
    if first[0] == 1:
        first[1]["plan"]  # E: index
    if first[0] == 2:  # E: comparison-overlap
        return
    await ctx.workflow.race(data)  # E: call-overload
    ctx.workflow.suspend("Forgotten")  # E: unused-coroutine
    await ctx.workflow.patched("a patch")  # E: misc
    print(number)


@pikku_workflow_func
async def wrong_children(ctx: WorkflowContext, lines: list[Line]) -> None:
    child: Onboarding = {"email": "a", "user_id": "b"}
    await ctx.workflow.do("Input", onboarding_workflow, CHARGE)  # E: misc
    await ctx.workflow.do("Input", workflows.onboarding, CHARGE)  # E: misc
    await ctx.workflow.do("Input", "onboarding", CHARGE)  # E: call-overload
    await ctx.workflow.do("Input", "onboarding", {"email": "a"})  # E: call-overload
    await ctx.workflow.do("Input", elsewhere, CHARGE)  # E: misc
    await ctx.workflow.do("Missing", onboarding_workflow)  # E: arg-type
    await ctx.workflow.do("Unknown", "onbording", child)  # E: call-overload
    await ctx.workflow.do("Handler", "onboarding", child, on_error=cancel_shipment)  # E: call-overload
    await ctx.workflow.do("Handler", onboarding_workflow, child, on_error=cancel_shipment)  # E: misc
    await ctx.workflow.do("Option", onboarding_workflow, child, queue="reports")  # E: call-overload
    await ctx.workflow.do("Option", "onboarding", child, dispatch="queue")  # E: call-overload
    await ctx.workflow.do("Option", "charge", CHARGE, detached=True)  # E: call-overload
    await ctx.workflow.do("Option", charge, CHARGE, detached=True)  # E: call-overload
    run_id = await ctx.workflow.do("Detached", "onboarding", child, detached=True)
    run_id["success"]  # E: index
    await ctx.workflow.map("Items", reserve, [CHARGE])  # E: misc
    await ctx.workflow.map("Items", "reserve", [CHARGE])  # E: call-overload
    await ctx.workflow.map("Items", "reserve", 3)  # E: call-overload
    await ctx.workflow.map("Unknown", "resrve", lines)  # E: call-overload
    await ctx.workflow.map("Option", reserve, lines, max_concurrency="5")  # E: call-overload
    await ctx.workflow.map("Handler", "reserve", lines, on_error=send_email)  # E: call-overload
    tolerant = await ctx.workflow.map("Some", "reserve", lines, tolerated_failures=1)
    names: list[str] = tolerant  # E: assignment
    ctx.workflow.map("Forgotten", reserve, lines)  # E: unused-coroutine
    async with ctx.workflow.saga() as saga:
        purchase = Purchase(purchase_id="1", item="desk", amount=Decimal(1))
        await saga.do("No undo", reserve_budget, purchase)  # E: call-overload
        await saga.do("Another input", reserve, lines[0], undo=release_budget)  # E: misc
        await saga.do("Another output", reserve, lines[0], undo=unreserve)  # E: misc
        await saga.do("No handler", reserve, lines[0], undo=send_email)  # E: arg-type
        await saga.do("A lambda", reserve, lines[0], undo=lambda done: None)  # E: call-overload
        await saga.do("A workflow", onboarding_workflow, child, undo=release_budget)  # E: call-overload
        saga.do("Forgotten", reserve_budget, purchase, undo=release_budget)  # E: unused-coroutine
    print(names)


wire_signal("positional")  # E: call-overload
wire_signal(name="value", payload=3)  # E: call-overload
wire_signal(name="option", kind=Line)  # E: call-overload
wire_workflow(name="charge", func=charge)  # E: arg-type
wire_workflow(name="plain", func=plain)  # E: arg-type
wire_workflow(name="tags", func=onboarding_workflow, tags=1)  # E: arg-type
wire_workflow(name="expose", func=onboarding_workflow, expose="yes")  # E: arg-type
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
    text: str = await run.result()  # E: assignment
    run.result()["success"]  # E: index
    run.cancel("Forgotten")  # E: unused-coroutine
    await run.cancel()  # E: call-arg
    await run.approve(1)  # E: arg-type
    await run.retry("Charge")  # E: call-arg
    await run.result(timeout=5)  # E: arg-type
    get_run("onbording", "1")  # E: call-overload
    await send_signal("1", "upgrade", {"plan": "pro"})  # E: arg-type
    await send_signal("1", "upgraded", {"plan": 1})  # E: typeddict-item
    await send_signal("1", "upgraded")  # E: call-arg
    await send_signal(run, name, {"plan": "pro"})  # E: arg-type
    send_signal(run, "upgraded", {"plan": "pro"})  # E: unused-coroutine
    await run.signal(upgraded, CHARGE)  # E: misc
    await run.signal(upgraded)  # E: arg-type
    await run.signal(stopped, {"plan": "pro"})  # E: misc
    await start_workflow("onboarding", {"email": "a", "user_id": "b"}, tags=1)  # E: call-overload
    await start_workflow("onboarding", {"email": "a", "user_id": "b"}, delay=5)  # E: call-overload
    await workflows.onboarding.start({"email": "a", "user_id": "b"}, pinned="yes")  # E: arg-type
    await workflows.onboarding.start_many([CHARGE])  # E: list-item
    await rpc.ship(CHARGE)  # E: arg-type
    print(ship.payment)  # E: attr-defined


def script() -> None:
    with open_app() as shop:
        shop.workflows.onboarding.start({"email": 1, "user_id": "b"})  # E: typeddict-item
        shop.workflows.nothing  # E: attr-defined


async def tested() -> None:
    async with WorkflowLab(services=None) as lab:
        lab.fakes.chrge = lambda data: Receipt("1", Decimal(1))  # E: attr-defined
        lab.fakes.charge = lambda data: 3  # E: return-value
        lab.fakes.charge = lambda ctx, data: Receipt("1", Decimal(1))  # E: misc
        lab.fakes.ship = fake_charge  # E: assignment
        lab.fakes.charge = Receipt("1", Decimal(1))  # E: assignment
        lab.recover()  # E: unused-coroutine
        await lab.advance(5)  # E: arg-type
        await lab.crash_after("Charge")  # E: func-returns-value
    WorkflowLab(services=3)  # E: arg-type
    WorkflowLab(queue_service="redis")  # E: arg-type


async def fake_charge(data: Charge) -> Receipt:
    return Receipt(data.order_id, data.amount)
