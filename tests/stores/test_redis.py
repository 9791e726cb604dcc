"""What is particular to Redis: scripts, answers that are lost, servers that forget, refuse or are
not what one thinks they are."""

import asyncio
import logging
import os
import random
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

from pikku._ids import child_run_id
from pikku._records import (
    GIVEN_UP,
    JOB_KEY,
    NOT_ASKED,
    Advertise,
    CancelRun,
    CompleteStep,
    DecideStep,
    DeleteRun,
    FireTimers,
    HandRun,
    HistoryEntry,
    Op,
    PutRun,
    ReapSessions,
    ReleaseStep,
    RequeueRun,
    RunFilter,
    RunRecord,
    RunStatus,
    Settle,
    SignalRun,
    StepRecord,
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
from pikku.stores.base import DEFAULT_QUEUE, INLINE_QUEUE, JOBS, MAIL, ORCHESTRATOR_QUEUE
from pikku.stores.lanes import QueueLimits
from pikku.stores.redis import transport
from pikku.stores.redis.scripts import SCHEMA
from pikku.stores.redis.store import RedisStore
from pikku.testing import store_contract_queues as queue_checks
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
    copied = f"{TAG}:s:r"
    replica.wait_until(lambda: replica.cli("EXISTS", copied) == 1, "the replica to have the run")
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


async def test_a_start_that_was_overtaken_by_its_repeat_starts_nothing(
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
    store.beat("s1", LEASE_US)
    proxy.delay(1.2, "request")
    start = store.apply("s1", [new_run("r", claim=True)], {})
    reply = await overtaken(Wire(proxy, store, redis_url), start)
    assert [result.code for result in reply.results] == ["ok"]
    passed = proxy.counts.request_bytes
    await must(store, "s1", turn("r", 1, settle=Settle("completed", "1")))
    await must(other, "s2", DeleteRun("r"))
    await asyncio.sleep(1.5)  # the late call arrives
    assert proxy.counts.request_bytes > passed
    assert await other.load_run("r") is None


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


@pytest.mark.parametrize("schema", [str(SCHEMA + 1), str(SCHEMA - 1)])
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
    "sadd srem scard smembers incr del unlink pexpire time"
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
    await must(store, "s1", new_run("p", claim=True), asks_for_child("p", "p~kid"))
    await must(store, "s1", SignalRun("p", "i", "news", "1"), CancelRun("p", "why"))
    await must(store, "s1", turn("p", 2, None, settle=Settle("failed")))
    put = PutRun(record("p", run_attempt=2), (), (), [("kid", 1, "scheduled")])
    await must(store, "s1", put, Advertise(["flow"]), DeleteRun("r"))
    assert await store.list_runs(RunFilter(oldest_first=True))
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
    (refused,) = (await store.apply("s1", [PutRun(record("put"), (), ())], {})).results
    assert isinstance(refused.error, StoreFullError)
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


@pytest.mark.parametrize("fails_in", [0, 1, 2])
async def test_what_one_partition_grants_is_not_lost_when_another_one_fails(
    redis_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch, fails_in: int
) -> None:
    """It is granted to a session that lives: nobody else would see to it."""
    store = await opened(redis_url, "partitions=3")
    store.beat("s1", LEASE_US)
    names = {f"r{number}" for number in range(9)}
    await must(store, "s2", *(new_run(name, inline=False) for name in sorted(names)))
    call, failed = store._transport.call, 0

    async def failing(script: Any, tag: str, arguments: Any) -> Any:
        nonlocal failed
        if tag == f"{{pk:{fails_in}}}" and failed < 4:
            failed += 1
            raise transport.LostAnswerError("away")
        return await call(script, tag, arguments)

    monkeypatch.setattr(store._transport, "call", failing)
    want = {ORCHESTRATOR_QUEUE: 30, MAIL: 1}
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await store.apply("s1", [], want)
    reply = await store.apply("s1", [], want)
    assert sorted(each.run.run_id for each in reply.claimed) == sorted(names)
    assert (await store.apply("s1", [], want)).claimed == []


async def test_what_the_first_part_of_a_batch_brings_is_not_lost_with_the_second(
    redis_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("mine", claim=True, inline=False))
    await must(store, "s2", CancelRun("mine", "enough"))
    call, calls = store._transport.call, 0

    async def failing(script: Any, tag: str, arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise transport.LostAnswerError("away")
        return await call(script, tag, arguments)

    monkeypatch.setattr(store._transport, "call", failing)
    # The first is a call of its own.
    ops: list[Op] = [new_run("new", inline=False), turn("mine", 1)]
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", ops, {MAIL: 1})
    reply = await store.apply("s1", ops, {MAIL: 1})
    assert [word.what for word in reply.inbox] == ["cancel"]


async def test_a_child_lies_where_its_parent_does(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "partitions=3")
    store.beat("s1", LEASE_US)
    for parent in [*(f"r{number}" for number in range(9)), "x" * 200]:
        child = child_run_id(parent, "kid", 1)
        grandchild = child_run_id(child, "kid", 1)
        await must(store, "s1", new_run(parent, claim=True))
        await must(store, "s1", asks_for_child(parent, child))
        await claimed(store, child)
        await must(store, "s1", asks_for_child(child, grandchild))
        await claimed(store, grandchild)
        await must(store, "s1", turn(grandchild, 1, settle=Settle("completed", '"deep"')))
        assert (await step_of(store, child, "kid")).result == '"deep"'
        await must(store, "s1", turn(child, 2, 1, settle=Settle("failed", error='["E", "m"]')))
        step = await step_of(store, parent, "kid")
        assert (step.status, step.error, step.delivery) == ("failed", '["E", "m"]', 1)
        await must(store, "s1", turn(parent, 2, 1, settle=Settle("completed", "1")))
    assert await store.count_runs() == {"completed": 20, "failed": 10}


async def claimed(store: RedisStore, run_id: str) -> None:
    """Have session `s1` claim the run, wherever it is."""
    for _ in range(6):
        reply = await store.apply("s1", [], {INLINE_QUEUE: 3})
        if run_id in [each.run.run_id for each in reply.claimed]:
            return
    raise AssertionError(f"run {run_id} is in no queue")


async def test_a_cancelled_parent_takes_its_children_along_in_every_partition(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url, "partitions=3")
    store.beat("s1", LEASE_US)
    names = [f"r{number}" for number in range(9)]
    for name in names:
        await must(store, "s1", new_run(name, claim=True))
        await must(store, "s1", asks_for_child(name, child_run_id(name, "kid", 1)))
        await must(store, "s1", CancelRun(name, "why"))
    for name in names:
        child = await run_of(store, child_run_id(name, "kid", 1))
        assert child.cancel_reason == f"run {name} waits for it no longer"


async def test_a_session_advertises_in_every_partition(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "partitions=3")
    for session in ("s1", "s2"):
        store.beat(session, LEASE_US)
    await must(store, "s2", Advertise(["flow@v1"]))
    names = {f"r{number}" for number in range(9)}
    for name in sorted(names):
        await must(store, "s1", new_run(name, claim=True), HandRun(name, ["flow@v1"]))
        assert (await run_of(store, name)).owner == "s2"
    mail = (await store.apply("s2", [], {MAIL: 1})).inbox
    assert {(each.run_id, each.what) for each in mail} == {(name, "hand") for name in names}


# --- what is refused leaves no trace ---------------------------------------------


def asks_for_child(run_id: str, child: str, **options: Any) -> Op:
    """The first turn of a run: a step that waits for a run of its own."""
    step = write("kid", "scheduled", kind="child")._replace(job=child)
    run = new_run(child)._replace(parent=run_id, parent_step="kid", depth=1, **options)
    return turn(run_id, 1, asks=[step])._replace(children=[run])


def signal_step(key: str, name: str = "news", position: int = 0, **options: Any) -> StepWrite:
    step = write(key, "scheduled", kind="signal", **options)
    return step._replace(target=name, position=position, input=None)


def record(run_id: str, status: RunStatus = "running", **more: Any) -> RunRecord:
    """A run as it is put."""
    given: dict[str, Any] = {
        "input": '"given"',
        "output": None,
        "error": None,
        "version": "v1",
        "inline": True,
        "run_attempt": 1,
        "owner": None,
        "queued": False,
        "turn": 0,
        "turned_by": None,
        "deliveries": 0,
        "tags": ("k=v",),
        "started_by": "ann",
        "created_us": 1_000,
        "updated_us": 2_000,
        "finished_us": None,
        "cancel_us": None,
        "cancel_kind": None,
        "cancel_reason": None,
        "cancel_delivery": None,
        "suspend_reason": None,
    }
    return RunRecord(run_id, "flow", status, **(given | more))


def step_record(key: str, **more: Any) -> StepRecord:
    """A step as it is put."""
    given: dict[str, Any] = {
        "position": 1,
        "kind": "rpc",
        "target": "target",
        "status": "succeeded",
        "attempt": 1,
        "failures": 0,
        "lost": 0,
        "digest": "abc",
        "input": '"given"',
        "result": '"made"',
        "error": None,
        "worker": "gone",
        "due_us": None,
        "created_us": 1_000,
        "started_us": 1_100,
        "finished_us": 1_200,
        "delivery": 1,
    }
    return StepRecord(key, **(given | more))


def everything(url: str) -> dict[str, Any]:
    """All that the server keeps, but for how often it was asked."""
    server = at(url)
    reads = {
        "hash": ("HGETALL",),
        "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        "list": ("LRANGE", 0, -1),
        "set": ("SMEMBERS",),
        "string": ("GET",),
    }
    found: dict[str, Any] = {}
    for key in server.cli("KEYS", "*"):
        command, *rest = reads[server.cli("TYPE", key)]
        found[key] = server.cli(command, key, *rest)
        if ":own:" in key:
            pairs = zip(found[key][::2], found[key][1::2], strict=True)
            found[key] = sorted(pair for pair in pairs if pair[0] not in ("#c", "#", "#n"))
            if not found[key]:
                del found[key]
    return found


REFUSALS: list[tuple[Op, str, str]] = [
    (SignalRun("nobody", "i", "news", "1"), "s1", "not_found"),
    (SignalRun("done", "i", "news", "1"), "s1", "settled"),
    (SignalRun("open", "known", "other", "2"), "s1", "ok"),
    (DecideStep("nobody", "ask", "1"), "s1", "not_found"),
    (DecideStep("open", "nothing", "1"), "s1", "not_found"),
    (DecideStep("open", "wait", "1"), "s1", "not_found"),
    (DecideStep("open", "asked", "1"), "s1", "ok"),
    (DecideStep("open", "asked", "2"), "s1", "decided"),
    (DecideStep("done", "ask", "1"), "s1", "settled"),
    (DecideStep("unwinding", "ask", "1"), "s1", "settled"),
    (PutRun(record("open"), (), ()), "s1", "exists"),
    (PutRun(record("nobody"), (), (), ()), "s1", "not_found"),
    (PutRun(record("failed", run_attempt=1), (), (), ()), "s1", "ok"),
    (PutRun(record("open", run_attempt=2), (), (), ()), "s1", "not_failed"),
    (PutRun(record("done", run_attempt=2), (), (), ()), "s1", "not_failed"),
    (PutRun(record("failed", run_attempt=3), (), (), [("a", 1, "failed")]), "s1", "conflict"),
    (PutRun(record("failed", run_attempt=2), (), (), ()), "s1", "conflict"),
    (PutRun(record("failed", run_attempt=2), (), (), [("a", 2, "failed")]), "s1", "conflict"),
    (PutRun(record("failed", run_attempt=2), (), (), [("a", 1, "succeeded")]), "s1", "conflict"),
    (PutRun(record("failed", run_attempt=2), (), (), [("b", 1, "failed")]), "s1", "conflict"),
    (
        PutRun(record("failed", run_attempt=2), (), (), [("a", 1, "failed"), ("b", 1, "failed")]),
        "s1",
        "conflict",
    ),
    (DeleteRun("nobody"), "s1", "not_found"),
    (DeleteRun("open"), "s1", "not_ended"),
    (DeleteRun("resting"), "s1", "not_ended"),
    (HandRun("nobody", ["flow@v1"]), "s1", "not_found"),
    (HandRun("open", ["flow@v1"]), "s2", "fenced"),
    (HandRun("resting", ["flow@v1"]), "s1", "fenced"),
    (HandRun("open", []), "s1", "nobody"),
    (HandRun("open", ["own@v1", "dead@v1", "flow@v2"]), "s1", "nobody"),
    (Advertise(["flow@v1"]), "stranger", "ok"),
    (asks_for_child("open", "open~kid"), "s1", "fenced"),
    (asks_for_child("resting", "resting~kid"), "s1", "ok"),
    (turn("open", 3, 0)._replace(calls_off=["wait"]), "s1", "conflict"),
    (turn("open", 3, None)._replace(calls_off=["asked", "nothing"]), "s2", "fenced"),
]


@pytest.mark.parametrize(
    ("op", "session", "code"),
    REFUSALS,
    ids=[f"{type(op).__name__}-{getattr(op, 'run_id', '')}-{code}" for op, _, code in REFUSALS],
)
async def test_what_is_refused_or_repeated_leaves_no_trace(
    redis_url: str, opened: Open, op: Op, session: str, code: str
) -> None:
    store = await opened(redis_url, "retention=1h")
    for name in ("s1", "s2", "s3"):
        store.beat(name, LEASE_US)
    await must(store, "s1", Advertise(["own@v1"]))
    await must(store, "s2", Advertise(["flow@v1"]))
    await must(store, "s3", Advertise(["dead@v1"]))
    ask = write("ask", "scheduled", kind="approval")
    await must(store, "s1", *(new_run(name, claim=True) for name in RUNS))
    waits = [signal_step("wait"), ask._replace(key="asked")]
    await must(store, "s1", turn("open", 1, asks=waits))
    await must(store, "s1", DecideStep("open", "asked", "1"))
    await must(store, "s1", SignalRun("open", "known", "other", "1"), turn("open", 2, 1))
    await must(store, "s1", turn("done", 1, asks=[ask], settle=Settle("completed", "1")))
    await must(store, "s1", turn("resting", 1, settle=Settle("suspended", reason="requested")))
    await must(store, "s1", turn("unwinding", 1, asks=[ask]), CancelRun("unwinding", "why"))
    failure = write("a", "failed", error='["E", "m"]')
    await must(store, "s1", turn("failed", 1, asks=[failure], settle=Settle("failed")))
    at(redis_url).cli("ZADD", f"{TAG}:sess", 1, "s3")
    await store.apply("s1", [], {MAIL: 1})
    await store.apply("s1", [], {MAIL: 1})
    before = everything(redis_url)
    (result,) = (await store.apply(session, [op], {})).results
    assert result.code == code
    assert everything(redis_url) == before


RUNS = ("open", "done", "resting", "unwinding", "failed")


# --- signals ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_signals_are_taken_in_the_order_in_which_they_came(
    redis_url: str, opened: Open, seed: int
) -> None:
    """Any sends, asks and takings back against a list of what waits."""
    choose = random.Random(seed)
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True))
    waiting: dict[str, list[int]] = {"a": [], "b": []}
    took: dict[str, tuple[str, int]] = {}
    wanted: dict[str, list[str]] = {"a": [], "b": []}
    turns = 0
    for number in range(120):
        name = choose.choice("ab")
        match choose.choice(["send", "send", "ask", "ask", "give back"]):
            case "send":
                await must(store, "s1", SignalRun("r", f"i{number}", name, str(number)))
                if wanted[name]:
                    took[wanted[name].pop(0)] = (name, number)
                else:
                    waiting[name].append(number)
            case "ask":
                key, turns = f"{name}#{number}", turns + 1
                step = signal_step(key, name, number)
                await must(store, "s1", turn("r", turns, None, asks=[step]))
                if waiting[name]:
                    took[key] = (name, waiting[name].pop(0))
                else:
                    wanted[name].append(key)
            case _:
                given_up = choose.choice([*took, *wanted["a"], *wanted["b"], "nothing"])
                turns += 1
                op = turn("r", turns, None)._replace(calls_off=[given_up])
                await must(store, "s1", op)
                if given_up in took:
                    of, back = took.pop(given_up)
                    waiting[of] = sorted([*waiting[of], back])
                for of, keys in wanted.items():
                    if given_up in keys:
                        keys.remove(given_up)
                    while keys and waiting[of]:  # what was given back goes to who waits
                        took[keys.pop(0)] = (of, waiting[of].pop(0))
        loaded = await store.load_steps("r")
        assert loaded is not None
        taken = {s.key: s.result for s in loaded.steps if s.result and s.error is None}
        assert taken == {key: str(signal) for key, (_, signal) in took.items()}
        open_steps = {step.key for step in loaded.steps if step.status == "scheduled"}
        assert open_steps == {*wanted["a"], *wanted["b"]}
        assert all(s.error == GIVEN_UP for s in loaded.steps if s.status == "failed")


