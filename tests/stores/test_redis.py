"""What is particular to Redis: scripts, answers that are lost, servers that forget, refuse or are
not what one thinks they are."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.servers.fixtures import MakeProxy, MakeRedis
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisAt, RedisServer, servers

from pikku._records import (
    CancelRun,
    CompleteStep,
    FireTimers,
    Op,
    ReapSessions,
    RunFilter,
    Settle,
    StepWrite,
)
from pikku.errors import (
    CorruptStateError,
    SchemaVersionError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreUnsafeError,
    StoreUrlError,
)
from pikku.stores import make_store
from pikku.stores.base import DEFAULT_QUEUE, JOBS, MAIL, ORCHESTRATOR_QUEUE
from pikku.stores.redis import transport
from pikku.stores.redis.store import RedisStore
from pikku.testing.store_contract import LEASE_US, must, new_run, run_of, step_of, turn, write

TAG = "{pk:0}"
JOB_QUEUE = JOBS + DEFAULT_QUEUE
SECRET = "s3cr3t-Wörd"

Open = Callable[..., Awaitable[RedisStore]]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens stores, and closes them after the test."""
    async with AsyncExitStack() as stack:

        async def opened(url: str, options: str = "") -> RedisStore:
            joined = url + (("&" if "?" in url else "?") + options if options else "")
            store = make_store(joined)
            assert isinstance(store, RedisStore)
            await store.open()
            stack.push_async_callback(store.close)
            return store

        yield opened


def at(url: str) -> RedisAt:
    return RedisAt(url)


def job(key: str) -> StepWrite:
    """A step that crosses the default queue."""
    return write(key, "scheduled")._replace(queue=DEFAULT_QUEUE)


def done(run_id: str, key: str, result: str = "1", attempt: int = 1) -> CompleteStep:
    return CompleteStep(run_id, key, attempt, "succeeded", result, None)


async def start_with_jobs(store: RedisStore, run_id: str = "r", *keys: str) -> None:
    """A run of session `s1` that has asked for jobs."""
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run(run_id, claim=True, inline=False))
    await must(store, "s1", turn(run_id, 1, asks=[job(key) for key in keys or ("a",)]))


async def walk_through(store: RedisStore, run_id: str = "r") -> None:
    """A run from its start to its end, over two sessions."""
    await start_with_jobs(store, run_id)
    store.beat("s2", LEASE_US)
    reply = await store.apply("s2", [], {JOB_QUEUE: 5})
    assert [(each.run_id, each.step.key) for each in reply.jobs] == [(run_id, "a")]
    await must(store, "s2", done(run_id, "a"))
    mail = (await store.apply("s1", [], {MAIL: 1})).inbox
    assert [(each.run_id, each.key, each.number) for each in mail] == [(run_id, "a", 1)]
    await must(store, "s1", turn(run_id, 2, 1, settle=Settle("completed", "1")))
    assert (await run_of(store, run_id)).status == "completed"
    assert [run.run_id for run in await store.list_runs(RunFilter(status="completed"))] == [run_id]


# --- servers ---------------------------------------------------------------------


@pytest.mark.parametrize("redis_url", servers(), indirect=True, ids=str)
async def test_a_run_goes_its_way_on_every_server_that_is_here(
    redis_url: str, opened: Open
) -> None:
    await walk_through(await opened(redis_url))


async def test_a_cluster(redis_cluster: RedisServer, opened: Open) -> None:
    place = urlsplit(redis_cluster.url)
    store = await opened(f"redis+cluster://{place.hostname}:{place.port}", "partitions=3")
    for number in range(6):
        await walk_through_any_partition(store, f"r{number}")
    assert await store.count_runs() == {"completed": 6}
    assert await store.wait("s1", [JOB_QUEUE], 0.01) in (JOB_QUEUE, MAIL, None)
    assert (await store.examine()).sessions


async def walk_through_any_partition(store: RedisStore, run_id: str) -> None:
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run(run_id, claim=True, inline=False))
    await must(store, "s1", turn(run_id, 1, asks=[job("a")]))
    found: list[str] = []
    while not found:
        reply = await store.apply("s1", [], {JOB_QUEUE: 5})
        found = [each.run_id for each in reply.jobs]
    assert found == [run_id]
    await must(store, "s1", done(run_id, "a"))
    await must(store, "s1", turn(run_id, 2, 1, settle=Settle("completed", "1")))


