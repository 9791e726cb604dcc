"""The plan: every cell, the goals it is held to, what is run to fill it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .peers import DBOS, TYPESCRIPT, PeerImport, PeerRun, dbos, ideal_sqlite, typescript

OURS = "pikku"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one of our metrics, or on how many times a peer's metric is ours."""

    metric: str = "cpu_ms"
    at_most: float | None = None
    at_least: float | None = None
    peer: str | None = None
    times: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One question of the table. `unit` is what `cpu_ms` is counted for."""

    name: str
    title: str
    unit: str
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnRun:
    """A workload of ours, run in a child process of its own; fills `cells`."""

    workload: str
    cells: tuple[str, ...]
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    quick: Mapping[str, object] = field(default_factory=dict[str, object])
    timeout_s: int = 300


@dataclass(frozen=True, slots=True)
class Family:
    """Runs that belong side by side: in each round ours, then the peers'."""

    own: tuple[OwnRun, ...]
    peers: tuple[PeerRun, ...] = ()


def _cheaper(peer: str, times: float) -> Goal:
    return Goal(peer=peer, times=times)


_SHORT = (Goal("characters", at_most=500), Goal("lines", at_most=4))

CELLS = (
    Cell(
        "inline-memory-c1",
        "20 inline steps, memory, c=1",
        "step",
        (Goal(at_most=0.020), _cheaper(TYPESCRIPT, 6)),
    ),
    Cell(
        "inline-memory-c50",
        "20 inline steps, memory, c=50",
        "step",
        (Goal(at_most=0.020), _cheaper(TYPESCRIPT, 6)),
    ),
    Cell("rpc-memory-c50", "20 RPC steps run in place, memory, c=50", "step"),
    Cell("inline-process-c1", "20 inline steps, SQLite process, c=1", "step"),
    Cell(
        "inline-process-c50",
        "20 inline steps, SQLite process, c=50",
        "step",
        (_cheaper(DBOS, 60), Goal("commits", at_most=0.05)),
    ),
    Cell("rpc-process-c50", "20 RPC steps run in place, SQLite process, c=50", "step"),
    Cell("inline-full-c1", "20 inline steps, SQLite FULL, c=1", "step"),
    Cell(
        "inline-full-c50",
        "20 inline steps, SQLite FULL, c=50",
        "step",
        (_cheaper(DBOS, 40), Goal("commits", at_most=0.05)),
    ),
    Cell("long-memory", "3,000 sequential steps, memory", "step", (Goal("growth", at_most=1.2),)),
    Cell(
        "long-process",
        "3,000 sequential steps, SQLite process",
        "step",
        (Goal("growth", at_most=1.2),),
    ),
    Cell("flaky-memory", "20 flaky steps, memory", "step"),
    Cell("flaky-process", "20 flaky steps, SQLite process", "step"),
    Cell("queue-jobs-process", "queue jobs added one by one, SQLite process", "job"),
    Cell("queue-bulk-process", "queue jobs added in bulk, SQLite process", "job"),
    Cell("queue-jobs-full", "queue jobs added one by one, SQLite FULL", "job"),
    Cell("queue-bulk-full", "queue jobs added in bulk, SQLite FULL", "job"),
    Cell("schedules-process", "10,000 schedules due together, SQLite process", "tick"),
    Cell("schedules-spread-process", "10,000 schedules over an hour, SQLite process", "tick"),
    Cell("replay", "cold replay of 3,000 steps, SQLite", "recorded step"),
    Cell(
        "pile-memory",
        "memory store, runs 5,000-5,500 over 0-500",
        "step",
        (Goal("growth", at_most=1.2),),
    ),
    Cell("import-pikku", "import pikku", "import", (_cheaper(DBOS, 10),)),
    Cell("import-names", "import every public name of pikku", "import"),
    Cell(
        "import-generated",
        "import a generated package, 1,000 functions",
        "import",
        (Goal(at_most=5.0), Goal("rss_mb", at_most=1.0)),
    ),
    Cell("generate-100-cold", "pikku-gen, 100 functions, cold", "run"),
    Cell("generate-100-unchanged", "pikku-gen, 100 functions, unchanged", "run"),
    Cell("generate-100-changed", "pikku-gen, 100 functions, one file changed", "run"),
    Cell(
        "generate-1000-cold",
        "pikku-gen, 1,000 functions, cold",
        "run",
        (Goal(at_most=8000), Goal("peak_mb", at_most=300)),
    ),
    Cell(
        "generate-1000-unchanged",
        "pikku-gen, 1,000 functions, unchanged",
        "run",
        (Goal(at_most=400),),
    ),
    Cell(
        "generate-1000-changed",
        "pikku-gen, 1,000 functions, one file changed",
        "run",
        (Goal(at_most=1000),),
    ),
    Cell(
        "lint-1000",
        "lint and step graphs in a cold run, 1,000 functions",
        "run",
        (Goal("share_of_scan", at_most=0.3),),
    ),
    Cell("mypy-floor", "mypy, 10,000 calls of 1,000 functions, untyped", "run"),
    Cell(
        "mypy-attribute",
        "mypy, the calls as attributes",
        "run",
        (Goal("times_floor", at_most=1.5), Goal("times_half", at_most=2.2)),
    ),
    Cell("mypy-unchanged", "mypy again, unchanged", "run", (Goal(at_most=500),)),
    Cell("mypy-one-body", "mypy again, one body changed", "run", (Goal(at_most=1000),)),
    Cell("mypy-reference", "mypy, do by reference", "run", (Goal("times_floor", at_most=2.0),)),
    Cell("mypy-mistakes", "mypy, what one mistake prints", "run", _SHORT),
    Cell("pyright-floor", "basedpyright, the same calls untyped", "run"),
    Cell(
        "pyright-attribute",
        "basedpyright, the calls as attributes",
        "run",
        (Goal("times_floor", at_most=1.3), Goal("times_half", at_most=2.2)),
    ),
    Cell(
        "pyright-reference",
        "basedpyright, do by reference",
        "run",
        (Goal("times_floor", at_most=1.7),),
    ),
    Cell("pyright-mistakes", "basedpyright, what one mistake prints", "run", _SHORT),
    Cell("editor-floor-first", "editor without pikku: first completion", "completion"),
    Cell("editor-floor-again", "editor without pikku: the same again", "completion"),
    Cell("editor-floor-edited", "editor without pikku: after an edit", "completion"),
    Cell(
        "editor-first",
        "editor, 1,000 functions: first completion",
        "completion",
        (Goal(at_most=2000),),
    ),
    Cell(
        "editor-again",
        "editor, 1,000 functions: the same again",
        "completion",
        (Goal(at_most=100),),
    ),
    Cell(
        "editor-edited",
        "editor, 1,000 functions: after an edit",
        "completion",
        (Goal(at_most=100),),
    ),
)