async def test_a_large_payload_and_a_large_decision_are_kept_small(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    large = '"' + "é" * 200_000 + '"'
    await must(store, "s1", new_run("r", claim=True))
    await must(store, "s1", SignalRun("r", "i", "news", large))
    waits = [signal_step("wait"), write("ask", "scheduled", kind="approval")]
    await must(store, "s1", turn("r", 1, asks=waits))
    await must(store, "s1", DecideStep("r", "ask", large), DecideStep("r", "ask", large))
    assert (await step_of(store, "r", "wait")).result == large
    assert (await step_of(store, "r", "ask")).result == large
    assert {entry.data for entry in await store.load_history("r")} == {large}
    assert at(redis_url).cli("MEMORY", "USAGE", f"{TAG}:g:r") < 20_000
    assert at(redis_url).cli("MEMORY", "USAGE", f"{TAG}:s:r") < 20_000


async def test_no_timer_is_left_of_a_wait_that_ended_before_its_time(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True))
    waits = [
        signal_step("sent", "a", wait_us=LEASE_US),
        signal_step("given up", "b", wait_us=LEASE_US),
        write("ask", "scheduled", kind="approval", wait_us=LEASE_US),
    ]
    await must(store, "s1", turn("r", 1, asks=waits))
    assert len((await store.examine()).timers) == 3
    await must(store, "s1", SignalRun("r", "i", "a", "1"), DecideStep("r", "ask", "1"))
    await must(store, "s1", turn("r", 2, None)._replace(calls_off=["given up"]))
    assert (await store.examine()).timers == set()
    assert at(redis_url).cli("HGET", f"{TAG}:r:r", "armed") == "0"


