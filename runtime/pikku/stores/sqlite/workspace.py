"""The rows of one SQLite transaction, loaded in bulk before it and written in bulk after it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pikku._records import (
    BeginStep,
    CancelRun,
    Commit,
    CompleteStep,
    CreateRun,
    DecideStep,
    DeleteRun,
    Delivery,
    HandRun,
    HistoryEntry,
    Job,
    LoadedRun,
    Op,
    PutRun,
    ReleaseRun,
    ReleaseStep,
    ReportProgress,
    RequeueRun,
    ResumeRun,
    RunFilter,
    RunRecord,
    SignalRecord,
    SignalRun,
    StepRecord,
    WatchRun,
    step_values,
)
from pikku.stores._queries import conditions, load_queries
from pikku.stores._rows import added_run, put_run, rare, saved_run, saved_step
from pikku.stores.base import JOBS
from pikku.stores.lanes import (
    NO_WINDOW,
    QueueLimits,
    Room,
    Window,
    again_at,
    place_of,
    sooner,
)
from pikku.stores.sqlite.cache import RowCache
from pikku.stores.transitions import Timer, grant

QUERIES = load_queries("pikku.stores.sqlite")
Row = tuple[Any, ...]


# The columns of `runs` in the order of `RunRecord`, with or without what `run_values` holds.
_COLUMNS = (
    "runs.number, run_id, workflow, status, {values}, version, inline, run_attempt, owner, queued,"
    " turn, turned_by, deliveries, tags, started_by, created_us, updated_us, finished_us,"
    " cancel_us, cancel_kind, cancel_reason, cancel_delivery, suspend_reason, parent, parent_step,"
    " depth, pinned, forked_from, traceparent"
)
_NO_VALUES = "'', NULL, NULL"
LEAN_RUN = f"SELECT {_COLUMNS.format(values=_NO_VALUES)} FROM runs"
_VALUES = "coalesce(input, ''), output, error"
WHOLE_RUN = (
    # Of a damaged run the values may be missing: it is there, and fails by its input.
    f"SELECT {_COLUMNS.format(values=_VALUES)} FROM runs LEFT JOIN run_values ON run = runs.number"
)
_WANTED = {
    "workflow": "workflow = :workflow",
    "no_job": "substr(workflow, 1, 6) <> 'queue:'",
    "status": "status = :status",
    "before_us": "created_us < :before_us",
    "after_us": "created_us >= :after_us",
    "ended_before_us": "finished_us < :ended_before_us",
    "tag": "EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag)",
    "text": """(
    instr(run_id, :text)
    OR instr(workflow, :text)
    OR EXISTS (SELECT 1 FROM json_each(tags) WHERE instr(value, :text))
    OR instr(coalesce(started_by, ''), :text)
    OR instr(coalesce(error, ''), :text)
)""",
}


def list_query(wanted: RunFilter) -> str:
    """The query for the runs that are *wanted*, with the fields of the filter as parameters."""
    order = "ASC" if wanted.oldest_first else "DESC"
    where = conditions(wanted, _WANTED)
    return f"{WHOLE_RUN} WHERE {where} ORDER BY runs.number {order} LIMIT :limit"


_OF_A_STEP = (CompleteStep, BeginStep, ReleaseStep, ReportProgress, DecideStep)
_OF_A_RUN = (CancelRun, ResumeRun, ReleaseRun, RequeueRun, SignalRun, DeleteRun, HandRun)


class SqliteWorkspace:
    """Implements `pikku.stores.transitions.Workspace` inside an open transaction.

    A run that is loaded for a transition comes without its values, which no transition reads.
    """

    def __init__(
        self, connection: sqlite3.Connection, cache: RowCache, session: str, now_us: int
    ) -> None:
        cache.refresh(connection)
        self.session = session
        self.now_us = now_us
        self._execute: Callable[..., sqlite3.Cursor] = connection.execute
        self._executemany: Callable[..., sqlite3.Cursor] = connection.executemany
        self._alive: bool | None = None
        self._cache = cache
        self._runs = cache.runs
        self._numbers = cache.run_numbers
        self._loaded_as = cache.saved_as
        self._dirty_runs: dict[str, RunRecord] = {}
        self._steps = cache.steps
        self._step_numbers = cache.step_numbers
        self._dirty_steps: dict[tuple[str, str], StepRecord] = {}
        self._touched_runs: set[str] = set()
        self._touched_steps: set[tuple[str, str]] = set()
        # What others may have an answer to: the queues that were filled, and whether a run's end
        # is waited for.
        self.filled: set[str] = set()
        self.watches = False
        # When to ask again for what the limits of a queue hold back.
        self.again_us: int | None = None

    def prefetch(self, ops: Sequence[Op], *, trusting: bool) -> None:
        """Load every row that *ops* name and that is not at hand, in a query or two.

        A step that is asked for the first time is hardly ever there: *trusting*, it is not looked
        for, and should it be there after all, adding it raises `sqlite3.IntegrityError`.
        """
        lean: dict[str, None] = {}
        wanted: list[tuple[str, str]] = []
        for op in ops:
            if isinstance(op, Commit):
                run_id = op.run_id
                lean[run_id] = None
                for write in op.ends:
                    wanted.append((run_id, write.key))
                for child in op.children:
                    lean[child.run_id] = None
                for key in op.calls_off:
                    wanted.append((run_id, key))
                for write in op.asks:
                    if trusting and write.attempt == 1:
                        self._touched_steps.add((run_id, write.key))
                    else:
                        wanted.append((run_id, write.key))
            elif isinstance(op, (CreateRun, WatchRun, PutRun)):
                self._load_runs(WHOLE_RUN, [op.run_id])
            elif isinstance(op, _OF_A_STEP):
                lean[op.run_id] = None
                wanted.append((op.run_id, op.key))
            elif isinstance(op, _OF_A_RUN):
                lean[op.run_id] = None
        self._touched_runs.update(lean)
        self._load_runs(LEAN_RUN, [run_id for run_id in lean if run_id not in self._runs])
        self._touched_steps.update(wanted)
        self._load_steps([place for place in wanted if place not in self._steps])

    def take_for_new(self, op: Op) -> list[tuple[str, str]]:
        """Take the steps that *op* asks for, and that were not looked for, to be not there."""
        if isinstance(op, Commit):
            places = [(op.run_id, write.key) for write in op.asks]
        elif isinstance(op, CreateRun) and op.job is not None:
            places = [(op.run_id, op.job.key)]
            self._touched_steps.update(places)
        else:
            return []
        taken = [place for place in places if place not in self._steps]
        self._steps.update(dict.fromkeys(taken))
        return taken

    def doubt(self, taken: Sequence[tuple[str, str]]) -> None:
        """Those of *taken* that were not added may be there after all: whoever asks looks again."""
        for place in taken:
            if self._steps[place] is None:
                del self._steps[place]

    def forget(self) -> None:
        """After the commit: keep at hand only what the next commits of the same runs need."""
        cache = self._cache
        for place in self._touched_steps:
            step = self._steps.get(place)
            if step is None or (step.delivery is not None and step.finished_us is not None):
                cache.forget_step(place)
        for run_id in self._touched_runs:
            run = self._runs.get(run_id)
            if run is None or run.owner is None:
                cache.forget_run(run_id)

    def _load_runs(self, query: str, run_ids: list[str]) -> None:
        for start in range(0, len(run_ids), 256):
            part: list[str | None] = [*run_ids[start : start + 256]]
            for run_id in run_ids[start : start + 256]:
                self._runs[run_id] = None
                self._touched_runs.add(run_id)
            part += [None] * (_padded(len(part)) - len(part))
            marks = ",".join("?" * len(part))
            for row in self._execute(f"{query} WHERE run_id IN ({marks})", part):
                self._lend(row)

    def _load_steps(self, wanted: list[tuple[str, str]]) -> None:
        run_ids: dict[int, str] = {}
        values: list[int | str | None] = []
        for run_id, key in wanted:
            self._steps[run_id, key] = None
            number = self._numbers.get(run_id)
            if number is not None:
                run_ids[number] = run_id
                values += (number, key)
        for start in range(0, len(values), 512):
            part = values[start : start + 512]
            size = _padded(len(part) // 2)
            part += [None] * (2 * size - len(part))
            marks = ",".join(["(?,?)"] * size)
            for row in self._execute(
                f"SELECT steps.* FROM (VALUES {marks}) AS wanted CROSS JOIN steps "
                "ON steps.run = wanted.column1 AND steps.key = wanted.column2",
                part,
            ):
                self._lend_step(run_ids[row[1]], row)

    def _lend(self, row: Row) -> RunRecord:
        run = run_of(row)
        self._runs[run.run_id] = run
        self._numbers[run.run_id] = row[0]
        self._loaded_as[run.run_id] = rare(run)
        return run

    def _lend_step(self, run_id: str, row: Row) -> StepRecord:
        step = step_of(row)
        self._steps[run_id, step.key] = step
        self._step_numbers[run_id, step.key] = row[0]
        return step

    def flush(self) -> None:
        """Write what was saved."""
        if self._dirty_runs:
            self._flush_runs()
        if self._dirty_steps:
            self._flush_steps()

    def _flush_runs(self) -> None:
        turns: list[Row] = []
        whole: list[Row] = []
        values: list[Row] = []
        for run_id, run in self._dirty_runs.items():
            number = self._numbers[run_id]
            now = rare(run)
            if self._loaded_as[run_id] == now:
                turns.append((run.turn, run.deliveries, run.updated_us, number))
                continue
            whole.append((*saved_run(run), number))
            if self._loaded_as[run_id][0] != run.status:
                values.append((run.output, run.error, number))
            self._loaded_as[run_id] = now
        if turns:
            self._executemany(QUERIES["save_turn"], turns)
        if whole:
            self._executemany(QUERIES["save_run"], whole)
        if values:
            self._executemany(QUERIES["save_values"], values)
        self._dirty_runs.clear()

    def _flush_steps(self) -> None:
        added: list[Row] = []
        saved: list[Row] = []
        for place, step in self._dirty_steps.items():
            number = self._step_numbers.get(place)
            if number is None:
                number = self._cache.next_step
                self._cache.next_step = number + 1
                self._step_numbers[place] = number
                added.append((number, self._numbers[place[0]], *step_values(step)))
            else:
                saved.append((*saved_step(step), number))
        if saved:
            self._executemany(QUERIES["save_step"], saved)
        if added:
            self._executemany(QUERIES["add_step"], added)
        self._dirty_steps.clear()

    def claim(self, queue: str, count: int) -> Iterable[LoadedRun]:
        """Up to *count* waiting runs, now owned by the session, with their steps."""
        while count > 0:
            waiting = self._execute(QUERIES["waiting"], (queue, count)).fetchall()
            asked = count
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
                    count -= 1
                    self.flush()
                    yield self.load(run_id)
            if len(waiting) < asked:
                return

    def claim_jobs(self, queue: str, count: int) -> Iterable[Job]:
        """Up to *count* jobs of *queue*, now held by the session."""
        while count > 0:
            waiting = self._execute(QUERIES["waiting_jobs"], (queue, count)).fetchall()
            self._executemany(QUERIES["take_job"], [(row[0],) for row in waiting])
            asked = count
            for _, *entry in waiting:
                job = grant(self, *entry)
                if job is not None:
                    count -= 1
                    yield job
            if len(waiting) < asked:
                return

    def claim_within(self, queue: str, count: int, limits: QueueLimits) -> tuple[list[Job], bool]:
        """Up to *count* jobs of *queue* that its limits let go, now held by the session; and
        whether there are more of them."""
        if self._execute(QUERIES["has_jobs"], (queue,)).fetchone() is None:
            return [], False
        self.flush()
        found = self._execute(QUERIES["window"], (queue,)).fetchone()
        window = (Window(*found) if found else NO_WINDOW).at(self.now_us, limits.per_us)
        prefix = f"{queue}/"
        held = self._execute(QUERIES["held_jobs"], (queue, len(prefix), prefix)).fetchall()
        room = Room(limits, dict(held), window.begun)
        jobs: list[Job] = []
        more = True
        while more and len(jobs) < count and (room.left is None or room.left > 0):
            asked = count - len(jobs)
            full = json.dumps(room.full_groups())
            waiting = self._execute(QUERIES["waiting_of_groups"], (queue, full, asked)).fetchall()
            more = len(waiting) == asked
            for number, *entry in waiting:
                group = place_of(entry[0]).group
                if not room.takes(group):
                    more = True
                    continue
                self._execute(QUERIES["take_job"], (number,))
                job = grant(self, *entry)
                if job is not None:
                    jobs.append(job)
                    room.take(group)
        if limits.rate is not None and jobs:
            window = window._replace(begun=window.begun + len(jobs))
            self._execute(QUERIES["save_window"], (queue, *window))
        more = more and (room.left is None or room.left > 0)
        if not more and self._execute(QUERIES["has_jobs"], (queue,)).fetchone() is not None:
            again = again_at(limits, window, self.now_us, room.left)
            self.again_us = sooner(self.again_us, again)
        return jobs, more

    def load(self, run_id: str) -> LoadedRun:
        """The run with its values and steps; it is there."""
        row = self._execute(f"{WHOLE_RUN} WHERE run_id = ?", (run_id,)).fetchone()
        rows = self._execute(QUERIES["load_steps"], (row[0],))
        return LoadedRun(run_of(row), tuple(step_of(row) for row in rows))

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
            self._load_runs(LEAN_RUN, [run_id])
        return self._runs[run_id]

    def add_run(self, run: RunRecord) -> None:
        number = self._execute(QUERIES["add_run"], added_run(run)).lastrowid
        assert number is not None
        self._execute(QUERIES["add_values"], (number, run.input))
        self._touched_runs.add(run.run_id)
        self._runs[run.run_id] = run
        self._numbers[run.run_id] = number
        self._loaded_as[run.run_id] = rare(run)

    def whole_run(self, run_id: str) -> RunRecord | None:
        self.flush()
        row = self._execute(f"{WHOLE_RUN} WHERE run_id = ?", (run_id,)).fetchone()
        return run_of(row) if row else None

    def put_run(self, run: RunRecord) -> None:
        self.flush()
        if self._runs.get(run.run_id) is None:
            self.add_run(run)
        number = self._numbers[run.run_id]
        self._execute(QUERIES["save_run"], (*saved_run(run), number))
        self._execute(QUERIES["put_run"], (*put_run(run, json.dumps(run.tags)), number))
        self._execute(QUERIES["put_values"], (run.input, run.output, run.error, number))
        self._touched_runs.add(run.run_id)
        self._runs[run.run_id] = run
        self._loaded_as[run.run_id] = rare(run)

    def drop_run(self, run_id: str) -> None:
        self.drop_steps(run_id)
        number = self._numbers[run_id]
        for query in ("drop_history", "drop_signals", "drop_values", "drop_run"):
            self._execute(QUERIES[query], (number,))
        for query in ("drop_timers", "drop_watchers"):
            self._execute(QUERIES[query], (run_id,))
        self._dirty_runs.pop(run_id, None)
        self._runs[run_id] = None
        self._numbers.pop(run_id, None)
        self._loaded_as.pop(run_id, None)

    def save_run(self, run: RunRecord) -> None:
        self._touched_runs.add(run.run_id)
        self._dirty_runs[run.run_id] = run

    def step(self, run_id: str, key: str) -> StepRecord | None:
        if (run_id, key) not in self._steps:
            self._touched_steps.add((run_id, key))
            self._steps[run_id, key] = None
            if self.run(run_id) is not None:
                wanted = (self._numbers[run_id], key)
                row = self._execute(QUERIES["load_step"], wanted).fetchone()
                if row is not None:
                    self._lend_step(run_id, row)
        return self._steps[run_id, key]

    def save_step(self, run_id: str, step: StepRecord) -> None:
        self._steps[run_id, step.key] = step
        self._dirty_steps[run_id, step.key] = step

    def save_input(self, run_id: str, step: StepRecord) -> None:
        number = self._step_numbers.get((run_id, step.key))
        if number is not None:
            self._execute(QUERIES["save_input"], (step.input, step.digest, number))

    def open_steps(self, run_id: str) -> Iterable[StepRecord]:
        self.flush()
        if self.run(run_id) is None:
            return
        rows = self._execute(QUERIES["open_steps"], (self._numbers[run_id],)).fetchall()
        for row in rows:
            key = row[2]
            self._touched_steps.add((run_id, key))
            yield self._steps.get((run_id, key)) or self._lend_step(run_id, row)

    def steps(self, run_id: str) -> Iterable[StepRecord]:
        self.flush()
        if self.run(run_id) is None:
            return []
        rows = self._execute(QUERIES["load_steps"], (self._numbers[run_id],))
        return [step_of(row) for row in rows]

    def drop_steps(self, run_id: str) -> None:
        self.flush()
        for place in [place for place in self._steps if place[0] == run_id]:
            self._cache.forget_step(place)
        self._execute(QUERIES["drop_steps"], (self._numbers[run_id],))

    def knows_signal(self, run_id: str, signal_id: str) -> bool:
        wanted = (self._numbers[run_id], signal_id)
        return self._execute(QUERIES["knows_signal"], wanted).fetchone() is not None

    def add_signal(self, run_id: str, signal: SignalRecord) -> None:
        self._execute(QUERIES["add_signal"], (self._numbers[run_id], *signal))

    def take_signal(self, run_id: str, name: str, key: str) -> str | None:
        wanted = (self._numbers[run_id], name)
        row = self._execute(QUERIES["oldest_signal"], wanted).fetchone()
        if row is None:
            return None
        self._execute(QUERIES["take_signal"], (key, row[0]))
        payload: str = row[1]
        return payload

    def give_signal_back(self, run_id: str, key: str) -> None:
        self._execute(QUERIES["give_signal_back"], (self._numbers[run_id], key))

    def append_history(self, run_id: str, entry: HistoryEntry) -> None:
        self._execute(QUERIES["append_history"], (self._numbers[run_id], *entry))

    def add_timer(self, timer: Timer) -> None:
        self._execute(QUERIES["add_timer"], (timer.run_id, timer.key, timer.kind, timer.due_us))

    def drop_timers(self, run_id: str) -> None:
        self._execute(QUERIES["drop_timers"], (run_id,))

    def take_due_timers(self, limit: int) -> Iterable[Timer]:
        rows = self._execute(QUERIES["due_timers"], (self.now_us, limit)).fetchall()
        timers = [Timer(*row) for row in rows]
        missing = {each.run_id: None for each in timers if each.run_id not in self._runs}
        self._load_runs(LEAN_RUN, list(missing))
        for timer in timers:
            if self._execute(QUERIES["drop_timer"], timer).rowcount:  # one before may have done so
                yield timer

    def enqueue(self, queue: str, run_id: str) -> None:
        self.filled.add(queue)
        self._execute(QUERIES["enqueue"], (queue, run_id))

    def push_job(self, queue: str, run_id: str, key: str, attempt: int) -> None:
        place = place_of(queue)
        self.filled.add(JOBS + place.queue)
        lane = None if place.queue == queue else queue
        where = (place.queue, place.priority, place.group or None, lane)
        self._execute(QUERIES["push_job"], (*where, run_id, key, attempt))

    def add_watcher(self, run_id: str) -> None:
        self.watches = True
        self._execute(QUERIES["add_watcher"], (run_id, self.session))

    def take_watchers(self, run_id: str) -> Iterable[str]:
        rows = self._execute(QUERIES["watchers"], (run_id,)).fetchall()
        if rows:
            self._execute(QUERIES["drop_watchers"], (run_id,))
        return [row[0] for row in rows]

    def session_alive(self, session: str) -> bool:
        row = self._execute(QUERIES["session_until"], (session,)).fetchone()
        return row is not None and row[0] >= self.now_us

    def jobs_of(self, session: str, limit: int) -> Iterable[tuple[str, StepRecord]]:
        self.flush()
        for run_id, key in self._execute(QUERIES["jobs_of"], (session, limit)).fetchall():
            step = self.step(run_id, key)
            if step is not None:
                yield run_id, step

    def post(self, session: str, delivery: Delivery) -> None:
        self._execute(QUERIES["post"], (session, *delivery))

    def has_mail(self, run_id: str) -> bool:
        return self._execute(QUERIES["has_mail"], (self.session, run_id)).fetchone() is not None

    def expired_sessions(self) -> Iterable[str]:
        return [row[0] for row in self._execute(QUERIES["expired_sessions"], (self.now_us,))]

    def runs_of(self, session: str, limit: int) -> Iterable[RunRecord]:
        self.flush()
        query = f"{LEAN_RUN} WHERE owner = ? LIMIT ?"
        for row in self._execute(query, (session, limit)).fetchall():
            self._touched_runs.add(row[1])
            yield self._runs.get(row[1]) or self._lend(row)

    def drop_session(self, session: str) -> None:
        if session == self.session:  # it came too late itself, and takes nothing from now on
            self._alive = False
        self._execute(QUERIES["drop_session"], (session,))
        self._execute(QUERIES["empty_inbox"], (session,))
        self._execute(QUERIES["drop_holds"], (session,))

    def advertise(self, holds: Iterable[str]) -> None:
        self._execute(QUERIES["drop_holds"], (self.session,))
        self._executemany(QUERIES["advertise"], [(name, self.session) for name in holds])

    def holders(self, name: str) -> Iterable[str]:
        return [row[0] for row in self._execute(QUERIES["holders"], (name,)).fetchall()]


def run_of(row: Row) -> RunRecord:
    """The run that a row of `LEAN_RUN` or `WHOLE_RUN` holds."""
    run = RunRecord(*row[1:])
    run.inline = bool(run.inline)
    run.queued = bool(run.queued)
    run.pinned = bool(run.pinned)
    run.tags = () if row[15] == "[]" else tuple(json.loads(row[15]))
    return run


def step_of(row: Row) -> StepRecord:
    """The step that a row of `steps` holds."""
    step = StepRecord(*row[2:])
    step.handled = bool(step.handled)
    return step


def _padded(count: int) -> int:
    """The next power of two: few distinct statements, so that they stay prepared."""
    return 1 << (count - 1).bit_length() if count > 1 else 1
