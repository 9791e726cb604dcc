"""Our own side of the table: each workload in a child process, with a fresh folder for data."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .plan import OURS, OwnRun
from .samples import Gap, Record, Sample, last_words

ROOT = Path(__file__).resolve().parents[1]


def run_own(run: OwnRun, data: Path, *, quick: bool) -> Iterator[Record]:
    """A sample for each cell of the run; where the child fails, a gap with its last words."""
    options = {**run.options, **(run.quick if quick else {})}
    with tempfile.TemporaryDirectory(dir=data, prefix="pikku-bench-") as folder:
        command = [sys.executable, "-m", "bench.child", run.workload]
        try:
            done = subprocess.run(
                [*command, json.dumps({**options, "data": folder})],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                timeout=run.timeout_s,
            )
        except subprocess.TimeoutExpired:
            yield from (Gap(cell, OURS, f"stopped after {run.timeout_s} s") for cell in run.cells)
            return
    if done.returncode:
        yield from (Gap(cell, OURS, last_words(done.stderr)) for cell in run.cells)
        return
    found = json.loads(done.stdout.splitlines()[-1])
    for cell, metrics in zip(run.cells, found, strict=True):
        yield Sample(cell, OURS, metrics)
