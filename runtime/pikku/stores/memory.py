"""The store that lives in this process: for tests, examples and runs that may be forgotten."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pikku._clock import Clock, SystemClock
from pikku._records import (
    ENDED_STEP,
    Delivery,
    Examination,
    HistoryEntry,
    Holdings,
    Job,
    LoadedRun,
    Op,
    Reply,
    RunFilter,
    RunRecord,
    SignalRecord,
    StepRecord,
    copy_run,
    copy_step,
    fits,
    is_job,
    step_values,
)
from pikku.stores.base import JOBS
from pikku.stores.lanes import (
    NO_LIMITS,
    NO_WINDOW,
    QueueLimits,
    Room,
    Window,
    again_at,
    place_of,
    sooner,
)
from pikku.stores.transitions import Timer, carry_out, grant


class MemoryStore:
    """Keeps every promise of `pikku.stores.base.Store` for as long as the process lives.

    One engine at a time works on an instance; the next one goes on with what the last left behind.
    What it does depends on what it was asked alone: what it goes through is kept in order.
    """

    shared = False
    pushes = False

    def __init__(self, *, clock: Clock | None = None, name: str = "") -> None:
        self.clock: Clock = clock or SystemClock()
        self.address = f"memory://{name}"
        self.session = ""
        self.now_us = 0
        self._lock = threading.RLock()
        self._runs: dict[str, RunRecord] = {}
        self._steps: dict[str, dict[str, StepRecord]] = {}
        # The steps of ended runs, as tuples of plain values: the garbage collector does not visit
        # those, so that runs cost the same however many have ended.
        self._ended: dict[str, tuple[tuple[Any, ...], ...]] = {}
        self._history: dict[str, list[HistoryEntry]] = {}
        self._signals: dict[str, dict[str, SignalRecord]] = {}
        self._timers: list[Timer] = []
        self._armed: dict[str, set[Timer]] = {}
        self._queues: dict[str, deque[str]] = {}
        # By queue: (minus the priority, a number that grows, lane, run, key, attempt).
        self._jobs: dict[str, list[tuple[int, int, str, str, str, int]]] = {}
        self._pushed = 0
        self._limits: dict[str, QueueLimits] = {}
        self._windows: dict[str, Window] = {}
        self._again_us: int | None = None
        self._held: dict[str, dict[tuple[str, str], None]] = {}
        self._watchers: dict[str, dict[str, None]] = {}
        self._sessions: dict[str, int] = {}
        self._owned: dict[str, dict[str, None]] = {}
        self._owners: dict[str, str] = {}
        self._inboxes: dict[str, list[Delivery]] = {}
        self._holds: dict[str, frozenset[str]] = {}

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        return self.apply_now(session, ops, want)

    def apply_now(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        """`apply` without the await, for callers that have no event loop."""
        with self._lock:
            self.session = session
            self.now_us = self.clock.now_us()
            results = [carry_out(self, op) for op in ops]
            claimed: list[LoadedRun] = []
            jobs: list[Job] = []
            more: list[str] = []
            self._again_us = None
            alive = session in self._sessions
            if alive and (self._queues or self._jobs):
                for queue, count in want.items():
                    if self._queues.get(queue):
                        claimed += self._claim(queue, count)
                        left = bool(self._queues[queue])
                    else:
                        left = self._claim_jobs(queue, count, jobs)
                    if left:
                        more.append(queue)
            inbox = self._inboxes.pop(session, ())
            due = sooner(self._next_due(), self._again_us)
            return Reply(results, claimed, inbox, due, alive, jobs, more)

    def limit_queue(self, queue: str, limits: QueueLimits, /) -> None:
        self._limits[queue] = limits

    def beat(self, session: str, lease_us: int) -> bool:
        with self._lock:
            now = self.clock.now_us()
            if session not in self._sessions and session in self._owned:
                return False
            self._sessions[session] = now + lease_us
            self._owned.setdefault(session, {})
            return True

    async def wait(self, session: str, queues: Sequence[str], seconds: float, /) -> str | None:
        raise NotImplementedError

    async def load_run(self, run_id: str) -> RunRecord | None:
        with self._lock:
            run = self._runs.get(run_id)
            return run and copy_run(run)

    async def load_steps(self, run_id: str) -> LoadedRun | None:
        with self._lock:
            return self._load(run_id)

    async def load_history(self, run_id: str) -> list[HistoryEntry]:
        with self._lock:
            return list(self._history.get(run_id, ()))

    async def list_runs(self, wanted: RunFilter) -> list[RunRecord]:
        found: list[RunRecord] = []
        with self._lock:
            runs = self._runs.values()
            for run in runs if wanted.oldest_first else reversed(runs):
                if len(found) >= wanted.limit:
                    break
                if fits(run, wanted):
                    found.append(copy_run(run))
        return found

    async def count_runs(self, workflow: str | None = None) -> dict[str, int]:
        counts: dict[str, int] = {}
        with self._lock:
            for run in self._runs.values():
                if run.workflow == workflow if workflow is not None else not is_job(run):
                    counts[run.status] = counts.get(run.status, 0) + 1
        return counts

    async def count_jobs(self) -> dict[str, int]:
        with self._lock:
            return {name.removeprefix(JOBS): len(jobs) for name, jobs in self._jobs.items() if jobs}

    async def examine(self) -> Examination:
        with self._lock:
            return Examination(
                self.clock.now_us(),
                dict(self._sessions),
                frozenset(run_id for queue in self._queues.values() for run_id in queue),
                frozenset(job[3:] for queue in self._jobs.values() for job in queue),
                frozenset(
                    (timer.run_id, timer.key, timer.kind)
                    for armed in self._armed.values()
                    for timer in armed
                ),
            )

    async def holdings(self, session: str) -> Holdings:
        with self._lock:
            return Holdings(
                frozenset(self._owned.get(session, ())), frozenset(self._held.get(session, ()))
            )

    def _claim(self, queue: str, count: int) -> Iterable[LoadedRun]:
        waiting = self._queues[queue]
        while count > 0 and waiting:
            run = self._runs.get(waiting.popleft())
            if run is None or not run.queued:
                continue
            run.queued = False
            if run.status != "running":
                continue
            run.owner = self.session
            self._own(run)
            loaded = self._load(run.run_id)
            assert loaded is not None
            yield loaded
            count -= 1

    def _claim_jobs(self, queue: str, count: int, jobs: list[Job]) -> bool:
        """Claim up to *count* jobs of a queue; whether it holds more that may be claimed."""
        waiting = self._jobs.get(queue)
        if not waiting:
            return False
        name = queue.removeprefix(JOBS)
        limits = self._limits.get(name, NO_LIMITS)
        window = self._windows.get(name, NO_WINDOW).at(self.now_us, limits.per_us)
        held: dict[str, int] = {}
        if limits != NO_LIMITS:
            for run_id, key in (place for places in self._held.values() for place in places):
                lane = self._steps_of(run_id)[key].queue
                if lane is not None and place_of(lane).queue == name:
                    held[lane] = held.get(lane, 0) + 1
        room = Room(limits, held, window.begun)
        aside: list[tuple[int, int, str, str, str, int]] = []
        begun = 0
        while begun < count and waiting and (room.left is None or room.left > 0):
            entry = heapq.heappop(waiting)
            group = place_of(entry[2]).group
            if not room.takes(group):
                aside.append(entry)
                continue
            job = grant(self, *entry[2:])
            if job is not None:
                jobs.append(job)
                room.take(group)
                begun += 1
        may_go_on = bool(waiting) and (room.left is None or room.left > 0)
        for entry in aside:
            heapq.heappush(waiting, entry)
        if limits.rate is not None and begun:
            window = self._windows[name] = window._replace(begun=window.begun + begun)
        if waiting and not may_go_on:
            again = again_at(limits, window, self.now_us, room.left)
            self._again_us = sooner(self._again_us, again)
        return may_go_on

    def _load(self, run_id: str) -> LoadedRun | None:
        run = self._runs.get(run_id)
        if run is None:
            return None
        ended = self._ended.get(run_id)
        if ended is not None:
            return LoadedRun(copy_run(run), tuple(StepRecord(*values) for values in ended))
        steps = self._steps[run_id].values()
        return LoadedRun(copy_run(run), tuple(copy_step(step) for step in steps))

    def _next_due(self) -> int | None:
        timers = self._timers
        while timers and timers[0] not in self._armed.get(timers[0].run_id, ()):
            heapq.heappop(timers)
        return timers[0].due_us if timers else None

    # --- the workspace of a transition ----------------------------------------------------------

    def session_exists(self) -> bool:
        return self.session in self._sessions

    def run(self, run_id: str) -> RunRecord | None:
        return self._runs.get(run_id)

    def whole_run(self, run_id: str) -> RunRecord | None:
        return self._runs.get(run_id)

    def add_run(self, run: RunRecord) -> None:
        self._runs[run.run_id] = run
        self._steps[run.run_id] = {}
        if run.owner is not None:
            self._own(run)

    def save_run(self, run: RunRecord) -> None:
        before = self._owners.get(run.run_id)
        if run.owner is not None:
            if run.owner != before:
                self._disown(run.run_id)
                self._own(run)
        else:
            self._disown(run.run_id)
            steps = self._steps.pop(run.run_id, None) if run.finished_us is not None else None
            if steps is not None:
                self._ended[run.run_id] = tuple(step_values(step) for step in steps.values())

    def _own(self, run: RunRecord) -> None:
        assert run.owner is not None
        self._owners[run.run_id] = run.owner
        self._owned[run.owner][run.run_id] = None

    def _disown(self, run_id: str) -> None:
        before = self._owners.pop(run_id, "")
        self._owned.get(before, {}).pop(run_id, None)

    def put_run(self, run: RunRecord) -> None:
        self._disown(run.run_id)
        self._runs[run.run_id] = run
        self._steps.setdefault(run.run_id, {})

    def drop_run(self, run_id: str) -> None:
        self._disown(run_id)
        for kept in (self._runs, self._history, self._signals, self._watchers):
            kept.pop(run_id, None)
        self.drop_steps(run_id)
        self.drop_timers(run_id)

    def step(self, run_id: str, key: str) -> StepRecord | None:
        return self._steps_of(run_id).get(key)

    def save_step(self, run_id: str, step: StepRecord) -> None:
        self._steps_of(run_id)[step.key] = step
        if step.queue is not None or step.job is not None:
            self._hold(run_id, step)

    def save_input(self, run_id: str, step: StepRecord) -> None:
        self.save_step(run_id, step)

    def _hold(self, run_id: str, step: StepRecord) -> None:
        place = (run_id, step.key)
        for session, held in self._held.items():
            if session != step.worker or step.status in ENDED_STEP:
                held.pop(place, None)
        if step.worker is not None and step.status not in ENDED_STEP:
            self._held.setdefault(step.worker, {})[place] = None

    def open_steps(self, run_id: str) -> Iterable[StepRecord]:
        steps = self._steps_of(run_id).values()
        return [step for step in steps if step.status not in ENDED_STEP]

    def steps(self, run_id: str) -> Iterable[StepRecord]:
        return list(self._steps_of(run_id).values())

    def drop_steps(self, run_id: str) -> None:
        self._steps.pop(run_id, None)
        self._ended.pop(run_id, None)
        for held in self._held.values():
            for place in [place for place in held if place[0] == run_id]:
                del held[place]

    def knows_signal(self, run_id: str, signal_id: str) -> bool:
        return signal_id in self._signals.get(run_id, ())

    def add_signal(self, run_id: str, signal: SignalRecord) -> None:
        self._signals.setdefault(run_id, {})[signal.signal_id] = signal

    def take_signal(self, run_id: str, name: str, key: str) -> str | None:
        for signal_id, signal in self._signals.get(run_id, {}).items():
            if signal.name == name and signal.step is None:
                self._signals[run_id][signal_id] = signal._replace(step=key)
                return signal.payload
        return None

    def give_signal_back(self, run_id: str, key: str) -> None:
        for signal_id, signal in self._signals.get(run_id, {}).items():
            if signal.step == key:
                self._signals[run_id][signal_id] = signal._replace(step=None)

    def _steps_of(self, run_id: str) -> dict[str, StepRecord]:
        steps = self._steps.get(run_id)
        if steps is None:
            made = [StepRecord(*values) for values in self._ended.pop(run_id, ())]
            steps = self._steps[run_id] = {step.key: step for step in made}
        return steps

    def append_history(self, run_id: str, entry: HistoryEntry) -> None:
        self._history.setdefault(run_id, []).append(entry)

    def add_timer(self, timer: Timer) -> None:
        heapq.heappush(self._timers, timer)
        self._armed.setdefault(timer.run_id, set()).add(timer)

    def drop_timers(self, run_id: str) -> None:
        self._armed.pop(run_id, None)

    def take_due_timers(self, limit: int) -> Iterable[Timer]:
        while limit > 0:
            due = self._next_due()
            if due is None or due > self.now_us:
                return
            timer = heapq.heappop(self._timers)
            self._armed[timer.run_id].discard(timer)
            yield timer
            limit -= 1

    def enqueue(self, queue: str, run_id: str) -> None:
        self._queues.setdefault(queue, deque()).append(run_id)

    def push_job(self, queue: str, run_id: str, key: str, attempt: int) -> None:
        place = place_of(queue)
        self._pushed += 1
        entry = (-place.priority, self._pushed, queue, run_id, key, attempt)
        heapq.heappush(self._jobs.setdefault(JOBS + place.queue, []), entry)

    def add_watcher(self, run_id: str) -> None:
        self._watchers.setdefault(run_id, {})[self.session] = None

    def take_watchers(self, run_id: str) -> Iterable[str]:
        return self._watchers.pop(run_id, ())

    def session_alive(self, session: str) -> bool:
        return self._sessions.get(session, 0) >= self.now_us

    def jobs_of(self, session: str, limit: int) -> Iterable[tuple[str, StepRecord]]:
        held = list(self._held.get(session, ()))[:limit]
        return [(run_id, self._steps_of(run_id)[key]) for run_id, key in held]

    def post(self, session: str, delivery: Delivery) -> None:
        self._inboxes.setdefault(session, []).append(delivery)

    def has_mail(self, run_id: str) -> bool:
        return any(each.run_id == run_id for each in self._inboxes.get(self.session, ()))

    def expired_sessions(self) -> Iterable[str]:
        return [session for session, until in self._sessions.items() if until < self.now_us]

    def runs_of(self, session: str, limit: int) -> Iterable[RunRecord]:
        owned = self._owned.get(session, {})
        taken = list(owned)[:limit]
        for run_id in taken:
            del owned[run_id]
        runs = [self._runs[run_id] for run_id in taken]
        return [run for run in runs if run.owner == session]

    def drop_session(self, session: str) -> None:
        self._sessions.pop(session, None)
        self._inboxes.pop(session, None)
        self._held.pop(session, None)
        self._holds.pop(session, None)

    def advertise(self, holds: Iterable[str]) -> None:
        self._holds[self.session] = frozenset(holds)

    def holders(self, name: str) -> Iterable[str]:
        return [session for session, holds in self._holds.items() if name in holds]
