"""Where a step is executed: `queue`, `dispatch` and `executor`, as declared and as `do` says."""

import asyncio
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Toy, Wf, World

from pikku import WorkflowWire
from pikku._bodies import Plan
from pikku._recorder import RunRecorder
from pikku.errors import DeclarationError
from pikku.testing import FakeClock

PLACE = "pikku_routes:report"
NAME_HINT = "(use 1 to 64 of the characters A-Z a-z 0-9 _ . -)"


async def report(ctx: Ctx) -> str:
    return "done"


report.__module__ = "pikku_routes"


class Asked:
    """In place of a replay: keeps the plans of the steps that it is asked for."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def ask(self, kind: str, step: str, target: str, plan: Plan, *rest: Any) -> Any:
        self.plans.append(plan)
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


async def routed(toy: Toy, target: Any, **options: Any) -> tuple[str | None, bool]:
    """The queue of a step, and whether it has to cross one."""
    asked: Any = Asked()
    recorder = RunRecorder(toy.registry, FakeClock(), asked)
    await WorkflowWire(recorder).do("Report", target, **options)
    [plan] = asked.plans
    return plan.queue, plan.crosses


# --- as declared --------------------------------------------------------------------------------


def test_a_function_says_where_it_is_executed(toy: Toy) -> None:
    plain = toy.func(report)
    assert (plain.queue, plain.dispatch, plain.executor) == (None, None, None)

    made = toy.replace_func(report, name="report", queue="reports", executor="process")
    assert (made.queue, made.dispatch, made.executor) == ("reports", None, "process")

    made = toy.replace_func(report, name="report", dispatch="queue")
    assert (made.queue, made.dispatch, made.executor) == (None, "queue", None)


@pytest.mark.parametrize("queue", ["a", "A-1_b.c", "x" * 64, "orchestrators"])
def test_a_queue_is_named_with_letters_digits_and_three_marks(toy: Toy, queue: str) -> None:
    assert toy.func(queue=queue)(report).queue == queue


@pytest.mark.parametrize("queue", ["", "x" * 65, "a b", "a:b", "{a}", "ä", "a\n", 1, b"a", True])
def test_no_other_name_is_a_queue(toy: Toy, queue: Any) -> None:
    with pytest.raises(DeclarationError) as caught:
        toy.func(queue=queue)(report)

    assert str(caught.value) == f"PKR204 {PLACE}: {queue!r} is no name for a queue {NAME_HINT}"


@pytest.mark.parametrize("queue", ["orchestrator", "inline"])
def test_the_names_of_pikku_itself_are_no_queues(toy: Toy, queue: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        toy.func(queue=queue)(report)

    assert str(caught.value) == (
        f"PKR204 {PLACE}: the queue name {queue!r} is taken by pikku itself "
        "(give the queue another name)"
    )


@pytest.mark.parametrize("dispatch", ["any", "", True, ["queue"]])
def test_dispatch_is_one_of_two(toy: Toy, dispatch: Any) -> None:
    with pytest.raises(DeclarationError) as caught:
        toy.func(dispatch=dispatch)(report)

    assert str(caught.value) == (
        f"PKR204 {PLACE}: dispatch is {dispatch!r} "
        '(write dispatch="queue" or dispatch="local", or leave it out)'
    )


@pytest.mark.parametrize("executor", ["thread", "", True, ["process"]])
def test_executor_is_process_or_nothing(toy: Toy, executor: Any) -> None:
    with pytest.raises(DeclarationError) as caught:
        toy.func(executor=executor)(report)

    assert str(caught.value) == (
        f'PKR204 {PLACE}: executor is {executor!r} (write executor="process", or leave it out)'
    )


def test_a_queue_of_its_own_and_local_in_one_place_contradict(toy: Toy) -> None:
    with pytest.raises(DeclarationError) as caught:
        toy.func(queue="reports", dispatch="local")(report)

    assert str(caught.value) == (
        f"PKR204 {PLACE}: queue='reports' and dispatch=\"local\" contradict each other "
        "(a queue of its own is always crossed: leave one of them out)"
    )


# --- as `do` says -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        ({}, {}, (None, False)),
        ({"dispatch": "local"}, {}, (None, False)),
        ({"dispatch": "queue"}, {}, (None, True)),
        ({"queue": "a"}, {}, ("a", True)),
        ({"queue": "a", "dispatch": "queue"}, {}, ("a", True)),
        ({}, {"dispatch": "queue"}, (None, True)),
        ({}, {"queue": "b"}, ("b", True)),
        ({"dispatch": "queue"}, {"dispatch": "local"}, (None, False)),
        ({"dispatch": "local"}, {"dispatch": "queue"}, (None, True)),
        ({"dispatch": "local"}, {"queue": "b"}, ("b", True)),
        ({"queue": "a"}, {"queue": "b"}, ("b", True)),
        ({"queue": "a"}, {"dispatch": "queue"}, ("a", True)),
        ({"queue": "a"}, {"dispatch": "local"}, ("a", True)),
    ],
)
async def test_do_goes_before_the_decorator_and_a_queue_of_its_own_is_crossed(
    toy: Toy, declared: dict[str, Any], given: dict[str, Any], expected: tuple[str | None, bool]
) -> None:
    toy.func(**declared)(report)
    toy.func(name="neighbour", queue="b")(report)

    assert await routed(toy, "report", **given) == expected


async def test_an_inline_step_is_on_no_queue(toy: Toy) -> None:
    assert await routed(toy, lambda: None) == (None, False)


@pytest.mark.parametrize("option", [{"queue": "reports"}, {"dispatch": "queue"}])
async def test_an_inline_step_cannot_be_sent_elsewhere(
    toy: Toy, memory: World, option: dict[str, Any]
) -> None:
    @toy.workflow
    async def inline(ctx: Wf) -> str:
        with pytest.raises(DeclarationError) as caught:
            await ctx.workflow.do("Greet", lambda: "hello", **option)
        return str(caught.value)

    async with memory.lab(toy):
        assert await (await toy.start("inline")).result() == (
            "PKR204 step 'Greet': an inline step runs where its workflow does "
            "(leave out queue and dispatch, or make it a function of the app)"
        )


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "a b"},
        {"queue": "inline"},
        {"dispatch": "any"},
        {"queue": "a", "dispatch": "local"},
    ],
)
async def test_what_cannot_be_is_refused_by_do_before_anything_is_recorded(
    toy: Toy, memory: World, options: dict[str, Any]
) -> None:
    made = toy.func(report)

    @toy.workflow
    async def reporting(ctx: Wf) -> str:
        with pytest.raises(DeclarationError, match="step 'Report': "):
            await ctx.workflow.do("Report", made, **options)
        return "refused"

    async with memory.lab(toy) as lab:
        assert await (await toy.start("reporting")).result() == "refused"
        assert lab.executions("Report") == 0


async def test_without_a_queue_service_a_step_with_a_queue_is_executed_in_place(
    toy: Toy, world: World
) -> None:
    made = toy.func(queue="reports", dispatch="queue")(report)
    toy.func(name="neighbour", queue="others")(report)

    @toy.workflow
    async def reporting(ctx: Wf) -> str:
        return str(await ctx.workflow.do("Report", made, queue="others"))

    async with world.lab(toy) as lab:
        assert await (await toy.start("reporting")).result() == "done"
        assert lab.executions("Report") == 1


async def test_a_queue_to_which_no_worker_listens_is_refused(toy: Toy, memory: World) -> None:
    made = toy.func(queue="reports")(report)

    @toy.workflow
    async def reporting(ctx: Wf) -> str:
        with pytest.raises(DeclarationError) as caught:
            await ctx.workflow.do("Report", made, queue="report")
        return str(caught.value)

    async with memory.lab(toy) as lab:
        said = await (await toy.start("reporting")).result()
        assert "no function has the queue 'report'" in said and "reports" in said
        assert lab.executions("Report") == 0
