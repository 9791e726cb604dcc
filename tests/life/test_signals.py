"""Signals: declared, typed, kept for who comes later, taken once."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from tests.life.kit import PATIENCE, Place, cancelled, done, failure, kinds, statuses
from tests.runtime.kit import Ctx, Toy, Wf

from pikku import Signal, SignalTimeoutError


class Upgrade(BaseModel):
    plan: str
    price: Decimal
    at: datetime | None = None


UPGRADE = Upgrade(plan="é ⚙", price=Decimal("1.50"), at=datetime(2030, 1, 1, tzinfo=UTC))


def word(toy: Toy, name: str = "word", payload: Any = int) -> Signal[Any]:
    return toy.registry.wire_signal(name=name, payload=payload)


async def test_a_run_that_waits_goes_on_with_the_payload_of_its_signal(
    toy: Toy, place: Place
) -> None:
    upgraded = word(toy, "upgraded", Upgrade)

    @toy.workflow
    async def waiter(ctx: Wf) -> Upgrade:
        got: Upgrade = await ctx.workflow.wait_for_signal("Upgrade", upgraded)
        assert type(got) is Upgrade
        return got

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        assert await run.status() == "running"
        await run.signal(upgraded, UPGRADE)
        assert await done(lab, run) == UPGRADE


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", [], {}, "\x00 é ⚙", [None]], ids=repr)
async def test_a_payload_that_is_false_arrives_as_it_is(
    toy: Toy, evicted: Place, value: Any
) -> None:
    anything = word(toy, payload=Any)

    @toy.workflow
    async def waiter(ctx: Wf) -> Any:
        return await ctx.workflow.wait_for_signal("Word", anything)

    async with evicted.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await run.signal(anything, value)
        assert await done(lab, run) == value


async def test_a_signal_without_payload_is_a_word_alone(toy: Toy, place: Place) -> None:
    go = toy.registry.wire_signal(name="go")

    @toy.workflow
    async def waiter(ctx: Wf) -> bool:
        return await ctx.workflow.wait_for_signal("Go", go, timeout="1h") is None

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await run.signal(go)
        assert await done(lab, run) is True


async def test_an_early_signal_waits_in_the_store(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        await ctx.workflow.sleep("Nap", "1h")
        return await ctx.workflow.wait_for_signal("Word", number)

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await run.signal(number, 7)
        await lab.settle()
        assert await run.status() == "running"
        await lab.crash()
        await lab.recover()
        await lab.advance("1h")
        assert await done(lab, toy.app.get_run("waiter", str(run))) == 7


async def test_early_signals_are_taken_in_the_order_in_which_they_came(
    toy: Toy, place: Place
) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> list[int]:
        await ctx.workflow.sleep("Nap", "1h")
        return [await ctx.workflow.wait_for_signal("Word", number) for _ in range(5)]

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        for value in (3, 1, 4, 1, 5):
            await run.signal(number, value)
        await lab.advance("1h")
        assert await done(lab, run) == [3, 1, 4, 1, 5]


async def test_a_signal_is_taken_once_the_oldest_wait_first(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> list[int]:
        return list(
            await asyncio.gather(
                *(ctx.workflow.wait_for_signal(f"Word {n}", number) for n in range(3))
            )
        )

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        for value in (10, 11):
            await run.signal(number, value)
            await lab.settle()
        reached = await statuses(lab, run)
        assert (reached["Word 0"], reached["Word 1"]) == ("succeeded", "succeeded")
        assert reached["Word 2"] not in ("succeeded", "failed")
        assert await run.status() == "running"
        await run.signal(number, 12)
        assert await done(lab, run) == [10, 11, 12]


async def test_a_signal_of_another_name_wakes_nobody(toy: Toy, place: Place) -> None:
    number, other = word(toy), word(toy, "other")

    @toy.workflow
    async def waiter(ctx: Wf) -> list[int]:
        first = await ctx.workflow.wait_for_signal("Word", number)
        return [first, await ctx.workflow.wait_for_signal("Other", other)]

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await run.signal(other, 2)
        await lab.settle()
        assert await run.status() == "running"
        await run.signal(number, 1)
        assert await done(lab, run) == [1, 2]


async def test_a_signal_reaches_its_own_run_only(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", number)

    async with place.lab(toy) as lab:
        one, two = await toy.start("waiter"), await toy.start("waiter")
        await lab.settle()
        await one.signal(number, 1, signal_id="same")
        assert await done(lab, one) == 1
        assert await two.status() == "running"
        await two.signal(number, 2, signal_id="same")
        assert await done(lab, two) == 2


async def test_the_same_signal_id_again_sends_nothing(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> list[int]:
        return [await ctx.workflow.wait_for_signal("Word", number) for _ in range(3)]

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await run.signal(number, 1, signal_id="a")  # taken at once
        await lab.settle()
        await run.signal(number, 99, signal_id="a")  # long taken
        await asyncio.gather(*(run.signal(number, 2, signal_id="b") for _ in range(5)))
        await lab.settle()
        assert await run.status() == "running"
        assert (await kinds(run)).count("signal") == 2
        await run.signal(number, 3)
        assert await done(lab, run) == [1, 2, 3]


async def test_a_hundred_signals_sent_at_once_are_each_taken_once(toy: Toy, evicted: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> list[int]:
        return [await ctx.workflow.wait_for_signal("Word", number) for _ in range(100)]

    async with evicted.lab(toy) as lab:
        run = await toy.start("waiter")
        await asyncio.gather(*(run.signal(number, n) for n in range(100)))
        assert sorted(await done(lab, run)) == list(range(100))


async def test_a_wait_whose_timeout_passes_raises_at_its_await(toy: Toy, place: Place) -> None:
    number = word(toy)
    seen: list[str] = []

    @toy.workflow
    async def waiter(ctx: Wf) -> str:
        try:
            await ctx.workflow.wait_for_signal("Word", number, timeout="1h")
        except TimeoutError as error:
            seen.append(type(error).__name__)
            return await ctx.workflow.do("Note", lambda: "too late")
        return "came"

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.advance("59min59s999ms")
        assert await run.status() == "running"
        await lab.advance("1ms")
        assert await done(lab, run) == "too late"
    assert set(seen) == {"SignalTimeoutError"}


async def test_an_unhandled_timeout_fails_the_run(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> None:
        await ctx.workflow.wait_for_signal("Word", number, timeout="1h")

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.advance("1h")
        error = await failure(lab, run)
        assert error.caused_by(SignalTimeoutError)
        assert error.error.code == "PKR321"


async def test_a_timeout_survives_a_crash_and_is_not_armed_again(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> str:
        try:
            await ctx.workflow.wait_for_signal("Word", number, timeout="1h")
        except SignalTimeoutError:
            return "late"
        return "came"

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.advance("40min")
        await lab.crash()
        await lab.recover()
        await lab.advance("20min")
        assert await done(lab, toy.app.get_run("waiter", str(run))) == "late"


async def test_a_signal_that_comes_after_the_timeout_goes_to_the_next_wait(
    toy: Toy, place: Place
) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        try:
            await ctx.workflow.wait_for_signal("First", number, timeout="1h")
        except SignalTimeoutError:
            return await ctx.workflow.wait_for_signal("Second", number)
        return -1

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.advance("1h")
        await run.signal(number, 5)
        assert await done(lab, run) == 5


async def test_a_signal_that_came_in_time_is_not_timed_out_later(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        value: int = await ctx.workflow.wait_for_signal("Word", number, timeout="1h")
        await ctx.workflow.sleep("Nap", "2h")
        return value

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await run.signal(number, 5)
        await lab.advance("1h")
        await lab.advance("1h")
        assert await done(lab, run) == 5
        assert (await kinds(run)).count("wait_ended") == 1


async def test_a_signal_and_a_timeout_due_together_have_one_outcome(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> list[Any]:
        try:
            got: Any = await ctx.workflow.wait_for_signal("First", number, timeout="1h")
        except SignalTimeoutError:
            got = "late"
        return [got, await ctx.workflow.wait_for_signal("Second", number)]

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        due = lab.clock.next_alarm_us()
        assert due is not None
        sending = asyncio.gather(run.signal(number, 1), run.signal(number, 2))
        lab.clock.move_to(lab.clock.now_us() + 3_600_000_000)
        await sending
        await lab.settle()
        if await run.status() == "running":
            await run.signal(number, 3)
        assert await done(lab, run) in ([1, 2], [2, 1], ["late", 1], ["late", 2])


async def test_the_loser_of_a_race_leaves_its_signal_to_the_next_wait(
    toy: Toy, place: Place
) -> None:
    number = word(toy)

    @toy.workflow
    async def racer(ctx: Wf) -> list[Any]:
        winner = await ctx.workflow.race(
            ctx.workflow.wait_for_signal("Word", number), ctx.workflow.sleep("Nap", "1h")
        )
        return [winner[0], await ctx.workflow.wait_for_signal("Later", number)]

    async with place.lab(toy) as lab:
        run = await toy.start("racer")
        await lab.advance("1h")
        await run.signal(number, 8)
        assert await done(lab, run) == [1, 8]


async def test_a_wait_given_up_for_a_failed_sibling_leaves_its_signal_to_the_next(
    toy: Toy, place: Place
) -> None:
    number = word(toy)

    @toy.func
    async def broken(ctx: Ctx) -> None:
        raise ValueError("no")

    @toy.workflow
    async def grouped(ctx: Wf) -> int:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.workflow.wait_for_signal("Word", number))
                group.create_task(ctx.workflow.do("Broken", broken))
        except* Exception:
            pass
        await ctx.workflow.sleep("Nap", "1h")
        return await ctx.workflow.wait_for_signal("Later", number)

    async with place.lab(toy) as lab:
        run = await toy.start("grouped")
        await lab.settle()
        await run.signal(number, 8)
        await lab.advance("1h")
        assert await done(lab, run) == 8
        assert "given_up" in await kinds(run)


async def test_two_names_race_and_the_recorded_order_decides(toy: Toy, place: Place) -> None:
    one, two = word(toy, "one"), word(toy, "two")

    @toy.workflow
    async def racer(ctx: Wf) -> list[Any]:
        first = await ctx.workflow.race(
            ctx.workflow.wait_for_signal("One", one), ctx.workflow.wait_for_signal("Two", two)
        )
        await ctx.workflow.sleep("Nap", "1h")
        return [*first, await ctx.workflow.wait_for_signal("One again", one)]

    async with place.lab(toy) as lab:
        run = await toy.start("racer")
        await lab.settle()
        await run.signal(two, 2)
        await run.signal(one, 1)
        await lab.advance("1h")
        assert await done(lab, run) == [1, 2, 1]


async def test_both_of_a_race_in_the_store_before_it_begins_give_one_winner(
    toy: Toy, place: Place
) -> None:
    one, two = word(toy, "one"), word(toy, "two")

    @toy.workflow
    async def racer(ctx: Wf) -> list[Any]:
        await ctx.workflow.sleep("Nap", "1h")
        place, value = await ctx.workflow.race(
            ctx.workflow.wait_for_signal("One", one), ctx.workflow.wait_for_signal("Two", two)
        )
        await ctx.workflow.sleep("Nap", "1h")
        return [place, value]

    async with place.lab(toy) as lab:
        run = await toy.start("racer")
        await lab.settle()
        await run.signal(two, 2)
        await run.signal(one, 1)
        await lab.advance("1h")
        await lab.advance("1h")
        assert await done(lab, run) == [0, 1]


async def test_signals_come_in_while_a_step_is_under_way(toy: Toy, place: Place) -> None:
    number = word(toy)
    begun, go = asyncio.Event(), asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx) -> int:
        begun.set()
        await go.wait()
        return 1

    @toy.workflow
    async def waiter(ctx: Wf) -> list[int]:
        first = await ctx.workflow.do("Slow", slow)
        return [first, await ctx.workflow.wait_for_signal("Word", number)]

    async with place.lab(toy) as lab:
        run = await toy.start("waiter", wait=False)
        await begun.wait()
        await run.signal(number, 2)
        go.set()
        assert await done(lab, run) == [1, 2]


async def test_a_suspended_run_keeps_its_signals(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        await ctx.workflow.suspend("look at it")
        return await ctx.workflow.wait_for_signal("Word", number)

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await run.signal(number, 4)
        await lab.settle()
        assert await run.status() == "suspended"
        await run.resume()
        assert await done(lab, run) == 4


async def test_a_run_that_waits_for_a_signal_is_cancelled_at_once(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", number)

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"


async def test_a_signal_wakes_a_run_that_another_process_executes(toy: Toy, shared: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", number)

    sender = Toy()
    word(sender)
    sender.workflow(waiter.func, name="waiter")
    async with shared.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        async with shared.beside(lab, sender):
            await sender.app.send_signal(str(run), "word", 6)
            assert await run.result(timeout=PATIENCE) == 6


async def test_history_tells_each_signal_and_the_wait_it_ended(toy: Toy, place: Place) -> None:
    number = word(toy)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", number)

    async with place.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.advance("1min")
        await run.signal(number, 6)
        await done(lab, run)
        events = await run.history()
        assert [event.kind for event in events] == [
            "run_started",
            "wait_started",
            "signal",
            "wait_ended",
            "run_completed",
        ]
        sent, ended = events[2], events[3]
        assert (sent.step, sent.data) == ("word", 6) or sent.step == "word"
        assert (ended.step, ended.data) == ("Word", 6)
        assert sent.at == ended.at == events[0].at + timedelta(minutes=1)
