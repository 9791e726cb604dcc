"""`map`: one step for each item, so many at once, results in the order of the items."""

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel
from tests.life.conftest import mode as mode
from tests.life.conftest import place as place
from tests.life.kit import Place, cancelled, children, done, failure
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of

from pikku import StepFailedError, StepFailure
from pikku._fan_out import fan_out
from pikku.errors import DeclarationError, FanOutError, InvalidInputError, StepNameError


class Line(BaseModel):
    price: Decimal


def wire_double(toy: Toy) -> Any:
    @toy.func
    async def double(ctx: Ctx, n: int) -> int:
        if n < 0:
            raise ValueError(f"{n} is negative")
        return n * 2

    return double


async def test_results_come_in_the_order_of_the_items_whoever_ends_first(
    toy: Toy, place: Place
) -> None:
    ended = [asyncio.Event() for _ in range(5)]
    ended[4].set()

    @toy.func
    async def after_the_next(ctx: Ctx, n: int) -> str:
        await ended[min(n + 1, 4)].wait()
        ended[n].set()
        return f"item {n}"

    @toy.workflow
    async def mapping(ctx: Wf) -> list[str]:
        return await ctx.workflow.map("Look at", after_the_next, range(5))

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        assert await done(lab, run) == [f"item {n}" for n in range(5)]
        assert list(await steps_of(lab, run)) == [f"Look at[{n}]" for n in range(5)]


async def test_a_target_is_a_function_by_object_attribute_or_name_or_a_callable(
    toy: Toy, place: Place
) -> None:
    double = wire_double(toy)

    async def tripled(n: int) -> int:
        return n * 3

    @toy.workflow
    async def mapping(ctx: Wf) -> list[list[int]]:
        targets: list[Any] = [double, ctx.rpc.double, "double", lambda n: n * 2, tripled]
        return [await ctx.workflow.map(f"By {n}", t, [1, 2]) for n, t in enumerate(targets)]

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        assert await done(lab, run) == [[2, 4]] * 4 + [[3, 6]]
        kinds = {step.key: step.kind for step in (await steps_of(lab, run)).values()}
        assert [kinds[f"By {n}[1]"] for n in range(5)] == ["rpc"] * 3 + ["inline"] * 2


async def test_values_are_of_the_declared_types(toy: Toy, place: Place) -> None:
    @toy.func
    async def dearer(ctx: Ctx, line: Line) -> Line:
        assert type(line) is Line
        return Line(price=line.price + 1)

    def cheaper(line: Line) -> Line:
        return Line(price=line.price - 1)

    @toy.workflow
    async def mapping(ctx: Wf) -> list[Line]:
        lines = [Line(price=Decimal("1.50")), Line(price=Decimal(2))]
        more = await ctx.workflow.map("More", dearer, lines)
        less = await ctx.workflow.map("Less", cheaper, lines)
        assert {type(line) for line in more + less} == {Line}
        return more + less

    async with place.lab(toy) as lab:
        prices = [line.price for line in await done(lab, await toy.start("mapping"))]
        assert prices == [Decimal("2.50"), Decimal(3), Decimal("0.50"), Decimal(1)]


async def test_items_and_results_that_are_false_stay_as_they_are(toy: Toy, place: Place) -> None:
    @toy.func
    async def same(ctx: Ctx, value: Any) -> Any:
        return value

    falsy: list[Any] = [None, False, 0, 0.0, "", [], {}]

    @toy.workflow
    async def mapping(ctx: Wf) -> list[Any]:
        there = await ctx.workflow.map("There", same, falsy)
        here: list[Any] = await ctx.workflow.map("Here", lambda value: value, falsy)
        return [there, here]

    async with place.lab(toy) as lab:
        result = await done(lab, await toy.start("mapping"))
    assert repr(result) == repr([falsy, falsy])


@pytest.mark.parametrize(
    "items", [[], (), range(0), iter([]), {}.values()], ids=lambda items: type(items).__name__
)
async def test_no_items_give_no_results_and_take_no_step(
    toy: Toy, memory: World, items: Any
) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        return await ctx.workflow.map("Double", double, items)

    async with memory.lab(toy) as lab:
        run = await toy.start("mapping")
        assert await run.result() == []
        assert await steps_of(lab, run) == {}


