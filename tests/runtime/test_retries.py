"""Attempts: how many, when the next one, what ends them, and what a timeout is."""

import asyncio
import threading
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.kit import Ctx, Lab, Toy, Wf, World, steps_of

from pikku import Backoff, RetryError, StepFailedError, TerminalError
from pikku._retry import as_backoff
from pikku._settings import EngineOptions
from pikku.errors import DeclarationError


class Declined(Exception):
    pass


class HardDeclined(Declined):
    pass


async def start_times(lab: Lab, times: list[int]) -> list[int]:
    """The waits between attempts, in milliseconds."""
    return [(b - a) // 1000 for a, b in pairwise(times)]


async def test_without_retries_there_is_one_attempt(toy: Toy, world: World) -> None:
    @toy.func
    async def broken(ctx: Ctx) -> None:
        raise OSError("no")

    @toy.workflow
    async def rpc(ctx: Wf) -> str:
        with pytest.raises(StepFailedError) as caught:
            await ctx.workflow.do("Call", broken)
        return f"{caught.value.attempt_count}"

    def inline_broken() -> None:
        raise OSError("no")

    @toy.workflow
    async def inline(ctx: Wf) -> str:
        with pytest.raises(StepFailedError) as caught:
            await ctx.workflow.do("Call", inline_broken)
        return f"{caught.value.attempt_count}"

    async with world.lab(toy) as lab:
        assert await (await toy.start("rpc")).result() == "1"
        assert await (await toy.start("inline")).result() == "1"
        assert lab.executions("Call") == 2


@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_attempts_are_retries_and_one_in_every_kind(
    toy: Toy, world: World, retries: int
) -> None:
    @toy.func
    async def asynchronous(ctx: Ctx) -> None:
        raise OSError("no")

    @toy.func
    def synchronous(ctx: Ctx) -> None:
        raise OSError("no")

    async def coroutine() -> None:
        raise OSError("no")

    def callable_() -> None:
        raise OSError("no")

    @toy.workflow
    async def all_kinds(ctx: Wf) -> list[int]:
        counts: list[int] = []
        for target in (asynchronous, synchronous, coroutine, callable_):
            try:
                await ctx.workflow.do("Call", target, retries=retries)
            except StepFailedError as failed:
                counts.append(failed.attempt_count)
        return counts

    async with world.lab(toy) as lab:
        run = await toy.start("all_kinds")
        assert await run.result() == [retries + 1] * 4
        assert lab.executions("Call") == 4 * (retries + 1)
        for step in (await steps_of(lab, run)).values():
            assert (step.status, step.attempt, step.failures) == ("failed", *[retries + 1] * 2)


async def test_a_step_that_succeeds_at_last_has_its_attempt_count(toy: Toy, world: World) -> None:
    @toy.func(retries=5)
    async def flaky(ctx: Ctx) -> int:
        if ctx.step.attempt_count < 4:
            raise OSError("no")
        return ctx.step.attempt_count

    @toy.workflow
    async def calling(ctx: Wf) -> int:
        return await ctx.workflow.do("Call", flaky)

    async with world.lab(toy) as lab:
        run = await toy.start("calling")
        assert await run.result() == 4
        step = (await steps_of(lab, run))["Call"]
        assert (step.status, step.attempt, step.failures, step.lost) == ("succeeded", 4, 3, 0)


async def test_the_options_of_do_go_before_those_of_the_decorator(toy: Toy, world: World) -> None:
    @toy.func(retries=3)
    async def broken(ctx: Ctx) -> None:
        raise OSError("no")

    @toy.workflow
    async def precedence(ctx: Wf) -> list[int]:
        counts: list[int] = []
        for retries in (None, 0, 1):
            try:
                await ctx.workflow.do("Call", broken, retries=retries)
            except StepFailedError as failed:
                counts.append(failed.attempt_count)
        return counts

    async with world.lab(toy):
        assert await (await toy.start("precedence")).result() == [4, 1, 2]


@pytest.mark.parametrize("retries", [-1, 1.5, "3", True])
async def test_retries_that_are_no_count_are_refused(
    toy: Toy, memory: World, retries: object
) -> None:
    @toy.workflow
    async def calling(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Call", lambda: 1, retries=retries)  # type: ignore[call-overload]
        except DeclarationError as error:
            return str(error)
        return ""

    async with memory.lab(toy) as lab:
        run = await toy.start("calling")
        assert "Call" in await run.result()
        assert await steps_of(lab, run) == {}
    with pytest.raises(DeclarationError):

        @toy.func(retries=retries)
        async def declared(ctx: Ctx) -> None: ...


@pytest.mark.parametrize(
    ("delay", "waits"),
    [
        (None, [0, 0, 0]),
        ("5s", [5000, 5000, 5000]),
        (timedelta(minutes=1), [60_000] * 3),
        (Backoff.fixed("1s"), [1000, 1000, 1000]),
        (Backoff.exponential("1s", jitter=0), [1000, 2000, 4000]),
        (Backoff.exponential("1s", factor=10, cap="15s", jitter=0), [1000, 10_000, 15_000]),
    ],
)
async def test_the_wait_before_the_next_attempt(
    toy: Toy, world: World, delay: object, waits: list[int]
) -> None:
    times: list[int] = []

    @toy.workflow
    async def calling(ctx: Wf) -> None:
        try:
            await ctx.workflow.do("Call", broken, retries=3, retry_delay=delay)  # type: ignore[call-overload]
        except StepFailedError:
            pass

    async with world.lab(toy) as lab:

        def broken() -> None:
            times.append(lab.clock.now_us())
            raise OSError("no")

        await (await toy.start("calling")).result()
        assert await start_times(lab, times) == waits


async def test_no_attempt_begins_before_its_time(toy: Toy, world: World) -> None:
    @toy.func(retries=1, retry_delay="10s")
    async def flaky(ctx: Ctx) -> int:
        if ctx.step.attempt_count == 1:
            raise OSError("no")
        return 1

    @toy.workflow
    async def calling(ctx: Wf) -> int:
        return await ctx.workflow.do("Call", flaky)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("calling")
        await lab.advance("9999ms")
        assert lab.executions("Call") == 1
        await lab.advance("1ms")
        assert lab.executions("Call") == 2
        assert await run.result() == 1


async def test_a_wait_for_the_next_attempt_survives_a_crash_and_is_not_begun_anew(
    toy: Toy, world: World
) -> None:
    @toy.func(retries=1, retry_delay="10s")
    async def flaky(ctx: Ctx) -> int:
        if ctx.step.attempt_count == 1:
            raise OSError("no")
        return ctx.step.attempt_count

    @toy.workflow
    async def calling(ctx: Wf) -> int:
        return await ctx.workflow.do("Call", flaky)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("calling")
        await lab.advance("6s")
        await lab.recover()
        assert lab.executions("Call") == 1
        await lab.advance("3999ms")
        assert lab.executions("Call") == 1
        await lab.advance("1ms")
        assert await run.result() == 2
        assert lab.executions("Call") == 2


async def test_a_non_retryable_error_and_its_subclasses_end_the_step_at_once(
    toy: Toy, world: World
) -> None:
    @toy.func(retries=5, non_retryable=[Declined])
    async def charge(ctx: Ctx, how: str) -> None:
        raise {"declined": Declined, "hard": HardDeclined, "other": OSError}[how]("no")

    @toy.workflow
    async def calling(ctx: Wf) -> list[int]:
        counts: list[int] = []
        for how in ("declined", "hard", "other"):
            try:
                await ctx.workflow.do("Call", charge, how)
            except StepFailedError as failed:
                counts.append(failed.attempt_count)
        return counts

    async with world.lab(toy):
        assert await (await toy.start("calling")).result() == [1, 1, 6]


async def test_a_terminal_error_ends_any_step_at_once(toy: Toy, world: World) -> None:
    @toy.func(retries=5)
    async def stop(ctx: Ctx) -> None:
        raise TerminalError("no use", code="E42")

    def stop_inline() -> None:
        raise TerminalError("no use either")

    @toy.workflow
    async def calling(ctx: Wf) -> list[object]:
        found: list[object] = []
        for target in (stop, stop_inline):
            try:
                await ctx.workflow.do("Call", target, retries=5)
            except StepFailedError as failed:
                found.append([failed.attempt_count, failed.error.message, failed.error.code])
                assert failed.caused_by(TerminalError)
        return found

    async with world.lab(toy):
        result = await (await toy.start("calling")).result()
        assert result == [[1, "no use", "E42"], [1, "no use either", None]]


async def test_a_retry_error_chooses_its_own_wait_and_adds_no_attempt(
    toy: Toy, world: World
) -> None:
    times: list[int] = []

    @toy.workflow
    async def calling(ctx: Wf) -> int:
        try:
            await ctx.workflow.do("Call", busy, retries=2, retry_delay="1s")
        except StepFailedError as failed:
            assert failed.caused_by(RetryError)
            return failed.attempt_count
        return 0

    async with world.lab(toy) as lab:

        def busy() -> None:
            times.append(lab.clock.now_us())
            if len(times) == 1:
                raise RetryError(after=timedelta(minutes=3))
            raise RetryError("still busy", after=timedelta(0))

        assert await (await toy.start("calling")).result() == 3
        assert await start_times(lab, times) == [180_000, 0]


async def test_direct_calls_never_retry(toy: Toy, memory: World) -> None:
    attempts: list[int] = []

    @toy.func(retries=5)
    async def broken(ctx: Ctx) -> None:
        attempts.append(ctx.step.attempt_count)
        raise OSError("no")

    async with memory.lab(toy):
        with pytest.raises(OSError, match="no"):
            await toy.app.invoke("broken")
    assert attempts == [1]


async def test_an_attempt_lost_with_its_process_uses_no_retry(toy: Toy, world: World) -> None:
    entered = asyncio.Event()

    @toy.func(retries=1)
    async def fragile(ctx: Ctx) -> int:
        if ctx.step.attempt_count == 1:
            entered.set()
            await asyncio.Event().wait()
        if ctx.step.attempt_count == 2:
            raise OSError("counts")
        return ctx.step.attempt_count

    @toy.workflow
    async def calling(ctx: Wf) -> int:
        return await ctx.workflow.do("Call", fragile)

    async with world.lab(toy) as lab:
        run = await toy.start("calling", wait=False)
        await entered.wait()
        await lab.recover()
        assert await run.result() == 3
        step = (await steps_of(lab, run))["Call"]
        assert (step.attempt, step.failures, step.lost) == (3, 1, 1)
        kinds = [event.kind for event in await run.history()]
        assert "attempt_lost" in kinds


async def test_a_step_that_kills_its_process_is_given_up_after_three(
    toy: Toy, world: World
) -> None:
    entered = asyncio.Event()

    @toy.func
    async def poison(ctx: Ctx) -> None:
        entered.set()
        await asyncio.Event().wait()

    @toy.workflow
    async def calling(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Poison", poison)
        except StepFailedError as failed:
            return failed.error.type
        return ""

    async with world.lab(toy) as lab:
        run = await toy.start("calling", wait=False)
        for _ in range(3):
            await entered.wait()
            entered.clear()
            await lab.crash()
            lab._store.beat(lab._opened.engine.session_id, -1)
            await lab._open()
        assert await run.result() == "PoisonedStepError"
        assert lab.executions("Poison") == 3


async def test_closing_the_app_hands_an_attempt_back_and_it_counts_as_nothing(
    toy: Toy, store_url: str
) -> None:
    if store_url.startswith("memory"):
        pytest.skip("a store in memory is gone with its app")
    entered = asyncio.Event()
    go_on = asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> int:
        entered.set()
        await go_on.wait()
        return 1

    @toy.workflow
    async def calling(ctx: Wf) -> int:
        return await ctx.workflow.do("Slow", slow)

    async with toy.app.open(store=store_url, options=EngineOptions(drain_seconds=0.0)):
        run = await toy.start("calling", run_id="r", wait=False)
        await entered.wait()
    go_on.set()
    async with toy.app.open(store=store_url) as app:
        run = app.get_run("calling", "r")
        assert await run.result() == 1
        loaded = await app.opened.engine.store.load_steps("r")
        assert loaded is not None
        step = loaded.steps[0]
        assert (step.status, step.lost, step.failures) == ("succeeded", 0, 0)
        assert "attempt_lost" not in [event.kind for event in await run.history()]


# --- timeouts -------------------------------------------------------------------------------------


async def test_the_timeout_of_an_async_step_fails_the_attempt_and_cancels_its_body(
    toy: Toy, world: World
) -> None:
    seen: list[str] = []
    entered = asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(f"cancelled: {ctx.step.cancelled}")

    @toy.workflow
    async def calling(ctx: Wf) -> list[object]:
        try:
            await ctx.workflow.do("Slow", slow, timeout="30s", retries=1)
        except StepFailedError as failed:
            return [failed.error.type, failed.error.code, failed.attempt_count]
        return []

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("calling", wait=False)
        for _ in range(2):
            await entered.wait()
            entered.clear()
            due = lab.clock.next_alarm_us()
            assert due is not None and due == lab.clock.now_us() + 30_000_000
            lab.clock.move_to(due)
        assert await run.result() == ["StepTimeoutError", "PKR313", 2]
    assert seen == ["cancelled: True"] * 2


async def test_the_timeout_of_a_sync_step_records_the_failure_and_refuses_the_late_result(
    toy: Toy, world: World
) -> None:
    entered, release, seen = threading.Event(), threading.Event(), threading.Event()

    @toy.func
    def slow(ctx: Ctx) -> str:
        entered.set()
        release.wait(30)
        if ctx.step.cancelled:
            seen.set()
        return "late"

    @toy.workflow
    async def calling(ctx: Wf) -> str:
        try:
            return await ctx.workflow.do("Slow", slow, timeout="30s")
        except StepFailedError as failed:
            return failed.error.type

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("calling", wait=False)
        await asyncio.to_thread(entered.wait, 30)
        due = lab.clock.next_alarm_us()
        assert due is not None
        lab.clock.move_to(due)
        assert await run.result() == "StepTimeoutError"
        release.set()
        await asyncio.to_thread(seen.wait, 30)
        assert seen.is_set()
        await lab.settle()
        step = (await steps_of(lab, run))["Slow"]
        assert (step.status, step.attempt) == ("failed", 1)
        assert step.result is None


async def test_the_timeout_of_a_workflow_ends_it_with_a_typed_error(toy: Toy, world: World) -> None:
    cleaned: list[str] = []

    @toy.workflow(timeout="1h")
    async def slow(ctx: Wf) -> None:
        try:
            await ctx.workflow.sleep("Too long", "2h")
        finally:
            await ctx.workflow.do("Clean up", lambda: cleaned.append("up"))

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("slow")
        await lab.advance("59min")
        await lab.recover()
        assert await run.status() == "running"
        await lab.advance("1min")
        info = await run.info()
        assert info.status == "failed"
        assert info.error is not None
        assert (info.error.type, info.error.code) == ("RunTimeoutError", "PKR315")
        assert cleaned == ["up"]


async def test_a_workflow_that_ends_in_time_is_not_touched_by_its_timeout(
    toy: Toy, world: World
) -> None:
    @toy.workflow(timeout="1h")
    async def quick(ctx: Wf) -> int:
        await ctx.workflow.sleep("Not long", "59min")
        return 1

    async with world.lab(toy) as lab:
        run = await toy.start("quick")
        assert await run.result() == 1
        await lab.advance("2h")
        assert await run.status() == "completed"


# --- backoff, as arithmetic --------------------------------------------------------------------


@given(
    st.integers(1, 10_000),
    st.floats(1, 100),
    st.integers(1, 100_000),
    st.floats(0, 1),
    st.integers(1, 1_000_000),
    st.floats(0, 1),
)
def test_a_backoff_stays_between_its_jitter_and_its_cap(
    base: int, factor: float, cap: int, jitter: float, failures: int, draw: float
) -> None:
    backoff = Backoff.exponential(f"{base}ms", factor=factor, cap=f"{cap}ms", jitter=jitter)
    wait = backoff.delay_us(failures, draw)
    assert 0 <= wait <= cap * 1000
    full = Backoff.exponential(f"{base}ms", factor=factor, cap=f"{cap}ms", jitter=0)
    assert wait >= int(full.delay_us(failures, 0) * (1 - jitter)) - 1
    assert full.delay_us(failures + 1, 0) >= full.delay_us(failures, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"factor": 0.5}, {"factor": float("nan")}, {"jitter": -0.1}, {"jitter": 1.1}],
)
def test_a_backoff_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between"):
        Backoff.exponential("1s", **wrong)  # type: ignore[arg-type]


def test_a_plain_duration_means_a_fixed_backoff() -> None:
    assert as_backoff("5s") == Backoff.fixed("5s")
    assert [as_backoff("5s").delay_us(n, 0.5) for n in (1, 2, 50)] == [5_000_000] * 3
