"""Executes the bodies of steps on the host: inline callables, coroutines, functions in threads."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from pikku._clock import Alarm, Clock
from pikku._error_info import ErrorInfo
from pikku._payloads import MAX_PAYLOAD_BYTES, check_size
from pikku._retry import StepPolicy
from pikku.errors import (
    CallError,
    InvalidInputError,
    PayloadError,
    ProcessDiedError,
    RetryError,
    StepTimeoutError,
    TerminalError,
)

if TYPE_CHECKING:
    from pikku._codec import Codec
    from pikku._functions import Func
    from pikku._processes import Call, Child, ProcessPool

log = logging.getLogger("pikku")

# A cancelled coroutine ends within one turn of the loop, unless it has to clean up; after this
# long its attempt is over all the same.
CANCEL_GRACE_SECONDS = 5.0
# A step that has lost a worker runs alone, but alone does not mean that everybody waits for ever.
ALONE_AT_MOST_SECONDS = 10.0
TRACEBACK_CHARACTERS = 4_000
# Whose lines stand in a traceback before the author's.
_BEFORE = ("pikku.", "concurrent.futures.")


class Stoppable(Protocol):
    """What is told that an attempt's outcome is no longer wanted."""

    requested: bool


class ChildPlan(NamedTuple):
    """The run that a step starts; `detached`: the step is over when it has begun."""

    workflow: str
    version: str
    tags: tuple[str, ...]
    timeout_us: int | None
    detached: bool


class Plan(NamedTuple):
    """What executes a step: a function with its input as JSON text, an inline callable, or another
    run.

    `queue` is a queue of its own; `crosses` forbids to execute it in place.
    """

    func: Func[Any, Any] | None
    call: Callable[[], Any] | None
    data: str | None
    codec: Codec
    policy: StepPolicy
    on_error: str | None
    where: str
    queue: str | None = None
    crosses: bool = False
    child: ChildPlan | None = None


class End(NamedTuple):
    """How an attempt ended. `final` forbids another one; `after_us` overrides the next wait."""

    failed: bool
    text: str | None = None
    value: Any = None
    error: ErrorInfo | None = None
    final: bool = False
    after_us: int | None = None


NEVER_BEGUN = End(
    True,
    error=ErrorInfo("CancelledError", "the attempt was called off before it began"),
    final=True,
)

KILLED = End(
    True,
    error=ErrorInfo("CancelledError", "the attempt was called off and its process killed"),
    final=True,
)


class Attempt:
    """One attempt under way."""

    __slots__ = (
        "_alarm",
        "_child",
        "_grace",
        "_task",
        "_timed_out",
        "cancellation",
        "done",
        "ended",
        "plan",
    )

    def __init__(self, plan: Plan, done: Callable[[End], None], cancellation: Stoppable) -> None:
        self.plan = plan
        self.done = done
        self.cancellation = cancellation
        self.ended = False
        self._task: asyncio.Task[Any] | None = None
        self._alarm: Alarm | None = None
        self._grace: Alarm | None = None
        self._child: Child | None = None
        self._timed_out = False


