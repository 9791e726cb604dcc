"""Jobs in remote mode, seen from the app: progress, called-off attempts, where a step runs."""

from __future__ import annotations

import asyncio

from tests.runtime.kit import Ctx, Toy, Wf, World

from pikku.testing import WorkflowLab


async def test_what_a_running_step_says_of_itself_can_be_read(toy: Toy, store_url: str) -> None:
    told, go_on = asyncio.Event(), asyncio.Event()

    @toy.func
    async def long(ctx: Ctx) -> None:
        ctx.step.progress(0.25, "reading")
        told.set()
        await go_on.wait()

    @toy.workflow
    async def working(ctx: Wf) -> None:
        await ctx.workflow.do("Long", long)

    async with WorkflowLab(toy.app, store=store_url, queue_service="store") as lab:
        run = await toy.start("working")
        await told.wait()
        store = lab._opened.engine.store
        while True:
            loaded = await store.load_steps(run.run_id)
            assert loaded is not None
            if loaded.steps[0].progress is not None:
                break
            await asyncio.sleep(0)
        assert loaded.steps[0].progress == '{"done": 0.25, "note": "reading"}'
        go_on.set()
        await run.result()


async def test_a_job_sees_that_its_run_was_cancelled(toy: Toy, store_url: str) -> None:
    began = asyncio.Event()
    seen: list[bool] = []

    @toy.func(dispatch="queue")
    async def long(ctx: Ctx) -> None:
        began.set()
        while not ctx.step.cancelled:
            await asyncio.sleep(0)
        seen.append(True)

    @toy.workflow
    async def working(ctx: Wf) -> None:
        await ctx.workflow.do("Long", long)

    async with WorkflowLab(toy.app, store=store_url, queue_service="store") as lab:
        run = await toy.start("working")
        await began.wait()
        await run.cancel("enough")
        await lab.settle()
        assert seen == [True]
        assert await run.status() == "cancelled"


async def test_a_step_crosses_its_queue_only_where_it_must(toy: Toy, memory: World) -> None:
    @toy.func
    async def here(ctx: Ctx) -> None: ...

    @toy.func(queue="elsewhere")
    async def there(ctx: Ctx) -> None: ...

    @toy.workflow
    async def working(ctx: Wf) -> None:
        await ctx.workflow.do("Here", here)
        await ctx.workflow.do("There", there)

    async with WorkflowLab(toy.app, store=memory.url, queue_service="store") as lab:
        run = await toy.start("working")
        await run.result()
        loaded = await lab._opened.engine.store.load_steps(run.run_id)
        assert loaded is not None
        assert {step.key: step.queue for step in loaded.steps} == {
            "Here": None,
            "There": "elsewhere",
        }
