"""A TCP proxy whose faults a test switches while clients are talking through it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from tests.servers.ports import bound_socket

Direction = Literal["request", "reply"]  # from the client; from the server
Directions = Literal["request", "reply", "both"]
On = Literal["first", "open", "next", "each"]
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What has passed so far. Bytes count when they were handed on, or dropped."""

    accepted: int = 0
    open: int = 0
    resets: int = 0
    request_bytes: int = 0
    reply_bytes: int = 0
    held_bytes: int = 0
    dropped_bytes: int = 0


@dataclass(slots=True)
class _Reset:
    """A reset to come: after so many bytes, since the request bytes `when` were seen."""

    after: int
    of: Direction
    when: bytes
    on: On
    spent: bool = False


@dataclass(eq=False, slots=True)
class _Countdown:
    """One reset, on one connection."""

    reset: _Reset
    left: int
    begun: bool
    tail: bytes = b""


@dataclass(slots=True)
class _Faults:
    """What happens to the bytes of one direction."""

    delay: float = 0
    chunk: int = 0
    dropped: bool = False
    flowing: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False, slots=True)
class _Connection:
    task: asyncio.Task[None]
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    countdowns: list[_Countdown] = field(default_factory=list[_Countdown])
    lost: bool = False
    cut: bool = False


