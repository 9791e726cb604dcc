from __future__ import annotations

import asyncio

from shop.functions import charge, ping
from shop.types import Charge
from shop_pikku import WorkflowContext, pikku_workflow_func, wire_workflow

items = [Charge("1", 1)]


async def retrying(step: object) -> None: ...


@pikku_workflow_func
async def awaited(ctx: WorkflowContext, data: Charge) -> str:
    await ctx.workflow.do("Once", ping)
    await ctx.workflow.do("Once", ping)
    a, b = await asyncio.gather(ctx.workflow.do("A", ping), ctx.workflow.do("B", ping))
    await asyncio.gather(*[ctx.workflow.do(f"Item {item.order_id}", charge, item) for item in items])
    for item in items:
        await ctx.workflow.do("In turn", charge, item)
    many = [await ctx.workflow.do("Also in turn", charge, item) for item in items]
    later = ctx.workflow.do("Later", ping)
    await later
    again = ctx.workflow.do("Later", ping)
    await again
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.workflow.do("In a group", ping))
        task = group.create_task(ctx.workflow.do("Beside it", ping))
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.workflow.do("In a group", ping))
    if a:
        choice = ctx.workflow.do("Either", ping)
    else:
        choice = ctx.workflow.do("Either", ping)
    try:
        await asyncio.wait_for(choice, 1)
        for item in items:
            await retrying(ctx.workflow.do("In a helper", charge, item))
    finally:
        await ctx.workflow.sleep("Wait", "5min")
    return f"{await ctx.workflow.do('Last', ping)}{b}{many}{task}"


@pikku_workflow_func
async def forgotten(ctx: WorkflowContext, data: Charge) -> None:
    ctx.workflow.do("Forgotten", ping)
    ctx.workflow.sleep("Also forgotten", "5min")
    unused = ctx.workflow.do("Kept", ping)
    asyncio.create_task(ctx.workflow.do("A task", ping))
    asyncio.gather(ctx.workflow.do("Gathered", ping))
    wf = ctx.workflow
    wf.do("By an alias", ping)
    return ctx.workflow.do("Returned", ping)


@pikku_workflow_func
async def unnamed(ctx: WorkflowContext, data: Charge) -> None:
    await ctx.workflow.do("", ping)
    await ctx.workflow.do("  ", ping)
    await ctx.workflow.do(1, ping)
    await ctx.workflow.do(None, ping)
    await ctx.workflow.do(f"", ping)
    await ctx.workflow.sleep()
    await ctx.workflow.do(data.order_id, ping)


@pikku_workflow_func
async def concurrent(ctx: WorkflowContext, data: Charge) -> None:
    await asyncio.gather(ctx.workflow.do("Same", ping), ctx.workflow.do("Same", ping))
    await asyncio.gather(*[ctx.workflow.do("Each", charge, item) for item in items])
    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(ctx.workflow.do("Looped", charge, item))
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.workflow.do("Twice", ping))
        group.create_task(ctx.workflow.do("Twice", ping))
    tasks = []
    for order in items:
        tasks.append(asyncio.create_task(ctx.workflow.do("Collected", charge, order)))
    await asyncio.wait(tasks)
    first = ctx.workflow.do("Started", ping)
    second = ctx.workflow.do("Started", ping)
    await asyncio.gather(first, second)

    async def branch(item: Charge) -> None:
        await ctx.workflow.do("Inside", charge, item)
        await ctx.workflow.sleep("Nap", "1s")

    await asyncio.gather(*(branch(item) for item in items))
    await asyncio.gather(branch(data), branch(data))


for name, func in {"awaited": awaited}.items():
    pass
wire_workflow(name="awaited", func=awaited)
wire_workflow(name="forgotten", func=forgotten)
wire_workflow(name="unnamed", func=unnamed)
wire_workflow(name="concurrent", func=concurrent)
