"""Child processes that execute functions declared with `executor="process"`: the host's side.

A child is `python` with the host's path, folder and environment. It talks in frames: eight bytes of
length, then JSON. One call is under way in a child at a time, and frames arrive in their order.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from pikku._error_info import ErrorInfo
from pikku._logging import log as run_log
from pikku.errors import ProcessDiedError

log = logging.getLogger("pikku")

START_AT_MOST_SECONDS = 60.0
IDLE_SECONDS = 60.0
STOP_GRACE_SECONDS = 5.0

# The path comes first of all, since pikku itself may be found by it alone.
BOOT = (
    "import sys; sys.path[:] = sys.argv[1:]; del sys.argv[1:]; "
    "from pikku._process_child import main; main()"
)
LENGTH = struct.Struct(">Q")

Frame = dict[str, Any]


def packed(frame: Frame) -> bytes:
    """The bytes of a frame."""
    text = json.dumps(frame, default=str).encode()
    return LENGTH.pack(len(text)) + text


class Unpacker:
    """Puts frames together from the bytes that a pipe delivers."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that *data* completes."""
        received = self._bytes
        received += data
        while len(received) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(received)[0]
            if len(received) < end:
                return
            frame: Frame = json.loads(received[LENGTH.size : end])
            del received[:end]
            yield frame


class Call(NamedTuple):
    """What a child is asked to execute: an attempt of a step.

    Attributes:
        traceparent: the trace context of the attempt.
    """

    function: str
    data: str | None
    run_id: str
    workflow: str
    key: str
    name: str
    attempt: int
    where: str
    traceparent: str | None = None


class NotReadyError(Exception):
    """A child could not import the app, or make its services."""

    def __init__(self, error: ErrorInfo) -> None:
        self.error = error
        super().__init__(error.message)


class Child:
    """One child process, and the pipes to it; made and used on the host's loop.

    Attributes:
        ready: done once it takes calls; fails if it never will.
        exited: done once the process is gone and reaped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_exit: Callable[[Child], None]) -> None:
        self.ready: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.idle: asyncio.TimerHandle | None = None
        self._loop = loop
        self._on_exit = on_exit
        self._reply: asyncio.Future[Frame] | None = None
        self._report: Callable[[float, str], None] | None = None
        self._unpacker = Unpacker()
        self._replies: asyncio.BaseTransport | None = None
        self._requests: asyncio.WriteTransport | None = None
        self._closed = False
        path = [each for each in sys.path if isinstance(each, str)]
        # A group of its own: Ctrl-C in a terminal is for the host alone, and what the functions
        # start is killed with the child.
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOT, *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether it lives, and has nothing to do."""
        return self._reply is None and not self.exited.done() and self._process.poll() is None

    async def connect(self, hello: Frame) -> None:
        """Open the pipes, and say which app to import."""
        process = self._process
        try:
            self._replies, _ = await self._loop.connect_read_pipe(
                partial(_Replies, self), process.stdout
            )
            self._requests, _ = await self._loop.connect_write_pipe(
                asyncio.BaseProtocol, process.stdin
            )
        except BaseException:
            self.replies_closed()
            raise
        self._send(hello)

    async def execute(self, call: Call, report: Callable[[float, str], None] | None) -> Frame:
        """The frame that says how *call* ended. If cancelled, it kills the child and waits for its
        end.

        Raises:
            ProcessDiedError: if the child died meanwhile.
        """
        self._report = report
        self._reply = self._loop.create_future()
        self._send({"call": call._asdict(), "log_level": run_log.getEffectiveLevel()})
        try:
            return await self._reply
        except asyncio.CancelledError:
            self.kill()
            await asyncio.shield(self.exited)
            raise
        finally:
            self._reply = self._report = None

    def call_off(self) -> None:
        """Let `ctx.step.cancelled` be true in the function under way."""
        if self._reply is not None:
            self._send({"cancel": True})

    def stop(self) -> None:
        """Let it close its services and end; after a while it is killed."""
        if not self.exited.done():
            self._signal(signal.SIGTERM)
            grace = self._loop.call_later(STOP_GRACE_SECONDS, self.kill)
            self.exited.add_done_callback(lambda _: grace.cancel())

    def kill(self) -> None:
        """End it and what it started, at once."""
        if not self.exited.done():
            self._signal(signal.SIGKILL)

    def abandon(self) -> None:
        """`kill`, on a loop that may not go on."""
        self.kill()
        self._close_pipes()

    def _close_pipes(self) -> None:
        if self._requests is not None and not self._requests.is_closing():
            self._requests.abort()
        if self._replies is not None:
            self._replies.close()

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:  # a reaped pid may be somebody else's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _send(self, frame: Frame) -> None:
        if self._requests is not None:
            self._requests.write(packed(frame))

    # --- what it says ---------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        for frame in self._unpacker.feed(data):
            try:
                self._take(frame)
            except Exception:
                log.exception("a word of a child process could not be dealt with")

    def _take(self, frame: Frame) -> None:
        if "log" in frame:
            record = logging.makeLogRecord(frame["log"])
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        elif "progress" in frame:
            if self._report is not None:
                self._report(*frame["progress"])
        elif "end" in frame:
            if self._reply is not None and not self._reply.done():
                self._reply.set_result(frame["end"])
        elif not self.ready.done():
            if "ready" in frame:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(NotReadyError(ErrorInfo.from_json(frame["not_ready"])))

    def replies_closed(self) -> None:
        """It is dead, or as good as dead; wait for it aside, for its exit code."""
        if self._closed:
            return
        self._closed = True
        self.kill()

        def reap() -> None:
            self._process.wait()
            with suppress(RuntimeError):  # the loop was closed; nobody waits for it any more
                self._loop.call_soon_threadsafe(self._reaped)

        threading.Thread(target=reap, name="pikku-reaper", daemon=True).start()

    def _reaped(self) -> None:
        self.exited.set_result(None)
        self._close_pipes()
        code = self._process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        died = ProcessDiedError(f"the process that executed it died ({how})")
        for waiting in (self.ready, self._reply):
            if waiting is not None and not waiting.done():
                waiting.set_exception(died)
        if self.ready.done() and not self.ready.cancelled():
            self.ready.exception()  # nobody need have waited
        self._on_exit(self)


