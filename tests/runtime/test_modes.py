"""The same run inline and through queues: the same outputs, steps, attempts, outcomes and order."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel
from tests.runtime.kit import Ctx, Lab, Toy, Wf, World
from tests.servers.fixtures import RedisServers

from pikku import Run, StepFailedError, StepFailure, TerminalError
from pikku.testing import WorkflowLab

Body = Callable[[Wf], Awaitable[Any]]
Function = TypeVar("Function", bound=Callable[..., Any])
QueueService = Literal["none", "store"]


class Shortage(Exception):
    code = "E7"


class Refused(Exception):
    pass


class Line(BaseModel):
    item: str
    price: Decimal
    at: datetime | None = None


class Order(BaseModel):
    order_id: UUID
    lines: list[Line]
    parent: "Order | None" = None


ORDER = Order(
    order_id=UUID(int=7),
    lines=[Line(item="é ⚙", price=Decimal("1.50"), at=datetime(2030, 1, 1, tzinfo=UTC))],
    parent=Order(order_id=UUID(int=8), lines=[]),
)
FALSY: list[Any] = [None, False, 0, 0.0, "", [], {}]


def functions(toy: Toy, dispatch: Literal["queue"] | None) -> None:
    """The functions of every workflow here, dispatched in that way."""

    def func(**options: Any) -> Callable[[Function], Function]:
        declare: Callable[[Function], Function] = toy.func(dispatch=dispatch, **options)
        return declare

    @func()
    async def work(ctx: Ctx, name: str) -> str:
        await asyncio.sleep(0)
        return name.upper()

    @func()
    def threaded(ctx: Ctx, name: str) -> list[str]:
        other = threading.current_thread() is not threading.main_thread()
        return [name, "thread" if other else "loop"]

    @func()
    async def nothing(ctx: Ctx) -> None:
        return None

    @func()
    async def attempt(ctx: Ctx, last: int) -> int:
        if ctx.step.attempt_count < last:
            raise Shortage(f"attempt {ctx.step.attempt_count} of {last}")
        return ctx.step.attempt_count

    @func()
    async def broken(ctx: Ctx, data: str) -> None:
        raise Shortage(data)

    @func(retries=5, non_retryable=[Refused])
    async def refused(ctx: Ctx, data: str) -> None:
        raise Refused(data)

    @func(retries=5)
    async def terminal(ctx: Ctx) -> None:
        raise TerminalError("no way")

    @func()
    async def stuck(ctx: Ctx) -> None:
        await asyncio.Event().wait()

    @func()
    async def same(ctx: Ctx, order: Order) -> Order:
        assert type(order) is Order
        return order

    @func()
    async def falsy(ctx: Ctx, index: int) -> Any:
        return FALSY[index]

    @func()
    async def tell(ctx: Ctx, failure: StepFailure[str]) -> str:
        return f"{failure.input}: {failure.error.type} after {failure.attempt_count}"

    @func(retries=1)
    async def tell_badly(ctx: Ctx, failure: StepFailure[str]) -> None:
        raise Refused(f"no one to tell of {failure.input}")

    @func()
    async def unfit(ctx: Ctx) -> Any:
        return object()

    @toy.func(queue="reports")
    async def report(ctx: Ctx, name: str) -> str:
        return name

    @func()
    async def identity(ctx: Ctx) -> list[Any]:
        step = ctx.step
        return [step.name, step.attempt_count, step.invocation_id, ctx.run_id]


# --- the workflows ------------------------------------------------------------------------------


async def sequence(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    first = await do("First", "work", "a")
    second = await do("Second", lambda: first + "b")
    await do("Nothing", "nothing")
    return [await do("Third", "work", second), await do("Fourth", "work", "")]


async def repeated_names(ctx: Wf) -> list[str]:
    do: Any = ctx.workflow.do
    return [await do("Same", "work", name) for name in ("a", "b", "a")]


async def threads(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    return [await do("One", "threaded", "1"), await do("Two", "threaded", "2")]


async def nested_models(ctx: Wf) -> str:
    do: Any = ctx.workflow.do
    back = await do("Same", "same", ORDER)
    again = await do("Again", "same", back)
    assert type(again) is Order
    return "equal" if again == back == ORDER else "different"


async def falsy_values(ctx: Wf) -> str:
    do: Any = ctx.workflow.do
    found = [await do(f"Value {index}", "falsy", index) for index in range(len(FALSY))]
    found += [await do("Inline", lambda: 0, returns=int)]
    return repr(found)


async def gather(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    return list(await asyncio.gather(*(do(f"Step {n}", "work", n) for n in "abcde")))


async def task_group(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    made: list[Any] = []

    async def leaf(name: str) -> None:
        await ctx.workflow.sleep(f"Nap {name}", "1min")
        made.append(await do(f"Leaf {name}", "work", name))

    async def branch(name: str) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leaf(f"{name}1"))
            group.create_task(leaf(f"{name}2"))
        made.append(await do(f"Branch {name}", lambda: name))

    async with asyncio.TaskGroup() as outer:
        outer.create_task(branch("x"))
        outer.create_task(branch("y"))
    return sorted(made)


async def first_completed(ctx: Wf) -> str:
    do: Any = ctx.workflow.do

    async def napping(minutes: int) -> str:
        await ctx.workflow.sleep(f"Nap {minutes}", f"{minutes}min")
        return str(await do(f"After {minutes}", "work", f"after {minutes}"))

    tasks = [asyncio.create_task(napping(minutes)) for minutes in (3, 1, 2)]
    finished, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return ", ".join(task.result() for task in finished)


async def retried_at_once(ctx: Wf) -> int:
    do: Any = ctx.workflow.do
    return int(await do("Attempt", "attempt", 3, retries=4))


async def retried_later(ctx: Wf) -> list[int]:
    do: Any = ctx.workflow.do
    first = await do("Attempt", "attempt", 3, retries=2, retry_delay="10s")
    return [first, await do("Again", "attempt", 2, retries=1, retry_delay="1h")]


async def retries_used_up(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    try:
        await do("Attempt", "attempt", 9, retries=2, retry_delay="1s")
    except StepFailedError as failed:
        error = failed.error
        return [error.type, error.message, error.code, failed.step_name, failed.attempt_count,
                failed.caused_by(Shortage), failed.caused_by(Refused)]  # fmt: skip
    return []


async def a_sibling_retries(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do

    async def short() -> str:
        await ctx.workflow.sleep("Nap", "1s")
        return str(await do("Short", "work", "short"))

    retried = do("Attempt", "attempt", 3, retries=2, retry_delay="10s")
    return list(await asyncio.gather(retried, short()))


async def not_to_be_retried(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    ends: list[Any] = []
    for name, target, data in (("Refused", "refused", ("no",)), ("Terminal", "terminal", ())):
        try:
            await do(name, target, *data)
        except StepFailedError as failed:
            ends.append([failed.error.type, failed.attempt_count])
    return ends


async def step_timeout(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    try:
        await do("Stuck", "stuck", timeout="5s", retries=1, retry_delay="1s")
    except StepFailedError as failed:
        return [failed.error.type, failed.attempt_count]
    return []


async def workflow_timeout(ctx: Wf) -> None:
    do: Any = ctx.workflow.do
    try:
        await do("Before", "work", "before")
        await ctx.workflow.sleep("Long nap", "2d")
    finally:
        await do("Clean up", "work", "clean up")


async def handled_failure(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    tell: Any = ctx.rpc.tell
    try:
        await do("Broken", "broken", "x", retries=1, retry_delay="1s", on_error=tell)
    except StepFailedError as failed:
        return [failed.error.message, failed.attempt_count, await do("Go on", "work", "on")]
    return []


async def handler_that_fails(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    tell: Any = ctx.rpc.tell_badly
    try:
        await do("Broken", "broken", "x", on_error=tell)
    except StepFailedError as failed:
        return [failed.error.message, failed.attempt_count, await do("Go on", "work", "on")]
    return []


async def handled_in_a_gather(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    tell: Any = ctx.rpc.tell
    ends = await asyncio.gather(
        do("Broken 1", "broken", "1", on_error=tell),
        do("Fine", "work", "fine"),
        do("Broken 2", "broken", "2", on_error=tell),
        return_exceptions=True,
    )
    return [end if isinstance(end, str) else type(end).__name__ for end in ends]


async def sleeps(ctx: Wf) -> str:
    do: Any = ctx.workflow.do
    await do("Before", "work", "before")
    await ctx.workflow.sleep("Nap", "1h")
    await ctx.workflow.sleep("Nap", "1d")
    await ctx.workflow.sleep_until("Until", datetime(2030, 2, 1, tzinfo=UTC) + timedelta(hours=1))
    return str(await do("After", "work", "after"))


async def drawn_values(ctx: Wf) -> str:
    do: Any = ctx.workflow.do
    drawn = [await ctx.workflow.now(), await ctx.workflow.uuid4(), await ctx.workflow.random()]
    await do("Step", "work", "x")
    await ctx.workflow.sleep("Nap", "1h")
    kinds = [type(each).__name__ for each in drawn]
    return " ".join(kinds)


async def cancel_inside(ctx: Wf) -> None:
    do: Any = ctx.workflow.do
    try:
        await do("Before", "work", "before")
        await ctx.workflow.cancel("on purpose")
    finally:
        await do("Clean up", "work", "clean up")
        await do("Tell", lambda: "told")


async def cancel_outside(ctx: Wf) -> None:
    do: Any = ctx.workflow.do

    async def napping() -> None:
        try:
            await ctx.workflow.sleep("Long nap", "30d")
        finally:
            await do("Clean up the nap", "work", "nap")

    try:
        await asyncio.gather(napping(), do("Attempt", "attempt", 9, retries=3, retry_delay="30d"))
    finally:
        await do("Clean up", "work", "clean up")


async def failing(ctx: Wf) -> None:
    do: Any = ctx.workflow.do
    await do("Before", "work", "before")
    await do("Broken", "broken", "why")


async def failing_by_itself(ctx: Wf) -> None:
    do: Any = ctx.workflow.do
    await do("Before", "work", "before")
    raise Refused("by the workflow")


async def failing_group(ctx: Wf) -> str:
    do: Any = ctx.workflow.do

    async def guarded() -> None:
        try:
            await ctx.workflow.sleep("Long nap", "1d")
        finally:
            await do("Clean up", "work", "clean up")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(guarded())
            group.create_task(do("Broken", "broken", "x"))
    except* StepFailedError:
        pass
    return str(await do("Last", "work", "last"))


async def unfit_result(ctx: Wf) -> str:
    do: Any = ctx.workflow.do
    try:
        await do("Unfit", "unfit", retries=2)
    except StepFailedError as failed:
        return f"{failed.error.type} after {failed.attempt_count}"
    return ""


async def what_a_step_knows(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    return [await do("Who", "identity"), await do("Who", "identity")]


# --- how they are compared ----------------------------------------------------------------------


class Case(NamedTuple):
    """A workflow and what it has to end as, in every mode."""

    body: Body
    status: str = "completed"
    output: Any = None
    drawn: bool = False  # values differ from run to run
    parallel: bool = False  # steps of different branches may end in any order
    timeout: str | None = None


CASES = [
    Case(sequence, output=["AB", ""]),
    Case(repeated_names, output=["A", "B", "A"]),
    Case(threads, output=[["1", "thread"], ["2", "thread"]]),
    Case(nested_models, output="equal"),
    Case(falsy_values, output="[None, False, 0, 0.0, '', [], {}, 0]"),
    Case(gather, output=list("ABCDE"), parallel=True),
    Case(
        task_group,
        output=["X1", "X2", "Y1", "Y2", "x", "y"],
        parallel=True,
    ),
    Case(first_completed, output="AFTER 1"),
    Case(retried_at_once, output=3),
    Case(retried_later, output=[3, 2]),
    Case(
        retries_used_up,
        output=["Shortage", "attempt 3 of 9", "E7", "Attempt", 3, True, False],
    ),
    Case(a_sibling_retries, output=[3, "SHORT"]),
    Case(not_to_be_retried, output=[["Refused", 1], ["TerminalError", 1]]),
    Case(step_timeout, output=["StepTimeoutError", 2]),
    Case(workflow_timeout, status="failed", timeout="1d"),
    Case(handled_failure, output=["x", 2, "ON"]),
    Case(handler_that_fails, output=["x", 1, "ON"]),
    Case(
        handled_in_a_gather,
        output=["StepFailedError", "FINE", "StepFailedError"],
        parallel=True,
    ),
    Case(sleeps, output="AFTER"),
    Case(drawn_values, output="datetime UUID float", drawn=True),
    Case(cancel_inside, status="cancelled"),
    Case(cancel_outside, status="cancelled", parallel=True),
    Case(failing, status="failed"),
    Case(failing_by_itself, status="failed"),
    Case(failing_group, output="LAST"),
    Case(unfit_result, output="PayloadError after 1"),
    Case(what_a_step_knows),
]


class Shown(NamedTuple):
    """What must not depend on the mode."""

    status: str
    output: Any
    error: Any
    reason: tuple[Any, ...]
    steps: list[tuple[Any, ...]]
    history: list[tuple[Any, ...]]


def plain(text: str | None) -> Any:
    """A stored value without the trace of where it was raised."""
    value = None if text is None else json.loads(text)
    if isinstance(value, dict):
        value.pop("traceback", None)
    return value


async def shown(lab: Lab, run: Run[Any], case: Case) -> Shown:
    loaded = await lab._store.load_steps(str(run))
    assert loaded is not None
    record = loaded.run
    steps: list[tuple[Any, ...]] = []
    for step in sorted(loaded.steps, key=lambda each: each.key):
        values = () if case.drawn else (step.result, step.input, step.digest)
        order = None if case.parallel else step.delivery
        counts = (step.attempt, step.failures, step.lost)
        kind = (step.key, step.position, step.kind, step.target)
        steps.append((*kind, step.status, *counts, *values, plain(step.error), order))
    entries = [
        (entry.kind, entry.step, entry.attempt, plain(entry.data))
        for entry in await lab._store.load_history(str(run))
    ]
    if case.parallel:
        entries.sort(key=str)
    reason = (record.cancel_kind, record.cancel_reason, record.suspend_reason, record.deliveries)
    output = None if record.output is None else json.loads(record.output)
    return Shown(record.status, output, plain(record.error), reason, steps, entries)


def lab_of(
    toy: Toy, url: str, queue_service: QueueService, sticky: int, *, auto_advance: bool = True
) -> Lab:
    return WorkflowLab(
        toy.app,
        store=url,
        queue_service=queue_service,
        options=World(url, sticky).options(),
        auto_advance=auto_advance,
    )


def deployed(case: Case, dispatch: Literal["queue"] | None) -> Toy:
    toy = Toy()
    functions(toy, dispatch)
    toy.workflow(name="body", timeout=case.timeout)(case.body)
    return toy


async def until_ended(lab: Lab, run: Run[Any], case: Case) -> None:
    """Let the run end, with a cancel request or with time where it needs them."""
    if case.body is cancel_outside:
        while "Attempt" not in await attempts_of(lab, run):
            await asyncio.sleep(0)
        await run.cancel("enough")
    while await run.status() == "running":
        if case.body is step_timeout and await attempts_of(lab, run, "running"):
            due = lab.clock.next_alarm_us()
            if due is not None:
                lab.clock.move_to(due)
        await asyncio.sleep(0)
    await lab.settle()


async def attempts_of(lab: Lab, run: Run[Any], status: str | None = None) -> dict[str, int]:
    """The steps that have failed before, or have this status, and their attempts."""
    loaded = await lab._store.load_steps(str(run))
    assert loaded is not None
    return {
        step.key: step.attempt
        for step in loaded.steps
        if (step.failures if status is None else step.status == status)
    }


async def executed(
    case: Case,
    url: str,
    queue_service: QueueService = "none",
    dispatch: Literal["queue"] | None = None,
    *,
    sticky: int,
) -> tuple[Shown, set[str]]:
    """What the workflow ends as in this mode, and the steps that crossed a queue."""
    toy = deployed(case, dispatch)
    lab = lab_of(toy, url, queue_service, sticky)
    lab._auto = case.body is not cancel_outside
    async with lab, asyncio.timeout(20):
        run = await toy.start("body", run_id="r", wait=False)
        await until_ended(lab, run, case)
        loaded = await lab._store.load_steps("r")
        assert loaded is not None
        crossed = {step.key for step in loaded.steps if step.queue is not None}
        return await shown(lab, run, case), crossed


@pytest.fixture(params=["memory", "sqlite", "redis"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two new stores of a kind."""
    if request.param == "memory":
        return "memory://", "memory://"
    if request.param == "redis":
        servers: RedisServers = request.getfixturevalue("redis_servers")
        databases = servers.databases()
        return databases.fresh_url(), databases.fresh_url()
    first, second = tmp_path / "inline.db", tmp_path / "remote.db"
    return f"sqlite:///{first}?durability=process", f"sqlite:///{second}?durability=process"