async def test_a_sentinel_leads_to_its_primary(make_redis: MakeRedis, opened: Open) -> None:
    primary = make_redis(appendonly=True)
    sentinel = make_redis.sentinel(primary)
    store = await opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/pikku/3")
    await walk_through(store)
    assert at(primary.database(3)).cli("EXISTS", f"{TAG}:r:r") == 1


async def test_a_sentinel_that_does_not_know_the_service_is_said_so(
    make_redis: MakeRedis, opened: Open
) -> None:
    sentinel = make_redis.sentinel(make_redis())
    with pytest.raises(StoreError) as caught:
        await opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/elsewhere")
    assert "elsewhere" in str(caught.value)


async def test_a_sentinel_failover_is_followed(make_redis: MakeRedis, opened: Open) -> None:
    primary = make_redis(appendonly=True)
    replica = make_redis.replica(primary)
    sentinel = make_redis.sentinel(primary, replicas=1)
    store = await opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/pikku/0")
    await start_with_jobs(store)
    primary.cli("WAIT", 1, 5000)
    primary.kill()
    replica.wait_until(
        lambda: replica.info("replication")["role"] == "master", "the replica to take over"
    )

    def beats() -> bool:
        try:
            return store.beat("s1", LEASE_US)
        except StoreError:
            return False

    await asyncio.to_thread(replica.wait_until, beats, "the store to find its new primary")
    assert (await run_of(store, "r")).owner == "s1"
    (claimed,) = (await store.apply("s1", [], {JOB_QUEUE: 5})).jobs
    assert (claimed.run_id, claimed.step.key) == ("r", "a")
    await must(store, "s1", done("r", "a"))
    await must(store, "s1", turn("r", 2, 1, settle=Settle("completed", "1")))


async def test_tls(make_redis: MakeRedis, opened: Open) -> None:
    able = [program for program in servers() if program.speaks_tls]
    if not able:
        pytest.skip("no server here speaks TLS")
    server = make_redis(able[0], tls=True)
    await walk_through(await opened(server.url))
    with pytest.raises(StoreUnavailableError):
        await opened(server.url.partition("?")[0])  # nobody vouches for its certificate


async def test_a_unix_socket(make_redis: MakeRedis, opened: Open) -> None:
    server = make_redis(unix=True, requirepass="p%w")
    place = urlsplit(server.unix_url)
    store = await opened(f"redis+unix://:p%25w@{place.path}")
    await walk_through(store)
    assert "p%w" not in store.address
    assert "p%25w" not in store.address


# --- scripts ---------------------------------------------------------------------


async def test_a_server_that_has_lost_its_scripts_gets_them_again(
    make_redis: MakeRedis, opened: Open
) -> None:
    server = make_redis()
    store = await opened(server.url)
    await start_with_jobs(store)
    server.cli("SCRIPT", "FLUSH")
    assert store.beat("s1", LEASE_US)
    server.cli("SCRIPT", "FLUSH")
    await must(store, "s1", new_run("r2", claim=True))
    server.cli("SCRIPT", "FLUSH")
    reply = await store.apply("s1", [new_run("r3", claim=True)], {JOB_QUEUE: 1})
    assert [each.step.key for each in reply.jobs] == ["a"]
    server.cli("SCRIPT", "FLUSH")
    assert await store.load_steps("r") is not None
    server.cli("SCRIPT", "FLUSH")
    assert "s1" in (await store.examine()).sessions


async def test_every_key_lies_in_the_slot_of_its_partition(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "retention=1h")
    await walk_through(store)
    await must(store, "s1", new_run("t", claim=True, tags=("a=b",), timeout_us=9_000_000))
    assert [key for key in at(redis_url).cli("KEYS", "*") if not key.startswith(f"{TAG}:")] == []


# --- answers that are lost -------------------------------------------------------


class Wire:
    """A store behind a proxy, and the same server without it."""

    def __init__(self, proxy: FaultProxy, store: RedisStore, url: str) -> None:
        self.proxy, self.store, self.url = proxy, store, url

    def lose_an_answer(self) -> None:
        """The next script is executed, and nobody is told."""
        self.proxy.reset_after(0, "reply", when=b"EVALSHA")

    def lose_answers(self) -> None:
        """So are all until the proxy is healed."""
        self.proxy.reset_after(0, "reply", on="each", when=b"EVALSHA")


@pytest.fixture
async def wire(redis_server: RedisAt, redis_url: str, make_proxy: MakeProxy, opened: Open) -> Wire:
    proxy = make_proxy(redis_server)
    return Wire(proxy, await opened(proxy.through(redis_url)), redis_url)


