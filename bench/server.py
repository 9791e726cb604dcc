"""A Redis server of the bench's own, and what it says it did: CPU, commands, calls."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .meter import Meter

# What a client of ours sends; commands inside scripts are other ones.
CALLS = ("evalsha", "bzpopmin")
OF_THE_BENCH = ("cmdstat_info", "cmdstat_zcard")
TIMERS = "{pk:0}:tm"
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server had done by some moment."""

    cpu_s: float
    commands: Mapping[str, int]
    memory_mb: float


class Server:
    """A server that answers on a loopback port."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def usage(self) -> Usage:
        """What it did so far."""
        told = dict(line.split(":", 1) for line in self._info().splitlines() if ":" in line)
        commands = {
            name.removeprefix("cmdstat_"): int(value.split("calls=")[1].split(",")[0])
            for name, value in told.items()
            if name.startswith("cmdstat_") and name not in OF_THE_BENCH
        }
        cpu = float(told["used_cpu_user"]) + float(told["used_cpu_sys"])
        return Usage(cpu, commands, int(told["used_memory"]) / 2**20)

    def timers(self) -> int:
        """How many timers of the engine are set."""
        return int(self._ask(f"ZCARD {TIMERS}")[1:])

    @contextmanager
    def monitored(self) -> Generator[list[str]]:
        """What clients send, a line per command, without what scripts do; complete at its end."""
        sent: list[str] = []
        with socket.create_connection(("127.0.0.1", self.port), _PATIENCE_S) as connection:
            connection.settimeout(None)
            connection.sendall(b"MONITOR\r\n")
            told = connection.makefile("rb")
            told.readline()

            def read() -> None:
                for line in told:
                    if b" lua] " not in line:
                        sent.append(line.decode(errors="replace"))

            thread = threading.Thread(target=read)
            thread.start()
            try:
                yield sent
            finally:
                time.sleep(0.1)
                connection.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _info(self) -> str:
        return self._ask("INFO everything")

    def _ask(self, command: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), _PATIENCE_S) as connection:
            connection.sendall(f"{command}\r\n".encode())
            with connection.makefile("rb") as answer:
                first = answer.readline().decode()
                return answer.read(int(first[1:])).decode() if first.startswith("$") else first


@contextmanager
def redis_server(data: Path, fsync: str = "everysec") -> Generator[Server]:
    """A server with an append-only file, gone afterwards."""
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("no redis-server on PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": data,
        "save": "",
        "appendonly": "yes",
        "appendfsync": fsync,
    }
    process = subprocess.Popen(
        [program, *(str(part) for name, value in options.items() for part in (f"--{name}", value))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = Server(port)
        _until_it_answers(server, process)
        yield server
    finally:
        process.terminate()
        process.wait()


def _until_it_answers(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while True:
        with suppress(OSError):
            server.usage()
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("redis-server did not start")
        time.sleep(0.01)


def server_version() -> str | None:
    """`Redis 7.0.15`: what `redis_server` starts."""
    program = shutil.which("redis-server")
    if program is None:
        return None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return "Redis " + said.stdout.split("v=")[1].split()[0]


class ServerMeter:
    """What passed between `with` and its end, here and in the server.

    Attributes:
        own: CPU of this process and wall time.
        server_cpu: CPU seconds of the server.
        calls: what this process and other clients sent, by script or to wait.
        commands: what the server executed, those inside scripts too.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.own = Meter()

    def __enter__(self) -> Self:
        self._before = self._server.usage()
        self.own.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.own.__exit__(kind, error, trace)
        after = self._server.usage()
        self.server_cpu = after.cpu_s - self._before.cpu_s
        self.by_command = {
            name: count - self._before.commands.get(name, 0)
            for name, count in after.commands.items()
            if count != self._before.commands.get(name, 0)
        }
        self.commands = sum(self.by_command.values())
        self.calls = sum(self.by_command.get(name, 0) for name in CALLS)
        self.memory_mb = after.memory_mb - self._before.memory_mb

    def per_step(self, steps: int, others_cpu: float = 0.0) -> dict[str, float]:
        """The metrics of a cell whose unit is the step; `cpu_ms` counts the server, too."""
        engine = self.own.cpu + others_cpu
        busy = self.server_cpu + others_cpu
        return {
            "cpu_ms": (engine + self.server_cpu) / steps * 1e3,
            "engine_ms": engine / steps * 1e3,
            "server_ms": self.server_cpu / steps * 1e3,
            "commands": self.commands / steps,
            "calls": self.calls / steps,
            "per_s": steps / self.own.wall,
            "noise": max(0.0, self.own.noise - busy / max(self.own.wall * self.own.cores, 1e-9)),
        }
