"""The plan on PostgreSQL, and on a SQLite file that several processes share: its cells, their
goals, which runs fill them.

`cpu_ms` counts the server, too.
"""

from __future__ import annotations

from .peers import (
    ABSURD,
    DBOS_POSTGRES,
    DBOS_WAITING,
    absurd,
    dbos_postgres,
    ideal_postgres,
)
from .plan import Cell, Family, Goal, OwnRun

SIZES = (100, 300, 1000, 3000, 10_000)
EARLY = 300
WORKERS = (1, 2, 4)
KINDS = {"remote": "10 remote steps, 200 runs at once", "queue": "the same through the queue"}


def _cheaper(times: float, *peers: str) -> tuple[Goal, ...]:
    return tuple(Goal(peer=peer, times=times) for peer in peers)


def _sooner(*peers: str) -> tuple[Goal, ...]:
    return tuple(Goal("p50_ms", peer=peer, times=1) for peer in peers)


def _grown(size: int) -> Cell:
    goals: tuple[Goal, ...] = ()
    if size == SIZES[-1]:
        goals = (Goal("times_cpu", at_most=1.2 * size / EARLY),)
    return Cell(f"postgres-sequence-{size}", f"one run of {size:,} remote steps", "step", goals)


def _workers(store: str, place: str) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            f"{store}-workers-{kind}-{count}",
            f"{place}{title}, {count} worker{'s' * (count > 1)}",
            "step",
            (),
        )
        for kind, title in KINDS.items()
        for count in WORKERS
    )


POSTGRES_CELLS = (
    Cell(
        "postgres-inline-c50",
        "20 inline steps, c=50",
        "step",
        (Goal("commits", at_most=0.05), *_cheaper(15, DBOS_POSTGRES, ABSURD)),
    ),
    Cell("postgres-inline-c1", "20 inline steps, c=1", "step"),
    Cell(
        "postgres-remote",
        "10 remote steps, 200 runs at once",
        "step",
        _cheaper(30, DBOS_POSTGRES, DBOS_WAITING),
    ),
    Cell("postgres-queue-jobs", "queue jobs added one by one", "job"),
    Cell("postgres-queue-bulk", "queue jobs added in bulk", "job"),
    Cell("postgres-queue", "the same, each step through the queue", "step"),
    Cell(
        "postgres-latency",
        "one inline step, from start to result",
        "run",
        _sooner(DBOS_POSTGRES, ABSURD),
    ),
    Cell(
        "postgres-latency-remote",
        "one remote step, from start to result",
        "run",
        _sooner(ABSURD),
    ),
    Cell(
        "postgres-latency-apart",
        "the same, executed by another process",
        "run",
        _sooner(ABSURD),
    ),
    *(_grown(size) for size in SIZES),
    Cell("postgres-replay", "cold replay of 3,000 steps", "recorded step"),
    Cell("postgres-sleepers", "10,000 sleepers due together", "run"),
    Cell("postgres-flaky", "20 flaky steps", "step"),
    Cell("postgres-flaky-remote", "20 flaky remote steps", "step"),
    *_workers("postgres", ""),
    *_workers("sqlite", "SQLite FULL: "),
)


def _inline(concurrency: int, runs: int, quick: int) -> OwnRun:
    return OwnRun(
        "postgres_steps",
        (f"postgres-inline-c{concurrency}",),
        {"workflow": "inline", "steps": 20, "runs": runs, "concurrency": concurrency},
        quick={"runs": quick},
    )


def _remote(workflow: str, cell: str) -> OwnRun:
    return OwnRun(
        "postgres_steps",
        (cell,),
        {"workflow": workflow, "steps": 10, "runs": 200, "concurrency": 200, "remote": True},
    )


def _latency(cell: str, workflow: str, *, remote: bool) -> OwnRun:
    return OwnRun(
        "postgres_latency",
        (cell,),
        {"workflow": workflow, "remote": remote, "runs": 300},
        quick={"runs": 100},
    )


def _flaky(cell: str, *, remote: bool) -> OwnRun:
    return OwnRun(
        "postgres_steps",
        (cell,),
        {"workflow": "flaky", "steps": 20, "runs": 100, "concurrency": 100, "remote": remote},
    )


def _own_workers(store: str, kind: str, workflow: str) -> OwnRun:
    return OwnRun(
        f"{store}_workers",
        tuple(f"{store}-workers-{kind}-{count}" for count in WORKERS),
        {"workflow": workflow, "processes": WORKERS, "steps": 10, "runs": 200},
    )


LATENCIES = ("postgres-latency", "postgres-latency-remote", "postgres-latency-apart")

POSTGRES_FAMILIES = (
    Family(
        (_inline(50, 500, 100), _inline(1, 100, 30)),
        (
            dbos_postgres(
                "w1", {"W1 c=50": ("postgres-inline-c50",), "W1 c=1": ("postgres-inline-c1",)}
            ),
            absurd("w1", {"W1 c=50": ("postgres-inline-c50",), "W1 c=1": ("postgres-inline-c1",)}),
            ideal_postgres(
                {"W1 c=50": ("postgres-inline-c50",), "W1 c=1": ("postgres-inline-c1",)}
            ),
        ),
    ),
    Family(
        (_remote("rpc", "postgres-remote"), _remote("queued", "postgres-queue")),
        (
            dbos_postgres("w2", {"W2 tuned": ("postgres-remote", "postgres-queue")}),
            dbos_postgres(
                "w2", {"W2 default": ("postgres-remote", "postgres-queue")}, engine=DBOS_WAITING
            ),
        ),
    ),
    Family(
        (
            _latency("postgres-latency", "inline", remote=False),
            _latency("postgres-latency-remote", "rpc", remote=True),
            OwnRun(
                "postgres_apart", ("postgres-latency-apart",), {"runs": 300}, quick={"runs": 100}
            ),
        ),
        (
            dbos_postgres("w3", {"W3": LATENCIES[:1]}),
            absurd("w3", {"W3": LATENCIES}),
        ),
    ),
    Family(
        (
            OwnRun(
                "postgres_growth",
                tuple(f"postgres-sequence-{size}" for size in SIZES),
                {"workflow": "rpc", "sizes": SIZES, "early": EARLY},
            ),
        ),
        (
            dbos_postgres(
                "w4",
                {
                    "W4 tuned N=100": ("postgres-sequence-100",),
                    "W4 tuned N=300": ("postgres-sequence-300",),
                },
            ),
        ),
    ),
    Family(
        (
            OwnRun(
                "jobs_postgres",
                ("postgres-queue-jobs", "postgres-queue-bulk"),
                {"jobs": 3000},
                quick={"jobs": 1000},
            ),
        ),
    ),
    Family((OwnRun("postgres_replay", ("postgres-replay",)),)),
    Family(
        (
            OwnRun(
                "postgres_sleepers",
                ("postgres-sleepers",),
                {"runs": 10_000, "rest_s": 40},
                quick={"runs": 1000, "rest_s": 6},
            ),
        ),
        (dbos_postgres("w7", {"W7": ("postgres-sleepers",)}),),
    ),
    Family(
        (_flaky("postgres-flaky", remote=False), _flaky("postgres-flaky-remote", remote=True)),
        (dbos_postgres("w5", {"W5": ("postgres-flaky", "postgres-flaky-remote")}),),
    ),
    Family(
        (
            _own_workers("postgres", "remote", "listed"),
            _own_workers("postgres", "queue", "listed_queued"),
        ),
    ),
    Family(
        (
            _own_workers("sqlite", "remote", "listed"),
            _own_workers("sqlite", "queue", "listed_queued"),
        ),
    ),
)
