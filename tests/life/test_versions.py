"""Deploys: a run goes on under new code, goes to its version, or stands still and says why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.life.kit import PATIENCE, Place, done, versioned
from tests.runtime.kit import Ctx, Lab, Toy, Wf

from pikku import Run, RunCancelledError, RunFailedError, Undo, external_workflow

Body = Callable[[Wf], Awaitable[Any]]


async def old(ctx: Wf) -> str:
    await ctx.workflow.do("Prepare", "note", "prepare")  # type: ignore[call-overload]
    await ctx.workflow.sleep("Wait", "1h")
    await ctx.workflow.do("Finish", "note", "finish")  # type: ignore[call-overload]
    return "old"


async def longer(ctx: Wf) -> str:
    """The recorded prefix still matches."""
    await ctx.workflow.do("Prepare", "note", "prepare")  # type: ignore[call-overload]
    await ctx.workflow.sleep("Wait", "1h")
    await ctx.workflow.do("Check", "note", "check")  # type: ignore[call-overload]
    await ctx.workflow.do("Finish", "note", "finish")  # type: ignore[call-overload]
    return "longer"


async def other(ctx: Wf) -> str:
    """The recorded prefix does not match."""
    await ctx.workflow.do("Plan", "note", "plan")  # type: ignore[call-overload]
    await ctx.workflow.sleep("Wait", "1h")
    return "other"


def deploy(body: Body, version: str | None) -> Toy:
    toy = versioned(**({"job": version} if version else {}))

    @toy.func
    async def note(ctx: Ctx, text: str) -> str:
        return text

    toy.workflow(body, name="job")
    return toy


async def begun(place: Place, toy: Toy, run_id: str = "r", **options: Any) -> None:
    """A run that waits, and the process that began it is gone."""
    async with place.lab(toy) as lab:
        await toy.app.start_workflow("job", run_id=run_id, **options)
        await lab.settle()


async def ended(lab: Lab, run: Run[Any]) -> Any:
    """How the run ends, once whoever is told by a sweep alone has swept."""
    await lab.advance("2h")
    return await run.result(timeout="8s")


async def test_a_run_goes_on_under_new_code_while_its_prefix_matches(shared: Place) -> None:
    await begun(shared, deploy(old, "v1"))
    new = deploy(longer, "v2")
    async with shared.lab(new) as lab:
        run = new.app.get_run("job", "r")

        assert await ended(lab, run) == "longer"
        assert (await run.info()).version == "v1"


async def test_a_run_that_new_code_cannot_replay_goes_to_a_process_that_holds_its_version(
    shared: Place,
) -> None:
    first, new = deploy(old, "v1"), deploy(other, "v2")
    await begun(shared, first)
    async with shared.lab(new) as lab, shared.beside(lab, deploy(old, "v1")) as beside:
        run = new.app.get_run("job", "r")
        await lab.advance("2h")
        await beside.advance("1s")

        assert await run.result(timeout="8s") == "old"
        assert lab.executions("Finish") == 0
        assert beside.executions("Finish") == 1
        assert not [event for event in await run.history() if event.kind == "suspend"]


async def test_without_such_a_process_it_is_suspended_with_the_difference_spelled_out(
    shared: Place,
) -> None:
    await begun(shared, deploy(old, "v1"))
    new = deploy(other, "v2")
    async with shared.lab(new) as lab:
        run = new.app.get_run("job", "r")
        await lab.advance("2h")
        info = await run.info()

        assert (info.status, info.suspend_reason) == ("suspended", "nondeterminism")
        assert info.error is not None
        for part in ("'Prepare'", "'note'", "does not ask", "test_versions.py:", "v1", "v2"):
            assert part in info.error.message, info.error.message


async def test_a_suspended_run_goes_on_by_itself_when_its_version_is_deployed_again(
    shared: Place,
) -> None:
    await begun(shared, deploy(old, "v1"))
    new = deploy(other, "v2")
    async with shared.lab(new) as lab:
        await lab.advance("2h")
        assert await new.app.get_run("job", "r").status() == "suspended"
    back = deploy(old, "v1")
    async with shared.lab(back) as lab:
        assert await ended(lab, back.app.get_run("job", "r")) == "old"


async def test_it_goes_on_by_resume_once_matching_code_is_deployed(shared: Place) -> None:
    await begun(shared, deploy(old, "v1"))
    new = deploy(other, "v2")
    async with shared.lab(new) as lab:
        await lab.advance("2h")
    mended = deploy(longer, "v3")
    async with shared.lab(mended) as lab:
        run = mended.app.get_run("job", "r")
        await lab.settle()
        assert await run.status() == "suspended"

        await run.resume()

        assert await ended(lab, run) == "longer"


async def test_the_version_that_cannot_replay_its_own_run_does_not_try_again_and_again(
    shared: Place,
) -> None:
    await begun(shared, deploy(old, "v1"))
    same = deploy(other, "v1")
    async with shared.lab(same) as lab:
        run = same.app.get_run("job", "r")
        await lab.advance("2h")
        await lab._opened.engine._resume_deployed()
        await lab.settle()

        assert [event.kind for event in await run.history()].count("suspend") == 1


async def test_without_a_version_only_the_prefix_counts(shared: Place) -> None:
    await begun(shared, deploy(old, None), "one")
    await begun(shared, deploy(old, None), "two")
    new = deploy(longer, None)
    async with shared.lab(new) as lab:
        assert await ended(lab, new.app.get_run("job", "one")) == "longer"
        assert await ended(lab, new.app.get_run("job", "two")) == "longer"


async def test_a_pinned_run_is_not_executed_by_another_version_though_it_could_be(
    shared: Place,
) -> None:
    await begun(shared, deploy(old, "v1"), pinned=True)
    new = deploy(longer, "v2")
    async with shared.lab(new) as lab:
        run = new.app.get_run("job", "r")
        await lab.advance("2h")
        info = await run.info()

        assert (info.status, info.suspend_reason) == ("suspended", "version")
        assert info.error is not None
        assert "pinned to version v1" in info.error.message
        assert lab.executions("Check") == 0
    back = deploy(old, "v1")
    async with shared.lab(back) as lab:
        assert await ended(lab, back.app.get_run("job", "r")) == "old"


async def test_a_pinned_run_goes_to_a_process_that_holds_its_version(shared: Place) -> None:
    await begun(shared, deploy(old, "v1"), pinned=True)
    new = deploy(longer, "v2")
    async with shared.lab(new) as lab, shared.beside(lab, deploy(old, "v1")) as beside:
        run = new.app.get_run("job", "r")
        await lab.advance("2h")
        await beside.advance("1s")

        assert await run.result(timeout="8s") == "old"


# --- patched --------------------------------------------------------------------------------------


async def patched_body(ctx: Wf) -> str:
    await ctx.workflow.do("Prepare", "note", "prepare")  # type: ignore[call-overload]
    new = ctx.workflow.patched("check first")
    if new:
        await ctx.workflow.do("Check", "note", "check")  # type: ignore[call-overload]
    await ctx.workflow.sleep("Wait", "1h")
    await ctx.workflow.do("Finish", "note", "finish")  # type: ignore[call-overload]
    assert ctx.workflow.patched("check first") == new
    return "patched" if new else "as before"


async def test_patched_guards_an_edit_for_runs_on_either_side_of_it(place: Place) -> None:
    toy = deploy(old, None)
    async with place.lab(toy) as lab:
        before = await toy.start("job", run_id="before")
        await lab.settle()
        await lab.crash()
        toy.replace(patched_body, name="job")
        await lab.recover()
        after = await toy.start("job", run_id="after")
        await lab.settle()
        await lab.crash()
        await lab.recover()
        await lab.advance("1h")

        assert await before.result(timeout=PATIENCE) == "as before"
        assert await after.result(timeout=PATIENCE) == "patched"
        assert lab.executions("Check") == 1


async def test_patched_says_no_to_a_run_that_waits_for_a_step_of_the_old_way(
    place: Place,
) -> None:
    async def waits(ctx: Wf) -> str:
        await ctx.workflow.sleep("Wait", "1h")
        return "old"

    async def edited(ctx: Wf) -> str:
        if ctx.workflow.patched("no wait"):
            return "new"
        await ctx.workflow.sleep("Wait", "1h")
        return "old"

    toy = deploy(waits, None)
    async with place.lab(toy) as lab:
        run = await toy.start("job", run_id="r")
        await lab.settle()
        await lab.crash()
        toy.replace(edited, name="job")
        await lab.recover()
        await lab.advance("1h")

        assert await run.result(timeout=PATIENCE) == "old"


async def test_patched_between_concurrent_branches_is_one_answer(place: Place) -> None:
    async def branches(ctx: Wf) -> list[bool]:
        async def branch(name: str) -> bool:
            await ctx.workflow.do(name, "note", name)  # type: ignore[call-overload]
            answer = ctx.workflow.patched("edit")
            await ctx.workflow.sleep(f"Wait {name}", "1h")
            return answer is ctx.workflow.patched("edit")

        return list(await asyncio.gather(*(branch(name) for name in "abc")))

    toy = deploy(branches, None)
    async with place.lab(toy) as lab:
        run = await toy.start("job")
        await lab.settle()
        await lab.crash()
        await lab.recover()
        await lab.advance("1h")

        assert await run.result(timeout=PATIENCE) == [True, True, True]


async def test_a_guard_that_was_taken_out_again_does_no_harm(place: Place) -> None:
    async def without(ctx: Wf) -> str:
        await ctx.workflow.do("Prepare", "note", "prepare")  # type: ignore[call-overload]
        await ctx.workflow.do("Check", "note", "check")  # type: ignore[call-overload]
        await ctx.workflow.sleep("Wait", "1h")
        return "without"

    toy = deploy(patched_body, None)
    async with place.lab(toy) as lab:
        run = await toy.start("job", run_id="r")
        await lab.settle()
        await lab.crash()
        toy.replace(without, name="job")
        await lab.recover()
        await lab.advance("1h")

        assert await run.result(timeout=PATIENCE) == "without"


# --- other code bases -----------------------------------------------------------------------------


async def test_a_child_of_another_code_base_is_executed_where_its_code_is(shared: Place) -> None:
    billing = external_workflow("bill", input=int, output=str)
    shop, bank = Toy(), Toy()

    @shop.workflow
    async def order(ctx: Wf, amount: int) -> str:
        return await ctx.workflow.do("Bill it", billing, amount)

    @bank.workflow
    async def bill(ctx: Wf, amount: int) -> str:
        paid = await ctx.workflow.do("Pay", lambda: amount * 2)
        return f"paid {paid}"

    async with shared.lab(shop) as lab, shared.beside(lab, bank) as beside:
        run = await shop.app.start_workflow("order", 21, wait=False)

        assert await run.result(timeout="8s") == "paid 42"
        assert (lab.executions("Pay"), beside.executions("Pay")) == (0, 1)


async def test_a_child_of_another_code_base_waits_for_a_process_that_has_it(
    shared: Place,
) -> None:
    billing = external_workflow("bill", input=int, output=str)
    shop, bank = Toy(), Toy()

    @shop.workflow
    async def order(ctx: Wf, amount: int) -> str:
        return await ctx.workflow.do("Bill it", billing, amount)

    @bank.workflow
    async def bill(ctx: Wf, amount: int) -> str:
        return f"paid {amount}"

    async with shared.lab(shop) as lab:
        run = await shop.app.start_workflow("order", 21, run_id="r", wait=False)
        await lab.settle()
        (child,) = await shop.app.list_runs(workflow="bill")
        assert (child.status, child.suspend_reason) == ("suspended", "missing_function")
        assert child.parent == "r"
        assert await run.status() == "running"
    async with shared.lab(bank) as lab:
        await lab.settle()
    async with shared.lab(shop) as lab:
        assert await done(lab, shop.app.get_run("order", "r")) == "paid 21"


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_run_says_under_which_version_it_began_and_whether_it_is_pinned(
    place: Place, pinned: bool
) -> None:
    toy = deploy(old, "v1")
    async with place.lab(toy) as lab:
        run = await toy.app.start_workflow("job", pinned=pinned)
        await lab.advance("1h")
        info = await run.info()

        assert (info.version, info.pinned, info.status) == ("v1", pinned, "completed")


# --- unwinding under other code -------------------------------------------------------------------


def trips(version: str, *, first: str = "Book", undo: bool = True) -> tuple[Toy, list[str]]:
    """An app with a workflow that waits inside a saga, and what has been released."""
    toy = versioned(job=version)
    released: list[str] = []

    @toy.func
    async def book(ctx: Ctx, seat: str) -> str:
        return seat

    async def release(ctx: Ctx, told: Undo[str, str]) -> None:
        released.append(told.output)

    if undo:
        toy.func(release)

    async def trip(ctx: Wf) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do(first, book, "a seat", undo="release")  # type: ignore[call-overload]
            await ctx.workflow.sleep("Wait", "9d")

    toy.workflow(trip, name="job", timeout="2d")
    return toy, released


async def test_a_cancelled_run_unwinds_in_a_process_that_holds_its_version(shared: Place) -> None:
    (first, released), (new, _) = trips("v1"), trips("v2", first="Book a seat")
    await begun(shared, first)
    beside_it, beside_released = trips("v1")
    async with shared.lab(new) as lab, shared.beside(lab, beside_it) as beside:
        run = new.app.get_run("job", "r")
        await run.cancel("enough")
        await lab.settle()
        await beside.settle()

        with pytest.raises(RunCancelledError, match="enough"):
            await run.result(timeout="8s")
        assert beside_released == ["a seat"]
        assert released == []


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("lacks", ["step", "undo"])
async def test_without_the_code_to_unwind_with_a_run_is_suspended_and_unwinds_when_it_is_deployed(
    shared: Place, how: str, lacks: str
) -> None:
    await begun(shared, trips("v1")[0])
    if lacks == "step":
        new, _ = trips("v2", first="Book a seat")
    else:
        new, _ = trips("v1", undo=False)
    async with shared.lab(new) as lab:
        run = new.app.get_run("job", "r")
        if how == "cancel":
            await run.cancel("enough")
        else:
            lab.clock.move_to(lab.clock.now_us() + 2 * 86_400_000_000)
        await lab.advance("1s")
        info = await run.info()

        expected = "nondeterminism" if lacks == "step" else "missing_function"
        assert (info.status, info.suspend_reason) == ("suspended", expected)
        assert info.cancel_requested_at is not None
        at = lab.clock
    right, released = trips("v1")
    there = shared.lab(right)
    there.clock = at
    async with there:
        await there.advance("1s")
        run = right.app.get_run("job", "r")

        with pytest.raises(RunCancelledError if how == "cancel" else RunFailedError):
            await run.result(timeout="8s")
        assert released == ["a seat"]


async def test_a_run_whose_code_is_gone_ends_by_force(shared: Place) -> None:
    await begun(shared, trips("v1")[0])
    new, _ = trips("v2", first="Book a seat")
    async with shared.lab(new) as lab:
        run = new.app.get_run("job", "r")
        await run.cancel("enough")
        await lab.settle()
        await run.cancel("again")
        await lab.settle()
        assert await run.status() == "suspended"

        await run.cancel("by force", force=True)

        with pytest.raises(RunCancelledError, match="enough"):
            await run.result(timeout="8s")
        assert (await run.info()).status == "cancelled"


# --- children of another code base ----------------------------------------------------------------


async def test_a_child_whose_input_is_declared_otherwise_fails_and_its_parent_learns_of_it(
    shared: Place,
) -> None:
    billing = external_workflow("bill", input=str, output=str)
    shop, bank = Toy(), Toy()

    @shop.workflow
    async def order(ctx: Wf, amount: str) -> str:
        return await ctx.workflow.do("Bill it", billing, amount)

    @bank.workflow
    async def bill(ctx: Wf, amount: int) -> str:
        return f"paid {amount}"

    async with shared.lab(shop) as lab, shared.beside(lab, bank):
        run = await shop.app.start_workflow("order", "much", wait=False)

        with pytest.raises(RunFailedError) as failed:
            await run.result(timeout="8s")
        assert failed.value.error.type == "StepFailedError"
        assert "declares another type" in failed.value.error.message
        (child,) = await shop.app.list_runs(workflow="bill")
        assert (child.status, child.error and child.error.type) == ("failed", "InvalidInputError")


async def test_a_result_that_is_declared_otherwise_suspends_the_parent_and_says_so(
    shared: Place,
) -> None:
    billing = external_workflow("bill", input=int, output=int)
    shop, bank = Toy(), Toy()

    @shop.workflow
    async def order(ctx: Wf, amount: int) -> int:
        return await ctx.workflow.do("Bill it", billing, amount)

    @bank.workflow
    async def bill(ctx: Wf, amount: int) -> str:
        return f"paid {amount}"

    async with shared.lab(shop) as lab:
        run = await shop.app.start_workflow("order", 21, run_id="r", wait=False)
        await lab.settle()
    async with shared.lab(bank) as lab:
        await lab.settle()
    async with shared.lab(shop) as lab:
        run = shop.app.get_run("order", "r")
        await lab.settle()
        info = await run.info()
        assert (info.status, info.suspend_reason) == ("suspended", "nondeterminism")
        assert info.error is not None
        assert "the result of workflow 'bill' is declared here" in info.error.message


async def test_the_difference_says_what_the_code_asks_for_instead(shared: Place) -> None:
    await begun(shared, deploy(old, "v1"))
    new = deploy(other, "v2")
    async with shared.lab(new) as lab:
        run = new.app.get_run("job", "r")
        await lab.advance("2h")
        info = await run.info()

        assert info.error is not None
        assert "the history says an RPC step of 'note'" in info.error.message
        assert "does not ask for it, but for 'Plan'" in info.error.message


async def test_the_id_of_a_patch_that_cannot_be_is_refused_as_such(memory_modes: Place) -> None:
    toy = Toy()

    @toy.workflow
    async def job(ctx: Wf) -> bool:
        return ctx.workflow.patched("")

    async with memory_modes.lab(toy) as lab:
        run = await toy.start("job")
        with pytest.raises(RunFailedError, match="id of a patch") as failed:
            await done(lab, run)
        assert failed.value.error.type == "StepNameError"
