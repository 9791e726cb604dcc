"""What is in flight, as the public command `pikku runs list` tells it: runs, with the ticks of
schedules among them, and the jobs of the queues that are named. It reads, and executes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pikku_gen.diff.edits import Subject

_PROGRAM: Final = "from pikku.cli import main; main()"
_STATUSES: Final = ("running", "suspended")
_MANY: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class RunInFlight:
    """A run, a job or a tick that has not ended."""

    run_id: str
    workflow: str
    version: str
    """Under which it began."""

    @property
    def is_pause(self) -> bool:
        """True for what marks a schedule as paused: a run that is no tick."""
        return self.workflow.startswith("schedule:") and self.run_id.endswith(":paused")


class StoreError(Exception):
    """The store cannot be read."""


def runs_in_flight(
    folder: Path, store: str | None, app: str | None, queues: Iterable[str] = ()
) -> tuple[RunInFlight, ...]:
    """Every unfinished run of the store and every unfinished job of these queues, by id.

    Raises:
        StoreError: with what `pikku` says about it.
    """
    options = [*(("--app", app) if app else ()), *(("--store", store) if store else ())]
    found: list[RunInFlight] = []
    wanted = [["--status", status] for status in _STATUSES]
    wanted += [["--status", "running", "--workflow", flow_of("queue", name)] for name in queues]
    for chosen in wanted:
        words = ["runs", "list", "--json", *chosen, "--limit", str(_MANY)]
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *options, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode != 0:
            raise StoreError(done.stderr.strip() or f"pikku runs list ends with {done.returncode}")
        found += [_run(json.loads(line)) for line in done.stdout.splitlines() if line]
    return tuple(sorted(found, key=lambda run: run.run_id))


def flow_of(subject: Subject, name: str) -> str:
    """The workflow that what is in flight is a run of: jobs and ticks are runs, too."""
    return name if subject == "workflow" else f"{subject}:{name}"


def _run(told: Any) -> RunInFlight:  # JSON
    run = cast("dict[str, Any]", told)
    return RunInFlight(run["run_id"], run["workflow"], run["version"] or "")