async def test_a_turn_whose_answer_is_lost_is_recorded_once(wire: Wire) -> None:
    store = wire.store
    await start_with_jobs(store)
    wire.lose_an_answer()
    await must(store, "s1", turn("r", 2, asks=[job("b")]))
    assert (await run_of(store, "r")).turn == 2
    assert at(wire.url).cli("LLEN", f"{TAG}:q:{JOB_QUEUE}") == 2


async def test_an_outcome_whose_answer_is_lost_is_recorded_once(wire: Wire) -> None:
    store = wire.store
    await start_with_jobs(store)
    store.beat("s2", LEASE_US)
    await store.apply("s2", [], {JOB_QUEUE: 1})
    wire.lose_an_answer()
    await must(store, "s2", done("r", "a"))
    assert (await run_of(store, "r")).deliveries == 1
    assert len((await store.apply("s1", [], {MAIL: 1})).inbox) == 1


async def test_a_failure_with_a_retry_whose_answer_is_lost_counts_once(wire: Wire) -> None:
    store = wire.store
    await start_with_jobs(store)
    store.beat("s2", LEASE_US)
    await store.apply("s2", [], {JOB_QUEUE: 1})
    wire.lose_an_answer()
    failed = CompleteStep("r", "a", 1, "failed", None, '["E", "m"]', 0)
    await must(store, "s2", failed)
    step = await step_of(store, "r", "a")
    assert (step.attempt, step.failures) == (2, 1)
    assert at(wire.url).cli("LLEN", f"{TAG}:q:{JOB_QUEUE}") == 1


async def test_a_start_whose_answer_is_lost_finds_the_run_that_it_made(wire: Wire) -> None:
    wire.store.beat("s1", LEASE_US)
    wire.lose_an_answer()
    result = (await wire.store.apply("s1", [new_run("r", claim=True)], {})).results[0]
    assert result.code in ("ok", "exists")
    assert result.run is not None
    assert result.run.owner == "s1"
    assert await wire.store.count_runs() == {"running": 1}


@pytest.mark.parametrize("times", ["once", "until healed"])
async def test_claims_and_mail_of_a_lost_answer_come_again(wire: Wire, times: str) -> None:
    store = wire.store
    await start_with_jobs(store, "r", "a", "b")
    await must(store, "s1", new_run("q", inline=False))
    store.beat("s2", LEASE_US)
    await store.apply("s2", [], {JOB_QUEUE: 1})
    await must(store, "s2", done("r", "a"))
    want = {JOB_QUEUE: 5, ORCHESTRATOR_QUEUE: 5, MAIL: 1}
    if times == "once":
        wire.lose_an_answer()
    else:
        wire.lose_answers()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await store.apply("s1", [], want)
        wire.proxy.heal()
    reply = await store.apply("s1", [], want)
    assert [each.step.key for each in reply.jobs] == ["b"]
    assert [each.run.run_id for each in reply.claimed] == ["q"]
    assert [each.key for each in reply.inbox] == ["a"]
    # Once it is known to have arrived, it does not come again.
    again = await store.apply("s1", [], want)
    assert (list(again.jobs), list(again.claimed), list(again.inbox)) == ([], [], [])


async def test_what_was_given_back_does_not_come_again_with_a_lost_answer(wire: Wire) -> None:
    store = wire.store
    await start_with_jobs(store)
    store.beat("s2", LEASE_US)
    await store.apply("s2", [], {JOB_QUEUE: 1})
    wire.lose_answers()
    with pytest.raises(StoreUnavailableError):
        await store.apply("s2", [done("r", "a")], {JOB_QUEUE: 1})
    wire.proxy.heal()
    reply = await store.apply("s2", [done("r", "a")], {JOB_QUEUE: 1})
    assert (reply.results[0].code, list(reply.jobs)) == ("ok", [])


async def test_a_beat_whose_answer_is_lost_leaves_the_session_alive(wire: Wire) -> None:
    wire.store.beat("s1", LEASE_US)
    wire.lose_an_answer()
    assert wire.store.beat("s1", LEASE_US)


async def overtaken(wire: Wire, call: Awaitable[Any]) -> Any:
    """What *call* answers when it is given up and made again, and the second one gets there first.

    The first one is still on its way then.
    """
    task = asyncio.ensure_future(call)
    sent = wire.proxy.counts.request_bytes
    await asyncio.sleep(0.1)
    assert wire.proxy.counts.request_bytes == sent
    wire.proxy.delay(0)
    return await task


