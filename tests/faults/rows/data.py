"""What is done to data: delivered twice, damaged, too large, too much."""

from __future__ import annotations

import asyncio

from tests.faults import fault_app
from tests.faults.driver import Broken, Site
from tests.faults.invariants import Figures
from tests.faults.matrix import FILE, POSTGRES, REDIS, Setting, expect, row
from tests.faults.places import PLACES, Job

from pikku._payloads import MAX_PAYLOAD_BYTES
from pikku._records import LoadedRun
from pikku.errors import PayloadTooLargeError, PikkuError, RunFailedError

TRANSITS = (FILE, REDIS, POSTGRES)


@row("12", TRANSITS)
async def delivered_twice(at: Setting) -> Figures:
    """Jobs and runs stand in their queues more than once, and live leases are taken away."""
    async with at.site() as here:
        await here.start_mixed(6)
        for run_id in here.followed:
            await asyncio.to_thread(here.place.deliver_again, run_id, [])
        workers = await here.start_workers(2)
        for number in range(25):
            if number % 5 == 0:
                await here.start_mixed(1)
            for run_id in list(here.followed):
                loaded = await here.store.load_steps(run_id)
                if loaded is None or loaded.run.status != "running":
                    continue
                jobs = [
                    Job(step.queue, step.key, step.attempt)
                    for step in loaded.steps
                    if step.queue and step.status in ("scheduled", "running")
                ]
                await asyncio.to_thread(here.place.deliver_again, run_id, jobs)
                here.fault("delivered again", [])
            if number % 12 == 11:
                async with here.network_fault("reaped by hand", workers):
                    await asyncio.to_thread(here.place.expire)
        return await here.check()


@row("15", TRANSITS)
async def damaged(at: Setting) -> Figures:
    """The records of one run are damaged: only that run fails, and it is reported; for half of the
    seeds the process that executed it dies before it has noticed."""
    kinds = PLACES[at.store].damages
    return await damage(at, kinds[at.seed // 2 % len(kinds)], dies=bool(at.seed % 2))


async def damage(at: Setting, kind: str, *, dies: bool) -> Figures:
    """One kind of damage."""
    async with at.site() as here:
        await here.start_workers(2, FAULT_AUDIT_EVERY="2")
        await here.start_mixed(4)
        victim = await here.start("bounded", {"n": 1, "ms": 500}, expected=...)
        await here.until(
            lambda: here.ledger.executions(victim, "Second") != [], "the victim to run"
        )
        here.fault(kind, [])
        here.place.damage(kind, victim)
        here.notes.append(f"damage: {kind}")
        await here.start_mixed(4)
        if dies:
            for worker in here.living:
                here.kill(worker)
            await here.start_workers(2, FAULT_AUDIT_EVERY="2")
        others = [run_id for run_id in here.followed if run_id != victim]
        await here.ends(*others)
        told = await _told_of(here, victim)
        follower = here.followed.pop(victim)
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        figures = await here.check(doctor=False, without={victim})
        expect(told, f"{kind}: nothing says what happened to {victim}: {here.notes}")
        return figures


# For as long as a run that goes on after all may take on a slow machine.
PATIENCE_SECONDS = 60.0


async def _told_of(here: Site, victim: str) -> str:
    """How the damage to a run shows: the run has failed, or completed as it did not matter, or
    doctor names it."""
    until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while asyncio.get_running_loop().time() < until:
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


# --- sizes ------------------------------------------------------------------------------------


@row("14", TRANSITS)
async def payloads(at: Setting) -> Figures:
    """Values of 1 KB up to the limit pass, one byte more is refused, in, out and as errors."""
    async with at.site() as here:
        await here.start_workers(2)
        here.fault("too large", [])
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


@row("20", TRANSITS)
async def many(at: Setting) -> Figures:
    """Many runs, many sleepers, a long run and a wide one."""
    async with at.site(lease=6.0) as here:
        await here.start_workers(2)
        for i in range(100):
            await here.start("long", {"n": i, "steps": 10})
        for i in range(100):
            await here.start("napping", {"n": i, "sleep": 300 + i})
        await here.start("long", {"n": 0, "steps": 300})
        await here.start("fan", {"n": 0, "ms": 0, "width": 300})
        return await here.check()
