"""What the errors say, word for word. Changing a line here is changing what users read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Toy, Wf, World

from pikku.errors import PikkuError
from pikku.stores import make_store

GOLDEN = {
    "unknown workflow": "PKR202 unknown workflow 'onbaording' (did you mean 'onboarding'?)",
    "unknown function": "PKR201 unknown function 'sned_email' (did you mean 'send_email'?)",
    "invalid input": (
        "PKR308 invalid input for workflow 'onboarding': input.email: field required; "
        "input.age: input should be a valid integer, unable to parse string as an integer, "
        "not 'old'"
    ),
    "missing input": "PKR308 invalid input for workflow 'onboarding': input: is missing",
    "unknown run": (
        "PKR305 no run 'nobody' in memory:// (`pikku runs list` shows what the store holds)"
    ),
    "another input": (
        "PKR306 run 'r' of 'onboarding' exists with another input: they differ at input.email "
        "(use another run_id, or the same workflow and input to get the existing run)"
    ),
    "another workflow": (
        "PKR306 run 'r' exists: it is one of 'onboarding', and this start asks for 'failing' "
        "(use another run_id, or the same workflow and input to get the existing run)"
    ),
    "bad run id": (
        "PKR317 run_id 'a b' has a character that ids cannot have "
        "(use 1 to 200 printable characters without spaces, braces and |)"
    ),
    "failed run": "PKR303 run f of 'failing' failed: ValueError: no luck",
    "cancelled run": "PKR304 run c of 'sleeping' was cancelled: changed my mind",
    "result timeout": (
        "PKR309 run t did not end within 0.001 s (wait again, or follow it with `pikku runs show`)"
    ),
    "app not open": (
        "PKR104 the app toy is not open (write `async with app:` around it, or "
        "`with open_app() as shop:` in a plain script)"
    ),
    "bare number": (
        "PKR310 5000 is no duration (write '500ms', '5s', '5min', '2h', '1d', '1w', '1h30min', "
        "'PT5M' or a timedelta)"
    ),
    "negative duration": (
        "PKR310 '-5s' is no duration (write '500ms', '5s', '5min', '2h', '1d', '1w', '1h30min', "
        "'PT5M' or a timedelta)"
    ),
    "step name": (
        "PKR311 a step's name must not be empty, and this one is '' "
        '(give each step a short description of what it does, such as "Charge card")'
    ),
    "step failed": "PKR302 step 'Fail' failed after 1 attempt: ValueError: no luck",
    "tuple": (
        "PKR302 step 'Make' failed after 1 attempt: PayloadError: step 'Make': value: is a tuple, "
        "and its type is not declared (declare its type: annotate the function's return, or pass "
        "returns=T to `do`)"
    ),
    "asyncio sleep": (
        "PKR312 a timer of asyncio (sleep, timeout, wait_for) cannot be replayed in a workflow "
        'body (await ctx.workflow.sleep("Why it waits", "5min"), or timeout= on the step; both '
        "survive a restart)"
    ),
    "thread": (
        "PKR312 a thread cannot be replayed in a workflow body (do it in a step: "
        'await ctx.workflow.do("What it does", function, data))'
    ),
    "direct call": (
        "PKR312 a direct call of 'send_email' in a workflow body would repeat on every replay "
        '(make it a step: await ctx.workflow.do("What it does", ctx.rpc.send_email, data))'
    ),
    "store url": (
        "PKR101 unknown store URL: 'mysql://x' "
        "(expected sqlite:///path/to/runs.db, postgresql://host/database, "
        "redis://host:6379/0 or memory://)"
    ),
    "store option": (
        "PKR101 unknown option 'durabilty' in: 'sqlite:///a.db?durabilty=disk' (durability)"
    ),
}


def deploy(toy: Toy) -> dict[str, Callable[[], Awaitable[Any]]]:
    from typing_extensions import TypedDict

    class Onboarding(TypedDict):
        email: str
        age: int

    @toy.func
    async def send_email(ctx: Ctx, data: str) -> None: ...

    @toy.workflow
    async def onboarding(ctx: Wf, data: Onboarding) -> None: ...

    @toy.workflow
    async def failing(ctx: Wf) -> None:
        raise ValueError("no luck")

    @toy.workflow
    async def sleeping(ctx: Wf) -> None:
        await ctx.workflow.sleep("Wait", "1d")

    def bad() -> None:
        raise ValueError("no luck")

    async def said(body: Callable[[Wf], Awaitable[Any]]) -> None:
        caught: list[PikkuError] = []

        async def guarded(ctx: Wf) -> None:
            try:
                await body(ctx)
            except PikkuError as error:
                caught.append(error)

        toy.registry.workflows.pop("guarded", None)
        toy.workflow(guarded)
        await toy.start("guarded")
        raise caught[0]

    async def cancelled() -> None:
        run = await toy.start("sleeping", run_id="c")
        await run.cancel("changed my mind")
        await run.result()

    async def too_slow() -> None:
        await (await toy.start("sleeping", run_id="t")).result(timeout="1ms")

    async def conflict(name: str, *data: Any) -> None:
        await toy.start("onboarding", {"email": "a", "age": 1}, run_id="r")
        await toy.start(name, *data, run_id="r")

    async def failed() -> None:
        await (await toy.start("failing", run_id="f")).result()

    async def store(url: str) -> None:
        make_store(url)

    return {
        "unknown workflow": lambda: toy.start("onbaording", {}),
        "unknown function": lambda: toy.app.invoke("sned_email", "x"),
        "invalid input": lambda: toy.start("onboarding", {"age": "old"}),
        "missing input": lambda: toy.start("onboarding"),
        "unknown run": lambda: toy.app.get_run("failing", "nobody").result(),
        "another input": lambda: conflict("onboarding", {"email": "b", "age": 1}),
        "another workflow": lambda: conflict("failing"),
        "bad run id": lambda: toy.start("failing", run_id="a b"),
        "failed run": failed,
        "cancelled run": cancelled,
        "result timeout": too_slow,
        "bare number": lambda: said(lambda ctx: ctx.workflow.sleep("W", 5000)),  # type: ignore[arg-type]
        "negative duration": lambda: said(lambda ctx: ctx.workflow.sleep("W", "-5s")),
        "step name": lambda: said(lambda ctx: ctx.workflow.do("", bad)),
        "step failed": lambda: said(lambda ctx: ctx.workflow.do("Fail", bad)),
        "tuple": lambda: said(lambda ctx: ctx.workflow.do("Make", lambda: (1, 2))),
        "asyncio sleep": lambda: said(lambda ctx: asyncio.sleep(5)),
        "thread": lambda: said(lambda ctx: asyncio.to_thread(bad)),
        "direct call": lambda: said(lambda ctx: ctx.rpc.send_email("x")),
        "store url": lambda: store("mysql://x"),
        "store option": lambda: store("sqlite:///a.db?durabilty=disk"),
    }


@pytest.mark.parametrize("case", list(GOLDEN))
async def test_the_words_of(case: str, toy: Toy, memory: World) -> None:
    calls = deploy(toy)
    if case == "app not open":
        with pytest.raises(PikkuError) as caught:
            await toy.start("failing")
    else:
        async with memory.lab(toy, auto_advance=False):
            with pytest.raises(PikkuError) as caught:
                await calls[case]()
    assert str(caught.value) == GOLDEN[case]
