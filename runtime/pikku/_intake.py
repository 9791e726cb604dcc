"""What a process takes on: how much from which queue, and when there is reason to ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import NoReturn

from pikku._functions import Registry
from pikku._records import Reply
from pikku._settings import Work
from pikku.errors import StoreError
from pikku.stores.base import DEFAULT_QUEUE, INLINE_QUEUE, JOBS, MAIL, ORCHESTRATOR_QUEUE, Store
from pikku.stores.lanes import NO_LIMITS

log = logging.getLogger("pikku")

CLAIM_AT_ONCE = 50
# How many jobs a process executes at a time that is no worker and leaves its runs to none.
JOBS_AT_ONCE = 10
LISTEN_SECONDS = 5.0
LISTEN_AGAIN_SECONDS = 1.0
# With so many operations in a call, looking into the inbox costs next to nothing.
MANY = 8


class Intake:
    """Decides what each call to the store asks for.

    A store that pushes says when something has come: a queue that was found empty is not asked
    again before that. Every other store is asked each time.

    Args:
        work: what this process takes on as a worker, if it is one.
        moving: how many runs move in this process.
        executing: how many steps it executes, and whether another could begin at once.
        inline: whether it executes its runs itself, and with them the jobs of its queues.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        work: Work | None,
        *,
        moving: Callable[[], int],
        executing: Callable[[], tuple[int, bool]],
        inline: bool = False,
    ) -> None:
        self._store = store
        self._work = work
        self._moving = moving
        self._executing = executing
        self._queues = _queues_of(registry, work, inline=inline)
        # What limits hold back is asked for with every call: nobody says when they let it go.
        self._limited = {
            JOBS + wired.queue
            for wired in registry.queue_workers.values()
            if wired.config.limits != NO_LIMITS
        }.intersection(self._queues)
        self._orchestrates = work is not None and (
            work.queues is None or ORCHESTRATOR_QUEUE in work.queues
        )
        self._hosts_inline = work is None or work.queues is None
        # By name, as far as the store has told: what may hold something, and of what it said so.
        self._filled: set[str] = set()
        self._told: set[str] = {MAIL}
        self._asked: Mapping[str, int] = {}
        self._first = 0
        self._listener: asyncio.Task[NoReturn] | None = None

    def wanted(self, ops: int) -> Mapping[str, int]:
        """What to ask for in a call of so many operations."""
        want: dict[str, int]
        if not self._store.pushes:
            want = self.room() | {MAIL: 1}
        else:
            filled, told = self._filled, self._told
            want = {}
            limited = self._limited
            if filled or told or limited:
                want = {
                    queue: count
                    for queue, count in self.room().items()
                    if (count and (queue in filled or queue in limited)) or queue in told
                }
            if MAIL in told or not ops or ops >= MANY:
                want[MAIL] = 1
        self._asked = want
        return want

    def learn(self, reply: Reply) -> None:
        """Take note of what was fetched and what is left."""
        if not self._store.pushes:
            self._filled = set(reply.more)
            return
        self._told.difference_update(self._asked)
        for queue, count in self._asked.items():
            if count:
                self._filled.discard(queue)
        self._filled.update(reply.more)

    def serves(self, queue: str) -> bool:
        """Whether this process executes the jobs of *queue*."""
        return JOBS + queue in self._queues

    def fills(self, queue: str) -> None:
        """The next commit puts a job on *queue*."""
        self._filled.add(JOBS + queue)

    def look_everywhere(self) -> None:
        """What is sent next may fill any queue."""
        self._filled.update(self.room())

    def look_again(self) -> None:
        """Nothing is known any more, as at the beginning."""
        self._told.add(MAIL)
        self.look_everywhere()

    @property
    def worth_a_call(self) -> bool:
        """Whether there is something to fetch, and room for it."""
        worth = self.knows_of_work
        if worth and not self._store.pushes:
            self._filled = set()
        return worth

    @property
    def knows_of_work(self) -> bool:
        """Whether a queue is known to hold something for which there is room."""
        if not self._filled:
            return False
        room = self.room()
        return any(room.get(queue) for queue in self._filled)

    def room(self) -> dict[str, int]:
        """How much more this process can take on from each queue."""
        room = {INLINE_QUEUE: CLAIM_AT_ONCE} if self._hosts_inline else {}
        work = self._work
        if work is not None and self._orchestrates:
            room[ORCHESTRATOR_QUEUE] = max(0, min(CLAIM_AT_ONCE, work.concurrency - self._moving()))
        if not self._queues:
            return room
        executing, open_to_all = self._executing()
        most = JOBS_AT_ONCE if work is None else work.concurrency
        free = max(0, most - executing) if open_to_all else 0
        count = len(self._queues)
        share, rest = divmod(free, count)
        self._first = (self._first + 1) % count
        for place, queue in enumerate(self._queues):
            room[queue] = share + ((place - self._first) % count < rest)
        return room

    # --- words from the store -------------------------------------------------------------------

    def listen(self, session: Callable[[], str], poke: Callable[[], None]) -> None:
        """Have *poke* called whenever the store says that there is something to fetch."""
        if self._store.pushes:
            listening = self._listen(session, poke)
            self._listener = asyncio.get_running_loop().create_task(
                listening, name="pikku-listener"
            )

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None

    async def _listen(self, session: Callable[[], str], poke: Callable[[], None]) -> NoReturn:
        while True:
            try:
                queues = tuple(self.room())
                name = await self._store.wait(session(), queues, LISTEN_SECONDS)
            except StoreError as error:
                log.warning("waiting for work: %s", error)
                await asyncio.sleep(LISTEN_AGAIN_SECONDS)
                continue
            # A word that was lost with the one it was said to costs no more than this wait.
            self._told.update((name,) if name is not None else (*queues, MAIL))
            self._filled.update(self._told)
            poke()


def _queues_of(registry: Registry, work: Work | None, *, inline: bool) -> tuple[str, ...]:
    """The queues whose jobs this process executes."""
    if work is None:
        return tuple(JOBS + name for name in sorted(registry.queue_workers)) if inline else ()
    wanted = work.queues
    if wanted is None:
        wanted = (DEFAULT_QUEUE, *sorted(registry.queues))
    return tuple(JOBS + name for name in wanted if name != ORCHESTRATOR_QUEUE)
