"""Servers start, die and come back as a test asks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers import redis
from tests.servers.fixtures import MakeProxy, MakeRedis, RedisServers, unavailable
from tests.servers.redis import (
    Databases,
    Program,
    RedisServer,
    ServerError,
    servers,
    wait_for_cluster,
)
from tests.servers.resp import Connection, ReplyError

ROOT = Path(__file__).resolve().parents[2]
each_program = pytest.mark.parametrize("program", servers(), ids=str)


@each_program
def test_each_program_found_starts_and_says_its_version(
    make_redis: MakeRedis, program: Program
) -> None:
    server = make_redis(program)

    info = server.info("server")
    assert program.version in (info.get("valkey_version"), info["redis_version"])
    assert server.cli("SET", "k", "ü") == "OK"
    assert server.cli("GET", "k") == "ü"
    assert program.release > (6,)


@each_program
def test_what_was_written_with_fsync_survives_a_kill(
    make_redis: MakeRedis, program: Program
) -> None:
    server = make_redis(program, appendonly=True, appendfsync="always")
    url, pid = server.url, server.pid
    assert server.cli("INCR", "n") == 1
    server.kill()
    assert not server.running
    with pytest.raises(ConnectionRefusedError):
        server.cli("PING")
    server.start()

    assert (server.url, server.pid == pid) == (url, False)
    assert server.cli("GET", "n") == "1"


def test_without_options_nothing_survives_a_restart(make_redis: MakeRedis) -> None:
    server = make_redis()
    server.cli("SET", "k", "v")
    server.restart()

    assert server.cli("GET", "k") is None


def test_directives_reach_the_server(make_redis: MakeRedis) -> None:
    server = make_redis(maxmemory="8mb", maxmemory_policy="noeviction")

    assert server.cli("CONFIG", "GET", "maxmemory") == ["maxmemory", str(8 * 1024 * 1024)]


def test_a_wrong_directive_is_told_in_the_server_s_words(make_redis: MakeRedis) -> None:
    with pytest.raises(ServerError, match="no-such-thing"):
        make_redis(no_such_thing=True)


def test_the_url_of_a_server_with_a_password_holds_it(make_redis: MakeRedis) -> None:
    server = make_redis(requirepass="s3cr/t@")

    assert server.cli("PING") == "PONG"
    with (
        Connection(f"redis://{server.host}:{server.port}/0") as stranger,
        pytest.raises(ReplyError, match="NOAUTH"),
    ):
        stranger.ask("PING")


def test_a_server_can_have_users(make_redis: MakeRedis) -> None:
    server = make_redis(user=["default off", "app on >pw ~pikku:* &* +@all -@dangerous"])

    with Connection(f"redis://app:pw@{server.host}:{server.port}/0") as app:
        assert app.ask("SET", "pikku:k", "v") == "OK"
        with pytest.raises(ReplyError, match="NOPERM"):
            app.ask("SET", "k", "v")


def test_a_server_can_be_reached_by_its_socket_file(make_redis: MakeRedis) -> None:
    server = make_redis(unix=True, requirepass="pw")

    with Connection(server.unix_url) as connection:
        assert connection.ask("PING") == "PONG"


def test_a_server_can_speak_tls(make_redis: MakeRedis) -> None:
    program = next((each for each in servers() if each.speaks_tls), None)
    if program is None or shutil.which("openssl") is None:
        pytest.skip("no server here was built with TLS, or no openssl to make a certificate")
    server = make_redis(program, tls=True)

    assert server.url.startswith("rediss://")
    assert server.cli("PING") == "PONG"


@each_program
def test_a_cluster_of_one_node_takes_writes(make_redis: MakeRedis, program: Program) -> None:
    server = make_redis.cluster(program)

    assert server.cli("SET", "{run}:k", "v") == "OK"
    with pytest.raises(ReplyError, match="CROSSSLOT"):
        server.cli("MSET", "a", "1", "b", "2")


def test_the_shared_cluster_is_empty_and_survives_a_restart(redis_cluster: RedisServer) -> None:
    assert redis_cluster.cli("DBSIZE") == 0
    redis_cluster.restart()
    wait_for_cluster(redis_cluster)
    assert redis_cluster.cli("SET", "k", "v") == "OK"


@each_program
def test_a_sentinel_puts_a_replica_in_the_place_of_a_dead_primary(
    make_redis: MakeRedis, program: Program
) -> None:
    primary = make_redis(program, requirepass="pw")
    primary.cli("SET", "k", "v")
    replica = make_redis.replica(primary)
    assert replica.cli("GET", "k") == "v"
    with pytest.raises(ReplyError, match="READONLY"):
        replica.cli("SET", "k", "w")
    sentinel = make_redis.sentinel(primary, down_after_ms=100, replicas=1)
    primary.kill()
    sentinel.wait_until(lambda: replica.cli("SET", "k", "w") == "OK", "the replica to lead")
    where = ["127.0.0.1", str(replica.port)]
    sentinel.wait_until(
        lambda: sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "pikku") == where,
        "the sentinel to say so",
    )


def test_each_test_gets_an_empty_database(redis_url: str, make_redis: MakeRedis) -> None:
    with Connection(redis_url) as connection:
        assert connection.ask("DBSIZE") == 0
        connection.ask("SET", "k", "v")
    databases = Databases(make_redis())
    urls = [databases.fresh_url() for _ in range(17)]
    assert len(set(urls)) == 16
    assert urls[0] == urls[16]


def test_a_database_that_comes_round_again_is_emptied(make_redis: MakeRedis) -> None:
    databases = Databases(make_redis(), share=(1, 8))
    for _ in range(3):
        with Connection(databases.fresh_url()) as connection:
            assert connection.ask("DBSIZE") == 0
            connection.ask("SET", "k", "v")


def test_processes_that_share_a_server_never_share_a_database(make_redis: MakeRedis) -> None:
    server = make_redis()
    shares = [Databases(server, share=(which, 3)) for which in range(3)]
    urls = [{share.fresh_url() for _ in range(16)} for share in shares]

    assert sum(len(each) for each in urls) == len(set().union(*urls)) == 16
    with pytest.raises(ServerError, match="too few"):
        Databases(server, share=(16, 17))


@pytest.mark.parametrize("redis_url", servers(), ids=str, indirect=True)
def test_a_test_can_ask_for_a_database_of_each_program(redis_url: str) -> None:
    with Connection(redis_url) as connection:
        assert connection.ask("DBSIZE") == 0


def test_a_server_of_somebody_else_can_be_named_by_its_url(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_redis()
    monkeypatch.setenv("PIKKU_TEST_REDIS_URL", server.url)
    used: set[str] = set()
    databases = RedisServers(used).databases()

    assert databases.server.port == server.port
    assert used == {str(server).removesuffix(" (wheel)")}
    with Connection(databases.fresh_url()) as connection:
        assert connection.ask("PING") == "PONG"


def test_a_server_behind_a_proxy_executes_what_it_cannot_answer(
    make_redis: MakeRedis, make_proxy: MakeProxy
) -> None:
    server = make_redis()
    proxy = make_proxy(server)
    with Connection(proxy.through(server.url)) as connection:
        proxy.reset_after(0, "reply", when=b"INCR")
        with pytest.raises(ConnectionResetError):
            connection.ask("INCR", "n")

    assert server.cli("GET", "n") == "1"


def test_more_programs_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text('#!/bin/sh\necho "Redis server v=1.2.3 sha=0"\n')
    program.chmod(0o755)
    (tmp_path / "notes").write_text("")
    monkeypatch.setenv("PATH", "/nowhere")
    paths = [str(program), str(tmp_path / "notes"), str(tmp_path / "missing")]
    monkeypatch.setenv("PIKKU_TEST_REDIS_BINARIES", os.pathsep.join(paths))
    found = redis.servers.__wrapped__()

    assert str(found[0]) == "redis 1.2.3"
    assert all(each.wheel for each in found[1:])


@pytest.mark.parametrize(
    ("required", "outcome"),
    [("", pytest.skip.Exception), ("postgres,redis", pytest.fail.Exception)],
)
def test_a_missing_server_fails_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PIKKU_TEST_REQUIRE", required)

    with pytest.raises(outcome, match="nothing here"):
        unavailable("redis", "nothing here")


ORPHAN = """
import sys
from tests.servers.redis import RedisServer

server = RedisServer().start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


def test_a_server_ends_with_the_process_that_started_it(make_redis: MakeRedis) -> None:
    other = make_redis()
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

    other.wait_until(lambda: not Path(folder).exists(), "the guard to clear up")
    # Killed, though perhaps not yet buried by whoever inherits orphans here.
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