@pytest.mark.parametrize(
    "make",
    [tuple, iter, lambda items: dict.fromkeys(items).keys(), lambda items: (n for n in items)],
    ids=["tuple", "iterator", "keys", "generator"],
)
async def test_items_are_whatever_has_an_order(
    toy: Toy, memory: World, make: Callable[[list[int]], Any]
) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        return await ctx.workflow.map("Double", double, make([3, 1, 2]))

    async with memory.lab(toy):
        assert await (await toy.start("mapping")).result() == [6, 2, 4]


# --- how many at once -----------------------------------------------------------------------------


async def test_so_many_are_under_way_at_once_and_no_more(toy: Toy, place: Place) -> None:
    under_way = most = 0
    three = asyncio.Barrier(3)

    @toy.func
    async def counted(ctx: Ctx, n: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await three.wait()
        under_way -= 1
        return n

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        return await ctx.workflow.map("Count", counted, range(9), max_concurrency=3)

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("mapping")) == list(range(9))
    assert most == 3


async def test_the_next_item_begins_when_one_ends_however_long_another_takes(
    toy: Toy, place: Place
) -> None:
    others = asyncio.Event()
    left = set(range(1, 6))

    @toy.func
    async def look(ctx: Ctx, n: int) -> int:
        if n == 0:
            await others.wait()
        left.discard(n)
        if not left:
            others.set()
        return n

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        return await ctx.workflow.map("Look", look, range(6), max_concurrency=2)

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("mapping")) == list(range(6))


async def test_one_at_a_time_is_a_sequence(toy: Toy, place: Place) -> None:
    seen: list[int] = []

    @toy.func
    async def look(ctx: Ctx, n: int) -> None:
        seen.append(n)
        await asyncio.sleep(0)
        seen.append(n)

    @toy.workflow
    async def mapping(ctx: Wf) -> None:
        await ctx.workflow.map("Look", look, range(4), max_concurrency=1)

    async with place.lab(toy) as lab:
        await done(lab, await toy.start("mapping"))
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_ten_thousand_items_are_not_too_many() -> None:
    def take(name: str, item: int) -> asyncio.Future[int]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(item)
        return future

    assert await fan_out("Look", take, range(10_000), None, None) == list(range(10_000))
    assert await fan_out("Look", take, range(10_000), 1, 0) == list(range(10_000))


# --- failures -------------------------------------------------------------------------------------


async def test_the_first_failure_is_raised_and_no_further_item_begins(
    toy: Toy, place: Place
) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> str:
        try:
            await ctx.workflow.map("Double", double, [1, 2, -3, 4, 5], max_concurrency=1)
        except StepFailedError as failed:
            await ctx.workflow.do("Go on", lambda: None)
            return f"{failed.step_name}: {failed.error.message}"
        return "all done"

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        assert await done(lab, run) == "Double[2]: -3 is negative"
        assert set(await steps_of(lab, run)) == {"Double[0]", "Double[1]", "Double[2]", "Go on"}


async def test_a_failure_does_not_wait_for_the_items_under_way(toy: Toy, place: Place) -> None:
    go = asyncio.Event()

    @toy.func
    async def look(ctx: Ctx, n: int) -> int:
        if n == 1:
            raise ValueError("no")
        await go.wait()
        return n

    @toy.workflow
    async def mapping(ctx: Wf) -> str:
        try:
            await ctx.workflow.map("Look", look, range(6), max_concurrency=3)
        except StepFailedError as failed:
            await ctx.workflow.do("Let them go", lambda: go.set())
            await ctx.workflow.sleep("Nap", "1h")
            return failed.step_name
        return "all done"

    async with place.lab(toy, auto_advance=True) as lab:
        run = await toy.start("mapping")
        assert await done(lab, run) == "Look[1]"
        steps = await steps_of(lab, run)
        assert set(steps) == {"Look[0]", "Look[1]", "Look[2]", "Let them go", "Nap"}
        assert steps["Look[0]"].status == steps["Look[2]"].status == "succeeded"


async def test_an_unhandled_failure_fails_the_run(toy: Toy, place: Place) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        return await ctx.workflow.map("Double", double, [1, -1])

    async with place.lab(toy) as lab:
        failed = await failure(lab, await toy.start("mapping"))
    assert failed.caused_by(StepFailedError)
    assert "-1 is negative" in failed.error.message


