"""Parking throws nothing into the function, and what a discarded function asks for is not heard."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from tests.runtime.kit import Toy, Wf, World, steps_of


async def test_a_sleep_inside_try_finally_runs_the_finally_step_once_and_in_its_place(
    toy: Toy, world: World
) -> None:
    order: list[str] = []

    @toy.workflow
    async def guarded(ctx: Wf) -> None:
        try:
            await ctx.workflow.do("Open", lambda: order.append("open"))
            await ctx.workflow.sleep("Wait", "1d")
            await ctx.workflow.do("Use", lambda: order.append("use"))
        finally:
            await ctx.workflow.do("Close", lambda: order.append("close"))

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("guarded")
        await lab.advance("23h")
        assert order == ["open"]
        assert set(await steps_of(lab, run)) == {"Open", "Wait"}
        await lab.advance("1h")
        await run.result(timeout="5s")
        assert lab.executions("Close") == 1
    assert order == ["open", "use", "close"]


async def test_except_clauses_see_nothing_of_parking(toy: Toy, world: World) -> None:
    seen: list[str] = []

    @toy.workflow
    async def suspicious(ctx: Wf) -> None:
        for number in range(3):
            try:
                await ctx.workflow.sleep(f"Wait {number}", "1d")
            except GeneratorExit:  # the one way to throw a function away
                raise
            except BaseException as error:
                seen.append(repr(error))
                raise

    async with world.lab(toy) as lab:
        run = await toy.start("suspicious")
        await run.result(timeout="5s")
        await lab.settle()
    assert seen == []


async def test_an_async_with_around_a_sleep_is_left_once(toy: Toy, world: World) -> None:
    @toy.workflow
    async def resourceful(ctx: Wf) -> str:
        @asynccontextmanager
        async def resource() -> AsyncGenerator[str, None]:
            held = await ctx.workflow.do("Acquire", lambda: "held")
            try:
                yield held
            finally:
                await ctx.workflow.do("Release", lambda: None)

        async with resource() as held:
            await ctx.workflow.sleep("Wait", "1d")
            await ctx.workflow.sleep("Wait more", "1d")
        return held

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("resourceful")
        await lab.advance("47h")
        assert set(await steps_of(lab, run)) == {"Acquire", "Wait", "Wait more"}
        await lab.advance("1h")
        assert await run.result(timeout="5s") == "held"
        assert (lab.executions("Acquire"), lab.executions("Release")) == (1, 1)


async def test_gather_around_sleeps_with_steps_in_finally(toy: Toy, world: World) -> None:
    @toy.workflow
    async def waiting(ctx: Wf) -> list[str]:
        async def branch(name: str, hours: int) -> str:
            try:
                await ctx.workflow.sleep(f"Wait {name}", f"{hours}h")
                return await ctx.workflow.do(f"Work {name}", lambda: name)
            finally:
                await ctx.workflow.do(f"Clean {name}", lambda: None)

        return list(await asyncio.gather(branch("a", 3), branch("b", 1), branch("c", 2)))

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("waiting")
        for hour in range(3):
            names = {key for key in await steps_of(lab, run) if key.startswith("Clean")}
            assert len(names) == hour
            await lab.advance("1h")
        assert await run.result(timeout="5s") == ["a", "b", "c"]
        assert [lab.executions(f"{what} {name}") for what in ("Work", "Clean") for name in "abc"] == [1] * 6  # fmt: skip # noqa: E501


async def test_nested_task_groups_around_sleeps(toy: Toy, world: World) -> None:
    @toy.workflow
    async def nested(ctx: Wf) -> int:
        total = 0

        async def leaf(name: str) -> None:
            nonlocal total
            try:
                await ctx.workflow.sleep(f"Wait {name}", "1h")
                one = await ctx.workflow.do(f"One {name}", lambda: 1)
                total += one
            finally:
                await ctx.workflow.do(f"Clean {name}", lambda: None)

        async def group(name: str) -> None:
            async with asyncio.TaskGroup() as inner:
                inner.create_task(leaf(f"{name}1"))
                inner.create_task(leaf(f"{name}2"))

        async with asyncio.TaskGroup() as outer:
            outer.create_task(group("a"))
            outer.create_task(group("b"))
        return total

    async with world.lab(toy) as lab:
        run = await toy.start("nested")
        assert await run.result(timeout="5s") == 4
        steps = await steps_of(lab, run)
        assert len(steps) == 12
        assert all(step.attempt == 1 for step in steps.values())
        assert all(lab.executions(key) == 1 for key in steps if not key.startswith("Wait"))


@pytest.mark.parametrize("swallow", [BaseException, Exception])
async def test_a_function_that_swallows_its_own_discarding_writes_nothing(
    toy: Toy, store_url: str, swallow: type[BaseException]
) -> None:
    @toy.workflow
    async def stubborn(ctx: Wf) -> str:
        for number in range(5):
            try:
                await ctx.workflow.sleep("Wait", "1h")
            except swallow:
                await ctx.workflow.do(f"After {number}", lambda: None)
        return "end"

    async with World(store_url, sticky=0).lab(toy, auto_advance=False) as lab:
        run = await toy.start("stubborn")
        assert set(await steps_of(lab, run)) == {"Wait"}
        await lab.advance("5h")
        assert await run.result(timeout="5s") == "end"
        assert set(await steps_of(lab, run)) == {"Wait", *[f"Wait#{n}" for n in range(1, 5)]}


async def test_functions_thrown_away_by_a_crash_ask_for_nothing_and_complain_of_nothing(
    toy: Toy, world: World
) -> None:
    import gc

    @toy.workflow
    async def guarded(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Wait", "1d")
        finally:
            await ctx.workflow.do("Close", lambda: None)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("guarded")
        await lab.recover()
        gc.collect()  # an error raised in the discarded function would be a warning, so an error
        assert set(await steps_of(lab, run)) == {"Wait"}
        await lab.advance("1d")
        await run.result(timeout="5s")
        assert lab.executions("Close") == 1


async def test_the_example_of_the_page_after_five_minutes_and_a_restart(
    toy: Toy, world: World
) -> None:
    """Each step once, and the timer armed once, though the process restarts during the sleep."""
    sent: list[dict[str, str]] = []

    @toy.func
    async def create_user_profile(ctx: object, data: dict[str, str]) -> None: ...

    @toy.func
    def send_email(ctx: object, data: dict[str, str]) -> None:
        sent.append(data)

    @toy.workflow
    async def onboarding(ctx: Wf, data: dict[str, str]) -> dict[str, bool]:
        await ctx.workflow.do("Create user profile in database", create_user_profile, data)
        message = await ctx.workflow.do(
            "Generate welcome message", lambda: f"Welcome to our platform, {data['email']}!"
        )
        await ctx.workflow.sleep("Wait 5 minutes before welcome email", "5min")
        await ctx.workflow.do(
            "Send welcome email", send_email, {"to": data["email"], "message": message}
        )
        return {"success": True}

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("onboarding", {"email": "a@b.c", "user_id": "u1"})
        sleep = "Wait 5 minutes before welcome email"
        armed = (await steps_of(lab, run))[sleep]
        await lab.advance("3min")
        await lab.recover()
        await lab.advance("1min59s")
        assert await run.status() == "running"
        again = (await steps_of(lab, run))[sleep]
        assert (again.due_us, again.created_us) == (armed.due_us, armed.created_us)
        assert (again.status, again.attempt) == ("scheduled", 1)
        await lab.advance("1s")
        assert await run.result(timeout="5s") == {"success": True}
        for step in (
            "Create user profile in database",
            "Generate welcome message",
            "Send welcome email",
        ):
            assert lab.executions(step) == 1
        ended = (await steps_of(lab, run))[sleep]
        assert ended.finished_us == armed.due_us
        started = [event.step for event in await run.history() if event.kind == "sleep_started"]
        assert started == [sleep]
    assert sent == [{"to": "a@b.c", "message": "Welcome to our platform, a@b.c!"}]
