"""`GET /runs/{id}/events`: what happens in a run, as server-sent events.

Nothing is pushed while a run moves but its end. So one that moves is looked up, by a read of its
record alone: soon after something has happened, less often while nothing does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Hashable
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pikku._history import HistoryEvent, history_of
from pikku._http.documents import event_document
from pikku._http.incoming import Incoming
from pikku._http.limits import Slot
from pikku._records import LoadedRun, RunRecord

if TYPE_CHECKING:
    from pikku._engine import Engine

KEEP_ALIVE_SECONDS = 15
QUICK_SECONDS = 0.1
SLOW_SECONDS = 2.0
SLOWER_BY = 1.5


async def follow(incoming: Incoming) -> Response:
    """The history so far, and what follows, until the run ends or is suspended."""
    slot = incoming.stream()
    try:
        run = await incoming.run()
        told = _number(incoming.request.headers.get("last-event-id", ""))
        stream = events_of(incoming.opened.engine, run.run_id, told, incoming.closing)
        headers = {"x-content-type-options": "nosniff"}
        response = _Stream(stream, ping=KEEP_ALIVE_SECONDS, sep="\n", headers=headers)
    except BaseException:
        slot.release()
        raise
    response.slot = slot
    return response


class _Stream(EventSourceResponse):
    """A stream that takes a place until it ends, however that is."""

    slot: Slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.slot.release()


def _number(given: str) -> int:
    return int(given) if given.isdecimal() and len(given) < 10 else 0


async def events_of(
    engine: Engine, run_id: str, told: int, closing: asyncio.Event
) -> AsyncGenerator[ServerSentEvent, None]:
    """Each event of the run's history after the first *told*, then `end` with its status."""
    seen: Counter[Hashable] | None = None
    ended = asyncio.ensure_future(engine.results.result(run_id, None))
    stopped = asyncio.ensure_future(closing.wait())
    try:
        while True:
            loaded = await engine.store.load_steps(run_id)
            if loaded is None:
                return
            history = history_of(loaded.run, loaded.steps, await engine.store.load_history(run_id))
            if seen is None:
                seen = Counter(_identity(event) for event in history[:told])
            for event in _new(history, seen):
                told += 1
                data = to_json(event_document(event)).decode()
                yield ServerSentEvent(data, event=event.kind, id=str(told))
            if loaded.run.status != "running":
                yield ServerSentEvent(to_json({"status": loaded.run.status}).decode(), event="end")
                return
            # What has ended and runs again, such as by a retry, is looked up only.
            sooner: set[asyncio.Future[Any]] = {stopped}
            if not ended.done():
                sooner.add(ended)
            await _until_it_moves(engine, loaded, sooner)
            if stopped.done() or (ended.done() and ended.exception() is not None):
                return  # the server, or the app, is about to be closed
    finally:
        for each in (ended, stopped):
            each.cancel()
        await asyncio.gather(ended, stopped, return_exceptions=True)


def _new(history: list[HistoryEvent], seen: Counter[Hashable]) -> list[HistoryEvent]:
    """The events that are not among those *seen*, which they are from now on."""
    left, new = seen.copy(), list[HistoryEvent]()
    for event in history:
        identity = _identity(event)
        if left[identity] > 0:
            left[identity] -= 1
        else:
            new.append(event)
            seen[identity] += 1
    return new


def _identity(event: HistoryEvent) -> Hashable:
    return event.at, event.kind, event.step, event.attempt


async def _until_it_moves(
    engine: Engine, loaded: LoadedRun, sooner: set[asyncio.Future[Any]]
) -> None:
    """Return once the run has moved, or one of *sooner* is done."""
    before, pause = _moment(loaded.run), QUICK_SECONDS
    while True:
        done, _ = await asyncio.wait(sooner, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return
        run = await engine.store.load_run(loaded.run.run_id)
        if run is None or _moment(run) != before:
            return
        pause = min(pause * SLOWER_BY, SLOW_SECONDS)


def _moment(run: RunRecord) -> Hashable:
    return run.turn, run.deliveries, run.updated_us, run.status, run.cancel_us
