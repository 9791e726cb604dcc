"""Runs: starting, following, ending, and what they are called."""

import asyncio
import uuid
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runtime.kit import Ctx, Lab, Toy, Wf, World, steps_of

from pikku import Run, RunCancelledError, RunFailedError
from pikku.errors import (
    AppNotOpenError,
    InvalidInputError,
    PayloadError,
    ResultTimeoutError,
    RunConflictError,
    RunIdError,
    RunNotFoundError,
    RunStateError,
    UnknownWorkflowError,
)


class Order(BaseModel):
    order_id: str
    lines: list[int]


def wire_all(toy: Toy) -> None:
    """Workflows that end in each way, and some that wait."""

    @toy.workflow
    async def double(ctx: Wf, number: int) -> int:
        return await ctx.workflow.do("Double it", lambda: number * 2)

    @toy.workflow
    async def failing(ctx: Wf) -> None:
        raise KeyError("nothing here")

    @toy.workflow
    async def sleeper(ctx: Wf, number: int) -> int:
        await ctx.workflow.do("Before", lambda: None)
        await ctx.workflow.sleep("Wait", "5min")
        return await ctx.workflow.do("After", lambda: number)

    @toy.workflow
    async def ordering(ctx: Wf, order: Order) -> str:
        return order.order_id


async def written(lab: Lab) -> int:
    return sum((await lab._store.count_runs()).values())


# --- 1: runs and steps ----------------------------------------------------------------------------


async def test_a_run_has_an_id_of_128_random_bits(toy: Toy, memory: World) -> None:
    wire_all(toy)
    async with memory.lab(toy):
        ids = {(await toy.start("double", 1)).run_id for _ in range(50)}
    assert len(ids) == 50
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in ids)


async def test_the_handle_reads_as_its_run_id(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy):
        run = await toy.start("double", 4, run_id="double-4")
        assert str(run) == run.run_id == "double-4"
        assert await run.status() == "completed"
        assert await run.result() == 8


async def test_what_a_run_is_known_by_is_recorded(toy: Toy, world: World) -> None:
    @toy.workflow
    async def plain(ctx: Wf, data: dict[str, int]) -> list[int]:
        return list(data.values())

    toy.registry.workflows["plain"].tags = ("one", "two")
    async with world.lab(toy) as lab:
        run = await toy.start("plain", {"a": 1})
        info = await run.info()
        assert (info.workflow, info.status, info.inline) == ("plain", "completed", True)
        assert (info.input, info.output, info.error) == ({"a": 1}, [1], None)
        assert (info.tags, info.run_attempt) == (("one", "two"), 1)
        assert info.created_at == info.finished_at == lab.clock.now()
        assert info.created_at.tzinfo is not None


