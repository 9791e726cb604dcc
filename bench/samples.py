"""What a measurement leaves behind: samples, gaps, and the JSON lines that keep both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one cell by one engine.

    `metrics` holds `cpu_ms` (per unit of the cell), `per_s` or `wall_s`, and what else was
    seen: `commits` per step, `growth` (late cost over early cost), `peak_mb`, `noise`, ...
    """

    cell: str
    engine: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gap:
    """A measurement that could not be made, and why."""

    cell: str
    engine: str
    reason: str


Record = Sample | Gap


def to_line(record: Record) -> str:
    """The record as one line of JSON."""
    kept: dict[str, object] = {"cell": record.cell, "engine": record.engine}
    if isinstance(record, Sample):
        kept["metrics"] = dict(record.metrics)
    else:
        kept["reason"] = record.reason
    return json.dumps(kept)


def from_lines(lines: Iterable[str]) -> Iterator[Record]:
    """The records of earlier `to_line` calls; lines that are no records are left out."""
    for line in lines:
        if not line.startswith("{"):
            continue
        kept = json.loads(line)
        if "metrics" in kept:
            yield Sample(kept["cell"], kept["engine"], kept["metrics"])
        else:
            yield Gap(kept["cell"], kept["engine"], kept["reason"])


def last_words(text: str) -> str:
    """The last line of a program's complaint, short enough for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