async def test_tolerated_failures_stand_in_the_places_of_their_items(
    toy: Toy, place: Place
) -> None:
    double = wire_double(toy)
    seen: list[StepFailure[int]] = []

    @toy.workflow
    async def mapping(ctx: Wf) -> list[Any]:
        results = await ctx.workflow.map(
            "Double", double, [-1, 2, -3], tolerated_failures=2, retries=1
        )
        failures = [each for each in results if isinstance(each, StepFailure)]
        seen[:] = failures
        return [each.step_name if isinstance(each, StepFailure) else each for each in results]

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("mapping")) == ["Double[0]", 4, "Double[2]"]
    assert [(each.input, each.attempt_count) for each in seen] == [(-1, 2), (-3, 2)]
    assert [each.error.message for each in seen] == ["-1 is negative", "-3 is negative"]
    assert seen[0].error.is_a(ValueError)


@pytest.mark.parametrize("tolerated", [0, 1, 2])
async def test_the_failure_that_is_one_too_many_is_raised(
    toy: Toy, place: Place, tolerated: int
) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> str:
        items = [-1, 1, -2, 2, -3, 3]
        try:
            await ctx.workflow.map(
                "Double", double, items, tolerated_failures=tolerated, max_concurrency=1
            )
        except StepFailedError as failed:
            return failed.step_name
        return "all done"

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        assert await done(lab, run) == f"Double[{2 * tolerated}]"
        assert len(await steps_of(lab, run)) == 2 * tolerated + 1


async def test_each_item_has_the_options_of_a_step(toy: Toy, place: Place) -> None:
    told: list[StepFailure[int]] = []

    @toy.func
    async def flaky(ctx: Ctx, n: int) -> int:
        if n == 2 or ctx.step.attempt_count == 1:
            raise ValueError("no")
        return n

    @toy.func
    async def tell(ctx: Ctx, failed: StepFailure[int]) -> None:
        told.append(failed)

    @toy.workflow
    async def mapping(ctx: Wf) -> list[Any]:
        results = await ctx.workflow.map(
            "Try",
            flaky,
            range(3),
            retries=1,
            retry_delay="1min",
            timeout="1h",
            on_error=tell,
            tolerated_failures=1,
        )
        return [each if isinstance(each, int) else None for each in results]

    async with place.lab(toy, auto_advance=True) as lab:
        assert await done(lab, await toy.start("mapping")) == [0, 1, None]
        assert lab.executions("Try[0]") == 2
    assert [(each.input, each.step_name) for each in told] == [(2, "Try[2]")]


@pytest.mark.parametrize("at_once", [None, 2])
async def test_an_item_that_is_refused_is_raised_and_ends_the_map(
    toy: Toy, place: Place, at_once: int | None
) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> str:
        items: list[Any] = [0, 1, 2, "three", 4, 5]
        try:
            await ctx.workflow.map("Double", double, items, max_concurrency=at_once)
        except InvalidInputError as refused:
            await ctx.workflow.sleep("Nap", "1h")
            return str(refused)
        return "all done"

    async with place.lab(toy, auto_advance=True) as lab:
        run = await toy.start("mapping")
        assert "Double[3]" in await done(lab, run)
        assert set(await steps_of(lab, run)) == {"Double[0]", "Double[1]", "Double[2]", "Nap"}


# --- what is refused before anything is asked for -------------------------------------------------


def endless() -> Iterator[int]:
    yield from count()


@pytest.mark.parametrize(
    "items",
    [
        *("text", b"bytes", None, 3, object(), {"a": 1}, {1, 2}, frozenset([1])),
        *(endless(), range(10_001), [0] * 100_000),
    ],
    ids=lambda items: type(items).__name__,
)
async def test_what_is_no_list_or_too_long_is_refused(toy: Toy, memory: World, items: Any) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> str:
        try:
            await ctx.workflow.map("Double", double, items)
        except FanOutError as refused:
            return str(refused)
        return "all done"

    async with memory.lab(toy) as lab:
        run = await toy.start("mapping")
        assert (await run.result()).startswith("PKR326 map 'Double': ")
        assert await steps_of(lab, run) == {}