def _steps(kind: str, store: str, concurrency: int) -> OwnRun:
    return OwnRun(
        "steps",
        (f"{kind}-{store}-c{concurrency}",),
        {"workflow": kind, "store": store, "concurrency": concurrency, "runs": 500},
        quick={"runs": 100},
    )


def _flaky(store: str, runs: int) -> OwnRun:
    return OwnRun(
        "steps",
        (f"flaky-{store}",),
        {"workflow": "flaky", "store": store, "concurrency": runs, "runs": runs},
        quick={"runs": 100, "concurrency": 100},
    )


def _long(store: str) -> OwnRun:
    return OwnRun("long", (f"long-{store}",), {"store": store, "runs": 7}, quick={"runs": 3})


def _jobs(store: str) -> OwnRun:
    return OwnRun(
        "jobs_sqlite",
        (f"queue-jobs-{store}", f"queue-bulk-{store}"),
        {"store": store, "jobs": 3000},
        quick={"jobs": 1000},
    )


def _generate(functions: int, *cells: str) -> OwnRun:
    names = tuple(f"generate-{functions}-{state}" for state in ("cold", "unchanged", "changed"))
    options = {"functions": functions, "with_import": bool(cells)}
    return OwnRun("generate", (*names, *cells), options)


def _checker(name: str, *warm: str) -> OwnRun:
    cells = ("floor", "attribute", *warm, "reference", "mistakes")
    return OwnRun(
        "check_types",
        tuple(f"{name}-{cell}" for cell in cells),
        {"checker": name, "functions": 1000},
        quick={"functions": 100},
        timeout_s=3600,
    )


_EDITOR = OwnRun(
    "type_in_editor",
    (
        *(f"editor-floor-{cell}" for cell in ("first", "again", "edited")),
        *(f"editor-{cell}" for cell in ("first", "again", "edited")),
    ),
    {"functions": 1000},
    quick={"functions": 100},
    timeout_s=1200,
)

FAMILIES = (
    Family(
        (
            _steps("inline", "memory", 1),
            _steps("inline", "memory", 50),
            _steps("rpc", "memory", 50),
        ),
        (
            typescript("W1 c=1", ("inline-memory-c1",)),
            typescript("W1 c=50", ("inline-memory-c50", "rpc-memory-c50")),
        ),
    ),
    Family(
        (
            _steps("inline", "process", 1),
            _steps("inline", "process", 50),
            _steps("rpc", "process", 50),
            _steps("inline", "full", 1),
            _steps("inline", "full", 50),
        ),
        (
            ideal_sqlite("normal", "process"),
            ideal_sqlite("full", "full"),
            dbos(
                "w1",
                {
                    "W1 c=1": ("inline-process-c1", "inline-full-c1"),
                    "W1 c=50": ("inline-process-c50", "rpc-process-c50", "inline-full-c50"),
                },
            ),
        ),
    ),
    Family((_long("memory"), _long("process")), (typescript("W4", ("long-memory",)),)),
    Family(
        (_flaky("memory", 300), _flaky("process", 100)),
        (typescript("W5", ("flaky-memory",)), dbos("w5", {"W5": ("flaky-process",)})),
    ),
    Family((_jobs("process"), _jobs("full"))),
    Family(
        (
            OwnRun(
                "schedules_sqlite",
                ("schedules-process", "schedules-spread-process"),
                {"schedules": 10_000, "minutes": 1},
                quick={"schedules": 1000, "minutes": 0},
            ),
        ),
    ),
    Family((OwnRun("replay", ("replay",)),)),
    Family((OwnRun("pile", ("pile-memory",), {"runs": 5500}, quick={"runs": 2000}),)),
    Family(
        (
            OwnRun("import", ("import-pikku",), {"statement": "import pikku"}),
            OwnRun("import", ("import-names",), {"statement": "from pikku import *"}),
        ),
        (PeerImport(DBOS, "dbos", "dbos", ("import-pikku",)),),
    ),
    Family((_generate(100), _generate(1000, "import-generated"))),
    Family((OwnRun("lint_and_graph", ("lint-1000",), {"functions": 1000}),)),
    Family((_checker("mypy", "unchanged", "one-body"), _checker("pyright"))),
    Family((_EDITOR,)),
)
