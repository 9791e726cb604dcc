"""The rows of one SQLite transaction, loaded in bulk before it and written in bulk after it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pikku._records import (
    Commit,
    CompleteStep,
    Delivery,
    HistoryEntry,
    LoadedRun,
    Op,
    RunRecord,
    StepRecord,
)
from pikku.stores._queries import load_queries
from pikku.stores.transitions import Timer

QUERIES = load_queries("pikku.stores.sqlite")
Row = tuple[Any, ...]


class SqliteWorkspace:
    """Implements `pikku.stores.transitions.Workspace` inside an open transaction."""

    def __init__(self, connection: sqlite3.Connection, session: str, now_us: int) -> None:
        self.session = session
        self.now_us = now_us
        self._execute: Callable[..., sqlite3.Cursor] = connection.execute
        self._executemany: Callable[..., sqlite3.Cursor] = connection.executemany
        self._alive: bool | None = None
        self._runs: dict[str, RunRecord | None] = {}
        self._loaded_as: dict[str, Row] = {}
        self._dirty_runs: dict[str, RunRecord] = {}
        self._steps: dict[tuple[str, str], StepRecord | None] = {}
        self._dirty_steps: dict[tuple[str, str], StepRecord] = {}

    def prefetch(self, ops: Sequence[Op]) -> None:
        """Load every row that *ops* name, in two queries."""
        run_ids: dict[str, None] = {}
        keys: list[str] = []
        for op in ops:
            run_id = getattr(op, "run_id", None)
            if run_id is None:
                continue
            run_ids[run_id] = None
            if isinstance(op, Commit):
                for write in op.ends:
                    keys += (run_id, write.key)
                    self._steps[run_id, write.key] = None
                for write in op.asks:
                    keys += (run_id, write.key)
                    self._steps[run_id, write.key] = None
            elif isinstance(op, CompleteStep):
                keys += (run_id, op.key)
                self._steps[run_id, op.key] = None
        self._load_runs(list(run_ids))
        for start in range(0, len(keys), 512):
            part = keys[start : start + 512]
            size = _padded(len(part) // 2)
            part += [None] * (2 * size - len(part))  # type: ignore[list-item]
            marks = ",".join(["(?,?)"] * size)
            for row in self._execute(
                f"SELECT * FROM steps WHERE (run_id, key) IN (VALUES {marks})", part
            ):
                self._steps[row[0], row[1]] = step_of(row)

    def _load_runs(self, run_ids: list[str]) -> None:
        for start in range(0, len(run_ids), 256):
            part: list[str | None] = [*run_ids[start : start + 256]]
            for run_id in run_ids[start : start + 256]:
                self._runs[run_id] = None
            part += [None] * (_padded(len(part)) - len(part))
            marks = ",".join("?" * len(part))
            for row in self._execute(f"SELECT * FROM runs WHERE run_id IN ({marks})", part):
                self._lend(run_of(row))

    def _lend(self, run: RunRecord) -> RunRecord:
        self._runs[run.run_id] = run
        self._loaded_as[run.run_id] = _rare(run)
        return run

    def flush(self) -> None:
        """Write what was saved."""
        if self._dirty_runs:
            turns: list[Row] = []
            whole: list[Row] = []
            for run_id, run in self._dirty_runs.items():
                if self._loaded_as[run_id] == _rare(run):
                    turns.append((run.turn, run.deliveries, run.updated_us, run_id))
                else:
                    whole.append(_saved(run))
                    self._loaded_as[run_id] = _rare(run)
            if turns:
                self._executemany(QUERIES["save_turn"], turns)
            if whole:
                self._executemany(QUERIES["save_run"], whole)
            self._dirty_runs.clear()
        if self._dirty_steps:
            self._executemany(
                QUERIES["save_step"],
                [_step_row(run_id, step) for (run_id, _), step in self._dirty_steps.items()],
            )
            self._dirty_steps.clear()

    def claim(self, queue: str, count: int) -> Iterable[LoadedRun]:
        """Up to *count* waiting runs, now owned by the session, with their steps."""
        waiting = self._execute(QUERIES["waiting"], (queue, count)).fetchall()
        for number, run_id in waiting:
            self._execute(QUERIES["dequeue"], (number,))
            run = self.run(run_id)
            if run is None or not run.queued:
                continue
            run.queued = False
            if run.status == "running":
                run.owner = self.session
            self.save_run(run)
            if run.status == "running":
                yield LoadedRun(run, self.all_steps(run_id))

    def all_steps(self, run_id: str) -> tuple[StepRecord, ...]:
        rows = self._execute(QUERIES["load_steps"], (run_id,))
        return tuple(step_of(row) for row in rows)

    def read_inbox(self) -> list[Delivery]:
        """The session's mail, removed."""
        rows = self._execute(QUERIES["read_inbox"], (self.session,)).fetchall()
        if rows:
            self._execute(QUERIES["empty_inbox"], (self.session,))
        return [Delivery(*row) for row in rows]

    def next_due(self) -> int | None:
        due: int | None = self._execute(QUERIES["next_due"]).fetchone()[0]
        return due

    # --- the workspace of a transition ----------------------------------------------------------

    def session_exists(self) -> bool:
        if self._alive is None:
            found = self._execute(QUERIES["session_exists"], (self.session,)).fetchone()
            self._alive = found is not None
        return self._alive

    def run(self, run_id: str) -> RunRecord | None:
        if run_id not in self._runs:
            self._load_runs([run_id])
        return self._runs[run_id]

    def add_run(self, run: RunRecord) -> None:
        self._execute(QUERIES["add_run"], _run_row(run))
        self._lend(run)

    def save_run(self, run: RunRecord) -> None:
        self._dirty_runs[run.run_id] = run

    def step(self, run_id: str, key: str) -> StepRecord | None:
        if (run_id, key) not in self._steps:
            row = self._execute(
                "SELECT * FROM steps WHERE run_id = ? AND key = ?", (run_id, key)
            ).fetchone()
            self._steps[run_id, key] = step_of(row) if row else None
        return self._steps[run_id, key]

    def save_step(self, run_id: str, step: StepRecord) -> None:
        self._steps[run_id, step.key] = step
        self._dirty_steps[run_id, step.key] = step

    def append_history(self, run_id: str, entry: HistoryEntry) -> None:
        self._execute(QUERIES["append_history"], (run_id, *entry))

    def add_timer(self, timer: Timer) -> None:
        self._execute(QUERIES["add_timer"], (timer.run_id, timer.key, timer.kind, timer.due_us))

    def drop_timers(self, run_id: str) -> None:
        self._execute(QUERIES["drop_timers"], (run_id,))

    def take_due_timers(self, limit: int) -> Iterable[Timer]:
        rows = self._execute(QUERIES["due_timers"], (self.now_us, limit)).fetchall()
        timers = [Timer(*row) for row in rows]
        self._executemany(
            QUERIES["drop_timer"], [(each.run_id, each.key, each.kind) for each in timers]
        )
        self._load_runs([each.run_id for each in timers if each.run_id not in self._runs])
        return timers

    def enqueue(self, queue: str, run_id: str) -> None:
        self._execute(QUERIES["enqueue"], (queue, run_id))

    def post(self, session: str, delivery: Delivery) -> None:
        self._execute(QUERIES["post"], (session, *delivery))

    def has_mail(self, run_id: str) -> bool:
        return self._execute(QUERIES["has_mail"], (self.session, run_id)).fetchone() is not None

    def expired_sessions(self) -> Iterable[str]:
        return [row[0] for row in self._execute(QUERIES["expired_sessions"], (self.now_us,))]

    def runs_of(self, session: str, limit: int) -> Iterable[RunRecord]:
        self.flush()
        for row in self._execute(QUERIES["runs_of"], (session, limit)).fetchall():
            yield self._runs.get(row[0]) or self._lend(run_of(row))

    def drop_session(self, session: str) -> None:
        self._execute(QUERIES["drop_session"], (session,))
        self._execute(QUERIES["empty_inbox"], (session,))


