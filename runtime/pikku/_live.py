"""One run in this process's memory: its function under replay, its attempts, its next commit.

The order of things is always: what the store has recorded is delivered first, in its order; then
what ended here is delivered, and committed in one transition together with what the function asks
for next; only when that is recorded do the bodies of the asked-for steps begin.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pikku._bodies import End, Plan, trimmed_traceback
from pikku._clock import Alarm
from pikku._contexts import to_nobody
from pikku._error_info import ErrorInfo, cancellation, failure
from pikku._functions import WiredWorkflow
from pikku._ids import child_run_id
from pikku._jobs import pack_job
from pikku._payloads import check_size
from pikku._records import (
    ENDED_STEP,
    FINAL_STATUSES,
    GIVEN_UP,
    WAITS,
    CancelKind,
    Commit,
    CompleteStep,
    CreateRun,
    Delivery,
    HistoryEntry,
    LoadedRun,
    OpResult,
    ReleaseRun,
    RequeueRun,
    Settle,
    StepRecord,
    StepStatus,
    StepWrite,
    SuspendReason,
    is_forsaken,
)
from pikku._replay import NOT_DECODED, Ask, Divergence, Outcome, Replay
from pikku._telemetry import UNWATCHED, Scope
from pikku.errors import (
    CorruptStateError,
    InternalError,
    InvalidInputError,
    NonDeterminismError,
    PayloadError,
    PikkuError,
    RunTimeoutError,
    SealError,
    UnknownFunctionError,
    UnknownWorkflowError,
)
from pikku.stores.base import DEFAULT_QUEUE

if TYPE_CHECKING:
    from pikku._engine import Engine

log = logging.getLogger("pikku")

# A function whose process died while it cleaned up has at least this long to go on with it, once.
AFTER_A_RESTART_US = 10_000_000
HANDLER_SUFFIX = " (on_error)"
NOT_GRANTED = ErrorInfo("CancelledError", "the run was cancelled before the step had begun")
GOES_ON = ErrorInfo("CancelledError", "a run that unwinds is not suspended")


class Flight:
    """One attempt of a step, from its decision to the record of its outcome."""

    __slots__ = ("ask", "attempt", "called_off", "failures", "known", "lost", "report", "requested")

    def __init__(self, ask: Ask, attempt: int, failures: int, lost: int) -> None:
        self.ask = ask
        self.attempt = attempt
        self.failures = failures
        self.lost = lost
        self.requested = False  # asked to stop, by a timeout or a cancel
        self.called_off = False  # the run was cancelled: no further attempt
        self.report: Callable[[float, str], None] = to_nobody
        self.known: tuple[int, int] | None = None

    def write(
        self,
        status: StepStatus,
        *,
        result: str | None = None,
        error: str | None = None,
        wait_us: int | None = None,
        until_us: int | None = None,
        deliver: bool = False,
        queue: str | None = None,
        job: str | None = None,
        handled: bool = False,
    ) -> StepWrite:
        """The record of this attempt in *status*."""
        ask = self.ask
        return StepWrite(
            ask.key,
            ask.position,
            ask.kind,
            ask.target,
            status,
            self.attempt,
            self.failures,
            self.lost,
            ask.digest,
            ask.input,
            result,
            error,
            wait_us,
            until_us,
            deliver,
            queue,
            job,
            handled,
            None,
            ask.after,
        )

    def next(self, *, failed: bool) -> Flight:
        """The attempt after this one, which failed or was handed back."""
        return Flight(self.ask, self.attempt + 1, self.failures + failed, self.lost)


class LiveRun:
    """A run that this process owns and executes."""

    def __init__(self, engine: Engine, loaded: LoadedRun, wired: WiredWorkflow) -> None:
        self.run_id = loaded.run.run_id
        self.wired = wired
        self.started: asyncio.Future[OpResult | None] | None = None
        self.gone = False
        self.scope: Scope = UNWATCHED
        self._starts: list[Scope] = []
        self._engine = engine
        self._busy = False
        self._settling: Settle | None = None
        self._leaving: Commit | None = None
        self._left = ""
        self._bug: Exception | None = None
        self._cancel: tuple[CancelKind, str] | None = None
        self._cleanup: Alarm | None = None
        self._flights: dict[str, Flight] = {}
        self._arrived: deque[tuple[Flight, End]] = deque()
        self._external: dict[int, Outcome | None] = {}
        self._retries: set[str] = set()
        self._to_handle: list[Delivery] = []
        self._load(loaded)

    def _load(self, loaded: LoadedRun) -> None:
        """Take over the recorded state; attempts under way stay."""
        run = loaded.run
        self._run = run
        self._turn = self._first_turn = run.turn
        self._replay = Replay(self.run_id, loaded.steps, run.deliveries)
        self._cancelled = False
        self._cleaning = _clean_up_of(loaded)
        self._releasing = False
        self._delivered_here = 0
        self._held: list[tuple[Flight, End]] = []
        self._ends: list[StepWrite] = []
        self._entries: list[HistoryEntry] = []
        self._writes: list[StepWrite] = []
        self._children: list[CreateRun] = []
        self._detached: list[CreateRun] = []
        self._calls_off: list[str] = []
        self._suspending: list[Ask] = []
        self._starting: list[Flight] = []
        self._waiting: dict[str, Flight] = {}
        self._failed: dict[str, Flight] = {}
        self._away: dict[str, Flight] = {}
        if run.cancel_us is not None:
            self._cancel = (run.cancel_kind or "cancel", run.cancel_reason or "")

    # --- life -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Call the function and go as far as it goes."""
        self._move(replayed=self._run.turn > 0)
        try:
            self._begin()
        except Exception as error:
            self._broken(error)

    def _move(self, *, replayed: bool) -> None:
        """The run goes on: what happens until it rests is one scope."""
        observer = self._engine.observer
        if observer.active and self.scope is UNWATCHED:
            self.scope = observer.moving(self._run, replayed=replayed)

    def rest(self, error: ErrorInfo | None = None, outcome: str = "") -> None:
        """The run has nothing to do here before a timer or a word, or is not here any more."""
        scope, self.scope = self.scope, UNWATCHED
        scope.end(error, outcome)

    @property
    def created_us(self) -> int:
        """When the run was created."""
        return self._run.created_us

    def _begin(self) -> None:
        workflow = self.wired.workflow
        context = self._engine.workflow_context(self._run, self._replay)
        try:
            declaration = workflow.declaration
            data = declaration.input.decode(self._run.input, f"input of {self.wired.name!r}")
        except PikkuError as error:
            if self._was_given_by_another() and not isinstance(error, SealError):
                self._fail_unbegun(error)
            else:
                self._suspend("nondeterminism", error)
            return
        function = functools.partial(workflow.func, context)
        if declaration.takes_input:
            function = functools.partial(workflow.func, context, data)
        self._replay.start(function)
        self.advance()

    def _was_given_by_another(self) -> bool:
        """Whether the run has its input from a run of another code base, and has not begun."""
        run = self._run
        as_here = run.version in ("", self._engine.version_of(self.wired.name))
        return run.depth > 0 and not run.turn and as_here

    def _fail_unbegun(self, error: PikkuError) -> None:
        refused = InvalidInputError(
            f"workflow {self.wired.name!r}",
            [("input", f"{error.message}; the run that starts it declares another type for it")],
        )
        self._commit(Settle("failed", error=ErrorInfo.of(refused).to_json()))

    def receive(self, delivery: Delivery) -> None:
        """A word from the store about something that others recorded."""
        self._move(replayed=False)
        try:
            self._take_in(delivery)
        except Exception as error:
            self._broken(error)
        else:
            self._stay()
            self.advance()

    def _stay(self) -> None:
        """A word has come: do not park, unless that was sent already. Then the store has seen the
        word, or whoever takes the run up next does."""
        settle = self._settling
        if settle is None or settle.status != "running" or self._leaving is None:
            return
        if self._engine.withdraw(self._leaving):
            self._settling = self._leaving = None
            self._busy = False

    def _take_in(self, delivery: Delivery) -> None:
        if delivery.what == "retry":
            self._retries.add(delivery.key)
        elif delivery.what == "handle":
            self._to_handle.append(delivery)
        elif delivery.what == "cancel":
            kind: CancelKind = "timeout" if delivery.key == "timeout" else "cancel"
            self._cancel = (kind, delivery.error or "")
            self.scope.note("pikku.cancel", kind=kind)
            self._external[delivery.number] = None
        else:
            error = ErrorInfo.from_json(delivery.error) if delivery.error else None
            self.scope.note("pikku.outcome", step=delivery.key, status=delivery.status or "")
            self._external[delivery.number] = Outcome(
                delivery.key,
                delivery.status == "failed",
                delivery.result,
                NOT_DECODED,
                error,
                delivery.attempt,
            )

    @property
    def _fields(self) -> dict[str, str]:
        """What a log record says of the run."""
        return {"run_id": self.run_id, "workflow": self.wired.name}

    def park(self) -> None:
        """Leave memory, unless something has come in meanwhile."""
        if not self._busy and not self.gone:
            self._commit(Settle("running"))

    def hand_back(self) -> None:
        """Give the run up with its attempts unfinished; they count as nothing."""
        if self._busy or self.gone:
            return
        for flight in self._flights.values():
            self._stop(flight)
            following = flight.next(failed=False)
            self._entries.append(HistoryEntry("handed_back", flight.ask.key, flight.attempt, None))
            self._ends.append(following.write("scheduled"))
        self._releasing = True
        self._commit(None)

    def drop(self) -> None:
        """Forget the run without a word to the store."""
        if self.gone:
            return
        self.gone = True
        if self._cleanup is not None:
            self._cleanup.cancel()
        if self._leaving is not None:
            # Whoever has the run next may be this process: the store must not take one for the
            # other's turn.
            self._engine.retract(self._leaving)
        self._replay.discard()
        for flight in self._flights.values():
            self._stop(flight, hard=True)
        self._engine.forget(self)

    def _stop(self, flight: Flight, *, hard: bool = False) -> None:
        """Nobody waits for the attempt any more; *hard*: nor for its outcome to be recorded."""
        flight.requested = True
        self._engine.placed.discard(flight)
        self._engine.bodies.called_off(flight, hard=hard)

    def abandon(self) -> None:
        """Be gone as with a dying process."""
        self.gone = True
        if self._cleanup is not None:
            self._cleanup.cancel()
        self._replay.discard()

    def strays_from(self, loaded: LoadedRun) -> bool:
        """Whether the run, which waits, waits for something else than what is *loaded* says."""
        run = loaded.run
        return (run.turn, run.deliveries) != self.stands or any(
            is_forsaken(step, run) for step in loaded.steps
        )

    @property
    def stands(self) -> tuple[int, int]:
        """The last turn that was recorded here, and how many outcomes the function was given."""
        return self._turn, self._replay.delivered

    @property
    def unwinding(self) -> bool:
        """Whether the function cleans up after a cancel, against a deadline kept in memory."""
        return self._cancelled

    @property
    def moving(self) -> bool:
        """Whether something of the run is under way in this process."""
        return bool(self._busy or self._flights)

    # --- one turn -------------------------------------------------------------------------------

    def advance(self) -> None:
        """Deliver what there is, in order, and commit what follows from it."""
        if self._busy or self.gone:
            return
        try:
            self._take_turn()
        except Exception as error:
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        """A bug of ours, or a value that cannot be opened: the run stands still, with all that is
        recorded, until it is resumed."""
        if isinstance(error, SealError):
            log.error("run %s of %r: %s", self.run_id, self.wired.name, error, extra=self._fields)
        else:
            log.critical(
                "run %s is suspended by a bug in pikku",
                self.run_id,
                exc_info=error,
                extra=self._fields,
            )
        if self._busy:
            self._bug = error
            return
        self._ends, self._entries, self._held, self._detached = [], [], [], []
        self._replay.delivered -= self._delivered_here
        self._delivered_here = 0
        if isinstance(error, SealError):
            self._suspend("unreadable", error)
            return
        bug = error if isinstance(error, InternalError) else InternalError(repr(error))
        info = ErrorInfo.of(bug, traceback=trimmed_traceback(error))
        self._commit(
            Settle(
                "suspended",
                error=info.to_json(),
                reason="internal_error",
                unwinding=self._cancel is not None,
            )
        )

    def _take_turn(self) -> None:
        replay = self._replay
        main = replay.main
        if main is None:
            return
        done = main.done
        while not replay.stopped:
            if not done():
                # Once an outcome of this process has been delivered, the next number is its own;
                # should others have recorded one under it, the store answers with `conflict`.
                if not self._delivered_here and self._deliver_recorded():
                    continue
                if replay.given_up:
                    self._give_up()
                if not self._suspending:
                    if replay.new_patches:
                        self._record_patches()
                    if replay.new_asks:
                        for ask in replay.take_asks():
                            self._classify(ask)
                    if self._retries:
                        self._start_retries()
                    if self._to_handle:
                        self._start_handlers()
            if not self._arrived:
                break
            flight, end = self._arrived.popleft()
            self._deliver_arrived(flight, end, done())
        if replay.stopped or done():
            self._finish(main)
        elif self._suspending and not (self._writes or self._under_way()):
            self._suspend_as_asked()
        elif self._engine.draining:
            self._drain()
        elif (
            self._ends
            or self._writes
            or self._entries
            or self._calls_off
            or replay.cancel_asked is not None
        ):
            self._commit(None)
        elif not self._flights:
            self._engine.idle(self)

    def _deliver_recorded(self) -> bool:
        """Hand the function the next outcome that is recorded, if there is one."""
        replay = self._replay
        number = replay.delivered + 1
        if number > replay.recorded_deliveries and not self._external:
            return False
        if number == self._run.cancel_delivery or self._external.get(number, "") is None:
            self._external.pop(number, None)
            self._begin_cancel()
            return True
        outcome = replay.recorded_outcome(number) or self._external.pop(number, None)
        if outcome is not None:
            self._away.pop(outcome.key, None)
            replay.deliver(outcome)
            return True
        if number <= replay.recorded_deliveries:
            replay.stop(
                CorruptStateError(
                    f"run {self.run_id}: the record of its outcome number {number} is missing"
                )
            )
            return True
        return False

    def _begin_cancel(self) -> None:
        replay = self._replay
        if (forgotten := replay.never_asked(before=replay.delivered + 1)) is not None:
            replay.diverge(forgotten)
            return
        self._cancelled = True
        self._waiting.clear()
        self._suspending.clear()
        self._start_nothing()
        for ask in self._replay.take_asks():  # asked for before the cancel: not granted
            record = ask.record
            if (flight := self._flights.get(ask.key)) is not None:
                flight.ask = ask
            elif record is not None and (record.queue is not None or record.kind == "child"):
                self._away[ask.key] = Flight(ask, record.attempt, record.failures, record.lost)
        for flight in self._flights.values():
            flight.called_off = True
            self._stop(flight)
        self._call_off_at(self._clean_up_ends_us())
        self._replay.deliver_cancel()
        self._replay.given_up.clear()  # the store has ended what the run waited for
        self._refuse_ungranted()

    def _refuse_ungranted(self) -> None:
        """Whoever shields a step from the cancellation learns what becomes of it: an attempt under
        way ends, anything else is not granted."""
        new = {ask.key for ask in self._replay.new_asks}
        in_doubt: set[str] = set()
        for ask in self._replay.asks_under_way:
            if ask.key in new or ask.key in self._flights:
                continue
            if ask.key in self._away:
                in_doubt.add(ask.key)
            elif not self._will_come(ask):
                self._replay.refuse(ask, NOT_GRANTED)
        if in_doubt:
            self._engine.look_up(self, in_doubt)

    def _will_come(self, ask: Ask) -> bool:
        record = ask.record
        if record is not None and record.delivery is not None:
            return True
        waiting = self._external.values()
        return any(outcome is not None and outcome.key == ask.key for outcome in waiting)

    def looked_up(self, keys: set[str], loaded: LoadedRun) -> None:
        """The store's word on steps that were executed elsewhere when the cancel came."""
        if self.gone:
            return
        for step in loaded.steps:
            if step.key not in keys or step.status != "scheduled" or step.kind == "child":
                continue
            flight = self._away.pop(step.key, None)
            if flight is not None:
                self._replay.refuse(flight.ask, NOT_GRANTED)
        self.advance()

    def _clean_up_ends_us(self) -> int:
        """When the function has to be done with its cleaning: counted from its first step for it,
        whoever executed that. Who takes it up late has a short while, once."""
        now = self._engine.clock.now_us()
        due = min(self._cleaning, default=now) + self._engine.options.cleanup_timeout_us
        late = min((each for each in self._cleaning if each > due), default=now)
        return max(due, late + AFTER_A_RESTART_US)

    def _call_off_at(self, due_us: int) -> None:
        engine = self._engine
        self._cleanup = engine.clock.call_at(
            engine.loop, due_us, functools.partial(self._call_off, due_us)
        )

    def _call_off(self, due_us: int) -> None:
        """The time for cleaning up is over."""
        now = self._engine.clock.now_us()
        if self.gone or self._settling is not None:
            return
        if self._busy or now < due_us:
            self._call_off_at(max(due_us, now + 10_000))
            return
        self._commit(self._cancelled_settle())

    def _classify(self, ask: Ask) -> None:
        """Decide what a step that the function waits for needs: a start, a timer, or nothing."""
        record = ask.record
        if (
            record is not None
            and record.input is not None
            and record.input != ask.input
            and ask.kind in ("rpc", "child")
        ):  # what it was asked with before, or what a fork has replaced it with, stands
            ask = ask._replace(input=record.input, plan=ask.plan._replace(data=record.input))
        if (flight := self._flights.get(ask.key)) is not None:
            flight.ask = ask
        elif record is None:
            if ask.kind == "side_effect":
                flight = Flight(ask, 1, 0, 0)
                now = self._engine.clock.now_us()
                flight.known = (now, now)
                self._flights[ask.key] = flight
                self._arrived.append((flight, ask.plan()))
            elif ask.kind in WAITS:
                if not ask.future.cancelled():
                    wait_us, until_us, job = ask.plan
                    self._writes.append(
                        Flight(ask, 1, 0, 0).write(
                            "scheduled", wait_us=wait_us, until_us=until_us, job=job
                        )
                    )
            elif ask.kind == "suspend":
                self._ask_to_stand_still(ask)
            else:
                self._start(Flight(ask, 1, 0, 0))
        elif ask.kind in WAITS or record.error == GIVEN_UP:
            return
        elif ask.kind == "suspend":
            self._ask_to_stand_still(ask)
        elif ask.kind == "child":
            self._classify_child(ask, record)
        elif record.queue is not None and record.status not in ENDED_STEP:
            self._away[ask.key] = Flight(ask, record.attempt, record.failures, record.lost)
        elif ask.kind == "on_error" and record.status in ENDED_STEP:
            flight = Flight(ask, record.attempt, record.failures, record.lost)
            self._handled(flight, record.status == "failed", record.result, record.error)
        elif record.status == "running":
            self._after_loss(ask)
        elif record.status == "failed":
            self._failed[ask.key] = Flight(ask, record.attempt, record.failures, record.lost)
            error = ErrorInfo.from_json(record.error or "{}")
            self._ask_handler(ask, error, record.attempt)
        else:
            flight = Flight(ask, record.attempt, record.failures, record.lost)
            if record.due_us is None or record.due_us <= self._engine.clock.now_us():
                self._start(flight)
            else:
                self._waiting[ask.key] = flight

    def _classify_child(self, ask: Ask, record: StepRecord) -> None:
        flight = Flight(ask, record.attempt, record.failures, record.lost)
        if record.status == "failed":
            self._child_failed(flight, record.error)
        elif record.job is not None:
            self._away[ask.key] = flight
        else:
            self._start_child(flight)

    def _child_failed(self, flight: Flight, error: str | None) -> None:
        """A child whose step may have another attempt, or a handler, has failed: its own failure
        is recorded and counted, what follows is decided here."""
        plan: Plan = flight.ask.plan
        info = ErrorInfo.from_json(error or "{}")
        if plan.policy.allows_another(flight.failures) and not self._cancelled:
            self._entries.append(
                HistoryEntry("attempt_failed", flight.ask.key, flight.attempt, error)
            )
            following = Flight(flight.ask, flight.attempt + 1, flight.failures, flight.lost)
            self._start_child(following, plan.policy.delay_us(flight.failures))
            return
        self._failed[flight.ask.key] = flight
        if plan.on_error is not None:
            self._ask_handler(flight.ask, info, flight.attempt)
        else:
            self._flights[flight.ask.key] = flight
            self._arrived.append((flight, End(True, error=info, final=True)))

    def _give_up(self) -> None:
        """The function waits no longer for what it asked for: neither does the store."""
        given_up, self._replay.given_up = self._replay.given_up, []
        for ask in given_up:
            record = ask.record
            if self._cancelled or (record is not None and record.error == GIVEN_UP):
                continue
            if record is not None and record.status in ENDED_STEP and ask.kind != "signal":
                continue
            self._away.pop(ask.key, None)
            self._waiting.pop(ask.key, None)
            self._calls_off.append(ask.key)

    def _record_patches(self) -> None:
        patches, self._replay.new_patches = self._replay.new_patches, []
        for key, position, after in patches:
            self._writes.append(
                StepWrite(
                    key,
                    position,
                    "patch",
                    "",
                    "succeeded",
                    1,
                    0,
                    0,
                    "",
                    None,
                    "true",
                    None,
                    None,
                    None,
                    False,
                    after=after,
                )
            )

    def _ask_to_stand_still(self, ask: Ask) -> None:
        if not self._cancelled:
            self._suspending.append(ask)
            return
        # Nobody resumes a run that unwinds, and what a resume should allow is not done without.
        flight = self._flights[ask.key] = Flight(ask, 1, 0, 0)
        self._arrived.append((flight, End(True, error=GOES_ON, final=True)))

    def _suspend_as_asked(self) -> None:
        """Stand still where the function asked for it last; the others ask again after that."""
        wanted = [ask for ask in self._suspending if not ask.future.cancelled()]
        if not wanted:
            self._suspending.clear()
            self._engine.loop.call_soon(self.advance)
            return
        ask = wanted[-1]
        if ask.record is None:
            self._ends.append(Flight(ask, 1, 0, 0).write("scheduled"))
        error = ErrorInfo("Suspended", ask.name)
        self._commit(Settle("suspended", error=error.to_json(), reason="requested"))

    def _child_run(self, flight: Flight, delay_us: int = 0) -> CreateRun:
        """The run that an attempt of a child step starts."""
        ask, run = flight.ask, self._run
        plan: Plan = ask.plan
        child = plan.child
        assert child is not None
        limits = [us for us in (child.timeout_us, plan.policy.timeout_us) if us is not None]
        return CreateRun(
            child_run_id(self.run_id, ask.key, flight.attempt),
            child.workflow,
            plan.data or "null",
            child.version,
            run.inline,
            False,
            child.tags,
            run.started_by,
            min(limits, default=None),
            parent=None if child.detached else self.run_id,
            parent_step=None if child.detached else ask.key,
            depth=run.depth + 1,
            delay_us=delay_us or None,
        )

    def _start_child(self, flight: Flight, delay_us: int = 0) -> None:
        ask = flight.ask
        plan: Plan = ask.plan
        created = self._child_run(flight, delay_us)
        if plan.child is not None and plan.child.detached:
            self._flights[ask.key] = flight
            text = json.dumps(created.run_id)
            self._arrived.append((flight, End(False, text, created.run_id)))
            return
        self._away[ask.key] = flight
        self._children.append(created)
        self._engine.intake.look_everywhere()
        if not delay_us:
            self._engine.begot(self, created.run_id)
        handled = plan.on_error is not None or plan.policy.retries > 0
        self._writes.append(flight.write("scheduled", job=created.run_id, handled=handled))

    def _start_retries(self) -> None:
        for key in self._retries:
            if (flight := self._waiting.pop(key, None)) is not None:
                self._start(flight)
        self._retries.clear()

    def _start_handlers(self) -> None:
        waiting, self._to_handle = self._to_handle, []
        for word in waiting:
            flight = self._away.pop(word.key, None)
            if flight is None:
                continue
            flight.attempt = word.attempt
            if flight.ask.kind == "child":
                flight.failures += 1
                self._child_failed(flight, word.error)
            elif flight.ask.kind == "on_error":
                self._handled(flight, word.status == "failed", word.result, word.error)
            else:
                self._failed[word.key] = flight
                error = ErrorInfo.from_json(word.error or "{}")
                self._ask_handler(flight.ask, error, word.attempt)

    def _handled(self, flight: Flight, failed: bool, text: str | None, error: str | None) -> None:
        """A handler has ended, and its record says so: what it handled is delivered next."""
        self._flights[flight.ask.key] = flight
        info = ErrorInfo.from_json(error) if error else None
        self._arrived.append((flight, End(failed, text, None, info, final=True)))

    def _start(self, flight: Flight) -> None:
        ask = flight.ask
        if ask.kind == "child":
            self._start_child(flight)
            return
        if not self._run.inline and not self._engine.place(flight):
            plan: Plan = ask.plan
            self._away[ask.key] = flight
            self._engine.intake.fills(plan.queue or DEFAULT_QUEUE)
            self._writes.append(
                flight.write(
                    "scheduled",
                    queue=plan.queue or DEFAULT_QUEUE,
                    job=pack_job(ask, self.scope.traceparent or self._run.traceparent),
                    handled=plan.on_error is not None,
                )
            )
            return
        self._flights[ask.key] = flight
        self._starting.append(flight)
        known = None
        if ask.record is None and flight.attempt == 1:
            now = self._engine.clock.now_us()
            known = flight.known = (now, now)
        self._writes.append(
            StepWrite(
                ask.key,
                ask.position,
                ask.kind,
                ask.target,
                "running",
                flight.attempt,
                flight.failures,
                flight.lost,
                ask.digest,
                ask.input,
                None,
                None,
                None,
                None,
                False,
                None,
                None,
                False,
                known,
                ask.after,
            )
        )

    def _after_loss(self, ask: Ask) -> None:
        """A recorded attempt of which nobody knows any more."""
        record = ask.record
        assert record is not None
        if record.worker == self._engine.session_id:
            self._start(Flight(ask, record.attempt + 1, record.failures, record.lost))
            return
        lost = record.lost + 1
        self._entries.append(HistoryEntry("attempt_lost", ask.key, record.attempt))
        limit = self._engine.options.max_lost_attempts
        if lost < limit:
            self._start(Flight(ask, record.attempt + 1, record.failures, lost))
            return
        error = self._engine.poisoned
        flight = Flight(ask, record.attempt, record.failures, lost)
        self._flights[ask.key] = flight
        self._arrived.append((flight, End(True, error=error, final=True)))

    def _deliver_arrived(self, flight: Flight, end: End, main_done: bool) -> None:
        """Take an outcome of this process into the next commit, and hand it to the function."""
        self._held.append((flight, end))
        ask = flight.ask
        if ask.kind == "child":
            if not end.failed:
                self._detached.append(self._child_run(flight))
                self._engine.intake.look_everywhere()
            else:
                self._deliver_child_failure(flight, end, main_done)
                return
        if not end.failed:
            deliver = ask.kind != "on_error"
            self._ends.append(
                StepWrite(
                    ask.key,
                    ask.position,
                    ask.kind,
                    ask.target,
                    "succeeded",
                    flight.attempt,
                    flight.failures,
                    flight.lost,
                    ask.digest,
                    ask.input,
                    end.text,
                    None,
                    None,
                    None,
                    deliver,
                    None,
                    None,
                    False,
                    flight.known,
                    ask.after,
                )
            )
            if not deliver:
                self._deliver_handled(ask, main_done)
                return
            if not main_done:
                self._delivered_here += 1
                self._replay.deliver_value(ask, end.value)
            return
        plan: Plan = ask.plan
        error = end.error or ErrorInfo("Exception", "")
        if (
            not end.final
            and plan.policy.allows_another(flight.failures + 1)
            and not flight.called_off
        ):
            self._retry(flight, end, error)
            return
        failed = Flight(ask, flight.attempt, flight.failures + 1, flight.lost)
        text = error.to_json()
        if ask.kind == "on_error":
            self._ends.append(failed.write("failed", error=text))
            self._deliver_handled(ask, main_done)
        elif ask.kind != "suspend" and plan.on_error is not None and not main_done:
            self._ends.append(failed.write("failed", error=text))
            self._failed[ask.key] = failed
            self._ask_handler(ask, error, flight.attempt)
        else:
            self._ends.append(failed.write("failed", error=text, deliver=True))
            self._deliver(Outcome(ask.key, True, None, None, error, flight.attempt), main_done)

    def _deliver_child_failure(self, flight: Flight, end: End, main_done: bool) -> None:
        """The failure of a child, recorded before, is delivered now that nothing else follows."""
        ask = flight.ask
        self._failed.pop(ask.key, None)
        error = end.error or ErrorInfo("Exception", "")
        self._ends.append(flight.write("failed", error=error.to_json(), deliver=True))
        self._deliver(Outcome(ask.key, True, None, None, error, flight.attempt), main_done)

    def _deliver(self, outcome: Outcome, main_done: bool) -> None:
        if not main_done:
            self._delivered_here += 1
            self._replay.deliver(outcome)

    def _retry(self, flight: Flight, end: End, error: ErrorInfo) -> None:
        ask = flight.ask
        self._entries.append(
            HistoryEntry("attempt_failed", ask.key, flight.attempt, error.to_json())
        )
        following = flight.next(failed=True)
        plan: Plan = ask.plan
        self._engine.observer.retrying("inline" if plan.func is None else plan.func.name)
        wait_us = end.after_us
        if wait_us is None:
            wait_us = ask.plan.policy.delay_us(following.failures)
        if wait_us:
            self._ends.append(following.write("scheduled", wait_us=wait_us, error=error.to_json()))
            self._waiting[ask.key] = following
        else:
            self._start(following)

    # --- on_error -------------------------------------------------------------------------------

    def _ask_handler(self, ask: Ask, error: ErrorInfo, attempts: int) -> None:
        """Have the `on_error` handler of a failed step executed before the failure is delivered."""
        key = ask.key + HANDLER_SUFFIX
        try:
            plan = self._engine.handler_plan(self.run_id, ask, error, attempts)
        except UnknownFunctionError as missing:
            self._replay.stop(missing)
            return
        handler = Ask(
            key,
            ask.name,
            ask.position,
            "on_error",
            ask.plan.on_error,
            "",
            error.to_json(),
            plan,
            None,
            ask.future,
            self._replay.recorded(key),
            ask.after,
        )
        self._classify(handler)

    def _deliver_handled(self, handler: Ask, main_done: bool) -> None:
        """The failure that a handler has dealt with reaches the function now."""
        key = handler.key.removesuffix(HANDLER_SUFFIX)
        failed = self._failed.pop(key, None)
        if failed is None:  # replayed meanwhile, and the function did not come to the step again
            return
        error = ErrorInfo.from_json(handler.input or "{}")
        self._ends.append(failed.write("failed", error=handler.input, deliver=True))
        self._deliver(Outcome(key, True, None, None, error, failed.attempt), main_done)

    # --- the end of the function ----------------------------------------------------------------

    def _finish(self, main: asyncio.Task[Any]) -> None:
        replay = self._replay
        self._start_nothing()
        if replay.divergence is not None:
            self._diverged(replay.divergence)
        elif isinstance(replay.failure, (UnknownFunctionError, UnknownWorkflowError)):
            self._go_on_elsewhere("missing_function", replay.failure)
        elif isinstance(replay.failure, (PayloadError, SealError)):
            self._stand_still("nondeterminism", replay.failure)
        elif self._cancelled:
            if main.done() and self._under_way():
                if self._ends:  # an attempt under way may still end, and is recorded
                    self._commit(None)
                return
            self._commit(self._cancelled_settle())
        elif replay.failure is not None:
            info = ErrorInfo.of(replay.failure)
            self._commit(Settle("failed", error=failure(replay.failure, info)))
        elif (forgotten := replay.never_asked()) is not None:
            self._diverged(forgotten)
        else:
            self._commit(self._result(main))

    def _diverged(self, divergence: Divergence) -> None:
        began, here = self._run.version, self._engine.version_of(self.wired.name)
        error = NonDeterminismError(
            f"run {self.run_id} of {self.wired.name!r}: {divergence.message()}"
            + (f"; it began as version {began}, and here is {here}" if began != here else "")
        )
        self._go_on_elsewhere("nondeterminism", error)

    def _go_on_elsewhere(self, reason: SuspendReason, error: PikkuError) -> None:
        """Whoever holds the version under which the run began gets it, if it has only been
        repeated here; else it stands still."""
        began, here = self._run.version, self._engine.version_of(self.wired.name)
        new = self._ends or self._flights or self._turn != self._first_turn
        if began and began != here and not new:
            self._busy = True
            self._engine.hand_over(
                self,
                [f"{self.wired.name}@{began}"],
                functools.partial(self._nobody, reason, error),
            )
            return
        self._stand_still(reason, error)

    def _nobody(self, reason: SuspendReason, error: PikkuError) -> None:
        self._busy = False
        if not self.gone:
            self._stand_still(reason, error)

    def _stand_still(self, reason: SuspendReason, error: PikkuError) -> None:
        if isinstance(error, NonDeterminismError):
            log.error("%s", error, extra=self._fields)
            self._engine.diverged.add(self.run_id)
        else:
            log.error("run %s of %r: %s", self.run_id, self.wired.name, error, extra=self._fields)
        self._suspend(reason, error)

    def _suspend(self, reason: SuspendReason, error: PikkuError) -> None:
        """Stand still until somebody resumes the run, which unwinds then if it was asked to."""
        text = ErrorInfo.of(error).to_json()
        if isinstance(error, SealError):
            reason = "unreadable"
        unwinding = self._cancel is not None
        self._commit(Settle("suspended", error=text, reason=reason, unwinding=unwinding))

    def _cancelled_settle(self) -> Settle:
        kind, reason = self._cancel or ("cancel", "")
        if kind == "timeout":
            error = RunTimeoutError(f"the run took longer than its workflow's timeout ({reason})")
            return Settle("failed", error=ErrorInfo.of(error).to_json())
        text = cancellation(self.run_id, self.wired.name, reason)
        return Settle("cancelled", error=text, reason=reason)

    def _result(self, main: asyncio.Task[Any]) -> Settle:
        if main.cancelled():
            info = ErrorInfo.of(asyncio.CancelledError("the workflow cancelled itself"))
            return Settle("failed", error=info.to_json())
        error = main.exception()
        if error is None:
            try:
                codec = self.wired.workflow.declaration.output
                text, _ = codec.encode(main.result(), f"the result of {self.wired.name!r}")
                limit = self._engine.options.max_payload_bytes
                check_size(text, limit, f"the result of workflow {self.wired.name!r}")
                return Settle("completed", output=text)
            except PikkuError as refused:
                error = refused
        return Settle("failed", error=failure(error, self._engine.error_info(error)))

    def _drain(self) -> None:
        """No new step: record what has ended, and leave once nothing is under way."""
        unasked = bool(self._writes) or self._replay.cancel_asked is not None
        for flight in self._starting:
            if flight.attempt > 1:
                self._ends.append(flight.write("scheduled"))
        self._start_nothing()
        if self._under_way():
            if self._ends:
                self._commit(None)
        elif unasked or self._ends:
            self._releasing = True
            self._commit(None)
        else:
            self._commit(Settle("running"))

    def _start_nothing(self) -> None:
        """Take back what the next commit would have begun."""
        for write in self._writes:
            self._away.pop(write.key, None)
        self._writes = []
        self._children = []
        for flight in self._starting:
            self._engine.placed.discard(flight)
            if self._flights.get(flight.ask.key) is flight:
                del self._flights[flight.ask.key]
        self._starting.clear()

    def _under_way(self) -> bool:
        """Whether an attempt of the run has not ended yet."""
        ended = {flight.ask.key for flight, _ in self._held}
        return bool(self._flights.keys() - ended)

    # --- the commit -----------------------------------------------------------------------------

    def _commit(self, settle: Settle | None) -> None:
        if settle is not None:
            self._start_nothing()
            if settle.status in FINAL_STATUSES and (self._away or self._replay.left_open):
                settle = settle._replace(withdraw=True)
        self._busy = True
        self._settling = settle
        if self._children or self._detached:
            self._trace_children()
        replay = self._replay
        base: int | None = replay.delivered - self._delivered_here
        if settle is not None and settle.status != "running" and not self._delivered_here:
            base = None  # what is recorded beyond that is no business of a function that has ended
        self._leaving = Commit(
            self.run_id,
            self._turn + 1,
            base,
            self._ends,
            self._writes,
            self._entries,
            settle,
            None if settle is not None else replay.cancel_asked,
            [*self._detached, *self._children] if self._detached else self._children,
            self._calls_off,
        )
        self._engine.submit(self._leaving, self._committed)

    def _trace_children(self) -> None:
        """The runs that the next commit creates belong to the trace of this one."""
        observer = self._engine.observer
        self._starts = []
        for children in (self._children, self._detached):
            for place, child in enumerate(children):
                step = child.parent_step or ""
                traceparent = self._run.traceparent
                if observer.active:
                    scope = observer.starting(
                        child.workflow, child.run_id, within=self.scope, step=step
                    )
                    self._starts.append(scope)
                    traceparent = scope.traceparent or traceparent
                if traceparent is not None:
                    children[place] = child._replace(traceparent=traceparent)

    def _tell_children(self) -> None:
        """The children have been created."""
        observer = self._engine.observer
        for scope in self._starts:
            scope.end()
        self._starts = []
        if observer.active:
            for child in (*self._children, *self._detached):
                observer.started(child.workflow)

    def _committed(self, result: OpResult) -> None:
        self._busy = False
        if self.gone:
            return
        settle, self._settling = self._settling, None
        self._leaving = None
        if self._bug is not None and settle is None:
            bug, self._bug = self._bug, None
            self._turn += result.code == "ok"
            self._broken(bug)
            return
        if result.code == "ok":
            self._recorded(settle)
        elif result.code == "conflict":
            self._engine.reload(self)
        elif result.code == "error":
            self._refused(result.error)
        else:
            self._engine.observer.refused()
            log.warning(
                "run %s is executed elsewhere now; dropped here", self.run_id, extra=self._fields
            )
            self.drop()
            self._engine.look_whose(self.run_id)

    def _recorded(self, settle: Settle | None) -> None:
        self._turn += 1
        for flight, _ in self._held:
            if self._flights.get(flight.ask.key) is flight:
                del self._flights[flight.ask.key]
        if self._engine.on_recorded is not None:
            for write in self._ends:
                if write.status in ENDED_STEP and not self.gone:
                    self._engine.on_recorded(write.key, self._replay.name_of(write.key))
            if self.gone:
                return
        self._held = []
        self._ends = []
        self._writes = []
        if self._children or self._detached or self._calls_off:
            self._tell_children()
            self._children, self._detached, self._calls_off = [], [], []
        if self._entries:
            self._entries = []
        self._delivered_here = 0
        if settle is not None:
            self._leave(settle)
            return
        replay = self._replay
        if replay.cancel_asked is not None and self._cancel is None:
            self._cancel = ("cancel", replay.cancel_asked)
            self._external[replay.delivered + 1] = None
        replay.cancel_asked = None
        if self._releasing:
            self._busy = True
            self._engine.submit(ReleaseRun(self.run_id), lambda result: self.drop())
            return
        starting, self._starting = self._starting, []
        self._busy = True  # what ends at once waits for the others, and is committed with them
        try:
            for flight in starting:
                self._engine.execute(self, flight)
        finally:
            self._busy = False
        self.advance()

    def _leave(self, settle: Settle) -> None:
        self.gone = True
        self._left = settle.status
        if self._cleanup is not None:
            self._cleanup.cancel()
        for flight in self._flights.values():
            self._stop(flight, hard=flight.called_off)
        self._replay.discard()
        for flight, end in self._arrived:  # ended while the store answered
            self._complete_late(flight, end)
        self._arrived.clear()
        if settle.status == "running" and (self._to_handle or self._retries):
            self._engine.submit(RequeueRun(self.run_id), lambda result: None)
        self._engine.left(self, settle)

    def _refused(self, error: Exception | None) -> None:
        """The store cannot take this commit, and would not take it a second time."""
        log.error("run %s: its records are refused: %s", self.run_id, error, extra=self._fields)
        # A corrupt run is kept for inspection by the store. An app that is being closed waits for
        # no store: whoever has the run next goes on from what is recorded.
        if isinstance(error, CorruptStateError) or self._engine.draining:
            self.drop()
            return
        if self._run.error == "refused":
            self._engine.release_later(self)
            self.drop()
            return
        self._run.error = "refused"
        self._broken(InternalError(f"the store refused the run's records: {error}"))

    def loading(self) -> None:
        """Stand still until `reloaded`."""
        self._busy = True

    def reloaded(self, loaded: LoadedRun) -> None:
        """Replay over what the store has recorded meanwhile; what ended here comes again."""
        self._busy = False
        self._start_nothing()
        for held, end in reversed(self._held):
            key = held.ask.key
            if held.ask.kind not in ("side_effect", "child", "suspend"):
                self._flights[key] = held
                self._arrived.appendleft((held, end))
            elif self._flights.get(key) is held:
                # Never recorded, and over as soon as the function asks for it: it does so again,
                # and not before it has been told what led to it.
                del self._flights[key]
        self._replay.discard()
        self._external = {
            number: outcome
            for number, outcome in self._external.items()
            if number > loaded.run.deliveries
        }
        if self._cleanup is not None:
            self._cleanup.cancel()
        self._load(loaded)
        self.begin()

    def ended(self, flight: Flight, end: End) -> None:
        """An attempt of this run is over."""
        self._engine.placed.discard(flight)
        if self.gone:
            self._complete_late(flight, end)
        elif self._flights.get(flight.ask.key) is flight:
            self._arrived.append((flight, end))
            if not self._busy:
                self.advance()

    def _complete_late(self, flight: Flight, end: End) -> None:
        """The run ended first; the step's own record still says what became of it."""
        if flight.ask.kind in ("side_effect", "on_error", "child", "suspend"):
            return
        if end.failed and self._left not in FINAL_STATUSES:
            return  # its retries and its handler are decided when the run goes on
        error = end.error.to_json() if end.error else None
        status: Any = "failed" if end.failed else "succeeded"
        self._engine.submit(
            CompleteStep(self.run_id, flight.ask.key, flight.attempt, status, end.text, error),
            lambda result: None,
        )


def _clean_up_of(loaded: LoadedRun) -> list[int]:
    """When the steps were asked for that the run has taken to clean up."""
    cancel = loaded.run.cancel_delivery
    if cancel is None:
        return []
    return [step.created_us for step in loaded.steps if step.after >= cancel]
