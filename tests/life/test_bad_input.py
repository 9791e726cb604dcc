"""What cannot be is refused with a typed error that says why, and nothing in the store changes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from tests.life.kit import Place, cancelled, done, everything, failure, statuses
from tests.runtime.kit import Ctx, Lab, Toy, Wf

from pikku import PikkuError, Run, Signal
from pikku.errors import (
    AlreadyDecidedError,
    ApproverError,
    DeclarationError,
    DepthLimitError,
    DuplicateNameError,
    DurationError,
    FanOutError,
    HistoryFormatError,
    InvalidInputError,
    NoSuchStepError,
    PayloadError,
    PayloadTooLargeError,
    RunIdError,
    RunNotFoundError,
    RunStateError,
    StepNameError,
    UnknownSignalError,
    UnknownWorkflowError,
)


class Upgrade(BaseModel):
    plan: str


async def refused(lab: Lab, error: Any, call: Any, *said: str) -> PikkuError:
    """Assert that *call* is refused with *error*, says all of *said*, and changes nothing."""
    before = await everything(lab)
    with pytest.raises(error) as caught:
        await call
    await lab.settle()
    assert await everything(lab) == before
    told = str(caught.value)
    for word in said:
        assert word in told, told
    assert isinstance(caught.value, PikkuError)
    assert told.startswith(caught.value.code)
    return caught.value


@pytest.fixture
def upgraded(toy: Toy) -> Signal[Upgrade]:
    """A signal; beside it a workflow that waits for it, and one that ends at once."""
    upgraded = toy.registry.wire_signal(name="upgraded", payload=Upgrade)

    @toy.workflow
    async def waiting(ctx: Wf) -> str:
        got: Upgrade = await ctx.workflow.wait_for_signal("Upgrade", upgraded)
        return got.plan

    @toy.workflow
    async def quick(ctx: Wf, n: int) -> int:
        return n

    @toy.workflow
    async def asking(ctx: Wf) -> str:
        said = await ctx.workflow.approval("Pay?", approvers="not_initiator", expires_in="1d")
        await ctx.workflow.sleep("Nap", "10d")
        return said.outcome

    return upgraded


# --- signals ------------------------------------------------------------------------------------


async def test_a_signal_to_a_run_that_is_not_there(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        await toy.start("waiting")
        await lab.settle()
        nobody = toy.app.get_run("waiting", "nobody")
        for call in (
            nobody.signal(upgraded, Upgrade(plan="pro")),
            toy.app.send_signal("nobody", "upgraded", Upgrade(plan="pro")),
        ):
            await refused(lab, RunNotFoundError, call, "'nobody'")


async def test_a_signal_to_a_run_that_has_ended(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        ended, unwound = await toy.start("quick", 1), await toy.start("waiting")
        await done(lab, ended)
        await unwound.cancel("enough")
        await cancelled(lab, unwound)
        word = Upgrade(plan="pro")
        await refused(lab, RunStateError, ended.signal(upgraded, word), str(ended), "completed")
        await refused(lab, RunStateError, unwound.signal(upgraded, word), "cancelled")


async def test_a_signal_that_is_not_declared(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.start("waiting")
        await lab.settle()
        await refused(
            lab, UnknownSignalError, run.signal(Signal("upgrade"), None), "'upgrade'", "'upgraded'"
        )
        await refused(lab, UnknownSignalError, toy.app.send_signal(run, "", None))


@pytest.mark.parametrize(
    "payload", [None, "pro", {}, {"plan": 5}, {"plan": None}, [], 1, object], ids=repr
)
async def test_a_payload_that_does_not_fit(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade], payload: Any
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.start("waiting")
        await lab.settle()
        await refused(
            lab, (InvalidInputError, PayloadError), run.signal(upgraded, payload), "upgraded"
        )
        assert await run.status() == "running"
        await run.signal(upgraded, Upgrade(plan="pro"))
        assert await done(lab, run) == "pro"


async def test_a_payload_for_a_signal_that_has_none(toy: Toy, evicted: Place) -> None:
    go: Signal[Any] = toy.registry.wire_signal(name="go")

    @toy.workflow
    async def waiting(ctx: Wf) -> None:
        await ctx.workflow.wait_for_signal("Go", go)

    async with evicted.lab(toy) as lab:
        run = await toy.start("waiting")
        await lab.settle()
        await refused(lab, InvalidInputError, run.signal(go, {"more": 1}), "go")


async def test_a_payload_that_is_too_large(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy, max_payload_bytes=1000) as lab:
        run = await toy.start("waiting")
        await lab.settle()
        await refused(
            lab, PayloadTooLargeError, run.signal(upgraded, Upgrade(plan="x" * 2000)), "upgraded"
        )


@pytest.mark.parametrize("signal_id", ["", "with space", "x" * 201, 5, "a\nb"], ids=repr)
async def test_a_signal_id_that_cannot_be(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade], signal_id: Any
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.start("waiting")
        await lab.settle()
        await refused(
            lab, RunIdError, run.signal(upgraded, Upgrade(plan="pro"), signal_id=signal_id)
        )


def test_a_signal_declared_twice_with_another_payload(toy: Toy) -> None:
    toy.registry.wire_signal(name="word", payload=int)
    toy.registry.wire_signal(name="word", payload=int)
    with pytest.raises(DuplicateNameError):
        toy.registry.wire_signal(name="word", payload=str)


async def test_waiting_for_a_signal_that_is_not_declared_fails_the_run(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    @toy.workflow
    async def hoping(ctx: Wf) -> None:
        await ctx.workflow.wait_for_signal("Word", Signal("upgrade"))

    async with evicted.lab(toy) as lab:
        run = await toy.start("hoping")
        assert (await failure(lab, run)).caused_by(UnknownSignalError)
        assert await statuses(lab, run) == {}


@pytest.mark.parametrize("timeout", [5, 0, "", "-1s", "soon", None], ids=repr)
async def test_a_timeout_that_is_no_duration_fails_the_run(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade], timeout: Any
) -> None:
    if timeout is None:
        return

    @toy.workflow
    async def hoping(ctx: Wf) -> None:
        await ctx.workflow.wait_for_signal("Word", upgraded, timeout=timeout)

    async with evicted.lab(toy) as lab:
        run = await toy.start("hoping")
        assert (await failure(lab, run)).caused_by(DurationError)
        assert await statuses(lab, run) == {}


# --- approvals ----------------------------------------------------------------------------------


async def test_an_answer_by_the_wrong_person_or_nobody(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.app.start_workflow("asking", started_by="ann")
        await lab.settle()
        await refused(lab, ApproverError, run.approve("Pay?", by="ann"), "'Pay?'", "'ann'")
        await refused(lab, ApproverError, run.reject("Pay?", by=None), "'Pay?'")
        assert len(await run.approvals()) == 1


async def test_a_second_and_a_late_answer(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        answered, missed = [await toy.app.start_workflow("asking", started_by="a") for _ in "12"]
        await lab.settle()
        await answered.approve("Pay?", by="bob")
        await lab.advance("1d")
        await refused(
            lab, AlreadyDecidedError, answered.reject("Pay?", by="eve"), "bob", "approved"
        )
        await refused(lab, AlreadyDecidedError, missed.approve("Pay?", by="bob"), "expired")
        await lab.advance("10d")
        await done(lab, answered)
        await refused(lab, (AlreadyDecidedError, RunStateError), answered.approve("Pay?", by="eve"))


async def test_an_answer_to_a_run_or_a_step_that_is_not_there(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.app.start_workflow("asking", started_by="a")
        await lab.settle()
        await refused(lab, NoSuchStepError, run.approve("Pay", by="b"), "'Pay'", "'Pay?'")
        nobody = toy.app.get_run("asking", "nobody")
        for call in (nobody.approve("Pay?", by="b"), nobody.approvals(), nobody.reject("Pay?")):
            await refused(lab, RunNotFoundError, call, "'nobody'")


# --- runs ---------------------------------------------------------------------------------------


async def test_whatever_is_asked_of_a_run_that_is_not_there(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        nobody: Run[Any] = toy.app.get_run("quick", "nobody")
        for call in (
            nobody.resume(),
            nobody.retry(),
            nobody.fork("x"),
            nobody.delete(),
            nobody.export(),
            nobody.cancel("x"),
            nobody.info(),
            nobody.history(),
            nobody.result(timeout="1s"),
        ):
            await refused(lab, RunNotFoundError, call, "'nobody'")
        with pytest.raises(UnknownWorkflowError, match="quikc"):
            toy.app.get_run("quikc", "nobody")


async def test_the_resume_the_retry_and_the_deletion_of_a_run_under_way(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.start("waiting")
        await lab.settle()
        await refused(lab, RunStateError, run.resume(), str(run), "running")
        await refused(lab, RunStateError, run.retry(), str(run), "running")
        await refused(lab, RunStateError, run.delete(), str(run))


async def test_a_child_of_itself_without_end(toy: Toy, evicted: Place) -> None:
    @toy.workflow
    async def again(ctx: Wf) -> int:
        do: Any = ctx.workflow.do
        deeper: int = await do("Again", "again")
        return deeper

    async with evicted.lab(toy) as lab:
        run = await toy.start("again")
        await failure(lab, run)
        runs = await toy.app.list_runs(limit=1000)
        assert {info.status for info in runs} == {"failed"}
        deepest = max(runs, key=lambda info: info.depth)
        assert deepest.error is not None
        assert deepest.error.is_a(DepthLimitError)


async def test_a_target_that_is_not_there_suspends_the_run_until_it_is_deployed(
    toy: Toy, evicted: Place
) -> None:
    @toy.workflow
    async def careless(ctx: Wf) -> int:
        do: Any = ctx.workflow.do
        made: int = await do("Child", "missing", 1)
        return made

    async with evicted.lab(toy) as lab:
        run = await toy.start("careless")
        await lab.settle()
        info = await run.info()
        assert (info.status, info.suspend_reason) == ("suspended", "missing_function")
        assert info.error is not None
        assert "missing" in info.error.message

        @toy.workflow
        async def missing(ctx: Wf, n: int) -> int:
            return n + 1

        await run.resume()
        assert await done(lab, run) == 2


async def test_what_is_no_workflow_cannot_be_detached(toy: Toy, evicted: Place) -> None:
    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        return n

    @toy.workflow
    async def careless(ctx: Wf) -> None:
        do: Any = ctx.workflow.do
        await do("Start", "work", 1, detached=True)

    async with evicted.lab(toy) as lab:
        run = await toy.start("careless")
        assert (await failure(lab, run)).caused_by(DeclarationError)
        assert await statuses(lab, run) == {}


# --- fan-out ------------------------------------------------------------------------------------


def endless() -> Iterator[int]:
    while True:
        yield 1


@pytest.mark.parametrize(
    "items",
    ["text", b"bytes", None, {"a": 1}, 5, 1.5, object(), range(100_000), endless(), {1, 2}],
    ids=lambda items: type(items).__name__,
)
async def test_a_map_over_what_is_no_list_or_too_long(toy: Toy, evicted: Place, items: Any) -> None:
    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        return n

    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        return await ctx.workflow.map("Each", work, items)

    async with evicted.lab(toy) as lab:
        run = await toy.start("mapping")
        assert (await failure(lab, run)).caused_by(FanOutError)
        assert await statuses(lab, run) == {}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_concurrency", 0),
        ("max_concurrency", -1),
        ("max_concurrency", 1.5),
        ("max_concurrency", True),
        ("tolerated_failures", -1),
        ("tolerated_failures", "1"),
    ],
)
async def test_a_map_with_an_option_that_cannot_be(
    toy: Toy, evicted: Place, option: str, value: Any
) -> None:
    @toy.workflow
    async def mapping(ctx: Wf) -> list[int]:
        each: Any = ctx.workflow.map
        made: list[int] = await each("Each", lambda n: n, [1], **{option: value})
        return made

    async with evicted.lab(toy) as lab:
        run = await toy.start("mapping")
        assert (await failure(lab, run)).caused_by(DeclarationError)
        assert await statuses(lab, run) == {}


@pytest.mark.parametrize("name", ["", "  ", None, 5, "x" * 501, "a\x00b"], ids=repr)
@pytest.mark.parametrize("kind", ["map", "signal", "approval", "child", "saga", "suspend"])
async def test_a_step_without_a_proper_name(
    toy: Toy, memory_modes: Place, upgraded: Signal[Upgrade], kind: str, name: Any
) -> None:
    @toy.func
    async def work(ctx: Ctx, n: Any) -> int:
        return 1

    @toy.workflow
    async def nameless(ctx: Wf) -> None:
        do: Any = ctx.workflow.do
        match kind:
            case "map":
                await ctx.workflow.map(name, work, [1])
            case "signal":
                await ctx.workflow.wait_for_signal(name, upgraded)
            case "approval":
                await ctx.workflow.approval(name)
            case "child":
                await do(name, "quick", 1)
            case "saga":
                async with ctx.workflow.saga() as saga:
                    await saga.do(name, work, 1, undo=work)
            case _:
                await ctx.workflow.suspend(name)

    if kind == "map" and name in ("", "  ", None, 5):
        expected: Any = (StepNameError, DeclarationError)
    else:
        expected = (StepNameError,)
    async with memory_modes.lab(toy) as lab:
        run = await toy.start("nameless")
        error = await failure(lab, run)
        assert any(error.caused_by(each) for each in expected), error
        assert await statuses(lab, run) == {}


# --- starting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"delay": 5}, DurationError),
        ({"delay": ""}, DurationError),
        ({"delay": "-1s"}, DurationError),
        ({"tags": "text"}, DeclarationError),
        ({"tags": [""]}, DeclarationError),
        ({"tags": [5]}, DeclarationError),
        ({"tags": ["a\nb"]}, DeclarationError),
        ({"tags": None}, DeclarationError),
        ({"started_by": ""}, DeclarationError),
        ({"started_by": 5}, DeclarationError),
        ({"run_id": ""}, RunIdError),
        ({"run_id": "a b"}, RunIdError),
    ],
    ids=str,
)
async def test_a_start_with_an_option_that_cannot_be(
    toy: Toy, memory_modes: Place, upgraded: Signal[Upgrade], options: Any, error: Any
) -> None:
    async with memory_modes.lab(toy) as lab:
        await refused(lab, error, toy.app.start_workflow("quick", 1, **options))


async def test_one_bad_item_of_many_starts_none(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        bad: list[Any] = [1, 2, "three", 4]
        await refused(lab, InvalidInputError, toy.app.start_many("quick", bad), "item 2", "'quick'")
        await refused(lab, UnknownWorkflowError, toy.app.start_many("quikc", [1]), "'quick'")
        await refused(lab, DeclarationError, toy.app.start_many("quick", [1, 2], tags="text"))
        assert await toy.app.start_many("quick", []) == []


# --- exports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [None, [], "text", {}, {"pikku": "run"}, {"pikku": "run", "format": 99}], ids=repr
)
async def test_the_import_of_what_is_no_export(toy: Toy, evicted: Place, data: Any) -> None:
    async with evicted.lab(toy) as lab:
        await refused(lab, HistoryFormatError, toy.app.import_run(data))


# --- inside a body ------------------------------------------------------------------------------


async def test_words_said_from_a_body_are_refused_as_they_would_repeat(
    toy: Toy, memory_modes: Place, upgraded: Signal[Upgrade]
) -> None:
    said: list[str] = []

    @toy.workflow
    async def body(ctx: Wf) -> None:
        for call in (
            lambda: toy.app.start_many("quick", [1]),
            lambda: toy.app.start_workflow("quick", 1),
        ):
            try:
                await call()
            except PikkuError as error:
                said.append(error.code)

    async with memory_modes.lab(toy) as lab:
        run = await toy.start("body")
        await lab.settle()
        assert set(said) == {"PKR312"}
        assert await toy.app.list_runs(workflow="quick") == []
        await run.status()


async def test_refusals_at_once_leave_room_for_what_is_right(
    toy: Toy, evicted: Place, upgraded: Signal[Upgrade]
) -> None:
    async with evicted.lab(toy) as lab:
        run = await toy.start("waiting")
        await lab.settle()
        wrong: list[Any] = [{"plan": n} for n in range(20)]
        bad = [run.signal(upgraded, each) for each in wrong]
        good = run.signal(upgraded, Upgrade(plan="pro"))
        ends = await asyncio.gather(*bad, good, return_exceptions=True)
        assert [type(end) for end in ends] == [InvalidInputError] * 20 + [type(None)]
        assert await done(lab, run) == "pro"
