"""SQLite: several processes at one file."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.faults import fault_app
from tests.faults.driver import ROOT, Site
from tests.faults.scenarios import in_file
from tests.runtime.kit import Toy, Wf, World

from pikku import Run, RunCancelledError
from pikku._clock import Clock
from pikku._records import CancelRun, FireTimers, ReapSessions, RunFilter, WatchRun
from pikku.errors import StoreUnavailableError
from pikku.stores import make_store
from pikku.stores.base import DEFAULT_QUEUE, INLINE_QUEUE, JOBS, MAIL, ORCHESTRATOR_QUEUE
from pikku.stores.sqlite.store import SqliteStore
from pikku.testing.clock import FakeClock
from pikku.testing.store_contract import (
    LEASE_US,
    SECOND_US,
    must,
    new_run,
    run_of,
    step_of,
    turn,
    write,
)

OPENER = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from pikku.stores import make_store

    async def main(folder, name, files):
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(int(files)):
            store = make_store(f"sqlite:///{folder}/{number}.db")
            await store.open()
            store.beat(name, 6_000_000)
            await store.close()

    asyncio.run(main(*sys.argv[1:]))
""")


def test_many_processes_may_open_one_fresh_file_at_once(tmp_path: Path) -> None:
    files = 8
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(tmp_path), f"s{number}", str(files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert said == [""] * len(processes)
    assert [process.returncode for process in processes] == [0] * len(processes)
    assert {each.name for each in tmp_path.glob("*.db")} == {f"{n}.db" for n in range(files)}


async def test_who_opens_a_fresh_file_waits_for_the_process_that_is_making_it(
    tmp_path: Path,
) -> None:
    making = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    making.execute("BEGIN IMMEDIATE")  # SQLite then refuses another journal mode without waiting
    store = make_store(f"sqlite:///{tmp_path / 'runs.db'}")
    opening = asyncio.ensure_future(store.open())
    try:
        done, _ = await asyncio.wait({opening}, timeout=0.05)
    finally:
        making.close()
    await opening
    assert not done
    await store.close()


# --- word from other processes --------------------------------------------------------------------

SOON_SECONDS = 30.0


async def opened(path: Path, *sessions: str, clock: Clock | None = None) -> SqliteStore:
    """A store on the file, as each process has one of its own."""
    made = SqliteStore(path, clock=clock)
    await made.open()
    for session in sessions:
        made.beat(session, LEASE_US)
    return made


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[SqliteStore, None]:
    made = await opened(tmp_path / "runs.db", "s1")
    yield made
    await made.close()


@pytest.fixture
async def there(tmp_path: Path, here: SqliteStore) -> AsyncGenerator[SqliteStore, None]:
    made = await opened(tmp_path / "runs.db", "s2")
    yield made
    await made.close()


async def test_who_waits_is_told_of_the_queue_that_another_process_fills(
    here: SqliteStore, there: SqliteStore
) -> None:
    waiting = asyncio.ensure_future(here.wait("s1", ["elsewhere", INLINE_QUEUE], SOON_SECONDS))
    await must(there, "s2", new_run("r"))
    assert await waiting == INLINE_QUEUE
    reply = await here.apply("s1", [], {INLINE_QUEUE: 5})
    assert [each.run.run_id for each in reply.claimed] == ["r"]


async def test_who_waits_is_told_of_what_was_there_before(
    here: SqliteStore, there: SqliteStore
) -> None:
    await must(there, "s2", new_run("r"))
    assert await here.wait("s1", [INLINE_QUEUE], SOON_SECONDS) == INLINE_QUEUE


async def test_who_waits_is_told_of_mail_from_another_process(
    here: SqliteStore, there: SqliteStore
) -> None:
    await must(here, "s1", new_run("r", claim=True))
    waiting = asyncio.ensure_future(here.wait("s1", [INLINE_QUEUE], SOON_SECONDS))
    await must(there, "s2", CancelRun("r", "enough"))
    assert await waiting == MAIL
    assert [each.run_id for each in (await here.apply("s1", [], {})).inbox] == ["r"]


async def test_a_session_is_told_of_a_queue_once_until_it_has_found_it_empty(
    here: SqliteStore, there: SqliteStore
) -> None:
    for number in range(3):
        await must(there, "s2", new_run(f"r{number}"))
    assert await here.wait("s1", [INLINE_QUEUE], SOON_SECONDS) == INLINE_QUEUE

    reply = await here.apply("s1", [], {INLINE_QUEUE: 0})  # no room for any of it
    assert reply.more == [INLINE_QUEUE]
    assert await here.wait("s1", [INLINE_QUEUE], 0.2) is None
    reply = await here.apply("s1", [], {INLINE_QUEUE: 2})
    assert (len(reply.claimed), reply.more) == (2, [INLINE_QUEUE])
    assert await here.wait("s1", [INLINE_QUEUE], 0.2) is None
    reply = await here.apply("s1", [], {INLINE_QUEUE: 2})
    assert (len(reply.claimed), reply.more) == (1, [])

    waiting = asyncio.ensure_future(here.wait("s1", [INLINE_QUEUE], SOON_SECONDS))
    await must(there, "s2", new_run("another"))
    assert await waiting == INLINE_QUEUE


async def test_no_word_is_lost_however_asking_and_filling_meet(
    here: SqliteStore, there: SqliteStore
) -> None:
    runs = [f"r{number}" for number in range(200)]

    async def fill() -> None:
        dice = random.Random(3)
        for run_id in runs:
            await must(there, "s2", new_run(run_id))
            if dice.random() < 0.3:
                await asyncio.sleep(dice.uniform(0, 0.02))

    filling = asyncio.ensure_future(fill())
    got: list[str] = []
    while len(got) < len(runs):
        assert await here.wait("s1", [INLINE_QUEUE], SOON_SECONDS) == INLINE_QUEUE
        more = True
        while more:
            reply = await here.apply("s1", [], {INLINE_QUEUE: 5})
            got += [each.run.run_id for each in reply.claimed]
            more = INLINE_QUEUE in reply.more
    await filling
    assert got == runs


async def test_two_queues_are_told_of_one_after_the_other(
    here: SqliteStore, there: SqliteStore
) -> None:
    await must(there, "s2", new_run("inline"), new_run("remote", inline=False))
    queues = [INLINE_QUEUE, ORCHESTRATOR_QUEUE]
    told = [await here.wait("s1", queues, SOON_SECONDS) for _ in queues]
    assert sorted(each or "" for each in told) == sorted(queues)


async def test_a_session_of_this_process_learns_from_the_reply_what_it_has_filled(
    here: SqliteStore,
) -> None:
    reply = await here.apply("s1", [new_run("r")], {})
    assert reply.more == [INLINE_QUEUE]
    reply = await here.apply("s1", [new_run("q")], {INLINE_QUEUE: 5})
    assert ([each.run.run_id for each in reply.claimed], reply.more) == (["r", "q"], [])


async def test_a_timer_whose_process_has_died_is_told_of_once_it_is_overdue(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    here = await opened(tmp_path / "runs.db", "s1", clock=clock)
    there = await opened(tmp_path / "runs.db", "s2", clock=clock)
    assert await here.wait("s1", [], 0.01) is None
    assert (await here.apply("s1", [], {})).next_due_us is None
    await must(there, "s2", new_run("r")._replace(delay_us=SECOND_US))
    await there.close()

    assert await here.wait("s1", [], 0.2) is None  # whoever set it has yet to fire it
    waiting = asyncio.ensure_future(here.wait("s1", [], SOON_SECONDS))
    clock.move_to(clock.now_us() + 2 * SECOND_US)
    assert await waiting == MAIL
    due_us = (await here.apply("s1", [], {})).next_due_us
    assert due_us is not None
    assert due_us < clock.now_us()
    await here.close()


async def test_who_waits_when_the_store_is_closed_is_told_so(tmp_path: Path) -> None:
    store = await opened(tmp_path / "runs.db", "s1")
    waiting = asyncio.ensure_future(store.wait("s1", [INLINE_QUEUE], SOON_SECONDS))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await waiting
    with pytest.raises(StoreUnavailableError):
        await store.wait("s1", [], 1)


# --- one writer at a time -------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Generator[None, None, None]:
    """While another process is writing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_a_file_that_stays_locked_is_a_typed_error_that_changes_nothing(
    tmp_path: Path, here: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pikku.stores.sqlite.store.BUSY_TIMEOUT_SECONDS", 0.05)
    with locked(tmp_path / "runs.db"):
        with pytest.raises(StoreUnavailableError, match="locked by another process"):
            await here.apply("s1", [new_run("r")], {})
        assert await here.load_run("r") is None
    await must(here, "s1", new_run("r"))


async def test_a_run_goes_on_when_a_file_that_stayed_locked_is_free(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pikku.stores.sqlite.store.BUSY_TIMEOUT_SECONDS", 0.02)
    entered, gate = asyncio.Event(), asyncio.Event()

    @toy.workflow
    async def held_up(ctx: Wf) -> str:
        async def wait() -> None:
            entered.set()
            await gate.wait()

        await ctx.workflow.do("Wait", wait)
        return await ctx.workflow.do("Say", lambda: "here")

    async with World(f"sqlite:///{tmp_path / 'runs.db'}").lab(toy) as lab:
        run = await toy.start("held_up", wait=False)
        await entered.wait()
        engine = toy.app.opened.engine
        with locked(tmp_path / "runs.db"):
            gate.set()
            while not engine._committer._failures:
                await asyncio.sleep(0.005)
        assert await run.result(timeout="20s") == "here"
        assert (lab.executions("Wait"), lab.executions("Say")) == (1, 1)


async def test_who_was_kept_from_writing_does_not_take_away_what_others_could_not_renew(
    tmp_path: Path,
) -> None:
    path, clock, lease_us = tmp_path / "runs.db", FakeClock(), 400_000
    here = await opened(path, "s1", clock=clock)
    there = await opened(path, "s2", clock=clock)
    for store, session in ((here, "s1"), (there, "s2")):
        store.beat(session, lease_us)
    await must(here, "s1", new_run("r", claim=True))

    with locked(path):
        clock.move_to(clock.now_us() + SECOND_US)
        with pytest.raises(StoreUnavailableError):
            there.beat("s2", lease_us)
    await must(there, "s2", ReapSessions())
    assert (await run_of(there, "r")).owner == "s1"
    assert here.beat("s1", lease_us)

    clock.move_to(clock.now_us() + SECOND_US)  # now s1 has not beaten, though it could
    async with asyncio.timeout(SOON_SECONDS):
        while (await run_of(there, "r")).owner == "s1":
            await must(there, "s2", ReapSessions())
    await here.close()
    await there.close()


async def test_a_log_that_a_reader_held_up_is_shortened_when_it_has_read(
    tmp_path: Path, here: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pikku.stores.sqlite.store.LARGE_LOG_BYTES", 1 << 20)
    monkeypatch.setattr("pikku.stores.sqlite.store.SHORTEN_AGAIN_SECONDS", (0.0,))
    monkeypatch.setattr("pikku.stores.sqlite.store.READERS_AT_MOST_MS", 1)
    log = tmp_path / "runs.db-wal"
    large = json.dumps("x" * 500_000)

    async def grow(name: str) -> None:
        for number in range(8):
            await must(here, "s1", new_run(f"{name}-{number}", input=large))

    with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchone()
        await grow("held-up")
        assert log.stat().st_size > 8 * 500_000
        reader.execute("COMMIT")
    await grow("free")
    assert log.stat().st_size < 3 << 20
    assert len(await here.list_runs(RunFilter(limit=100))) == 16


# --- processes that write, and are killed ---------------------------------------------------------

# Forks a writer for each name that it reads, and says its process id; each of them appends the id
# of every run whose commit was acknowledged to a file of its own.
NURSERY = textwrap.dedent("""
    import asyncio, os, sys
    from pathlib import Path
    from pikku.stores.sqlite.store import SqliteStore
    from pikku.testing.store_contract import LEASE_US, must, new_run, turn, write

    async def work(folder, name):
        store = SqliteStore(folder / "runs.db", durability="process")
        await store.open()
        store.beat(name, LEASE_US)
        told = os.open(folder / f"told-{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in range(1_000_000):
            run_id = f"{name}-{number}"
            await must(store, name, new_run(run_id, claim=True))
            end = write("a", "succeeded", result="1", deliver=True)
            await must(store, name, turn(run_id, 1, asks=[end]))
            os.write(told, (run_id + chr(10)).encode())
            assert store.beat(name, LEASE_US)

    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(work(Path(sys.argv[1]), line.strip()))
        print(child, flush=True)
""")


class Nursery:
    """Writers on one file; each begins and ends at a word."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.living: dict[str, int] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, name: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        self.living[name] = int(self.process.stdout.readline())

    def kill(self, name: str) -> None:
        os.kill(self.living.pop(name), signal.SIGKILL)

    def acknowledged(self, name: str) -> list[str]:
        file = self.folder / f"told-{name}"
        return file.read_text().split("\n")[:-1] if file.exists() else []

    def close(self) -> None:
        for name in list(self.living):
            self.kill(name)
        self.process.communicate(timeout=20)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    made = Nursery(tmp_path)
    yield made
    made.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


async def test_what_was_acknowledged_is_recorded_after_each_of_fifty_kills(
    tmp_path: Path, nursery: Nursery, here: SqliteStore
) -> None:
    dice = random.Random(18)
    names = [f"w{number}" for number in range(53)]
    for name in names[:3]:
        nursery.begin(name)

    for name in names[3:]:
        victim = dice.choice(sorted(nursery.living))
        some = dice.randrange(1, 6)
        await until(functools.partial(_has_done, nursery, victim, some))
        nursery.kill(victim)
        nursery.begin(name)
        with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for run_id in nursery.acknowledged(victim):
            loaded = await here.load_steps(run_id)
            assert loaded is not None
            assert (loaded.run.turn, loaded.steps[0].status) == (1, "succeeded")


def _has_done(nursery: Nursery, name: str, some: int) -> bool:
    return len(nursery.acknowledged(name)) >= some


async def test_a_heartbeat_gets_its_turn_among_processes_that_write_without_pause(
    nursery: Nursery, here: SqliteStore
) -> None:
    names = ("w1", "w2", "w3")
    for name in names:
        nursery.begin(name)
    await until(lambda: all(nursery.acknowledged(name) for name in names))
    before = {name: len(nursery.acknowledged(name)) for name in names}

    for _ in range(50):
        assert here.beat("s1", LEASE_US)  # raises when it does not get there in a quarter of that
        await must(here, "s1", WatchRun("w1-0"))

    await until(lambda: all(_has_done(nursery, name, before[name] + 1) for name in names))


# --- workers --------------------------------------------------------------------------------------


@pytest.fixture
async def hearing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Site, None]:
    """A site on a file, whose processes do nothing in turn: what they do not hear of they do not
    know."""
    for name in ("_engine.SWEEP", "_intake.LISTEN", "_results.LOOK_AGAIN"):
        monkeypatch.setattr(f"pikku.{name}_SECONDS", 3600.0)
    monkeypatch.setenv("FAULT_PUSH_ALONE", "1")
    async with in_file(tmp_path / "site", 1, lease=None) as made:
        yield made


async def test_runs_go_from_process_to_process_by_word_alone(hearing: Site) -> None:
    await hearing.start_workers(1, "--queues", "orchestrator")
    await hearing.start_workers(1, "--queues", "default")
    await hearing.start_workers(1, "--queues", "parts")
    await hearing.start_mixed(6)
    await hearing.start_families(1)
    figures = await hearing.check()
    assert figures.extra == 0


async def test_a_cancel_from_another_process_reaches_the_worker_by_word_alone(
    hearing: Site,
) -> None:
    await hearing.start_workers(1)
    run_id = await hearing.start("napping", {"n": 1, "sleep": 3_600_000}, expected=...)
    await hearing.until(lambda: bool(hearing.ledger.acknowledgements(run_id, "First")), "a step")
    run: Run[int] = fault_app.app.get_run("napping", run_id)
    await run.cancel("enough")
    (story,) = await hearing.ends(run_id)
    assert isinstance(story.outcome, RunCancelledError)


FOLLOWER = textwrap.dedent("""
    import asyncio, os, sys
    from tests.faults import fault_app, worker

    async def main(workflow, run_id):
        worker.push_alone()
        async with fault_app.app.open(store=os.environ["PIKKU_STORE"], queue_service="store"):
            print(await fault_app.app.get_run(workflow, run_id).result())

    asyncio.run(main(*sys.argv[1:]))
""")


async def test_a_third_process_hears_of_the_end_of_a_run(hearing: Site) -> None:
    data = {"n": 1, "sleep": 20}
    run_id = await hearing.start("napping", data)
    follower = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, "napping", run_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PIKKU_STORE": hearing.url},
    )
    with closing(sqlite3.connect(hearing.folder / "runs.db")) as connection:

        def both_wait() -> bool:
            found: int = connection.execute("SELECT count(*) FROM watchers").fetchone()[0]
            return found == 2

        await hearing.until(
            lambda: both_wait() or follower.poll() is not None,
            "the follower, and this process, to wait",
        )
    await hearing.start_workers(1)
    said = await asyncio.to_thread(follower.communicate, timeout=60)
    assert said == (f"{fault_app.expected('napping', data)}\n", "")
    await hearing.check()


async def test_a_zombies_commit_hides_none_of_the_steps_that_its_run_has_by_now(
    here: SqliteStore, there: SqliteStore
) -> None:
    """What the zombie takes for new is there, and its timer and its job are not lost on it."""
    there.beat("zombie", -1)
    await must(there, "zombie", new_run("r", claim=True, inline=False))
    await must(here, "s1", ReapSessions())
    await here.apply("s1", [], {ORCHESTRATOR_QUEUE: 1})
    job = write("job", "scheduled")._replace(queue=DEFAULT_QUEUE, position=1)
    asks = [write("nap", "scheduled", kind="sleep", wait_us=1), job]
    await must(here, "s1", turn("r", 1, asks=asks))
    reply = await there.apply(
        "s2", [turn("r", 1, asks=asks), FireTimers()], {JOBS + DEFAULT_QUEUE: 1}
    )
    assert [result.code for result in reply.results] == ["fenced", "ok"]
    assert [each.step.key for each in reply.jobs] == ["job"]
    assert (await step_of(here, "r", "nap")).status == "succeeded"


async def test_two_workers_share_the_jobs_and_execute_none_twice(tmp_path: Path) -> None:
    async with in_file(tmp_path / "site", 2, lease=None) as here:
        workers = await here.start_workers(2, "--concurrency", "3")
        for _ in range(6):
            await here.start("fan", {"n": 1, "ms": 20, "width": 12})
        figures = await here.check()
        assert figures.extra == 0
        at_work = {row.pid for row in here.ledger.rows() if row.what == "began"}
        assert at_work == {worker.pid for worker in workers}