@pytest.mark.parametrize("option", ["max_concurrency", "tolerated_failures"])
@pytest.mark.parametrize("value", [-1, True, False, "3", 1.5])
async def test_options_that_are_no_counts_are_refused(
    toy: Toy, memory: World, option: str, value: Any
) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> str:
        options: Any = {option: value}
        try:
            await ctx.workflow.map("Double", double, [1], **options)
        except DeclarationError as refused:
            return str(refused)
        return "all done"

    async with memory.lab(toy) as lab:
        run = await toy.start("mapping")
        assert f"map 'Double': {option} is {value!r}" in await run.result()
        assert await steps_of(lab, run) == {}


async def test_none_at_once_is_refused(toy: Toy, memory: World) -> None:
    @toy.workflow
    async def mapping(ctx: Wf) -> None:
        await ctx.workflow.map("Look", lambda n: n, [1], max_concurrency=0)

    async with memory.lab(toy) as lab:
        assert (await failure(lab, await toy.start("mapping"))).caused_by(DeclarationError)


@pytest.mark.parametrize("name", ["", "  ", 3, None], ids=repr)
async def test_a_name_that_names_nothing_is_refused(toy: Toy, memory: World, name: Any) -> None:
    @toy.workflow
    async def mapping(ctx: Wf) -> None:
        await ctx.workflow.map(name, lambda n: n, [])

    async with memory.lab(toy) as lab:
        assert (await failure(lab, await toy.start("mapping"))).caused_by(StepNameError)


async def test_a_target_that_is_nothing_is_refused(toy: Toy, memory: World) -> None:
    @toy.workflow
    async def mapping(ctx: Wf) -> None:
        await ctx.workflow.map("Look", 3, [1])  # type: ignore[call-overload]

    async with memory.lab(toy) as lab:
        assert (await failure(lab, await toy.start("mapping"))).caused_by(DeclarationError)


# --- replay, death and cancellation ---------------------------------------------------------------


@pytest.mark.parametrize("at_once", [None, 1, 3])
@pytest.mark.parametrize("died_at", [0, 3, 6])
async def test_a_crash_in_the_middle_repeats_no_recorded_item(
    toy: Toy, place: Place, at_once: int | None, died_at: int
) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        first = await ctx.workflow.map("Double", double, range(7), max_concurrency=at_once)
        await ctx.workflow.sleep("Nap", "1h")
        return first

    async with place.lab(toy, auto_advance=True) as lab:
        lab.crash_after(f"Double[{died_at}]")
        run = await toy.start("mapping", wait=False)
        await lab.settle()
        assert lab._crashed
        await lab.recover()
        again = toy.app.get_run("mapping", str(run))
        assert await done(lab, again) == [n * 2 for n in range(7)]
        assert lab.executions(f"Double[{died_at}]") == 1
        assert len(await steps_of(lab, run)) == 8


async def test_two_maps_of_one_name_are_told_apart(toy: Toy, place: Place) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def mapping(ctx: Wf) -> list[list[int]]:
        both = await asyncio.gather(
            ctx.workflow.map("Double", double, [1, 2]), ctx.workflow.map("Double", double, [3, 4])
        )
        return list(both)

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        assert await done(lab, run) == [[2, 4], [6, 8]]
        keys = set(await steps_of(lab, run))
        assert keys == {"Double[0]", "Double[0]#1", "Double[1]", "Double[1]#1"}


async def test_the_cancellation_of_the_run_ends_a_map_at_once(toy: Toy, place: Place) -> None:
    seen: list[str] = []

    @toy.workflow(name="napping")
    async def napping(ctx: Wf, n: int) -> None:
        await ctx.workflow.sleep("Nap", "1d")

    @toy.workflow
    async def mapping(ctx: Wf) -> None:
        try:
            await ctx.workflow.map("Nap", napping, range(5), max_concurrency=2)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        started = await children(lab, run)
        assert len(started) == 2
        for child in started:
            assert await toy.app.get_run("napping", child).status() == "cancelled"
    assert seen == ["cancelled"]