async def test_a_call_that_was_overtaken_by_its_repeat_claims_nothing(
    redis_server: RedisAt,
    redis_url: str,
    make_proxy: MakeProxy,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "CALL_SECONDS", 0.4)
    proxy = make_proxy(redis_server)
    wire = Wire(proxy, await opened(proxy.through(redis_url)), redis_url)
    other = await opened(redis_url)
    wire.store.beat("s2", LEASE_US)
    proxy.delay(1.2, "request")
    reply = await overtaken(wire, wire.store.apply("s2", [], {JOB_QUEUE: 5}))
    assert list(reply.jobs) == []
    passed = proxy.counts.request_bytes
    await start_with_jobs(other)
    await asyncio.to_thread(proxy.wait_for, lambda counts: counts.request_bytes > passed)
    # The late call has arrived. Whoever made it has long stopped to listen.
    for _ in range(50):
        if at(redis_url).cli("LLEN", f"{TAG}:q:{JOB_QUEUE}") == 0:
            break
        await asyncio.sleep(0.01)
    reply = await wire.store.apply("s2", [], {JOB_QUEUE: 5})
    assert [each.step.key for each in reply.jobs] == ["a"], "the job is held by nobody who knows"


async def test_a_late_call_deletes_no_mail(
    redis_server: RedisAt,
    redis_url: str,
    make_proxy: MakeProxy,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "CALL_SECONDS", 0.4)
    proxy = make_proxy(redis_server)
    store = await opened(proxy.through(redis_url))
    other = await opened(redis_url)
    await start_with_jobs(store, "r", "a", "b", "c")
    other.beat("s2", LEASE_US)
    await other.apply("s2", [], {JOB_QUEUE: 3})
    await must(other, "s2", done("r", "a"))
    assert [each.key for each in (await store.apply("s1", [], {MAIL: 1})).inbox] == ["a"]
    proxy.delay(1.2, "request")
    await overtaken(Wire(proxy, store, redis_url), store.apply("s1", [], {MAIL: 1}))
    passed = proxy.counts.request_bytes
    await must(other, "s2", done("r", "b"))
    assert [each.key for each in (await store.apply("s1", [], {MAIL: 1})).inbox] == ["b"]
    assert list((await store.apply("s1", [], {MAIL: 1})).inbox) == []
    await must(other, "s2", done("r", "c"))
    await asyncio.sleep(1.5)  # the late call arrives
    assert proxy.counts.request_bytes > passed
    assert [each.key for each in (await store.apply("s1", [], {MAIL: 1})).inbox] == ["c"]


async def test_a_server_that_has_gone_back_ends_the_sessions_that_went_on(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url)
    await start_with_jobs(store)
    server = at(redis_url)
    kept = {key: server.cli("HGETALL", key) for key in (f"{TAG}:r:r", f"{TAG}:own:s1")}
    await must(store, "s1", turn("r", 2, settle=Settle("completed", "1")))
    for key, flat in kept.items():
        server.cli("DEL", key)
        server.cli("HSET", key, *flat)
    reply = await store.apply("s1", [], {MAIL: 1})
    assert not reply.session_alive


@pytest.mark.parametrize("how", ["reaped", "flushed"])
async def test_a_start_of_a_session_that_was_reaped_is_not_lost(
    redis_url: str, opened: Open, how: str
) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    for number in range(3):
        await must(store, "s1", new_run(f"r{number}", inline=False))
    if how == "reaped":
        at(redis_url).cli("ZADD", f"{TAG}:sess", 1, "s1")
        other = await opened(redis_url)
        other.beat("s2", LEASE_US)
        await other.apply("s2", [ReapSessions()], {})
    else:
        at(redis_url).cli("FLUSHDB")
    result = (await store.apply("s1", [new_run("new", inline=False)], {})).results[0]
    assert result.code == "ok"
    assert (await run_of(store, "new")).queued
    await must(store, "s1", CancelRun("new", "why"))
    assert (await run_of(store, "new")).cancel_us


# --- data that are damaged -------------------------------------------------------


async def test_an_operation_on_damaged_data_fails_alone(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url)
    for name in ("r1", "r2", "r3"):
        await start_with_jobs(store, name)
    at(redis_url).cli("DEL", f"{TAG}:s:r2")
    at(redis_url).cli("SET", f"{TAG}:s:r2", "what?")
    ops = [turn(name, 2, asks=[job("b")]) for name in ("r1", "r2", "r3")]
    results = (await store.apply("s1", ops, {})).results
    assert [each.code for each in results] == ["ok", "error", "ok"]
    assert isinstance(results[1].error, CorruptStateError)
    assert "r2" in str(results[1].error)


