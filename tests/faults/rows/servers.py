"""What happens to the store itself: it dies, restarts, forgets, fills up, is taken over, and ends
what its clients are doing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import fault_app
from tests.faults.driver import Broken, Site, WorkerProcess, monotonic_ns
from tests.faults.invariants import Figures
from tests.faults.matrix import (
    FILE,
    POOL,
    POSTGRES,
    REDIS,
    SERVERS,
    Setting,
    expect,
    proxy_of,
    row,
)
from tests.faults.places import (
    TAG,
    BouncerPlace,
    PostgresPlace,
    RedisPlace,
    SqlitePlace,
)
from tests.servers.postgres import PostgresServer
from tests.servers.redis import Option, RedisServer

from pikku.errors import RunNotFoundError, StoreFullError

MANY_PAGES = 1_000_000


def redis_of(here: Site) -> RedisServer:
    assert isinstance(here.place, RedisPlace)
    return here.place.server


def postgres_of(here: Site) -> PostgresPlace:
    assert isinstance(here.place, PostgresPlace)
    return here.place


@row("5", SERVERS, seeds=2)
async def server_killed(at: Setting) -> Figures:
    """The server is killed and started again under load; what it acknowledged it has kept."""
    async with at.site() as here:
        workers = await here.start_workers(2)
        await here.start_mixed(6)
        for _ in range(4):
            await here.busy_worker(workers)
            async with here.network_fault("server killed", workers):
                await asyncio.to_thread(here.place.kill)
                await asyncio.sleep(here.dice.uniform(0, 0.6))
                await asyncio.to_thread(here.place.start)
            await here.start_mixed(3)
        return await here.check()


@row("5", (POOL,))
async def pool_killed(at: Setting) -> Figures:
    """The pooler is killed and started again under load, its server goes on."""
    async with at.site() as here:
        place = here.place
        assert isinstance(place, BouncerPlace)
        workers = await here.start_workers(2)
        await here.start_mixed(6)
        for _ in range(4):
            await here.busy_worker(workers)
            async with here.network_fault("pooler killed", workers):
                await asyncio.to_thread(place.pool.kill)
                await asyncio.sleep(here.dice.uniform(0, 0.6))
                await asyncio.to_thread(place.start)
            await here.start_mixed(3)
        return await here.check()


@row("6", (REDIS,), seeds=2)
async def everything_gone(at: Setting) -> Figures:
    """The server forgets everything: the runs stop, it is said so, and new runs work."""
    by_restart = bool(at.seed % 2)
    persistence: dict[str, Option] = {"appendonly": False}
    async with at.site(server=persistence) as here:
        server = redis_of(here)
        workers = await here.start_workers(2)
        for _ in range(6):
            await here.start("long", {"n": 1, "steps": 2000, "ms": 5}, expected=...)
        await here.start("napping", {"n": 1, "sleep": 600_000}, expected=...)
        await here.busy_worker()
        here.fault("forgot", workers, forgot=True)
        if by_restart:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        else:
            server.cli("FLUSHALL")
        stories = await here.ends(patience=20)
        for story in stories:
            expect(isinstance(story.outcome, RunNotFoundError), repr(story.outcome))
        quiet_from = monotonic_ns()
        for worker in workers:
            expect(worker.alive, f"a worker has ended:\n{worker.log}")
            expect("ERROR" in worker.log, f"nothing says what happened:\n{worker.log}")
        old = set(here.followed)
        here.followed.clear()
        for i in range(3):
            data = here.data()
            run = await fault_app.app.start_workflow("order", data, run_id=f"new-{i}")
            got = await asyncio.wait_for(run.result(), 20)
            expect(got == fault_app.expected("order", data), str(got))
        late = [row for row in here.ledger.rows() if row.run in old and row.at_ns > quiet_from]
        expect(not late, f"runs that are gone go on: {late[:3]}")
        expect(
            not any(key.split(":")[-1] in old for key in server.cli("KEYS", f"{TAG}:r:*")),
            "a run that is gone was written again",
        )
        figures = await here.check()
        figures.forgotten_runs += len(old)
        return figures


@row("9", (REDIS, POSTGRES))
async def failover(at: Setting) -> Figures:
    """A replica that lagged behind becomes the server: nothing breaks; what is lost is counted.

    Clients reach whichever of the two it is through one address.
    """
    async with at.site() as here, proxy_of(here.place) as replication:
        place: Any = here.place
        replica: RedisServer | PostgresServer = await asyncio.to_thread(
            place.replica, replication.host, replication.port
        )
        try:
            async with proxy_of(here.place) as front:
                workers = await here.start_workers(2, through=front)
                await here.start_mixed(8)
                await here.busy_worker()
                replication.partition()
                fault = here.fault("failover", workers, forgot=True)
                await here.start_mixed(4)
                await asyncio.sleep(here.dice.uniform(0.2, 1.0))
                await asyncio.to_thread(place.kill)
                await asyncio.to_thread(replica.promote)
                # What a service address does: from now on it leads to the other server.
                front._upstream = (replica.host, replica.port)
                front.reset_open()
                fault.ended_ns = monotonic_ns()
                return await _after_failover(here, replica, workers)
        finally:
            await asyncio.to_thread(replica.close)


async def _after_failover(
    here: Site, replica: RedisServer | PostgresServer, workers: list[WorkerProcess]
) -> Figures:
    """The client goes over to the new server, and judges what it finds there."""
    followed = dict(here.followed)
    for task in followed.values():
        task.cancel()
    await asyncio.gather(*followed.values(), return_exceptions=True)
    await here._stack.aclose()
    place: Any = here.place
    old, place.server = place.server, replica
    here.url = place.url
    await here.open()
    here.followed.clear()
    for run_id in followed:
        run: Any = fault_app.app.get_run(run_id.partition("-")[0], run_id)
        here.followed[run_id] = asyncio.create_task(here._follow(run, ...))
    try:
        for i in range(3):
            data = here.data()
            run = await fault_app.app.start_workflow("order", data, run_id=f"order-new{i}")
            got = await asyncio.wait_for(run.result(), 30)
            expect(got == fault_app.expected("order", data), str(got))
        for worker in workers:
            expect(worker.alive, f"a worker has ended:\n{worker.log}")
        return await here.check()
    finally:
        # The site closes against what is there.
        await here._stack.aclose()
        place.server = old


@row("16", (REDIS,))
async def full(at: Setting) -> Figures:
    """The server is full: what runs ends, what would begin is refused with a typed error."""
    async with at.site() as here:
        server = redis_of(here)
        await here.start_workers(2)
        await here.start_mixed(9)
        await here.busy_worker()
        here.fault("full", [])
        server.cli("CONFIG", "SET", "maxmemory", 1_000_000)
        for i in range(5):
            try:
                await fault_app.app.start_workflow("order", here.data(), run_id=f"refused-{i}")
            except StoreFullError:
                continue
            raise Broken("a full server took a run")
        await here.ends()
        server.cli("CONFIG", "SET", "maxmemory", 0)
        for i in range(5):
            expect(await here.store.load_run(f"refused-{i}") is None, "it was made all the same")
        await here.start_mixed(3)
        return await here.check()


# --- 17: a disk -------------------------------------------------------------------------------


@row("17", (FILE, POSTGRES))
async def disk_full(at: Setting) -> Figures:
    """There is no space for anything more: a start is refused with a typed error, nothing is lost,
    and the runs go on when there is space."""
    async with at.site() as here:
        limit = at.folder / "pages"
        await here.start_workers(2, FAULT_PAGES=str(limit))
        await here.start_mixed(6)
        await here.busy_worker()
        for _ in range(3):
            noticed = _times_full(here)
            here.fault("full", [])
            await _set_full(here, limit, full=True)
            await _fill_up(here)
            await here.until(
                partial(_is_full_again, here, noticed),
                "a worker to notice that the disk is full",
            )
            await _set_full(here, limit, full=False)
            await here.start_mixed(2)
        return await here.check()


async def _set_full(here: Site, limit: Path, *, full: bool) -> None:
    place = here.place
    if isinstance(place, PostgresPlace):
        await asyncio.to_thread(place.set_full, full=full)
        return
    assert isinstance(place, SqlitePlace)
    limit.write_text("1" if full else str(MANY_PAGES))  # 1: as many as there are
    pages = MANY_PAGES
    if full:
        with place.connected() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
    await _limit_pages(here, pages)


def _times_full(here: Site) -> int:
    return sum(worker.log.count(StoreFullError.code) for worker in here.workers)


def _is_full_again(here: Site, noticed: int) -> bool:
    return _times_full(here) > noticed


async def _limit_pages(here: Site, pages: int) -> None:
    writer = here.store._writer
    await writer.run(lambda each: each.execute(f"PRAGMA max_page_count = {pages}").fetchone())


async def _fill_up(here: Site) -> None:
    """Start runs until that is refused."""
    for number in range(1_000):
        try:
            await fault_app.app.start_workflow("takes_text", "z" * 5_000, run_id=f"fill-{number}")
        except StoreFullError:
            return
    raise Broken("a full file took a thousand runs")


# --- 19: PostgreSQL ---------------------------------------------------------------------------


@row("19", (POSTGRES, POOL))
async def restarted_at_once(at: Setting) -> Figures:
    """The server is restarted under load, without a checkpoint or asking its clients to go."""
    async with at.site() as here:
        server = postgres_of(here).server
        workers = await here.start_workers(2)
        await here.start_mixed(6)
        for _ in range(4):
            await here.busy_worker(workers)
            async with here.network_fault("restart", workers):
                immediate = here.dice.random() < 0.7
                await asyncio.to_thread(partial(server.restart, immediate=immediate))
            await here.start_mixed(3)
        return await here.check()


_TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < %s
"""


