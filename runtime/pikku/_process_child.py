"""Child processes that execute functions declared with `executor="process"`: the child's side."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import sys
import threading
from contextlib import AsyncExitStack, suppress
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any, NoReturn

from pikku._app import App, OpenApp
from pikku._bodies import End, Plan, _failure, _success, trimmed_traceback
from pikku._callers import Contexts
from pikku._calls import called, called_in_thread
from pikku._contexts import StepContext
from pikku._error_info import ErrorInfo
from pikku._logging import log as run_log
from pikku._processes import Call, Frame, Unpacker, packed
from pikku._redaction import redact
from pikku._retry import DEFAULT_POLICY
from pikku._settings import effective, project_folder
from pikku._telemetry import UNWATCHED, Scope
from pikku.errors import AppNotFoundError, AppNotOpenError


def main() -> None:
    """Execute calls until the host says no more, or is gone."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)  # what a function prints goes where the host's errors go
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(line_buffering=True)

    def forked() -> None:
        # The host takes the end of the pipe for the end of the child.
        os.close(requests)
        os.close(replies)

    os.register_at_fork(after_in_child=forked)
    pipe = Pipe(requests, replies)
    asyncio.run(CallServer(pipe).run())


def die() -> NoReturn:
    """Be gone at once, with everything that the functions have started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


class Cancellation:
    """Whether the call under way is asked to stop; set by the thread that listens."""

    requested = False


class Pipe:
    """The way to the host and back. Frames may be sent from any thread."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = requests
        self._replies = replies
        self._lock = threading.Lock()

    def send(self, frame: Frame) -> None:
        """Hand *frame* to the host; waits while the host does not listen."""
        data = memoryview(packed(frame))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._replies, data) :]
            except OSError:
                die()

    def listen(self, loop: asyncio.AbstractEventLoop, inbox: asyncio.Queue[Any]) -> None:
        """Pass on calls, mark them as cancelled, and die with the host, whatever the loop does."""
        unpacker = Unpacker()
        cancellation = Cancellation()
        while data := os.read(self._requests, 1 << 16):
            for frame in unpacker.feed(data):
                if "cancel" in frame:
                    cancellation.requested = True
                    continue
                cancellation = Cancellation()
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(inbox.put_nowait, (frame, cancellation))
        die()


class LogToHost(QueueHandler):
    """Hands what `ctx.logger` logs to the host, whose handlers are the ones that count."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(SimpleQueue[logging.LogRecord]())
        self._pipe = pipe

    def enqueue(self, record: logging.LogRecord) -> None:
        self._pipe.send({"log": vars(record)})


class NoEngine:
    """What stands in a child where the host has its engine: functions may call functions, and runs
    belong to the host."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def __getattr__(self, name: str) -> NoReturn:
        raise AppNotOpenError(
            'a function with executor="process" can neither start runs nor ask after them',
            hint="start workflows from a step that runs in the worker itself",
        )


def _trace_of(call: Call) -> Scope:
    """The attempt's trace, so that spans that the function makes are inside it."""
    if call.traceparent is None or "opentelemetry.trace" not in sys.modules:
        return UNWATCHED
    from pikku._tracing import under

    return under(call.traceparent)


class CallServer:
    """Executes one call after the other."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._inbox: asyncio.Queue[tuple[Frame, Cancellation] | None] = asyncio.Queue()
        self._current: Cancellation | None = None

    async def run(self) -> None:
        """Make the services, execute calls, close the services."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        threading.Thread(
            target=self._pipe.listen, args=(loop, self._inbox), name="pikku-pipe", daemon=True
        ).start()
        received = await self._inbox.get()
        if received is None:
            return
        async with AsyncExitStack() as closing:
            try:
                contexts = await self._open(received[0], closing)
            except Exception as error:
                info = ErrorInfo.of(error, traceback=trimmed_traceback(error))
                self._pipe.send({"not_ready": info.to_json()})
                return
            self._pipe.send({"ready": os.getpid()})
            while (received := await self._inbox.get()) is not None:
                await self._answer(contexts, *received)

    def _stop(self) -> None:
        if self._current is None:
            self._inbox.put_nowait(None)
        else:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    async def _open(self, hello: Frame, closing: AsyncExitStack) -> Contexts:
        """Import the app and make its services, without a store or an engine."""
        package = hello["package"]
        app: App[Any] | None = getattr(importlib.import_module(package), "app", None)
        if not isinstance(app, App):
            raise AppNotFoundError(
                f"{package}.app is no app of pikku's",
                hint='executor="process" needs an app that a process finds by its package\'s name',
            )
        app.register()
        project = project_folder(app.package, app._project)
        config, origins = effective(app._settings, hello["overrides"], project)
        redact(config.redact)
        services = await app._make_services(config, closing)
        opened = OpenApp(app.registry, services, config, origins, closing)
        engine: Any = NoEngine(asyncio.get_running_loop())
        opened.engine = engine
        app._open = opened
        run_log.addHandler(LogToHost(self._pipe))
        run_log.propagate = False
        self._registry = app.registry
        return Contexts(app, opened)

    async def _answer(self, contexts: Contexts, frame: Frame, cancellation: Cancellation) -> None:
        run_log.setLevel(frame["log_level"])
        self._current = cancellation
        call = Call(**frame["call"])
        try:
            with _trace_of(call):
                end = await self._execute(contexts, call, cancellation)
        except Exception as error:
            end = End(True, error=ErrorInfo.of(error, traceback=trimmed_traceback(error)))
        self._current = None
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        info = None if end.error is None else end.error.to_json()
        self._pipe.send(
            {
                "end": {
                    "failed": end.failed,
                    "text": end.text,
                    "error": info,
                    "final": end.final,
                    "after_us": end.after_us,
                }
            }
        )

    async def _execute(self, contexts: Contexts, call: Call, cancellation: Cancellation) -> End:
        func = self._registry.function(call.function)
        declaration = func.declaration
        plan = Plan(
            func, None, call.data, declaration.output, DEFAULT_POLICY, None, where=call.where
        )

        def report(done: float, note: str) -> None:
            if self._current is cancellation:  # what a thread says later is about nothing
                self._pipe.send({"progress": [done, note]})

        step = StepContext(
            call.run_id, call.key, call.name, call.attempt, cancellation, report=report
        )
        context = contexts._function(
            step,
            {
                "run_id": call.run_id,
                "workflow": call.workflow,
                "step": call.name,
                "attempt": call.attempt,
            },
        )

        def data() -> Any:
            if not declaration.takes_input:
                return None
            return declaration.input.decode(call.data or "null", call.where)

        def body(data: Any) -> Any:
            return func.func(context, data) if declaration.takes_input else func.func(context)

        guards = self._registry.guards(func)

        def work() -> End:
            try:
                value = called_in_thread(guards, func, data(), context, body, loop)
                return _success(plan, value)
            except BaseException as error:
                return _failure(plan, error)

        loop = asyncio.get_running_loop()
        if not func.is_async:
            return await asyncio.to_thread(work)
        try:
            return _success(plan, await called(guards, func, data(), context, body))
        except BaseException as error:
            return _failure(plan, error)