async def test_a_damaged_run_does_not_hold_up_the_recovery_of_others(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url)
    names = [f"r{number}" for number in range(9)]
    for name in names:
        await start_with_jobs(store, name)
    at(redis_url).cli("DEL", f"{TAG}:r:r4")
    at(redis_url).cli("RPUSH", f"{TAG}:r:r4", "what?")
    store.beat("s2", LEASE_US)
    await must(store, "s2", new_run("z", claim=True, inline=False))
    for session in ("s1", "s2"):
        at(redis_url).cli("ZADD", f"{TAG}:sess", 1, session)
    store.beat("s3", LEASE_US)
    for _ in range(3):
        await store.apply("s3", [ReapSessions(), FireTimers()], {})
    found: set[str] = set()
    for _ in range(3):
        reply = await store.apply("s3", [], {ORCHESTRATOR_QUEUE: 50})
        found.update(each.run.run_id for each in reply.claimed)
    assert found == {*names, "z"} - {"r4"}


@pytest.mark.parametrize("raw", [b"\x04\x00", b"\x63" + bytes(90)], ids=["cut off", "unknown"])
async def test_a_run_with_a_damaged_step_can_be_ended(
    redis_url: str, opened: Open, raw: bytes
) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True, inline=False, timeout_us=9_000_000))
    await must(store, "s1", turn("r", 1, asks=[job("a")]))
    at(redis_url).cli("HSET", f"{TAG}:s:r", "a", raw)
    at(redis_url).cli("ZADD", f"{TAG}:sess", 1, "s1")
    store.beat("s2", LEASE_US)
    await store.apply("s2", [ReapSessions()], {})
    (claimed,) = (await store.apply("s2", [], {ORCHESTRATOR_QUEUE: 1})).claimed
    assert isinstance(claimed.fault, CorruptStateError)
    await must(store, "s2", turn("r", 2, None, settle=Settle("failed", error='["E", "m"]')))
    assert (await run_of(store, "r")).status == "failed"
    assert await store.count_runs() == {"failed": 1}


# --- what is refused -------------------------------------------------------------


@pytest.mark.parametrize("schema", ["2", "0"])
async def test_another_schema_is_refused(redis_url: str, opened: Open, schema: str) -> None:
    at(redis_url).cli("HSET", f"{TAG}:meta", "schema", schema, "partitions", 1)
    with pytest.raises(SchemaVersionError) as caught:
        await opened(redis_url)
    assert schema in str(caught.value)
    assert at(redis_url).cli("HGET", f"{TAG}:meta", "schema") == schema


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1)])
async def test_another_number_of_partitions_is_refused(
    redis_url: str, opened: Open, first: int, second: int
) -> None:
    await walk_through_any_partition(await opened(redis_url, f"partitions={first}"), "r")
    with pytest.raises(StoreError) as caught:
        await opened(redis_url, f"partitions={second}")
    assert f"partitions={first}" in str(caught.value)
    keys = at(redis_url).cli("KEYS", "*:meta")
    assert {at(redis_url).cli("HGET", key, "partitions") for key in keys} == {str(first)}


async def test_a_replica_is_refused_as_read_only(make_redis: MakeRedis, opened: Open) -> None:
    primary = make_redis()
    replica = make_redis.replica(primary)
    with pytest.raises(StoreReadOnlyError) as caught:
        await opened(replica.url)
    assert "primary" in str(caught.value)


async def test_a_primary_that_becomes_a_replica_refuses_with_a_typed_error(
    make_redis: MakeRedis, opened: Open
) -> None:
    server, other = make_redis(), make_redis()
    store = await opened(server.url)
    store.beat("s1", LEASE_US)
    server.cli("REPLICAOF", "127.0.0.1", other.port)
    with pytest.raises(StoreError):
        store.beat("s1", LEASE_US)
    with pytest.raises(StoreError):
        await must(store, "s1", new_run("r"))
    server.cli("REPLICAOF", "NO", "ONE")
    assert store.beat("s1", LEASE_US) in (True, False)
    await must(store, "s1", new_run("r"))