@pytest.mark.parametrize("sticky", [1000, 0], ids=["kept", "evicted"])
@pytest.mark.parametrize("dispatch", [None, "queue"], ids=["local", "queue"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.body.__name__)
async def test_a_workflow_does_the_same_through_queues(
    case: Case, dispatch: Literal["queue"] | None, sticky: int, urls: tuple[str, str]
) -> None:
    inline, none = await executed(case, urls[0], sticky=sticky)
    remote, crossed = await executed(case, urls[1], "store", dispatch, sticky=sticky)

    assert remote == inline
    assert inline.status == case.status
    assert none == set()
    rpc = {step[0] for step in remote.steps if step[2] in ("rpc", "on_error")}
    if dispatch == "queue":
        assert crossed == rpc
    if case.output is not None:
        assert inline.output == case.output


# --- a process that dies, code that changed, queues side by side ----------------------------------

MODES: list[tuple[QueueService, Literal["queue"] | None]] = [
    ("none", None),
    ("store", None),
    ("store", "queue"),
]
CRASHES = [
    (sequence, "First"),
    (sequence, "Second"),
    (sequence, "Fourth"),
    (repeated_names, "Same#1"),
    (retried_later, "Attempt"),
    (task_group, "Leaf x1"),
    (handled_failure, "Broken (on_error)"),
    (cancel_inside, "Clean up"),
    (failing, "Broken"),
    (failing_group, "Clean up"),
]


def outcome(seen: Shown) -> tuple[Any, ...]:
    """What a crash must not change: all but how often something was tried, and in which order
    branches that were executed again ended."""
    steps = [(*step[:5], *step[8:-1]) for step in seen.steps]
    return seen.status, seen.output, seen.error, seen.reason, steps


@pytest.mark.parametrize("sticky", [1000, 0], ids=["kept", "evicted"])
@pytest.mark.parametrize(("queue_service", "dispatch"), MODES, ids=["inline", "local", "queue"])
@pytest.mark.parametrize(
    ("body", "after"), CRASHES, ids=[f"{body.__name__}-{after}" for body, after in CRASHES]
)
async def test_a_crash_after_a_step_changes_no_outcome_in_any_mode(
    body: Body,
    after: str,
    queue_service: QueueService,
    dispatch: Literal["queue"] | None,
    sticky: int,
    urls: tuple[str, str],
) -> None:
    case = next(each for each in CASES if each.body is body)
    expected, _ = await executed(case, urls[0], sticky=sticky)
    toy = deployed(case, dispatch)
    async with lab_of(toy, urls[1], queue_service, sticky) as lab, asyncio.timeout(20):
        lab.crash_after(after)
        starting = asyncio.ensure_future(toy.start("body", run_id="r", wait=False))
        while not lab._crashed:
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        recorded = await ended_steps(lab)
        assert after in recorded
        keys = recorded - {name.partition("#")[0] for name in recorded if "#" in name}
        executions = {key: lab.executions(key) for key in keys}
        await lab.recover()
        run = toy.app.get_run("body", "r")
        await until_ended(lab, run, case)
        assert outcome(await shown(lab, run, case)) == outcome(expected)
        for key, count in executions.items():
            assert lab.executions(key) == count, f"{key} was recorded and executed again"


async def ended_steps(lab: Lab) -> set[str]:
    loaded = await lab._store.load_steps("r")
    assert loaded is not None
    return {step.key for step in loaded.steps if step.status in ("succeeded", "failed")}


async def other_function(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    await do("Before", "threaded", "before")
    return []


async def another_input(ctx: Wf) -> list[Any]:
    do: Any = ctx.workflow.do
    return [await do("Same", "work", name) for name in ("a", "x", "a")]


@pytest.mark.parametrize("sticky", [1000, 0], ids=["kept", "evicted"])
@pytest.mark.parametrize(
    ("before", "after", "last"),
    [(sleeps, other_function, "Before"), (repeated_names, another_input, "Same#1")],
    ids=["function", "input"],
)
async def test_a_divergence_is_told_alike_in_every_mode(
    before: Body, after: Body, last: str, sticky: int, tmp_path: Path
) -> None:
    found: list[tuple[Any, ...]] = []
    for queue_service, dispatch in MODES:
        toy = deployed(Case(before), dispatch)
        lab = lab_of(toy, "memory://", queue_service, sticky, auto_advance=False)
        async with lab, asyncio.timeout(20):
            lab.crash_after(last)
            starting = asyncio.ensure_future(toy.start("body", run_id="r", wait=False))
            while not lab._crashed:
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
            toy.replace(after, name="body")
            await lab.recover()
            run = toy.app.get_run("body", "r")
            while await run.status() == "running":
                await asyncio.sleep(0)
            seen = await shown(lab, run, Case(after))
            ended = [step for step in seen.steps if step[4] == "succeeded"]
            found.append((seen.status, seen.error, seen.reason, ended))
    assert found[0][0] == "suspended"
    assert found[0][2][2] == "nondeterminism"
    assert found[1] == found[2] == found[0]


@pytest.mark.parametrize("sticky", [1000, 0], ids=["kept", "evicted"])
async def test_steps_on_several_queues_and_in_place_go_together(
    sticky: int, urls: tuple[str, str]
) -> None:
    async def mixed(ctx: Wf) -> list[Any]:
        do: Any = ctx.workflow.do
        found = [
            await do("In place", "work", "a"),
            await do("Queued", "work", "b", dispatch="queue"),
            await do("Reports", "report", "c"),
            await do("Elsewhere", "work", "d", queue="reports"),
            await do("Inline", lambda: "e"),
        ]
        queued = do("y", "work", "y", dispatch="queue")
        found += await asyncio.gather(do("x", "work", "x"), queued, do("z", "report", "z"))
        return found

    case = Case(mixed, parallel=True)
    inline, none = await executed(case, urls[0], sticky=sticky)
    remote, crossed = await executed(case, urls[1], "store", sticky=sticky)
    assert remote == inline
    assert inline.output == ["A", "B", "c", "D", "e", "X", "Y", "z"]
    assert none == set()
    assert crossed >= {"Queued", "Reports", "Elsewhere", "y", "z"}
    assert "Inline" not in crossed
