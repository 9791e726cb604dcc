"""Cancelling a run whose life is more than steps: races with its other words, and its clean-up."""

import asyncio

import pytest
from tests.life.kit import Place, cancelled, children, done, failure, kinds, statuses
from tests.runtime.kit import Ctx, Toy, Wf

from pikku import RunCancelledError, StepFailedError, Undo
from pikku.errors import DeclarationError, RunNotFoundError, RunStateError


async def test_the_first_of_two_reasons_stands(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def napping(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            await ctx.workflow.sleep("Clean up", "10s")

    async with place.lab(toy) as lab:
        run = await toy.start("napping")
        await lab.settle()
        await run.cancel("first")
        await lab.settle()
        await run.cancel("second")
        await lab.advance("10s")
        assert await cancelled(lab, run) == "first"
        await run.cancel("third")
        assert await cancelled(lab, run) == "first"


async def test_a_cancel_of_a_run_that_has_ended_changes_nothing(toy: Toy, evicted: Place) -> None:
    @toy.workflow
    async def quick(ctx: Wf) -> int:
        return 1

    async with evicted.lab(toy) as lab:
        run = await toy.start("quick")
        assert await done(lab, run) == 1
        before = await run.history()
        await run.cancel("too late")
        await lab.settle()
        assert await run.status() == "completed"
        assert await run.history() == before
        with pytest.raises(RunNotFoundError):
            await toy.app.get_run("quick", "no-such-run").cancel("x")


async def test_a_word_and_a_cancel_at_once_have_one_outcome(toy: Toy, place: Place) -> None:
    number = toy.registry.wire_signal(name="number", payload=int)

    @toy.workflow
    async def waiting(ctx: Wf) -> int:
        value: int = await ctx.workflow.wait_for_signal("Word", number)
        await ctx.workflow.do("After", lambda: None)
        return value

    async with place.lab(toy) as lab:
        runs = [await toy.start("waiting") for _ in range(6)]
        await lab.settle()
        for turn, run in enumerate(runs):
            words = [run.signal(number, 5), run.cancel("enough")]
            ends = await asyncio.gather(
                *(words if turn % 2 else reversed(words)), return_exceptions=True
            )
            assert all(end is None or isinstance(end, RunStateError) for end in ends)
        await lab.settle()
        for run in runs:
            if await run.status() == "completed":
                assert await run.result() == 5
            else:
                assert await cancelled(lab, run) == "enough"


async def test_a_cancel_gives_up_everything_that_is_waited_for(toy: Toy, place: Place) -> None:
    number = toy.registry.wire_signal(name="number", payload=int)

    @toy.workflow
    async def below(ctx: Wf) -> None:
        await ctx.workflow.sleep("Nap", "1d")

    @toy.workflow
    async def waiting(ctx: Wf) -> None:
        await asyncio.gather(
            ctx.workflow.wait_for_signal("Word", number, timeout="1d"),
            ctx.workflow.approval("Pay?", expires_in="1d"),
            ctx.workflow.sleep("Nap", "1d"),
            ctx.workflow.do("Child", below),
        )

    async with place.lab(toy) as lab:
        run = await toy.start("waiting")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        (child,) = await children(lab, run)
        assert await cancelled(lab, lab.app.get_run("below", child))
        assert await run.approvals() == []
        before = await run.history()
        await lab.advance("2d")
        assert await run.history() == before
        with pytest.raises(RunStateError):
            await run.signal(number, 1)


async def test_the_clean_up_may_take_steps_of_every_kind_but_not_for_ever(
    toy: Toy, place: Place
) -> None:
    number = toy.registry.wire_signal(name="number", payload=int)

    @toy.workflow
    async def below(ctx: Wf, n: int) -> int:
        return n

    @toy.workflow
    async def cleaning(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            await ctx.workflow.do("Inline", lambda: 1)
            await ctx.workflow.do("Child", below, 3)
            await ctx.workflow.map("Each", below, [1, 2])
            await ctx.workflow.sleep("Short", "1s")
            await ctx.workflow.wait_for_signal("Word", number)
            await ctx.workflow.do("Never", lambda: 1)

    async with place.lab(toy) as lab:
        run = await toy.start("cleaning")
        await lab.settle()
        await run.cancel("enough")
        await lab.advance("1s")
        reached = await statuses(lab, run)
        assert reached["Inline"] == reached["Child"] == reached["Each[1]"] == "succeeded"
        assert await run.status() == "running"
        await lab.advance("1min")
        assert await cancelled(lab, run) == "enough"
        assert lab.executions("Never") == 0


async def test_a_cancel_in_the_turn_of_a_suspension_ends_the_run(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def held(ctx: Wf) -> None:
        await ctx.workflow.suspend("audit")

    async with place.lab(toy) as lab:
        run = await toy.start("held", wait=False)
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"


async def test_a_function_that_swallows_its_cancellation_is_cancelled_all_the_same(
    toy: Toy, place: Place
) -> None:
    @toy.workflow
    async def stubborn(ctx: Wf) -> str:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        except asyncio.CancelledError:
            pass
        return await ctx.workflow.do("After", lambda: "went on")

    async with place.lab(toy) as lab:
        run = await toy.start("stubborn")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"


async def test_a_cancel_during_the_undoing_of_a_failed_saga_lets_it_end(
    toy: Toy, place: Place
) -> None:
    undone: list[str] = []

    @toy.func
    async def step(ctx: Ctx, name: str) -> str:
        if name == "broken":
            raise ValueError("no")
        return name

    @toy.func(retries=1, retry_delay="10s")
    async def undo(ctx: Ctx, what: Undo[str, str]) -> None:
        if ctx.step.attempt_count == 1 and what.step_name == "Two":
            raise ValueError("not yet")
        undone.append(what.output)

    @toy.workflow
    async def booking(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("One", step, "one", undo=undo)
            await saga.do("Two", step, "two", undo=undo)
            await saga.do("Three", step, "broken", undo=undo)

    async with place.lab(toy) as lab:
        run = await toy.start("booking")
        await lab.settle()
        assert undone == []
        await run.cancel("enough")
        await lab.advance("1min")
        assert await cancelled(lab, run) == "enough"
        reached = await statuses(lab, run)
    # What was done is undone, whatever else: the cancellation must not leave half of it.
    assert undone == ["two", "one"], reached


async def test_many_are_cancelled_by_what_they_have_in_common(toy: Toy, evicted: Place) -> None:
    @toy.workflow
    async def napping(ctx: Wf) -> None:
        await ctx.workflow.sleep("Nap", "1d")

    async with evicted.lab(toy) as lab:
        mine = [await toy.app.start_workflow("napping", tags=["mine"]) for _ in range(3)]
        other = await toy.app.start_workflow("napping", tags=["other"])
        await lab.settle()
        assert await toy.app.cancel_runs("enough", tag="mine") == 3
        for run in mine:
            assert await cancelled(lab, run) == "enough"
        assert await other.status() == "running"
        assert await toy.app.cancel_runs("again", tag="mine") == 0


async def test_a_run_that_has_not_begun_yet_is_cancelled_without_beginning(
    toy: Toy, place: Place
) -> None:
    @toy.workflow
    async def later(ctx: Wf) -> None:
        await ctx.workflow.do("Work", lambda: None)

    async with place.lab(toy) as lab:
        run = await toy.app.start_workflow("later", delay="1h")
        await lab.settle()
        await run.cancel("enough")
        await lab.advance("2h")
        assert await cancelled(lab, run) == "enough"
        assert lab.executions("Work") == 0


async def test_the_time_limit_of_a_run_reaches_its_children(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def below(ctx: Wf) -> None:
        await ctx.workflow.sleep("Nap", "1d")

    async def above(ctx: Wf) -> None:
        await ctx.workflow.do("Child", below)

    toy.workflow(above, name="above", timeout="1h")
    async with place.lab(toy) as lab:
        run = await toy.start("above")
        await lab.advance("1h")
        assert (await failure(lab, run)).error.type == "RunTimeoutError"
        (child,) = await children(lab, run)
        assert await lab.app.get_run("below", child).status() == "cancelled"


async def test_history_has_the_request_and_the_end(toy: Toy, evicted: Place) -> None:
    @toy.workflow
    async def napping(ctx: Wf) -> None:
        await ctx.workflow.sleep("Nap", "1d")

    async with evicted.lab(toy) as lab:
        run = await toy.start("napping")
        await lab.advance("1min")
        await run.cancel("enough")
        with pytest.raises(RunCancelledError):
            await run.result(timeout="3s")
        assert await kinds(run) == ["run_started", "sleep_started", "cancel", "run_cancelled"] or (
            [k for k in await kinds(run) if k != "given_up"]
            == ["run_started", "sleep_started", "cancel", "run_cancelled"]
        )


async def test_a_run_that_unwinds_is_not_suspended(toy: Toy, place: Place) -> None:
    said: list[str] = []

    @toy.workflow
    async def cleaning(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            try:
                await ctx.workflow.suspend("audit")
                await ctx.workflow.do("Behind the gate", lambda: None)
            except StepFailedError as refused:
                said.append(refused.error.message)
                raise
            finally:
                await ctx.workflow.do("Clean up", lambda: None)

    async with place.lab(toy) as lab:
        run = await toy.start("cleaning")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        assert (await statuses(lab, run))["audit"] == "failed"
        assert (lab.executions("Clean up"), lab.executions("Behind the gate")) == (1, 0)
        assert set(said) == {"a run that unwinds is not suspended"}


async def test_the_time_limit_of_a_run_holds_though_its_clean_up_asks_to_be_suspended(
    toy: Toy, place: Place
) -> None:
    async def cleaning(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            await ctx.workflow.suspend("audit")

    toy.workflow(cleaning, name="cleaning", timeout="1h")
    async with place.lab(toy) as lab:
        run = await toy.start("cleaning")
        await lab.advance("1h")
        assert (await failure(lab, run)).error.type == "RunTimeoutError"


async def test_the_time_for_the_clean_up_holds_over_take_overs(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def cleaning(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            await ctx.workflow.sleep("Long", "1d")

    async with place.lab(toy) as lab:
        run = await toy.start("cleaning")
        await lab.settle()
        await run.cancel("enough")
        for _ in range(2):
            await lab.advance("25s")
            await lab.crash()
            await lab.recover()
        assert await run.status() == "running"
        await lab.advance("10s")
        assert await cancelled(lab, run) == "enough"


async def test_a_clean_up_that_begins_late_has_its_time_all_the_same(
    toy: Toy, place: Place
) -> None:
    from pikku._records import CancelRun

    @toy.workflow
    async def cleaning(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            await ctx.workflow.sleep("Short", "50s")
            await ctx.workflow.do("Clean up", lambda: None)

    async with place.lab(toy) as lab:
        run = await toy.start("cleaning")
        await lab.settle()
        await lab.crash()
        await lab._store.apply("another process", [CancelRun(run.run_id, "from afar")], {})
        lab.clock.move_to(lab.clock.now_us() + 3_600_000_000)
        await lab.recover()
        await lab.advance("50s")
        assert await cancelled(lab, run) == "from afar"
        assert lab.executions("Clean up") == 1


async def test_a_clean_up_that_is_taken_up_late_goes_on_for_a_short_while(
    toy: Toy, place: Place
) -> None:
    @toy.workflow
    async def cleaning(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            for number in range(9):
                await ctx.workflow.sleep(f"Short {number}", "7s")

    async with place.lab(toy) as lab:
        run = await toy.start("cleaning")
        await lab.settle()
        await run.cancel("enough")
        await lab.advance("10s")
        for _ in range(2):
            await lab.crash()
            lab.clock.move_to(lab.clock.now_us() + 3_600_000_000)
            await lab.recover()
            assert await run.status() == "running"
        # What it asked for at the first take-over tells that its short while has begun.
        await lab.advance("1s")
        assert await run.status() == "cancelled"


async def test_a_cancel_without_a_reason_is_refused(toy: Toy, evicted: Place) -> None:
    said: list[str] = []

    @toy.workflow
    async def napping(ctx: Wf) -> None:
        try:
            await ctx.workflow.cancel("")
        except DeclarationError as refused:
            said.append(refused.message)
        await ctx.workflow.sleep("Nap", "1d")

    async with evicted.lab(toy) as lab:
        run = await toy.start("napping")
        await lab.settle()
        for reason in ("", "  ", "a\0b", None):
            with pytest.raises(DeclarationError, match="reason"):
                await run.cancel(reason)  # type: ignore[arg-type]
        with pytest.raises(DeclarationError, match="reason"):
            await toy.app.cancel_runs("")
        assert await run.status() == "running"
        assert set(said) == {"cancel: the reason is ''"}