async def test_a_server_that_is_loading_is_unavailable_for_the_time_being(
    make_redis: MakeRedis, opened: Open
) -> None:
    server = make_redis(appendonly=True, loading_process_events_interval_bytes=1024)
    server.cli("CONFIG", "SET", "key-load-delay", 0)
    for number in range(400):
        server.cli("SET", f"other:{number}", "x" * 200)
    server.cli("BGREWRITEAOF")
    server.wait_until(
        lambda: server.info("persistence")["aof_rewrite_in_progress"] == "0", "the rewrite"
    )
    server.kill()
    server._options["key-load-delay"] = 10_000
    starting = threading.Thread(target=server.start)
    starting.start()
    seen: list[str] = []
    try:
        while starting.is_alive() and not seen:
            try:
                store = make_store(server.url)
                await store.open()
                await store.close()
                break
            except StoreUnavailableError as error:
                if "loading" in str(error):
                    seen.append(str(error))
    finally:
        await asyncio.to_thread(starting.join)
    assert seen
    await walk_through(await opened(server.url))


COMMANDS = (
    "ping evalsha script|load "
    "hget hset hmget hgetall hincrby hdel hkeys hlen "
    "rpush lpop llen lrange ltrim "
    "zadd zrem zscore zcard zrange zrangebyscore zrevrangebyscore bzpopmin "
    "sadd smembers incr del unlink time"
).split()


def user(*more: str) -> str:
    return f"worker on >{SECRET} resetchannels ~{{pk:* -@all {' '.join(f'+{c}' for c in COMMANDS)}"