class _Replies(asyncio.Protocol):
    """The pipe on which a child speaks."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def data_received(self, data: bytes) -> None:
        self._child.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._child.replies_closed()


class ProcessPool:
    """At most *children* child processes of one app, started when they are needed and reused.

    Args:
        loop: the host's loop; the pool is used on it alone.
        package: the generated package, whose attribute `app` the children import.
        overrides: settings of the host's that the children cannot find out by themselves.
        children: how many at once; default: as many as the machine has processors.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        package: str,
        overrides: Mapping[str, str | None] | None = None,
        *,
        children: int | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._loop = loop
        self._hello: Frame = {"package": package, "overrides": dict(overrides or {})}
        self._slots = asyncio.Semaphore(children or os.cpu_count() or 1)
        self._idle_seconds = idle_seconds
        self._children: set[Child] = set()
        self._idle: list[Child] = []
        self._closed = False

    @property
    def pids(self) -> set[int]:
        """The children that live."""
        return {child.pid for child in self._children}

    @asynccontextmanager
    async def child(self) -> AsyncGenerator[Child, None]:
        """A child that takes a call; waits for its turn, and for the child.

        Raises:
            NotReadyError: if it cannot import the app or make its services.
            ProcessDiedError: if it dies before it can take a call, or takes too long.
        """
        async with self._slots:
            child = self._reused() or self._started()
            try:
                await self._make_ready(child)
                yield child
            finally:
                self._take_back(child)

    def _reused(self) -> Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.idle is not None:
                child.idle.cancel()
            if child.usable:
                return child
        return None

    def _started(self) -> Child:
        if self._closed:
            raise ProcessDiedError("the process pool is closed", hint="")
        child = Child(self._loop, self._gone)
        self._children.add(child)
        return child

    async def _make_ready(self, child: Child) -> None:
        if child.ready.done():
            return
        await child.connect(self._hello)
        try:
            async with asyncio.timeout(START_AT_MOST_SECONDS):
                await child.ready
        except TimeoutError:
            raise ProcessDiedError(
                f"the process to execute it was not ready after {START_AT_MOST_SECONDS:g} s",
                hint="look at what the app's modules do when they are imported",
            ) from None

    def _take_back(self, child: Child) -> None:
        ready = child.ready.done() and not child.ready.cancelled() and not child.ready.exception()
        if self._closed or not ready or not child.usable:
            child.kill()
            return
        self._idle.append(child)
        child.idle = self._loop.call_later(self._idle_seconds, self._let_go, child)

    def _let_go(self, child: Child) -> None:
        if child in self._idle:
            self._idle.remove(child)
            child.stop()

    def _gone(self, child: Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._idle.remove(child)
        if child.idle is not None:
            child.idle.cancel()

    async def close(self) -> None:
        """Let idle children close their services, kill the others, and wait until all are gone."""
        self._closed = True
        idle, self._idle = self._idle, []
        for child in idle:
            child.stop()
        for child in self._children.difference(idle):
            child.kill()
        if self._children:
            exits = [child.exited for child in self._children]
            await asyncio.wait(exits, timeout=2 * STOP_GRACE_SECONDS)

    def kill(self) -> None:
        """Kill all children without waiting, as on a loop that may not go on."""
        self._closed = True
        self._idle.clear()
        for child in self._children:
            if child.idle is not None:
                child.idle.cancel()
            child.abandon()
