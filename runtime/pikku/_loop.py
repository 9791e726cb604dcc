"""The event loop of one run: only ready callbacks, futures and tasks; nothing that waits for time.

"No task can move" is then "the ready queue is empty", the same code takes the same way again, and a
run parks without anything being thrown into its function. What would wait for the outside (a
timer, a socket, a thread) is refused with the durable form.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import zlib
from asyncio import events, tasks
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, NoReturn, cast

from pikku.errors import WorkflowBodyError

log = logging.getLogger("pikku")

# A turn of a healthy function takes a handful of callbacks; one that never stops would take the
# host's loop with it.
MAX_CALLBACKS = 2_000_000


class RunTask(asyncio.Task[Any]):
    """A task whose hash is its place in the run, so that sets of tasks (as `TaskGroup` and
    `asyncio.wait` keep them) have the same order in every process."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, place: int, **options: Any) -> None:
        self._place = place
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._place


_IN_A_STEP = 'do it in a step: await ctx.workflow.do("What it does", function, data)'
_DURABLE = (
    'await ctx.workflow.sleep("Why it waits", "5min"), or timeout= on the step; '
    "both survive a restart"
)
_TIMERS = ("call_later", "call_at")
_THREADS = ("run_in_executor", "call_soon_threadsafe", "set_default_executor")


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **options: object) -> NoReturn:
        if name in _TIMERS:
            what, instead = "a timer of asyncio (sleep, timeout, wait_for)", _DURABLE
        elif name in _THREADS:
            what, instead = "a thread", _IN_A_STEP
        else:
            what, instead = f"what needs the event loop's {name}()", _IN_A_STEP
        raise WorkflowBodyError(f"{what} cannot be replayed in a workflow body", hint=instead)

    return refuse


class RunLoop:
    """Steps the tasks of one run until none can move.

    Has of `asyncio.AbstractEventLoop` what futures, tasks, `gather`, `TaskGroup` and `wait` use;
    the rest is refused by name.
    """

    def __init__(self, run_id: str) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._places = zlib.crc32(run_id.encode()) << 20
        self._tasks: list[RunTask] = []
        self._halted = False
        self.for_asyncio = cast(asyncio.AbstractEventLoop, self)

    # --- what the engine calls --------------------------------------------------------

    def run_until_idle(self) -> None:
        """Run what is ready, and what that makes ready, until nothing is.

        Raises:
            WorkflowBodyError: if that does not come to an end.
        """
        ready = self._ready
        if not ready or self._halted:
            return
        outer = _Outer(self)
        try:
            left = MAX_CALLBACKS
            while ready and not self._halted:
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()  # what every event loop calls
                left -= 1
                if not left:
                    self._halted = True
                    raise WorkflowBodyError(
                        "the workflow body is busy without ever waiting for a step",
                        hint="look for a loop whose only await is asyncio.sleep(0)",
                    )
        finally:
            outer.restore()

    def halt(self) -> None:
        """Stop the function where it stands, from outside: nothing of it runs any more."""
        self._halted = True
        self._ready.clear()

    def discard(self) -> None:
        """Close every task's coroutine, innermost last asked first. `finally` blocks run now;
        whatever they await is the caller's to refuse."""
        self._halted = True
        outer = _Outer(self)
        try:
            for task in reversed(self._tasks):
                if not task.done():
                    _close(task.get_coro())
        finally:
            self._ready.clear()
            self._tasks.clear()
            outer.restore()

    # --- what asyncio calls -------------------------------------------------------------

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self.for_asyncio, context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.for_asyncio)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **options: Any
    ) -> Any:
        place = self._places
        self._places = place + 1
        options.pop("eager_start", None)
        task = RunTask(
            coro, place=place, loop=self.for_asyncio, name=name or f"task-{place & 0xFFFFF}", context=context
        )
        self._tasks.append(task)
        if len(self._tasks) > 64 and len(self._tasks) % 64 == 0:
            self._tasks = [each for each in self._tasks if not each.done()]
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        log.debug("in a workflow body: %s", context.get("message"))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def time(self) -> float:
        return 0.0

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("_"):
            raise AttributeError(name)
        return _refusal(name)


class _Outer:
    """The host's loop, task and generator hooks, put aside for the length of a turn."""

    __slots__ = ("_hooks", "_loop", "_task")

    def __init__(self, inner: RunLoop) -> None:
        self._hooks = sys.get_asyncgen_hooks()
        self._loop = events._get_running_loop()
        self._task = None if self._loop is None else tasks.current_task(self._loop)
        if self._task is not None:
            tasks._leave_task(self._loop, self._task)  # type: ignore[arg-type]
        # Without hooks the host would adopt, and later close, a generator of the run's.
        sys.set_asyncgen_hooks(firstiter=None, finalizer=None)
        events._set_running_loop(inner.for_asyncio)

    def restore(self) -> None:
        events._set_running_loop(self._loop)
        sys.set_asyncgen_hooks(*self._hooks)
        if self._task is not None:
            tasks._enter_task(self._loop, self._task)  # type: ignore[arg-type]


def _close(coro: Any) -> None:
    # A `finally` that awaits makes `close` raise RuntimeError, with the coroutine at its next
    # await; another close goes on from there.
    for _ in range(100):
        try:
            coro.close()
        except RuntimeError:
            continue
        except BaseException as error:
            log.debug("a parked function raised while it was thrown away: %r", error)
        return
