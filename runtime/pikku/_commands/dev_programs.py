"""The programs of `pikku dev`: the generator, the one that is developed, the type check."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pikku._commands import tether
from pikku._commands.dev_states import (
    Asked,
    Began,
    Do,
    Event,
    Exit,
    Generated,
    GeneratorEnded,
    ProgramEnded,
    State,
    Tell,
    TypesEnded,
    Wanted,
    Word,
    after,
)
from pikku._commands.output import tell
from pikku._commands.target import find_project
from pikku.errors import MissingDependencyError, SettingError

if TYPE_CHECKING:
    from pikku._commands.hosting import Stop

# A worker gives what is under way 30 seconds, and then hands it back.
PATIENCE_SECONDS: Final = 40.0
_LONGEST_LINE: Final = 1 << 26
_WANTED: Final[dict[bytes, Literal["types", "restart"]]] = {b"t": "types", b"r": "restart"}
_KEYS: Final = "t + Enter checks the types, r + Enter begins anew, Ctrl-C stops"


async def keep(stop: Stop, state: State, program: list[str], environment: Mapping[str, str]) -> int:
    """Generate, and keep *program* up to date, from *state* until *stop* asks and everything has
    ended; the exit code.

    Whatever was started ends when this process does, however that ends.
    """
    return await _Keeper(stop, program, environment).keep(state)


class _Tethered:
    """A program that ends when this process does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def started(
        cls, command: list[str], environment: Mapping[str, str], *, heard: bool = False
    ) -> _Tethered:
        """*command* under way; with *heard*, what it prints is for `ended` to hear."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", tether.__file__, str(PATIENCE_SECONDS), *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if heard else None,
            limit=_LONGEST_LINE,
            env=environment,
            # A Ctrl-C in the terminal reaches this process, which passes it on once.
            process_group=0,
        )
        return cls(process)

    def say(self, word: bytes) -> None:
        """A word of the tether's; to one that is gone it does not matter."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.write(word)

    async def ended(self, hear: Callable[[bytes], None] | None = None) -> int:
        """The exit code, once there is one; *hear* is told each line that is printed before, as
        long as it is whole."""
        if hear is not None and self._process.stdout is not None:
            async for line in self._process.stdout:
                if line.endswith(b"\n"):
                    hear(line)
        return await self._process.wait()


class _Keeper:
    """Performs what the state asks for, and hears what comes of it."""

    def __init__(self, stop: Stop, program: list[str], environment: Mapping[str, str]) -> None:
        self._program = program
        self._environment = environment
        self._stop = stop
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._live: dict[str, _Tethered] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def keep(self, state: State) -> int:
        """Go on until everything has ended; the exit code."""
        put = self._events.put_nowait
        self._stop.at_once = self._kill
        self._spawn(self._notice_the_stop())
        generator = [sys.executable, "-m", "pikku_gen", "--watch", "--format", "json"]
        await self._start("generator", generator, GeneratorEnded, lambda line: _heard(line, put))
        _listen(asyncio.get_running_loop(), put)
        if os.isatty(0):
            tell(f"dev: {_KEYS}")
        while True:
            state, actions = after(state, await self._events.get())
            for action in actions:
                match action:
                    case Tell(text):
                        tell(f"dev: {text}")
                    case Do(word):
                        await self._do(word)
                    case Exit(code):
                        return code

    async def _do(self, word: Word) -> None:
        match word:
            case "start":
                tell(f"dev: {shlex.join(self._shown())}")
                await self._start("program", self._program, ProgramEnded)
            case "check types":
                await self._check_types()
            case "drain":
                self._live["program"].say(tether.ASK)
            case "cancel types":
                self._live["types"].say(tether.KILL)
            case "stop generator":
                self._live["generator"].say(tether.ASK)

    async def _check_types(self) -> None:
        if find_spec("mypy") is None:
            missing = MissingDependencyError("the type check", "demo")
            tell(f"dev: {missing.message}: {missing.hint}")
            self._events.put_nowait(TypesEnded())
            return
        command = [sys.executable, "-m", "mypy", *what_to_check(Path.cwd())]
        tell(f"dev: {shlex.join(['mypy', *command[3:]])}")
        await self._start("types", command, lambda code: TypesEnded())

    async def _start(
        self,
        name: str,
        command: list[str],
        ended: Callable[[int], Event],
        hear: Callable[[bytes], None] | None = None,
    ) -> None:
        """*command* is under way under *name* when this comes back; its end is an event."""
        live = self._live[name] = await _Tethered.started(
            command, self._environment, heard=hear is not None
        )

        async def follow() -> None:
            self._events.put_nowait(ended(await live.ended(hear)))

        self._spawn(follow())

    async def _notice_the_stop(self) -> None:
        await self._stop.asked.wait()
        self._events.put_nowait(Asked())

    def _kill(self) -> None:
        for each in self._live.values():
            each.say(tether.KILL)

    def _shown(self) -> list[str]:
        own = self._program[:3] == [sys.executable, "-m", "pikku.cli"]
        return ["pikku", *self._program[3:]] if own else self._program

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _heard(line: bytes, put: Callable[[Event], None]) -> None:
    """The event that a line of `pikku-gen --watch --format json` is."""
    document: dict[str, Any] = json.loads(line)
    put(Began() if document["event"] == "began" else Generated(document["failed"]))


def _listen(loop: asyncio.AbstractEventLoop, put: Callable[[Event], None]) -> None:
    """What is typed becomes events, as long as something can be typed."""
    # In the background of a terminal, a read is an error, and no reason to stand still.
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)

    def listen() -> None:
        typed = b""
        with suppress(OSError, RuntimeError):  # RuntimeError: the loop is closed
            while part := os.read(0, 1024):
                *lines, typed = (typed + part).split(b"\n")
                for line in lines:
                    loop.call_soon_threadsafe(understand, line.strip())

    def understand(line: bytes) -> None:
        if line in _WANTED:
            put(Wanted(_WANTED[line]))
        elif line:
            tell(f"dev: {_KEYS}")

    threading.Thread(target=listen, name="pikku-typed", daemon=True).start()


def what_to_check(folder: Path) -> list[str]:
    """The arguments of mypy in *folder*: none where its settings say what to check, else the
    packages of the project there."""
    file = folder / "pyproject.toml"
    with suppress(OSError, ValueError):
        settings = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        mypy = settings.get("tool", {}).get("mypy", {})
        if mypy.keys() & {"files", "packages", "modules"}:
            return []
    if (folder / "mypy.ini").is_file() or (folder / ".mypy.ini").is_file():
        return []
    with suppress(SettingError):
        project = find_project(folder)
        if project is not None and project.root is not None:
            names = (project.root, project.app_package or "")
            found = [root / name for root in project.import_roots for name in names if name]
            return [os.path.relpath(path, folder) for path in found if path.is_dir()]
    return ["."]
