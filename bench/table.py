"""The table: a line per cell and engine, medians over the rounds, ratios and goals beside them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .plan import CELLS, OURS, Cell, Goal
from .plan_postgres import POSTGRES_CELLS
from .plan_redis import REDIS_CELLS
from .samples import Gap, Record, Sample

HEAD = ("cell", "engine", "CPU ms", "min-max", "per", "speed", "also", "theirs / ours", "goal")
_ALSO = {
    "commits": "{:.3f} commits/step",
    "growth": "late/early {:.2f}",
    "peak_mb": "peak {:.0f} MB",
    "rss_mb": "{:.1f} MB",
    "modules": "{:.0f} modules",
    "kb_run": "{:.1f} KB/run",
    "engine_ms": "engine {:.4f}",
    "server_ms": "server {:.4f}",
    "starter_ms": "starter besides {:.4f}",
    "commands": "{:.1f} commands",
    "calls": "{:.3f} calls",
    "step_commands": "a step more: {:.2f} commands",
    "step_calls": "{:.2f} calls",
    "attempt_calls": "{:.3f} calls/attempt",
    "statements": "{:.3f} statements",
    "step_statements": "a step more: {:.1f} statements",
    "attempt_statements": "{:.3f} statements/attempt",
    "times_fan": "over 500 steps: CPU x{:.2f}",
    "replay_calls": "{:.0f} calls for the replay",
    "grown_commands": "commands x{:.2f}",
    "times_cpu": "over 300 steps: CPU x{:.2f}",
    "times_wall": "wall x{:.2f}",
    "times_one": "x{:.2f} of one worker",
    "share": "{:.0%} of everysec's speed",
    "share_of_scan": "{:.0%} of the rest of the run",
    "times_floor": "x{:.2f} of untyped",
    "times_half": "x{:.2f} of 500 functions",
    "characters": "{:.0f} characters",
    "lines": "{:.0f} lines",
    "max_ms": "at most {:.0f} ms",
    "p50_ms": "p50 {:.2f} ms",
    "p99_ms": "p99 {:.2f} ms",
    "fired_p99_ms": "timers fired p99 {:.0f} ms",
    "tick_p50_ms": "late p50 {:.0f} ms",
    "tick_p99_ms": "late p99 {:.0f} ms",
    "late_p99_ms": "next step p99 {:.0f} ms",
    "opened_s": "opened in {:.1f} s",
    "server_kb_run": "{:.1f} KB/run in the server",
}
_BOUND = {
    "cpu_ms": "<= {:g} ms",
    "commits": "<= {:g} commits",
    "growth": "late/early <= {:g}",
    "peak_mb": "peak <= {:g} MB",
    "rss_mb": "<= {:g} MB",
    "commands": "<= {:g} commands",
    "calls": "<= {:g} calls",
    "step_commands": "<= {:g} commands",
    "step_calls": "<= {:g} calls",
    "replay_calls": "<= {:g} calls",
    "replay_ms": "engine <= {:g} ms",
    "times_fan": "CPU <= {:g}x",
    "attempt_calls": "<= {:g} calls/attempt",
    "grown_commands": "commands <= {:g}x",
    "times_cpu": "CPU <= {:g}x",
    "times_one": "<= {:g}x one worker's",
    "share": ">= {:.0%}",
    "share_of_scan": "<= {:.0%}",
    "times_floor": "<= {:g}x untyped",
    "times_half": "<= {:g}x of 500",
    "characters": "<= {:g} characters",
    "lines": "<= {:g} lines",
}
_ASKED = ("p50_ms", "p99_ms")  # peers tell them of every cell
_OF_PEER = {
    "cpu_ms": ">= {:g}x CPU",
    "p50_ms": ">= {:g}x p50",
    "commands": ">= {:g}x commands",
}


def table(records: Iterable[Record]) -> str:
    """The whole table as text."""
    rows = [HEAD, *_rows(list(records))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def gaps(records: Iterable[Record]) -> str:
    """Why something is not available: a line per engine and reason, with the cells it empties."""
    cells: dict[tuple[str, str], list[str]] = {}
    for one in records:
        if isinstance(one, Gap):
            named = cells.setdefault((one.engine, one.reason), [])
            if one.cell not in named:
                named.append(one.cell)
    return "\n".join(
        f"not available: {engine}: {reason}\n    in {', '.join(named)}"
        for (engine, reason), named in cells.items()
    )


def _rows(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    for cell in (*CELLS, *REDIS_CELLS, *POSTGRES_CELLS):
        mine = [record for record in records if record.cell == cell.name]
        engines = sorted({record.engine for record in mine}, key=lambda name: (name != OURS, name))
        measured = {name: _samples(mine, name) for name in engines}
        ours = measured.get(OURS, [])
        title = cell.title
        for name in engines:
            yield (title, name, *_columns(cell, name, measured[name], ours))
            title = ""


def _samples(records: Iterable[Record], engine: str) -> list[Sample]:
    return [one for one in records if isinstance(one, Sample) and one.engine == engine]


def _columns(
    cell: Cell,
    engine: str,
    samples: Sequence[Sample],
    ours: Sequence[Sample],
) -> tuple[str, ...]:
    goals = [goal for goal in cell.goals if (goal.peer or OURS) == engine]
    if not samples:
        wordings = "; ".join(_wording(goal) for goal in goals)
        return ("not available", "", cell.unit, "", "", "", wordings)
    cpu = _values(samples, "cpu_ms")
    return (
        _figure(statistics.median(cpu)),
        f"{_figure(min(cpu))}-{_figure(max(cpu))}",
        cell.unit,
        _speed(samples),
        ", ".join(_also(samples, ours)),
        "" if engine == OURS else _ratios(samples, ours),
        "; ".join(_verdict(goal, samples, ours) for goal in goals),
    )


def _values(samples: Iterable[Sample], metric: str) -> list[float]:
    return [one.metrics[metric] for one in samples if metric in one.metrics]


def _median(samples: Iterable[Sample], metric: str) -> float | None:
    values = _values(samples, metric)
    return statistics.median(values) if values else None


def _figure(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.3f}" if value < 10 else f"{value:,.0f}"


def _speed(samples: Sequence[Sample]) -> str:
    rate, wall = _values(samples, "per_s"), _values(samples, "wall_s")
    if rate:
        return f"{statistics.median(rate):,.0f}/s ({min(rate):,.0f}-{max(rate):,.0f})"
    return f"{statistics.median(wall):.2f} s" if wall else ""


def _also(samples: Sequence[Sample], ours: Sequence[Sample]) -> Iterator[str]:
    for metric, form in _ALSO.items():
        value = _median(samples, metric)
        if value is not None and (metric not in _ASKED or _values(ours, metric)):
            yield form.format(value)


def _ratio(
    theirs: Sequence[Sample], ours: Sequence[Sample], metric: str = "cpu_ms"
) -> float | None:
    """How many times our CPU, or another metric, is the peer's."""
    over, under = _median(theirs, metric), _median(ours, metric)
    return over / under if over is not None and under else None


