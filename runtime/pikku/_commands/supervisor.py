"""Keeps several processes of one command going, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from pikku._commands.output import how_it_ended, tell

if TYPE_CHECKING:
    from pikku._commands.hosting import Stop

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# A process that lived for this long did not die of what the one before it died of.
SETTLED_SECONDS = 60.0
# What a process has written reaches us within this time, unless its own children hold the pipe.
LAST_WORDS_SECONDS = 1.0
LONGEST_LINE = 1 << 20
CANNOT_START = 2


async def supervise(stop: Stop, command: list[str], count: int, *, numbered: bool = True) -> int:
    """Keep *count* processes of *command* going until *stop* asks, and let them finish; the exit
    code is 0 if they did.

    A process that ends before is followed by another one, after a delay that grows. Only if the
    first one of its place says that it cannot start, all are stopped. The stdin of each ends with
    this process, however that ends. Unless *numbered*, what they write is passed on as it is.
    """
    places = [_Place(number, command, stop, numbered) for number in range(1, count + 1)]

    def kill() -> None:
        for place in places:
            place.kill()

    stop.at_once = kill
    codes = await asyncio.gather(*(place.keep() for place in places))
    return max(codes)


class _Place:
    """One process at a time, under one number."""

    def __init__(self, number: int, command: list[str], stop: Stop, numbered: bool) -> None:
        self._prefix = f"[{number}] "
        self._numbered = numbered
        self._command = command
        self._stop = stop
        self._process: asyncio.subprocess.Process | None = None

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def keep(self) -> int:
        """Keep a process going; how the last one ended."""
        delay = FIRST_DELAY_SECONDS
        first = True
        while not self._stop.asked.is_set():
            began = time.monotonic()
            pid, code = await self._live()
            if self._stop.asked.is_set():
                return self._conclude(pid, code)
            if first and code == CANNOT_START:
                self._stop.ask(f"{self._prefix}process {pid} cannot start")
                return code
            first = False
            if time.monotonic() - began > SETTLED_SECONDS:
                delay = FIRST_DELAY_SECONDS
            tell(f"{self._prefix}process {pid} {how_it_ended(code)}; another one in {delay:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stop.asked.wait()
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)
        return 0

    def _conclude(self, pid: int, code: int) -> int:
        if code in (0, -self._stop.number):  # the signal came before there was anything to finish
            return 0
        tell(f"{self._prefix}process {pid} {how_it_ended(code)}")
        return 1

    async def _live(self) -> tuple[int, int]:
        """Start a process, pass on what it writes, and tell it when to stop: its id and its exit
        code."""
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # A Ctrl-C in the terminal reaches this process, which passes it on once.
            process_group=0,
        )
        tell(f"{self._prefix}process {process.pid}")
        assert process.stdout is not None
        assert process.stderr is not None
        relays = [
            asyncio.ensure_future(self._relay(process.stdout, sys.stdout.buffer)),
            asyncio.ensure_future(self._relay(process.stderr, sys.stderr.buffer)),
        ]
        ended = asyncio.ensure_future(process.wait())
        asked = asyncio.ensure_future(self._stop.asked.wait())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not ended.done():
            with suppress(ProcessLookupError):
                process.send_signal(self._stop.number)
        code = await ended
        self._process = None
        _, unfinished = await asyncio.wait(relays, timeout=LAST_WORDS_SECONDS)
        for relay in unfinished:
            relay.cancel()
        return process.pid, code

    async def _relay(self, stream: asyncio.StreamReader, out: IO[bytes]) -> None:
        """Write the lines of *stream* to *out*, each behind the number of the place."""
        prefix = self._prefix.encode() if self._numbered else b""
        rest = b""
        while part := await stream.read(1 << 16):
            *lines, rest = (rest + part).split(b"\n")
            if len(rest) > LONGEST_LINE:
                lines.append(rest)
                rest = b""
            _write(out, b"".join(prefix + line + b"\n" for line in lines))
        if rest:
            _write(out, prefix + rest + b"\n")


def _write(out: IO[bytes], text: bytes) -> None:
    with suppress(OSError):  # whoever read this is gone; the processes go on
        out.write(text)
        out.flush()
