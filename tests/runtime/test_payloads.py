"""How large values may be, and that what is refused was never written."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of

from pikku import ErrorInfo, RunFailedError, StepFailedError, TerminalError
from pikku._bodies import Attempt, Bodies, End, Plan
from pikku._codec import PLAIN
from pikku._payloads import check_size
from pikku._records import RunFilter
from pikku._retry import DEFAULT_POLICY
from pikku.errors import PayloadError, PayloadTooLargeError
from pikku.stores.memory import MemoryStore
from pikku.testing import FakeClock, WorkflowLab

LIMIT = 1_000
MAX_ERROR_BYTES = 64 * 1024
Mode = Literal["none", "store"]
MODES: list[Mode] = ["none", "store"]


def text_of(size: int, letter: str = "x") -> str:
    """A value whose JSON has *size* bytes; what does not come out even is filled up."""
    room = size - len('""')
    count, rest = divmod(room, len(letter.encode()))
    made = letter * count + "." * rest
    assert len(json.dumps(made, ensure_ascii=False).encode()) == size
    return made


@pytest.fixture(params=MODES, ids=["inline", "remote"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Where runs are executed."""
    made: Mode = request.param
    return made


@pytest.fixture(params=["x", "é", "漢", "🦊"], ids=["1", "2", "3", "4"])
def letter(request: pytest.FixtureRequest) -> str:
    """A character of so many bytes."""
    made: str = request.param
    return made


def lab_of(toy: Toy, memory: World, mode: Mode, **changes: Any) -> WorkflowLab[Any]:
    """A lab in which values may have `LIMIT` bytes."""
    options = memory.options(**{"max_payload_bytes": LIMIT, **changes})
    return WorkflowLab(toy.app, queue_service=mode, options=options)


def written(lab: WorkflowLab[Any]) -> str:
    """Everything that the store has, in one text."""
    store: Any = lab._store
    assert isinstance(store, MemoryStore)
    return repr({name: value for name, value in vars(store).items() if name != "clock"})


def wire(toy: Toy) -> None:
    """A workflow whose input says how large what is, one whose input counts, and one that asks for
    a step with that input."""

    @toy.func
    async def echo(ctx: Ctx, text: str) -> str:
        return text

    @toy.func
    async def make(ctx: Ctx, given: tuple[int, str]) -> str:
        return text_of(*given)

    @toy.workflow
    async def taking(ctx: Wf, text: str) -> int:
        return len(text)

    @toy.workflow
    async def passing(ctx: Wf, given: tuple[int, str]) -> str:
        try:
            await ctx.workflow.do("Echo", echo, text_of(*given))
        except PayloadTooLargeError as error:
            return str(error)
        return "passed"

    @toy.workflow
    async def making(ctx: Wf, given: tuple[int, str]) -> int:
        return len(await ctx.workflow.do("Make it", make, given, retries=3))

    @toy.workflow
    async def computing(ctx: Wf, given: tuple[int, str]) -> int:
        return len(await ctx.workflow.do("Compute", lambda: text_of(*given), retries=3))

    @toy.workflow
    async def returning(ctx: Wf, given: tuple[int, str]) -> str:
        return text_of(*given)


# --- what a run is started with -------------------------------------------------------------------


async def test_the_input_of_a_run_may_have_as_many_bytes_as_the_limit_and_not_one_more(
    toy: Toy, memory: World, mode: Mode, letter: str
) -> None:
    wire(toy)
    async with lab_of(toy, memory, mode) as lab:
        whole = text_of(LIMIT, letter)
        assert await (await toy.start("taking", whole)).result() == len(whole)
        before = written(lab)
        with pytest.raises(PayloadTooLargeError) as caught:
            await toy.start("taking", text_of(LIMIT + 1, letter))
        assert written(lab) == before
        assert len(await lab._store.list_runs(RunFilter())) == 1
    assert (caught.value.size, caught.value.limit) == (LIMIT + 1, LIMIT)
    assert isinstance(caught.value, PayloadError)


# --- steps ----------------------------------------------------------------------------------------


async def test_the_input_of_a_step_may_have_as_many_bytes_as_the_limit_and_not_one_more(
    toy: Toy, memory: World, mode: Mode, letter: str
) -> None:
    wire(toy)
    async with lab_of(toy, memory, mode) as lab:
        assert await (await toy.start("passing", (LIMIT, letter))).result() == "passed"
        run = await toy.start("passing", (LIMIT + 1, letter))
        assert await run.result() == (
            "PKR320 the input of step 'Echo': too large: 1001 bytes as JSON, and the limit is "
            "1000 bytes (keep the value elsewhere and pass a reference to it, such as a path, "
            "a key or an id)"
        )
        assert await steps_of(lab, run) == {}
        assert lab.executions("Echo") == 1