async def test_a_user_with_the_needed_commands_and_keys_suffices(
    make_redis: MakeRedis, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_redis(appendonly=True)
    server.cli("ACL", "SETUSER", *user().split())
    url = server.url.replace("redis://", f"redis://worker:{SECRET}@")
    store = await opened(url, "retention=1h")
    await walk_through(store)
    await must(store, "s1", new_run("q", claim=True, tags=("k=v",), timeout_us=1))
    await must(store, "s1", FireTimers(), ReapSessions())
    assert await store.list_runs(RunFilter(tag="k=v"))
    assert await store.list_runs(RunFilter(workflow="flow"))
    assert await store.count_runs()
    assert await store.load_history("q")
    assert (await store.examine()).sessions
    await store.wait("s1", [JOB_QUEUE], 0.01)
    denied = [f"{entry[5]} {entry[7]}" for entry in server.cli("ACL", "LOG")]
    # What only looks at the server may be denied.
    harmless = {"info", "config|get", "client|setinfo"}
    assert {each.split()[-1] for each in denied} <= harmless, denied
    assert SECRET not in caplog.text


@pytest.mark.parametrize("missing", ["evalsha", "hset", "zadd", "hgetall"])
async def test_a_user_who_lacks_a_command_is_told_so(
    make_redis: MakeRedis, opened: Open, missing: str
) -> None:
    server = make_redis(appendonly=True)
    server.cli("ACL", "SETUSER", *user().split(), f"-{missing}")
    with pytest.raises(StoreError) as caught:
        store = await opened(server.url.replace("redis://", f"redis://worker:{SECRET}@"))
        store.beat("s1", LEASE_US)
        [result] = (await store.apply("s1", [new_run("r", claim=True)], {})).results
        if result.error is not None:
            raise result.error
        await store.load_run("r")
    assert SECRET not in str(caught.value)
    assert "ACL" in str(caught.value)


async def test_a_user_who_may_not_have_our_keys_is_told(
    make_redis: MakeRedis, opened: Open
) -> None:
    server = make_redis(appendonly=True)
    server.cli("ACL", "SETUSER", "worker", "on", f">{SECRET}", "~app:*", "+@all")
    with pytest.raises(StoreError) as caught:
        await opened(server.url.replace("redis://", f"redis://worker:{SECRET}@"))
    assert SECRET not in str(caught.value)
    assert "ACL" in str(caught.value)


# --- servers that may forget -----------------------------------------------------

FORGETFUL: list[tuple[dict[str, Any], str]] = [
    ({"appendonly": True, "maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"}, "allkeys-lru"),
    ({"appendonly": True, "maxmemory": "50mb", "maxmemory-policy": "volatile-ttl"}, "volatile-ttl"),
    ({"appendonly": False, "save": "900 1"}, "appendonly"),
    ({"appendonly": False}, "persists nothing"),
]


@pytest.mark.parametrize(("directives", "word"), FORGETFUL, ids=[word for _, word in FORGETFUL])
async def test_a_server_that_may_forget_is_warned_of_and_refused_where_strict(
    make_redis: MakeRedis,
    opened: Open,
    caplog: pytest.LogCaptureFixture,
    directives: dict[str, Any],
    word: str,
) -> None:
    server = make_redis(**directives)
    with caplog.at_level(logging.WARNING):
        await walk_through(await opened(server.url))
    assert word in caplog.text
    with pytest.raises(StoreUnsafeError) as caught:
        await opened(server.url, "strict=1")
    assert word in str(caught.value)


async def test_a_server_that_keeps_everything_is_not_warned_of(
    make_redis: MakeRedis, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_redis(appendonly=True, maxmemory="50mb")
    with caplog.at_level(logging.WARNING):
        await walk_through(await opened(server.url, "strict=1"))
    assert not caplog.records


async def test_a_full_server_refuses_new_runs_and_lets_others_end(
    make_redis: MakeRedis, opened: Open
) -> None:
    server = make_redis(appendonly=True)
    if server.program.release < (7,):
        pytest.skip("before 7.0 a script cannot say that it may exceed maxmemory")
    store = await opened(server.url)
    await start_with_jobs(store)
    server.cli("CONFIG", "SET", "maxmemory", 1_000_000)
    (result,) = (await store.apply("s1", [new_run("new")], {})).results
    assert isinstance(result.error, StoreFullError)
    ops: list[Op] = [new_run("new"), turn("r", 2, settle=Settle("completed", "1"))]
    refused, ended = (await store.apply("s1", ops, {})).results
    assert isinstance(refused.error, StoreFullError)
    assert ended.code == "ok"
    assert store.beat("s1", LEASE_US)
    assert (await run_of(store, "r")).status == "completed"
    assert await store.load_run("new") is None
    server.cli("CONFIG", "SET", "maxmemory", 0)
    await must(store, "s1", new_run("new"))


# --- what is kept for how long ---------------------------------------------------


async def test_final_runs_are_deleted_after_their_retention_with_everything_of_theirs(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url, "retention=1h")
    store.beat("s1", LEASE_US)
    for name, status in (("r", "completed"), ("f", "failed"), ("kept", "running")):
        await must(store, "s1", new_run(name, claim=True, tags=("k=v",), timeout_us=9_000_000_000))
        await must(store, "s1", turn(name, 1, asks=[write("a", "running")]))
        if status != "running":
            settle = Settle(status, "1" if status == "completed" else None)  # type: ignore[arg-type]
            await must(store, "s1", turn(name, 2, settle=settle))
    await must(store, "s1", ReapSessions())
    assert len(await store.list_runs(RunFilter(tag="k=v"))) == 3
    server = at(redis_url)
    assert sorted(server.cli("ZRANGE", f"{TAG}:ret", 0, -1)) == ["f", "r"]
    for name in ("r", "f"):
        server.cli("ZADD", f"{TAG}:ret", 1, name)
    await must(store, "s1", ReapSessions())
    assert await store.load_run("r") is None
    assert [run.run_id for run in await store.list_runs(RunFilter(tag="k=v"))] == ["kept"]
    assert await store.count_runs() == {"running": 1}
    left = [key for key in server.cli("KEYS", "*") if key.endswith((":r", ":f"))]
    assert left == []
    for key in server.cli("KEYS", "*"):
        if server.cli("TYPE", key) == "zset":
            members = server.cli("ZRANGE", key, 0, -1)
            assert not [each for each in members if each.endswith(("0r", "1r", "2r", "3r"))], key
    # Its id is free again.
    await must(store, "s1", new_run("r", claim=True))


async def test_runs_are_kept_for_ever_where_that_is_asked(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "retention=forever")
    await walk_through(store)
    assert at(redis_url).cli("EXISTS", f"{TAG}:ret") == 0


async def test_nothing_is_left_of_many_runs_after_their_retention(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url, "retention=1h")
    server = at(redis_url)
    await walk_through(store, "first")

    def kept() -> dict[str, int]:
        sizes = {"hash": "HLEN", "zset": "ZCARD", "list": "LLEN", "set": "SCARD"}
        kinds = {key: server.cli("TYPE", key) for key in server.cli("KEYS", "*")}
        return {key: server.cli(sizes[kind], key) for key, kind in kinds.items() if kind in sizes}

    before = kept()
    names = [f"r{number}" for number in range(120)]
    for name in names:
        await must(store, "s1", new_run(name, claim=True, tags=("k=v",), timeout_us=9_000_000))
        await must(store, "s1", turn(name, 1, asks=[write("a", "running")]))
        await must(store, "s1", turn(name, 2, settle=Settle("completed", "1")))
    for name in names:
        server.cli("ZADD", f"{TAG}:ret", 1, name)
    for _ in range(4):
        await must(store, "s1", ReapSessions())
    assert kept() == before


# --- partitions ------------------------------------------------------------------


async def test_partitions_share_the_runs_and_look_like_one(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "partitions=3")
    store.beat("s1", LEASE_US)
    names = [f"r{number}" for number in range(12)]
    await must(store, "s1", *(new_run(name, inline=False) for name in names))
    used = {key.partition(":r:")[0] for key in at(redis_url).cli("KEYS", "*") if ":r:" in key}
    assert used == {"{pk:0}", "{pk:1}", "{pk:2}"}
    assert await store.count_runs() == {"running": 12}
    assert {run.run_id for run in await store.list_runs(RunFilter())} == set(names)
    times = [run.created_us for run in await store.list_runs(RunFilter())]
    assert times == sorted(times, reverse=True)
    found: set[str] = set()
    for _ in range(6):
        reply = await store.apply("s1", [], {ORCHESTRATOR_QUEUE: 6})
        assert len(reply.claimed) <= 6
        found.update(each.run.run_id for each in reply.claimed)
    assert found == set(names)


async def test_room_for_one_reaches_every_partition_in_the_end(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url, "partitions=3")
    store.beat("s1", LEASE_US)
    names = {f"r{number}" for number in range(9)}
    await must(store, "s1", *(new_run(name, inline=False) for name in sorted(names)))
    found: set[str] = set()
    for _ in range(30):
        reply = await store.apply("s1", [], {ORCHESTRATOR_QUEUE: 1})
        found.update(each.run.run_id for each in reply.claimed)
    assert found == names


async def test_every_partition_is_reaped(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "partitions=3")
    store.beat("s1", LEASE_US)
    names = {f"r{number}" for number in range(9)}
    await must(store, "s1", *(new_run(n, inline=False, claim=True) for n in sorted(names)))
    for number in range(3):
        at(redis_url).cli("ZADD", f"{{pk:{number}}}:sess", 1, "s1")
    store.beat("s2", LEASE_US)
    reply = await store.apply("s2", [ReapSessions()], {ORCHESTRATOR_QUEUE: 30})
    assert {each.run.run_id for each in reply.claimed} == names
    assert store.beat("s1", LEASE_US) is False


# --- secrets ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@127.0.0.1:1/0?partitions=x",
        "redis://me:{}@127.0.0.1:1/0?nonsense=1",
        "redis://me:{}@127.0.0.1:1/0?retention=soon",
        "redis+sentinel://me:{}@127.0.0.1:1",
        "redis+nothing://me:{}@127.0.0.1:1/0",
        "redis+cluster://me:{}@127.0.0.1:port",
        "rediss+unix://me:{}@/tmp/x",
        "postgresql://me:{}@127.0.0.1/db",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    secret = "s3cr3t"
    with pytest.raises(StoreUrlError) as caught:
        make_store(url.format(secret))
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value)


async def test_no_message_shows_the_password(
    make_redis: MakeRedis, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = make_redis(requirepass="s3cr3t")
    wrong = server.url.replace("s3cr3t", "wr0ng")
    with pytest.raises(StoreUnavailableError) as caught:
        await opened(wrong)
    assert "wr0ng" not in str(caught.value)
    store = await opened(server.url)
    await walk_through(store)
    server.kill()
    with pytest.raises(StoreUnavailableError) as caught:
        await store.apply("s1", [], {})
    said = [str(caught.value), repr(caught.value), store.address, repr(store), caplog.text]
    assert not [each for each in said if "s3cr3t" in each]


def test_no_command_shows_the_password(make_redis: MakeRedis, tmp_path: Path) -> None:
    server = make_redis(requirepass="s3cr3t", appendonly=True)
    for words in (["doctor", "--json"], ["doctor"], ["runs", "list"], ["runs", "show", "x"]):
        done = subprocess.run(
            [sys.executable, "-m", "pikku.cli", "--app", "shop_pikku", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PIKKU_STORE": server.url},
        )
        assert "s3cr3t" not in done.stdout + done.stderr, words
        assert "127.0.0.1" in done.stdout + done.stderr or done.returncode == 0, words


# --- replicas --------------------------------------------------------------------


async def test_replicas_have_what_was_confirmed(make_redis: MakeRedis, opened: Open) -> None:
    primary = make_redis(appendonly=True)
    replica = make_redis.replica(primary)
    store = await opened(primary.url, "replicas=1")
    for number in range(20):
        await must(store, "s1", new_run(f"r{number}"))
        assert replica.cli("EXISTS", f"{TAG}:r:r{number}") == 1
