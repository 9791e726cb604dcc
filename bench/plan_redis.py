"""The plan on Redis: its cells, their goals, which runs fill them.

`cpu_ms` counts the server, too.
"""

from __future__ import annotations

from .peers import (
    IDEAL_REDIS,
    JOB_QUEUES,
    QUEUES,
    TYPESCRIPT,
    ideal_redis,
    queue,
    typescript_on_redis,
)
from .plan import Cell, Family, Goal, OwnRun

SIZES = (100, 300, 1000, 3000, 10_000)
WORKERS = (1, 2, 4)
OF_A_TASK = round(1 / 0.3, 2)


def _original(times: float, metric: str = "cpu_ms") -> Goal:
    return Goal(metric, peer=TYPESCRIPT, times=times)


def _ideal(share: float, metric: str = "cpu_ms") -> Goal:
    return Goal(metric, peer=IDEAL_REDIS, times=share)


def _grown(size: int) -> Cell:
    goals: tuple[Goal, ...] = ()
    if size == 1000:
        goals = (_original(60),)
    elif size == 3000:
        goals = (Goal("grown_commands", at_most=1.05), Goal("times_cpu", at_most=12))
    return Cell(f"redis-sequence-{size}", f"one run of {size:,} remote steps", "step", goals)


def _workers(kind: str, title: str) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            f"redis-workers-{kind}-{count}",
            f"{title}, {count} worker{'s' * (count > 1)}",
            "step",
            (Goal("times_one", at_most=1.25),) if count == 2 else (),
        )
        for count in WORKERS
    )


REDIS_CELLS = (
    Cell(
        "redis-inline-c50",
        "20 inline steps, c=50",
        "step",
        (_original(8), _ideal(0.35)),
    ),
    Cell(
        "redis-inline-c1",
        "20 inline steps, c=1",
        "step",
        (Goal("step_calls", at_most=1), Goal("step_commands", at_most=6), _original(6)),
    ),
    Cell(
        "redis-remote",
        "10 remote steps, 200 runs at once",
        "step",
        (
            Goal(at_most=0.10),
            Goal("commands", at_most=20),
            Goal("calls", at_most=0.3),
            _original(12),
            *(Goal(peer=library, times=OF_A_TASK) for library in QUEUES),
        ),
    ),
    Cell(
        "redis-queue",
        "the same, each step through the queue",
        "step",
        (Goal(at_most=0.16), _original(7)),
    ),
    Cell(
        "redis-latency",
        "one remote step, from start to result",
        "run",
        (_ideal(0.5, "p50_ms"), _original(2.5, "p50_ms")),
    ),
    *(_grown(size) for size in SIZES),
    Cell(
        "redis-replay",
        "cold replay of 3,000 steps, once claimed",
        "run",
        (Goal("replay_ms", at_most=30), Goal("replay_calls", at_most=2)),
    ),
    Cell("redis-fan-500", "gather of 500 remote steps", "step", (Goal(at_most=0.25),)),
    Cell(
        "redis-fan-2000",
        "gather of 2,000 remote steps",
        "step",
        (Goal(at_most=0.25), Goal("times_fan", at_most=4.5)),
    ),
    Cell(
        "redis-queue-jobs",
        "no-op queue jobs, added one by one, one worker",
        "job",
        tuple(
            Goal(metric, peer=library, times=1)
            for library in JOB_QUEUES
            for metric in ("cpu_ms", "commands")
        ),
    ),
    Cell("redis-queue-bulk", "the same, added in bulk", "job"),
    Cell(
        "redis-queue-latency",
        "one no-op queue job, from adding to word of it",
        "job",
        tuple(Goal("p50_ms", peer=library, times=1) for library in JOB_QUEUES),
    ),
    Cell("redis-sleepers", "10,000 sleepers due together", "run"),
    Cell("redis-schedules", "10,000 schedules due together", "tick"),
    Cell("redis-schedules-spread", "10,000 schedules over an hour", "tick"),
    Cell(
        "redis-flaky",
        "20 flaky steps",
        "step",
        (Goal("attempt_calls", at_most=2), _original(5)),
    ),
    Cell(
        "redis-flaky-remote",
        "20 flaky remote steps",
        "step",
        (Goal("attempt_calls", at_most=2), _original(5)),
    ),
    Cell(
        "redis-always",
        "20 inline steps, c=50, fsync always",
        "step",
        (Goal("share", at_least=0.20),),
    ),
    *_workers("remote", "10 remote steps, 200 runs at once"),
    *_workers("queue", "the same through the queue"),
)