# --- children --------------------------------------------------------------------


async def test_a_damaged_child_ends_and_its_parent_is_told(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True), asks_for_child("r", "r~kid"))
    await store.apply("s1", [], {INLINE_QUEUE: 1})
    await must(store, "s1", turn("r~kid", 1, asks=[write("a", "running")]))
    at(redis_url).cli("DEL", f"{TAG}:s:r~kid")
    at(redis_url).cli("SET", f"{TAG}:s:r~kid", "what?")
    op = turn("r~kid", 2, asks=[write("b", "running")])._replace(base=None)
    (result,) = (await store.apply("s1", [op], {})).results
    assert result.code == "error"
    assert (await run_of(store, "r~kid")).status == "failed"
    step = await step_of(store, "r", "kid")
    assert (step.status, step.delivery) == ("failed", 1)
    assert step.error is not None
    assert "CorruptStateError" in step.error


async def test_a_child_ends_whatever_its_parent_looks_like(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True), asks_for_child("r", "r~kid"))
    await store.apply("s1", [], {INLINE_QUEUE: 1})
    at(redis_url).cli("HSET", f"{TAG}:s:r", "kid", "what?")
    await must(store, "s1", turn("r~kid", 1, settle=Settle("completed", "1")))
    assert (await run_of(store, "r~kid")).status == "completed"
    assert (await run_of(store, "r")).status == "failed"
    assert await store.count_runs() == {"completed": 1, "failed": 1}


