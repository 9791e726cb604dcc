"""A world of processes in one operating system process: one clock, one order of events, one seed.

Nothing here waits for real time, and nothing happens beside the world's own queue of events: which
process moves next, what is delivered when and what goes wrong are drawn from the world's generator,
so that a seed is a whole history.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
from asyncio import _set_running_loop
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context
from random import Random
from typing import Any, cast

import pytest

from pikku._clock import Alarm
from pikku.testing.clock import START_US

SECOND = 1_000_000
# A process that dies has its tasks thrown away in so many turns, or they are left lying.
LAST_TURNS = 50


class World:
    """Everything that is to come, in order.

    Attributes:
        draw: where every decision comes from.
        counts: what happened how often.
        trace: what happened, in order; None where nobody wants to know.
        wrong: what should not have happened.
    """

    def __init__(self, seed: int, *, traced: bool = False) -> None:
        self.draw = Random(seed)
        self.now_us = START_US
        self.clock = WorldClock(self)
        self.counts: Counter[str] = Counter()
        self.trace: list[str] | None = [] if traced else None
        self.wrong: list[str] = []
        self.processes: list[Process] = []
        self.current: Process | None = None
        self._events: list[tuple[int, int, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._sessions = itertools.count(1)

    @property
    def seconds(self) -> float:
        """How old the world is."""
        return (self.now_us - START_US) / SECOND

    def after(self, us: int, what: Callable[[], object]) -> None:
        """Have *what* happen that far from now; what falls on one instant happens in any order."""
        place = (self.now_us + us, self.draw.getrandbits(20), next(self._numbers))
        heapq.heappush(self._events, (*place, what))

    def note(self, who: object, what: str) -> None:
        """Write down that something happened."""
        if self.trace is not None:
            self.trace.append(f"{self.seconds:11.6f} {who}: {what}")

    def blame(self, what: str) -> None:
        """Write down that something should not have happened."""
        self.note("WRONG", what)
        self.wrong.append(f"at {self.seconds:.6f} s: {what}")

    def run(self, until: Callable[[], bool], at_most_us: int) -> bool:
        """Go on until *until* says so, or something is wrong, or time is over; whether it did."""
        end = self.now_us + at_most_us
        while not self.wrong:
            moving = [process for process in self.processes if process.can_move]
            if moving:
                (moving[0] if len(moving) == 1 else self.draw.choice(moving)).turn()
                continue
            if until():
                return True
            if not self._events or self._events[0][0] > end:
                return False
            at, _, _, what = heapq.heappop(self._events)
            self.now_us = max(self.now_us, at)
            what()
        return False

    # --- what the product takes from its machine ------------------------------------------------

    @contextmanager
    def as_machine(self) -> Generator[None]:
        """Have engines take clocks, ids and heartbeats from here."""
        hooks = sys.get_asyncgen_hooks()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pikku._session.pulse", self._pulse)
            patch.setattr("pikku._session.boot_seconds", lambda: self.seconds)
            patch.setattr("pikku._session.new_session_id", self._new_session)
            patch.setattr("pikku._committer.steady_seconds", lambda: self.seconds)
            patch.setattr("random.random", self.draw.random)
            try:
                yield
            finally:
                sys.set_asyncgen_hooks(*hooks)

    def _new_session(self) -> str:
        assert self.current is not None
        return f"{self.current}-{next(self._sessions)}"

    def _pulse(self, beats: Iterator[float], name: str) -> Callable[[], None]:
        """A heartbeat of the process that moves now; late now and then, as threads are."""
        process = self.current
        assert process is not None
        stopped = False

        def stop() -> None:
            nonlocal stopped
            stopped = True

        def beat() -> None:
            seconds = None if stopped else next(beats, None)
            if seconds is not None:
                stalled, process.stalled_us = process.stalled_us, 0
                late = self.draw.randrange(50_000)
                process.later(int(seconds * SECOND) + late + stalled, beat)

        beat()
        return stop


class WorldClock:
    """The one clock, as `pikku._clock.Clock`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now_us(self) -> int:
        return self._world.now_us

    def call_at(
        self, loop: asyncio.AbstractEventLoop, due_us: int, callback: Callable[[], None]
    ) -> Alarm:
        return loop.call_at((due_us - START_US) / SECOND, callback)


