# ruff: noqa
"""Everything a user may write about the sample app; no checker complains."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import assert_type

from pikku import Backoff, Decision, Run, Signal, StepFailure, Undo, external_workflow
from shop.functions import cancel_shipment, charge, reserve, send_email, ship
from shop.purchases import release_budget, reserve_budget
from shop.services import Services
from shop.trials import upgraded
from shop.types import (
    Charge,
    Fulfilment,
    Line,
    Onboarded,
    Onboarding,
    Purchase,
    Receipt,
    SendEmail,
    Shipment,
    Upgrade,
    Verdict,
)
from shop.workflows import onboarding_workflow
from shop_pikku import (
    Context,
    WorkflowContext,
    app,
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


moved = wire_signal(name="moved", payload=Shipment, description="A new address")
counted = wire_signal(name="counted", payload=list[int])
stopped = wire_signal(name="stopped")
elsewhere = external_workflow("elsewhere", input=Line, output=Receipt)
pinged = external_workflow("pinged")


@pikku_func
async def unreserve(ctx: Context, done: Undo[Line, str]) -> None:
    reveal_type(done.input)  # R: Line
    reveal_type(done.output)  # R: str
    reveal_type(done.step_name)  # R: str


@pikku_func
async def uncount(ctx: Context, done: Undo[None, int]) -> None: ...


@pikku_workflow_func
async def signalled(ctx: WorkflowContext, data: Onboarding) -> None:
    reveal_type(moved)  # R: Signal[Shipment]
    reveal_type(counted)  # R: Signal[list[int]]
    reveal_type(stopped)  # R: Signal[None]
    assert_type(await ctx.workflow.wait_for_signal("By object", upgraded), Upgrade)
    assert_type(await ctx.workflow.wait_for_signal("By attribute", signals.upgraded), Upgrade)
    assert_type(await ctx.workflow.wait_for_signal("By name", "upgraded", timeout="1d"), Upgrade)
    await ctx.workflow.wait_for_signal("Nothing comes", stopped)
    decision = await ctx.workflow.approval("Approve", schema=Verdict, expires_in="3d", approvers="owner")
    assert_type(decision, Decision[Verdict])
    reveal_type(decision.data)  # R: Verdict | None
    reveal_type(decision.decided_by)  # R: str | None
    assert_type(await ctx.workflow.approval("Yes or no", reason="it is dear"), Decision[None])
    first = await ctx.workflow.race(
        ctx.workflow.wait_for_signal("Upgrade", upgraded), ctx.workflow.do("Without", no_input)
    )
    if first[0] == 0:
        assert_type(first[1], Upgrade)
    else:
        reveal_type(first[1])  # R: int
    number, value = await ctx.workflow.race(*[ctx.workflow.do(f"{n}", no_input) for n in (1, 2)])
    reveal_type(number)  # R: int
    reveal_type(value)  # R: int
    await ctx.workflow.suspend("wait for a person")
    reveal_type(ctx.workflow.patched("checks first"))  # R: bool


@pikku_workflow_func
async def parents(ctx: WorkflowContext, lines: list[Line]) -> None:
    child: Onboarding = {"email": "a", "user_id": "b"}
    assert_type(await ctx.workflow.do("By object", onboarding_workflow, child), Onboarded)
    assert_type(await ctx.workflow.do("By attribute", workflows.onboarding, child), Onboarded)
    assert_type(await ctx.workflow.do("By name", "onboarding", {"email": "a", "user_id": "b"}), Onboarded)
    reveal_type(await ctx.workflow.do("Detached", "onboarding", child, detached=True))  # R: str
    reveal_type(await ctx.workflow.do("Detached", onboarding_workflow, child, detached=True))  # R: str
    reveal_type(await ctx.workflow.do("Without input", nothing, retries=1, timeout="1h"))  # R: None
    reveal_type(await ctx.workflow.do("Elsewhere", elsewhere, lines[0]))  # R: Receipt
    await ctx.workflow.do("Elsewhere", pinged)
    reveal_type(await ctx.workflow.map("Reserve", reserve, lines, max_concurrency=5))  # R: list[str]
    reveal_type(await ctx.workflow.map("Reserve", ctx.rpc.reserve, lines))  # R: list[str]
    reveal_type(await ctx.workflow.map("Reserve", "reserve", lines, queue="stock"))  # R: list[str]
    assert_type(await ctx.workflow.map("Children", "onboarding", [child]), list[Onboarded])
    assert_type(await ctx.workflow.map("Children", onboarding_workflow, [child]), list[Onboarded])
    reveal_type(await ctx.workflow.map("Inline", lambda line: line.quantity, lines))  # R: list[int]
    reveal_type(await ctx.workflow.map("Inline", compute, [1, 2]))  # R: list[int]
    tolerant = await ctx.workflow.map("Reserve", "reserve", lines, tolerated_failures=1)
    reveal_type(tolerant)  # R: list[str | StepFailure[Line]]
    same = await ctx.workflow.map("Reserve", reserve, lines, tolerated_failures=1)
    reveal_type(same)  # R: list[str | StepFailure[Line]]
    async with ctx.workflow.saga() as saga:
        purchase = Purchase(purchase_id="1", item="desk", amount=MONEY)
        reveal_type(await saga.do("Budget", reserve_budget, purchase, undo=release_budget))  # R: str
        reveal_type(await saga.do("Line", ctx.rpc.reserve, lines[0], undo=unreserve))  # R: str
        reveal_type(await saga.do("Count", no_input, undo=uncount, retries=2))  # R: int


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
        await start_workflow(
            "onboarding",
            {"email": "a", "user_id": "b"},
            tags=["vip"],
            delay="1h",
            started_by="ann",
            pinned=True,
        )
        await workflows.onboarding.start(
            {"email": "a", "user_id": "b"}, tags=("vip",), delay="1h", started_by="ann", pinned=True
        )
        many = await workflows.onboarding.start_many([{"email": "a", "user_id": "b"}], tags=["vip"])
        assert_type(many, list[Run[Onboarded]])
        assert_type(signals.upgraded, Signal[Upgrade])
        await send_signal(run, "upgraded", {"plan": "pro"}, signal_id="1")
        await send_signal("1", "upgraded", {"plan": "pro"})
        await run.signal(upgraded, Upgrade(plan="pro"))
        await run.signal(signals.upgraded, Upgrade(plan="pro"), signal_id="1")
        await run.signal(stopped)


def script() -> None:
    with open_app(store="memory://") as shop:
        run = shop.workflows.onboarding.start({"email": "a", "user_id": "b"})
        reveal_type(run.result(timeout="10min")["success"])  # R: bool
        reveal_type(shop.get_run("order", "1").result().reason)  # R: str | None


def services_are_typed(services: Services) -> None:
    reveal_type(services.ledger.entries())  # R: list[dict[str, object]]


async def tested(services: Services) -> None:
    async with WorkflowLab(services=services, store="memory://", auto_advance=False) as lab:
        lab.fakes.charge = lambda data: Receipt(data.order_id, data.amount)
        lab.fakes.send_email = lambda data: None
        lab.fakes.ship = fake_ship
        lab.crash_after("Charge card")
        await lab.recover()
        reveal_type(lab.executions("Charge card"))  # R: int


async def fake_ship(data: Shipment) -> str:
    return data.address