def run_of(row: Row) -> RunRecord:
    """The run that a row of `runs` holds."""
    run = RunRecord(*row)
    run.inline = bool(run.inline)
    run.queued = bool(run.queued)
    run.tags = tuple(json.loads(row[13]))
    return run


def step_of(row: Row) -> StepRecord:
    """The step that a row of `steps` holds."""
    return StepRecord(*row[1:])


def _run_row(run: RunRecord) -> Row:
    return (
        run.run_id,
        run.workflow,
        run.status,
        run.input,
        run.output,
        run.error,
        run.version,
        run.inline,
        run.run_attempt,
        run.owner,
        run.queued,
        run.turn,
        run.deliveries,
        json.dumps(run.tags),
        run.started_by,
        run.created_us,
        run.updated_us,
        run.finished_us,
        run.cancel_us,
        run.cancel_kind,
        run.cancel_reason,
        run.cancel_delivery,
        run.suspend_reason,
    )


def _rare(run: RunRecord) -> Row:
    """What most commits leave as it was."""
    return (run.status, run.owner, run.queued, run.run_attempt, run.cancel_us, run.error)


def _saved(run: RunRecord) -> Row:
    return (
        run.status,
        run.output,
        run.error,
        run.run_attempt,
        run.owner,
        run.queued,
        run.turn,
        run.deliveries,
        run.updated_us,
        run.finished_us,
        run.cancel_us,
        run.cancel_kind,
        run.cancel_reason,
        run.cancel_delivery,
        run.suspend_reason,
        run.run_id,
    )


def _step_row(run_id: str, step: StepRecord) -> Row:
    return (
        run_id,
        step.key,
        step.position,
        step.kind,
        step.target,
        step.status,
        step.attempt,
        step.failures,
        step.lost,
        step.digest,
        step.input,
        step.result,
        step.error,
        step.worker,
        step.due_us,
        step.created_us,
        step.started_us,
        step.finished_us,
        step.delivery,
    )


def _padded(count: int) -> int:
    """The next power of two: few distinct statements, so that they stay prepared."""
    return 1 << (count - 1).bit_length() if count > 1 else 1
