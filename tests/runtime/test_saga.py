"""Sagas: what was done is undone, the last first, when what follows fails or is cancelled."""

import asyncio
import logging
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from tests.life.conftest import mode as mode
from tests.life.conftest import place as place
from tests.life.kit import Place, cancelled, done, failure
from tests.runtime.kit import Ctx, Lab, Toy, Wf, World, steps_of

from pikku import Run, StepFailedError, Undo
from pikku._saga import Saga
from pikku.errors import CompensationError, DeclarationError, Discarded


class Money(BaseModel):
    amount: Decimal


class Bookings:
    """Functions that book and release, and what they were told."""

    def __init__(self, toy: Toy) -> None:
        self.released: list[Undo[str, str]] = []
        self.unreleasable: set[str] = set()
        self.entered, self.go = asyncio.Event(), asyncio.Event()

        @toy.func
        async def book(ctx: Ctx, what: str) -> str:
            if what == "nothing":
                raise ValueError("there is nothing to book")
            return f"booked {what}"

        @toy.func
        async def book_slowly(ctx: Ctx, what: str) -> str:
            self.entered.set()
            await self.go.wait()
            if what == "nothing":
                raise ValueError("there is nothing to book")
            return f"booked {what}"

        @toy.func
        async def release(ctx: Ctx, done: Undo[str, str]) -> None:
            if done.step_name in self.unreleasable:
                raise OSError(f"cannot release {done.step_name}")
            self.released.append(done)

        self.book, self.book_slowly, self.release = book, book_slowly, release

    @property
    def names(self) -> list[str]:
        """The steps that were undone, in the order of the undoing."""
        return [undo.step_name for undo in self.released]


@pytest.fixture
def bookings(toy: Toy) -> Bookings:
    """The functions of *toy*."""
    return Bookings(toy)


async def undoings(lab: Lab, run: Run[Any]) -> set[str]:
    """The keys of the run's steps that undo others."""
    return {key for key in await steps_of(lab, run) if "(undo)" in key}