async def test_a_run_unwinds_whatever_its_child_looks_like(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True), asks_for_child("r", "r~kid"))
    at(redis_url).cli("DEL", f"{TAG}:r:r~kid")
    at(redis_url).cli("SET", f"{TAG}:r:r~kid", "what?")
    await must(store, "s1", CancelRun("r", "why"))
    assert (await run_of(store, "r")).cancel_reason == "why"


async def test_a_child_that_was_put_off_starts_in_time(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True))
    reply = await must(store, "s1", asks_for_child("r", "r~kid", delay_us=3_600_000_000))
    assert reply.next_due_us not in (None, NOT_ASKED)
    assert (await store.examine()).timers == {("r~kid", "", "start")}
    assert not (await run_of(store, "r~kid")).queued
    at(redis_url).cli("ZADD", f"{TAG}:tm", 1, b"b" + (5).to_bytes(2, "little") + b"r~kid")
    reply = await store.apply("s1", [FireTimers()], {INLINE_QUEUE: 1})
    assert [each.run.run_id for each in reply.claimed] == ["r~kid"]
    assert at(redis_url).cli("HGET", f"{TAG}:r:r~kid", "armed") == "0"


# --- runs that are put, deleted and handed over ----------------------------------


async def test_a_run_that_is_put_is_kept_as_it_is(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "retention=1h")
    put = record(
        "r",
        "cancelled",
        output=None,
        error='["E", "m"]',
        inline=False,
        turn=7,
        deliveries=3,
        finished_us=9_000,
        cancel_us=5_000,
        cancel_kind="timeout",
        cancel_reason="",
        cancel_delivery=2,
        parent="p",
        parent_step="kid",
        depth=2,
        pinned=True,
        forked_from="f",
    )
    steps = [
        step_record("a", progress="[1]", queue=DEFAULT_QUEUE, job="{}", handled=True, after=4),
        step_record("b", kind="child", job="r~kid", queue="", delivery=None, worker=None),
        step_record("c", kind="signal", position=3, result="1", error=GIVEN_UP, input=None),
        step_record("d", kind="patch", position=4, status="failed", result=None, error=GIVEN_UP),
    ]
    entries = [HistoryEntry("signal", "news", None, "1", 77), HistoryEntry("cancel", data="{}")]
    await must(store, "s1", PutRun(put, steps, entries))
    loaded = await store.load_steps("r")
    assert loaded is not None
    assert loaded.run == put
    assert sorted(loaded.steps, key=lambda step: step.key) == steps
    history = await store.load_history("r")
    assert history[0] == entries[0]
    assert history[1].at_us > 0
    for wanted in (RunFilter(status="cancelled"), RunFilter(tag="k=v"), RunFilter(before_us=1_001)):
        assert [run.run_id for run in await store.list_runs(wanted)] == ["r"]
    # It has been kept long enough.
    assert at(redis_url).cli("ZSCORE", f"{TAG}:ret", "r") == "3600009000"
    await must(store, "s1", ReapSessions())
    assert await store.load_run("r") is None
    assert set(at(redis_url).cli("KEYS", "*")) == {f"{TAG}:meta", f"{TAG}:runs", f"{TAG}:own:s1"}