async def test_a_sleeping_run_is_running_and_not_suspended(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("sleeper", 1)
        assert await run.status() == "running"
        await lab.advance("5min")
        assert await run.status() == "completed"


async def test_a_final_run_is_overwritten_by_nothing(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy) as lab:
        done = await toy.start("double", 1)
        failed = await toy.start("failing")
        before = [await done.info(), await failed.info()]
        await done.cancel("too late")
        await failed.cancel("too late")
        for run in (done, failed):
            with pytest.raises(RunStateError):
                await lab._opened.engine.resume(run.run_id)
        await lab.recover()
        assert [await done.info(), await failed.info()] == before


async def test_the_second_reach_of_a_name_is_numbered(toy: Toy, world: World) -> None:
    @toy.workflow
    async def thrice(ctx: Wf) -> list[int]:
        return [await ctx.workflow.do("Count", partial(int, n), returns=int) for n in range(3)]

    async with world.lab(toy) as lab:
        run = await toy.start("thrice")
        assert await run.result() == [0, 1, 2]
        assert list(await steps_of(lab, run)) == ["Count", "Count#1", "Count#2"]


async def test_a_name_that_looks_numbered_does_not_collide(toy: Toy, world: World) -> None:
    @toy.workflow
    async def tricky(ctx: Wf) -> list[str]:
        first = await ctx.workflow.do("a", lambda: "first a")
        looks = await ctx.workflow.do("a#1", lambda: "named a#1")
        await ctx.workflow.sleep("Wait", "1s")
        second = await ctx.workflow.do("a", lambda: "second a")
        again = await ctx.workflow.do("a#1", lambda: "again a#1")
        return [first, looks, second, again]

    async with world.lab(toy) as lab:
        run = await toy.start("tricky")
        assert await run.result() == ["first a", "named a#1", "second a", "again a#1"]
        assert len(await steps_of(lab, run)) == 5


@pytest.mark.parametrize("name", ["", "   ", None, 5, b"bytes", ["list"], "nul\x00", "x" * 501])
async def test_a_step_without_a_proper_name_is_refused_before_anything_is_written(
    toy: Toy, memory: World, name: object
) -> None:
    @toy.workflow
    async def nameless(ctx: Wf) -> None:
        await ctx.workflow.do(name, lambda: 1)  # type: ignore[call-overload]

    @toy.workflow
    async def dozing(ctx: Wf) -> None:
        await ctx.workflow.sleep(name, "1s")  # type: ignore[arg-type]

    async with memory.lab(toy) as lab:
        for workflow in ("nameless", "dozing"):
            run = await toy.start(workflow)
            with pytest.raises(RunFailedError) as caught:
                await run.result()
            assert caught.value.error.type == "StepNameError"
            assert caught.value.error.code == "PKR311"
            assert await steps_of(lab, run) == {}


async def test_the_invocation_id_is_fixed_by_run_and_step_key(toy: Toy, world: World) -> None:
    seen: list[tuple[int, str]] = []

    @toy.func(retries=2)
    async def flaky(ctx: Ctx) -> None:
        seen.append((ctx.step.attempt_count, ctx.step.invocation_id))
        if ctx.step.attempt_count < 3:
            raise OSError("not yet")

    @toy.workflow
    async def calls(ctx: Wf) -> None:
        await ctx.workflow.do("Call", flaky)
        await ctx.workflow.do("Call", flaky)

    async with world.lab(toy):
        await (await toy.start("calls", run_id="r-1")).result()
    namespace = uuid.UUID("6f0c2b3e-6a55-5e0b-9c1d-7a1f6b8d2e40")  # published, so fixed for ever
    first, second = (str(uuid.uuid5(namespace, f"r-1:{key}")) for key in ("Call", "Call#1"))
    assert seen == [(1, first), (2, first), (3, first), (1, second), (2, second), (3, second)]


async def test_the_invocation_id_is_the_same_in_the_process_that_takes_over(
    toy: Toy, world: World
) -> None:
    seen: list[str] = []
    entered = asyncio.Event()

    @toy.func
    async def hanging(ctx: Ctx) -> None:
        seen.append(ctx.step.invocation_id)
        entered.set()
        if ctx.step.attempt_count == 1:
            await asyncio.Event().wait()

    @toy.workflow
    async def calls(ctx: Wf) -> None:
        await ctx.workflow.do("Call", hanging)

    async with world.lab(toy) as lab:
        run = await toy.start("calls", wait=False)
        await entered.wait()
        await lab.recover()
        await run.result()
        assert (await steps_of(lab, run))["Call"].attempt == 2
    assert len(seen) == 2
    assert len(set(seen)) == 1


async def test_a_sibling_that_ends_while_a_step_waits_for_its_next_attempt_changes_nothing(
    toy: Toy, world: World
) -> None:
    told: list[str] = []

    @toy.func
    async def handler(ctx: Ctx, failure: dict[str, object]) -> None:
        told.append("handler")

    @toy.func(retries=1, retry_delay="10min")
    async def flaky(ctx: Ctx) -> str:
        if ctx.step.attempt_count == 1:
            raise OSError("first")
        return "flaky"

    @toy.workflow
    async def pair(ctx: Wf) -> list[str]:
        both = await asyncio.gather(
            ctx.workflow.do("Flaky", flaky, on_error=handler),
            ctx.workflow.do("Slow sibling", lambda: "sibling"),
        )
        return list(both)

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("pair")
        steps = await steps_of(lab, run)
        assert (steps["Flaky"].status, steps["Flaky"].attempt) == ("scheduled", 2)
        assert steps["Flaky"].due_us == lab.clock.now_us() + 600_000_000
        assert steps["Slow sibling"].status == "succeeded"
        assert await run.status() == "running"
        await lab.advance("10min")
        assert await run.result() == ["flaky", "sibling"]
    assert told == []


# --- 3.1: inline mode ---------------------------------------------------------------------------


async def test_start_returns_when_the_run_is_final(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy, auto_advance=False):
        assert (await (await toy.start("double", 3)).info()).status == "completed"


async def test_start_never_raises_for_a_failed_run_but_result_does(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy):
        run = await toy.start("failing")
        assert await run.status() == "failed"
        with pytest.raises(RunFailedError) as caught:
            await run.result()
        assert caught.value.error.type == "KeyError"
        assert caught.value.caused_by(KeyError)
        assert caught.value.caused_by(LookupError)
        assert not caught.value.caused_by(ValueError)
        assert (caught.value.run_id, caught.value.workflow) == (run.run_id, "failing")


async def test_start_returns_when_no_task_can_move_before_a_timer(toy: Toy, world: World) -> None:
    @toy.func(retries=1, retry_delay="1h")
    async def flaky(ctx: Ctx) -> None:
        raise OSError("down")

    @toy.workflow
    async def retrying(ctx: Wf) -> None:
        await ctx.workflow.do("Flaky", flaky)

    wire_all(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        asleep = await toy.start("sleeper", 1)
        waiting = await toy.start("retrying")
        assert await asleep.status() == await waiting.status() == "running"
        assert lab.executions("Before") == lab.executions("Flaky") == 1
        assert lab.executions("After") == 0


async def test_start_without_wait_returns_before_the_steps_and_the_run_goes_on(
    toy: Toy, world: World
) -> None:
    gate = asyncio.Event()

    @toy.workflow
    async def gated(ctx: Wf) -> bool:
        return await ctx.workflow.do("Wait for the gate", gate.wait, returns=bool)

    async with world.lab(toy):
        run = await toy.start("gated", wait=False)
        assert await run.status() == "running"
        gate.set()
        assert await run.result() is True


async def test_steps_awaited_one_at_a_time_never_overlap(toy: Toy, world: World) -> None:
    order: list[str] = []

    @toy.func
    async def work(ctx: Ctx, name: str) -> None:
        order.append(f"+{name}")
        await asyncio.sleep(0)
        order.append(f"-{name}")

    @toy.workflow
    async def in_turn(ctx: Wf) -> None:
        for name in "abc":
            await ctx.workflow.do(name, work, name)

    async with world.lab(toy):
        await (await toy.start("in_turn")).result()
    assert order == ["+a", "-a", "+b", "-b", "+c", "-c"]


async def test_gathered_steps_overlap(toy: Toy, world: World) -> None:
    inside = 0
    together = asyncio.Event()

    @toy.func
    async def work(ctx: Ctx, name: str) -> None:
        nonlocal inside
        inside += 1
        if inside == 3:
            together.set()
        await together.wait()

    @toy.workflow
    async def at_once(ctx: Wf) -> None:
        await asyncio.gather(*[ctx.workflow.do(name, work, name) for name in "abc"])

    async with world.lab(toy):
        await (await toy.start("at_once")).result()
    assert inside == 3


async def test_many_runs_at_once_each_end_with_their_own_result(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy):
        runs: list[Run[int]] = await asyncio.gather(*[toy.start("sleeper", n) for n in range(60)])
        assert [await run.result() for run in runs] == list(range(60))


async def test_an_interrupted_run_goes_on_once_in_the_next_process(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy) as lab:
        lab.crash_after("Before")
        run = await toy.start("sleeper", 7)
        await lab.recover()
        assert await run.result() == 7
        assert (lab.executions("Before"), lab.executions("After")) == (1, 1)


async def test_two_apps_on_one_store_execute_a_run_once(toy: Toy, tmp_path: object) -> None:
    from pathlib import Path

    wire_all(toy)
    assert isinstance(tmp_path, Path)
    world = World(f"sqlite:///{tmp_path / 'runs.db'}")
    other = Toy()
    wire_all(other)
    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("sleeper", 7)
        async with world.lab(other, auto_advance=False) as second:
            second.clock.move_to(lab.clock.now_us())
            await lab.advance("5min")
            await second.advance("5min")
            assert await other.app.get_run("sleeper", run.run_id).result() == 7
            assert lab.executions("After") + second.executions("After") == 1
            assert lab.executions("Before") + second.executions("Before") == 1


# --- 5: starting and following --------------------------------------------------------------------


async def test_get_run_attaches_to_a_run_again(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy):
        await toy.start("double", 21, run_id="mine")
        again = toy.app.get_run("double", "mine")
        assert await again.result() == 42


async def test_result_decodes_to_the_declared_type(toy: Toy, world: World) -> None:
    @toy.workflow
    async def make(ctx: Wf) -> Order:
        return Order(order_id="o", lines=[1])

    async with world.lab(toy):
        assert await (await toy.start("make")).result() == Order(order_id="o", lines=[1])


async def test_result_runs_out_of_time_and_the_run_goes_on(toy: Toy, world: World) -> None:
    gate = asyncio.Event()

    @toy.workflow
    async def gated(ctx: Wf) -> bool:
        return await ctx.workflow.do("Wait for the gate", gate.wait, returns=bool)

    async with world.lab(toy):
        run = await toy.start("gated", wait=False)
        with pytest.raises(ResultTimeoutError):
            await run.result(timeout="1ms")
        gate.set()
        assert await run.result() is True


async def test_result_of_a_cancelled_run_carries_the_reason(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy, auto_advance=False):
        run = await toy.start("sleeper", 1)
        await run.cancel("changed my mind")
        with pytest.raises(RunCancelledError) as caught:
            await run.result()
        assert caught.value.reason == "changed my mind"


async def test_a_run_that_does_not_exist_is_said_so_by_every_method(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy):
        run = toy.app.get_run("double", "nobody")
        for call in (run.result, run.status, run.info, run.history):
            with pytest.raises(RunNotFoundError) as caught:
                await call()
            assert caught.value.run_id == "nobody"
        with pytest.raises(RunNotFoundError):
            await run.cancel("why not")


async def test_start_with_an_id_is_idempotent(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy) as lab:
        first = await toy.start("ordering", {"order_id": "o", "lines": [1]}, run_id="o-1")
        again = await toy.start("ordering", Order(order_id="o", lines=[1]), run_id="o-1")
        other_order = await toy.start("ordering", {"lines": [1], "order_id": "o"}, run_id="o-1")
        assert str(first) == str(again) == str(other_order)
        assert await written(lab) == 1


async def test_the_order_of_keys_makes_no_other_input(toy: Toy, world: World) -> None:
    @toy.workflow
    async def counting(ctx: Wf, data: dict[str, int]) -> int:
        return sum(data.values())

    @toy.workflow
    async def plain(ctx: Wf, data: Any) -> None: ...

    async with world.lab(toy):
        for name in ("counting", "plain"):
            first = await toy.start(name, {"a": 1, "b": 2}, run_id=name)
            again = await toy.start(name, {"b": 2, "a": 1}, run_id=name)
            assert str(first) == str(again)


async def test_concurrent_starts_with_one_id_make_one_run(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy) as lab:
        runs = await asyncio.gather(*[toy.start("double", 5, run_id="same") for _ in range(20)])
        assert [await run.result() for run in runs] == [10] * 20
        assert await written(lab) == 1
        assert lab.executions("Double it") == 1


async def test_an_id_with_another_input_conflicts_and_names_the_first_difference(
    toy: Toy, world: World
) -> None:
    wire_all(toy)
    async with world.lab(toy) as lab:
        await toy.start("ordering", Order(order_id="o", lines=[1, 2]), run_id="o-1")
        with pytest.raises(RunConflictError) as caught:
            await toy.start("ordering", Order(order_id="o", lines=[1, 3]), run_id="o-1")
        assert "lines[1]" in str(caught.value)
        assert await written(lab) == 1


async def test_an_id_with_another_workflow_conflicts_and_names_both(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy):
        await toy.start("double", 1, run_id="x")
        with pytest.raises(RunConflictError) as caught:
            await toy.start("sleeper", 1, run_id="x")
        assert "double" in str(caught.value)
        assert "sleeper" in str(caught.value)


@pytest.mark.parametrize("run_id", ["", "a b", "a{b}", "a|b", "tab\t", "x" * 201, 7, b"x"])
async def test_an_id_that_cannot_be_one_is_refused(toy: Toy, memory: World, run_id: object) -> None:
    wire_all(toy)
    async with memory.lab(toy) as lab:
        with pytest.raises(RunIdError):
            await toy.start("double", 1, run_id=run_id)  # type: ignore[arg-type]
        assert await written(lab) == 0


@pytest.mark.parametrize("name", ["doubel", "", None, 5])
async def test_an_unknown_workflow_is_refused_with_the_nearest_names(
    toy: Toy, memory: World, name: object
) -> None:
    wire_all(toy)
    async with memory.lab(toy) as lab:
        with pytest.raises(UnknownWorkflowError) as caught:
            await toy.start(name, 1)  # type: ignore[arg-type]
        if name == "doubel":
            assert "'double'" in str(caught.value)
        with pytest.raises(UnknownWorkflowError):
            toy.app.get_run(name, "x")  # type: ignore[arg-type]
        assert await written(lab) == 0


@pytest.mark.parametrize(
    "data",
    [None, "text", [], {}, {"order_id": "o"}, {"order_id": 1, "lines": []}, object(), float("nan")],
)
async def test_an_input_that_does_not_fit_is_refused_before_anything_is_written(
    toy: Toy, world: World, data: object
) -> None:
    wire_all(toy)
    async with world.lab(toy) as lab:
        with pytest.raises(InvalidInputError) as caught:
            await toy.start("ordering", data)
        assert "ordering" in str(caught.value)
        with pytest.raises(InvalidInputError):
            await toy.start("ordering")
        assert await written(lab) == 0


async def test_an_input_that_cannot_be_stored_is_refused_before_anything_is_written(
    toy: Toy, memory: World
) -> None:
    @toy.workflow
    async def floats(ctx: Wf, data: list[float]) -> None: ...

    @toy.workflow
    async def texts(ctx: Wf, data: str) -> None: ...

    async with memory.lab(toy) as lab:
        with pytest.raises((PayloadError, InvalidInputError)):
            await toy.start("floats", [1.0, float("nan")])
        with pytest.raises((PayloadError, InvalidInputError)):
            await toy.start("texts", "lone \ud800 surrogate")
        assert await written(lab) == 0


async def test_a_call_outside_the_open_app_says_how_to_open_it(toy: Toy) -> None:
    wire_all(toy)
    with pytest.raises(AppNotOpenError) as caught:
        await toy.start("double", 1)
    assert "async with app:" in str(caught.value)


async def test_a_workflow_whose_code_is_gone_is_suspended_and_goes_on_when_it_is_back(
    toy: Toy, world: World
) -> None:
    wire_all(toy)
    async with world.lab(toy) as lab:
        lab.crash_after("Before")
        run = await toy.start("sleeper", 7)
        gone = toy.registry.workflows.pop("sleeper")
        await lab.recover()
        info = await run.info()
        assert (info.status, info.suspend_reason) == ("suspended", "missing_function")
        toy.registry.workflows["sleeper"] = gone
        await lab.recover()
        assert await run.result() == 7
        assert lab.executions("Before") == 1


async def test_a_function_whose_code_is_gone_suspends_and_goes_on_when_it_is_back(
    toy: Toy, world: World
) -> None:
    @toy.func
    async def work(ctx: Ctx) -> str:
        return "done"

    @toy.workflow
    async def working(ctx: Wf) -> str:
        await ctx.workflow.do("Before", lambda: None)
        return await ctx.workflow.do("Work", "work")  # type: ignore[no-any-return, call-overload]

    async with world.lab(toy) as lab:
        gone = toy.registry.functions.pop("work")
        run = await toy.start("working")
        info = await run.info()
        assert (info.status, info.suspend_reason) == ("suspended", "missing_function")
        toy.registry.functions["work"] = gone
        await lab.recover()
        if await run.status() == "suspended":
            await lab._opened.engine.resume(run.run_id)
        assert await run.result() == "done"
        assert lab.executions("Before") == 1


# --- 5.5: history -----------------------------------------------------------------------------


async def test_history_tells_every_attempt_and_request_in_order(toy: Toy, world: World) -> None:
    @toy.func(retries=2, retry_delay="1s")
    async def flaky(ctx: Ctx) -> str:
        if ctx.step.attempt_count < 3:
            raise OSError(f"attempt {ctx.step.attempt_count}")
        return "ok"

    @toy.workflow
    async def story(ctx: Wf) -> None:
        await ctx.workflow.do("Flaky", flaky)
        await ctx.workflow.now()
        await ctx.workflow.sleep("Wait", "1h")

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("story")
        await lab.advance("1min")
        await run.cancel("enough")
        await lab.settle()
        told = [(event.kind, event.step, event.attempt) for event in await run.history()]
        times = [event.at for event in await run.history()]
    kinds = [kind for kind, _, _ in told]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_cancelled"
    failures = [each for each in told if each[0] == "attempt_failed"]
    assert failures == [("attempt_failed", "Flaky", 1), ("attempt_failed", "Flaky", 2)]
    assert ("step_succeeded", "Flaky", 3) in told
    assert ("sleep_started", "Wait", None) in told
    assert "cancel" in kinds
    assert kinds.index("cancel") > kinds.index("sleep_started") > kinds.index("step_succeeded")
    assert kinds.index("step_succeeded") > kinds.index("attempt_failed")
    assert times == sorted(times)


async def test_replay_does_not_read_the_history(toy: Toy, world: World) -> None:
    from tests.runtime.kit import StoreProxy

    wire_all(toy)
    async with world.proxied(toy, StoreProxy) as lab:
        lab.crash_after("Before")
        run = await toy.start("sleeper", 1)
        await lab.recover()
        assert await run.result() == 1
        assert "load_history" not in lab.wrapped.reads


async def test_runs_are_listed_newest_first_by_what_is_asked(toy: Toy, world: World) -> None:
    wire_all(toy)
    async with world.lab(toy, auto_advance=False) as lab:
        for number in range(3):
            await toy.start("double", number, run_id=f"d{number}")
            await lab.advance("1s")
        await toy.start("failing", run_id="f")
        listed = await toy.app.list_runs()
        assert [info.run_id for info in listed] == ["f", "d2", "d1", "d0"]
        assert [i.run_id for i in await toy.app.list_runs(status="failed")] == ["f"]
        assert [i.run_id for i in await toy.app.list_runs(workflow="double", limit=2)] == [
            "d2",
            "d1",
        ]