async def test_a_saga_that_ends_well_undoes_nothing(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> list[str]:
        async with ctx.workflow.saga() as saga:
            seat = await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            await ctx.workflow.sleep("Think", "1d")
            room = await saga.do("Room", bookings.book, "room", undo=bookings.release)
        return [seat, room]

    async with place.lab(toy, auto_advance=True) as lab:
        run = await toy.start("trip")
        assert await done(lab, run) == ["booked seat", "booked room"]
        assert await undoings(lab, run) == set()
    assert bookings.released == []


async def test_a_failure_undoes_what_was_done_the_last_first(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            await saga.do("Room", bookings.book, "room", undo=bookings.release)
            await saga.do("Guide", bookings.book, "nothing", undo=bookings.release)

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        failed = await failure(lab, run)
        assert failed.caused_by(StepFailedError)
        assert "there is nothing to book" in failed.error.message
        steps = await steps_of(lab, run)
        assert set(steps) == {"Seat", "Room", "Guide", "Room (undo)", "Seat (undo)"}
        assert steps["Seat (undo)"].target == "release"
    assert bookings.released == [
        Undo("room", "booked room", "Room"),
        Undo("seat", "booked seat", "Seat"),
    ]


async def test_an_error_of_the_author_undoes_too_and_can_be_caught_outside(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> str:
        try:
            async with ctx.workflow.saga() as saga:
                await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
                raise LookupError("no such town")
        except LookupError as error:
            left: str = await ctx.workflow.do("Book elsewhere", bookings.book, "sofa")
            return f"{error}, {left}"

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("trip")) == "no such town, booked sofa"
    assert bookings.names == ["Seat"]


async def test_what_is_caught_inside_undoes_nothing(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> str:
        async with ctx.workflow.saga() as saga:
            try:
                await saga.do("Guide", bookings.book, "nothing", undo=bookings.release)
            except StepFailedError:
                pass
            got: str = await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
        return got

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("trip")) == "booked seat"
    assert bookings.released == []


async def test_an_undoing_is_told_typed_values(toy: Toy, place: Place) -> None:
    told: list[Any] = []

    @toy.func
    async def charge(ctx: Ctx, price: Money) -> Money:
        return Money(amount=price.amount + 1)

    @toy.func
    async def refund(ctx: Ctx, done: Undo[Money, Money]) -> None:
        told.append(done)

    @toy.func
    async def count(ctx: Ctx) -> int:
        return 0

    @toy.func
    async def uncount(ctx: Ctx, done: Undo[None, int]) -> None:
        told.append(done)

    @toy.workflow
    async def buying(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Charge", charge, Money(amount=Decimal("1.50")), undo=refund)
            await saga.do("Count", count, undo=uncount)
            raise LookupError

    async with place.lab(toy) as lab:
        await failure(lab, await toy.start("buying"))
    assert told == [
        Undo(None, 0, "Count"),
        Undo(Money(amount=Decimal("1.50")), Money(amount=Decimal("2.50")), "Charge"),
    ]


async def test_functions_may_be_named_and_one_name_may_be_taken_twice(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        by_name: Any = "book"
        async with ctx.workflow.saga() as saga:
            for what in ("one", "two"):
                await saga.do("Seat", by_name, what, undo=ctx.rpc.release)
            raise LookupError

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await failure(lab, run)
        assert await undoings(lab, run) == {"Seat (undo)", "Seat (undo)#1"}
    assert [undo.input for undo in bookings.released] == ["two", "one"]


async def test_an_inner_saga_that_ended_well_is_not_undone_by_the_outer(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as outer:
            await outer.do("Seat", bookings.book, "seat", undo=bookings.release)
            async with ctx.workflow.saga() as inner:
                await inner.do("Room", bookings.book, "room", undo=bookings.release)
            raise LookupError

    async with place.lab(toy) as lab:
        await failure(lab, await toy.start("trip"))
    assert bookings.names == ["Seat"]


# --- several at once ------------------------------------------------------------------------------


async def test_the_order_of_the_undoings_is_the_reverse_of_how_the_steps_ended(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    ended = [asyncio.Event() for _ in range(4)]
    ended[3].set()

    @toy.func
    async def after_the_next(ctx: Ctx, n: int) -> str:
        await ended[n + 1].wait()
        return str(n)

    @toy.func
    async def release_number(ctx: Ctx, done: Undo[int, str]) -> None:
        bookings.released.append(Undo(str(done.input), done.output, done.step_name))

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async def one(saga: Saga, n: int) -> None:
            await saga.do(f"Step {n}", after_the_next, n, undo=release_number)
            await ctx.workflow.do(f"Seen {n}", lambda: ended[n].set())

        async with ctx.workflow.saga() as saga:
            await asyncio.gather(*[one(saga, n) for n in range(3)])
            raise LookupError

    async with place.lab(toy) as lab:
        await failure(lab, await toy.start("trip"))
    assert bookings.names == ["Step 0", "Step 1", "Step 2"]


@pytest.mark.parametrize("what", ["room", "nothing"])
@pytest.mark.parametrize("group", [True, False], ids=["TaskGroup", "gather"])
async def test_a_step_under_way_when_another_fails_is_waited_for_and_undone_if_it_succeeds(
    toy: Toy, place: Place, bookings: Bookings, what: str, group: bool
) -> None:
    @toy.func
    async def fail_meanwhile(ctx: Ctx, what: str) -> str:
        await bookings.entered.wait()
        raise ValueError("no guide")

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            slow = saga.do("Slow", bookings.book_slowly, what, undo=bookings.release)
            guide = saga.do("Guide", fail_meanwhile, "guide", undo=bookings.release)
            try:
                if group:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(slow)
                        tasks.create_task(guide)
                else:
                    await asyncio.gather(slow, guide)
            finally:
                await ctx.workflow.do("Let it go", lambda: bookings.go.set())

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await failure(lab, run)
        assert await undoings(lab, run) == ({"Slow (undo)"} if what == "room" else set())
    assert bookings.names == (["Slow"] if what == "room" else [])


# --- cancellation ---------------------------------------------------------------------------------


async def test_a_cancellation_undoes_what_was_done(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            await saga.do("Room", bookings.book, "room", undo=bookings.release)
            await ctx.workflow.sleep("Think", "1d")

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
    assert bookings.names == ["Room", "Seat"]


@pytest.mark.parametrize("what", ["room", "nothing"])
async def test_a_step_under_way_at_the_cancellation_is_waited_for_and_undone_if_it_succeeds(
    toy: Toy, place: Place, bookings: Bookings, what: str
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            await saga.do("Slow", bookings.book_slowly, what, undo=bookings.release)

    async with place.lab(toy) as lab:
        run = await toy.start("trip", wait=False)
        await bookings.entered.wait()
        await run.cancel("enough")
        bookings.go.set()
        assert await cancelled(lab, run) == "enough"
    assert bookings.names == (["Slow", "Seat"] if what == "room" else ["Seat"])


async def test_a_step_between_its_attempts_is_not_waited_for(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            await saga.do(
                "Guide",
                bookings.book,
                "nothing",
                undo=bookings.release,
                retries=3,
                retry_delay="1d",
            )

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        assert lab.executions("Guide") == 1
    assert bookings.names == ["Seat"]


async def test_a_cancellation_while_a_failure_is_undone_lets_the_undoing_end(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.func
    async def release_slowly(ctx: Ctx, done: Undo[str, str]) -> None:
        bookings.entered.set()
        await bookings.go.wait()
        bookings.released.append(done)

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            await saga.do("Room", bookings.book, "room", undo=release_slowly)
            await saga.do("Guide", bookings.book, "nothing", undo=bookings.release)

    async with place.lab(toy) as lab:
        run = await toy.start("trip", wait=False)
        await bookings.entered.wait()
        await run.cancel("enough")
        bookings.go.set()
        assert await cancelled(lab, run) == "enough"
    assert bookings.names == ["Room", "Seat"]


async def test_an_undoing_between_its_attempts_is_taken_again_at_the_cancellation(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    broken = True

    @toy.func(retries=5, retry_delay="1d")
    async def release_later(ctx: Ctx, done: Undo[str, str]) -> None:
        if broken:
            raise OSError("not now")
        bookings.released.append(done)

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            await saga.do("Room", bookings.book, "room", undo=release_later)
            await saga.do("Guide", bookings.book, "nothing", undo=bookings.release)

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await lab.settle()
        assert bookings.names == []
        broken = False
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
    assert bookings.names == ["Room", "Seat"]


# --- undoings that fail ---------------------------------------------------------------------------


async def test_an_undoing_that_fails_keeps_no_other_from_being_taken(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    bookings.unreleasable = {"Room", "Car"}
    causes: list[Any] = []

    @toy.workflow
    async def trip(ctx: Wf) -> list[str]:
        try:
            async with ctx.workflow.saga() as saga:
                for name in ("Seat", "Room", "Boat", "Car"):
                    await saga.do(name, bookings.book, name, undo=bookings.release)
                raise LookupError("no such town")
        except CompensationError as error:
            causes.append(error.__cause__)
            return list(error.steps)
        return []

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        assert await done(lab, run) == ["Car", "Room"]
        steps = await steps_of(lab, run)
        assert steps["Room (undo)"].status == "failed"
        assert steps["Seat (undo)"].status == "succeeded"
    assert bookings.names == ["Boat", "Seat"]
    assert {type(cause) for cause in causes} == {LookupError}


async def test_an_undoing_has_the_policy_of_its_function(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.func(retries=2, retry_delay="1h")
    async def release_at_last(ctx: Ctx, done: Undo[str, str]) -> None:
        if ctx.step.attempt_count < 3:
            raise OSError("not yet")
        bookings.released.append(done)

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", bookings.book, "seat", undo=release_at_last)
            raise LookupError("no such town")

    async with place.lab(toy, auto_advance=True) as lab:
        assert (await failure(lab, await toy.start("trip"))).caused_by(LookupError)
        assert lab.executions("Seat (undo)") == 3
    assert bookings.names == ["Seat"]


async def test_a_cancelled_run_stays_cancelled_when_an_undoing_fails(
    toy: Toy, place: Place, bookings: Bookings, caplog: pytest.LogCaptureFixture
) -> None:
    bookings.unreleasable = {"Room"}

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            await saga.do("Room", bookings.book, "room", undo=bookings.release)
            await ctx.workflow.sleep("Think", "1d")

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await lab.settle()
        with caplog.at_level(logging.ERROR, "pikku"):
            await run.cancel("enough")
            assert await cancelled(lab, run) == "enough"
    assert bookings.names == ["Seat"]
    assert "could not undo: 'Room'" in caplog.text


async def test_an_undoing_that_cannot_take_what_it_is_told_keeps_no_other_from_being_taken(
    toy: Toy, place: Place, bookings: Bookings
) -> None:
    @toy.func
    async def release_number(ctx: Ctx, done: Undo[int, int]) -> None: ...

    @toy.workflow
    async def trip(ctx: Wf) -> list[str]:
        try:
            async with ctx.workflow.saga() as saga:
                await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
                await saga.do("Room", bookings.book, "room", undo=release_number)
                raise LookupError("no such town")
        except CompensationError as error:
            return list(error.steps)
        return []

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("trip")) == ["Room"]
    assert bookings.names == ["Seat"]


# --- death and parking ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "died_after", ["Seat", "Room", "Boat", "Guide", "Boat (undo)", "Room (undo)", "Seat (undo)"]
)
async def test_a_crash_anywhere_undoes_each_step_once(
    toy: Toy, place: Place, bookings: Bookings, died_after: str
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            for name in ("Seat", "Room", "Boat"):
                await saga.do(name, bookings.book, name, undo=bookings.release)
            await saga.do("Guide", bookings.book, "nothing", undo=bookings.release)

    async with place.lab(toy) as lab:
        lab.crash_after(died_after)
        run = await toy.start("trip", wait=False)
        await lab.settle()
        assert lab._crashed
        await lab.recover()
        failed = await failure(lab, toy.app.get_run("trip", str(run)))
        assert "there is nothing to book" in failed.error.message
        assert lab.executions("Room (undo)") == 1
    assert bookings.names == ["Boat", "Room", "Seat"]


@pytest.mark.parametrize("died_after", ["Boat (undo)", "Room (undo)", "Seat (undo)"])
async def test_a_crash_while_a_cancellation_is_undone_goes_on_undoing(
    toy: Toy, place: Place, bookings: Bookings, died_after: str
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            for name in ("Seat", "Room", "Boat"):
                await saga.do(name, bookings.book, name, undo=bookings.release)
            await ctx.workflow.sleep("Think", "1d")

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await lab.settle()
        lab.crash_after(died_after)
        await run.cancel("enough")
        await lab.settle()
        assert lab._crashed
        await lab.recover()
        assert await cancelled(lab, toy.app.get_run("trip", str(run))) == "enough"
        assert lab.executions("Boat (undo)") == lab.executions("Seat (undo)") == 1
    assert bookings.names == ["Boat", "Room", "Seat"]


async def test_a_function_that_is_thrown_away_undoes_nothing(bookings: Bookings) -> None:
    def ask(*args: Any, **options: Any) -> Any:
        raise Discarded

    async def body() -> None:
        async with Saga(ask, ask) as saga:
            saga._succeeded.append(("Seat", "release", "seat", "booked"))  # type: ignore[arg-type]
            await asyncio.get_running_loop().create_future()

    parked = body()
    parked.send(None)
    parked.close()
    finished = body()
    finished.send(None)
    with pytest.raises(Discarded):
        finished.throw(Discarded())


# --- refusals -------------------------------------------------------------------------------------


async def test_only_functions_of_the_app_can_be_done_and_undone(
    toy: Toy, memory: World, bookings: Bookings
) -> None:
    @toy.workflow
    async def other(ctx: Wf, what: str) -> str:
        return what

    @toy.workflow
    async def trip(ctx: Wf) -> int:
        refused = 0
        pairs: list[Any] = [
            (other, bookings.release),
            (lambda: 1, bookings.release),
            (bookings.book, other),
            (bookings.book, lambda done: None),
            (bookings.book, None),
        ]
        async with ctx.workflow.saga() as saga:
            for target, undo in pairs:
                try:
                    await saga.do("Seat", target, "seat", undo=undo)
                except DeclarationError:
                    refused += 1
        return refused

    async with memory.lab(toy) as lab:
        run = await toy.start("trip")
        assert await run.result() == 5
        assert await steps_of(lab, run) == {}


async def test_a_saga_takes_no_step_outside_of_its_block(
    toy: Toy, memory: World, bookings: Bookings
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> int:
        refused = 0
        saga = ctx.workflow.saga()
        for _ in range(2):
            try:
                await saga.do("Seat", bookings.book, "seat", undo=bookings.release)
            except DeclarationError:
                refused += 1
            async with saga:
                pass
        return refused

    async with memory.lab(toy) as lab:
        run = await toy.start("trip")
        assert await run.result() == 2
        assert await steps_of(lab, run) == {}