@row("19", (POSTGRES, POOL))
async def backends_terminated(at: Setting) -> Figures:
    """`pg_terminate_backend` for any of the connections, idle or in the middle of something."""
    async with at.site() as here:
        place = postgres_of(here)
        workers = await here.start_workers(3)
        await here.start_mixed(9)
        for _ in range(12):
            async with here.network_fault("terminated", workers):
                share = here.dice.choice([0.2, 0.5, 1.0])
                await asyncio.to_thread(place.server.sql, _TERMINATE, share)
                await asyncio.sleep(here.dice.uniform(0, 0.3))
            await here.start_mixed(1)
        return await here.check()


@row("19", (POSTGRES,))
async def deadlocks(at: Setting) -> Figures:
    """Somebody locks the runs that workers write to, in the opposite order: the server breaks the
    deadlocks, and what it broke is done again."""
    async with at.site() as here:
        place = postgres_of(here)
        await here.start_workers(2)
        await here.start_mixed(9)
        async with _crossing(here, place):
            for _ in range(10):
                await here.start_mixed(1)
                await asyncio.sleep(0.2)
        figures = await here.check()
        (found,) = place.server.sql("SELECT sum(deadlocks) FROM pg_stat_database")[0]
        figures.faults["deadlock"] = figures.faults.get("deadlock", 0) + int(found)
        return figures


