"""Hosting the engine from a command: open, follow a run, stop on a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pikku._commands.output import printable, shortened, tell, tell_by
from pikku._records import ENDED_STEP, FINAL_STATUSES, LoadedRun
from pikku._waits import RESTS, Wait, progress_line, suspension_of, wait_of
from pikku.errors import ConfigurationError, PikkuError, ResultTimeoutError, RunNotFoundError

if TYPE_CHECKING:
    from pikku._app import App
    from pikku._commands.target import Target
    from pikku._engine import Engine
    from pikku._metrics import Metrics
    from pikku._settings import EngineOptions, Work
    from pikku.stores.base import Store

T = TypeVar("T")
FOLLOW_SECONDS = 0.05
# Whoever signals a process and its group delivers one request twice.
SAME_SIGNAL_SECONDS = 0.3
# What has been called off gets this long to notice.
GOODBYE_SECONDS = 0.5


class Stopped(Exception):
    """A signal asked the command to stop; its app was closed in good order."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        return 128 + self.number


@asynccontextmanager
async def hosting(
    app: App[Any],
    store: str | None,
    *,
    sticky: bool,
    work: Work | None = None,
    metrics: Metrics | None = None,
    options: EngineOptions | None = None,
) -> AsyncGenerator[Engine, None]:
    """The engine of *app*, open; with *work*, it is a worker. Without *sticky*, a run that only
    waits leaves this process, unless *options* say otherwise. What happens is counted in *metrics*.

    Raises:
        ConfigurationError: if the app's own code raises when it is imported or opened.
    """
    from pikku._settings import EngineOptions

    if options is None:
        options = EngineOptions() if sticky else EngineOptions(sticky=0)
    async with AsyncExitStack() as stack:
        register(app)
        if metrics is not None:
            app._observers.append(metrics)
            stack.callback(app._observers.remove, metrics)
        with blaming(f"{app.package} cannot be opened"):
            await stack.enter_async_context(
                app.open(
                    store=store,
                    options=options,
                    work=work,
                    schedules=work is not None,  # a command that is soon gone hosts none
                )
            )
        yield app.opened.engine


def register(app: App[Any]) -> None:
    """Import the modules of *app*.

    Raises:
        ConfigurationError: if one of them raises.
    """
    with blaming(f"a module of {app.package} cannot be imported"):
        app.register()


@contextmanager
def blaming(what: str) -> Generator[None, None, None]:
    """Turn what the app's own code raises into an error that begins with *what*."""
    try:
        yield
    except PikkuError:
        raise
    except Exception as error:
        tell(_own_frames(error))
        raise ConfigurationError(
            f"{what}: {type(error).__name__}: {error}", hint="the traceback is above"
        ) from error


def _own_frames(error: Exception) -> str:
    """The traceback of *error* without the frames of the import system and of this program."""
    import traceback

    shown = traceback.TracebackException.from_exception(error)
    frames = [
        frame
        for frame in shown.stack
        if not frame.filename.startswith("<frozen") and "importlib" not in frame.filename
    ]
    own = [frame for frame in frames if f"{os.sep}pikku{os.sep}_" not in frame.filename]
    shown.stack = traceback.StackSummary.from_list(own)
    return printable("".join(shown.format()).rstrip())


class Stop:
    """SIGINT and SIGTERM: the first one asks to stop, the second one ends the process at once.

    Attributes:
        asked: set when it is time to stop.
        number: the signal that asked.
        under_way: how much has to be finished before.
        at_once: called before the process ends at once.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.number: int = signal.SIGTERM
        self.under_way: Callable[[], int] = lambda: 0
        self.at_once: Callable[[], None] = lambda: None
        self._at = 0.0

    def __enter__(self) -> Stop:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _received(self, number: int) -> None:
        now = time.monotonic()
        if self.asked.is_set():
            if now - self._at < SAME_SIGNAL_SECONDS:
                return
            tell(f"{signal.Signals(number).name} again: stopped at once")
            self.at_once()
            exit_now(128 + number)
        self.number, self._at = number, now
        self.ask(signal.Signals(number).name, "; once more to stop at once")

    def ask(self, why: str, addition: str = "") -> None:
        """Finish what is under way, and say why."""
        self.asked.set()
        count = self.under_way()
        counted = f" ({count})" if count else ""
        tell(f"{why}: finishing what is under way{counted}{addition}")

    async def unless_asked(self, work: Coroutine[Any, Any, T]) -> T:
        """What *work* returns.

        Raises:
            Stopped: if a signal comes first; *work* is cancelled then.
        """
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self.asked.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            asked.cancel()
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        raise Stopped(self.number)


def run_until_stopped(main: Callable[[Stop], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine of *main* returns, on a loop of its own; a signal ends the command."""

    async def guarded() -> T:
        with Stop() as stop:
            return await main(stop)

    try:
        return asyncio.run(guarded())
    except Stopped as stopped:
        click.get_current_context().exit(stopped.exit_code)