async def test_a_step_whose_input_is_too_large_is_refused_again_on_replay(
    toy: Toy, memory: World, mode: Mode
) -> None:
    wire(toy)

    @toy.workflow
    async def going_on(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Echo", toy.registry.functions["echo"], text_of(LIMIT + 1))
        except PayloadTooLargeError:
            await ctx.workflow.do("Go on", lambda: None)
            await ctx.workflow.sleep("Wait", "1h")
            return "the other way"
        return "passed"

    async with lab_of(toy, memory, mode, sticky=0) as lab:
        run = await toy.start("going_on")
        await lab.settle()
        assert await run.result() == "the other way"
        assert lab.executions("Go on") == 1


@pytest.mark.parametrize("workflow, step", [("making", "Make it"), ("computing", "Compute")])
async def test_the_result_of_a_step_may_have_as_many_bytes_as_the_limit_and_not_one_more(
    toy: Toy, memory: World, mode: Mode, letter: str, workflow: str, step: str
) -> None:
    wire(toy)
    async with lab_of(toy, memory, mode) as lab:
        whole = text_of(LIMIT, letter)
        assert await (await toy.start(workflow, (LIMIT, letter))).result() == len(whole)
        run = await toy.start(workflow, (LIMIT + 1, letter))
        with pytest.raises(RunFailedError) as caught:
            await run.result()
        assert caught.value.caused_by(StepFailedError)
        assert f"the result of step {step!r}: too large: 1001 bytes" in str(caught.value)
        record = (await steps_of(lab, run))[step]
        assert (record.status, record.attempt, record.result) == ("failed", 1, None)
        assert ErrorInfo.from_json(record.error or "").is_a(PayloadTooLargeError)
        assert lab.executions(step) == 2, "it is not tried again"
        assert text_of(LIMIT + 1, letter) not in written(lab)


async def test_the_result_of_a_synchronous_function_is_measured_too(
    toy: Toy, memory: World, mode: Mode
) -> None:
    @toy.func
    def make_here(ctx: Ctx, size: int) -> str:
        return text_of(size)

    @toy.workflow
    async def making(ctx: Wf, size: int) -> int:
        return len(await ctx.workflow.do("Make it", make_here, size))

    async with lab_of(toy, memory, mode):
        assert await (await toy.start("making", LIMIT)).result() == LIMIT - 2
        with pytest.raises(RunFailedError, match="the result of step 'Make it': too large"):
            await (await toy.start("making", LIMIT + 1)).result()


async def test_the_result_of_a_child_process_is_measured_by_the_host(toy: Toy) -> None:
    @toy.func(executor="process")
    def make_there(ctx: Ctx) -> str:
        raise AssertionError("nothing is executed here")

    class Child:
        async def execute(self, call: Any, report: Any) -> dict[str, Any]:
            return {"failed": False, "text": json.dumps(text_of(self.size))}

        def __init__(self, size: int) -> None:
            self.size = size

    class Pool:
        def __init__(self, size: int) -> None:
            self.size = size

        @asynccontextmanager
        async def child(self) -> AsyncGenerator[Child, None]:
            yield Child(self.size)

    async def end_of(size: int) -> End:
        loop = asyncio.get_running_loop()
        bodies = Bodies(
            loop,
            FakeClock(),
            1,
            lambda: True,
            lambda: None,
            on_quiet=lambda: None,
            on_open=lambda: None,
            max_payload_bytes=LIMIT,
        )
        ended: asyncio.Future[End] = loop.create_future()
        func = toy.registry.functions["make_there"]
        plan = Plan(func, None, None, PLAIN, DEFAULT_POLICY, None, "step 'Make it'")
        told: Any = SimpleNamespace(requested=False)
        attempt = Attempt(plan, ended.set_result, told)
        pool: Any = Pool(size)
        call: Any = None
        bodies.start(attempt, lambda each: bodies.begin_process(each, pool, call), False)
        return await ended

    assert not (await end_of(LIMIT)).failed
    end = await end_of(LIMIT + 1)
    assert (end.failed, end.final) == (True, True)
    assert end.error is not None
    assert end.error.is_a(PayloadTooLargeError)


async def test_the_result_of_an_error_handler_is_measured_too(
    toy: Toy, memory: World, mode: Mode
) -> None:
    @toy.func
    async def fail(ctx: Ctx) -> None:
        raise TerminalError("on purpose")

    @toy.func
    async def handle(ctx: Ctx, failure: Any) -> str:
        return text_of(LIMIT + 1)

    @toy.workflow
    async def failing(ctx: Wf) -> None:
        await ctx.workflow.do("Fail", fail, on_error=handle)

    async with lab_of(toy, memory, mode) as lab:
        run = await toy.start("failing")
        with pytest.raises(RunFailedError, match="on purpose"):
            await run.result()
        handler = (await steps_of(lab, run))["Fail (on_error)"]
        assert handler.status == "failed"
        assert "the result of handler 'handle' of step 'Fail'" in (handler.error or "")


# --- what a run ends with -------------------------------------------------------------------------


async def test_the_result_of_a_run_may_have_as_many_bytes_as_the_limit_and_not_one_more(
    toy: Toy, memory: World, mode: Mode, letter: str
) -> None:
    wire(toy)
    async with lab_of(toy, memory, mode) as lab:
        whole = text_of(LIMIT, letter)
        assert await (await toy.start("returning", (LIMIT, letter))).result() == whole
        run = await toy.start("returning", (LIMIT + 1, letter))
        with pytest.raises(RunFailedError) as caught:
            await run.result()
        assert caught.value.caused_by(PayloadTooLargeError)
        assert "the result of workflow 'returning': too large" in str(caught.value)
        record = await lab._store.load_run(str(run))
        assert record is not None
        assert record.output is None
        assert text_of(LIMIT + 1, letter) not in written(lab)


# --- errors ---------------------------------------------------------------------------------------


class Verbose(Exception):
    """Has much to say, in every place in which an error may say something."""

    def __init__(self, text: str) -> None:
        self.code = self.message = self.hint = text
        super().__init__(text)


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🦊", "\0", '"', "\ud800"])
def test_the_record_of_an_error_stays_below_64_kib_whatever_it_says(letter: str) -> None:
    text = letter * 100_000
    kind = type("V" * 10_000, (Verbose,), {})
    for error in (Verbose(text), ValueError(text), kind(text)):
        info = ErrorInfo.of(error, traceback=text)
        assert len(info.to_json().encode()) < MAX_ERROR_BYTES
        assert info == ErrorInfo.from_json(info.to_json())


def test_the_message_of_an_error_is_kept_whole_as_far_as_there_is_room() -> None:
    room = 32 * 1024
    assert ErrorInfo.of(ValueError("x" * room)).message == "x" * room
    assert ErrorInfo.of(ValueError("x" * (room + 1))).message == "x" * (room - 3) + "…"
    assert ErrorInfo.of(ValueError("🦊" * (room // 4))).message == "🦊" * (room // 4)
    cut = ErrorInfo.of(ValueError("🦊" * (room // 4) + ".")).message
    assert cut == "🦊" * (room // 4 - 1) + "…"


def test_a_long_traceback_keeps_its_end() -> None:
    text = "first\n" + "middle\n" * 10_000 + "last"
    kept = ErrorInfo.of(ValueError(), traceback=text).traceback or ""
    assert kept.startswith("…")
    assert kept.endswith("middle\nlast")


async def test_an_error_that_says_much_is_shortened_and_the_step_fails_with_it(
    toy: Toy, memory: World, mode: Mode
) -> None:
    @toy.func
    async def shout(ctx: Ctx) -> None:
        raise TerminalError("漢" * 1_000_000)

    @toy.workflow
    async def shouting(ctx: Wf) -> int:
        try:
            await ctx.workflow.do("Shout", shout)
        except StepFailedError as failed:
            assert failed.caused_by(TerminalError)
            await ctx.workflow.sleep("Wait", "1h")
            return len(failed.error.message)
        return 0

    async with lab_of(toy, memory, mode, sticky=0) as lab:
        run = await toy.start("shouting")
        length = await run.result()
        record = (await steps_of(lab, run))["Shout"]
        assert len((record.error or "").encode()) < MAX_ERROR_BYTES
        assert length == len(ErrorInfo.from_json(record.error or "").message)


# --- in words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, limit, words",
    [
        (1_048_577, 1_048_576, "1,048,577 bytes as JSON, and the limit is 1,048,576 bytes"),
        (3_500_000, 1_048_576, "3.3 MiB as JSON, and the limit is 1 MiB"),
        (2_048, 1_000, "2 KiB as JSON, and the limit is 1000 bytes"),
    ],
)
def test_a_size_is_said_in_units_that_show_the_difference(
    size: int, limit: int, words: str
) -> None:
    assert str(PayloadTooLargeError("it", size, limit)).startswith(f"PKR320 it: too large: {words}")


def test_a_value_may_have_a_mebibyte_unless_the_options_say_otherwise(memory: World) -> None:
    default = dataclasses.asdict(memory.options())["max_payload_bytes"]
    check_size("x" * 1_048_576, default, "it")
    with pytest.raises(PayloadTooLargeError):
        check_size("x" * 1_048_577, default, "it")
