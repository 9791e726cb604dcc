"""A worker that is killed in the middle of a job: another one does it, and no job is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.test_schedules import Workers

APP = Path(__file__).with_name("jobs_app.py")
EMPTY = "0 0 0 0\n"


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    """Processes on a store that they share; none of them outlives the test."""
    url = f"sqlite:///{tmp_path.joinpath('runs.db')}"
    if request.param != "sqlite":
        url = request.getfixturevalue(f"{request.param}_url")
    made = Workers(url, tmp_path / "letters.txt", app=APP)
    yield made
    while made.alive:
        made.kill_oldest()


def told(workers: Workers, what: str) -> str:
    """What a process of its own prints."""
    command = [sys.executable, str(APP), workers.store, str(workers.file), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_job_whose_worker_is_killed_is_done_by_another(workers: Workers) -> None:
    told(workers, "add")
    workers.add()
    workers.wait_for(4)
    # 0 has begun and holds up its group; the others are done.
    assert sorted(workers.file.read_text().splitlines()) == [
        *("0 begun", "1 done", "3 done", "5 done")
    ]
    workers.add()
    workers.kill_oldest()
    left = [told(workers, "count")]
    while left[-1] != EMPTY:
        assert len(left) < 100, left
        left.append(told(workers, "count"))

    lines = workers.file.read_text().splitlines()
    assert sorted(lines) == ["0 begun", *(f"{to} done" for to in range(6))]