async def test_a_failed_run_that_is_put_again_is_that_run_and_no_other(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url, "retention=1h")
    server = at(redis_url)
    store.beat("s1", LEASE_US)
    store.beat("s2", LEASE_US)
    run = new_run("r", claim=True, tags=("old=1",), inline=False)
    await must(store, "s1", run)
    later = write("nap", "scheduled", kind="sleep", wait_us=LEASE_US)
    await must(store, "s1", turn("r", 1, asks=[job("a"), later, signal_step("wait")]))
    await store.apply("s2", [], {JOB_QUEUE: 1})
    assert "j\x01" in " ".join(server.cli("HKEYS", f"{TAG}:own:s2"))
    await must(store, "s1", turn("r", 2, settle=Settle("failed", error='["E", "m"]')))
    expected: list[Any] = [("a", 1, "running"), ("nap", 1, "scheduled"), ("wait", 1, "scheduled")]
    due = 8_000_000_000_000_000
    steps = [
        step_record("nap", kind="sleep", status="scheduled", worker=None, due_us=due),
        step_record("again", status="scheduled", worker=None, due_us=due),
        step_record("wait", kind="signal", target="news", status="scheduled", worker=None),
    ]
    again = record("r", run_attempt=2, tags=("new=1",), inline=False)
    await must(store, "s1", PutRun(again, steps, [HistoryEntry("retry")], expected, LEASE_US))
    found = await run_of(store, "r")
    assert (found.status, found.turn, found.queued, found.run_attempt) == ("running", 2, True, 2)
    assert (await store.examine()).timers == {
        ("r", "nap", "sleep"),
        ("r", "again", "retry"),
        ("r", "", "timeout"),
    }
    assert server.cli("HGET", f"{TAG}:r:r", "armed") == "3"
    assert server.cli("EXISTS", f"{TAG}:ret", f"{TAG}:tag:old=1") == 0
    assert [run.run_id for run in await store.list_runs(RunFilter(tag="new=1"))] == ["r"]
    assert await store.count_runs() == {"running": 1}
    assert [key for key in server.cli("HKEYS", f"{TAG}:own:s2") if key[0] != "#"] == []
    assert (await store.apply("s2", [done("r", "a")], {})).results[0].code == "not_found"
    assert [e.kind for e in await store.load_history("r")] == ["retry"]
    await must(store, "s1", SignalRun("r", "i", "news", "1"))
    assert (await step_of(store, "r", "wait")).result == "1"
    reply = await store.apply("s1", [], {ORCHESTRATOR_QUEUE: 5})
    assert [each.run.run_id for each in reply.claimed] == ["r"]
    await must(store, "s1", turn("r", 3, 1, settle=Settle("completed", "1")))
    assert (await store.examine()).timers == set()


