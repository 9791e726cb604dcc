"""The rows of the fault matrix: each takes a folder and a seed, and answers with what it counted.

A scenario has a store, workers and runs of its own, and raises `Broken` when an invariant does not
hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import fault_app
from tests.faults.driver import (
    LEASE_SECONDS,
    Broken,
    Site,
    StoreFile,
    WorkerProcess,
    monotonic_ns,
    site,
)
from tests.faults.invariants import Figures
from tests.servers.proxy import Directions, FaultProxy
from tests.servers.redis import Option, RedisServer, start_replica

from pikku._payloads import MAX_PAYLOAD_BYTES
from pikku._records import LoadedRun
from pikku.errors import (
    PayloadTooLargeError,
    PikkuError,
    RunFailedError,
    RunNotFoundError,
    StoreFullError,
)

Scenario = Callable[[Path, int], Awaitable[Figures]]
TAG = "{pk:0}"
EXIT_STUCK = 70
MANY_PAGES = 1_000_000


@asynccontextmanager
async def place(
    folder: Path, seed: int, *, server: dict[str, Option] | None = None, **engine: Any
) -> AsyncGenerator[Site, None]:
    """A server that keeps what it was told, and a site on it."""
    directives: dict[str, Option] = {"appendonly": True, "appendfsync": "everysec"}
    made = await asyncio.to_thread(lambda: RedisServer(options=directives | (server or {})).start())
    try:
        async with site(folder, made, seed, **engine) as opened:
            yield opened
    finally:
        await asyncio.to_thread(made.close)


@asynccontextmanager
async def in_file(folder: Path, seed: int, **engine: Any) -> AsyncGenerator[Site, None]:
    """A site on a SQLite file."""
    async with site(folder, StoreFile(folder / "runs.db"), seed, **engine) as opened:
        yield opened


Place = Callable[..., AbstractAsyncContextManager[Site]]


@asynccontextmanager
async def proxy_of(server: RedisServer) -> AsyncGenerator[FaultProxy, None]:
    """A proxy in front of it."""
    made = FaultProxy(server.host, server.port)
    await asyncio.to_thread(made.start)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)


def expect(true: object, what: str) -> None:
    if not true:
        raise Broken(what)


# --- processes ---------------------------------------------------------------


async def kill_mid_step(folder: Path, seed: int, at: Place = place) -> Figures:
    """1: workers are killed while they execute."""
    async with at(folder, seed) as here:
        await here.start_workers(3)
        await here.start_mixed(12)
        for _ in range(4):
            here.kill(await here.busy_worker())
            await here.start_workers(1)
            await here.start_mixed(2)
            await asyncio.sleep(here.dice.uniform(0, 0.3))
        figures = await here.check()
        expect(figures.in_flight, f"seed {seed}: nothing was under way at the kills")
        return figures


async def killed_before_the_answer(folder: Path, seed: int) -> Figures:
    """2: what a worker has committed is never confirmed to it, and it dies."""
    async with place(folder, seed) as here, proxy_of(here.server) as proxy:
        await here.start_workers(1)
        for _ in range(3):
            (worker,) = await here.start_workers(1, through=proxy)
            await here.start_mixed(5)
            await here.busy_worker([worker])
            fault = here.fault("held reply", [worker])
            proxy.hold("reply")
            await asyncio.to_thread(proxy.wait_for, lambda counts: counts.held_bytes > 0)
            here.kill(worker)
            fault.ended_ns = monotonic_ns()
            proxy.heal()
        return await here.check()


async def stopped_and_continued(folder: Path, seed: int, at: Place = place) -> Figures:
    """3: a worker stands still for longer than its lease, and goes on."""
    async with at(folder, seed) as here:
        await here.start_workers(3)
        await here.start_mixed(9)
        for _ in range(3):
            worker = await here.busy_worker()
            await here.start_mixed(3)
            await here.freeze(worker, LEASE_SECONDS + here.dice.uniform(0.2, 0.8))
        return await here.check()


async def loop_blocked(folder: Path, seed: int, at: Place = place) -> Figures:
    """4: a step holds up its loop for longer than the lease: nothing is lost by that."""
    async with at(folder, seed) as here:
        await here.start_workers(2)
        await here.start_mixed(4)
        data = {"n": 7, "ms": int((LEASE_SECONDS + here.dice.uniform(0.3, 1.2)) * 1000)}
        run_id = await here.start("blocking", data)
        await here.start_mixed(4)
        figures = await here.check()
        (block, _) = (await here.store.load_steps(run_id)).steps
        expect(
            (block.attempt, block.lost) == (1, 0) or figures.accidents,
            f"seed {seed}: the blocked step lost an attempt: {block}",
        )
        return figures


async def loop_stuck(folder: Path, seed: int, at: Place = place) -> Figures:
    """4: a step holds up its loop for longer than `loop_grace`: its process gives up and exits."""
    async with at(folder, seed, loop_grace_seconds=1.0) as here:
        await here.start_workers(2)
        run_id = await here.start("blocking", {"n": 7, "ms": 8_000})
        await here.start_mixed(6)
        await here.until(lambda: here.ledger.executions(run_id, "Block") != [], "the block")
        (row,) = here.ledger.executions(run_id, "Block")
        (worker,) = [each for each in here.workers if each.pid == row.pid]
        fault = here.fault("stuck", [worker], killed=True)
        await here.until(lambda: not worker.alive, "the stuck worker to exit")
        fault.ended_ns = monotonic_ns()
        expect(
            worker.process.returncode == EXIT_STUCK,
            f"seed {seed}: it ended with {worker.process.returncode}:\n{worker.log}",
        )
        expect("time.sleep" in worker.log, f"its log does not say where it stood:\n{worker.log}")
        figures = await here.check()
        (block, _) = (await here.store.load_steps(run_id)).steps
        expect((block.attempt, block.lost) == (2, 1), f"seed {seed}: {block}")
        return figures


async def poison(folder: Path, seed: int, at: Place = place) -> Figures:
    """13: a step that takes its process along is given up; the others are not touched."""
    async with at(folder, seed, max_lost_attempts=3) as here:
        workers = await here.start_workers(2)
        await here.start_mixed(6)
        run_id = await here.start("poisoned", {"n": 1}, expected=...)
        await here.start_mixed(3)
        deaths: list[WorkerProcess] = []

        while not here.followed[run_id].done():
            for worker in list(here.workers):
                if not worker.alive and worker not in deaths:
                    deaths.append(worker)
                    here.fault("poison", [worker], killed=True)
                    await here.start_workers(1)
            await asyncio.sleep(0.02)
        (story,) = await here.ends(run_id)
        expect(
            isinstance(story.outcome, RunFailedError) and "PoisonedStepError" in str(story.outcome),
            f"seed {seed}: {story.outcome!r}",
        )
        expect(len(deaths) == 3, f"seed {seed}: {len(deaths)} workers died of it")
        expect(
            all(worker.process.returncode == fault_app.POISON_EXIT for worker in deaths),
            f"seed {seed}: a worker died of something else: {workers}",
        )
        figures = await here.check()
        loaded: LoadedRun = await here.store.load_steps(run_id)
        (step,) = [each for each in loaded.steps if each.key == "Poison"]
        expect((step.status, step.lost) == ("failed", 3), f"seed {seed}: {step}")
        return figures


async def drained(folder: Path, seed: int, at: Place = place) -> Figures:
    """SIGTERM under load: exit 0, nothing is executed twice."""
    async with at(folder, seed) as here:
        await here.start_workers(2)
        await here.start_mixed(9)
        for _ in range(3):
            worker = await here.busy_worker()
            await here.start_workers(1)
            code = await asyncio.to_thread(worker.drain)
            expect(code == 0, f"seed {seed}: a drained worker ended with {code}:\n{worker.log}")
            await here.start_mixed(2)
        figures = await here.check()
        expect(
            figures.extra == 0 or figures.accidents,
            f"seed {seed}: {figures.extra} further executions",
        )
        return figures


async def wrong_clock(folder: Path, seed: int) -> Figures:
    """10: workers believe in another hour: no timer is early, no lease is lost."""
    async with place(folder, seed) as here:
        for seconds in ("3600", "-3600"):
            await here.start_workers(1, FAULT_CLOCK_SECONDS=seconds)
        await here.start_mixed(6)
        for _ in range(4):
            await here.start("napping", {"n": 3, "sleep": here.dice.randrange(200, 1500)})
        figures = await here.check()
        for story in here.stories:
            for step in (await here.store.load_steps(story.run_id)).steps:
                if step.kind == "sleep":
                    early = step.due_us - step.finished_us
                    expect(early <= 0, f"seed {seed}: a timer was {early} us early: {step}")
                    if step.finished_us - step.due_us > 5_000_000:
                        raise Broken(f"seed {seed}: a timer was 5 s late: {step}")
        return figures


# --- the store ---------------------------------------------------------------


async def server_killed(folder: Path, seed: int) -> Figures:
    """5: the server is killed and started again under load; what it acknowledged it has kept."""
    async with place(folder, seed) as here:
        workers = await here.start_workers(2)
        await here.start_mixed(6)
        for _ in range(4):
            await here.busy_worker(workers)
            async with here.network_fault("server killed", workers):
                await asyncio.to_thread(here.server.kill)
                await asyncio.sleep(here.dice.uniform(0, 0.6))
                await asyncio.to_thread(here.server.start)
            await here.start_mixed(3)
        return await here.check()


async def everything_gone(folder: Path, seed: int) -> Figures:
    """6: the server forgets everything: the runs stop, it is said so, and new runs work."""
    by_restart = bool(seed % 2)
    persistence: dict[str, Option] = {"appendonly": False}
    async with place(folder, seed, server=persistence) as here:
        workers = await here.start_workers(2)
        for _ in range(6):
            await here.start("long", {"n": 1, "steps": 2000, "ms": 5}, expected=...)
        await here.start("napping", {"n": 1, "sleep": 600_000}, expected=...)
        await here.busy_worker()
        here.fault("forgot", workers, forgot=True)
        if by_restart:
            await asyncio.to_thread(here.server.kill)
            await asyncio.to_thread(here.server.start)
        else:
            here.server.cli("FLUSHALL")
        stories = await here.ends(patience=20)
        for story in stories:
            expect(isinstance(story.outcome, RunNotFoundError), f"seed {seed}: {story.outcome!r}")
        quiet_from = monotonic_ns()
        for worker in workers:
            expect(worker.alive, f"seed {seed}: a worker has ended:\n{worker.log}")
            expect("ERROR" in worker.log, f"seed {seed}: nothing says what happened:\n{worker.log}")
        old = set(here.followed)
        here.followed.clear()
        for i in range(3):
            data = here.data()
            run = await fault_app.app.start_workflow("order", data, run_id=f"new-{i}")
            got = await asyncio.wait_for(run.result(), 20)
            expect(got == fault_app.expected("order", data), f"seed {seed}: {got}")
        late = [row for row in here.ledger.rows() if row.run in old and row.at_ns > quiet_from]
        expect(not late, f"seed {seed}: runs that are gone go on: {late[:3]}")
        expect(
            not any(key.split(":")[-1] in old for key in here.server.cli("KEYS", f"{TAG}:r:*")),
            f"seed {seed}: a run that is gone was written again",
        )
        figures = await here.check()
        figures.lost_runs += len(old)
        return figures


def _reaped(server: RedisServer, session: str) -> bool:
    """Whether others have; until then its lease is over, whatever it says itself."""
    server.cli("ZADD", f"{TAG}:sess", "XX", 1, session)
    return server.cli("ZSCORE", f"{TAG}:sess", session) is None


async def reaped_client(folder: Path, seed: int) -> Figures:
    """3 for whoever starts runs: it stood still, others have reaped it, and what it is asked for
    next is done all the same."""
    async with place(folder, seed) as here:
        await here.start_workers(1)
        for _ in range(5):
            session = fault_app.app.opened.engine.session_id
            await here.until(partial(_reaped, here.server, session), "the client to be reaped")
            if here.dice.random() < 0.5:
                await here.start_mixed(2)
            else:
                run_id = await here.start("napping", {"n": 1, "sleep": 600_000}, expected=...)
                run: Any = fault_app.app.get_run("napping", run_id)
                await run.cancel("enough")
        return await here.check()


async def full(folder: Path, seed: int) -> Figures:
    """16: the server is full: what runs ends, what would begin is refused with a typed error."""
    async with place(folder, seed) as here:
        await here.start_workers(2)
        await here.start_mixed(9)
        await here.busy_worker()
        here.server.cli("CONFIG", "SET", "maxmemory", 1_000_000)
        for i in range(5):
            try:
                await fault_app.app.start_workflow("order", here.data(), run_id=f"refused-{i}")
            except StoreFullError:
                continue
            raise Broken(f"seed {seed}: a full server took a run")
        await here.ends()
        here.server.cli("CONFIG", "SET", "maxmemory", 0)
        for i in range(5):
            expect(await here.store.load_run(f"refused-{i}") is None, "it was made all the same")
        await here.start_mixed(3)
        return await here.check()


async def failover(folder: Path, seed: int) -> Figures:
    """9: a replica that lagged behind becomes the server: nothing breaks; what is lost is counted.

    Clients reach whichever of the two it is through one address.
    """
    async with place(folder, seed) as here, proxy_of(here.server) as replication:
        replica = await asyncio.to_thread(
            start_replica,
            here.server,
            appendonly=True,
            replicaof=f"{replication.host} {replication.port}",
        )
        try:
            async with proxy_of(here.server) as front:
                workers = await here.start_workers(2, through=front)
                await here.start_mixed(8)
                await here.busy_worker()
                replication.partition()
                fault = here.fault("failover", workers, forgot=True)
                await here.start_mixed(4)
                await asyncio.sleep(here.dice.uniform(0.2, 1.0))
                await asyncio.to_thread(here.server.kill)
                replica.cli("REPLICAOF", "NO", "ONE")
                # What a service address does: from now on it leads to the other server.
                front._upstream = (replica.host, replica.port)
                front.reset_open()
                fault.ended_ns = monotonic_ns()
                return await _after_failover(here, replica, workers)
        finally:
            await asyncio.to_thread(replica.close)


async def _after_failover(
    here: Site, replica: RedisServer, workers: list[WorkerProcess]
) -> Figures:
    """The client goes over to the new server, and judges what it finds there."""
    followed = dict(here.followed)
    for task in followed.values():
        task.cancel()
    await asyncio.gather(*followed.values(), return_exceptions=True)
    await here._stack.aclose()
    old, here.server = here.server, replica
    here.url = replica.database(0)
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
            expect(got == fault_app.expected("order", data), f"seed {here.seed}: {got}")
        for worker in workers:
            expect(worker.alive, f"seed {here.seed}: a worker has ended:\n{worker.log}")
        return await here.check()
    finally:
        # The site closes against what is there.
        await here._stack.aclose()
        here.server = old


# --- a file ---------------------------------------------------------------------


async def disk_full(folder: Path, seed: int) -> Figures:
    """17: there is no space for a further page: a start is refused with a typed error, nothing is
    lost, and the runs go on when there is space."""
    async with in_file(folder, seed) as here:
        limit = folder / "pages"
        await here.start_workers(2, FAULT_PAGES=str(limit))
        await here.start_mixed(6)
        await here.busy_worker()
        for _ in range(3):
            noticed = _times_full(here)
            limit.write_text("1")  # which SQLite takes for as many as there are
            with contextlib.closing(sqlite3.connect(folder / "runs.db")) as connection:
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
            await _limit_pages(here, pages)
            await _fill_up(here)
            await here.until(
                partial(_is_full_again, here, noticed),
                "a worker to notice that the disk is full",
            )
            limit.write_text(str(MANY_PAGES))
            await _limit_pages(here, MANY_PAGES)
            await here.start_mixed(2)
        _integral(folder / "runs.db")
        return await here.check()


def _times_full(here: Site) -> int:
    return sum(worker.log.count("is full") for worker in here.workers)


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
    raise Broken(f"seed {here.seed}: a full file took a thousand runs")


def _integral(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (said,) = connection.execute("PRAGMA integrity_check").fetchone()
    expect(said == "ok", f"integrity_check: {said}")


async def file_locked(folder: Path, seed: int) -> Figures:
    """3: somebody keeps the file locked, as one who stands still while it writes, for longer than
    every lease: all go on when it is free."""
    async with in_file(folder, seed) as here:
        workers = await here.start_workers(2)
        await here.start_mixed(6)
        await here.busy_worker()
        async with here.network_fault("locked", workers):
            with contextlib.closing(
                sqlite3.connect(folder / "runs.db", isolation_level=None, timeout=20)
            ) as other:
                other.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(LEASE_SECONDS + here.dice.uniform(0.3, 1.0))
                other.execute("ROLLBACK")
        await here.start_mixed(3)
        return await here.check()


# --- the network -------------------------------------------------------------


async def connections_reset(folder: Path, seed: int) -> Figures:
    """7: connections end at some byte of a request or of a reply."""
    async with place(folder, seed) as here, proxy_of(here.server) as proxy:
        await here.start_workers(1)
        workers = await here.start_workers(1, through=proxy)
        await here.start_mixed(9)
        for number in range(12):
            async with here.network_fault("reset", workers):
                of: Any = here.dice.choice(["request", "reply"])
                after = here.dice.choice([0, 1, here.dice.randrange(2, 400)])
                proxy.reset_after(after, of, when=b"EVALSHA")
                await asyncio.sleep(here.dice.uniform(0.02, 0.25))
            if number % 4 == 0:
                await here.start_mixed(2)
        proxy.heal()
        return await here.check()


async def partitioned(folder: Path, seed: int) -> Figures:
    """8: a worker is cut off, in both directions or in one, for longer than its lease."""
    async with place(folder, seed) as here, proxy_of(here.server) as proxy:
        await here.start_workers(1)
        workers = await here.start_workers(1, through=proxy)
        directions: list[Directions] = ["both", "request", "reply"]
        for direction in here.dice.sample(directions, 2):
            await here.start_mixed(6)
            await here.busy_worker(workers)
            async with here.network_fault(f"partition {direction}", workers):
                proxy.drop(direction)
                await asyncio.sleep(LEASE_SECONDS + here.dice.uniform(0, 1))
                proxy.heal()
        return await here.check()


async def slow_network(folder: Path, seed: int) -> Figures:
    """8: everything arrives late, or byte by byte."""
    async with place(folder, seed) as here, proxy_of(here.server) as proxy:
        workers = await here.start_workers(2, through=proxy)
        await here.start_mixed(3)
        await here.busy_worker()
        async with here.network_fault("slow", workers):
            if seed % 2:
                proxy.chunk(1)
            else:
                proxy.delay(here.dice.uniform(0.01, 0.08))
            await here.start_mixed(3)
            await here.ends()
            proxy.heal()
        await here.start_mixed(3)
        return await here.check()


# --- what others write -------------------------------------------------------


async def delivered_twice(folder: Path, seed: int) -> Figures:
    """12: jobs and runs stand in their queues more than once, and live leases are taken away."""
    async with place(folder, seed) as here:
        await here.start_mixed(6)
        server = here.server
        queues = [f"{TAG}:q:orchestrator", f"{TAG}:q:jobs:default", f"{TAG}:q:jobs:parts"]
        for entry in server.cli("LRANGE", queues[0], 0, -1):
            server.cli("RPUSH", queues[0], entry)
        workers = await here.start_workers(2)
        for number in range(25):
            if number % 5 == 0:
                await here.start_mixed(1)
            for run_id in list(here.followed):
                loaded = await here.store.load_steps(run_id)
                if loaded is None or loaded.run.status != "running":
                    continue
                server.cli("RPUSH", queues[0], run_id)
                for step in loaded.steps:
                    if step.queue and step.status in ("scheduled", "running"):
                        entry = struct.pack("<IH", step.attempt, len(run_id)) + run_id.encode()
                        server.cli("RPUSH", f"{TAG}:q:jobs:{step.queue}", entry + step.key.encode())
            for queue in ("orchestrator", "jobs:default", "jobs:parts"):
                server.cli("ZADD", f"{TAG}:m:{queue}", 0, "1")
            if number % 12 == 11:
                async with here.network_fault("reaped by hand", workers):
                    for session in server.cli("ZRANGE", f"{TAG}:sess", 0, -1):
                        server.cli("ZADD", f"{TAG}:sess", 1, session)
        return await here.check()


def _wrong_steps_type(server: RedisServer, run_id: str) -> None:
    server.cli("DEL", f"{TAG}:s:{run_id}")
    server.cli("SET", f"{TAG}:s:{run_id}", "no steps")


def _wrong_run_type(server: RedisServer, run_id: str) -> None:
    server.cli("DEL", f"{TAG}:r:{run_id}")
    server.cli("RPUSH", f"{TAG}:r:{run_id}", "no run")


def _wrong_history_type(server: RedisServer, run_id: str) -> None:
    server.cli("DEL", f"{TAG}:h:{run_id}")
    server.cli("SET", f"{TAG}:h:{run_id}", "no history")


def _truncated_step(server: RedisServer, run_id: str) -> None:
    server.cli("HSET", f"{TAG}:s:{run_id}", "First", b"\x04\x00\x00")


def _unknown_step_status(server: RedisServer, run_id: str) -> None:
    # Enough of a record for every reader to get to its status.
    server.cli("HSET", f"{TAG}:s:{run_id}", "First", b"\x63" + bytes(90))


def _unknown_run_status(server: RedisServer, run_id: str) -> None:
    server.cli("HSET", f"{TAG}:r:{run_id}", "status", "dancing")


def _bad_turn(server: RedisServer, run_id: str) -> None:
    server.cli("HSET", f"{TAG}:r:{run_id}", "turn", "many")


def _no_fields(server: RedisServer, run_id: str) -> None:
    server.cli("HDEL", f"{TAG}:r:{run_id}", "workflow", "number", "input")


def _bad_input(server: RedisServer, run_id: str) -> None:
    server.cli("HSET", f"{TAG}:r:{run_id}", "input", "={not json")


CORRUPTIONS: dict[str, Callable[[RedisServer, str], None]] = {
    each.__name__.strip("_"): each
    for each in (
        _wrong_steps_type,
        _wrong_run_type,
        _wrong_history_type,
        _truncated_step,
        _unknown_step_status,
        _unknown_run_status,
        _bad_turn,
        _no_fields,
        _bad_input,
    )
}


async def corrupted(folder: Path, seed: int, kind: str | None = None) -> Figures:
    """15: the data of one run are damaged: only that run fails, and it is reported; also when the
    process that executed it dies."""
    async with place(folder, seed) as here:
        kind = kind or here.dice.choice(sorted(CORRUPTIONS))
        await here.start_workers(2)
        await here.start_mixed(4)
        victim = await here.start("bounded", {"n": 1, "ms": 500}, expected=...)
        await here.until(
            lambda: here.ledger.executions(victim, "Second") != [], "the victim to run"
        )
        CORRUPTIONS[kind](here.server, victim)
        here.notes.append(f"corruption: {kind}")
        await here.start_mixed(4)
        # Half of the time its owner dies before it has noticed, and somebody else finds it.
        if seed % 2:
            for worker in here.living:
                here.kill(worker)
            await here.start_workers(2)
        others = [run_id for run_id in here.followed if run_id != victim]
        await here.ends(*others)
        told = await _told_of(here, victim)
        follower = here.followed.pop(victim)
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        figures = await here.check(doctor=False, without={victim})
        expect(told, f"seed {seed}: {kind}: nothing says what happened to {victim}: {here.notes}")
        return figures


async def _told_of(here: Site, victim: str) -> str:
    """How the damage to a run shows: the run has failed, or completed as it did not matter, or
    doctor names it."""
    for _ in range(100):
        try:
            run = await here.store.load_run(victim)
        except PikkuError:
            break
        if run is None:
            break
        if run.status in ("failed", "suspended"):
            return f"{run.status}: {run.error}"
        if run.status == "completed":
            return "completed"
        await asyncio.sleep(0.1)
    said = await asyncio.to_thread(here._doctor)
    here.notes += said
    return next((each for each in said if victim in each), "")


# --- sizes -------------------------------------------------------------------


async def payloads(folder: Path, seed: int) -> Figures:
    """14: values of 1 KB up to the limit pass, one byte more is refused, in, out and as errors."""
    async with place(folder, seed) as here:
        await here.start_workers(2)
        quotes = 2
        largest = MAX_PAYLOAD_BYTES - quotes
        sizes = [1 << 10, 1 << 16, 1 << 19, largest]
        sizes += [here.dice.randrange(1, largest) for _ in range(3)]
        for size in sizes:
            await here.start("bulky", {"size": size}, expected=size)
        over = [await here.start("bulky", {"size": largest + 1}, expected=...)]
        await here.start("takes_text", "z" * largest, expected=largest)
        try:
            await fault_app.app.start_workflow("takes_text", "z" * (largest + 1), run_id="over")
        except PayloadTooLargeError:
            pass
        else:
            raise Broken("an input over the limit was taken")
        expect(await here.store.load_run("over") is None, "it was made all the same")
        loud = [
            await here.start("complaining", {"size": size}, expected=...)
            for size in (1 << 10, 1 << 20, 3 << 20)
        ]
        await here.start_mixed(4)
        for story in await here.ends(*over, *loud):
            expect(isinstance(story.outcome, RunFailedError), f"{story.outcome!r:.200}")
        for story in await here.ends(*over):
            text = str(story.outcome)
            expect(PayloadTooLargeError.code in text or "too large" in text, text[:300])
        for run_id in loud:
            loaded: LoadedRun = await here.store.load_steps(run_id)
            size = len(loaded.run.error or "")
            expect(size <= MAX_PAYLOAD_BYTES, f"an error of {size} bytes was kept")
        return await here.check()


async def many(folder: Path, seed: int) -> Figures:
    """20, small: many runs, many sleepers, a long run and a wide one."""
    async with place(folder, seed, lease=6.0) as here:
        await here.start_workers(2)
        for i in range(100):
            await here.start("long", {"n": i, "steps": 10})
        for i in range(100):
            await here.start("napping", {"n": i, "sleep": 300 + i})
        await here.start("long", {"n": 0, "steps": 300})
        await here.start("fan", {"n": 0, "ms": 0, "width": 300})
        return await here.check()


async def several_partitions(folder: Path, seed: int) -> Figures:
    """1 on three partitions: workers are killed while they execute."""
    async with place(folder, seed, options="partitions=3") as here:
        await here.start_workers(2)
        await here.start_mixed(9)
        for _ in range(2):
            here.kill(await here.busy_worker())
            await here.start_workers(1)
            await here.start_mixed(2)
        return await here.check()


async def families_killed(folder: Path, seed: int) -> Figures:
    """1 and 22: workers are killed while parents, children, maps, sagas and races are under way and
    signals come; a part of the seeds on three partitions."""
    async with place(folder, seed, options="partitions=3" if seed % 2 else "") as here:
        await here.start_workers(3)
        await here.start_families(4)
        for _ in range(3):
            here.kill(await here.busy_worker())
            await here.start_workers(1)
            await here.start_families(1)
            await asyncio.sleep(here.dice.uniform(0, 0.3))
        return await here.check()


async def families_reset(folder: Path, seed: int) -> Figures:
    """7 and 22: answers to workers are lost while families are under way."""
    async with place(folder, seed) as here, proxy_of(here.server) as proxy:
        await here.start_workers(1)
        workers = await here.start_workers(2, through=proxy)
        await here.start_families(3)
        for _ in range(6):
            await here.busy_worker(workers)
            async with here.network_fault("reset", workers):
                proxy.reset_after(here.dice.randrange(300), "reply", when=b"EVALSHA")
                await asyncio.sleep(0.2)
            await here.start_families(1)
        proxy.heal()
        return await here.check()


async def everything_at_once(folder: Path, seed: int) -> Figures:
    """23, a part of a soak: kills, stops, resets, partitions and a server that dies, at random."""
    async with place(folder, seed) as here, proxy_of(here.server) as proxy:
        await here.start_workers(2)
        await here.start_workers(1, through=proxy)
        dice = here.dice
        for _ in range(6):
            await here.start_mixed(4)
            proxied = [w for w in here.living if str(proxy.port) in w.log]
            match dice.choice(["kill", "stop", "server", "reset", "partition"]):
                case "kill":
                    worker = await here.busy_worker()
                    here.kill(worker)
                    await here.start_workers(1, through=proxy if worker in proxied else None)
                case "stop":
                    await here.in_background(
                        here.freeze(await here.busy_worker(), LEASE_SECONDS + 0.5)
                    )
                case "server":
                    async with here.network_fault("server killed", here.living):
                        await asyncio.to_thread(here.server.kill)
                        await asyncio.sleep(dice.uniform(0, 0.5))
                        await asyncio.to_thread(here.server.start)
                case "reset":
                    async with here.network_fault("reset", proxied):
                        proxy.reset_after(dice.randrange(300), "reply", when=b"EVALSHA")
                        await asyncio.sleep(0.2)
                case _:
                    async with here.network_fault("partition", proxied):
                        proxy.partition()
                        await asyncio.sleep(LEASE_SECONDS + dice.uniform(0, 1))
                        proxy.heal()
            await asyncio.sleep(dice.uniform(0, 0.4))
        proxy.heal()
        return await here.check()


# How many seeds of each belong to every run of the tests.
ROWS: dict[Scenario, int] = {
    kill_mid_step: 6,
    killed_before_the_answer: 3,
    stopped_and_continued: 4,
    loop_blocked: 2,
    loop_stuck: 2,
    server_killed: 3,
    everything_gone: 2,
    reaped_client: 2,
    connections_reset: 5,
    partitioned: 3,
    slow_network: 2,
    failover: 2,
    wrong_clock: 2,
    delivered_twice: 3,
    poison: 2,
    payloads: 1,
    full: 2,
    many: 1,
    drained: 2,
    several_partitions: 2,
    families_killed: 4,
    families_reset: 3,
    everything_at_once: 3,
}

# Those on a SQLite file, by name.
ROWS_IN_FILE: dict[Scenario, int] = {
    partial(kill_mid_step, at=in_file): 4,
    partial(stopped_and_continued, at=in_file): 3,
    partial(loop_blocked, at=in_file): 2,
    partial(loop_stuck, at=in_file): 1,
    partial(poison, at=in_file): 2,
    partial(drained, at=in_file): 2,
    file_locked: 2,
    disk_full: 2,
}
