"""A crash at any call to the store, before it or with its answer lost, changes nothing in the life
of a job: none is lost, none is done again once that is recorded, and no queue stays blocked.

`PIKKU_TEST_SEED=7` takes a sample on the servers with that seed, as a failure prints it.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.replay.test_crash_life import (
    OPENING,
    PAIRS,
    PATIENCE,
    SAMPLE,
    UNCOUNTED,
    Broken,
    Crash,
    Functions,
    Mortal,
    Script,
    Stage,
    Word,
    draw_of,
    drawn,
    error_type,
    start,
)
from tests.replay.test_crash_life import empty_file as empty_file
from tests.runtime.kit import Ctx, ProxyLab, Toy, Wf, World
from tests.servers.fixtures import PostgresServers, RedisServers

from pikku import QueueConfig, RateLimit
from pikku._records import JOB_KEY, JOB_RUNS, RunFilter, RunRecord
from pikku.errors import JobCancelledError, JobFailedError, JobNotFoundError, JobStateError
from pikku.stores.base import Store

QUEUES = ("mails", "notices")
AGAIN = "notices"
"""A queue of jobs that are asked for again when they may be done and gone."""
OPENS = {"third": 15, "late": 3600, "later": 3600, "nobody": 1e9}
"""From when on, in seconds, a mail to somebody can be sent; to others always."""
WINDOW_SECONDS = 60
LATE_SECONDS = WINDOW_SECONDS + 1
"""How much later a job may be done for each crash: its place in a window of the rate is lost."""


class Mails(Functions):
    """Functions that are wired to queues, and what has become of the mails."""

    def __init__(self, toy: Toy) -> None:
        super().__init__(toy)
        self.toy = toy
        self.begun: Counter[str] = Counter()
        self.invocations: dict[str, set[str]] = {}
        self.under_way = self.most = 0
        self.last = 0.0
        self.told: list[Any] = []

    def tell_of(self, ctx: Ctx, to: str) -> None:
        self.note(ctx)
        self.begun[to] += 1
        self.invocations.setdefault(to, set()).add(ctx.step.invocation_id)
        self.last = max(self.last, self.seconds())

    def wire(self, queue: str = "mails", config: QueueConfig | None = None) -> None:
        """Have the mails of *queue* sent."""

        async def send(ctx: Ctx, to: str) -> str:
            self.tell_of(ctx, to)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
                if self.seconds() < OPENS.get(to, 0):
                    raise Broken(to)
                return f"sent to {to}"
            finally:
                self.under_way -= 1

        func = self.toy.func(name=f"send_{queue}", retries=2, retry_delay="10s")(send)
        self.toy.registry.wire_queue_worker(queue=queue, func=func, config=config)

    # --- what is said ---------------------------------------------------------------------------

    def add(self, at: str, to: str, queue: str = "mails", **options: Any) -> Word:
        """Add a job, and again if the process died before it was there."""

        async def say(toy: Toy) -> None:
            if await self.is_missing(queue, to):
                await toy.app.add_job(queue, to, **options)

        return Word(at, say)

    def insist(self, at: str, to: str, queue: str = "mails", **options: Any) -> Word:
        """Add a job under an id, and again without a look if the process died meanwhile."""
        return Word(at, lambda toy: toy.app.add_job(queue, to, **options))

    def wait_for(self, at: str, to: str, **options: Any) -> Word:
        """Add a job under an id, and wait for its result."""

        async def say(toy: Toy) -> None:
            job = await toy.app.add_job("mails", to, **options)
            self.told.append(await job.result())

        return Word(at, say)

    def put_back(self, at: str, dedupe_id: str) -> Word:
        """Retry a dead letter; it may be back, or done, if that was said before."""
        return Word(
            at,
            lambda toy: toy.app.opened.jobs.retry("mails", f"mails~{dedupe_id}"),
            (JobStateError, JobNotFoundError),
        )

    def put_all_back(self, at: str) -> Word:
        return Word(at, lambda toy: toy.app.opened.jobs.retry_all("mails"))

    def call_off(self, at: str, dedupe_id: str) -> Word:
        return Word(
            at, lambda toy: toy.app.get_job("mails", f"mails~{dedupe_id}").cancel("not needed")
        )

    async def is_missing(self, queue: str, to: str) -> bool:
        """Whether a mail is not in the queue, and never was."""
        store = self.toy.app.opened.engine.store
        loaded = [await store.load_steps(run.run_id) for run in await jobs_in(store, queue)]
        there = {each.steps[0].input for each in loaded if each is not None}
        return not self.begun[to] and f'"{to}"' not in there


async def jobs_in(store: Store, queue: str) -> Sequence[RunRecord]:
    return await store.list_runs(RunFilter(workflow=JOB_RUNS + queue, limit=1000))


Play = Callable[[Mails], Script]


# --- plays ----------------------------------------------------------------------------------------


def done_and_gone(m: Mails) -> Script:
    m.wire()
    return [m.add("0s", "ann"), m.add("1min", "bob"), m.add("1min", "eve", priority=9)]


def done_and_kept(m: Mails) -> Script:
    m.wire()
    return [
        m.insist("0s", "ann", dedupe_id="a", keep_result=True),
        m.insist("1min", "bob", dedupe_id="b", keep_result=True, priority=3, group="g"),
        m.insist("2min", "ann", dedupe_id="a", keep_result=True),
    ]


def waited_for(m: Mails) -> Script:
    m.wire()
    return [
        m.wait_for("0s", "ann", dedupe_id="a", keep_result=True),
        m.wait_for("1min", "bob", dedupe_id="b", keep_result=True, group="g"),
    ]


def tried_again(m: Mails) -> Script:
    m.wire()
    return [
        m.insist("0s", "late", dedupe_id="a", retries=0),
        m.insist("0s", "third", dedupe_id="b", keep_result=True),
        m.add("1min", "nobody", retries=1),
    ]


def dead_and_put_back(m: Mails) -> Script:
    m.wire()
    return [
        m.insist("0s", "late", dedupe_id="a", retries=1, keep_result=True),
        m.insist("0s", "nobody", dedupe_id="b", retries=0),
        m.put_back("1h", "a"),
    ]


def dead_and_all_put_back(m: Mails) -> Script:
    m.wire()
    return [
        m.insist("0s", "late", dedupe_id="a", retries=0, group="g"),
        m.insist("1s", "later", dedupe_id="b", retries=0, keep_result=True),
        m.put_all_back("1h"),
    ]


def delayed(m: Mails) -> Script:
    m.wire()
    return [
        m.insist("0s", "ann", dedupe_id="a", delay="1h"),
        m.insist("10min", "bob", dedupe_id="a"),
        m.add("10min", "eve", delay="2h", priority=5),
        m.insist("20min", "kim", dedupe_id="c", delay="1h", keep_result=True),
    ]


def cancelled_while_it_waits(m: Mails) -> Script:
    m.wire()
    return [
        m.insist("0s", "ann", dedupe_id="a", delay="1h"),
        m.insist("0s", "nobody", dedupe_id="b"),
        m.call_off("5s", "b"),
        m.call_off("10min", "a"),
    ]


def one_at_a_time(m: Mails) -> Script:
    m.wire(config=QueueConfig(concurrency=1))
    return [
        m.insist("0s", "nobody", dedupe_id="x", retries=1),
        *(m.add("0s", f"n{number}", delay="1min", priority=number) for number in range(3)),
    ]


def one_of_a_group(m: Mails) -> Script:
    m.wire(config=QueueConfig(group_concurrency=1))
    return [m.add("0s", f"n{number}", delay="1min", group="g") for number in range(3)]


def at_a_rate(m: Mails) -> Script:
    m.wire(config=QueueConfig(rate_limit=RateLimit(1, f"{WINDOW_SECONDS}s")))
    return [m.add("0s", f"n{number}") for number in range(3)]


def several_in_one_call(m: Mails) -> Script:
    m.wire()

    async def say(toy: Toy) -> None:
        names = ("ann", "bob", "eve")
        missing = [name for name in names if await m.is_missing("mails", name)]
        await toy.app.add_jobs("mails", missing, delay="1min", group="g")

    return [Word("0s", say)]


def added_by_a_step(m: Mails) -> Script:
    m.wire()

    @m.toy.func
    async def order(ctx: Ctx, to: str) -> str:
        options: Any = {"dedupe_id": ctx.step.invocation_id, "delay": "1min"}
        return str(await m.toy.app.add_job("mails", to, **options))

    @m.toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> Any:
        return await ctx.workflow.do("Order", order, "ann")

    return [start()]


def added_by_a_step_and_done_at_once(m: Mails) -> Script:
    """The step may be taken again when the job is done and gone: then it is done again."""
    m.wire(AGAIN)

    @m.toy.func
    async def order(ctx: Ctx, to: str) -> str:
        return str(await m.toy.app.add_job(AGAIN, to, dedupe_id=ctx.step.invocation_id))

    @m.toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> Any:
        return await ctx.workflow.do("Order", order, "ann")

    return [start()]


ENDS: dict[Play, list[str]] = {
    done_and_gone: [],
    done_and_kept: ["ann completed", "bob completed"],
    waited_for: ["ann completed", "bob completed"],
    tried_again: ["late failed", "nobody failed", "third completed"],
    dead_and_put_back: ["late completed", "nobody failed"],
    dead_and_all_put_back: ["later completed"],
    delayed: ["kim completed"],
    cancelled_while_it_waits: ["ann cancelled", "nobody cancelled"],
    one_at_a_time: ["nobody failed"],
    one_of_a_group: [],
    at_a_rate: [],
    several_in_one_call: [],
    added_by_a_step: [],
    added_by_a_step_and_done_at_once: [],
}
"""The jobs that each play leaves."""
ONE_AT_A_TIME = (one_at_a_time, one_of_a_group)


REPEATED = (added_by_a_step_and_done_at_once,)
"""What is asked for again may be under way or done already."""


# --- what is the same with and without a crash ----------------------------------------------------


@dataclass
class Ended:
    """What there is in the store at the end, and how often what was executed until when."""

    runs: dict[str, Any]
    jobs: list[Any]
    waiting: dict[str, int]
    told: list[Any]
    begun: Counter[str]
    invocations: dict[str, int]
    most: int
    last: float
    calls: int
    crashes: int


class Post(Stage):
    """A lab in which jobs are added and done."""

    functions: Mails

    async def _runs(self) -> list[tuple[str, Any, Any]]:
        found = {each[0]: each for each in await super()._runs()}
        store: Any = self.lab.wrapped.inner
        for queue in QUEUES:
            for info in await jobs_in(store, queue):
                loaded = await store.load_steps(info.run_id)
                found[info.run_id] = (info.run_id, loaded.run, loaded.steps)
        return list(found.values())

    async def _take_note(self) -> None:
        """A job that was begun and is gone has been completed."""
        await super()._take_note()
        there = {run_id for run_id, _, _ in await self._runs()}
        self._recorded |= {
            (run_id, key)
            for run_id, key in self.functions.executed
            if key == JOB_KEY and run_id not in there and not run_id.startswith(AGAIN)
        }

    async def results(self) -> Ended:
        """The end of it all."""
        calls = len(self.mortal.applied)
        self.mortal.live_on()
        runs: dict[str, Any] = {}
        jobs: list[Any] = []
        for run_id, run, steps in await self._runs():
            if run.workflow.startswith(JOB_RUNS):
                jobs.append(await self._job(run, steps[0]))
            else:
                ends = {s.key: (s.status, s.result, error_type(s.error)) for s in steps}
                runs[run_id] = (run.status, run.output, error_type(run.error), ends)
        m = self.functions
        ids = {to: len(found) for to, found in m.invocations.items()}
        return Ended(
            runs,
            sorted(jobs, key=repr),
            await self.lab.wrapped.inner.count_jobs(),
            sorted(set(m.told)),
            m.begun,
            ids,
            m.most,
            m.last,
            calls,
            self.mortal.deaths,
        )

    async def _job(self, run: Any, step: Any) -> Any:
        history = await self.lab.wrapped.inner.load_history(run.run_id)
        kinds = Counter(entry.kind for entry in history)
        lost = sum(kinds.pop(kind, 0) for kind in UNCOUNTED)
        queue = run.workflow.removeprefix(JOB_RUNS)
        said: Any
        try:
            said = await self.toy.app.get_job(queue, run.run_id).result(timeout="1s")
        except (JobFailedError, JobCancelledError) as error:
            said = type(error).__name__
        return (
            (queue, step.input, step.queue, run.status, run.output, error_type(run.error)),
            (step.status, step.result, step.failures, step.attempt - lost, run.run_attempt),
            (dict(kinds), said),
        )

    def check(self, expected: Ended, lost_at_once: int) -> None:
        """Nothing recorded was executed again, each crash lost so many attempts of a job at most,
        and none had to wait for ever."""
        m = self.functions
        for step in self._recorded:
            assert m.executed[step] == self._executed[step], f"{step} was recorded"
        for to, count in m.begun.items():
            most = expected.begun[to] + self.mortal.deaths * lost_at_once
            assert expected.begun[to] <= count <= most, f"{to}: {count} times"
        assert m.begun.keys() == expected.begun.keys()
        assert m.last <= expected.last + self.mortal.deaths * LATE_SECONDS


@dataclass(frozen=True)
class Office:
    """Where a play is played: new stores of one kind, and a mode."""

    make_url: Callable[[], str]
    mode: str = "inline"

    async def play(self, play: Play, *crashes: Crash, expected: Ended | None = None) -> Ended:
        """The play with some crashes; it ends as *expected*."""
        toy = Toy()
        mails = Mails(toy)
        script = play(mails)
        lab = ProxyLab(
            toy.app,
            store=self.make_url(),
            queue_service="store" if self.mode == "remote" else "none",
            auto_advance=False,
            options=World("", 0).options(),
        )
        lab.proxy = lambda lab, store: Mortal(lab, store, crashes)
        told = ", ".join(map(str, crashes))
        async with lab:
            post = Post(lab, toy, mails)
            try:
                async with asyncio.timeout(PATIENCE):
                    await post.play(script)
            except TimeoutError:
                pytest.fail(f"{told}: it does not come to rest")
            ended = await post.results()
            if expected is not None:
                assert ended.runs == expected.runs, told
                assert ended.jobs == expected.jobs, told
                assert ended.told == expected.told, told
                if play in ONE_AT_A_TIME:
                    assert ended.most == 1, told
                assert ended.invocations == expected.invocations, told
                post.check(expected, 1 + (play in REPEATED))
        return ended

    async def everywhere(self, play: Play) -> Ended:
        """The play with a crash at every call that it makes; how it ends without one."""
        expected = await self.play(play)
        at, reached = OPENING, True
        while reached:
            at += 1
            ends = [
                await self.play(play, Crash(at, before), expected=expected)
                for before in (True, False)
            ]
            reached = any(end.crashes for end in ends)
        assert at > expected.calls - 3  # what comes at one moment may share a call, or not
        return expected


def left(ended: Ended) -> list[str]:
    """Who the jobs were for that are left, and their status."""
    return [f"{job[0][1][1:-1]} {job[0][3]}" for job in ended.jobs]


def make_places(store: str, empty_file: Path, folder: Path) -> Callable[[], str]:
    """Makes the URLs of new stores."""
    numbers = itertools.count()

    def make_url() -> str:
        if store == "memory":
            return "memory://"
        copy = shutil.copy(empty_file, folder / f"{next(numbers)}.db")
        return f"sqlite:///{copy}?durability=process"

    return make_url


plays = pytest.mark.parametrize("play", ENDS, ids=lambda play: play.__name__)


@pytest.mark.parametrize("place", ["memory", "sqlite"])
@plays
async def test_a_crash_at_any_call_changes_nothing_in_the_life_of_a_job(
    play: Play, place: str, empty_file: Path, tmp_path: Path
) -> None:
    office = Office(make_places(place, empty_file, tmp_path))

    expected = await office.everywhere(play)

    assert sorted(set(left(expected))) == ENDS[play]
    assert expected.waiting == {}
    assert set(expected.invocations.values()) <= {1, 2}
    if play in ONE_AT_A_TIME:
        assert expected.most == 1
    elif play is several_in_one_call:
        assert expected.most == 3


@plays
async def test_crashes_at_any_two_calls_change_nothing_in_the_life_of_a_job(play: Play) -> None:
    office = Office(lambda: "memory://")
    expected = await office.play(play)
    draw = draw_of(play, "pairs of a job")
    for _ in range(PAIRS):
        pair = drawn(draw, expected.calls + 6, 2)
        await office.play(play, *pair, expected=expected)


@pytest.mark.parametrize("server", ["redis", "redis-partitions", "postgres"])
@plays
async def test_a_crash_changes_nothing_of_a_job_on_a_server_either(
    play: Play, server: str, request: pytest.FixtureRequest
) -> None:
    if server == "postgres":
        databases: PostgresServers = request.getfixturevalue("postgres_servers")
        office = Office(databases.emptied_url)
    else:
        caches: RedisServers = request.getfixturevalue("redis_servers")
        options = "?partitions=4" if server == "redis-partitions" else ""
        office = Office(lambda: caches.databases().fresh_url() + options)
    expected = await office.play(play)
    assert sorted(set(left(expected))) == ENDS[play]
    for crash in drawn(draw_of(play, f"{server} of a job"), expected.calls, SAMPLE):
        await office.play(play, crash, expected=expected)