async def test_nothing_is_left_of_a_run_that_is_deleted(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "retention=1h")
    for session in ("s1", "s2"):
        store.beat(session, LEASE_US)
    await store.apply("s2", [], {})
    await must(store, "s1", new_run("warm", inline=False))
    await must(store, "s1", new_run("q", claim=True, inline=False), turn("q", 1, asks=[job("a")]))
    await store.apply("s2", [ReapSessions()], {JOB_QUEUE: 1, ORCHESTRATOR_QUEUE: 5})
    before = everything(redis_url)
    await must(store, "s1", new_run("r", claim=True, inline=False, tags=("k=v",), timeout_us=9**9))
    await must(store, "s1", SignalRun("r", "i", "news", "1"))
    waits = [signal_step("wait"), signal_step("other", "more"), job("a")]
    await must(store, "s1", turn("r", 1, asks=waits))
    assert len((await store.apply("s2", [], {JOB_QUEUE: 1})).jobs) == 1
    await must(store, "s1", turn("r", 2, None, settle=Settle("completed", "1")))
    await store.apply("s1", [], {MAIL: 1})
    await must(store, "s1", DeleteRun("r"))
    after = everything(redis_url)
    for found in (before, after):
        for passing in (f"{TAG}:runs", f"{TAG}:in:s1", f"{TAG}:m:{JOB_QUEUE}"):
            found.pop(passing, None)
    assert after == before
    assert await store.list_runs(RunFilter(tag="k=v")) == []
    await must(store, "s1", new_run("r"))


