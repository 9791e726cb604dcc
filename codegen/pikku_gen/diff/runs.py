"""The runs in flight, as the public command `pikku runs list` tells them. It reads, and executes
nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

_PROGRAM: Final = "from pikku.cli import main; main()"
_STATUSES: Final = ("running", "suspended")
_MANY: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class RunInFlight:
    """A run that has not ended."""

    run_id: str
    workflow: str
    version: str
    """Under which it began."""


class StoreError(Exception):
    """The store cannot be read."""


def runs_in_flight(folder: Path, store: str | None, app: str | None) -> tuple[RunInFlight, ...]:
    """Every unfinished run of the store, by id.

    Raises:
        StoreError: with what `pikku` says about it.
    """
    options = [*(("--app", app) if app else ()), *(("--store", store) if store else ())]
    found: list[RunInFlight] = []
    for status in _STATUSES:
        words = ["runs", "list", "--json", "--status", status, "--limit", str(_MANY)]
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


def _run(told: Any) -> RunInFlight:  # JSON
    run = cast("dict[str, Any]", told)
    return RunInFlight(run["run_id"], run["workflow"], run["version"] or "")