class FaultProxy:
    """Passes on what clients and `host:port` say to one another, until told otherwise.

    It runs in a thread of its own. Each method can be called from any thread, and what it says is
    in force when it returns. `heal` ends all faults; a connection that has lost bytes is reset
    then, since no TCP connection lives on without them.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.host, self.port = "", 0
        self._counts = Counts()
        self._changed = threading.Condition()
        self._connections: set[_Connection] = set()
        self._resets: list[_Reset] = []
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._listener: asyncio.Server | None = None
        self._faults: dict[Direction, _Faults] = {"request": _Faults(), "reply": _Faults()}
        for faults in self._faults.values():
            faults.flowing.set()

    # --- its life ------------------------------------------------------------

    def start(self) -> Self:
        """Listening."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")
        self._thread.start()
        listening = bound_socket()
        self.host, self.port = listening.getsockname()
        self._run(self._listen(listening))
        return self

    def close(self) -> None:
        """All connections reset, the port free again."""
        if self._thread is not None:
            self._run(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._thread = None
        self._loop.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def through(self, url: str) -> str:
        """The URL that leads to the same place by way of this proxy."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        place = f"{self.host}:{self.port}"
        return parts._replace(netloc=f"{login}@{place}" if login else place).geturl()

    # --- faults --------------------------------------------------------------

    def reset_after(self, size: int, of: Direction, *, on: On = "first", when: bytes = b"") -> None:
        """Pass on `size` more bytes of one direction, then reset the connection, both ends.

        `on` says which: "first" the one connection that gets there first, "open" each that is open
        now, "next" the one that is opened next, "each" any, from now on until `heal`. Bytes count
        from now, or from the opening; with `when`, from the request bytes that it names, which
        themselves count. `reset_after(0, "reply", when=b"EVALSHA")`: executed, nobody is told.
        """
        self._do(lambda: self._arm(_Reset(size, of, when, on)))

    def reset_open(self) -> None:
        """Reset every connection that is open now."""

        def cut() -> None:
            for connection in list(self._connections):
                self._cut(connection)

        self._do(cut)

    def hold(self, direction: Directions = "reply") -> None:
        """Keep what arrives, until `release`; nothing is lost."""
        self._each(direction, lambda faults: faults.flowing.clear())

    def release(self) -> None:
        """Pass on what was held, in order; later bytes flow."""
        self._each("both", lambda faults: faults.flowing.set())

    def drop(self, direction: Directions) -> None:
        """Lose what arrives, ends of connections included; nobody is told."""
        self._each(direction, lambda faults: setattr(faults, "dropped", True))

    def partition(self) -> None:
        """Nothing passes in either direction; connections seem to open and stay open."""
        self.drop("both")

    def delay(self, seconds: float, direction: Directions = "both") -> None:
        """Pass on what arrives that much later. It slows down, too: one piece at a time."""
        self._each(direction, lambda faults: setattr(faults, "delay", seconds))

    def chunk(self, size: int = 1, direction: Directions = "both") -> None:
        """Pass on what arrives in pieces of this size, each its own packet."""
        self._each(direction, lambda faults: setattr(faults, "chunk", size))

    def heal(self) -> None:
        """End all faults. What was held flows; connections that lost bytes are reset."""
        self._do(self._heal)

    # --- what has happened ---------------------------------------------------

    @property
    def counts(self) -> Counts:
        """As of now."""
        with self._changed:
            return self._counts

    def wait_for(self, true: Callable[[Counts], bool], what: str = "the proxy") -> Counts:
        """The counts, as soon as they are as wished; `TimeoutError` when they never are."""
        with self._changed:
            if not self._changed.wait_for(lambda: true(self._counts), _PATIENCE):
                raise TimeoutError(f"waited in vain for {what}: {self._counts}")
            return self._counts

    # --- in the thread of the loop -------------------------------------------

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    def _do(self, act: Callable[[], object]) -> None:
        async def work() -> None:
            act()

        self._run(work())

    def _each(self, direction: Directions, change: Callable[[_Faults], object]) -> None:
        chosen = [f for name, f in self._faults.items() if direction in (name, "both")]
        self._do(lambda: [change(faults) for faults in chosen])

    def _add(self, **amounts: int) -> None:
        with self._changed:
            more = {name: getattr(self._counts, name) + n for name, n in amounts.items()}
            self._counts = replace(self._counts, **more)
            self._changed.notify_all()

    async def _listen(self, listening: socket.socket) -> None:
        self._listener = await asyncio.start_server(self._accept, sock=listening)

    async def _shut(self) -> None:
        if self._listener is not None:
            self._listener.close()
        tasks = [connection.task for connection in self._connections]
        for connection in list(self._connections):
            self._cut(connection)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close in the loop's next round

    def _arm(self, reset: _Reset) -> None:
        if reset.on in ("next", "each", "first"):
            self._resets.append(reset)
        if reset.on != "next":
            for connection in self._connections:
                self._watch(connection, reset)

    def _watch(self, connection: _Connection, reset: _Reset) -> None:
        connection.countdowns.append(_Countdown(reset, reset.after, not reset.when))

    def _heal(self) -> None:
        self._resets.clear()
        for faults in self._faults.values():
            faults.delay, faults.chunk, faults.dropped = 0, 0, False
            faults.flowing.set()
        for connection in list(self._connections):
            connection.countdowns.clear()
            if connection.lost:
                self._cut(connection)

    def _cut(self, connection: _Connection) -> None:
        """Both ends get a reset, at once."""
        if connection.cut:
            return
        connection.cut = True
        for writer in (connection.client, connection.server):
            if writer is not None:
                _reset(writer)
        self._add(resets=1)
        if connection.task is not asyncio.current_task():
            connection.task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(task, writer)
        self._connections.add(connection)
        for reset in list(self._resets):
            self._watch(connection, reset)
            if reset.on == "next":
                self._resets.remove(reset)
        self._add(accepted=1, open=1)
        try:
            await self._serve(connection, reader)
        except OSError:  # an end is gone: so is the other
            self._cut(connection)
        except asyncio.CancelledError:
            pass  # it was cut
        finally:
            for each in (connection.client, connection.server):
                if each is not None:
                    each.transport.abort()
            self._connections.discard(connection)
            self._add(open=-1)

    async def _serve(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        replies, connection.server = await asyncio.open_connection(*self._upstream)
        for writer in (connection.client, connection.server):
            peer: socket.socket = writer.get_extra_info("socket")
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pumps = [
            asyncio.ensure_future(self._pump(connection, "request", reader, connection.server)),
            asyncio.ensure_future(self._pump(connection, "reply", replies, connection.client)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        connection: _Connection,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        faults = self._faults[direction]
        while True:
            data, error = b"", None
            try:
                data = await reader.read(65_536)
            except OSError as broken:  # how an end breaks is news that travels like bytes
                error = broken
            if faults.delay:
                await asyncio.sleep(faults.delay)
            if not faults.flowing.is_set():
                self._add(held_bytes=len(data))
                await faults.flowing.wait()
                self._add(held_bytes=-len(data))
            if faults.dropped:
                connection.lost = True
                self._add(dropped_bytes=len(data))
                if not data:
                    # The other end is not told, now or ever: it is reset when all is healed.
                    await asyncio.Event().wait()
                continue
            if error is not None:
                raise error
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            allowed, ended = self._allowed(connection, direction, data)
            if ended is not None:
                self._spend(ended)
            await self._pass_on(direction, data[:allowed], writer)
            if ended is not None:
                self._cut(connection)
                return

    async def _pass_on(
        self, direction: Direction, data: bytes, writer: asyncio.StreamWriter
    ) -> None:
        size = self._faults[direction].chunk or len(data)
        for start in range(0, len(data), size or 1):
            piece = data[start : start + size]
            writer.write(piece)
            await writer.drain()
            if direction == "request":
                self._add(request_bytes=len(piece))
            else:
                self._add(reply_bytes=len(piece))
            if size < len(data):
                await asyncio.sleep(0)

    def _allowed(
        self, connection: _Connection, direction: Direction, data: bytes
    ) -> tuple[int, _Countdown | None]:
        """How many of these bytes may pass, and the reset that comes after them."""
        allowed, ended = len(data), None
        for countdown in connection.countdowns:
            if countdown.reset.spent:
                continue
            start = 0
            if not countdown.begun and direction == "request":
                start = self._begin(countdown, data)
            if not countdown.begun or countdown.reset.of != direction:
                continue
            countdown.left -= len(data) - start
            if countdown.left < 0 or (countdown.left == 0 and countdown.reset.after):
                end = len(data) + countdown.left
                if ended is None or end < allowed:
                    allowed, ended = end, countdown
        return allowed, ended

    def _begin(self, countdown: _Countdown, data: bytes) -> int:
        """Where in this request the awaited bytes begin; 0 if they began before it, or are not."""
        when = countdown.reset.when
        seen = countdown.tail + data
        place = seen.find(when)
        if place < 0:
            countdown.tail = seen[max(0, len(seen) - len(when) + 1) :]
            return 0
        countdown.begun = True
        return max(0, place - len(countdown.tail))

    def _spend(self, countdown: _Countdown) -> None:
        if countdown.reset.on == "first":
            countdown.reset.spent = True
            with contextlib.suppress(ValueError):
                self._resets.remove(countdown.reset)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closed with RST instead of FIN; what was not sent yet is lost."""
    end: socket.socket | None = writer.get_extra_info("socket")
    if end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