async def test_a_run_that_is_handed_over_is_held_by_one_session(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url)
    server = at(redis_url)
    for session in ("s1", "s2"):
        store.beat(session, LEASE_US)
        await must(store, session, Advertise(["flow", "flow@v1"]))
    await must(store, "s2", Advertise(["flow@v1"]))
    assert server.cli("HKEYS", f"{TAG}:wv:flow") == ["s1"]
    await must(store, "s1", new_run("r", claim=True))
    await must(store, "s1", HandRun("r", ["flow", "flow@v1"]))
    held = {name: server.cli("HKEYS", f"{TAG}:own:{name}") for name in ("s1", "s2")}
    assert ("rr" in held["s1"], "rr" in held["s2"]) == (False, True)
    (word,) = (await store.apply("s2", [], {MAIL: 1})).inbox
    assert (word.run_id, word.what, word.key) == ("r", "hand", "flow@v1")
    (refused,) = (await store.apply("s1", [turn("r", 1)], {})).results
    assert refused.code == "fenced"
    await must(store, "s2", turn("r", 1))
    # Whoever is gone holds nothing any more, and has no more to do with it.
    server.cli("ZADD", f"{TAG}:sess", 1, "s2")
    store.beat("s1", LEASE_US)
    await must(store, "s1", ReapSessions())
    assert (await run_of(store, "r")).queued
    assert server.cli("HKEYS", f"{TAG}:wv:flow@v1") == ["s1"]
    await must(store, "s1", Advertise([]))
    assert server.cli("KEYS", f"{TAG}:wv:*") == []