def exit_now(code: int) -> NoReturn:
    """End the process, whatever still runs in it; what was printed is printed."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


async def exit_if_held_up(code: int) -> None:
    """End the process with *code* if tasks that ignore that they were cancelled, or threads that
    have not come back, would keep it alive."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    pending = (await asyncio.wait(tasks, timeout=GOODBYE_SECONDS))[1] if tasks else tasks
    until = time.monotonic() + GOODBYE_SECONDS
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                exit_now(code)
    if pending:
        exit_now(code)


async def follow_unless_stopped(
    stop: Stop, engine: Engine, run_id: str, *, new: bool, to_the_end: bool, timeout_us: int | None
) -> tuple[LoadedRun, Wait]:
    """The run once it is final, or unless *to_the_end* once it only waits, or is left to workers;
    what happens is told, and unless the run is *new*, what was recorded before.

    Raises:
        RunNotFoundError: if there is none.
        ResultTimeoutError: if that takes longer than *timeout_us*; the run goes on.
        Stopped: if a signal comes first; the run goes on.
    """
    go_on = f"it goes on with: pikku worker, or: pikku runs resume {run_id} --wait"
    try:
        async with asyncio.timeout(None if timeout_us is None else timeout_us / 1e6):
            return await stop.unless_asked(_follow(engine, run_id, new, to_the_end))
    except TimeoutError:
        raise ResultTimeoutError(
            f"run {run_id} did not end within {(timeout_us or 0) / 1e6:g} s", hint=go_on
        ) from None
    except Stopped:
        tell(go_on)
        raise


async def _follow(
    engine: Engine, run_id: str, new: bool, to_the_end: bool
) -> tuple[LoadedRun, Wait]:
    store = engine.store
    told: dict[str, tuple[int, str]] | None = {} if new else None
    seen: tuple[object, ...] | None = None
    last: tuple[LoadedRun, Wait] | None = None
    while True:
        run = await store.load_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id, store=store.address)
        now = (run.turn, run.deliveries, run.status, run.owner, run.queued)
        if now != seen:
            loaded = await store.load_steps(run_id)
            if loaded is None:
                raise RunNotFoundError(run_id, store=store.address)
            seen = now
            told = _tell_news(loaded, told)
            suspension = suspension_of(loaded.run)
            if suspension is not None:
                tell(f"suspended ({suspension.reason}): {printable(suspension.explanation)}")
                tell(f"what to do: {suspension.remedy}")
                if to_the_end:
                    tell("it is waited for until somebody resumes it; Ctrl-C leaves it as it is")
            wait = wait_of(loaded, store.clock.now_us())
            if loaded.run.status in FINAL_STATUSES:
                return loaded, wait
            last = loaded, wait
        elsewhere = not run.inline and engine.work is None
        if last is not None and not to_the_end and (elsewhere or await _rests(store, *last)):
            return last
        await asyncio.sleep(FOLLOW_SECONDS)


async def _rests(store: Store, loaded: LoadedRun, wait: Wait) -> bool:
    """Whether nothing happens in the run, or in the children that it waits for, before a timer or
    a word from outside."""
    if wait.kind != "child":
        return wait.kind in RESTS
    for step in loaded.steps:
        if step.kind != "child" or step.status in ENDED_STEP or step.job is None:
            continue
        child = await store.load_steps(step.job)
        if child is None or child.run.status in FINAL_STATUSES:
            return False
        if not await _rests(store, child, wait_of(child, store.clock.now_us())):
            return False
    return True


def _tell_news(
    loaded: LoadedRun, told: dict[str, tuple[int, str]] | None
) -> dict[str, tuple[int, str]]:
    """Tell which steps moved since *told*, and return where they are now."""
    news: dict[str, tuple[int, str]] = {}
    for step in loaded.steps:
        news[step.key] = (step.attempt, step.status)
        line = progress_line(step)
        if line is None or (told is not None and told.get(step.key) == news[step.key]):
            continue
        if told is None and step.status in ENDED_STEP:
            line = f"{step.key}: recorded before ({step.status})"
        tell(f"  {shortened(line, 200)}")
    return news


def log_to_stderr(target: Target, log_format: str | None, level: str = "info") -> str:
    """Show what is logged, in the format in effect, which is returned; in `json`, also what the
    command tells.

    Raises:
        SettingError: if a setting cannot be.
    """
    from pikku._logging import formatter_of
    from pikku._redaction import redact

    config, _ = target.settings(log_format)
    redact(config.redact)
    root, pikku = logging.getLogger(), logging.getLogger("pikku")
    if not any(isinstance(each, logging.StreamHandler) for each in root.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(formatter_of(config.log_format))
        root.addHandler(handler)
    pikku.setLevel(level.upper())
    if config.log_format == "json":
        tell_by(logging.getLogger("pikku.command"))
    return config.log_format