def _ratios(theirs: Sequence[Sample], ours: Sequence[Sample]) -> str:
    cpu = _ratio(theirs, ours)
    if cpu is None:
        return ""
    waits = _ratio(theirs, ours, "p50_ms")
    if waits is not None:
        return f"{cpu:.2f}x CPU, {waits:.2f}x p50"
    fast, slow = _median(ours, "per_s"), _median(theirs, "per_s")
    return f"{cpu:.2f}x CPU" + (f", {fast / slow:.2f}x speed" if fast and slow else "")


def _wording(goal: Goal) -> str:
    if goal.peer is not None:
        return _OF_PEER[goal.metric].format(goal.times)
    return _BOUND[goal.metric].format(goal.at_least if goal.at_most is None else goal.at_most)


def _verdict(goal: Goal, samples: Sequence[Sample], ours: Sequence[Sample]) -> str:
    if goal.peer is not None:
        value = _ratio(samples, ours, goal.metric)
        met = value is not None and goal.times is not None and value >= goal.times
    else:
        value = _median(samples, goal.metric)
        low, high = goal.at_least or 0.0, math.inf if goal.at_most is None else goal.at_most
        met = value is not None and low <= value <= high
    word = "not measured" if value is None else "met" if met else "NOT MET"
    return f"{_wording(goal)} {word}"


def noise(records: Iterable[Record]) -> Mapping[str, float]:
    """The median and the highest share of the machine that others used meanwhile."""
    values = _values([one for one in records if isinstance(one, Sample)], "noise")
    return {"median": statistics.median(values), "max": max(values)} if values else {}
