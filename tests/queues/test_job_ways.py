"""Jobs the other ways: sealed, in child processes, over partitions, of queues that are not here,
and in stores that were made before there were queues."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from tests.cli.conftest import desk as desk
from tests.cli.desk import Desk
from tests.cli.test_queue import queued as queued
from tests.life.kit import PATIENCE, Place
from tests.queues.test_queue_jobs import Mailer
from tests.queues.test_queue_jobs import mailer as mailer
from tests.runtime import process_app
from tests.runtime.kit import Ctx, Lab, Toy, Wf
from tests.runtime.test_processes import Fifo
from tests.runtime.test_processes import importable as importable
from tests.stores.test_sealed import SECRET, Locked, with_codec

from pikku import QueueConfig, RateLimit, Work
from pikku._payloads import SEALED
from pikku.errors import JobFailedError
from pikku.stores.base import DEFAULT_QUEUE, ORCHESTRATOR_QUEUE
from pikku.stores.redis.store import RedisStore
from pikku.stores.sqlite.connections import APPLICATION_ID
from pikku.testing import WorkflowLab

# --- sealed -------------------------------------------------------------------------------------


def wire_secrets(toy: Toy) -> None:
    @toy.func(retries=0)
    async def keep(ctx: Ctx, given: str) -> str:
        ctx.step.progress(0.5, f"half of {given}")
        if given.startswith("no"):
            raise ValueError(f"cannot keep {given}")
        return f"kept {given}"

    toy.registry.wire_queue_worker(queue="secrets", func=keep)


async def test_nothing_of_a_job_can_be_read_in_the_store_inside(
    toy: Toy, store_url: str, tmp_path: Path
) -> None:
    """Neither of its input, nor of its result, its progress or its error."""
    wire_secrets(toy)
    async with Place(store_url).lab(toy, services=with_codec(Locked())) as lab:
        late = await toy.app.add_job("secrets", SECRET, delay="1h", keep_result=True)
        dead = await toy.app.add_job("secrets", f"no {SECRET}")
        await lab.settle()
        shown = [await everything_of(lab, job.job_id) for job in (late, dead)]
        await lab.advance("1h")
        shown += [await everything_of(lab, job.job_id) for job in (late, dead)]

        assert await late.result(timeout=PATIENCE) == f"kept {SECRET}"
        with pytest.raises(JobFailedError, match=f"cannot keep no {SECRET}"):
            await dead.result(timeout=PATIENCE)
        info = await dead.info()
        assert info is not None and info.error == f"ValueError: cannot keep no {SECRET}"
        assert SECRET not in repr(shown)
        assert [loaded.steps[0].input.startswith(SEALED) for loaded, _ in shown] == [True] * 4
        assert shown[2][0].run.output.startswith(SEALED)
        assert shown[3][0].run.error.startswith(SEALED)
        found = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert SECRET.encode() not in found


async def everything_of(lab: Lab, job_id: str) -> Any:
    """What the store itself has of a job."""
    store: Any = lab._store
    return await store.load_steps(job_id), await store.load_history(job_id)


async def test_a_sealed_dead_letter_is_put_back(toy: Toy, store_url: str) -> None:
    wire_secrets(toy)
    async with Place(store_url).lab(toy, services=with_codec(Locked())) as lab:
        job = await toy.app.add_job("secrets", f"no {SECRET}")
        await lab.settle()
        assert await lab.app.opened.jobs.retry_all("secrets") == 1
        await lab.settle()
        info = await job.info()
        assert info is not None
        assert (info.status, info.attempt, info.failures) == ("failed", 2, 1)


async def test_a_sealed_job_waits_for_a_process_with_the_right_key(
    toy: Toy, tmp_path: Path
) -> None:
    wire_secrets(toy)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Place(url).lab(toy, services=with_codec(Locked())) as lab:
        job = await toy.app.add_job("secrets", SECRET, delay="1min", keep_result=True)
        lab._services = with_codec(Locked("wrong"))
        await lab.recover()
        await lab.advance("90s")
        info = await lab._store.load_steps(job.job_id)
        assert info is not None and info.run.status == "running"
        lab._services = with_codec(Locked())
        await lab.recover()
        await lab.advance("2s")
        assert await job.result(timeout=PATIENCE) == f"kept {SECRET}"
        assert lab.executions("job") == 1


# --- in child processes -------------------------------------------------------------------------


for _name in ("where", "spin_once", "be_killed_once"):
    process_app.registry.wire_queue_worker(
        queue=f"children_{_name}", func=process_app.registry.functions[_name]
    )


@pytest_asyncio.fixture
async def fifo(tmp_path: Path) -> AsyncIterator[Fifo]:
    made = Fifo(tmp_path / "fifo")
    transport = await made.open()
    yield made
    transport.close()


async def test_a_job_is_done_in_a_child_process() -> None:
    async with WorkflowLab(process_app.app):
        job = await process_app.app.add_job("children_where", keep_result=True)
        pid, of_services = await job.result(timeout="30s")
        assert pid == of_services != os.getpid()


async def test_the_timeout_of_a_job_kills_its_child_and_it_is_tried_again(fifo: Fifo) -> None:
    async with WorkflowLab(process_app.app, auto_advance=False) as lab:
        job = await process_app.app.add_job("children_spin_once", fifo.path, keep_result=True)
        first = int(await fifo.line())
        await lab.advance("1min")
        await fifo.end()
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        await lab.advance("1h")
        assert await job.result(timeout="30s") != first
        info = await job.info()
        assert info is not None and (info.attempt, info.failures) == (2, 1)


async def test_a_job_whose_child_dies_is_tried_again(tmp_path: Path) -> None:
    async with WorkflowLab(process_app.app):
        mark = str(tmp_path / "mark")
        add = process_app.app.add_job
        job = await add("children_be_killed_once", mark, retries=1, keep_result=True)
        assert await job.result(timeout="30s") == "alive"
        dead = await add("children_be_killed_once", str(tmp_path / "other"), retries=0)
        with pytest.raises(JobFailedError, match="the process that executed it died"):
            await dead.result(timeout="30s")


# --- over partitions ----------------------------------------------------------------------------


@pytest.fixture
def partitions(redis_url: str) -> Place:
    return Place(f"{redis_url}?partitions=4")


async def test_jobs_of_a_queue_lie_in_one_partition_and_queues_in_several(
    toy: Toy, partitions: Place
) -> None:
    for number in range(12):
        Counting(toy, f"q{number}", QueueConfig())
    async with partitions.lab(toy) as lab:
        store = lab._store
        assert isinstance(store, RedisStore)
        homes: set[int] = set()
        for number in range(12):
            jobs = await lab.app.add_jobs(f"q{number}", ["a", "b", "c"], delay="1h")
            (home,) = {store._place(job.job_id) for job in jobs}
            homes.add(home)
            counts = await lab.app.opened.jobs.counts(f"q{number}")
            assert (counts.unfinished, counts.dead) == (3, 0)
        assert len(homes) > 1
        await lab.advance("1h")
        assert await store.count_runs() == {}
        assert await store.count_jobs() == {}


class Counting:
    """A queue, and how many of its jobs have been under way at one time."""

    def __init__(self, toy: Toy, queue: str, config: QueueConfig) -> None:
        self.under_way = self.most = 0
        self.done: list[str] = []

        async def count(ctx: Ctx, to: str) -> None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            for _ in range(5):
                await asyncio.sleep(0)
            self.under_way -= 1
            self.done.append(to)

        func = toy.func(name=f"count_{queue}")(count)
        toy.registry.wire_queue_worker(queue=queue, func=func, config=config)


async def test_limits_hold_over_partitions(toy: Toy, partitions: Place) -> None:
    limits = {
        "some": QueueConfig(concurrency=2),
        "groups": QueueConfig(group_concurrency=1),
        "rate": QueueConfig(rate_limit=RateLimit(3, "1min")),
    }
    queues = {name: Counting(toy, name, config) for name, config in limits.items()}
    names = [f"n{number}" for number in range(4)]
    async with partitions.lab(toy) as lab:
        for name in limits:
            await lab.app.add_jobs(name, names, delay="1min", group="g")
        await lab.advance("1min")
        assert len(queues["rate"].done) == 3
        await lab.advance("1min")
    assert {name: sorted(each.done) for name, each in queues.items()} == dict.fromkeys(
        limits, names
    )
    assert {name: each.most for name, each in queues.items()} == {
        "some": 2,
        "groups": 1,
        "rate": 3,
    }


async def test_dead_letters_are_put_back_over_partitions(mailer: Mailer, partitions: Place) -> None:
    mailer.failing = 5
    async with mailer.at(partitions) as lab:
        control = lab.app.opened.jobs
        jobs = await mailer.queue.add_many(
            [f"n{number}" for number in range(5)], retries=0, keep_result=True
        )
        await lab.settle()
        dead = await control.listed("mails", "failed")
        assert {each.job_id for each in dead} == {job.job_id for job in jobs}
        await control.retry("mails", jobs[0].job_id)
        assert await control.retry_all("mails") == 4
        await lab.settle()
        assert (await control.counts("mails"))[1:] == (0, 0, 5)
    assert sorted(mailer.sent) == [f"n{number}" for number in range(5)]


def test_queue_list_counts_over_partitions(queued: Desk, redis_url: str) -> None:
    url = f"{redis_url}?partitions=4"
    for late in ("true", "false"):
        done = queued.pikku("--store", url, "runs", "start", "filling", "--input", late, "--wait")
        assert done.returncode == 0, done.stderr
    worker = queued.spawn("--store", url, "worker")
    try:
        while not queued.document("--store", url, "queue", "list")["dead"]:
            assert worker.poll() is None
    finally:
        worker.terminate()
        worker.communicate(timeout=30)
    listed = queued.document("--store", url, "queue", "list")
    assert (listed["queue"], listed["unfinished"], listed["dead"]) == ("letters", 2, 1)


# --- queues that are not here -------------------------------------------------------------------


def test_a_worker_of_a_queue_without_a_function_is_refused_and_its_jobs_wait(
    queued: Desk,
) -> None:
    """The code of a queue was taken away: its jobs wait, are counted, and are done when it is
    back."""
    done = queued.pikku("runs", "start", "filling", "--input", "true", "--wait")
    assert done.returncode == 0, done.stderr
    work = queued.folder / "desk" / "work.py"
    code = work.read_text()
    wired = 'registry.wire_queue_worker(queue="letters", func=post)\n'
    queued.edit(wired, "")

    refused = queued.pikku("worker", "--queues", "letters")
    unknown = queued.pikku("queue", "list")
    shown = queued.document("queue", "show", "letters", "--limit", "1")
    work.write_text(code)
    listed = queued.document("queue", "list")

    assert refused.returncode == 2
    assert "PKR103 no function of desk_pikku has the queue 'letters'" in refused.stderr
    assert unknown.returncode == 0
    assert (shown["status"], shown["function"]) == ("waiting", "post")
    assert (listed["queue"], listed["unfinished"], listed["dead"]) == ("letters", 2, 0)
    assert queued.effects == []


async def test_a_job_whose_function_is_not_here_waits_for_a_process_that_has_it(
    mailer: Mailer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Toy()

    @other.func(name="another")
    async def another(ctx: Ctx, to: str) -> None: ...

    other.registry.wire_queue_worker(queue="mails", func=another)
    place = Place(f"sqlite:///{tmp_path / 'runs.db'}")
    async with mailer.at(place) as lab:
        job = await mailer.queue.add("ann", delay="1min", keep_result=True)
        await lab.crash()
        async with place.beside(lab, other) as elsewhere:
            lab._store.beat(lab._opened.engine.session_id, -1)
            await elsewhere.advance("90s")
            loaded = await elsewhere._store.load_steps(job.job_id)
            assert loaded is not None
            (step,) = loaded.steps
            # given back after 1, 2, 4, 8 and 16 s: a log of each second would grow for ever
            assert (loaded.run.status, step.failures, step.attempt) == ("running", 0, 6)
        await lab.recover()
        await lab.advance("2s")
        assert (await job.result(timeout=PATIENCE)).startswith("sent to ann by send")
        info = await job.info()
        assert info is not None and info.failures == 0
    assert "cannot be executed here: PKR" in caplog.text
    assert "send" in caplog.text


# --- stores from before there were queues -------------------------------------------------------


BEFORE = {"sqlite": 3, "postgres": 1}
"""The version of each schema that had no queues of jobs."""


def scripts(store: str, schema: str = "") -> list[str]:
    """The migrations up to then."""
    folder = files(f"pikku.stores.{store}") / "migrations"
    found = sorted(each.name for each in folder.iterdir() if each.name.endswith(".sql"))
    texts = [(folder / name).read_text("utf-8") for name in found[: BEFORE[store]]]
    return [text.replace("{schema}", schema) for text in texts]


def older_file(path: Path, older: Path) -> str:
    """The URL of a file of that version, with what the one at *path* has."""
    connection = sqlite3.connect(older)
    for script in scripts("sqlite"):
        connection.executescript(script)
    connection.execute(f"PRAGMA user_version = {BEFORE['sqlite']}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("ATTACH ? AS newer", (str(path),))
    tables = "SELECT name FROM main.sqlite_master WHERE type = 'table'"
    for (table,) in connection.execute(tables).fetchall():
        rows = connection.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchall()
        columns = ", ".join(row[0] for row in rows)
        connection.execute(f"INSERT INTO main.{table} SELECT {columns} FROM newer.{table}")
    connection.commit()
    connection.close()
    return f"sqlite:///{older}"


def older_schema(url: str) -> str:
    """The URL of a schema of that version, with what the one of today has."""
    with psycopg.connect(url) as connection:
        connection.execute(b"CREATE SCHEMA before")
        connection.execute(b"CREATE TABLE before.migrations (version integer PRIMARY KEY)")
        for number, script in enumerate(scripts("postgres", "before"), 1):
            connection.execute(script.encode())
            connection.execute(b"INSERT INTO before.migrations VALUES (%d)" % number)
        found = connection.execute(
            "SELECT table_name, string_agg(column_name, ', '), max(column_name)"
            " FILTER (WHERE is_identity = 'YES') FROM information_schema.columns"
            " WHERE table_schema = 'before' AND table_name <> 'migrations' GROUP BY 1"
        ).fetchall()
        for table, columns, identity in found:
            connection.execute(
                f"INSERT INTO before.{table} ({columns}) OVERRIDING SYSTEM VALUE"
                f" SELECT {columns} FROM pikku.{table}".encode()
            )
            if identity is not None:
                connection.execute(
                    f"SELECT setval(pg_get_serial_sequence('before.{table}', '{identity}'),"
                    f" coalesce(max({identity}), 0) + 1) FROM before.{table}".encode()
                )
    return f"{url}?schema=before"


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_a_store_from_before_queues_takes_jobs_and_goes_on_with_what_it_had(
    mailer: Mailer, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A step that had crossed its queue before the upgrade is claimed after it."""
    app = mailer.toy.app
    worked: list[str] = []

    @mailer.toy.func(dispatch="queue")
    async def work(ctx: Ctx, given: str) -> str:
        worked.append(given)
        return given.upper()

    @mailer.toy.workflow
    async def flow(ctx: Wf, given: str) -> str:
        return await ctx.workflow.do("Work", work, given)

    today = tmp_path / "today.db"
    url = f"sqlite:///{today}" if store == "sqlite" else request.getfixturevalue("postgres_url")
    orchestrator = Work((ORCHESTRATOR_QUEUE,))
    async with app.open(store=url, queue_service="store", work=orchestrator):
        run = await app.start_workflow("flow", "x", run_id="old")
        async with asyncio.timeout(10):
            while await app.opened.jobs.waiting() != {DEFAULT_QUEUE: 1}:
                await asyncio.sleep(0.01)

    before = older_file(today, tmp_path / "before.db") if store == "sqlite" else older_schema(url)
    async with app.open(store=before, queue_service="store"):
        assert await run.status() == "running"
        assert await app.opened.jobs.waiting() == {DEFAULT_QUEUE: 1}
        job = await mailer.queue.add("ann", priority=3, group="g", keep_result=True)
        assert await app.opened.jobs.waiting() == {DEFAULT_QUEUE: 1, "mails": 1}
    assert (worked, mailer.sent) == ([], [])
    async with app.open(store=before, queue_service="store", work=Work()):
        assert await run.result(timeout="10s") == "X"
        assert await job.result(timeout="10s") == "sent to ann by send, attempt 1"
    assert (worked, mailer.sent) == (["x"], ["ann"])