class Process:
    """A process: an event loop that moves by turns, stands still, or is dead.

    Attributes:
        frozen, dead: whether nothing happens in it, for a while or for ever.
        thawed_us: when it last went on after it had stood still.
        stalled_us: for how long the call kept its heartbeat waiting.
        cut_out, cut_in: whether what it sends, and what is sent to it, is lost.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.loop = ProcessLoop(self)
        self.frozen = False
        self.dead = False
        self.thawed_us = 0
        self.stalled_us = 0
        self.cut_out = self.cut_in = False
        self._missed: deque[Callable[[], object]] = deque()
        self._turns_left = 0
        self._fate: Callable[[], object] | None = None
        world.processes.append(self)

    def __str__(self) -> str:
        return self.name

    @property
    def can_move(self) -> bool:
        """Whether something is ready in it."""
        return bool(self.loop.ready) and not self.frozen

    def turn(self) -> None:
        """Let everything that is ready happen."""
        self.world.current = self
        try:
            self.loop.turn()
        finally:
            self.world.current = None
        self._turns_left -= 1
        if self._turns_left < 0 and self._fate is not None:
            self._meet(self._fate)

    def soon(self, fate: Callable[[], object]) -> None:
        """Have *fate* strike within a few turns, between any two of them, or else in a second."""
        self._fate, self._turns_left = fate, self.world.draw.randrange(6)
        self.world.after(SECOND, lambda: self._meet(fate))

    def _meet(self, fate: Callable[[], object]) -> None:
        if self._fate is fate:
            self._fate = None
            fate()

    def later(self, us: int, what: Callable[[], object]) -> None:
        """Have *what* happen in the process that far from now, if it lives then."""
        self.world.after(us, lambda: self.wake(what))

    def wake(self, what: Callable[[], object]) -> None:
        """Have *what* happen in the process, when it does not stand still."""
        if self.dead:
            return
        if self.frozen:
            self._missed.append(what)
            return
        self.world.current = self
        try:
            what()
        finally:
            self.world.current = None

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of the process."""
        task: asyncio.Task[Any] = self.loop.create_task(coro)
        return task

    def freeze(self) -> None:
        """Stand still: messages and timers wait."""
        self.frozen = True
        self.world.note(self, "stands still")

    def thaw(self) -> None:
        """Go on where it stood."""
        if self.frozen and not self.dead:
            self.frozen = False
            self.thawed_us = self.world.now_us
            self.world.note(self, "goes on")
            while self._missed and not self.dead:
                self.wake(self._missed.popleft())

    def die(self, kill: Callable[[], object]) -> None:
        """Be dead; *kill* throws away what is in memory."""
        if self.dead:
            return
        self.dead, self.frozen = True, False
        self.world.note(self, "is dead")
        self._missed.clear()
        self._fate = None
        self.world.current = self
        _set_running_loop(self.loop.for_asyncio)
        try:
            kill()
        finally:
            _set_running_loop(None)
        self.loop.throw_away()
        self.world.current = None
        self.world.processes.remove(self)


class ProcessLoop:
    """The event loop of a process: of `asyncio.AbstractEventLoop` what an engine and its steps use.

    Time is the world's. A thread is a call that takes a moment, and blocks nobody.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.ready: deque[asyncio.Handle] = deque()
        self.for_asyncio = cast(asyncio.AbstractEventLoop, self)

    def turn(self) -> None:
        """What is ready now, and not what that makes ready."""
        ready = self.ready
        _set_running_loop(self.for_asyncio)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            _set_running_loop(None)

    def throw_away(self) -> None:
        """Let go of every task."""
        for task in list(self._tasks):
            task.cancel()
        for _ in range(LAST_TURNS):
            if not self.ready:
                break
            self.turn()
        self.ready.clear()
        self._tasks.clear()

    # --- what asyncio calls ---------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self.for_asyncio, context)
        self.ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, **options)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self.for_asyncio, context)
        wait_us = max(0, round(when * SECOND) - (self._world.now_us - START_US))
        self._process.later(wait_us, lambda: self.ready.append(handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def time(self) -> float:
        return self._world.seconds

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.for_asyncio)

    def create_task(self, coro: Any, *, name: str | None = None, **options: Any) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self.for_asyncio, name=name, **options)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def run_in_executor(
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        answer = self.create_future()
        draw = self._world.draw

        def tell(made: Any, error: Exception | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(made)
            else:
                answer.set_exception(error)

        def call() -> None:
            made, error = None, None
            try:
                made = func(*args)
            except Exception as raised:
                error = raised
            stalled, self._process.stalled_us = self._process.stalled_us, 0
            self._process.later(draw.randrange(1, 3_000) + stalled, lambda: tell(made, error))

        self._process.later(draw.randrange(1, 3_000), call)
        return answer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._process.dead:
            self._world.blame(f"the loop of {self._process} was told: {context!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
