"""The rows of one PostgreSQL transaction: locked and loaded in bulk before it, written in bulk
after it, in as few trips to the server as the decisions allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import Connection, Cursor

from pikku._records import (
    FINAL_STATUSES,
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
    copy_run,
    step_values,
)
from pikku.stores._queries import conditions
from pikku.stores._rows import added_run, put_run, rare, saved_run, saved_step
from pikku.stores.base import JOBS
from pikku.stores.lanes import QueueLimits, Room, Window, again_at, place_of, sooner
from pikku.stores.postgres.arrays import columns, numbers, texts
from pikku.stores.postgres.cache import RowCache
from pikku.stores.transitions import Timer, grant

Row = tuple[Any, ...]
Place = tuple[str, str]

# Of `save_runs`: the number, `touched`, and what `saved_run` gives.
_SAVED = "nntntbntnnnnttnt"
# How long the last batch of a session that is gone is remembered: by far longer than anybody asks
# for what became of it.
BATCHES_KEPT_US = 3_600_000_000

_OF_A_STEP = (CompleteStep, BeginStep, ReleaseStep, ReportProgress, DecideStep)
_OF_A_RUN = (CancelRun, ResumeRun, ReleaseRun, RequeueRun, SignalRun, DeleteRun, HandRun)

_RUN_COLUMNS = (
    "number", "touched", "run_id", "workflow", "status", "version", "inline", "run_attempt",
    "owner", "queued", "turn", "turned_by", "deliveries", "tags", "started_by", "created_us",
    "updated_us", "finished_us", "cancel_us", "cancel_kind", "cancel_reason", "cancel_delivery",
    "suspend_reason", "parent", "parent_step", "depth", "pinned", "forked_from",
    "traceparent",
)  # fmt: skip
_STEP_COLUMNS = (
    "run", "key", "position", "kind", "target", "status", "attempt", "failures", "lost", "digest",
    "input", "result", "error", "worker", "due_us", "created_us", "started_us", "finished_us",
    "delivery", "queue", "job", "handled", "progress", "after",
)  # fmt: skip
COLUMNS = {
    "runs": ", ".join(_RUN_COLUMNS),
    "runs_of_run": ", ".join(f"run.{name}" for name in _RUN_COLUMNS),
    "whole_runs": ", ".join(
        # Of a damaged run the values may be missing: it is there, and fails by its input.
        [*(f"run.{name}" for name in _RUN_COLUMNS), "coalesce(input, '')", "output", "error"]
    ),
    "steps": ", ".join(f"step.{name}" for name in _STEP_COLUMNS),
}
"""What `queries.sql` names for short."""
_WANTED = {
    "workflow": "workflow = %(workflow)s",
    "no_job": "workflow NOT LIKE 'queue:%%'",
    "status": "status = %(status)s",
    "before_us": "created_us < %(before_us)s",
    "after_us": "created_us >= %(after_us)s",
    "ended_before_us": "finished_us < %(ended_before_us)s",
    "tag": "tags @> ARRAY[%(tag)s::text]",
    "text": """(
    position(%(text)s IN run_id) > 0
    OR position(%(text)s IN workflow) > 0
    OR EXISTS (SELECT 1 FROM unnest(tags) AS tag WHERE position(%(text)s IN tag) > 0)
    OR position(%(text)s IN coalesce(started_by, '')) > 0
    OR position(%(text)s IN coalesce(error, '')) > 0
)""",
}


def which_runs(wanted: RunFilter) -> str:
    """What follows `list_runs` in a statement for the runs that are *wanted*."""
    order = "ASC" if wanted.oldest_first else "DESC"
    where = conditions(wanted, _WANTED)
    return f" WHERE {where} ORDER BY run.number {order} LIMIT %(limit)s"


class StaleRowsError(Exception):
    """What was taken to be so is not: the transaction is made again, trusting nothing."""


class PostgresWorkspace:
    """Implements `pikku.stores.transitions.Workspace` inside an open transaction.

    A run is locked before it is looked at, and with it its steps, signals, timers and words in
    inboxes: nobody changes those without its lock. A run that is loaded for a transition comes
    without its values, which no transition reads.
    """

    def __init__(
        self,
        connection: Connection[Row],
        queries: Mapping[str, bytes],
        cache: RowCache,
        session: str,
        batch: int,
    ) -> None:
        self.session = session
        self.batch = batch
        self.now_us = 0
        self.marked = False
        self.made = 0
        self._connection = connection
        self._queries = queries
        self._cache = cache
        self._alive = False
        self._runs: dict[str, RunRecord | None] = {}
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._touched: dict[str, int] = {}
        self._loaded_as: dict[str, Row] = {}
        self._steps: dict[Place, StepRecord | None] = {}
        self._new_numbers: list[int] = []
        self._from_cache: set[str] = set()
        # What is still to be written.
        self._new_runs: dict[str, RunRecord] = {}
        self._dirty_runs: dict[str, RunRecord] = {}
        self._dirty_steps: dict[Place, StepRecord] = {}
        self._there: set[Place] = set()
        self._history: list[Row] = []
        self._timers: dict[tuple[str, str, str], int] = {}
        self._dropped_timers: dict[str, None] = {}
        self._entries: list[Row] = []
        self._jobs: list[Row] = []
        self._mail: list[Row] = []
        self._watched: list[Row] = []
        self._unwatched: list[int] = []
        # What is known once it was asked.
        self._mail_for: set[str] | None = None
        self._watchers: dict[str, list[str]] = {}
        self._living: dict[str, bool] = {}
        self._lost_timers: set[str] = set()
        self.pushed: set[str] = set()
        self.told: set[str] = set()
        self.own_mail: list[Delivery] = []
        self._own_mail_for: set[str] = set()
        self.moved_timers = False
        # When to ask again for what the limits of a queue hold back.
        self.again_us: int | None = None

    # --- before the transitions -----------------------------------------------------------------

    def prefetch(self, ops: Sequence[Op], now_us: int | None, *, trusting: bool) -> None:
        """Begin, and lock and load every row that *ops* name, in one trip.

        A step that is asked for the first time is hardly ever there: *trusting*, it is not looked
        for, and should it be there after all, adding it raises `psycopg.errors.UniqueViolation`.

        Raises:
            StaleRowsError: what this process had at hand of a run is not so any more.
        """
        known: dict[str, int] = {}
        names: dict[str, None] = {}
        wanted: dict[Place, None] = {}
        whole: dict[str, None] = {}
        ending: dict[str, None] = {}
        created = 0
        for op in ops:
            if isinstance(op, Commit):
                run_id = op.run_id
                names[run_id] = None
                for write in op.ends:
                    wanted[run_id, write.key] = None
                for child in op.children:
                    names[child.run_id] = None
                created += len(op.children)
                for key in op.calls_off:
                    wanted[run_id, key] = None
                for write in op.asks:
                    if not trusting or write.attempt > 1:
                        wanted[run_id, write.key] = None
                if op.settle is not None and op.settle.status in FINAL_STATUSES:
                    ending[run_id] = None
            elif isinstance(op, (CreateRun, WatchRun, PutRun)):
                names[op.run_id] = whole[op.run_id] = None
                created += not isinstance(op, WatchRun)
            elif isinstance(op, _OF_A_STEP):
                names[op.run_id] = None
                wanted[op.run_id, op.key] = None
            elif isinstance(op, _OF_A_RUN):
                names[op.run_id] = None
        if trusting:
            for run_id in names:
                cached = self._cache.runs.get(run_id)
                if cached is not None and run_id not in whole:
                    known[run_id] = cached.number
        values = {"now_us": now_us, "session": self.session, "batch": self.batch}
        if known:
            values["numbers"] = numbers(known.values())
            beginning = self._execute_named("begin_known", values)
        else:
            beginning = self._execute_named("begin" if ops else "look", values)
        others = [run_id for run_id in names if run_id not in known]
        rows = self._execute("lock_runs", texts(others)) if others else None
        new = self._execute("new_numbers", created) if created else None
        steps = self._find_steps(list(wanted), known)
        watchers = self._execute("find_watchers", texts(ending)) if ending else None
        begun = beginning.fetchall()
        if not begun:
            raise StaleRowsError
        self.now_us, self._alive, self.marked = begun[0][0], bool(begun[0][1]), bool(ops)
        self.made = begun[0][2] or 0
        if known:
            self._take_known(known, [row[3:] for row in begun])
        if rows is not None:
            for run_id in others:
                self._runs[run_id] = None
            for row in rows.fetchall():
                self._lend(row)
        if new is not None:
            self._new_numbers = [number for (number,) in new.fetchall()]
        for place in wanted:
            self._steps.setdefault(place, None)
        for each in steps:
            for row in each.fetchall():
                self._lend_step(row)
        if watchers is not None:
            self._know_watchers(ending, watchers.fetchall())
        if whole:
            self._give_values(list(whole))

    def take_for_new(self, op: Op) -> list[Place]:
        """Take the steps that *op* asks for, and that were not looked for, to be not there."""
        if isinstance(op, Commit):
            places = [(op.run_id, write.key) for write in op.asks]
        elif isinstance(op, CreateRun) and op.job is not None:
            places = [(op.run_id, op.job.key)]
        else:
            return []
        taken = [place for place in places if place not in self._steps]
        self._steps.update(dict.fromkeys(taken))
        return taken

    def doubt(self, taken: Sequence[Place]) -> None:
        """Those of *taken* that were not added may be there after all: whoever asks looks again."""
        for place in taken:
            if self._steps[place] is None:
                del self._steps[place]

    def _take_known(self, known: Mapping[str, int], rows: Sequence[Row]) -> None:
        touched: dict[str, int] = {run_id: touch for run_id, touch in rows}
        for run_id in known:
            cached = self._cache.runs[run_id]
            if touched.get(run_id) != cached.touched:
                raise StaleRowsError
            self._know(cached.run, cached.number, cached.touched)
            self._from_cache.add(run_id)
            for step in cached.steps.values():
                place = run_id, step.key
                if self._steps.get(place) is None:
                    self._steps[place] = step
                    self._there.add(place)

    def _find_steps(self, wanted: Sequence[Place], known: Mapping[str, int]) -> list[Cursor[Row]]:
        """Steps that are not at hand, asked for after their runs were locked."""
        numbered: list[tuple[int, str]] = []
        named: list[Place] = []
        for run_id, key in wanted:
            number = known.get(run_id)
            if number is None:
                named.append((run_id, key))
            elif key not in self._cache.runs[run_id].steps:
                numbered.append((number, key))
        asked: list[Cursor[Row]] = []
        if numbered:
            asked.append(self._execute("find_steps", *columns("nt", numbered)))
        if named:
            asked.append(self._execute("find_steps_by_run_id", *columns("tt", named)))
        return asked

    def _execute(self, name: str, *values: object) -> Cursor[Row]:
        cursor = self._connection.cursor(binary=True)
        return cursor.execute(self._queries[name], values)

    def _execute_named(self, name: str, values: Mapping[str, object]) -> Cursor[Row]:
        cursor = self._connection.cursor(binary=True)
        return cursor.execute(self._queries[name], values)

    def _know(self, run: RunRecord, number: int, touched: int) -> None:
        run_id = run.run_id
        self._runs[run_id] = run
        self._numbers[run_id] = number
        self._names[number] = run_id
        self._touched[run_id] = touched
        self._loaded_as[run_id] = rare(run)

    def _lend(self, row: Row) -> RunRecord:
        run = lean_run(row)
        self._know(run, row[0], row[1])
        return run

    def _lend_step(self, row: Row) -> StepRecord:
        step = StepRecord(*row[1:])
        place = self._names[row[0]], step.key
        self._steps[place] = step
        self._there.add(place)
        return step

    def _know_watchers(self, run_ids: Iterable[str], rows: Sequence[Row]) -> None:
        for run_id in run_ids:
            self._watchers[run_id] = []
        for run_id, session in rows:
            self._watchers[run_id].append(session)

    def _give_values(self, run_ids: Sequence[str]) -> None:
        there = [self._numbers[each] for each in run_ids if self._runs.get(each) is not None]
        if there:
            for number, *values in self._execute("load_values", numbers(there)).fetchall():
                run = self._runs[self._names[number]]
                assert run is not None
                run.input, run.output, run.error = values

    # --- after the transitions ------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was saved; the server's answers are not waited for."""
        if self._new_runs:
            self._flush_new_runs()
        if self._dirty_runs or self._dirty_steps:
            self._flush_changes()
        if self._dropped_timers:
            dropped = [self._numbers[run_id] for run_id in self._dropped_timers]
            self._execute("drop_timers", numbers(dropped))
            self._dropped_timers.clear()
        if self._timers:
            timers = [
                (due_us, self._numbers[run_id], key, kind)
                for (run_id, key, kind), due_us in self._timers.items()
            ]
            self._execute("add_timers", *columns("nntt", timers))
            self._timers.clear()
        for name, kinds, rows in (
            ("append_history", "nttntn", self._history),
            ("enqueue", "tn", self._entries),
            ("push_jobs", "tnttntn", self._jobs),
            ("post", "ttntttttn", self._mail),
            ("add_watchers", "nt", self._watched),
        ):
            if rows:
                self._execute(name, *columns(kinds, rows))
                rows.clear()
        if self._unwatched:
            self._execute("drop_watchers", numbers(self._unwatched))
            self._unwatched.clear()

    def _flush_new_runs(self) -> None:
        rows: list[Row] = []
        values: list[Row] = []
        for run_id, run in self._new_runs.items():
            rows.append((self._numbers[run_id], *added_run(run)))
            values.append((self._numbers[run_id], run.input))
            self._dirty_runs.pop(run_id, None)
            self._loaded_as[run_id] = rare(run)
        self._execute("add_runs", *columns("nttttbntbttnnttnbtt", rows), *columns("nt", values))
        self._new_runs.clear()

    def _flush_changes(self) -> None:
        turns: list[Row] = []
        whole: list[Row] = []
        values: list[Row] = []
        for run_id, run in self._dirty_runs.items():
            now = rare(run)
            if self._loaded_as[run_id] == now:
                turns.append(self._turned(run))
                continue
            whole.append((*self._touch(run_id), *saved_run(run)))
            if self._loaded_as[run_id][0] != run.status:
                values.append((self._numbers[run_id], run.output, run.error))
            self._loaded_as[run_id] = now
        for run_id in {run_id for run_id, _ in self._dirty_steps} - self._dirty_runs.keys():
            stays = self._runs[run_id]
            assert stays is not None
            turns.append(self._turned(stays))
        if whole:
            self._execute("save_runs", *columns("ntt", values), *columns(_SAVED, whole))
        self._dirty_runs.clear()
        self._flush_steps(turns)

    def _touch(self, run_id: str) -> tuple[int, int]:
        touch = self._touched[run_id] = self._touched[run_id] + 1
        return self._numbers[run_id], touch

    def _turned(self, run: RunRecord) -> Row:
        return (*self._touch(run.run_id), run.turn, run.deliveries, run.updated_us)

    def _flush_steps(self, turns: Sequence[Row]) -> None:
        added: list[Row] = []
        saved: list[Row] = []
        for place, step in self._dirty_steps.items():
            run = self._numbers[place[0]]
            if place in self._there:
                saved.append((run, step.key, *saved_step(step)))
            else:
                added.append((run, *step_values(step)))
                self._there.add(place)
        self._dirty_steps.clear()
        if turns or saved or added:
            self._execute(
                "save_turns",
                *columns("nnnnn", turns),
                *columns("nttnnntttnnnnttbt", saved),
                *columns("ntntttnnnttttt" + "nnnnn" + "ttbtn", added),
            )

    def remember(self) -> None:
        """After the commit: keep at hand only what the next commits of the same runs need."""
        kept: dict[str, dict[str, StepRecord]] = {}
        for run_id, run in self._runs.items():
            if run is not None and run.owner == self.session and run.status == "running":
                used = run_id in self._from_cache
                kept[run_id] = self._cache.runs[run_id].steps if used else {}
            else:
                self._cache.forget(run_id)
        for (run_id, key), step in self._steps.items():
            steps = kept.get(run_id)
            if steps is not None:
                if step is None or (step.delivery is not None and step.finished_us is not None):
                    steps.pop(key, None)
                else:
                    steps[key] = step
        for run_id, steps in kept.items():
            run = self._runs[run_id]
            assert run is not None
            self._cache.keep(run, self._numbers[run_id], self._touched[run_id], steps)

    def claim(self, queue: str, count: int) -> list[LoadedRun]:
        """Up to *count* waiting runs, now owned by the session, with their steps."""
        claimed: list[str] = []
        more = True
        while more and len(claimed) < count:
            asked = count - len(claimed)
            rows = self._execute_named("claim_runs", {"queue": queue, "count": asked}).fetchall()
            more = len(rows) == asked
            for row in rows:
                run = self._runs.get(row[3]) or self._lend(row[1:])
                if not run.queued:
                    continue
                run.queued = False
                if run.status == "running":
                    run.owner = self.session
                    claimed.append(run.run_id)
                self.save_run(run)
        self.flush()
        return self.load(claimed)

    def claim_jobs(self, queue: str, count: int) -> list[Job]:
        """Up to *count* jobs of *queue*, now held by the session."""
        jobs: list[Job] = []
        more = True
        while more and len(jobs) < count:
            asked = count - len(jobs)
            rows = self._execute_named("claim_jobs", {"queue": queue, "count": asked}).fetchall()
            more = len(rows) == asked
            self._lend_waiting(rows)
            for row in rows:
                job = grant(self, row[3], row[7], row[1], row[2])
                if job is not None:
                    jobs.append(job)
        self.flush()
        return jobs

    def _lend_waiting(self, rows: Sequence[Row]) -> None:
        """Have the runs and the steps of waiting jobs at hand: place, key, attempt, lane, priority,
        and the columns of the run."""
        for row in rows:
            if self._runs.get(row[7]) is None:
                self._lend(row[5:])
        wanted = [(row[5], row[1]) for row in rows if (row[7], row[1]) not in self._steps]
        if wanted:
            for found in self._execute("find_steps", *columns("nt", wanted)).fetchall():
                self._lend_step(found)

    def claim_within(self, queue: str, count: int, limits: QueueLimits) -> tuple[list[Job], bool]:
        """Up to *count* jobs of *queue* that its limits let go, now held by the session; and
        whether there are more of them. Nobody else claims from it until the transaction ends."""
        self.flush()
        if self._execute("has_jobs", queue).fetchone() is None:
            return [], False
        found = self._execute("lock_window", queue).fetchone()
        assert found is not None
        window = Window(*found).at(self.now_us, limits.per_us)
        room = Room(limits, dict(self._execute("held_jobs", queue).fetchall()), window.begun)
        jobs: list[Job] = []
        more = True
        while more and len(jobs) < count and (room.left is None or room.left > 0):
            asked = count - len(jobs)
            values = {"queue": queue, "full": room.full_groups(), "count": asked}
            rows = self._execute_named("waiting_of_groups", values).fetchall()
            more = len(rows) == asked
            self._lend_waiting(rows)
            taken: list[int] = []
            for number, key, attempt, lane, _, *run in rows:
                group = place_of(lane).group
                if not room.takes(group):
                    more = True
                    continue
                taken.append(number)
                job = grant(self, lane, run[2], key, attempt)
                if job is not None:
                    jobs.append(job)
                    room.take(group)
            self._execute("take_jobs", numbers(taken))
        if limits.rate is not None and jobs:
            window = window._replace(begun=window.begun + len(jobs))
            self._execute("save_window", *window, queue)
        self.flush()
        more = more and (room.left is None or room.left > 0)
        if not more and self._execute("has_jobs", queue).fetchone() is not None:
            again = again_at(limits, window, self.now_us, room.left)
            self.again_us = sooner(self.again_us, again)
        return jobs, more

    def filled(self, queues: Iterable[str]) -> set[str]:
        """Those of *queues* that hold something, be it only what somebody else is just taking."""
        return {row[0] for row in self._execute("filled", texts(queues)).fetchall()}

    def load(self, run_ids: Sequence[str]) -> list[LoadedRun]:
        """Runs that are locked, with their values and steps."""
        if not run_ids:
            return []
        wanted = numbers([self._numbers[run_id] for run_id in run_ids])
        values = self._execute("load_values", wanted)
        steps = self._execute("load_steps", wanted)
        whole: dict[int, RunRecord] = {}
        found: dict[int, list[StepRecord]] = {}
        for run_id in run_ids:
            run = self._runs[run_id]
            assert run is not None
            whole[self._numbers[run_id]] = copy_run(run)
            found[self._numbers[run_id]] = []
        for number, *rest in values.fetchall():
            whole[number].input, whole[number].output, whole[number].error = rest
        for row in steps.fetchall():
            found[row[0]].append(StepRecord(*row[1:]))
        return [
            LoadedRun(whole[number], tuple(found[number]))
            for number in (self._numbers[run_id] for run_id in run_ids)
        ]

    def read_inbox(self) -> list[Delivery]:
        """The session's mail, removed."""
        rows = self._execute("read_inbox", self.session).fetchall()
        if rows:
            self._mark()
        return [Delivery(*row) for row in rows]

    def next_due(self) -> int | None:
        row = self._execute("next_due").fetchone()
        assert row is not None
        due: int | None = row[0]
        return due

    def hold_session(self) -> bool:
        """Whether the session is there, and stays so until the transaction ends."""
        if not self.marked:
            self._alive = self._execute("hold_session", self.session).fetchone() is not None
            if self._alive:
                self._mark()
        return self._alive

    def lose_session(self) -> None:
        """Take the session to be gone, whatever the store says of it."""
        self._alive = False

    def _mark(self) -> None:
        """Have the store count this batch, and tell that it was the session's last."""
        if not self.marked:
            self._execute("mark", self.session, self.batch, self.now_us)
            self.marked = True

    # --- the workspace of a transition ----------------------------------------------------------

    def session_exists(self) -> bool:
        return self._alive

    def run(self, run_id: str) -> RunRecord | None:
        if run_id not in self._runs:
            self.flush()
            self._runs[run_id] = None
            for row in self._execute("lock_runs", texts([run_id])).fetchall():
                self._lend(row)
        return self._runs[run_id]

    def whole_run(self, run_id: str) -> RunRecord | None:
        found = self.run(run_id)
        if found is None:
            return None
        self.flush()
        return self.load([run_id])[0].run

    def add_run(self, run: RunRecord) -> None:
        self._know(run, self._new_numbers.pop(0), 0)
        self._new_runs[run.run_id] = run

    def put_run(self, run: RunRecord) -> None:
        run_id = run.run_id
        if self._runs.get(run_id) is None:
            self.add_run(run)
        self.flush()
        number = self._numbers[run_id]
        saved = (*self._touch(run_id), *saved_run(run))
        self._execute("save_runs", *columns("ntt", []), *columns(_SAVED, [saved]))
        self._execute("put_run", *put_run(run, list(run.tags)), number)
        self._execute("put_values", number, run.input, run.output, run.error)
        self._runs[run_id] = run
        self._loaded_as[run_id] = rare(run)

    def drop_run(self, run_id: str) -> None:
        self.drop_steps(run_id)
        self._execute_named("drop_run", {"run": self._numbers[run_id]})
        self._runs[run_id] = None

    def save_run(self, run: RunRecord) -> None:
        self._dirty_runs[run.run_id] = run

    def step(self, run_id: str, key: str) -> StepRecord | None:
        place = run_id, key
        if place not in self._steps:
            self._steps[place] = None
            if self.run(run_id) is not None:
                self.flush()
                wanted = columns("nt", [(self._numbers[run_id], key)])
                for row in self._execute("find_steps", *wanted).fetchall():
                    self._lend_step(row)
        return self._steps[place]

    def save_step(self, run_id: str, step: StepRecord) -> None:
        self._steps[run_id, step.key] = step
        self._dirty_steps[run_id, step.key] = step

    def save_input(self, run_id: str, step: StepRecord) -> None:
        if (run_id, step.key) in self._there:
            number = self._numbers[run_id]
            self._execute("save_input", step.input, step.digest, number, step.key)

    def open_steps(self, run_id: str) -> Iterable[StepRecord]:
        if self.run(run_id) is None:
            return
        self.flush()
        for row in self._execute("open_steps", self._numbers[run_id]).fetchall():
            yield self._steps.get((run_id, row[1])) or self._lend_step(row)

    def steps(self, run_id: str) -> Iterable[StepRecord]:
        if self.run(run_id) is None:
            return []
        self.flush()
        rows = self._execute("load_steps", numbers([self._numbers[run_id]])).fetchall()
        return [StepRecord(*row[1:]) for row in rows]

    def drop_steps(self, run_id: str) -> None:
        self.flush()
        for place in [place for place in self._steps if place[0] == run_id]:
            del self._steps[place]
            self._there.discard(place)
        self._from_cache.discard(run_id)
        self._execute("drop_steps", self._numbers[run_id])

    def knows_signal(self, run_id: str, signal_id: str) -> bool:
        asked = self._execute("knows_signal", self._numbers[run_id], signal_id)
        return asked.fetchone() is not None

    def add_signal(self, run_id: str, signal: SignalRecord) -> None:
        self._execute("add_signal", self._numbers[run_id], *signal)

    def take_signal(self, run_id: str, name: str, key: str) -> str | None:
        self.flush()
        row = self._execute("take_signal", key, self._numbers[run_id], name).fetchone()
        return None if row is None else row[0]

    def give_signal_back(self, run_id: str, key: str) -> None:
        self._execute("give_signal_back", self._numbers[run_id], key)

    def append_history(self, run_id: str, entry: HistoryEntry) -> None:
        self._history.append((self._numbers[run_id], *entry))

    def add_timer(self, timer: Timer) -> None:
        self.moved_timers = True
        self._timers[timer.run_id, timer.key, timer.kind] = timer.due_us

    def drop_timers(self, run_id: str) -> None:
        # Who waits for one that is gone looks in vain once: cheaper than to ask for the next now.
        for place in [place for place in self._timers if place[0] == run_id]:
            del self._timers[place]
        self._dropped_timers[run_id] = None
        self._lost_timers.add(run_id)

    def take_due_timers(self, limit: int) -> Iterable[Timer]:
        self.flush()
        self.moved_timers = True
        rows = sorted(self._execute("take_due_timers", self.now_us, limit).fetchall())
        strangers = {row[1] for row in rows if row[1] not in self._names}
        if strangers:
            for row in self._execute("lock_numbered", numbers(strangers)).fetchall():
                self._lend(row)
        places = [(self._names[number], key) for _, number, key, _ in rows if key]
        unseen = [place for place in dict.fromkeys(places) if place not in self._steps]
        if unseen:
            wanted = columns("nt", [(self._numbers[run_id], key) for run_id, key in unseen])
            self._steps.update(dict.fromkeys(unseen))
            for row in self._execute("find_steps", *wanted).fetchall():
                self._lend_step(row)
        self._lost_timers.clear()
        for due_us, number, key, kind in rows:
            run_id = self._names[number]
            if run_id not in self._lost_timers:  # one before may have dropped it
                yield Timer(due_us, run_id, key, kind)

    def enqueue(self, queue: str, run_id: str) -> None:
        self._entries.append((queue, self._numbers[run_id]))
        self.pushed.add(queue)

    def push_job(self, queue: str, run_id: str, key: str, attempt: int) -> None:
        place = place_of(queue)
        lane = None if place.queue == queue else queue
        where = (place.queue, place.priority, place.group or None, lane)
        self._jobs.append((*where, self._numbers[run_id], key, attempt))
        self.pushed.add(JOBS + place.queue)

    def post(self, session: str, delivery: Delivery) -> None:
        if session == self.session:
            self.own_mail.append(delivery)  # it comes with the reply
            self._own_mail_for.add(delivery.run_id)
        else:
            self._mail.append((session, *delivery))
            self.told.add(session)

    def has_mail(self, run_id: str) -> bool:
        if run_id in self._own_mail_for:
            return True
        if self._mail_for is None:
            self.flush()
            self._mail_for = {row[0] for row in self._execute("has_mail", self.session).fetchall()}
        return run_id in self._mail_for

    def add_watcher(self, run_id: str) -> None:
        self._watched.append((self._numbers[run_id], self.session))
        watchers = self._watchers.get(run_id)
        if watchers is not None and self.session not in watchers:
            watchers.append(self.session)

    def take_watchers(self, run_id: str) -> Iterable[str]:
        if run_id not in self._watchers:
            self.flush()
            rows = self._execute("find_watchers", texts([run_id])).fetchall()
            self._know_watchers([run_id], rows)
        watchers = self._watchers[run_id]
        if watchers:
            self._unwatched.append(self._numbers[run_id])
            self._watchers[run_id] = []
        return watchers

    def session_alive(self, session: str) -> bool:
        if session not in self._living:
            row = self._execute("hold_live_session", session, self.now_us).fetchone()
            self._living[session] = row is not None
        return self._living[session]

    def expired_sessions(self) -> Iterable[str]:
        self.flush()
        return [row[0] for row in self._execute("expired_sessions", self.now_us).fetchall()]

    def runs_of(self, session: str, limit: int) -> Iterable[RunRecord]:
        self.flush()
        for row in self._execute("lock_owned", session, max(limit, 0)).fetchall():
            yield self._runs.get(row[2]) or self._lend(row)

    def jobs_of(self, session: str, limit: int) -> Iterable[tuple[str, StepRecord]]:
        self.flush()
        for run_id, key in self._execute("jobs_of", session, limit).fetchall():
            step = self.step(run_id, key)
            if step is not None and step.worker == session and step.finished_us is None:
                yield run_id, step

    def drop_session(self, session: str) -> None:
        self.flush()
        if session == self.session:  # it came too late itself, and takes nothing from now on
            self._alive = False
            self.own_mail.clear()
            self._own_mail_for.clear()
        self._execute_named("drop_session", {"session": session})
        self._execute("forget_batches", self.now_us - BATCHES_KEPT_US)

    def advertise(self, holds: Iterable[str]) -> None:
        self._execute("drop_holds", self.session)
        self._execute("advertise", self.session, texts(dict.fromkeys(holds)))

    def holders(self, name: str) -> Iterable[str]:
        return [row[0] for row in self._execute("holders", name).fetchall()]


def lean_run(row: Row) -> RunRecord:
    """The run that a row of the columns of `runs` holds, without its values."""
    run = RunRecord(row[2], row[3], row[4], "", None, None, *row[5:])
    run.tags = tuple(run.tags)
    return run


def whole_run(row: Row) -> RunRecord:
    """The run that a row of the columns of `whole_runs` holds."""
    run = lean_run(row[:-3])
    run.input, run.output, run.error = row[-3:]
    return run
