"""Approvals: asked, answered once by whoever may, with validated data, or expired."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from tests.life.kit import PATIENCE, Place, done, everything, failure, kinds
from tests.runtime.kit import Ctx, Lab, Toy, Wf

from pikku import Decision, Run
from pikku.errors import (
    AlreadyDecidedError,
    ApproverError,
    DeclarationError,
    InvalidInputError,
    NoSuchStepError,
    RunStateError,
)


class Terms(BaseModel):
    limit: Decimal
    until: datetime | None = None


class OtherTerms(BaseModel):
    other: str


def asks(toy: Toy, **options: Any) -> None:
    """A workflow with one approval, which says what became of it."""

    @toy.workflow
    async def asking(ctx: Wf) -> list[Any]:
        said: Decision[Any] = await ctx.workflow.approval("Pay?", **options)
        shown = None if said.data is None else type(said.data).__name__
        return [said.outcome, shown, said.decided_by, said.note]


async def asked(lab: Lab, toy: Toy, **start: Any) -> Run[Any]:
    run = await toy.app.start_workflow("asking", **start)
    await lab.settle()
    return run


async def test_an_approval_is_answered_with_data_of_its_schema(toy: Toy, place: Place) -> None:
    seen: list[Decision[Terms]] = []

    @toy.workflow
    async def asking(ctx: Wf) -> Decimal:
        said = await ctx.workflow.approval("Pay?", schema=Terms, reason="a large sum")
        seen.append(said)
        assert said.data is not None
        return said.data.limit

    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        assert await run.status() == "running"
        await lab.advance("1h")
        until = datetime(2031, 1, 1, tzinfo=UTC)
        await run.approve("Pay?", Terms(limit=Decimal("1.50"), until=until), by="bob", note="ok")
        assert await done(lab, run) == Decimal("1.50")
        at = lab.clock.now()
    assert seen[-1] == Decision(
        "approved", Terms(limit=Decimal("1.50"), until=until), "bob", at, "ok"
    )


async def test_what_is_asked_is_listed_until_it_is_answered(toy: Toy, place: Place) -> None:
    asks(toy, schema=Terms, reason="a large sum", expires_in="1d", approvers="owner", scope="pay")
    async with place.lab(toy) as lab:
        run = await asked(lab, toy, started_by="ann")
        (request,) = await run.approvals()
        assert (request.step, request.reason) == ("Pay?", "a large sum")
        assert (request.approvers, request.scope) == ("owner", "pay")
        assert (request.schema or "").endswith(":Terms")
        assert request.asked_at == lab.clock.now()
        assert request.expires_at == lab.clock.now() + timedelta(days=1)
        await run.approve("Pay?", {"limit": "1"}, by="ann", scopes={"pay", "other"})
        assert await run.approvals() == []
        assert await done(lab, run) == ["approved", "Terms", "ann", ""]
        assert await run.approvals() == []


async def test_a_rejection_may_come_without_data(toy: Toy, place: Place) -> None:
    asks(toy, schema=Terms)
    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await run.reject("Pay?", by="bob", note="too much")
        assert await done(lab, run) == ["rejected", None, "bob", "too much"]


async def test_a_rejection_may_come_with_data_of_the_schema(toy: Toy, evicted: Place) -> None:
    asks(toy, schema=Terms)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        with pytest.raises(InvalidInputError):
            await run.reject("Pay?", {"limit": "no number"})
        await run.reject("Pay?", {"limit": "2"})
        assert await done(lab, run) == ["rejected", "Terms", None, ""]


async def test_an_approval_without_schema_takes_no_data(toy: Toy, evicted: Place) -> None:
    asks(toy)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        with pytest.raises(InvalidInputError):
            await run.approve("Pay?", {"limit": "2"})
        await run.approve("Pay?")
        assert await done(lab, run) == ["approved", None, None, ""]


@pytest.mark.parametrize(
    "data", [None, {}, {"limit": "x"}, "text", 5, [], OtherTerms(other="x"), {"other": 1}], ids=repr
)
async def test_data_that_does_not_fit_is_refused_and_nothing_is_decided(
    toy: Toy, evicted: Place, data: Any
) -> None:
    asks(toy, schema=Terms)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        before = await everything(lab)
        with pytest.raises(InvalidInputError):
            await run.approve("Pay?", data, by="bob")
        assert await everything(lab) == before
        assert len(await run.approvals()) == 1


async def test_nobody_answers_in_time_and_it_expires(toy: Toy, place: Place) -> None:
    asks(toy, schema=Terms, expires_in="1d")
    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await lab.advance("23h59min59s")
        assert await run.status() == "running"
        await lab.advance("1s")
        assert await done(lab, run) == ["expired", None, None, ""]
        with pytest.raises(AlreadyDecidedError, match="expired"):
            await run.approve("Pay?", {"limit": "1"})


async def test_an_expiry_survives_a_crash(toy: Toy, place: Place) -> None:
    asks(toy, schema=Terms, expires_in="1d")
    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await lab.advance("23h")
        await lab.crash()
        await lab.recover()
        await lab.advance("1h")
        assert await done(lab, run) == ["expired", None, None, ""]


async def test_a_late_answer_to_a_run_that_goes_on_is_a_conflict(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def asking(ctx: Wf) -> str:
        said = await ctx.workflow.approval("Pay?", expires_in="1h")
        await ctx.workflow.sleep("Nap", "1d")
        return said.outcome

    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await lab.advance("1h")
        before = await everything(lab)
        with pytest.raises(AlreadyDecidedError, match="expired"):
            await run.approve("Pay?")
        assert await everything(lab) == before
        await lab.advance("1d")
        assert await done(lab, run) == "expired"


async def test_a_second_answer_is_a_conflict_that_names_the_first(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def asking(ctx: Wf) -> str:
        said = await ctx.workflow.approval("Pay?")
        await ctx.workflow.sleep("Nap", "1d")
        return said.outcome

    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await run.approve("Pay?", by="bob")
        await lab.settle()
        before = await everything(lab)
        for answer in (run.approve, run.reject):
            with pytest.raises(AlreadyDecidedError) as caught:
                await answer("Pay?", by="eve")
            for said in ("approved", "bob", "2030-01-01"):
                assert said in caught.value.message
        assert await everything(lab) == before
        await lab.advance("1d")
        assert await done(lab, run) == "approved"


async def test_of_answers_given_at_once_one_stands(toy: Toy, place: Place) -> None:
    asks(toy)
    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        answers = [run.approve("Pay?", by=f"yes {n}") for n in range(5)]
        answers += [run.reject("Pay?", by=f"no {n}") for n in range(5)]
        ends = await asyncio.gather(*answers, return_exceptions=True)
        assert sum(end is None for end in ends) == 1
        assert all(
            end is None or isinstance(end, (AlreadyDecidedError, RunStateError)) for end in ends
        )
        outcome, _, by, _ = await done(lab, run)
        assert (
            ends[
                [f"yes {n}" for n in range(5)].index(by)
                if outcome == "approved"
                else 5 + int(by[-1])
            ]
            is None
        )


async def test_an_answer_and_the_expiry_due_together_have_one_outcome(
    toy: Toy, place: Place
) -> None:
    asks(toy, expires_in="1h")
    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        answering = asyncio.ensure_future(run.approve("Pay?", by="bob"))
        lab.clock.move_to(lab.clock.now_us() + 3_600_000_000)
        (end,) = await asyncio.gather(answering, return_exceptions=True)
        outcome, _, by, _ = await done(lab, run)
        if end is None:
            assert (outcome, by) == ("approved", "bob")
        else:
            assert isinstance(end, (AlreadyDecidedError, RunStateError))
            assert (outcome, by) == ("expired", None)
        assert (await kinds(run)).count("approval_ended") == 1


@pytest.mark.parametrize(
    ("approvers", "started_by", "by", "may"),
    [
        ("any", "ann", "ann", True),
        ("any", "ann", None, True),
        ("any", None, "bob", True),
        ("owner", "ann", "ann", True),
        ("owner", "ann", "bob", False),
        ("owner", "ann", None, False),
        ("not_initiator", "ann", "bob", True),
        ("not_initiator", "ann", "ann", False),
        ("not_initiator", "ann", None, False),
    ],
)
async def test_who_may_answer_is_held(
    toy: Toy, evicted: Place, approvers: str, started_by: str | None, by: str | None, may: bool
) -> None:
    asks(toy, approvers=approvers)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy, started_by=started_by)
        if not may:
            before = await everything(lab)
            for answer in (run.approve, run.reject):
                with pytest.raises(ApproverError):
                    await answer("Pay?", by=by)
            assert await everything(lab) == before
            return
        await run.approve("Pay?", by=by)
        assert (await done(lab, run))[0] == "approved"


@pytest.mark.parametrize("approvers", ["owner", "not_initiator"])
async def test_an_approval_that_nobody_could_answer_is_refused_where_it_is_asked_for(
    toy: Toy, evicted: Place, approvers: str
) -> None:
    asks(toy, approvers=approvers)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy, started_by=None)
        error = (await failure(lab, run)).error
        assert (error.type, error.code) == ("ApproverError", "PKR324")
        assert error.hint == "start the run with started_by="


async def test_a_scope_is_held(toy: Toy, evicted: Place) -> None:
    asks(toy, scope="pay")
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        before = await everything(lab)
        for scopes in ((), ("pa", "payer"), ("PAY",)):
            with pytest.raises(ApproverError, match="'pay'"):
                await run.approve("Pay?", by="bob", scopes=scopes)
        assert await everything(lab) == before
        await run.approve("Pay?", by="bob", scopes=["read", "pay"])
        assert (await done(lab, run))[0] == "approved"


async def test_an_approval_that_is_not_there_is_named_with_those_that_are(
    toy: Toy, evicted: Place
) -> None:
    asks(toy)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        with pytest.raises(NoSuchStepError, match=r"Pay\?") as caught:
            await run.approve("Pay")
        assert "Pay?" in caught.value.hint


async def test_a_step_of_another_kind_takes_no_answer(toy: Toy, evicted: Place) -> None:
    @toy.workflow
    async def asking(ctx: Wf) -> None:
        await ctx.workflow.sleep("Nap", "1h")

    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        with pytest.raises(NoSuchStepError):
            await run.approve("Nap")


async def test_several_at_once_are_each_answered_by_their_name(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def asking(ctx: Wf) -> list[Any]:
        said = await asyncio.gather(*(ctx.workflow.approval(f"{n}?") for n in "abc"))
        return [[each.outcome, each.decided_by] for each in said]

    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        assert {request.step for request in await run.approvals()} == {"a?", "b?", "c?"}
        await run.reject("c?", by="3")
        await run.approve("a?", by="1")
        await lab.settle()
        assert [request.step for request in await run.approvals()] == ["b?"]
        await run.approve("b?", by="2")
        assert await done(lab, run) == [["approved", "1"], ["approved", "2"], ["rejected", "3"]]


async def test_a_repeated_name_is_answered_by_its_key(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def asking(ctx: Wf) -> list[str]:
        return [(await ctx.workflow.approval("Pay?")).outcome for _ in range(2)]

    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await run.approve("Pay?")
        await lab.settle()
        with pytest.raises(AlreadyDecidedError):
            await run.reject("Pay?")
        await run.reject("Pay?#1")
        assert await done(lab, run) == ["approved", "rejected"]


async def test_an_approval_that_lost_a_race_takes_no_answer_any_more(
    toy: Toy, place: Place
) -> None:
    @toy.workflow
    async def asking(ctx: Wf) -> int:
        first = await ctx.workflow.race(
            ctx.workflow.approval("Pay?"), ctx.workflow.sleep("Nap", "1h")
        )
        await ctx.workflow.sleep("Another", "1d")
        return first[0]

    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await lab.advance("1h")
        assert await run.approvals() == []
        with pytest.raises(AlreadyDecidedError):
            await run.approve("Pay?")
        await lab.advance("1d")
        assert await done(lab, run) == 1


async def test_a_run_that_unwinds_or_has_ended_takes_no_answer(toy: Toy, place: Place) -> None:
    @toy.workflow
    async def asking(ctx: Wf) -> None:
        try:
            await ctx.workflow.approval("Pay?")
        finally:
            await ctx.workflow.sleep("Clean up", "10s")

    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await run.cancel("enough")
        await lab.settle()
        assert await run.approvals() == []
        with pytest.raises((RunStateError, AlreadyDecidedError)):
            await run.approve("Pay?")
        await lab.advance("10s")
        assert await run.status() == "cancelled"
        with pytest.raises((RunStateError, AlreadyDecidedError)):
            await run.approve("Pay?")


async def test_an_answer_is_given_while_no_process_executes_the_run(
    toy: Toy, shared: Place
) -> None:
    asks(toy, schema=Terms)
    async with shared.lab(toy) as lab:
        run = await asked(lab, toy)
        answering = Toy()
        asks(answering, schema=Terms)
        async with shared.beside(lab, answering):
            there = answering.app.get_run("asking", str(run))
            assert [request.step for request in await there.approvals()] == ["Pay?"]
            await there.approve("Pay?", {"limit": "3"}, by="bob")
            assert await run.result(timeout=PATIENCE) == ["approved", "Terms", "bob", ""]


async def test_every_answer_is_in_the_history(toy: Toy, evicted: Place) -> None:
    asks(toy, schema=Terms)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        await lab.advance("1min")
        await run.approve("Pay?", {"limit": "3"}, by="bob", note="ok")
        await done(lab, run)
        events = {event.kind: event for event in await run.history()}
        assert "approval_asked" in events
        ended = events["approval_ended"]
        assert ended.at == lab.clock.now()
        for said in ("approved", "bob", "ok", "3"):
            assert said in str(ended.data)


@pytest.mark.parametrize("approvers", ["nobody", "", None, "Any"])
async def test_approvers_that_cannot_be_fail_the_run(
    toy: Toy, evicted: Place, approvers: Any
) -> None:
    asks(toy, approvers=approvers)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        assert (await failure(lab, run)).caused_by(DeclarationError)


async def test_a_schema_that_no_other_process_could_find_fails_the_run(
    toy: Toy, evicted: Place
) -> None:
    class Local(BaseModel):
        x: int

    asks(toy, schema=Local)
    async with evicted.lab(toy) as lab:
        run = await asked(lab, toy)
        assert (await failure(lab, run)).caused_by(DeclarationError)


async def test_a_step_may_follow_an_approval_in_a_branch(toy: Toy, place: Place) -> None:
    @toy.func
    async def pay(ctx: Ctx, by: str) -> str:
        return f"paid for {by}"

    @toy.workflow
    async def asking(ctx: Wf) -> list[str]:
        async def branch(name: str) -> str:
            said = await ctx.workflow.approval(f"{name}?")
            return await ctx.workflow.do(f"Pay {name}", pay, said.decided_by or "")

        return list(await asyncio.gather(branch("a"), branch("b")))

    async with place.lab(toy) as lab:
        run = await asked(lab, toy)
        await run.approve("b?", by="bob")
        await lab.settle()
        await run.approve("a?", by="ann")
        assert await done(lab, run) == ["paid for ann", "paid for bob"]
