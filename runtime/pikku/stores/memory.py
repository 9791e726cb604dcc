"""The store that lives in this process: for tests, examples and runs that may be forgotten."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pikku._clock import Clock, SystemClock
from pikku._records import (
    Delivery,
    HistoryEntry,
    LoadedRun,
    Op,
    Reply,
    RunFilter,
    RunRecord,
    StepRecord,
    copy_run,
    copy_step,
    step_values,
)
from pikku.stores.transitions import Timer, carry_out


class MemoryStore:
    """Keeps every promise of `pikku.stores.base.Store` for as long as the process lives.

    One engine at a time works on an instance; the next one goes on with what the last left behind.
    """

    shared = False

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
        self._timers: list[Timer] = []
        self._armed: dict[str, set[Timer]] = {}
        self._queues: dict[str, deque[str]] = {}
        self._sessions: dict[str, int] = {}
        self._owned: dict[str, set[str]] = {}
        self._inboxes: dict[str, list[Delivery]] = {}

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
            alive = session in self._sessions
            if alive and self._queues:
                for queue, count in want.items():
                    if self._queues.get(queue):
                        claimed += self._claim(queue, count)
            inbox = self._inboxes.pop(session, ()) if self._inboxes else ()
            return Reply(results, claimed, inbox, self._next_due(), alive)

    def beat(self, session: str, lease_us: int) -> bool:
        with self._lock:
            now = self.clock.now_us()
            if session not in self._sessions and session in self._owned:
                return False
            self._sessions[session] = now + lease_us
            self._owned.setdefault(session, set())
            return True

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
            for run in reversed(self._runs.values()):
                if len(found) >= wanted.limit:
                    break
                if (
                    (wanted.workflow is None or run.workflow == wanted.workflow)
                    and (wanted.status is None or run.status == wanted.status)
                    and (wanted.tag is None or wanted.tag in run.tags)
                    and (wanted.before_us is None or run.created_us < wanted.before_us)
                ):
                    found.append(copy_run(run))
        return found

    async def count_runs(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        with self._lock:
            for run in self._runs.values():
                counts[run.status] = counts.get(run.status, 0) + 1
        return counts

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
            self._owned[self.session].add(run.run_id)
            loaded = self._load(run.run_id)
            assert loaded is not None
            yield loaded
            count -= 1

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

    def add_run(self, run: RunRecord) -> None:
        self._runs[run.run_id] = run
        self._steps[run.run_id] = {}
        if run.owner is not None:
            self._owned[run.owner].add(run.run_id)

    def save_run(self, run: RunRecord) -> None:
        if run.owner is None:
            self._owned.get(self.session, set()).discard(run.run_id)
            steps = self._steps.pop(run.run_id, None) if run.finished_us is not None else None
            if steps is not None:
                self._ended[run.run_id] = tuple(step_values(step) for step in steps.values())

    def step(self, run_id: str, key: str) -> StepRecord | None:
        return self._steps_of(run_id).get(key)

    def save_step(self, run_id: str, step: StepRecord) -> None:
        self._steps_of(run_id)[step.key] = step

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

    def post(self, session: str, delivery: Delivery) -> None:
        self._inboxes.setdefault(session, []).append(delivery)

    def has_mail(self, run_id: str) -> bool:
        return any(each.run_id == run_id for each in self._inboxes.get(self.session, ()))

    def expired_sessions(self) -> Iterable[str]:
        return [session for session, until in self._sessions.items() if until < self.now_us]

    def runs_of(self, session: str, limit: int) -> Iterable[RunRecord]:
        owned = self._owned.get(session, set())
        taken = [self._runs[run_id] for run_id in list(owned)[:limit]]
        owned.difference_update(run.run_id for run in taken)
        return taken

    def drop_session(self, session: str) -> None:
        self._sessions.pop(session, None)
        self._inboxes.pop(session, None)
