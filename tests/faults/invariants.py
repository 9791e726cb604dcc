"""What has to hold after any fault, judged from outside: the ledger, the records, the results.

L every run is final. O its output is that of a run without faults. R no execution begins once its
step is known to be recorded, except in processes that stood still meanwhile, which are counted. Z a
recorded outcome is that of the recorded attempt, made by a process that began it. B there are no
more further executions than were under way at the faults. A what was acknowledged is recorded.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.servers.ledger import Row

from pikku._records import ENDED_STEP, FINAL_STATUSES, LoadedRun


@dataclass(slots=True)
class Fault:
    """What happened to some processes, and when, by CLOCK_MONOTONIC.

    `froze`: for the store time passed, and so their leases, that did not pass for them. `forgot`:
    the store may have lost what it had acknowledged. `killed`: they ended there and then.
    """

    what: str
    pids: frozenset[int]
    began_ns: int
    ended_ns: int
    froze: bool = False
    forgot: bool = False
    killed: bool = False


class Story(NamedTuple):
    """A run as its starter saw it: `outcome` is its output, or the error that `result` raised."""

    run_id: str
    workflow: str
    expected: Any
    outcome: Any


@dataclass(slots=True)
class Figures:
    """What was counted besides. `forgotten_runs` are those that the store itself has forgotten."""

    runs: int = 0
    executions: int = 0
    extra: int = 0
    in_flight: int = 0
    late_starts: int = 0
    refused: int = 0
    lost_acknowledged: int = 0
    accidents: int = 0
    repeated_recorded: int = 0
    lost_runs: int = 0
    forgotten_runs: int = 0
    recoveries: list[float] = field(default_factory=list[float])
    faults: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, other: Figures) -> None:
        """Take in those of a further scenario."""
        for name in ("runs", "executions", "extra", "in_flight", "late_starts", "refused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("lost_acknowledged", "accidents", "repeated_recorded", "lost_runs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.forgotten_runs += other.forgotten_runs
        self.recoveries += other.recoveries
        for what, count in other.faults.items():
            self.faults[what] = self.faults.get(what, 0) + count


Step = tuple[str, str]


class Judge:
    """Everything that is known of a scenario, and what is wrong with it."""

    def __init__(
        self,
        rows: Sequence[Row],
        faults: Sequence[Fault],
        stories: Sequence[Story],
        loaded: Mapping[str, LoadedRun | None],
    ) -> None:
        self._faults = faults
        self._stories = stories
        self._loaded = loaded
        self._begun: dict[Step, list[Row]] = defaultdict(list)
        self._acknowledged: dict[Step, list[Row]] = defaultdict(list)
        for row in rows:
            kept = self._begun if row.what == "began" else self._acknowledged
            kept[row.run, row.step].append(row)
        self._forgot = any(fault.forgot for fault in faults)
        self.figures = Figures(runs=len(stories))
        for fault in faults:
            self.figures.faults[fault.what] = self.figures.faults.get(fault.what, 0) + 1

    def wrong(self) -> list[str]:
        """Every invariant that does not hold, in words."""
        found = [*self._ends(), *self._records(), *self._repeats(), *self._excess()]
        self._measure()
        return found

    def _ends(self) -> Iterable[str]:
        for story in self._stories:
            loaded = self._loaded[story.run_id]
            where = f"run {story.run_id} of {story.workflow}"
            if loaded is None:
                if self._forgot:
                    self.figures.forgotten_runs += 1
                else:
                    self.figures.lost_runs += 1
                    yield f"L: {where} is gone"
                continue
            if loaded.run.status not in FINAL_STATUSES:
                self.figures.lost_runs += 1
                yield f"L: {where} is {loaded.run.status}"
            if story.expected is not ... and story.outcome != story.expected:
                failed = [step for step in loaded.steps if step.status == "failed"]
                yield (
                    f"O: {where} gave {story.outcome!r}, not {story.expected!r}:"
                    f" {loaded.run.error}; {failed}"
                )

    def _records(self) -> Iterable[str]:
        for run_id, loaded in self._loaded.items():
            for step in loaded.steps if loaded is not None else ():
                if step.kind != "rpc" or step.status != "succeeded":
                    continue
                where = f"step {step.key!r} of run {run_id}"
                said = json.loads(step.result or "null")
                if isinstance(said, dict) and "pid" in said:
                    if said["attempt"] != step.attempt:
                        yield f"Z: {where}: attempt {step.attempt} has the outcome of {said}"
                begun = self._begun.get((run_id, step.key), [])
                if not any(row.attempt == step.attempt for row in begun):
                    yield f"Z: {where}: attempt {step.attempt} is recorded and never began"
        for (run_id, key), rows in self._acknowledged.items():
            loaded = self._loaded.get(run_id)
            steps = () if loaded is None else loaded.steps
            kept = next((each for each in steps if each.key == key), None)
            for row in rows:
                if kept is None or kept.status not in ENDED_STEP:
                    self.figures.lost_acknowledged += 1
                    if not self._forgot:
                        yield f"A: step {key!r} of run {run_id} was acknowledged, and is {kept}"
                elif kept.attempt != row.attempt:
                    self.figures.lost_acknowledged += 1
                    if not self._forgot:
                        yield (
                            f"A: step {key!r} of run {run_id}: attempt {row.attempt} was "
                            f"acknowledged, and {kept.attempt} is recorded"
                        )

    def _repeats(self) -> Iterable[str]:
        for (run_id, key), rows in self._begun.items():
            where = f"step {key!r} of run {run_id}"
            known = min((row.at_ns for row in self._acknowledged.get((run_id, key), ())), default=0)
            attempts: dict[int, Row] = {}
            for row in rows:
                if row.attempt in attempts and not self._forgot:
                    pids = {row.pid, attempts[row.attempt].pid}
                    self.figures.repeated_recorded += 1
                    yield f"R: {where}: attempt {row.attempt} began twice, in {pids}"
                attempts[row.attempt] = row
                if known and row.at_ns > known and not self._forgot:
                    if self._stood_still(row):
                        self.figures.late_starts += 1
                    else:
                        self.figures.repeated_recorded += 1
                        late = (row.at_ns - known) / 1e6
                        yield (
                            f"R: {where}: attempt {row.attempt} began in {row.pid} {late:.1f} ms "
                            f"after the step was known to be recorded"
                        )
            loaded = self._loaded.get(run_id)
            for step in loaded.steps if loaded is not None else ():
                beyond = [row for row in rows if row.attempt > step.attempt]
                if step.key == key and beyond and not self._forgot:
                    yield f"R: {where}: {step.attempt} is recorded, and {beyond[0]} began"

    def _stood_still(self, row: Row) -> bool:
        return any(
            fault.froze and row.pid in fault.pids and row.at_ns > fault.began_ns
            for fault in self._faults
        )

    def _excess(self) -> Iterable[str]:
        """Executions beyond one and the declared retries, against what was under way."""
        figures = self.figures
        for (run_id, key), rows in self._begun.items():
            figures.executions += len(rows)
            loaded = self._loaded.get(run_id)
            failures = 0
            for step in loaded.steps if loaded is not None else ():
                if step.key == key:
                    failures = step.failures - (step.status == "failed")
            figures.extra += max(0, len(rows) - 1 - failures)
        under_way: set[tuple[str, str, int]] = set()
        for fault in self._faults:
            under_way.update((row.run, row.step, row.attempt) for row in self.under_way(fault))
        figures.in_flight = len(under_way)
        if figures.extra > figures.in_flight and not self._forgot:
            yield (
                f"B: {figures.extra} further executions, and {figures.in_flight} were under way "
                f"at the faults"
            )

    def under_way(self, fault: Fault) -> list[Row]:
        """The executions that the fault met: begun before its end, not known to be recorded at its
        beginning."""
        found: list[Row] = []
        for step, rows in self._begun.items():
            known = {
                row.attempt
                for row in self._acknowledged.get(step, ())
                if row.at_ns < fault.began_ns
            }
            found += [
                row
                for row in rows
                if row.pid in fault.pids
                and row.at_ns <= fault.ended_ns
                and row.attempt not in known
            ]
        return found

    def _measure(self) -> None:
        """From each kill to the next attempt of what was under way."""
        for fault in self._faults:
            if not fault.killed:
                continue
            for row in self.under_way(fault):
                later = [
                    each.at_ns
                    for each in self._begun[row.run, row.step]
                    if each.attempt > row.attempt and each.at_ns > fault.began_ns
                ]
                if later:
                    self.figures.recoveries.append((min(later) - fault.began_ns) / 1e9)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
