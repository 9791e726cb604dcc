"""The event loop of one run: only ready callbacks, futures and tasks; nothing that waits for time.

"No task can move" is then "the ready queue is empty", the same code takes the same way again, and a
run parks without anything being thrown into its function. What would wait for the outside (a
timer, a socket, a thread) is refused with the durable form.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import weakref
import zlib
from asyncio import _get_running_loop, _set_running_loop, tasks
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, NoReturn, cast

from pikku.errors import WorkflowBodyError

log = logging.getLogger("pikku")

# A turn of a healthy function takes a handful of callbacks; one that never stops would take the
# host's loop with it.
MAX_CALLBACKS = 2_000_000


class Callback(list[Any]):
    """A call that waits for its turn: function, arguments, context. Of `asyncio.Handle` it has what
    asyncio uses."""

    __slots__ = ()

    def cancel(self) -> None:
        """Let nothing happen when its turn comes."""
        self[0], self[1] = _do_nothing, ()

    def cancelled(self) -> bool:
        """Whether it was called off."""
        return self[0] is _do_nothing


def _do_nothing() -> None:
    pass


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
        self._ready: deque[Callback] = deque()
        self._places = zlib.crc32(run_id.encode()) << 20
        self._tasks: list[RunTask] = []
        self._halted = False
        self.for_asyncio = cast(asyncio.AbstractEventLoop, self)

    # --- what the engine calls ------------------------------------------------------------------

    def run_until_idle(self) -> None:
        """Run what is ready, and what that makes ready, until nothing is.

        Raises:
            WorkflowBodyError: if that does not come to an end.
        """
        ready = self._ready
        if not ready or self._halted:
            return
        host = _get_running_loop()
        task = _leave_current_task(host) if _ONE_CURRENT_TASK else None
        _set_running_loop(self.for_asyncio)
        left = MAX_CALLBACKS
        try:
            while ready and not self._halted:
                function, args, context = ready.popleft()
                try:
                    context.run(function, *args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    log.debug("a callback in a workflow body raised %r", error)
                left -= 1
                if not left:
                    self._halted = True
                    raise WorkflowBodyError(
                        "the workflow body is busy without ever waiting for a step",
                        hint="look for a loop whose only await is asyncio.sleep(0)",
                    )
        finally:
            _set_running_loop(host)
            if task is not None and host is not None:
                tasks._enter_task(host, task)

    def halt(self) -> None:
        """Stop the function where it stands, from outside: nothing of it runs any more."""
        self._halted = True
        self._ready.clear()

    def discard(self) -> None:
        """Close every task's coroutine, innermost last asked first. `finally` blocks run now;
        whatever they await is the caller's to refuse."""
        self._halted = True
        host = _get_running_loop()
        current = _leave_current_task(host) if _ONE_CURRENT_TASK else None
        _set_running_loop(self.for_asyncio)
        try:
            for task in reversed(self._tasks):
                if not task.done():
                    _close(task.get_coro())
        finally:
            self._ready.clear()
            self._tasks.clear()
            _set_running_loop(host)
            if current is not None and host is not None:
                tasks._enter_task(host, current)

    # --- what asyncio calls ---------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Callback:
        made = Callback((callback, args, context or copy_context()))
        self._ready.append(made)
        return made

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.for_asyncio)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **options: Any
    ) -> Any:
        place = self._places
        self._places = place + 1
        options.pop("eager_start", None)
        task = RunTask(
            coro,
            place=place,
            loop=self.for_asyncio,
            name=name or f"task-{place & 0xFFFFF}",
            context=context,
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


# From 3.14 on a thread has one current task, not one for each loop.
_ONE_CURRENT_TASK = sys.version_info >= (3, 14)


def _leave_current_task(loop: asyncio.AbstractEventLoop | None) -> asyncio.Task[Any] | None:
    if loop is None or (task := tasks.current_task(loop)) is None:
        return None
    tasks._leave_task(loop, task)
    return task


class GeneratorHooks:
    """Keeps the host's loop from adopting, and later closing, the generators of workflow bodies.

    Installed on the host's thread while an engine is open.
    """

    def __init__(self) -> None:
        self._host = sys.get_asyncgen_hooks()
        self._ours: weakref.WeakSet[Any] = weakref.WeakSet()
        self._installed = (self._first_iteration, self._finalize)
        sys.set_asyncgen_hooks(*self._installed)

    def remove(self) -> None:
        """Put the host's hooks back, if nobody else has put theirs over ours."""
        if tuple(sys.get_asyncgen_hooks()) == self._installed:
            sys.set_asyncgen_hooks(*self._host)

    def _first_iteration(self, generator: Any) -> None:
        if isinstance(cast(object, _get_running_loop()), RunLoop):
            self._ours.add(generator)
        elif self._host.firstiter is not None:
            self._host.firstiter(generator)

    def _finalize(self, generator: Any) -> None:
        if generator not in self._ours and self._host.finalizer is not None:
            self._host.finalizer(generator)


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
