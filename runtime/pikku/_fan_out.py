"""One step for each of many items, and the first of several awaitables: on the run's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Sized
from functools import partial
from inspect import isawaitable, iscoroutine
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

from pikku._ids import check_step_name
from pikku.errors import DeclarationError, FanOutError, StepFailedError

if TYPE_CHECKING:
    from pikku._workflow import Given

# What one run is measured to carry without its steps becoming dearer.
MAX_ITEMS = 10_000

Take = Callable[[str, Any], "asyncio.Future[Any]"]


async def fan_out(
    step: str,
    take: Take,
    items: object,
    max_concurrency: int | None,
    tolerated_failures: int | None,
    given: Callable[[], Given] | None = None,
) -> list[Any]:
    """The results of `take(name, item)` for each item, in the order of the items. *given* is what
    was recorded of the step that was taken last.

    Raises:
        FanOutError: *items* is no list, or has too many.
        DeclarationError: an option is no number, or too small.
        StepFailedError: the failure that is one too many.
    """
    check_step_name(step)
    some = _checked_items(step, items)
    limit = _checked_number(step, "max_concurrency", max_concurrency, 1)
    tolerated = _checked_number(step, "tolerated_failures", tolerated_failures, 0)
    if not some:
        return []
    fan = _Fan(step, take, some, tolerated or 0, given, tells=tolerated is not None)
    try:
        fan.begin(len(some) if limit is None else min(limit, len(some)))
        await fan.over
    except BaseException:
        fan.give_up()
        raise
    finally:
        fan.over.cancel()
    return fan.results


class _Fan:
    """The items under way. There is no task for each, only the futures of their steps."""

    def __init__(
        self,
        step: str,
        take: Take,
        items: Sequence[Any],
        tolerated: int,
        given: Callable[[], Given] | None,
        *,
        tells: bool,
    ) -> None:
        self._step = step
        self._take = take
        self._items = items
        self._tolerated = tolerated
        self._tells = tells
        self._given = given if tells else None
        self._recorded: dict[int, Given] = {}
        self._asked = 0
        self._left = len(items)
        self._failed = 0
        self._under_way: dict[int, asyncio.Future[Any]] = {}
        self.results: list[Any] = [None] * len(items)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, count: int) -> None:
        """Ask for the first *count* steps."""
        for _ in range(count):
            self._ask_next()

    def give_up(self) -> None:
        """Whoever waits for the items does so no longer."""
        for future in list(self._under_way.values()):
            future.cancel()

    def _ask_next(self) -> None:
        place = self._asked
        self._asked = place + 1
        future = self._take(f"{self._step}[{place}]", self._items[place])
        self._under_way[place] = future
        if self._given is not None:
            self._recorded[place] = self._given()
        future.add_done_callback(partial(self._ended, place))

    def _ended(self, place: int, future: asyncio.Future[Any]) -> None:
        del self._under_way[place]
        recorded = self._recorded.pop(place, None)
        if future.cancelled():
            return
        error = future.exception()
        if self.over.done():
            return
        if error is not None and not self._tolerates(place, error, recorded):
            self.over.set_exception(error)
            return
        if error is None:
            self.results[place] = future.result()
        self._left -= 1
        if not self._left:
            self.over.set_result(None)
        elif self._asked < len(self._items):
            try:
                self._ask_next()
            except Exception as refused:
                self.over.set_exception(refused)

    def _tolerates(self, place: int, error: BaseException, recorded: Given | None) -> bool:
        from pikku._workflow import StepFailure

        self._failed += 1
        if not self._tells or self._failed > self._tolerated:
            return False
        if not isinstance(error, StepFailedError):
            return False
        self.results[place] = StepFailure(
            self._items[place] if recorded is None else recorded.input(),
            error.error,
            error.step_name,
            error.attempt_count,
        )
        return True


def _checked_items(step: str, items: object) -> Sequence[Any]:
    kind = type(items).__name__
    if isinstance(items, (set, frozenset)):
        raise FanOutError(f"map {step!r}: a {kind} has no order", hint="give sorted(…) of it")
    if not _has_order(items):
        raise FanOutError(f"map {step!r}: {kind} is no list of items")
    given = list(islice(items, MAX_ITEMS + 1))
    if len(given) > MAX_ITEMS:
        count = f"{len(items):,}" if isinstance(items, Sized) else f"more than {MAX_ITEMS:,}"
        raise FanOutError(f"map {step!r}: {count} items, and {MAX_ITEMS:,} are the limit")
    return given


def _has_order(items: object) -> TypeGuard[Iterable[Any]]:
    single = isinstance(items, (str, bytes, bytearray, Mapping))
    return isinstance(items, Iterable) and not single


def _checked_number(step: str, name: str, value: object, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DeclarationError(
            f"map {step!r}: {name} is {value!r}", hint=f"give a number from {least} on"
        )
    return value


async def first_of(awaitables: Sequence[Awaitable[Any]]) -> tuple[int, Any]:
    """The place and the value of the awaitable that ends first; the others are cancelled.

    Raises:
        DeclarationError: with fewer than two, or what cannot be awaited.
    """
    strangers = [each for each in awaitables if not isawaitable(each)]
    if strangers or len(awaitables) < 2:
        for each in awaitables:
            if iscoroutine(each):
                each.close()
        what = f"{strangers[0]!r} cannot be awaited" if strangers else "it has two or more runners"
        raise DeclarationError(
            f"a race of {len(awaitables)}: {what}",
            hint="give steps that are not awaited yet: race(ctx.workflow.do(…), …)",
        )
    won: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    runners = [asyncio.ensure_future(each) for each in awaitables]

    def ended(place: int, runner: asyncio.Future[Any]) -> None:
        if not won.done():
            won.set_result(place)

    for place, runner in enumerate(runners):
        runner.add_done_callback(partial(ended, place))
    try:
        winner = await won
    except asyncio.CancelledError:
        await _call_off(runners)
        raise
    await _call_off(runners)
    return winner, runners[winner].result()


async def _call_off(runners: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel who still runs, and wait until all have cleaned up."""
    for runner in runners:
        runner.cancel()
    await asyncio.gather(*runners, return_exceptions=True)