async def test_a_requeued_parent_hears_of_a_child_that_has_ended(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True), asks_for_child("r", "r~kid"))
    await store.apply("s1", [], {INLINE_QUEUE: 1})
    at(redis_url).cli("HDEL", f"{TAG}:r:r~kid", "parent")  # as if the word had been lost
    await must(store, "s1", turn("r~kid", 1, settle=Settle("completed", "7")))
    assert (await step_of(store, "r", "kid")).status == "scheduled"
    at(redis_url).cli("HSET", f"{TAG}:r:r~kid", "parent", "r")
    await must(store, "s1", RequeueRun("r"), RequeueRun("r"))
    step = await step_of(store, "r", "kid")
    assert (step.status, step.result, step.delivery) == ("succeeded", "7", 1)


# --- which runs are listed -------------------------------------------------------


async def test_runs_are_found_by_time_and_text_over_pages(redis_url: str, opened: Open) -> None:
    store = await opened(redis_url, "partitions=2")
    for number in range(500):
        ended = number % 2 == 0
        run = record(
            f"r{number}",
            "completed" if ended else "running",
            created_us=1_000 + number,
            finished_us=5_000 - number if ended else None,
            error='"the needle"' if number == 4 else None,
        )
        await must(store, "s1", PutRun(run, (), ()))

    async def found(**wanted: Any) -> list[int]:
        return [int(run.run_id[1:]) for run in await store.list_runs(RunFilter(**wanted))]

    assert await found(limit=3) == [499, 498, 497]
    assert await found(limit=3, oldest_first=True) == [0, 1, 2]
    assert await found(after_us=1_010, before_us=1_013) == [12, 11, 10]
    assert await found(after_us=1_010, limit=2, oldest_first=True) == [10, 11]
    assert await found(text="needle") == [4]
    assert await found(ended_before_us=4_506) == [498, 496]
    assert await found(ended_before_us=1_003, status="completed") == []
    assert await found(text="r49", limit=2, oldest_first=True) == [49, 490]


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
        "postgresql://me:{}@127.0.0.1/db?schema=No",
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


async def test_who_holds_jobs_is_known_as_long_as_they_are_held_and_no_longer(
    redis_url: str, opened: Open
) -> None:
    store = await opened(redis_url)
    server = at(redis_url)
    store.limit_queue(queue_checks.QUEUE, QueueLimits(concurrency=5, group_concurrency=1))
    await queue_checks.begun(store)
    for each in ("done", "failed", "released", "cancelled", "ends"):
        await must(store, "s1", queue_checks.new_job(each, group=each))
    assert len(await queue_checks.taken(store, "s2")) == 5
    assert [server.cli("TTL", key) for key in busy(server)] == [-1] * 6
    await must(
        store,
        "s2",
        queue_checks.done("done", forget=True),
        queue_checks.done("ends"),
        queue_checks.failed("failed"),
        ReleaseStep("released", JOB_KEY, 1, 10**9),
        CancelRun("cancelled", "why"),
        ReleaseStep("cancelled", JOB_KEY, 1),
    )
    assert busy(server) == []


def busy(server: RedisAt) -> list[str]:
    return [str(key) for key in server.cli("KEYS", "*:busy:*")]
