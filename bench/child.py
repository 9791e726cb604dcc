"""The child process of one workload: `python -m bench.child WORKLOAD OPTIONS`.

Prints one line of JSON, a list of metrics in the order of the workload's cells.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from .imports import probe

ENGINE = {"steps": "steps", "long": "long_runs", "pile": "pile", "record": "record"}
ENGINE["replay"] = "replay"
PROJECTS = {
    "generate": "bench.generation",
    "lint_and_graph": "bench.lint",
    "check_types": "bench.checkers",
    "type_in_editor": "bench.editor",
}
HOMES = {
    "redis": "bench.workloads_redis",
    "remote": "bench.workloads_redis",
    "postgres": "bench.workloads_postgres",
    "sqlite": "bench.workloads_postgres",
    "schedules": "bench.workloads_schedules",
    "jobs": "bench.workloads_jobs",
}


def perform(workload: str, options: dict[str, Any]) -> list[dict[str, float]]:
    """The metrics of a workload. The engine is imported only by those that drive it."""
    data = Path(options.pop("data"))
    if workload == "import":
        return [probe(**options)]
    if workload in PROJECTS:
        measured = getattr(importlib.import_module(PROJECTS[workload]), workload)
        metrics: list[dict[str, float]] = measured(data, **options)
        return metrics
    home = HOMES.get(workload.partition("_")[0])
    if home is not None:
        function = getattr(importlib.import_module(home), workload)
        found: list[dict[str, float]] = asyncio.run(function(data, **options))
        return found
    workloads = importlib.import_module("bench.workloads")
    return [asyncio.run(getattr(workloads, ENGINE[workload])(data, **options))]


if __name__ == "__main__":
    print(json.dumps(perform(sys.argv[1], json.loads(sys.argv[2]))))
