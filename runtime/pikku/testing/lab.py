"""Workflows under test: a store of one's choice, a virtual clock, crashes on demand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from pikku._app import App, OpenApp
from pikku._durations import Duration, duration_us
from pikku._run import Run
from pikku._settings import EngineOptions, Work
from pikku.errors import UnknownFunctionError
from pikku.testing.clock import FakeClock

S = TypeVar("S")

# A body that is not over after this long (in real time) waits for something that `advance` may
# bring about, such as its own timeout.
BODIES_AT_MOST_SECONDS = 0.1


class Fakes:
    """Stand-ins for functions: `lab.fakes.charge = lambda data: Receipt("p1")`.

    A stand-in gets the function's input, without the context, and may be a coroutine function. What
    it returns must fit the function's declared result.
    """

    def __init__(self, app: App[Any]) -> None:
        object.__setattr__(self, "_app", app)
        object.__setattr__(self, "by_name", {})

    def __setattr__(self, attribute: str, fake: Callable[..., Any]) -> None:
        app: App[Any] = object.__getattribute__(self, "_app")
        name = app._rpc.names.get(attribute, attribute)
        if name not in app.registry.functions:
            raise UnknownFunctionError(name, app.registry.functions)
        by_name: dict[str, Callable[..., Any]] = object.__getattribute__(self, "by_name")
        by_name[name] = fake

    if TYPE_CHECKING:

        def __getattr__(self, attribute: str) -> Any: ...


class WorkflowLab(Generic[S]):
    """The app, open for one test.

        async with WorkflowLab(app, services=Services(FakeDb())) as lab:
            run = await workflows.onboarding.start(data)
            assert await run.result() == {"success": True}

    Args:
        app: the generated package's `app`.
        services: what `ctx.services` is; default: what the app's factory makes.
        store: the URL of a store; the default is a new one in memory for each lab.
        queue_service: `"store"` has the lab's runs cross its queues, as they do between workers.
        auto_advance: let the clock jump to the next timer whenever nothing else is to do, so that
            `sleep("3d")` takes no time. Without it, time passes by `advance` only.
        options: how the engine works.
        schedules: have the ticks of schedules come as time passes. There is always a next one, so
            that the clock does not jump by itself then: time passes by `advance` only. Without it,
            `tick` has a schedule's task done.

    Attributes:
        clock: what the lab's runs take their time from.
        fakes: stand-ins for functions.
        store_url: the URL of the store.
        queue_service: `"store"` where runs cross queues.
    """

    def __init__(
        self,
        app: App[S],
        *,
        services: S | None = None,
        store: str = "memory://",
        queue_service: Literal["none", "store"] = "none",
        auto_advance: bool = True,
        options: EngineOptions | None = None,
        schedules: bool = False,
    ) -> None:
        self.app = app
        self.clock = FakeClock()
        self.fakes = Fakes(app)
        self.store_url = store
        self.queue_service: Literal["none", "store"] = queue_service
        self._services: Any = services
        self._auto = auto_advance and not schedules
        self._schedules = schedules
        self._options = options
        self._stack = AsyncExitStack()
        self._executions: Counter[str] = Counter()
        self._crash_after: set[str] = set()
        self._crashed = False
        self._before: OpenApp | None = None
        self._rested = asyncio.Event()

    async def __aenter__(self) -> Self:
        from pikku.stores import make_store

        self._store = make_store(self.store_url, base=Path.cwd(), clock=self.clock)
        await self._store.open()
        self._stack.push_async_callback(self._store.close)
        self._before = self.app._open
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.app._open = self._before
        if not self._crashed:
            await self._opened.engine.close(drain=False)
        await self._opened.closing.aclose()
        await self._stack.aclose()
        if error is None and self._crash_after:
            never = ", ".join(repr(step) for step in sorted(self._crash_after))
            raise AssertionError(f"crash_after({never}): no such step was recorded in this lab")

    async def _open(self) -> None:
        from pikku._session import FOREVER_SECONDS

        options = self._options or EngineOptions(lease_seconds=FOREVER_SECONDS)
        self._crashed = False
        opened = await self.app._opened(
            {"queue_service": self.queue_service},
            self._services,
            options,
            store=self._store,
            on_quiet=self._on_quiet,
            work=Work(),
            prepare=self._prepare,
            schedules=self._schedules,
        )
        self._services = opened.services

    def _prepare(self, opened: OpenApp) -> None:
        self._opened = opened
        engine = opened.engine
        engine.on_recorded = self._on_recorded
        engine.on_execute = self._on_execute
        engine.fakes = object.__getattribute__(self.fakes, "by_name")

    # --- what a test does -----------------------------------------------------------------------

    async def advance(self, duration: Duration) -> None:
        """Let that much time pass, timer by timer, and let the app settle after each.

        A step's body that still runs then is let alone, so that time can reach its timeout.
        """
        until = self.clock.now_us() + duration_us(duration)
        await self._settle(BODIES_AT_MOST_SECONDS)
        while (due := self.clock.next_alarm_us()) is not None and due <= until:
            self.clock.move_to(due)
            await self._settle(BODIES_AT_MOST_SECONDS)
        self.clock.move_to(until)
        await self._settle(BODIES_AT_MOST_SECONDS)

    async def tick(self, name: str) -> Run[Any]:
        """Do what the schedule *name* does when it is due, at the time that the clock shows, and
        wait until nothing is under way; the run of that tick.

        Raises:
            UnknownScheduleError: no such schedule, with the nearest names.
        """
        run = await self.app.run_schedule(name)
        await self.settle()
        return run

    async def settle(self) -> None:
        """Wait until nothing is under way: every run has ended, or waits for time or a word."""
        await self._settle(None)

    async def _settle(self, at_most_seconds: float | None) -> None:
        while not self._crashed:
            if self._opened.engine.is_quiet:
                self._on_quiet(None)  # time may be due to pass that nobody has been told of yet
                if self._crashed or self._opened.engine.is_quiet:
                    return
            self._rested.clear()
            try:
                async with asyncio.timeout(at_most_seconds):
                    await self._rested.wait()
            except TimeoutError:
                if self._opened.engine.executes_at_most:
                    return

    def crash_after(self, step: str) -> None:
        """Let the process die, so to say, when the outcome of *step* (a name, or a key such as
        `name#1`) has been recorded: whatever is in memory is lost, the store is not.

        It is a step with a body, or an undoing: a sleep, a wait or a child ends in the store. A
        crash that never came is an AssertionError when the lab is left."""
        self._crash_after.add(step)

    async def crash(self) -> None:
        """Let the process die here and now."""
        self._crash()

    async def recover(self) -> None:
        """What the next process does: go on with the runs that were left behind.

        Where the process has not died yet, it goes on until it does, or has nothing left to do but
        to wait.
        """
        await self._settle(BODIES_AT_MOST_SECONDS)
        dead = self._opened.engine
        if not self._crashed:
            self._crash()
        self._store.beat(dead.session_id, -1)
        await self._open()
        await self.settle()

    def executions(self, step: str) -> int:
        """How often a body was begun for steps of this name (or key), over all processes."""
        return self._executions[step]

    def context(self, *, session: Any = None) -> Any:
        """A `ctx` for calling a plain function: `await charge.func(lab.context(), data)`; with
        *session*, on somebody's behalf."""
        from pikku._callers import Contexts

        return Contexts(self.app, self._opened).direct(None, "", session)

    # --- what the engine tells ------------------------------------------------------------------

    def _on_execute(self, key: str, name: str) -> None:
        self._executions[key] += 1
        if name != key:
            self._executions[name] += 1

    def _on_recorded(self, key: str, name: str) -> None:
        for step in (key, name):
            if step in self._crash_after:
                self._crash_after.discard(step)
                self._crash()
                return

    def _crash(self) -> None:
        self._crashed = True
        self._opened.engine.kill()
        self._rested.set()

    def _on_quiet(self, next_due_us: int | None) -> None:
        if self._crashed:
            return
        engine = self._opened.engine
        while self._auto and (due := self.clock.next_alarm_us()) is not None:
            self.clock.move_to(due)
            if self._crashed or not engine.is_quiet:
                return
        self._rested.set()
