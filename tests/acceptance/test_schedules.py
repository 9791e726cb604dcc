"""Three workers on one store, killed in turn: no tick is lost, and none is done twice for it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

APP = Path(__file__).with_name("schedule_app.py")
PATIENCE_SECONDS = 60


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that processes share."""
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return url
    return f"sqlite:///{tmp_path.joinpath('runs.db')}"


class Workers:
    """The worker processes, and what they wrote down."""

    def __init__(self, store: str, file: Path, *, app: Path = APP) -> None:
        self.app = app
        self.store = store
        self.file = file
        self.alive: list[subprocess.Popen[str]] = []

    def add(self) -> None:
        """One more, ready for work."""
        arguments = [sys.executable, str(self.app), self.store, str(self.file)]
        made = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.alive.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"

    def kill_oldest(self) -> None:
        """SIGKILL, which nobody is told of."""
        oldest = self.alive.pop(0)
        oldest.kill()
        oldest.wait()
        assert oldest.stdout is not None
        oldest.stdout.close()

    def ticks(self) -> list[int]:
        """The ticks that were done, in order of writing."""
        if not self.file.exists():
            return []
        return [int(line.split()[0]) for line in self.file.read_text().splitlines()]

    def wait_for(self, count: int) -> None:
        """Until so many ticks were done."""
        until = time.monotonic() + PATIENCE_SECONDS
        while len(set(self.ticks())) < count:
            assert time.monotonic() < until, f"only {self.ticks()}"
            time.sleep(0.02)


def test_ticks_come_once_while_processes_come_and_go(store: str, tmp_path: Path) -> None:
    workers = Workers(store, tmp_path / "ticks.txt")
    kills = 4
    try:
        for _ in range(3):
            workers.add()
        workers.wait_for(2)
        for _ in range(kills):
            done = len(set(workers.ticks()))
            workers.kill_oldest()
            workers.wait_for(done + 2)
            workers.add()
        ticks = workers.ticks()
    finally:
        while workers.alive:
            workers.kill_oldest()

    assert sorted(set(ticks)) == list(range(min(ticks), max(ticks) + 1))
    assert len(ticks) - len(set(ticks)) <= kills  # a body that was killed in its work is done again


def test_ticks_that_no_process_saw_are_made_up_for(store: str, tmp_path: Path) -> None:
    workers = Workers(store, tmp_path / "ticks.txt")
    try:
        workers.add()
        workers.wait_for(2)
        workers.kill_oldest()
        last = max(workers.ticks())
        while time.time() < last + 3.5:
            time.sleep(0.05)
        workers.add()
        workers.wait_for(6)
        ticks = workers.ticks()
    finally:
        while workers.alive:
            workers.kill_oldest()

    assert sorted(set(ticks)) == list(range(min(ticks), max(ticks) + 1))