@contextlib.asynccontextmanager
async def _crossing(here: Site, place: PostgresPlace) -> AsyncGenerator[None, None]:
    """Meanwhile somebody locks pairs of runs, the greater first."""
    import psycopg

    over = False

    def cross() -> None:
        with psycopg.connect(place.server.url, autocommit=True) as connection:
            # Whoever waits for less than that is told of the deadlock first.
            connection.execute("SET deadlock_timeout = '1s'")
            while not over:
                rows = connection.execute(
                    "SELECT run_id FROM pikku.runs WHERE status = 'running' AND owner IS NOT NULL"
                    " ORDER BY random() LIMIT 4"
                ).fetchall()
                with contextlib.suppress(psycopg.errors.DeadlockDetected):
                    with connection.transaction():
                        for (run_id,) in sorted(rows, reverse=True):
                            connection.execute(
                                "SELECT 1 FROM pikku.runs WHERE run_id = %s FOR UPDATE", (run_id,)
                            )
                            connection.execute("SELECT pg_sleep(0.01)")

    crossing = asyncio.create_task(asyncio.to_thread(cross))
    try:
        yield
    finally:
        over = True
        await crossing


_REFUSE = """
CREATE SEQUENCE pikku.refusals;
CREATE FUNCTION pikku.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() < 0.15 THEN
        PERFORM nextval('pikku.refusals');
        IF random() < 0.5 THEN
            RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure';
        END IF;
        RAISE EXCEPTION 'deadlock detected' USING ERRCODE = 'deadlock_detected';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER refuse AFTER UPDATE OR INSERT ON pikku.steps
    FOR EACH STATEMENT EXECUTE FUNCTION pikku.refuse();
"""


@row("19", (POSTGRES, POOL))
async def serialization_refused(at: Setting) -> Figures:
    """The server refuses one transaction in seven with a serialization failure or a deadlock; the
    default isolation of some sessions is `serializable` besides."""
    async with at.site() as here:
        place = postgres_of(here)
        level = here.dice.choice(["serializable", "repeatable read", "read committed"])
        place.server.sql(f"ALTER DATABASE postgres SET default_transaction_isolation = '{level}'")
        await here.start_workers(3)
        place.server.sql(_REFUSE)
        await here.start_mixed(12)
        await here.start_families(2)
        await here.ends()
        place.server.sql("DROP TRIGGER refuse ON pikku.steps")
        figures = await here.check()
        (found,) = place.server.sql("SELECT last_value FROM pikku.refusals")[0]
        figures.faults["refused transaction"] = int(found)
        return figures
