"""What stands around a function, wherever it is reached: middleware, then permissions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast

from pikku.errors import DeclarationError, PermissionDeniedError, RpcDepthError

if TYPE_CHECKING:
    import asyncio

    from pikku._functions import Func

# How deep functions may call one another; well below the depth at which Python itself gives up.
MAX_CALL_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Call:
    """What a middleware is told of the call that it stands around.

    Attributes:
        function: the name of the function.
        data: the input, decoded; None where the function takes none.
        tags: the tags of the function.
    """

    function: str
    data: Any
    tags: tuple[str, ...] = ()


class Next(Protocol):
    """What a middleware awaits to go on: the next middleware, in the end the function."""

    async def __call__(self, data: Any, /) -> Any:
        """What the function returned, given *data*. Middleware may await it more than once, or not
        at all; what it returns itself is the result of the call."""
        ...


Middleware: TypeAlias = Callable[[Any, Call, Next], Coroutine[Any, Any, Any]]
Permission: TypeAlias = Callable[[Any, Any], Coroutine[Any, Any, bool | None]]


class Guards(NamedTuple):
    """The middleware around a function, outermost first, and who is asked before it."""

    middleware: tuple[Middleware, ...] = ()
    permissions: tuple[Permission, ...] = ()


class WiredMiddleware(NamedTuple):
    """Middleware around every function, or around those that have one of the tags."""

    middleware: Middleware
    tags: frozenset[str]


def guarded(
    guards: Guards, call: Call, ctx: Any, body: Callable[[Any], Awaitable[Any]]
) -> Coroutine[Any, Any, Any]:
    """What *body* makes of the call's data, with *guards* around it.

    Raises:
        PermissionDeniedError: if one of the permissions says no.
        Exception: whatever the guards or the body raise.
    """

    async def permitted(data: Any) -> Any:
        for may in guards.permissions:
            verdict = await may(ctx, data)
            if verdict is not None and not verdict:
                raise PermissionDeniedError(
                    f"{_name(may)} does not permit a call of function {call.function!r}"
                )
        return await body(data)

    def around(middleware: Middleware, inner: Next) -> Next:
        async def step(data: Any) -> Any:
            return await middleware(ctx, Call(call.function, data, call.tags), inner)

        return step

    whole: Next = permitted
    for each in reversed(guards.middleware):
        whole = around(each, whole)
    return whole(call.data)


def called(
    guards: Guards,
    func: Func[Any, Any],
    data: Any,
    ctx: Any,
    body: Callable[[Any], Awaitable[Any]],
) -> Awaitable[Any]:
    """What *body* makes of *data*, with what stands around *func*, if anything does."""
    if not any(guards):
        return body(data)
    return guarded(guards, Call(func.name, data, func.tags), ctx, body)


def called_in_thread(
    guards: Guards,
    func: Func[Any, Any],
    data: Any,
    ctx: Any,
    body: Callable[[Any], Any],
    loop: asyncio.AbstractEventLoop,
) -> Any:
    """The same for a *body* that is synchronous, in its thread; guards run on *loop*."""
    if not any(guards):
        return body(data)
    lent = LentThread(loop, body)
    return lent.run(guarded(guards, Call(func.name, data, func.tags), ctx, lent.body))


class LentThread:
    """The thread of a synchronous function, which waits while coroutines stand around the call.

    Args:
        loop: where the coroutines run.
        call: the function, given its input.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[Any], Any]) -> None:
        self._loop = loop
        self._call = call
        self._asked: SimpleQueue[tuple[Any, asyncio.Future[_Outcome]] | None] = SimpleQueue()
        self._fatal: BaseException | None = None

    def run(self, whole: Coroutine[Any, Any, Any]) -> Any:
        """What *whole* returns, which awaits `body`; called in the thread."""
        import asyncio

        future = asyncio.run_coroutine_threadsafe(whole, self._loop)
        future.add_done_callback(lambda _: self._asked.put(None))
        while (asked := self._asked.get()) is not None:
            data, answer = asked
            outcome: _Outcome = (None, None)
            try:
                outcome = (self._call(data), None)
            except BaseException as error:
                outcome = (None, error)
            self._loop.call_soon_threadsafe(_settle, answer, outcome)
        if self._fatal is not None:
            raise self._fatal
        return future.result()

    async def body(self, data: Any) -> Any:
        """What the function returns, called in the thread; awaited on the loop."""
        answer: asyncio.Future[_Outcome] = self._loop.create_future()
        self._asked.put((data, answer))
        value, error = await answer
        if error is not None and not isinstance(error, Exception):
            self._fatal = error  # on a loop, it would end the loop
            raise RuntimeError(f"the function raised {type(error).__name__}")
        if error is not None:
            raise error
        return value


_Outcome: TypeAlias = tuple[Any, BaseException | None]


def _settle(answer: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if not answer.done():
        answer.set_result(outcome)


def checked_guards(owner: str, option: str, given: object) -> tuple[Any, ...]:
    """*given* as a tuple of coroutine functions.

    Raises:
        DeclarationError: if it is something else, naming *owner* and *option*.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise DeclarationError(
            f"{owner}: {option} is {given!r}", hint=f"write {option}=[{_EXAMPLES[option]}]"
        )
    items = cast("Sequence[object]", given)
    for each in items:
        if not _is_coroutine_function(each):
            raise DeclarationError(
                f"{owner}: {option} has {each!r}, which is no `async def`",
                hint=_SHAPES[option],
            )
    return tuple(items)


_EXAMPLES = {"middleware": "timed, audited", "permissions": "is_clerk"}
_SHAPES = {
    "middleware": "write `async def timed(ctx, call, next)`, which awaits `next(call.data)`",
    "permissions": "write `async def is_clerk(ctx, data) -> bool`",
}


def deeper(chain: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The chain of calls that leads to a call of the function *name*.

    Raises:
        RpcDepthError: if it is too long.
    """
    if len(chain) >= MAX_CALL_DEPTH:
        raise RpcDepthError((*chain, name))
    return (*chain, name)


def _is_coroutine_function(thing: object) -> bool:
    return inspect.iscoroutinefunction(thing) or inspect.iscoroutinefunction(
        getattr(thing, "__call__", None)  # noqa: B004  # of an object that is called
    )


def _name(thing: object) -> str:
    return getattr(thing, "__qualname__", type(thing).__qualname__)
