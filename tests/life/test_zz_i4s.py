import asyncio
import pytest
from tests.life.kit import *
from tests.runtime.kit import Toy, Wf
from pikku import Signal
from pikku._records import FireTimers, SignalRun

async def test_reminder(toy: Toy, evicted: Place) -> None:
    word = toy.registry.wire_signal(name="word", payload=int)

    @toy.workflow
    async def waiter(ctx: Wf) -> int:
        for n in range(3):
            which, value = await ctx.workflow.race(
                ctx.workflow.sleep(f"Nap {n}", "1h"),
                ctx.workflow.wait_for_signal(f"Word {n}", word),
            )
            if which == 1:
                return 100 * n + value
        return -1

    async with evicted.lab(toy) as lab:
        run = await toy.start("waiter")
        await lab.settle()
        await lab.crash()
        store = lab._store
        lab.clock.move_to(lab.clock.now_us() + 3_600_000_001)
        await store.apply("x", [FireTimers()], {})
        r = await store.apply("x", [SignalRun(str(run), "i1", "word", "7")], {})
        print(r.results)
        await lab.recover()
        await lab.settle()
        loaded = await store.load_steps(str(run))
        for s in loaded.steps: print(s.key, s.status, s.result, s.error, s.delivery, s.after)
        assert await run.result(timeout="1s") == 107
