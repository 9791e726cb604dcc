"""Middleware and permissions stand around a function wherever it is reached."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from tests.runtime.kit import Ctx, Toy, Wf, World

from pikku import Call, Next, PermissionDeniedError, PublicError, RpcRef, RunFailedError
from pikku.errors import DeclarationError, RpcDepthError

MEMORY = World("memory://")
Way = Literal["rpc", "step", "remote step", "synchronous rpc", "synchronous step"]
WAYS: tuple[Way, ...] = ("rpc", "step", "remote step", "synchronous rpc", "synchronous step")


@dataclass(frozen=True)
class Clerk:
    user_id: str
    may: bool = True


Reach = Callable[..., Awaitable[Any]]


def noting(said: list[str], word: str) -> Any:
    async def middleware(ctx: Ctx, call: Call, next: Next) -> Any:
        said.append(f"> {word} {call.function}")
        try:
            return await next(call.data)
        finally:
            said.append(f"< {word}")

    return middleware


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """A way to a function."""
    way: Way = request.param
    return way


async def reach(toy: Toy, way: Way, said: list[str], **options: Any) -> Any:
    """What the function `double` makes of 3, reached in that way."""
    if way.startswith("synchronous"):

        @toy.func(name="double", **options)
        def double(ctx: Ctx, number: int) -> int:
            said.append(f"double {number} in {threading.current_thread() is not MAIN}")
            return 2 * number
    else:

        @toy.func(name="double", **options)
        async def double_async(ctx: Ctx, number: int) -> int:
            said.append(f"double {number}")
            return 2 * number

    @toy.workflow
    async def doubling(ctx: Wf) -> int:
        result = await ctx.workflow.do("Double it", RpcRef[int, int]("double"), 3)
        return result

    lab = MEMORY.lab(toy)
    if way == "remote step":
        lab.queue_service = "store"
    async with lab:
        if way.endswith("rpc"):
            return await toy.app.invoke("double", 3)
        run = await toy.start("doubling", wait=False)
        return await run.result(timeout="5s")


MAIN = threading.main_thread()


async def test_middleware_stands_around_in_order_wherever_a_function_is_reached(
    toy: Toy, way: Way
) -> None:
    said: list[str] = []
    toy.registry.wire_middleware(noting(said, "tagged"), tags=["money", "other"])
    toy.registry.wire_middleware(noting(said, "first"), noting(said, "second"))
    toy.registry.wire_middleware(noting(said, "elsewhere"), tags=["other"])

    found = await reach(toy, way, said, tags=["money"], middleware=[noting(said, "own")])

    assert found == 6
    assert said == [
        *("> first double", "> second double", "> tagged double", "> own double"),
        "double 3" + (" in True" if way.startswith("sync") else ""),
        *("< own", "< tagged", "< second", "< first"),
    ]


async def test_middleware_may_change_what_goes_in_and_what_comes_out(toy: Toy, way: Way) -> None:
    async def one_more(ctx: Ctx, call: Call, next: Next) -> Any:
        return 100 + await next(call.data + 1)

    assert await reach(toy, way, [], middleware=[one_more]) == 108


async def test_middleware_may_answer_itself(toy: Toy, way: Way) -> None:
    async def cached(ctx: Ctx, call: Call, next: Next) -> Any:
        return 7

    said: list[str] = []

    assert await reach(toy, way, said, middleware=[cached]) == 7
    assert not said


async def test_middleware_may_try_again(toy: Toy, way: Way) -> None:
    async def twice(ctx: Ctx, call: Call, next: Next) -> Any:
        return await next(call.data) + await next(call.data * 10)

    assert await reach(toy, way, [], middleware=[twice]) == 66


async def test_what_middleware_returns_has_to_fit_the_function(toy: Toy, way: Way) -> None:
    async def wrong(ctx: Ctx, call: Call, next: Next) -> Any:
        return "seven"

    with pytest.raises(Exception, match="does not have its declared type"):
        await reach(toy, way, [], middleware=[wrong])


async def test_a_permission_is_asked_before_the_function_and_after_the_middleware(
    toy: Toy, way: Way
) -> None:
    said: list[str] = []

    async def yes(ctx: Ctx, number: int) -> None:
        said.append(f"may {number}?")

    async def also(ctx: Ctx, number: int) -> bool:
        said.append("and?")
        return True

    await reach(toy, way, said, middleware=[noting(said, "m")], permissions=[yes, also])

    assert said[:3] == ["> m double", "may 3?", "and?"]
    assert said[3].startswith("double 3")


async def test_a_permission_that_says_no_keeps_the_function_from_being_called(
    toy: Toy, way: Way
) -> None:
    said: list[str] = []

    async def not_today(ctx: Ctx, number: int) -> bool:
        return number > 3

    with pytest.raises((PermissionDeniedError, RunFailedError), match="not_today") as caught:
        await reach(toy, way, said, permissions=[not_today], retries=0)

    assert not said
    assert "does not permit a call of function 'double'" in str(caught.value)


async def test_a_step_that_is_not_permitted_is_not_tried_again(toy: Toy) -> None:
    asked: list[int] = []

    async def never(ctx: Ctx, number: int) -> bool:
        asked.append(number)
        return False

    with pytest.raises(RunFailedError):
        await reach(toy, "step", [], permissions=[never], retries=5)

    assert asked == [3]


async def test_permissions_are_not_asked_again_by_a_replay(toy: Toy) -> None:
    asked: list[int] = []

    async def may(ctx: Ctx, number: int) -> None:
        asked.append(number)

    @toy.func(permissions=[may])
    async def double(ctx: Ctx, number: int) -> int:
        return 2 * number

    @toy.workflow
    async def long(ctx: Wf) -> int:
        result = await ctx.workflow.do("Double it", RpcRef[int, int]("double"), 3)
        await ctx.workflow.sleep("Rest", "1h")
        return result

    async with World("memory://", sticky=0).lab(toy) as lab:
        lab.crash_after("Double it")
        run = await toy.start("long", wait=False)
        await lab.recover()

        assert await run.result(timeout="5s") == 6
    assert asked == [3]


async def test_a_run_has_no_session_and_a_call_hands_its_own_on(toy: Toy) -> None:
    seen: list[Any] = []

    async def is_clerk(ctx: Ctx, data: None) -> bool:
        seen.append(ctx.session)
        return ctx.session is None or ctx.session.may

    @toy.func(permissions=[is_clerk])
    async def inner(ctx: Ctx) -> None:
        pass

    @toy.func
    async def outer(ctx: Ctx) -> None:
        await ctx.rpc.inner()
        await ctx.rpc.invoke("inner")

    @toy.workflow
    async def flow(ctx: Wf) -> None:
        await ctx.workflow.do("Do it", RpcRef[None, None]("outer"))

    ann, bob = Clerk("ann"), Clerk("bob", may=False)
    async with MEMORY.lab(toy):
        await toy.app.invoke("outer", session=ann)
        await toy.start("flow")
        with pytest.raises(PermissionDeniedError):
            await toy.app.invoke("outer", session=bob)

    assert seen == [ann, ann, None, None, bob]


async def test_a_run_that_a_function_starts_is_started_by_who_has_called_it(toy: Toy) -> None:
    @toy.workflow
    async def flow(ctx: Wf) -> None:
        pass

    @toy.func
    async def start(ctx: Ctx, by: str | None) -> list[str]:
        one = await ctx.rpc.start_workflow("flow", started_by=by)
        return [one.run_id]

    async with MEMORY.lab(toy):
        (own,) = await toy.app.invoke("start", None, session=Clerk("ann"))
        (other,) = await toy.app.invoke("start", "batch", session=Clerk("ann"))
        (nobody,) = await toy.app.invoke("start", None)
        who = [(await toy.app.get_run("flow", each).info()).started_by for each in (own, other)]

        assert who == ["ann", "batch"]
        assert (await toy.app.get_run("flow", nobody).info()).started_by is None


async def test_functions_that_call_one_another_without_end_are_told_so(toy: Toy) -> None:
    @toy.func
    async def ping(ctx: Ctx) -> None:
        await ctx.rpc.pong()

    @toy.func
    async def pong(ctx: Ctx) -> None:
        await ctx.rpc.ping()

    async with MEMORY.lab(toy):
        with pytest.raises(RpcDepthError) as caught:
            await toy.app.invoke("ping")

    assert str(caught.value) == (
        "PKR601 50 calls inside one another: ping → pong → ping → pong → … → pong → ping → pong → "
        "ping (look for the function that calls itself, or start a workflow instead)"
    )


async def test_a_synchronous_function_raises_through_its_middleware(toy: Toy) -> None:
    caught: list[BaseException] = []

    async def watching(ctx: Ctx, call: Call, next: Next) -> Any:
        try:
            return await next(call.data)
        except Exception as error:
            caught.append(error)
            raise

    @toy.func(middleware=[watching])
    def fail(ctx: Ctx) -> None:
        raise PublicError("out of paper")

    @toy.func(middleware=[watching])
    def leave(ctx: Ctx) -> None:
        raise SystemExit(3)

    @toy.workflow
    async def failing(ctx: Wf, name: str) -> None:
        await ctx.workflow.do("Do it", RpcRef[None, None](name))

    async with MEMORY.lab(toy):
        with pytest.raises(RunFailedError, match="out of paper") as failed:
            await (await toy.start("failing", "fail")).result()
        with pytest.raises(RunFailedError, match="SystemExit"):
            await (await toy.start("failing", "leave")).result()

    assert failed.value.caused_by(Exception)
    assert [type(each).__name__ for each in caught] == ["PublicError", "RuntimeError"]


async def test_a_timeout_reaches_middleware_that_waits(toy: Toy) -> None:
    ended = asyncio.Event()

    async def slow(ctx: Ctx, call: Call, next: Next) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @toy.func(middleware=[slow], timeout="1ms")
    async def work(ctx: Ctx) -> None: ...

    @toy.workflow
    async def flow(ctx: Wf) -> None:
        await ctx.workflow.do("Work", work)

    async with toy.app.open(store="memory://"):
        run = await toy.start("flow")
        with pytest.raises(RunFailedError, match="StepTimeoutError"):
            await run.result(timeout="5s")

    assert ended.is_set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"middleware": print}, "middleware is <built-in function print>"),
        ({"middleware": [print]}, "middleware has <built-in function print>, which is no"),
        ({"permissions": "admin"}, "permissions is 'admin'"),
        ({"permissions": [lambda ctx, data: True]}, "which is no `async def`"),
    ],
)
def test_what_cannot_stand_around_a_function_is_refused(
    toy: Toy, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DeclarationError, match=words):

        @toy.func(**options)
        async def work(ctx: Ctx) -> None: ...


@pytest.mark.parametrize("tags", [[], "money", [""], [3]])
def test_tags_of_middleware_are_some(toy: Toy, tags: Any) -> None:
    with pytest.raises(DeclarationError, match="leave it out for every function"):
        toy.registry.wire_middleware(noting([], "m"), tags=tags)


async def test_middleware_that_is_wired_after_a_call_stands_around_the_next_one(toy: Toy) -> None:
    said: list[str] = []

    @toy.func
    async def ping(ctx: Ctx) -> str:
        return "pong"

    async with MEMORY.lab(toy):
        for word in ("first", "second"):
            toy.registry.wire_middleware(noting(said, word))
            await toy.app.invoke("ping")

    assert [each for each in said if each.startswith(">")] == [
        *("> first ping", "> first ping", "> second ping"),
    ]
