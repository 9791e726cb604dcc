"""Sagas: undone in reverse, told what they undo, whatever fails and whoever cancels."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from tests.life.kit import Place, cancelled, done, failure, statuses
from tests.runtime.kit import Ctx, Toy, Wf

from pikku import StepFailedError, Undo
from pikku.errors import CompensationError, DeclarationError


class Seat(BaseModel):
    row: int


@dataclass
class Card:
    amount: int


class Journal:
    """The functions of a saga, and what they were told."""

    def __init__(self, toy: Toy) -> None:
        self.undone: list[tuple[str, Any, Any]] = []
        journal = self

        @toy.func
        async def book(ctx: Ctx, row: int) -> Seat:
            if row < 0:
                raise ValueError(f"no row {row}")
            return Seat(row=row)

        @toy.func
        async def release(ctx: Ctx, what: Undo[int, Seat]) -> None:
            assert type(what.output) is Seat
            if what.input in journal.stuck:
                raise ValueError("cannot undo")
            journal.undone.append((what.step_name, what.input, what.output.row))

        @toy.func
        async def nothing(ctx: Ctx) -> None:
            return None

        @toy.func
        async def release_nothing(ctx: Ctx, what: Undo[None, None]) -> None:
            journal.undone.append((what.step_name, what.input, what.output))

        self.stuck: set[int] = set()
        self.book, self.release = book, release
        self.nothing, self.release_nothing = nothing, release_nothing


@pytest.fixture
def journal(toy: Toy) -> Journal:
    return Journal(toy)


async def test_what_succeeded_is_undone_the_last_first(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            for row in (1, 2, 3, -4):
                await saga.do(f"Book {row}", journal.book, row, undo=journal.release)

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        error = await failure(lab, run)
        assert error.caused_by(StepFailedError)
        assert "no row -4" in error.error.message
        for row in (1, 2, 3):
            assert (await statuses(lab, run))[f"Book {row} (undo)"] == "succeeded"
    assert journal.undone == [("Book 3", 3, 3), ("Book 2", 2, 2), ("Book 1", 1, 1)]


async def test_what_completes_is_not_undone(toy: Toy, place: Place, journal: Journal) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> int:
        async with ctx.workflow.saga() as saga:
            seat = await saga.do("Book", journal.book, 1, undo=journal.release)
            await saga.do("Nothing", journal.nothing, undo=journal.release_nothing)
        row: int = seat.row
        return row

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("trip")) == 1
    assert journal.undone == []


async def test_a_step_without_input_and_output_is_undone(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Nothing", journal.nothing, undo=journal.release_nothing)
            raise ValueError("after it")

    async with place.lab(toy) as lab:
        error = await failure(lab, await toy.start("trip"))
        assert error.caused_by(ValueError)
    assert journal.undone == [("Nothing", None, None)]


async def test_a_failure_that_is_caught_outside_was_undone_before(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> str:
        try:
            async with ctx.workflow.saga() as saga:
                await saga.do("Book", journal.book, 1, undo=journal.release)
                await saga.do("Book again", journal.book, -1, undo=journal.release)
        except StepFailedError:
            return await ctx.workflow.do("Other way", lambda: "by bus")
        return "?"

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("trip")) == "by bus"
    assert journal.undone == [("Book", 1, 1)]


async def test_a_failure_that_is_caught_inside_undoes_nothing(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> str:
        async with ctx.workflow.saga() as saga:
            await saga.do("Book", journal.book, 1, undo=journal.release)
            try:
                await saga.do("Book again", journal.book, -1, undo=journal.release)
            except StepFailedError:
                pass
        return "kept"

    async with place.lab(toy) as lab:
        assert await done(lab, await toy.start("trip")) == "kept"
    assert journal.undone == []


async def test_an_undoing_that_fails_keeps_no_other_from_being_taken(
    toy: Toy, place: Place, journal: Journal
) -> None:
    journal.stuck = {2}

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            for row in (1, 2, 3, -4):
                await saga.do(f"Book {row}", journal.book, row, undo=journal.release)

    async with place.lab(toy) as lab:
        error = await failure(lab, await toy.start("trip"))
        assert error.caused_by(CompensationError)
        assert "'Book 2'" in error.error.message
    assert [name for name, _, _ in journal.undone] == ["Book 3", "Book 1"]


async def test_a_compensation_error_has_the_original_as_its_cause(
    toy: Toy, evicted: Place, journal: Journal
) -> None:
    journal.stuck = {1}
    causes: list[str] = []

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        try:
            async with ctx.workflow.saga() as saga:
                await saga.do("Book", journal.book, 1, undo=journal.release)
                raise KeyError("the original")
        except CompensationError as error:
            assert error.steps == ("Book",)
            causes.append(repr(error.__cause__))

    async with evicted.lab(toy) as lab:
        await done(lab, await toy.start("trip"))
    assert set(causes) == {"KeyError('the original')"}


async def test_a_cancel_undoes_what_was_done(toy: Toy, place: Place, journal: Journal) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Book 1", journal.book, 1, undo=journal.release)
            await saga.do("Book 2", journal.book, 2, undo=journal.release)
            await ctx.workflow.sleep("Nap", "1d")

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
    assert [name for name, _, _ in journal.undone] == ["Book 2", "Book 1"]


async def test_a_cancel_stays_a_cancel_where_an_undoing_fails(
    toy: Toy, place: Place, journal: Journal
) -> None:
    journal.stuck = {2}

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Book 1", journal.book, 1, undo=journal.release)
            await saga.do("Book 2", journal.book, 2, undo=journal.release)
            await ctx.workflow.sleep("Nap", "1d")

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
    assert [name for name, _, _ in journal.undone] == ["Book 1"]


async def test_a_step_under_way_at_the_cancel_is_waited_for_and_undone(
    toy: Toy, place: Place, journal: Journal
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @toy.func
    async def slow(ctx: Ctx, row: int) -> Seat:
        begun.set()
        await go.wait()
        return Seat(row=row)

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Book 1", journal.book, 1, undo=journal.release)
            await saga.do("Slow", slow, 2, undo=journal.release)

    async with place.lab(toy) as lab:
        run = await toy.start("trip", wait=False)
        await begun.wait()
        await run.cancel("enough")
        go.set()
        assert await cancelled(lab, run) == "enough"
    assert [name for name, _, _ in journal.undone] == ["Slow", "Book 1"]


async def test_steps_of_a_saga_may_run_at_once(toy: Toy, place: Place, journal: Journal) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await asyncio.gather(
                *(
                    saga.do(f"Book {row}", journal.book, row, undo=journal.release)
                    for row in (1, 2, 3)
                )
            )
            raise ValueError("after it")

    async with place.lab(toy) as lab:
        await failure(lab, await toy.start("trip"))
    assert sorted(name for name, _, _ in journal.undone) == ["Book 1", "Book 2", "Book 3"]


async def test_of_steps_at_once_one_fails_and_the_others_are_undone(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga, asyncio.TaskGroup() as group:
            for row in (1, -2, 3):
                group.create_task(saga.do(f"Book {row}", journal.book, row, undo=journal.release))

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await failure(lab, run)
        reached = await statuses(lab, run)
        done_ones = {key for key in ("Book 1", "Book 3") if reached.get(key) == "succeeded"}
    assert {name for name, _, _ in journal.undone} == done_ones


async def test_an_undoing_survives_a_crash_and_is_taken_once(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            for row in (1, 2, 3, -4):
                await saga.do(f"Book {row}", journal.book, row, undo=journal.release)

    async with place.lab(toy) as lab:
        lab.crash_after("Book 2 (undo)")
        run = await toy.start("trip", wait=False)
        await lab.settle()
        await lab.recover()
        await failure(lab, run)
        for row in (2, 3):
            assert lab.executions(f"Book {row} (undo)") == 1
        assert (await statuses(lab, run))["Book 1 (undo)"] == "succeeded"


async def test_a_saga_in_a_saga_is_undone_from_the_inside(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as outer:
            await outer.do("Outer", journal.book, 1, undo=journal.release)
            async with ctx.workflow.saga() as inner:
                await inner.do("Inner", journal.book, 2, undo=journal.release)
                await inner.do("Broken", journal.book, -1, undo=journal.release)

    async with place.lab(toy) as lab:
        await failure(lab, await toy.start("trip"))
    assert [name for name, _, _ in journal.undone] == ["Inner", "Outer"]


async def test_a_retried_step_of_a_saga_is_undone_once(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.func
    async def flaky(ctx: Ctx, row: int) -> Seat:
        if ctx.step.attempt_count < 3:
            raise ValueError("not yet")
        return Seat(row=row)

    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Flaky", flaky, 1, undo=journal.release, retries=3, retry_delay="1min")
            raise ValueError("after it")

    async with place.lab(toy) as lab:
        run = await toy.start("trip")
        await lab.advance("5min")
        await failure(lab, run)
    assert journal.undone == [("Flaky", 1, 1)]


async def test_a_child_with_a_saga_is_cancelled_with_its_parent_and_undone(
    toy: Toy, place: Place, journal: Journal
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Book", journal.book, 1, undo=journal.release)
            await ctx.workflow.sleep("Nap", "1d")

    @toy.workflow
    async def parent(ctx: Wf) -> None:
        await ctx.workflow.do("Child", trip)

    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        await lab.settle()
        await run.cancel("enough")
        assert await cancelled(lab, run) == "enough"
        await lab.settle()
    assert journal.undone == [("Book", 1, 1)]


@pytest.mark.parametrize("which", ["target", "undo"])
async def test_what_is_no_function_of_the_app_is_refused(
    toy: Toy, evicted: Place, journal: Journal, which: str
) -> None:
    @toy.workflow
    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            target: Any = (lambda: 1) if which == "target" else journal.book
            undo: Any = (lambda: 1) if which == "undo" else journal.release
            await saga.do("Book", target, 1, undo=undo)

    async with evicted.lab(toy) as lab:
        run = await toy.start("trip")
        assert (await failure(lab, run)).caused_by(DeclarationError)
        assert await statuses(lab, run) == {}


async def test_an_undoing_is_told_what_was_recorded_whatever_became_of_the_objects(
    toy: Toy, place: Place
) -> None:
    told: list[tuple[int, int]] = []

    @toy.func
    async def charge(ctx: Ctx, card: Card) -> Card:
        return Card(card.amount + 1)

    @toy.func
    async def refund(ctx: Ctx, what: Undo[Card, Card]) -> None:
        told.append((what.input.amount, what.output.amount))

    @toy.workflow
    async def order(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            card = Card(5)
            receipt = await saga.do("Charge", charge, card, undo=refund)
            card.amount = receipt.amount = 99
            await ctx.workflow.sleep("Think", "1h")
            raise RuntimeError("no")

    async with place.lab(toy) as lab:
        run = await toy.start("order")
        await lab.advance("1h")
        await failure(lab, run)
    assert told == [(5, 6)]


async def test_a_step_that_was_small_enough_is_undone_however_large_that_makes_it(
    toy: Toy, place: Place
) -> None:
    sizes: list[int] = []

    @toy.func
    async def echo(ctx: Ctx, text: str) -> str:
        return text

    @toy.func
    async def undo(ctx: Ctx, what: Undo[str, str]) -> None:
        sizes.append(len(what.input) + len(what.output))

    @toy.workflow
    async def order(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Big", echo, "x" * 700_000, undo=undo)
            raise RuntimeError("no")

    async with place.lab(toy) as lab:
        run = await toy.start("order")
        assert (await failure(lab, run)).error.type == "RuntimeError"
    assert sizes == [1_400_000]


async def test_a_step_whose_undoing_could_have_no_name_is_refused(toy: Toy, evicted: Place) -> None:
    @toy.func
    async def echo(ctx: Ctx, text: str) -> str:
        return text

    @toy.func
    async def undo(ctx: Ctx, what: Undo[str, str]) -> None: ...

    @toy.workflow
    async def order(ctx: Wf, length: int) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("n" * length, echo, "x", undo=undo)
            raise RuntimeError("no")

    async with evicted.lab(toy) as lab:
        run = await toy.start("order", 494)
        error = (await failure(lab, run)).error
        assert (error.type, lab.executions("n" * 494)) == ("StepNameError", 0)
        assert "(undo)" in error.message
        run = await toy.start("order", 493)
        assert (await failure(lab, run)).error.type == "RuntimeError"
        assert lab.executions("n" * 493 + " (undo)") == 1