async def test_no_further_item_begins_while_a_cancelled_run_cleans_up(
    toy: Toy, place: Place
) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @toy.func
    async def look(ctx: Ctx, n: int) -> None:
        entered.set()
        await go.wait()

    @toy.workflow
    async def mapping(ctx: Wf) -> None:
        try:
            await ctx.workflow.map("Look", look, range(5), max_concurrency=1)
        finally:
            await ctx.workflow.do("Let it go", lambda: go.set())
            await ctx.workflow.do("Clean up", lambda: None)

    async with place.lab(toy) as lab:
        run = await toy.start("mapping", wait=False)
        await entered.wait()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        assert set(await steps_of(lab, run)) == {"Look[0]", "Let it go", "Clean up"}


# --- workflows as targets -------------------------------------------------------------------------


async def test_each_item_may_be_a_run_of_its_own(toy: Toy, place: Place) -> None:
    double = wire_double(toy)

    @toy.workflow
    async def child(ctx: Wf, n: int) -> int:
        await ctx.workflow.sleep("Nap", "1h")
        result: int = await ctx.workflow.do("Double", double, n)
        return result

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        by_object: list[int] = await ctx.workflow.map("Child", child, range(3), max_concurrency=2)
        by_name: list[int] = await ctx.workflow.map("Named", "child", [3])  # type: ignore[call-overload]
        return by_object + by_name

    async with place.lab(toy, auto_advance=True) as lab:
        run = await toy.start("mapping")
        assert await done(lab, run) == [0, 2, 4, 6]
        assert len(await children(lab, run)) == 4


async def test_a_map_that_loses_a_race_cancels_its_children(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def napping(ctx: Wf, n: int) -> None:
        await ctx.workflow.sleep("Nap", "1d")

    @toy.workflow
    async def racing(ctx: Wf) -> int:
        first = await ctx.workflow.race(
            ctx.workflow.map("Child", napping, range(3)), ctx.workflow.sleep("Wait", "1h")
        )
        await ctx.workflow.sleep("Wait again", "1h")
        return first[0]  # type: ignore[no-any-return]

    async with place.lab(toy) as lab:
        run = await toy.start("racing")
        await lab.settle()
        await lab.advance("1h")
        assert await run.status() == "running"
        for child in await children(lab, run):
            assert await toy.app.get_run("napping", child).status() == "cancelled"


@pytest.mark.parametrize("option", [{"queue": "slow"}, {"dispatch": "queue"}], ids=str)
async def test_options_that_a_child_cannot_have_are_refused(
    toy: Toy, memory: World, option: dict[str, Any]
) -> None:
    @toy.workflow
    async def child(ctx: Wf, n: int) -> int:
        return n

    @toy.workflow
    async def mapping(ctx: Wf) -> str:
        try:
            await ctx.workflow.map("Child", child, [1], **option)
        except DeclarationError as refused:
            return str(refused)
        return "all done"

    async with memory.lab(toy):
        assert "step 'Child[0]'" in await (await toy.start("mapping")).result()


async def test_the_children_of_a_map_that_has_failed_are_given_up(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def below(ctx: Wf, n: int) -> int:
        if n < 0:
            raise ValueError("negative")
        await ctx.workflow.sleep("Nap", "5min")
        return await ctx.workflow.do("Work", lambda: n)

    @toy.workflow
    async def mapping(ctx: Wf) -> str:
        try:
            await ctx.workflow.map("Each", below, [1, -1, 2])
        except StepFailedError:
            await ctx.workflow.sleep("Go on", "1h")
        return "went on"

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        await lab.advance("1h")
        assert await done(lab, run) == "went on"
        ends = [await lab.app.get_run("below", each).status() for each in await children(lab, run)]
        assert sorted(ends) == ["cancelled", "cancelled", "failed"]
        assert lab.executions("Work") == 0


async def test_a_tolerated_failure_has_the_input_that_was_recorded(toy: Toy, place: Place) -> None:
    @toy.func
    async def work(ctx: Ctx, line: Line) -> None:
        raise ValueError("no")

    @toy.workflow
    async def mapping(ctx: Wf) -> list[str]:
        lines = [Line(price=Decimal(5))]
        task = asyncio.ensure_future(
            ctx.workflow.map("Each", work, lines, tolerated_failures=1, retries=1, retry_delay="1h")
        )
        await asyncio.sleep(0)
        lines[0].price = Decimal(99)
        return [str(end.input.price) for end in await task if isinstance(end, StepFailure)]

    async with place.lab(toy) as lab:
        run = await toy.start("mapping")
        await lab.advance("1h")
        assert await done(lab, run) == ["5"]