def _inline(concurrency: int, runs: int) -> OwnRun:
    return OwnRun(
        "redis_steps",
        (f"redis-inline-c{concurrency}",),
        {"workflow": "inline", "steps": 20, "runs": runs, "concurrency": concurrency},
        quick={"runs": 100},
    )


def _remote(workflow: str, cell: str) -> OwnRun:
    return OwnRun(
        "redis_steps",
        (cell,),
        {"workflow": workflow, "steps": 10, "runs": 200, "concurrency": 200, "remote": True},
    )


def _flaky(cell: str, *, remote: bool) -> OwnRun:
    return OwnRun(
        "redis_steps",
        (cell,),
        {"workflow": "flaky", "steps": 20, "runs": 300, "concurrency": 300, "remote": remote},
        quick={"runs": 100, "concurrency": 100},
    )


def _own_workers(kind: str, workflow: str) -> OwnRun:
    return OwnRun(
        "redis_workers",
        tuple(f"redis-workers-{kind}-{count}" for count in WORKERS),
        {"workflow": workflow, "processes": WORKERS, "steps": 10, "runs": 200},
    )


REDIS_FAMILIES = (
    Family(
        (_inline(50, 500), _inline(1, 500)),
        (
            typescript_on_redis("W1 c=50", ("redis-inline-c50",)),
            typescript_on_redis("W1 c=1", ("redis-inline-c1",)),
            ideal_redis("w1", {"W1 c=50": ("redis-inline-c50",), "W1 c=1": ("redis-inline-c1",)}),
        ),
    ),
    Family(
        (_remote("rpc", "redis-remote"), _remote("queued", "redis-queue")),
        (
            typescript_on_redis("W2", ("redis-remote", "redis-queue")),
            ideal_redis("w2", {"W2 sticky": ("redis-remote", "redis-queue")}),
            *(queue(library, ("redis-remote",)) for library in QUEUES),
        ),
    ),
    Family(
        (
            OwnRun(
                "jobs_redis",
                ("redis-queue-jobs", "redis-queue-bulk", "redis-queue-latency"),
                {"jobs": 3000, "alone": 300},
                quick={"jobs": 1000, "alone": 100},
            ),
        ),
        tuple(
            queue(library, ("redis-queue-jobs", "redis-queue-latency")) for library in JOB_QUEUES
        ),
    ),
    Family(
        (OwnRun("redis_latency", ("redis-latency",), {"runs": 300}, quick={"runs": 100}),),
        (
            typescript_on_redis("W3", ("redis-latency",)),
            ideal_redis("w3", {"W3 sticky": ("redis-latency",)}),
        ),
    ),
    Family(
        (
            OwnRun(
                "redis_growth",
                tuple(f"redis-sequence-{size}" for size in SIZES),
                {"workflow": "rpc", "sizes": SIZES, "early": 300},
            ),
        ),
        (typescript_on_redis("W4 N=1000", ("redis-sequence-1000",)),),
    ),
    Family((OwnRun("redis_replay", ("redis-replay",)),)),
    Family(
        (OwnRun("redis_fans", ("redis-fan-500", "redis-fan-2000"), {"sizes": (500, 2000)}),),
        (typescript_on_redis("W6 N=500", ("redis-fan-500",)),),
    ),
    Family(
        (
            OwnRun(
                "redis_sleepers",
                ("redis-sleepers",),
                {"runs": 10_000, "rest_s": 30},
                quick={"runs": 1000, "rest_s": 5},
            ),
        ),
        (typescript_on_redis("W7", ("redis-sleepers",)),),
    ),
    Family(
        (
            OwnRun(
                "schedules_redis",
                ("redis-schedules", "redis-schedules-spread"),
                {"schedules": 10_000, "minutes": 1},
                quick={"schedules": 1000, "minutes": 0},
            ),
        ),
    ),
    Family(
        (_flaky("redis-flaky", remote=False), _flaky("redis-flaky-remote", remote=True)),
        (
            typescript_on_redis("W5", ("redis-flaky",)),
            typescript_on_redis("W5 remote", ("redis-flaky-remote",)),
        ),
    ),
    Family(
        (
            OwnRun(
                "redis_fsync",
                ("redis-always",),
                {"workflow": "inline", "steps": 20, "runs": 500, "concurrency": 50},
                quick={"runs": 100},
            ),
        ),
    ),
    Family((_own_workers("remote", "listed"), _own_workers("queue", "listed_queued"))),
)
