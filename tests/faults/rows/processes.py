"""What happens to processes: they die, stand still, block, drain, and believe in another hour."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import Any

from tests.faults import fault_app
from tests.faults.driver import FEW, LEASE_SECONDS, ROOT, Site, WorkerProcess, monotonic_ns
from tests.faults.invariants import Figures
from tests.faults.matrix import (
    FILE,
    POSTGRES,
    REDIS,
    SERVERS,
    Setting,
    expect,
    proxy_of,
    row,
)
from tests.faults.places import PostgresPlace, SqlitePlace

from pikku._records import LoadedRun
from pikku._settings import EngineOptions
from pikku.errors import RunFailedError

EXIT_STUCK = 70
TIMER_LATE_US = 30_000_000


# --- 1 and 18: they die -----------------------------------------------------------------------


@row("1", seeds=2)
async def kill_mid_step(at: Setting) -> Figures:
    """Workers are killed while they execute."""
    async with at.site() as here:
        await here.start_workers(3)
        await here.start_mixed(12)
        for _ in range(4):
            here.kill(await here.busy_worker())
            await here.start_workers(1)
            await here.start_mixed(2)
            await asyncio.sleep(here.dice.uniform(0, 0.3))
        figures = await here.check()
        expect(figures.in_flight, "nothing was under way at the kills")
        return figures


@row("1", (REDIS,))
async def several_partitions(at: Setting) -> Figures:
    """Workers of a store in three partitions are killed while they execute."""
    async with at.site(options="partitions=3") as here:
        await here.start_workers(2)
        await here.start_mixed(9)
        for _ in range(2):
            here.kill(await here.busy_worker())
            await here.start_workers(1)
            await here.start_mixed(2)
        return await here.check()


@row("1, 22")
async def families_killed(at: Setting) -> Figures:
    """Workers are killed while parents, children, maps, sagas and races are under way and signals
    come; on Redis, some of the seeds in three partitions."""
    partitions = "partitions=3" if at.store == REDIS and at.seed % 2 else ""
    async with at.site(options=partitions) as here:
        await here.start_workers(3)
        await here.start_families(4)
        for _ in range(3):
            here.kill(await here.busy_worker())
            await here.start_workers(1)
            await here.start_families(1)
            await asyncio.sleep(here.dice.uniform(0, 0.3))
        return await here.check()


@row("18", (FILE,))
async def many_killed_at_one_file(at: Setting) -> Figures:
    """Five processes write to one file, and are killed in turn; the file stays whole."""
    async with at.site() as here:
        await here.start_workers(5)
        await here.start_mixed(12)
        for _ in range(8):
            here.kill(await here.busy_worker())
            await here.start_workers(1)
            await here.start_mixed(1)
        return await here.check()


# --- 2: they die before they are told ---------------------------------------------------------


@row("2", SERVERS)
async def killed_before_the_answer(at: Setting) -> Figures:
    """What a worker has committed is never confirmed to it, and it dies."""
    async with at.site() as here, proxy_of(here.place) as proxy:
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
        await here.start_workers(2)
        return await here.check()


@row("2")
async def dead_with_the_commit(at: Setting) -> Figures:
    """A worker dies with a commit of its own: it is recorded, and nobody there has heard of it."""
    async with at.site() as here:
        await here.start_workers(1)
        await here.start_mixed(6)
        for _ in range(3):
            (worker,) = await here.start_workers(
                1, FAULT_DIES_AFTER=str(here.dice.randrange(1, 25))
            )
            await here.start_mixed(2)
            fault = here.fault("died with a commit", [worker], killed=True)
            for attempt in range(300):
                if await _ends_soon(here, worker):
                    break
                if attempt < 40 or attempt % 5 == 0:  # a slow machine has yet to start it
                    await here.start_mixed(2)
            fault.began_ns = fault.ended_ns = monotonic_ns()
            expect(
                worker.process.returncode == -signal.SIGKILL,
                f"it ended with {worker.process.returncode}:\n{worker.log}",
            )
        return await here.check()


async def _ends_soon(here: Site, worker: WorkerProcess) -> bool:
    if worker.alive:
        await asyncio.wait(here.followed.values(), timeout=0.3)
    return not worker.alive


# --- 3: they stand still ----------------------------------------------------------------------


@row("3")
async def stopped_and_continued(at: Setting) -> Figures:
    """A worker stands still for longer than its lease, and goes on."""
    async with at.site() as here:
        await here.start_workers(3)
        await here.start_mixed(9)
        for _ in range(3):
            worker = await here.busy_worker()
            await here.start_mixed(3)
            await here.freeze(worker, LEASE_SECONDS + here.dice.uniform(0.2, 0.8))
        return await here.check()


_IN_TRANSACTION = (
    "SELECT 1 FROM pg_stat_activity WHERE application_name = 'frozen'"
    " AND state = 'idle in transaction'"
)


@row("3", (POSTGRES,))
async def stopped_in_a_transaction(at: Setting) -> Figures:
    """A worker stands still with a transaction open and rows locked: the server ends that, and all
    go on."""
    async with at.site() as here, proxy_of(here.place) as proxy:
        place = here.place
        assert isinstance(place, PostgresPlace)
        await here.start_workers(1, *FEW)
        (worker,) = await here.start_workers(1, through=proxy, options="application_name=frozen")
        for attempt in itertools.count():
            if attempt % 8 == 0:
                await here.start_mixed(3)
                await here.busy_worker([worker])
            proxy.hold("reply")
            await asyncio.sleep(0.05)
            if await asyncio.to_thread(place.server.sql, _IN_TRANSACTION):
                break
            proxy.release()
            await asyncio.sleep(here.dice.uniform(0, 0.03))
        await here.start_mixed(3)
        # Longer than the server has patience with a transaction in which nothing happens.
        frozen = asyncio.ensure_future(here.freeze(worker, 6.0 + here.dice.uniform(0, 1)))
        await asyncio.sleep(0)
        proxy.heal()
        await here.until(
            lambda: not place.server.sql(_IN_TRANSACTION), "the server to end the transaction"
        )
        await frozen
        return await here.check()


@row("3", (FILE,))
async def file_locked(at: Setting) -> Figures:
    """Somebody keeps the file locked, as one who stands still while it writes, for longer than
    every lease: all go on when it is free."""
    async with at.site() as here:
        place = here.place
        assert isinstance(place, SqlitePlace)
        workers = await here.start_workers(2)
        await here.start_mixed(6)
        await here.busy_worker()
        async with here.network_fault("locked", workers):
            with place.connected() as other:
                other.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(LEASE_SECONDS + here.dice.uniform(0.3, 1.0))
                other.execute("ROLLBACK")
        await here.start_mixed(3)
        return await here.check()


@row("3")
async def reaped_client(at: Setting) -> Figures:
    """Whoever starts runs stood still, and others have reaped it: what it is asked for next is done
    all the same."""
    async with at.site() as here:
        workers = await here.start_workers(1)
        for _ in range(5):
            session = fault_app.app.opened.engine.session_id
            here.fault("reaped", workers[:0])
            await here.until(partial(_reaped, here, session), "the client to be reaped")
            if here.dice.random() < 0.5:
                await here.start_mixed(2)
            else:
                run_id = await here.start("napping", {"n": 1, "sleep": 600_000}, expected=...)
                run: Any = fault_app.app.get_run("napping", run_id)
                await run.cancel("enough")
        return await here.check()


def _reaped(here: Site, session: str) -> bool:
    """Whether others have; until then its lease is over, whatever it says itself."""
    here.place.expire(session)
    return not here.place.knows(session)


# --- 4: they block ----------------------------------------------------------------------------


@row("4")
async def loop_blocked(at: Setting) -> Figures:
    """A step holds up its loop for longer than the lease: nothing is lost by that."""
    async with at.site() as here:
        workers = await here.start_workers(2)
        await here.start_mixed(4)
        data = {"n": 7, "ms": int((LEASE_SECONDS + here.dice.uniform(0.3, 1.2)) * 1000)}
        run_id = await here.start("blocking", data)
        here.fault("blocked loop", workers[:0])
        await here.start_mixed(4)
        figures = await here.check()
        (block, _) = (await here.store.load_steps(run_id)).steps
        expect(
            (block.attempt, block.lost) == (1, 0) or figures.accidents,
            f"the blocked step lost an attempt: {block}",
        )
        return figures


@row("4")
async def loop_stuck(at: Setting) -> Figures:
    """A step holds up its loop for longer than `loop_grace`: its process gives up and exits."""
    async with at.site(loop_grace_seconds=1.0) as here:
        await here.start_workers(2)
        run_id = await here.start("blocking", {"n": 7, "ms": 8_000})
        await here.start_mixed(6)
        await here.until(lambda: here.ledger.executions(run_id, "Block") != [], "the block")
        (begun,) = here.ledger.executions(run_id, "Block")
        (worker,) = [each for each in here.workers if each.pid == begun.pid]
        fault = here.fault("stuck", [worker], killed=True)
        await here.until(lambda: not worker.alive, "the stuck worker to exit")
        fault.ended_ns = monotonic_ns()
        code = worker.process.returncode
        expect(code == EXIT_STUCK, f"it ended with {code}:\n{worker.log}")
        expect("time.sleep" in worker.log, f"its log does not say where it stood:\n{worker.log}")
        figures = await here.check()
        (block, _) = (await here.store.load_steps(run_id)).steps
        expect((block.attempt, block.lost) == (2, 1), str(block))
        return figures


# --- 13: they are killed by their work --------------------------------------------------------


@row("13")
async def poison(at: Setting) -> Figures:
    """A step that takes its process along is given up; the others are not touched."""
    async with at.site(max_lost_attempts=3) as here:
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
            repr(story.outcome),
        )
        for worker in here.workers:
            if not worker.alive and worker not in deaths:
                deaths.append(worker)
                here.fault("poison", [worker], killed=True)
        expect(
            all(worker.process.returncode == fault_app.POISON_EXIT for worker in deaths),
            f"a worker died of something else: {workers}",
        )
        figures = await here.check()
        # One that lost its lease in the meantime has lost an attempt as well.
        expect(len(deaths) == 3 or figures.accidents, f"{len(deaths)} workers died of it")
        loaded: LoadedRun = await here.store.load_steps(run_id)
        (step,) = [each for each in loaded.steps if each.key == "Poison"]
        expect((step.status, step.lost) == ("failed", 3), str(step))
        return figures


# --- drains and deploys -----------------------------------------------------------------------


@row("21")
async def drained(at: Setting) -> Figures:
    """SIGTERM under load: exit 0, nothing is executed twice."""
    async with at.site() as here:
        await here.start_workers(2)
        await here.start_mixed(9)
        for _ in range(3):
            worker = await here.busy_worker()
            await here.start_workers(1)
            here.fault("drain", [])
            code = await asyncio.to_thread(worker.drain)
            expect(code == 0, f"a drained worker ended with {code}:\n{worker.log}")
            await here.start_mixed(2)
        figures = await here.check()
        expect(figures.extra == 0 or figures.accidents, f"{figures.extra} further executions")
        return figures


@row("21")
async def rolling_deploy(at: Setting) -> Figures:
    """Old and new code at once, and kills while one takes over from the other: runs that are pinned
    end under the code that they began with, all others under either."""
    async with at.site() as here:
        olds = await here.start_workers(2)
        await here.start_mixed(3)
        for _ in range(4):
            data = here.data()
            await here.start("edited", data, pinned=True)
        await here.start_workers(2, FAULT_DEPLOY="new")
        for _ in range(2):
            run_id, data = here.new_id("edited"), here.data()
            await asyncio.to_thread(_start_by_new_code, here, run_id, data)
            expected = fault_app.expected("edited", data) + fault_app.CHECKED
            here.follow("edited", run_id, expected)
        await here.start_mixed(3)
        here.kill(await here.busy_worker(olds))
        await here.start_mixed(3)
        here.kill(await here.busy_worker([each for each in here.living if each not in olds]))
        await here.start_workers(1, FAULT_DEPLOY="new")
        return await here.check()


def _start_by_new_code(here: Site, run_id: str, data: dict[str, int]) -> None:
    """A pinned run of `edited`, started by a process that has the new code."""
    program = (
        "import asyncio, json, os, sys\n"
        "from tests.faults.fault_app import app\n"
        "async def main(run_id, data):\n"
        "    async with app.open(store=os.environ['PIKKU_STORE'], queue_service='store'):\n"
        "        await app.start_workflow('edited', json.loads(data), run_id=run_id, pinned=True)\n"
        "asyncio.run(main(*sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, run_id, json.dumps(data)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PIKKU_STORE": here.url, "FAULT_DEPLOY": "new"},
        cwd=here.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    expect(done.returncode == 0, f"nothing is started: {done.stderr}")


# --- 10 and 11: clocks ------------------------------------------------------------------------


@row("10", SERVERS)
async def wrong_clock(at: Setting) -> Figures:
    """Workers believe in another hour: no timer is early, no lease is lost."""
    async with at.site() as here:
        for seconds in ("3600", "-3600"):
            await here.start_workers(1, FAULT_CLOCK_SECONDS=seconds)
            here.fault("wrong clock", [])
        await here.start_mixed(6)
        for _ in range(4):
            await here.start("napping", {"n": 3, "sleep": here.dice.randrange(200, 1500)})
        figures = await here.check()
        for early_us in await _earliness(here):
            expect(early_us > -TIMER_LATE_US, f"a timer was {-early_us} us late")
        return figures


@row("11")
async def store_clock_jumps(at: Setting) -> Figures:
    """The store's clock is set on by an hour, and back by seconds: no timer is early by it or lost;
    leases end at worst."""
    async with at.site(clock=True) as here:
        workers = await here.start_workers(2)
        off = 0.0
        for jump in (3600.0, -here.dice.uniform(1, 2), here.dice.uniform(1, 10)):
            await here.start_mixed(4)
            for _ in range(2):
                await here.start("napping", {"n": 3, "sleep": here.dice.randrange(200, 1500)})
            await here.busy_worker()
            off += jump
            async with here.network_fault("clock set", workers, froze=jump > 0):
                await asyncio.to_thread(here.place.set_clock, off)
                await asyncio.sleep(0.2)
        figures = await here.check()
        await _earliness(here)
        return figures


async def _earliness(here: Site) -> list[int]:
    """By how many microseconds each sleep ended before its time; raises if one did."""
    found: list[int] = []
    for story in here.stories:
        for step in (await here.store.load_steps(story.run_id)).steps:
            if step.kind == "sleep":
                early = step.due_us - step.finished_us
                expect(early <= 0, f"a timer was {early} us early: {step}")
                found.append(early)
    return found


# --- how long it takes ------------------------------------------------------------------------


async def recovery(at: Setting, kills: int) -> Figures:
    """Kills under load with the lease that a user has, one after the other."""
    async with at.site(lease=None) as here:
        expect(here.lease == EngineOptions().lease_seconds, "the lease is a user's")
        await here.start_workers(2)
        for _ in range(kills):
            await here.start_mixed(6)
            worker = await here.busy_worker()
            here.kill(worker)
            await here.start_workers(1)
            await here.ends()
        return await here.check()
