"""`pikku queue`: what is printed, what is written, and that commands do no jobs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.cli.desk import Desk, until

WIRED = """

@registry.pikku_func(retries=1, retry_delay="1ms")
async def post(ctx: FunctionContext, to: str) -> None:
    if to == "nobody":
        raise ValueError("no such address")
    with open("effects.txt", "a") as out:
        out.write(f"post {os.getpid()}\\n")


@registry.pikku_func
async def fill(ctx: FunctionContext, late: bool) -> None:
    from desk_pikku import app

    for to in ("ann", "nobody"):
        await app.add_job("letters", to, priority=3, group="g", delay="1h" if late else None)


async def filling(ctx, late: bool) -> str:
    await ctx.workflow.do("Fill", "fill", late)
    return "filled"


registry.wire_queue_worker(queue="letters", func=post)
registry.wire_workflow(name="filling", func=registry.pikku_workflow_func(filling))
"""


@pytest.fixture
def queued(desk: Desk) -> Desk:
    """The project with a queue."""
    work = desk.folder / "desk" / "work.py"
    work.write_text(work.read_text() + WIRED)
    return desk


def said(text: str) -> str:
    """*text* with times and ids left open."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<TIME>", text)
    return re.sub(r"letters~[0-9a-f]{32}", "<JOB>", text)


def fill(desk: Desk, *, late: bool) -> None:
    done = desk.pikku("runs", "start", "filling", "--input", json.dumps(late), "--wait")
    assert done.returncode == 0, done.stderr


def test_list_shows_what_is_wired_and_what_is_there(queued: Desk) -> None:
    before = queued.pikku("queue", "list")
    fill(queued, late=True)
    after = queued.pikku("queue", "list", "--json")

    assert before.returncode == 0, before.stderr
    assert before.stdout == (
        "QUEUE    FUNCTION  WAITING  UNFINISHED  DEAD  KEPT\n"
        "letters  post      0        0           0     0\n"
    )
    assert [json.loads(line) for line in after.stdout.splitlines()] == [
        {
            "queue": "letters",
            "function": "post",
            "waiting": 0,
            "unfinished": 2,
            "dead": 0,
            "completed": 0,
        }
    ]
    assert queued.effects == []


def test_show_and_purge(queued: Desk) -> None:
    fill(queued, late=True)
    shown = queued.pikku("queue", "show", "letters", "--limit", "1")
    refused = queued.pikku("queue", "purge", "letters", "--status", "waiting")
    purged = queued.pikku("queue", "purge", "letters", "--status", "waiting", "--yes")
    nothing = queued.pikku("queue", "show", "letters")

    assert said(shown.stdout) == (
        "JOB    STATUS   ATTEMPT  PRIORITY  GROUP  ADDED (UTC)  ERROR\n"
        "<JOB>  waiting  0        3         g      <TIME>\n"
    ).replace("JOB    STATUS", "JOB" + " " * 39 + "STATUS").replace(
        "ADDED (UTC)  ERROR", "ADDED (UTC)          ERROR"
    )
    assert refused.returncode == 2
    assert "2 jobs would be removed; to do it without being asked: --yes" in refused.stderr
    assert (purged.returncode, purged.stdout) == (0, "2 jobs removed from letters\n")
    assert (nothing.stdout, nothing.stderr) == ("", "no jobs in letters\n")


def test_dead_letters_are_shown_and_put_back(queued: Desk) -> None:
    fill(queued, late=False)
    worker = queued.spawn("worker")
    try:
        while not queued.document("queue", "list")["dead"]:
            assert worker.poll() is None
    finally:
        worker.terminate()
        worker.communicate(timeout=30)
    dead = queued.pikku("queue", "dead", "letters")
    job_id = dead.stdout.splitlines()[1].split()[0]
    again = queued.pikku("queue", "retry", "letters", job_id)
    twice = queued.pikku("queue", "retry", "letters", job_id)
    lost = queued.pikku("queue", "retry", "letters", "letters~none")
    every = queued.pikku("queue", "retry", "letters", "--all", "--json")
    described = json.loads(queued.pikku("queue", "show", "letters", "--json").stdout)
    neither = queued.pikku("queue", "retry", "letters")

    assert "failed" in dead.stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", described["created_at"])
    assert "ValueError: no such address" in dead.stdout
    assert dead.stderr == ("to put them back: pikku queue retry letters --all, or one by its id\n")
    assert (again.returncode, again.stdout) == (0, "1 job back in letters\n"), again.stderr
    assert twice.returncode == 2
    assert f"PKR405 job {job_id} is running and cannot be retried" in twice.stderr
    assert lost.returncode == 3
    assert "PKR404 no job 'letters~none'" in lost.stderr
    assert (every.returncode, json.loads(every.stdout)) == (0, {"queue": "letters", "retried": 0})
    assert (neither.returncode, "give the id of a job, or --all" in neither.stderr) == (2, True)


def test_a_queue_that_is_nowhere_is_refused(queued: Desk, tmp_path: Path) -> None:
    refused = queued.pikku("queue", "show", "leters")

    assert refused.returncode == 3
    assert refused.stderr == (
        "error: PKR206 no function is wired to queue 'leters'\nhelp: did you mean 'letters'?\n"
    )


def test_a_worker_may_take_on_a_queue_of_jobs_alone(queued: Desk) -> None:
    remote = {"PIKKU_QUEUE_SERVICE": "store"}
    worker = queued.spawn("worker", "--queues", "letters", **remote)
    try:
        assert worker.stderr is not None
        said = until(worker.stderr, lambda line: "worker of" in line)
    finally:
        worker.terminate()
        worker.communicate(timeout=30)

    assert "queues: letters; concurrency: 100" in said
