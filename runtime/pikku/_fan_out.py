"""One step for each of many items, and the first of several awaitables: on the run's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from pikku.errors import DeclarationError, FanOutError, StepFailedError

# What one run is measured to carry without its steps becoming dearer.
MAX_ITEMS = 10_000

Take = Callable[[str, Any], "asyncio.Future[Any]"]


async def fan_out(
    step: str,
    take: Take,
    items: object,
    max_concurrency: int | None,
    tolerated_failures: int | None,
) -> list[Any]:
    """The results of `take(name, item)` for each item, in the order of the items.

    Raises:
        FanOutError: *items* is no list, or has too many.
        DeclarationError: an option is no number, or too small.
        StepFailedError: the failure that is one too many.
    """
    given = _checked_items(step, items)
    limit = _checked_number(step, "max_concurrency", max_concurrency, 1)
    tolerated = _checked_number(step, "tolerated_failures", tolerated_failures, 0)
    if not given:
        return []
    fan = _Fan(step, take, given, tolerated or 0, tells=tolerated is not None)
    fan.begin(len(given) if limit is None else min(limit, len(given)))
    await fan.over
    return fan.results


class _Fan:
    """The items under way. There is no task for each, only the futures of their steps."""

    def __init__(
        self, step: str, take: Take, items: Sequence[Any], tolerated: int, *, tells: bool
    ) -> None:
        self._step = step
        self._take = take
        self._items = items
        self._tolerated = tolerated
        self._tells = tells
        self._asked = 0
        self._left = len(items)
        self._failed = 0
        self.results: list[Any] = [None] * len(items)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, count: int) -> None:
        """Ask for the first *count* steps."""
        for _ in range(count):
            if self.over.done():
                return
            self._ask_next()

    def _ask_next(self) -> None:
        place = self._asked
        self._asked = place + 1
        future = self._take(f"{self._step}[{place}]", self._items[place])
        future.add_done_callback(partial(self._ended, place))

    def _ended(self, place: int, future: asyncio.Future[Any]) -> None:
        if self.over.done() or future.cancelled():
            return
        error = future.exception()
        if error is not None and not self._tolerates(place, error):
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

    def _tolerates(self, place: int, error: BaseException) -> bool:
        from pikku._workflow import StepFailure

        self._failed += 1
        if not self._tells or self._failed > self._tolerated:
            return False
        if not isinstance(error, StepFailedError):
            return False
        self.results[place] = StepFailure(
            self._items[place], error.error, error.step_name, error.attempt_count
        )
        return True


def _checked_items(step: str, items: object) -> Sequence[Any]:
    if isinstance(items, (str, bytes, bytearray, Mapping, Set)) or not isinstance(items, Iterable):
        raise FanOutError(f"map {step!r}: {type(items).__name__} is no list of items")
    given: list[Any] = []
    for item in items:
        if len(given) == MAX_ITEMS:
            count = f"{len(items):,}" if isinstance(items, Sequence) else f"more than {MAX_ITEMS:,}"
            raise FanOutError(f"map {step!r}: {count} items, and {MAX_ITEMS:,} are the limit")
        given.append(item)
    return given


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
        DeclarationError: with fewer than two.
    """
    if len(awaitables) < 2:
        for each in awaitables:
            getattr(each, "close", lambda: None)()
        raise DeclarationError("a race has two or more runners", hint="await the only one")
    loop = asyncio.get_running_loop()
    won: asyncio.Future[int] = loop.create_future()
    tasks = [asyncio.ensure_future(each) for each in awaitables]

    def ended(place: int, task: asyncio.Future[Any]) -> None:
        if not won.done():
            won.set_result(place)

    for place, task in enumerate(tasks):
        task.add_done_callback(partial(ended, place))
    try:
        winner = await won
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return winner, tasks[winner].result()
