"""What runs cost on Redis: how often a client calls, and how many commands the server executes.

Commands inside scripts count. Each test has a server to itself, and no heartbeat falls between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, NamedTuple

import pytest
from tests.runtime.kit import StoreProxy, Toy, Wf, World
from tests.servers.fixtures import MakeRedis
from tests.servers.redis import RedisServer

from pikku._records import (
    Advertise,
    CancelRun,
    Commit,
    DecideStep,
    DeleteRun,
    FireTimers,
    HandRun,
    Op,
    Settle,
    SignalRun,
    StepKindName,
    StepWrite,
)
from pikku._session import FOREVER_SECONDS
from pikku._settings import EngineOptions, Work
from pikku.stores import make_store
from pikku.stores.base import Store
from pikku.testing.store_contract import LEASE_US, must, new_run, turn, write

CALLS = ("evalsha", "bzpopmin")
MORE = 100

Kind = Literal["inline", "remote", "queued"]


def answer(i: int) -> Callable[[], int]:
    """An inline step."""
    return lambda: i


class Cost(NamedTuple):
    """What a client sent, and what the server executed because of it."""

    calls: int
    commands: int

    def more_than(self, other: Cost, steps: int) -> tuple[float, float]:
        """What each of *steps* steps more has cost."""
        return (self.calls - other.calls) / steps, (self.commands - other.commands) / steps


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


@pytest.fixture
def steps(toy: Toy) -> Toy:
    """Workflows that take as many steps as they are told: `inline`, `remote`, `queued`."""

    @toy.func
    async def step(ctx: object, data: int) -> int:
        return data

    @toy.workflow
    async def inline(ctx: Wf, data: int) -> int:
        return sum([await ctx.workflow.do(f"s{i}", answer(i)) for i in range(data)])

    @toy.workflow
    async def remote(ctx: Wf, data: int) -> int:
        return sum([await ctx.workflow.do(f"s{i}", step, i) for i in range(data)])

    @toy.workflow
    async def queued(ctx: Wf, data: int) -> int:
        do = ctx.workflow.do
        return sum([await do(f"s{i}", step, i, dispatch="queue") for i in range(data)])

    return toy


class Desk:
    """The app, open on the server; a worker, too, where the kind of its runs wants one."""

    def __init__(self, toy: Toy, server: RedisServer, kind: Kind) -> None:
        self._toy = toy
        self._server = server
        self._kind = kind

    async def run(self, steps: int, name: str = "r") -> None:
        run = await self._toy.start(self._kind, steps, run_id=f"{name}-{steps}", wait=False)
        assert await run.result() == steps * (steps - 1) // 2

    async def cost_of(self, work: Awaitable[object]) -> Cost:
        made = await executed(self._server, work)
        return Cost(sum(made.get(name, 0) for name in CALLS), sum(made.values()))


async def executed(server: RedisServer, work: Awaitable[object]) -> dict[str, int]:
    """How often the server has executed which command because of *work*."""
    before = _counts(server)
    await work
    after = _counts(server)
    return {name: made for name in after if (made := after[name] - before.get(name, 0))}


def _counts(server: RedisServer) -> dict[str, int]:
    told = server.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): int(value.split("calls=")[1].split(",")[0])
        for name, value in told.items()
        if name != "cmdstat_info"
    }


@pytest.fixture(params=["inline", "remote", "queued"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
async def desk(steps: Toy, server: RedisServer, kind: Kind) -> AsyncIterator[Desk]:
    options = EngineOptions(lease_seconds=FOREVER_SECONDS)
    remote = kind != "inline"
    async with steps.app.open(
        store=server.url,
        options=options,
        queue_service="store" if remote else "none",
        work=Work() if remote else None,
    ):
        desk = Desk(steps, server, kind)
        await desk.run(3, "warm")  # scripts are loaded, queues known
        yield desk


# A slow machine gives time for what is done once a second, whatever the steps.
WHAT_PASSES_BY = 1.05
CEILINGS: dict[Kind, tuple[float, float]] = {"inline": (1, 6), "remote": (1, 6), "queued": (2, 30)}


async def test_a_step_more_costs_one_call_or_two_through_the_queue(desk: Desk, kind: Kind) -> None:
    few, many = await desk.cost_of(desk.run(20)), await desk.cost_of(desk.run(20 + MORE))
    calls, commands = many.more_than(few, MORE)
    at_most_calls, at_most_commands = CEILINGS[kind]
    assert calls <= at_most_calls * WHAT_PASSES_BY
    assert commands <= at_most_commands * WHAT_PASSES_BY


async def test_a_step_costs_as_much_in_a_long_run_as_in_a_short_one(desk: Desk) -> None:
    sizes = (30, 60, 300, 330)
    cost = {size: await desk.cost_of(desk.run(size)) for size in sizes}
    assert cost[300].commands / 300 <= 1.05 * cost[30].commands / 30
    assert cost[300].calls / 300 <= 1.05 * cost[30].calls / 30
    early, late = cost[60].more_than(cost[30], 30), cost[330].more_than(cost[300], 30)
    assert late <= (early[0] * 1.05, early[1] * 1.05)


async def test_runs_at_once_share_their_calls(desk: Desk, kind: Kind) -> None:
    runs, steps = 100, 10

    async def all_at_once() -> None:
        await asyncio.gather(*[desk.run(steps, f"r{i}") for i in range(runs)])

    cost = await desk.cost_of(all_at_once())
    assert cost.calls <= 0.3 * runs * steps
    assert cost.commands <= 20 * runs * steps


async def test_a_cold_replay_takes_one_call_to_load_and_one_to_go_on(
    toy: Toy, server: RedisServer
) -> None:
    @toy.workflow
    async def rested(ctx: Wf) -> int:
        total = sum([await ctx.workflow.do(f"s{i}", answer(i)) for i in range(300)])
        await ctx.workflow.sleep("rest", "1h")
        return total

    async with World(server.url, sticky=0).proxied(toy, StoreProxy) as lab:
        run = await toy.start("rested")
        assert await run.result() == 300 * 299 // 2
        batches = lab.wrapped.applied
        fired = max(i for i, ops in enumerate(batches) if any(type(op) is FireTimers for op in ops))
        assert len(batches[fired + 1 :]) == 2
        assert lab.wrapped.reads == []


# --- operations on what a function waits for, and on whole runs --------------------


def wait(key: str, kind: StepKindName = "signal", name: str = "news") -> StepWrite:
    return write(key, "scheduled", kind=kind)._replace(target=name)


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    """A store on the server, with sessions `s1` and `s2`."""
    made = make_store(server.url)
    await made.open()
    for session in ("s1", "s2"):
        made.beat(session, LEASE_US)
        await must(made, session, Advertise(["flow"]))
    await must(made, "s1", new_run("warm"))
    yield made
    await made.close()


OPERATIONS: dict[str, tuple[Op, int]] = {
    "a signal that ends a wait": (SignalRun("r", "new", "news", "1"), 16),
    "a signal that waits": (SignalRun("r", "new", "more", "1"), 9),
    "a wait that finds a signal": (turn("r", 2, asks=[wait("b", name="there")]), 15),
    "a wait that finds none": (turn("r", 2, asks=[wait("b", name="more")]), 13),
    "a wait that is given up": (turn("r", 2)._replace(calls_off=["wait"]), 12),
    "a decision": (DecideStep("r", "ask", "1"), 13),
    "a run that is handed over": (HandRun("r", ["flow"]), 13),
    "what is advertised": (Advertise(["flow"]), 10),
}


@pytest.mark.parametrize("what", OPERATIONS)
async def test_an_operation_costs_as_much_in_a_large_run_as_in_a_small_one(
    store: Store, server: RedisServer, what: str
) -> None:
    op, ceiling = OPERATIONS[what]
    costs: list[int] = []
    for size in (1, 400):
        await must(store, "s1", new_run("r", claim=True))
        steps = [write(f"s{i}", "running") for i in range(size)]
        waits = [wait("wait"), wait("ask", "approval"), wait("other", name="else")]
        await must(store, "s1", turn("r", 1, asks=[*steps, *waits]))
        await must(store, "s1", *(SignalRun("r", f"i{i}", "there", "1") for i in range(size)))
        made = await executed(server, must(store, "s1", op))
        assert "hgetall" not in made
        costs.append(sum(made.values()))
        session = "s2" if type(op) is HandRun else "s1"
        number = 3 if type(op) is Commit else 2
        await must(store, session, turn("r", number, None, settle=Settle("failed")), DeleteRun("r"))
    assert costs[0] == costs[1]
    assert costs[1] <= ceiling


async def test_a_run_without_jobs_and_children_ends_without_a_look_at_its_steps(
    store: Store, server: RedisServer
) -> None:
    for name, inline in (("r", True), ("q", False)):
        await must(store, "s1", new_run(name, claim=True, inline=inline))
        await must(store, "s1", turn(name, 1, asks=[write("a", "running")]))
        cancelled = await executed(server, must(store, "s1", CancelRun(name, "why")))
        settle = Settle("cancelled", withdraw=True)
        ended = await executed(server, must(store, "s1", turn(name, 2, None, settle=settle)))
        assert "hgetall" not in {**cancelled, **ended}


async def test_a_child_costs_what_a_run_costs_and_little_more(
    store: Store, server: RedisServer
) -> None:
    await must(store, "s1", new_run("r", claim=True), new_run("s", claim=True))
    alone = await executed(server, must(store, "s1", new_run("free"), turn("s", 1)))
    child = new_run("r~kid")._replace(parent="r", parent_step="kid")
    step = wait("kid", "child")._replace(job="r~kid")
    asked = turn("r", 1, asks=[step])._replace(children=[child])
    together = await executed(server, must(store, "s1", asked))
    assert sum(together.values()) <= sum(alone.values())