class Bodies:
    """The attempts that this process executes.

    Args:
        loop: the host's loop, on which coroutines run and answers arrive.
        clock: what timeouts go by.
        threads: how many synchronous functions may run at once.
        may_begin: asked just before a body begins; False once the lease may have run out.
        on_fenced: called when a body did not begin for that reason; nothing is said of its attempt.
        on_quiet: called when the last attempt under way has ended.
        on_open: called when others may begin beside an attempt that was to be alone.
        max_payload_bytes: a larger result is the failure of its attempt.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        threads: int,
        may_begin: Callable[[], bool],
        on_fenced: Callable[[], None],
        on_quiet: Callable[[], None],
        on_open: Callable[[], None],
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self._limit = max_payload_bytes
        self._may_begin = may_begin
        self._on_fenced = on_fenced
        self._on_quiet = on_quiet
        self._on_open = on_open
        self._loop = loop
        self._clock = clock
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._running: set[Attempt] = set()
        self._in_processes: dict[int, Attempt] = {}
        self._alone: Attempt | None = None
        self._waiting: deque[tuple[Attempt, Callable[[Attempt], None], bool]] = deque()
        self._hurry: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits for its turn."""
        return bool(self._running or self._waiting)

    async def wait_until_quiet(self, seconds: float) -> bool:
        """Wait for the attempts under way, at most that long; whether they all ended."""
        try:
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Let go of the threads; those that still run go on and answer to nobody."""
        if self._hurry is not None:
            self._hurry.cancel()
        for attempt in list(self._running):
            attempt.cancellation.requested = True
            if attempt._task is not None:
                attempt._task.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def start(self, attempt: Attempt, begin: Callable[[Attempt], None], alone: bool) -> None:
        """Begin *attempt* now, or when its turn comes. *alone*: with no other beside it."""
        if self._alone is None and not self._waiting and not (alone and self._running):
            self._enter(attempt, begin, alone)
            return
        self._waiting.append((attempt, begin, alone))
        self._let_others_in_later()

    def _enter(self, attempt: Attempt, begin: Callable[[Attempt], None], alone: bool) -> None:
        self._running.add(attempt)
        if alone:
            self._alone = attempt
            self._let_others_in_later()
        if not self._may_begin():
            self._fenced(attempt)
        elif self._wanted(attempt):
            try:
                begin(attempt)
            except Exception as error:
                self._end(attempt, _failure(attempt.plan, error))
        else:
            self._end(attempt, NEVER_BEGUN)
        if self._running:
            self._quiet.clear()

    def _wanted(self, attempt: Attempt) -> bool:
        """Whether the body may still begin: it may have waited for a thread, or for its turn."""
        return not attempt.ended and not attempt.cancellation.requested

    def _fenced(self, attempt: Attempt) -> None:
        """Others may own the run by now: the body does not begin, and nothing is recorded."""
        attempt.ended = True
        self._leave(attempt)
        self._on_fenced()

    def let_others_in(self) -> None:
        """Let others begin beside an attempt that was to be alone: it has been for long enough, or
        waits for one of them."""
        if self._hurry is None:
            return
        self._hurry.cancel()
        self._hurry = None
        self._alone = None
        while self._waiting:
            attempt, begin, _ = self._waiting.popleft()
            self._enter(attempt, begin, False)
        self._on_open()

    def _let_others_in_later(self) -> None:
        if self._hurry is None:
            self._hurry = self._loop.call_later(ALONE_AT_MOST_SECONDS, self.let_others_in)

    def _leave(self, attempt: Attempt) -> None:
        self._running.discard(attempt)
        if self._alone is attempt:
            self._alone = None
        while self._waiting and self._alone is None:
            _, _, alone = self._waiting[0]
            if alone and self._running:
                break
            waiting, begin, _ = self._waiting.popleft()
            self._enter(waiting, begin, alone)
        if self.open_to_all and self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None
        if not self._running:
            self._quiet.set()
            self._on_quiet()

    @property
    def open_to_all(self) -> bool:
        """Whether an attempt that need not be alone could begin at once."""
        return self._alone is None and not self._waiting

    def call(self, plan: Plan) -> End | Coroutine[Any, Any, Any]:
        """Call an inline callable here and now: how it ended, or the coroutine that it made."""
        assert plan.call is not None
        try:
            made = plan.call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return _failure(plan, error)
        if isinstance(made, CoroutineType):
            return cast("Coroutine[Any, Any, Any]", made)
        return _success(plan, made, self._limit)

    def called_off(self, cancellation: Stoppable, *, hard: bool = False) -> None:
        """Pass on that `requested` of *cancellation* has been set, to where it cannot be seen: to
        an attempt in a child process. *hard*: nobody waits for it, so kill the child."""
        attempt = self._in_processes.get(id(cancellation))
        if attempt is None or attempt._task is None:
            return
        if hard or attempt._child is None:
            attempt._task.cancel()
        else:
            attempt._child.call_off()

    # --- the four ways to run -------------------------------------------------------------------

    def begin_inline(self, attempt: Attempt) -> None:
        """Call the plan's callable here; a coroutine it makes runs as a task."""
        made = self.call(attempt.plan)
        if isinstance(made, End):
            self._end(attempt, made)
        else:
            self.begin_coroutine(attempt, made)

    def begin_coroutine(self, attempt: Attempt, coro: Coroutine[Any, Any, Any]) -> None:
        """Run *coro* as a task of the host's loop."""
        self._arm(attempt)
        task = self._loop.create_task(coro)
        attempt._task = task
        task.add_done_callback(partial(self._task_done, attempt))

    def begin_thread(self, attempt: Attempt, call: Callable[[], Any]) -> None:
        """Call *call* in a thread; the slot is taken until it returns."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="pikku-step")
        context = contextvars.copy_context()

        def work() -> None:
            end = NEVER_BEGUN
            try:
                if not self._may_begin():
                    self._loop.call_soon_threadsafe(self._fenced, attempt)
                    return
                if self._wanted(attempt):
                    self._loop.call_soon_threadsafe(self._arm, attempt)
                    end = _success(attempt.plan, context.run(call), self._limit)
            except BaseException as error:
                end = _failure(attempt.plan, error)
            try:
                self._loop.call_soon_threadsafe(self._end, attempt, end)
            except RuntimeError:  # the loop was closed; the attempt is lost with it
                log.debug("a step ended after its event loop was closed")

        self._pool.submit(work)

    def begin_process(self, attempt: Attempt, pool: ProcessPool, call: Call) -> None:
        """Have *call* executed in a child process; a timeout kills the child."""
        self._in_processes[id(attempt.cancellation)] = attempt
        task = self._loop.create_task(self._in_process(attempt, pool, call))
        attempt._task = task
        task.add_done_callback(partial(self._process_done, attempt))

    async def _in_process(self, attempt: Attempt, pool: ProcessPool, call: Call) -> End:
        from pikku._processes import NotReadyError

        plan = attempt.plan
        try:
            async with pool.child() as child:
                if not self._may_begin():
                    self._fenced(attempt)
                    return NEVER_BEGUN
                if not self._wanted(attempt):
                    return NEVER_BEGUN
                self._arm(attempt)
                attempt._child = child
                report = getattr(attempt.cancellation, "report", None)
                end = await child.execute(call, report)
            if end["failed"]:
                error = ErrorInfo.from_json(end["error"])
                return End(True, error=error, final=end["final"], after_us=end["after_us"])
            check_size(end["text"], self._limit, f"the result of {plan.where}")
            return End(False, end["text"], plan.codec.decode(end["text"], plan.where))
        except NotReadyError as error:
            return End(True, error=error.error)
        except ProcessDiedError as error:
            return End(True, error=ErrorInfo.of(error))

    def _process_done(self, attempt: Attempt, task: asyncio.Task[Any]) -> None:
        del self._in_processes[id(attempt.cancellation)]
        if task.cancelled() and not attempt._timed_out and not attempt.ended:
            self._end(attempt, NEVER_BEGUN if attempt._child is None else KILLED)
        else:
            self._task_done(attempt, task)

    def _task_done(self, attempt: Attempt, task: asyncio.Task[Any]) -> None:
        if attempt._grace is not None:
            attempt._grace.cancel()
        if attempt.ended:
            if not task.cancelled():
                task.exception()
            self._leave(attempt)
        elif attempt._timed_out:
            self._end(attempt, _timed_out(attempt))
            if not task.cancelled():
                task.exception()
        elif task.cancelled():
            self._end(attempt, _failure(attempt.plan, asyncio.CancelledError("cancelled")))
        elif (error := task.exception()) is not None:
            self._end(attempt, _failure(attempt.plan, error))
        else:
            made = task.result()
            if not isinstance(made, End):
                made = _success(attempt.plan, made, self._limit)
            self._end(attempt, made)

    def _end(self, attempt: Attempt, end: End) -> None:
        if attempt._alarm is not None:
            attempt._alarm.cancel()
        if not attempt.ended:
            attempt.ended = True
            self._leave(attempt)
            attempt.done(end)
        else:
            self._leave(attempt)

    # --- timeouts -------------------------------------------------------------------------------

    def _arm(self, attempt: Attempt) -> None:
        timeout_us = attempt.plan.policy.timeout_us
        if timeout_us is not None and not attempt.ended:
            due = self._clock.now_us() + timeout_us
            attempt._alarm = self._clock.call_at(
                self._loop, due, partial(self._timeout, attempt, due)
            )

    def _timeout(self, attempt: Attempt, due_us: int) -> None:
        if attempt.ended:
            return
        if self._clock.now_us() < due_us:  # a wait longer than one alarm may be
            attempt._alarm = self._clock.call_at(
                self._loop, due_us, partial(self._timeout, attempt, due_us)
            )
            return
        attempt._timed_out = True
        attempt.cancellation.requested = True
        if attempt._task is None:
            self._give_up(attempt)
        else:
            attempt._grace = self._loop.call_later(CANCEL_GRACE_SECONDS, self._give_up, attempt)
            attempt._task.cancel()

    def _give_up(self, attempt: Attempt) -> None:
        """Report the timeout although the body still runs; it keeps its slot until it returns."""
        if not attempt.ended:
            attempt.ended = True
            attempt.done(_timed_out(attempt))


def _success(plan: Plan, value: Any, limit: int | None = None) -> End:
    """The outcome of a body that returned; without *limit* somebody else looks at its size."""
    try:
        text, decoded = plan.codec.encode(value, plan.where)
        if limit is not None:
            check_size(text, limit, f"the result of {plan.where}")
    except Exception as error:
        return _failure(plan, error)
    return End(False, text, decoded)


def _failure(plan: Plan, error: BaseException) -> End:
    func = plan.func
    final = isinstance(error, (TerminalError, PayloadError, InvalidInputError, CallError)) or (
        func is not None and isinstance(error, func.non_retryable)
    )
    after_us = None
    if isinstance(error, RetryError):
        after_us = max(0, int(error.after.total_seconds() * 1e6))
    return End(
        True,
        error=ErrorInfo.of(error, traceback=trimmed_traceback(error)),
        final=final,
        after_us=after_us,
    )


def _timed_out(attempt: Attempt) -> End:
    timeout_us = attempt.plan.policy.timeout_us or 0
    error = StepTimeoutError(f"{attempt.plan.where} took longer than {timeout_us / 1e6:g} s")
    return End(True, error=ErrorInfo.of(error))


def trimmed_traceback(error: BaseException) -> str:
    """The traceback from the author's first line on, short enough to be stored with an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_BEFORE):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= TRACEBACK_CHARACTERS else "…" + text[-TRACEBACK_CHARACTERS:]
