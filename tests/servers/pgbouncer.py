"""PgBouncer in front of a PostgreSQL: what a client meets behind a pool of transactions."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.servers.ports import LOOPBACK, free_port
from tests.servers.postgres import (
    Life,
    PostgresAt,
    Value,
    hand_over,
    new_folder,
    output,
    poll,
)
from tests.servers.redis import ServerError

MISSING = "no pgbouncer on PATH: apt-get install pgbouncer"


def program() -> Path | None:
    """The program, if it is on PATH; Debian keeps it where only root looks."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    return Path(found) if found else None


def version() -> str:
    """`pgbouncer 1.18.0`."""
    return " ".join(output([str(program()), "--version"]).split()[:2]).lower()


class PgBouncer:
    """A pool of ours in front of a server, in transaction mode: `through(url)` leads to a database.

    A session of a client ends with each transaction there: prepared statements, advisory locks,
    LISTEN and SET of one may meet another. Settings are those of the section `[pgbouncer]`:
    `default_pool_size=2`, `pool_mode="session"`. It outlives restarts of the server.
    """

    def __init__(self, server: PostgresAt, **settings: Value) -> None:
        found = program()
        if found is None:
            raise ServerError(MISSING)
        self.program = found
        self.host, self.port = LOOPBACK, 0
        self.folder = new_folder("pikku-pgbouncer-")
        self._server = server
        self._settings = settings
        self._life: Life | None = None

    @property
    def running(self) -> bool:
        return self._life is not None and self._life.running

    @property
    def log(self) -> str:
        """What it wrote of itself, over all its lives."""
        path = self.folder / "pgbouncer.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def through(self, url: str) -> str:
        """The URL that leads to the same database by way of this pool; whoever comes is trusted."""
        parts = urlsplit(url)
        place = f"{parts.username or 'pikku'}@{self.host}:{self.port}"
        return parts._replace(netloc=place).geturl()

    def start(self) -> Self:
        """Started, and taking clients; the port stays the same from then on."""
        assert not self.running, "it is running already"
        self.port = self.port or free_port()
        config = self.folder / "pgbouncer.ini"
        config.write_text(self._config())
        hand_over(config)
        log = self.folder / "pgbouncer.log"
        self._life = Life([str(self.program), str(config)], self.folder, log)
        try:
            poll(self._listens, "pgbouncer to listen", (OSError,), self._check_alive, self._words)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ended (SIGTERM), with the connections of its clients."""
        life, self._life = self._life, None
        if life is not None:
            life.end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: no client is told, nor is the server."""
        life, self._life = self._life, None
        if life is not None:
            life.kill()

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
        return version()

    def _listens(self) -> bool:
        with socket.create_connection((self.host, self.port), timeout=1):
            return True

    def _check_alive(self, what: str) -> None:
        if not self.running:
            raise ServerError(f"pgbouncer ended before {what}{self._words()}")

    def _words(self) -> str:
        return ":\n" + "\n".join(self.log.splitlines()[-15:])

    def _config(self) -> str:
        parts = urlsplit(self._server.url)
        place = f"host={self._server.host} port={self._server.port} user={parts.username}"
        if parts.password is not None:
            quoted = unquote(parts.password).replace("'", "''")
            place += f" password='{quoted}'"
        settings: dict[str, Value] = {
            "listen_addr": self.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "max_client_conn": 200,
            "default_pool_size": 20,
        }
        lines = [f"{name} = {value}" for name, value in (settings | self._settings).items()]
        return "\n".join(["[databases]", f"* = {place}", "[pgbouncer]", *lines, ""])
