"""The engine: where replay, step bodies and the store meet, in one process."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pikku._bodies import Attempt, Bodies, End, Plan, trimmed_traceback
from pikku._calls import called, called_in_thread
from pikku._clock import Alarm
from pikku._codec import first_difference
from pikku._committer import Committer
from pikku._error_info import ErrorInfo, cancellation
from pikku._functions import Registry, WiredWorkflow
from pikku._ids import check_run_id, new_run_id
from pikku._intake import Intake
from pikku._jobs import ClaimedJob, Jobs
from pikku._live import Flight, LiveRun
from pikku._loop import GeneratorHooks
from pikku._payloads import check_size, is_sealed
from pikku._progress import ProgressReports
from pikku._records import (
    FINAL_STATUSES,
    JOB_RUNS,
    NOT_ASKED,
    Advertise,
    Commit,
    CreateRun,
    DeleteRun,
    Delivery,
    FireTimers,
    HandRun,
    Holdings,
    LoadedRun,
    Op,
    OpResult,
    ReapSessions,
    ReleaseRun,
    ReleaseStep,
    Reply,
    ResumeRun,
    RunFilter,
    RunRecord,
    Settle,
    SuspendReason,
)
from pikku._replay import Ask, Replay
from pikku._results import Results
from pikku._session import FOREVER_SECONDS, Session
from pikku._settings import EngineOptions, Work
from pikku._telemetry import NOBODY, UNWATCHED, Doing, Observer, Scope
from pikku.errors import (
    CorruptStateError,
    LeaseLostError,
    PikkuError,
    PoisonedStepError,
    RunConflictError,
    RunNotFoundError,
    RunStateError,
    StoreError,
    TransactionError,
    UnknownWorkflowError,
    VersionError,
)
from pikku.stores.base import DEFAULT_QUEUE, Enlists, Store

if TYPE_CHECKING:
    from pikku._processes import ProcessPool

log = logging.getLogger("pikku")

SWEEP_SECONDS = 1.0
DEPLOYS_EVERY = 10  # sweeps
AUDIT_EVERY = 10  # sweeps
AUDIT_AGAIN_SECONDS = 5.0
LOOKED_AT_ONCE = 10
PRUNE_EVERY = 60  # sweeps
PRUNE_AT_ONCE = 200
RELEASE_SECONDS = 5.0


class Contexts(Protocol):
    """Makes the `ctx` objects; the app's side."""

    def function(self, run_id: str, flight: Flight | ClaimedJob, workflow: str) -> Any: ...
    def workflow(self, run: RunRecord, replay: Replay) -> Any: ...


class Engine:
    """Starts, executes, follows and recovers runs in one process on one event loop.

    Args:
        remote: whether the runs that it starts are executed by workers.
        work: what this process takes on as a worker, if it is one.
        retention: for how long runs are kept after their end, in microseconds, by status.
        observer: who is told of what happens here.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        contexts: Contexts,
        options: EngineOptions,
        *,
        remote: bool = False,
        work: Work | None = None,
        retention: Mapping[str, int] | None = None,
        on_quiet: Callable[[int | None], None] | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        self.registry = registry
        self.observer = observer
        self.store = store
        self.clock = store.clock
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.handed_back = 0
        self.diverged: set[str] = set()
        self._retention = retention or {}
        self.on_execute: Callable[[str, str], None] | None = None
        self.on_recorded: Callable[[str, str], None] | None = None
        self.fakes: dict[str, Callable[..., Any]] = {}
        self.make_pool: Callable[[], ProcessPool] | None = None
        self._pool: ProcessPool | None = None
        self._contexts = contexts
        self._on_quiet = on_quiet
        self._live: dict[str, LiveRun] = {}
        self._idle: OrderedDict[str, LiveRun] = OrderedDict()
        # Children begun here for runs whose starters wait, until they come to rest.
        self._parents: dict[str, str] = {}
        # Runs that are this process's and that it has not begun with, until they are loaded; and
        # what it is told of them meanwhile, which what is loaded may be too old for.
        self._coming: dict[str, list[Delivery]] = {}
        self._offspring: dict[str, set[str]] = {}
        # What the store took this process to hold at the last look, and nobody here knew of.
        self._unheard_of = Holdings(frozenset(), frozenset())
        self._looked_at = 0
        self._main: asyncio.Task[None] | None = None
        self._next_due: int | None = None
        self._alarm: Alarm | None = None
        self._sweeps = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._renewing = False
        self._sweeping = False
        self.remote = remote
        self.work = work
        self.placed: set[Flight] = set()
        error = PoisonedStepError(
            f"the step lost its process in {options.max_lost_attempts} attempts"
        )
        self.poisoned = ErrorInfo.of(error)
        self._reap = ReapSessions(
            max_lost=options.max_lost_attempts, poisoned=self.poisoned.to_json()
        )
        self._hooks = GeneratorHooks()
        lease = options.lease_seconds if store.shared else FOREVER_SECONDS
        self._session = Session(
            store,
            self.loop,
            lease_seconds=lease,
            loop_grace_seconds=options.loop_grace_seconds,
            on_lost=self._session_lost,
            on_stuck=None if work is None else work.on_stuck,
        )
        self.bodies = Bodies(
            self.loop,
            self.clock,
            max(options.threads, work.concurrency) if remote and work else options.threads,
            may_begin=lambda: not self._session.expired,
            on_fenced=self._session_lost,
            on_quiet=self._bodies_quiet,
            on_open=self._look_for_more,
            max_payload_bytes=options.max_payload_bytes,
        )
        self.intake = Intake(
            store,
            registry,
            work,
            moving=lambda: len(self._live) - len(self._idle),
            executing=lambda: (len(self.placed) + self.jobs.count, self.jobs.open_to_all),
            inline=not remote,
        )
        self._committer = Committer(
            store,
            session=lambda: self._session.id,
            want=self._wanted,
            on_reply=self._on_reply,
            on_idle=self._quiet,
            on_answered=self._quiet_soon,
            busy=lambda: self.bodies.busy,
            observer=observer,
        )
        self.submit = self._committer.submit
        self.withdraw = self._committer.withdraw
        self.retract = self._committer.retract
        self.results = Results(store, self._committer, self._live, self._quiet_soon)
        self.progress = ProgressReports(self.loop, self.submit)
        self.jobs = Jobs(
            registry,
            self.bodies,
            submit=self.submit,
            begin=self._begin_job,
            on_execute=self._tell_execute,
            on_recorded=self._tell_recorded,
            clock=self.loop.time,
            later=self.loop.call_later,
            observer=observer,
        )

    # --- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take a lease, and go on with whatever was left behind.

        Raises:
            StoreError: if the store cannot be used.
        """
        await asyncio.to_thread(self._session.open)
        self._main = self.loop.create_task(self._committer.run(), name="pikku-committer")
        for wired in self.registry.queue_workers.values():
            self.store.limit_queue(wired.queue, wired.config.limits)
        self.intake.look_again()
        await self._committer.request(self._reap)
        self._advertise()
        self.intake.look_everywhere()
        await self._committer.request(FireTimers())
        await self._resume_deployed()
        await self._prune()
        if self.store.shared:
            self._sweep = self.loop.call_later(SWEEP_SECONDS, self._swept)
        self.intake.listen(lambda: self._session.id, self._committer.poke)

    async def _prune(self) -> None:
        """Delete the runs that have been kept long enough."""
        if not self.executes_runs:
            return
        try:
            for status, us in self._retention.items():
                kept: Any = status
                wanted = RunFilter(
                    status=kept,
                    limit=PRUNE_AT_ONCE,
                    ended_before_us=self.clock.now_us() - us,
                    oldest_first=True,
                )
                await self._delete(wanted)
                for queue in sorted({DEFAULT_QUEUE, *self.registry.queues}):
                    await self._delete(wanted._replace(workflow=JOB_RUNS + queue))
        except StoreError as error:
            log.warning("deleting runs that are kept no longer: %s", error)

    async def _delete(self, wanted: RunFilter) -> None:
        while not self._closed and (found := await self.store.list_runs(wanted)):
            ops = [DeleteRun(run.run_id) for run in found]
            await asyncio.gather(*(self._committer.request(op) for op in ops))

    @property
    def executes_runs(self) -> bool:
        """Whether this process takes runs on, not only starts them."""
        return not self.remote or self.work is not None

    def _advertise(self) -> None:
        """Say what is executed here, so that others may hand it over."""
        if self.executes_runs and self.store.shared:
            names = self.registry.workflows
            holds = [*names, *(f"{name}@{self.version_of(name)}" for name in names)]
            self.submit(Advertise(holds), lambda result: None)

    async def _resume_deployed(self) -> None:
        """Open the runs that were suspended for want of what is here now."""
        if not self.executes_runs:
            return
        try:
            waiting = await self.store.list_runs(RunFilter(status="suspended", limit=1000))
            for run in waiting:
                if self._has_what_missed(run):
                    self.intake.look_everywhere()
                    await self._committer.request(ResumeRun(run.run_id))
        except StoreError as error:
            log.warning("looking for suspended runs: %s", error)

    def _has_what_missed(self, run: RunRecord) -> bool:
        if run.workflow not in self.registry.workflows:
            return False
        if run.suspend_reason in ("nondeterminism", "version"):
            same = bool(run.version) and run.version == self.version_of(run.workflow)
            return same and run.run_id not in self.diverged
        if run.suspend_reason != "missing_function" or run.error is None or is_sealed(run.error):
            return False
        error = ErrorInfo.from_json(run.error)
        for kind, there in (
            ("function", self.registry.functions),
            ("workflow", self.registry.workflows),
        ):
            _, _, missing = error.message.partition(f"unknown {kind} ")
            if missing and missing.strip("'\"") not in there:
                return False
        return True

    async def close(self, *, drain: bool = True) -> None:
        """Record what ends in time, hand back the rest, and let go of every run."""
        if self._closed:
            return
        self._closed = True
        self.draining = True
        self.intake.close()
        self.progress.close()
        self.jobs.close()
        self.jobs.hand_back(begun=False)
        for handle in (self._sweep, self._alarm):
            if handle is not None:
                handle.cancel()
        for live in list(self._live.values()):
            live.advance()
        until = self.loop.time() + (self.options.drain_seconds if drain else 0.0)
        while self.in_flight and self.loop.time() < until:
            await self.bodies.wait_until_quiet(until - self.loop.time())
            await asyncio.sleep(0.001)
        until = self.loop.time() + self.options.lease_seconds
        self.handed_back = self.in_flight
        self.jobs.hand_back(begun=True)
        while any(live.moving for live in self._live.values()) and self.loop.time() < until:
            for live in list(self._live.values()):
                live.hand_back()
            await asyncio.sleep(0.001)
        self._committer.close()
        await self._wait_for_committer(until)
        for task in self._tasks:
            task.cancel()
        for live in list(self._live.values()):
            live.drop()
        self._committer.give_up()
        self.bodies.close()
        if self._pool is not None:
            await self._pool.close()
        self._hooks.remove()
        await asyncio.to_thread(self._session.end)
        self.results.close()

    @property
    def in_flight(self) -> int:
        """How many runs and jobs have something under way in this process."""
        return sum(live.moving for live in self._live.values()) + self.jobs.count

    async def _wait_for_committer(self, until: float) -> None:
        """Let what was sent be answered; a store that stays silent is left alone, and the lease
        gives the runs back."""
        if self._main is None:
            return
        _, pending = await asyncio.wait({self._main}, timeout=max(0.1, until - self.loop.time()))
        if pending:
            log.warning("the store does not answer; its runs go on when the lease has run out")
            self._main.cancel()
            await asyncio.wait(pending)

    def kill(self) -> None:
        """Stop as a dying process would: nothing more is recorded, no lease is given back."""
        self._closed = True
        self.draining = True
        self.intake.close()
        self.progress.close()
        self.jobs.close()
        self.jobs.drop()
        if self._main is not None:
            self._main.cancel()
        for handle in (self._sweep, self._alarm):
            if handle is not None:
                handle.cancel()
        for live in list(self._live.values()):
            if live.started is not None and not live.started.done():
                live.started.set_result(None)
            live.abandon()
        for task in self._tasks:
            task.cancel()
        self._live.clear()
        self.bodies.close()
        if self._pool is not None:
            self._pool.kill()
        self._hooks.remove()
        self._session.close()

    @property
    def session_id(self) -> str:
        return self._session.id

    # --- runs -----------------------------------------------------------------------------------

    async def start(
        self,
        wired: WiredWorkflow,
        text: str,
        *,
        run_id: str | None,
        wait: bool,
        tags: Sequence[str] = (),
        delay_us: int | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> str:
        """Create a run, or find the one that was there; its id. See `start_or_find`."""
        made, _ = await self.start_or_find(
            wired,
            text,
            run_id=run_id,
            wait=wait,
            tags=tags,
            delay_us=delay_us,
            started_by=started_by,
            pinned=pinned,
        )
        return made

    async def start_or_find(
        self,
        wired: WiredWorkflow,
        text: str,
        *,
        run_id: str | None,
        wait: bool,
        tags: Sequence[str] = (),
        delay_us: int | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> tuple[str, RunRecord | None]:
        """The id of a new run; or that of the run that was there, and its record. A remote run is
        left to the workers; another one is executed here.

        With *wait*, returns when it is final, or when no task of it can move before a timer or
        some word from outside.
        """
        op = self._new_run(
            wired,
            text,
            run_id=run_id,
            claim=not self.remote,
            tags=tags,
            delay_us=delay_us,
            started_by=started_by,
            pinned=pinned,
        )
        run_id = op.run_id
        scope = self.observer.starting(wired.name, run_id)
        if (traceparent := scope.traceparent) is not None:
            op = op._replace(traceparent=traceparent)
        under_way: asyncio.Future[OpResult | None] = self.loop.create_future()

        def created(result: OpResult) -> None:
            # Begun here and not after an await, so that a caller who is cancelled meanwhile
            # leaves no run behind that nobody executes.
            run = result.run
            scope.end(None if result.error is None else ErrorInfo.of(result.error), result.code)
            if result.code == "ok":
                self.observer.started(wired.name)
            # While the session is being renewed, what was made in its name comes by a claim.
            ours = run is not None and run.owner == self._session.id and not self._renewing
            if result.code == "exists" and ours and run_id not in self._live:
                # The answer to this very start was lost, and the run waits here for its first turn.
                self.spawn(self._take_up(run_id))
            if run is not None and ours and result.code == "ok":
                live = LiveRun(self, LoadedRun(run, ()), wired)
                self._live[run.run_id] = live
                self._coming.pop(run.run_id, None)
                if wait:
                    live.started = under_way
                elif not under_way.done():
                    under_way.set_result(None)
                live.begin()
            elif not under_way.done():
                under_way.set_result(result)

        self._committer.send(op, created)
        result = await under_way
        if result is not None and result.error is not None:
            raise result.error
        if result is not None and result.code == "exists" and result.run is not None:
            _check_same_start(result.run, wired.name, text)
            return run_id, result.run
        return run_id, None

    async def start_in_transaction(
        self,
        connection: object,
        wired: WiredWorkflow,
        text: str,
        *,
        run_id: str | None,
        tags: Sequence[str] = (),
        delay_us: int | None = None,
        started_by: str | None = None,
        pinned: bool = False,
    ) -> str:
        """Create a run that begins when the transaction of *connection* commits, or find the one
        that was there; its id."""
        op = self._new_run(
            wired,
            text,
            run_id=run_id,
            claim=False,
            tags=tags,
            delay_us=delay_us,
            started_by=started_by,
            pinned=pinned,
        )
        if not isinstance(self.store, Enlists):
            raise TransactionError(f"{self.store.address} takes no part in transactions")
        scope = self.observer.starting(wired.name, op.run_id)
        if (traceparent := scope.traceparent) is not None:
            op = op._replace(traceparent=traceparent)
        try:
            result = await self.store.start_in_transaction(connection, op)
        except Exception as error:
            scope.end(ErrorInfo.of(error))
            raise
        scope.end(outcome=result.code)
        if result.code == "ok":
            self.observer.started(wired.name)
        if result.code == "exists" and result.run is not None:
            _check_same_start(result.run, wired.name, text)
        return op.run_id

    def _new_run(
        self,
        wired: WiredWorkflow,
        text: str,
        *,
        run_id: str | None,
        claim: bool,
        tags: Sequence[str],
        delay_us: int | None,
        started_by: str | None,
        pinned: bool,
    ) -> CreateRun:
        limit = self.options.max_payload_bytes
        check_size(text, limit, f"the input of workflow {wired.name!r}")
        return CreateRun(
            new_run_id() if run_id is None else check_run_id(run_id),
            wired.name,
            text,
            self.version_of(wired.name),
            not self.remote,
            claim,
            tuple(dict.fromkeys((*wired.tags, *tags))),
            started_by,
            wired.workflow.timeout_us,
            pinned=pinned,
            delay_us=delay_us,
        )

    async def _take_up(self, run_id: str) -> None:
        """Begin with a run that the store says is ours, unless it is granted to us meanwhile: what
        is loaded may then be older than what is done here."""
        if run_id in self._live or run_id in self._coming:
            return
        words = self._coming[run_id] = []
        session = self._session.id
        loaded: LoadedRun | None = None
        while self._coming.get(run_id) is words and not self._closed:
            try:
                loaded = await self.store.load_steps(run_id)
                break
            except CorruptStateError as error:
                del self._coming[run_id]
                await self._end_unreadable(run_id, error)
                return
            except StoreError as error:
                log.warning("run %s: %s; trying again", run_id, error, extra={"run_id": run_id})
                await asyncio.sleep(SWEEP_SECONDS)
        if self._coming.get(run_id) is not words:
            return
        del self._coming[run_id]
        if loaded is not None and loaded.run.owner == session:
            self._take_over(loaded)
        for word in words:
            self._receive(word)

    def look_whose(self, run_id: str) -> None:
        """A run was taken for somebody else's: begin with it anew if the store says it is ours."""
        if not (self._closed or self._renewing):
            self.spawn(self._take_up(run_id))

    async def _end_unreadable(self, run_id: str, error: CorruptStateError) -> None:
        log.error("run %s cannot go on: %s", run_id, error, extra={"run_id": run_id})
        session = self._session.id
        while session == self._session.id and not self._closed:
            try:
                run = await self.store.load_run(run_id)
            except CorruptStateError:
                return
            except StoreError as failure:
                log.warning("run %s: %s; trying again", run_id, failure, extra={"run_id": run_id})
                await asyncio.sleep(SWEEP_SECONDS)
            else:
                if run is not None:
                    self._end_corrupt(run, error)
                return

    async def resume(self, run_id: str) -> None:
        """Open a suspended run; one that is interrupted goes on by itself.

        Raises:
            RunNotFoundError: if there is none.
            RunStateError: if it is not suspended.
        """
        self.diverged.discard(run_id)
        run = await self.store.load_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id, store=self.store.address)
        wired = self.registry.workflows.get(run.workflow)
        timeout_us = None if wired is None else wired.workflow.timeout_us
        result = await self.request(ResumeRun(run_id, timeout_us))
        if result.code == "not_found":
            raise RunNotFoundError(run_id, store=self.store.address)
        if result.code == "not_suspended":
            run = await self.store.load_run(run_id)
            if run is not None and run.status == "running":
                raise RunStateError(
                    f"run {run_id} is running and cannot be resumed",
                    hint="only a suspended run waits to be resumed",
                )
            if run is not None and run.status in FINAL_STATUSES:
                raise RunStateError(
                    f"run {run_id} is {run.status} and cannot be resumed",
                    hint="start another run, or retry it if it has failed",
                )

    async def request(self, op: Op) -> OpResult:
        """The store's answer to *op*; what follows from it is taken up here.

        Raises:
            StoreError: if the store did not take it.
        """
        self.intake.look_everywhere()
        return await self._committer.request(op)

    async def ask(self, op: Op) -> OpResult:
        """The store's answer to *op*, of which nothing follows here but what the intake was told.

        Raises:
            StoreError: if the store did not take it.
        """
        return await self._committer.request(op)

    # --- what live runs ask of the engine -------------------------------------------------------

    def workflow_context(self, run: RunRecord, replay: Replay) -> Any:
        return self._contexts.workflow(run, replay)

    def version_of(self, workflow: str) -> str:
        """The version of *workflow* that this process holds; empty where none is known."""
        return self.registry.versions.get(workflow, "")

    def hand_over(self, live: LiveRun, wanted: Sequence[str], nobody: Callable[[], None]) -> None:
        """Have another process execute the run, one that holds one of the *wanted* workflows."""

        def answered(result: OpResult) -> None:
            if result.code == "nobody":
                nobody()
            else:
                live.drop()

        self.submit(HandRun(live.run_id, wanted), answered)

    def look_up(self, live: LiveRun, keys: set[str]) -> None:
        """Tell *live* what the store says of some of its steps."""

        async def look_up() -> None:
            while not live.gone:
                try:
                    loaded = await self.store.load_steps(live.run_id)
                except StoreError as error:
                    log.warning(
                        "run %s: %s; trying again",
                        *(live.run_id, error),
                        extra={"run_id": live.run_id, "workflow": live.wired.name},
                    )
                    await asyncio.sleep(SWEEP_SECONDS)
                else:
                    if loaded is not None:
                        live.looked_up(keys, loaded)
                    return

        self.spawn(look_up())

    def handler_plan(self, run_id: str, ask: Ask, error: ErrorInfo, attempts: int) -> Plan:
        """What executes the `on_error` handler of a failed step."""
        plan: Plan = ask.plan
        handler = self.registry.function(plan.on_error or "")
        data = json.dumps(
            {
                "input": json.loads(ask.input) if ask.input is not None else None,
                "error": list(error),
                "step_name": ask.name,
                "attempt_count": attempts,
            },
            ensure_ascii=False,
        )
        where = f"handler {handler.name!r} of step {ask.name!r}"
        return Plan(
            handler,
            None,
            data,
            handler.declaration.output,
            handler.policy,
            None,
            where,
            handler.queue,
            handler.crosses,
        )

    def place(self, flight: Flight) -> bool:
        """Whether a step of a remote run is executed here, by the run's owner; else it crosses its
        queue. Takes a slot for it."""
        plan: Plan = flight.ask.plan
        if plan.func is None:
            return True
        if plan.crosses or flight.lost or not self.jobs.open_to_all:
            return False
        if self.work is None or not self.intake.serves(DEFAULT_QUEUE):
            return False
        if len(self.placed) + self.jobs.count >= self.work.concurrency:
            return False
        self.placed.add(flight)
        return True

    def execute(self, live: LiveRun, flight: Flight) -> None:
        """Begin the body of an attempt that is recorded as running."""
        plan: Plan = flight.ask.plan
        if self._session.expired:
            self._session_lost()
            return
        self._tell_execute(flight.ask.key, flight.ask.name)
        if self.observer.active:
            self._execute_watched(live, flight)
            return
        begin: Callable[[Attempt], None]
        if plan.func is not None:
            begin = functools.partial(self._begin_step, live, flight)
        elif not flight.lost and self.bodies.open_to_all:
            made = self.bodies.call(plan)
            if isinstance(made, End):
                live.ended(flight, made)
                return
            begin = functools.partial(self.bodies.begin_coroutine, coro=made)
        else:
            begin = self.bodies.begin_inline
        attempt = Attempt(plan, functools.partial(live.ended, flight), flight)
        self.bodies.start(attempt, begin, alone=flight.lost > 0)

    def _execute_watched(self, live: LiveRun, flight: Flight) -> None:
        """`execute`, and the attempt is a scope of its own, from when its turn comes to its end."""
        plan: Plan = flight.ask.plan
        begin: Callable[[Attempt], None] = self.bodies.begin_inline
        if plan.func is not None:
            begin = functools.partial(self._begin_step, live, flight)
        watched = functools.partial(
            self._begin_watched, begin, live.run_id, live.wired.name, flight, live.scope, None
        )
        attempt = Attempt(plan, functools.partial(live.ended, flight), flight)
        self.bodies.start(attempt, watched, alone=flight.lost > 0)

    def _begin_watched(
        self,
        begin: Callable[[Attempt], None],
        run_id: str,
        workflow: str,
        flight: Flight | ClaimedJob,
        within: Scope,
        traceparent: str | None,
        attempt: Attempt,
    ) -> None:
        ask, plan = flight.ask, attempt.plan
        queue: str | None = None
        if isinstance(flight, ClaimedJob):
            queue = flight.queue
        doing = Doing(
            run_id,
            workflow,
            ask.name,
            flight.attempt,
            ask.kind,
            "inline" if plan.func is None else plan.func.name,
            queue,
            plan.data,
        )
        scope = self.observer.attempting(doing, within, traceparent)
        done = attempt.done

        def ended(end: End) -> None:
            scope.end(end.error if end.failed else None)
            done(end)

        attempt.done = ended
        scope.run(begin, attempt)

    def _begin_step(self, live: LiveRun, flight: Flight, attempt: Attempt) -> None:
        flight.report = self.progress.reporter(live.run_id, flight.ask.key, flight.attempt)
        self._begin_function(live.run_id, live.wired.name, flight, attempt)

    def _begin_job(self, job: ClaimedJob, attempt: Attempt) -> None:
        job.report = self.progress.reporter(job.run_id, job.ask.key, job.attempt)
        if not self.observer.active:
            self._begin_function(job.run_id, job.workflow, job, attempt)
            return
        begin = functools.partial(self._begin_function, job.run_id, job.workflow, job)
        traceparent = job.traceparent
        self._begin_watched(begin, job.run_id, job.workflow, job, UNWATCHED, traceparent, attempt)

    def _begin_function(
        self, run_id: str, workflow: str, flight: Flight | ClaimedJob, attempt: Attempt
    ) -> None:
        func = attempt.plan.func
        assert func is not None
        context = self._contexts.function(run_id, flight, workflow)
        declaration = func.declaration
        plan = attempt.plan

        def data() -> Any:
            if not declaration.takes_input:
                return None
            return declaration.input.decode(plan.data or "null", plan.where)

        def call(data: Any) -> Any:
            return func.func(context, data) if declaration.takes_input else func.func(context)

        guards = self.registry.guards(func)

        async def run_async() -> Any:
            return await called(guards, func, data(), context, call)

        def run_sync() -> Any:
            return called_in_thread(guards, func, data(), context, call, self.loop)

        async def run_fake(fake: Callable[..., Any]) -> Any:
            made = fake(data()) if declaration.takes_input else fake()
            return await made if inspect.isawaitable(made) else made

        if (fake := self.fakes.get(func.name)) is not None:
            self.bodies.begin_coroutine(attempt, run_fake(fake))
        elif func.executor == "process":
            self._begin_process(run_id, workflow, flight, attempt)
        elif func.is_async:
            self.bodies.begin_coroutine(attempt, run_async())
        else:
            self.bodies.begin_thread(attempt, run_sync)

    def _begin_process(
        self, run_id: str, workflow: str, flight: Flight | ClaimedJob, attempt: Attempt
    ) -> None:
        from pikku._processes import Call

        plan, ask = attempt.plan, flight.ask
        assert plan.func is not None
        assert self.make_pool is not None
        if self._pool is None:
            self._pool = self.make_pool()
        name, key = ask.name, ask.key
        call = Call(
            plan.func.name,
            plan.data,
            run_id,
            workflow,
            key,
            name,
            flight.attempt,
            plan.where,
            self.observer.traceparent,
        )
        self.bodies.begin_process(attempt, self._pool, call)

    def _tell_execute(self, key: str, name: str) -> None:
        if self.on_execute is not None:
            self.on_execute(key, name)

    def _tell_recorded(self, key: str, name: str) -> None:
        if self.on_recorded is not None:
            self.on_recorded(key, name)

    def error_info(self, error: BaseException) -> ErrorInfo:
        """The record of what a workflow function raised."""
        return ErrorInfo.of(error, traceback=trimmed_traceback(error))

    def idle(self, live: LiveRun) -> None:
        """The run waits for a timer or a word: keep it at hand, or park it."""
        self._came_to_rest(live)
        live.rest()
        self._idle[live.run_id] = live
        self._idle.move_to_end(live.run_id)
        if live.unwinding:
            return
        while len(self._idle) > self.options.sticky:
            _, oldest = self._idle.popitem(last=False)
            if not oldest.unwinding:
                oldest.park()

    def left(self, live: LiveRun, settle: Settle) -> None:
        """The run has ended, is suspended or parked."""
        if settle.status in FINAL_STATUSES:
            self.results.ended(live.run_id, settle)
        if self.observer.active:
            self._tell_left(live, settle)
        self.results.tell(live.run_id, settle)
        self.forget(live)

    def _tell_left(self, live: LiveRun, settle: Settle) -> None:
        workflow = live.wired.name
        error = None if settle.error is None else ErrorInfo.from_json(settle.error)
        if settle.status in FINAL_STATUSES:
            seconds = max(0, self.clock.now_us() - live.created_us) / 1e6
            self.observer.ended(workflow, settle.status, seconds)
        elif settle.status == "suspended":
            self.observer.suspended(workflow, settle.reason or "")
            error = None if settle.reason == "requested" else error
        live.rest(None if settle.status == "cancelled" else error, settle.status)

    def forget(self, live: LiveRun) -> None:
        """The run is not in this process any more."""
        live.rest()
        if self._live.get(live.run_id) is live:
            del self._live[live.run_id]
        self._idle.pop(live.run_id, None)
        self._started(live)
        self._rested(live.run_id)
        if not self._closed:
            self.results.tell(live.run_id, Settle("running"))

    def reload(self, live: LiveRun) -> None:
        """Fetch what others have recorded for the run, and have it replayed."""

        async def reload() -> None:
            while not live.gone:
                try:
                    loaded = await self.store.load_steps(live.run_id)
                    break
                except CorruptStateError as error:
                    live.drop()
                    await self._end_unreadable(live.run_id, error)
                    return
                except StoreError as error:
                    log.warning(
                        "run %s: %s; trying again",
                        *(live.run_id, error),
                        extra={"run_id": live.run_id, "workflow": live.wired.name},
                    )
                    await asyncio.sleep(SWEEP_SECONDS)
            else:
                return
            if live.gone:
                return
            if loaded is None or loaded.run.owner != self._session.id:
                live.drop()
            else:
                live.reloaded(loaded)

        live.loading()
        self.spawn(reload())

    def release_later(self, live: LiveRun) -> None:
        """Let somebody else, or this process after a while, take the run up again."""

        def release() -> None:
            if not self._closed:
                self.submit(ReleaseRun(live.run_id), lambda result: None)

        self.loop.call_later(RELEASE_SECONDS, release)

    def begot(self, live: LiveRun, child_id: str) -> None:
        """The run starts a child; its starter waits until that has come to rest, too."""
        waited_for = live.started is not None and not live.started.done()
        if waited_for or live.run_id in self._parents:
            self._parents[child_id] = live.run_id
            self._offspring.setdefault(live.run_id, set()).add(child_id)

    def _came_to_rest(self, live: LiveRun) -> None:
        if live.run_id not in self._offspring:
            self._started(live)
            self._rested(live.run_id)

    def _rested(self, run_id: str) -> None:
        parent_id = self._parents.pop(run_id, None)
        if parent_id is None:
            return
        siblings = self._offspring[parent_id]
        siblings.discard(run_id)
        if not siblings:
            del self._offspring[parent_id]
            if (parent := self._idle.get(parent_id)) is not None:
                self._came_to_rest(parent)

    def _started(self, live: LiveRun) -> None:
        if live.started is not None and not live.started.done():
            live.started.set_result(None)

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Have *coro* go on beside the rest."""
        task = self.loop.create_task(coro)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._quiet_soon()

        task.add_done_callback(done)

    # --- claims, mail, timers -------------------------------------------------------------------

    def _on_reply(self, reply: Reply) -> None:
        if self._renewing:
            return  # it was said to a session that is over; what it claimed is taken from it
        if not reply.session_alive:
            self._session_lost()
            return
        self.intake.learn(reply)
        if reply.jobs:
            self.jobs.receive(list(reply.jobs))
        if reply.claimed:
            for loaded in reply.claimed:
                try:
                    self._take_over(loaded)
                except Exception:
                    log.critical("run %s: a bug in pikku", loaded.run.run_id, exc_info=True)
        if reply.inbox:
            for delivery in reply.inbox:
                self._receive(delivery)
        if reply.next_due_us not in (self._next_due, NOT_ASKED):
            self._set_alarm(reply.next_due_us)

    def _receive(self, delivery: Delivery) -> None:
        if delivery.what == "stop":
            self.jobs.stop(delivery)
        elif delivery.what == "ended":
            self.results.told(delivery)
        elif (words := self._coming.get(delivery.run_id)) is not None:
            words.append(delivery)
        elif delivery.what == "hand":
            self.spawn(self._take_up(delivery.run_id))
        elif (live := self._live.get(delivery.run_id)) is not None:
            self._idle.pop(delivery.run_id, None)
            live.receive(delivery)

    def _wanted(self, ops: int) -> Mapping[str, int]:
        if self._closed or self._renewing:  # nobody would see to what came
            return {}
        return self.intake.wanted(ops)

    def _take_over(self, loaded: LoadedRun) -> None:
        run = loaded.run
        self._coming.pop(run.run_id, None)
        there = self._live.get(run.run_id)
        if there is not None:
            there.drop()
        wired = self.registry.workflows.get(run.workflow)
        if wired is None:
            self._pass_on(run)
            return
        if loaded.fault is not None:
            self._end_corrupt(run, loaded.fault)
            return
        if run.pinned and run.version and run.version != self.version_of(run.workflow):
            self._pass_on(run)
            return
        if self.observer.active and self._was_lost(loaded):
            self.observer.recovered(run.workflow)
        live = LiveRun(self, loaded, wired)
        self._live[run.run_id] = live
        live.begin()

    def _was_lost(self, loaded: LoadedRun) -> bool:
        """Whether another process was lost while it executed a step of this run."""
        return any(
            step.status == "running" and step.queue is None and step.worker != self._session.id
            for step in loaded.steps
        )

    def _end_corrupt(self, run: RunRecord, fault: Exception) -> None:
        """A run whose records cannot be read ends, and is kept for inspection."""
        self._settle_unbegun(run, Settle("failed", error=ErrorInfo.of(fault).to_json()))

    def _settle_unbegun(self, run: RunRecord, settle: Settle) -> None:
        self.submit(Commit(run.run_id, run.turn + 1, None, (), (), (), settle), lambda result: None)

    def _pass_on(self, run: RunRecord) -> None:
        """A run that cannot be executed here goes to a process that can; without one, it stands
        still until one appears."""
        exact = f"{run.workflow}@{run.version}"
        wanted = [exact] if run.pinned and run.version else [exact, run.workflow]

        def answered(result: OpResult) -> None:
            if result.code == "nobody":
                error, reason = self._why_not_here(run)
                log.error(
                    "run %s cannot be executed here: %s",
                    *(run.run_id, error),
                    extra={"run_id": run.run_id, "workflow": run.workflow},
                )
                text = ErrorInfo.of(error).to_json()
                unwinding = run.cancel_us is not None
                if unwinding and not run.turn:  # it never began: there is nothing to unwind
                    self._settle_unbegun(run, _called_off(run))
                    return
                settle = Settle("suspended", error=text, reason=reason, unwinding=unwinding)
                self._settle_unbegun(run, settle)

        self.submit(HandRun(run.run_id, wanted), answered)

    def _why_not_here(self, run: RunRecord) -> tuple[PikkuError, SuspendReason]:
        if run.workflow not in self.registry.workflows:
            return UnknownWorkflowError(run.workflow, self.registry.workflows), "missing_function"
        here = self.version_of(run.workflow) or "none"
        return (
            VersionError(
                f"run {run.run_id} of {run.workflow!r} is pinned to version {run.version}, "
                f"and here is {here}"
            ),
            "version",
        )

    def _set_alarm(self, due_us: int | None) -> None:
        self._next_due = due_us
        if due_us is None or self._closed:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.clock.call_at(self.loop, due_us, self._fire)

    def _fire(self) -> None:
        self._alarm = None
        self._next_due = None
        if not self._closed:
            self.submit(FireTimers(), self._fired)

    def _fired(self, result: OpResult) -> None:
        self._look_for_more()

    def _look_for_more(self) -> None:
        self.intake.look_everywhere()
        self._committer.poke()

    def _swept(self) -> None:
        """What an event would have told, had it not been lost with its process."""
        if self._closed:
            return
        if not self._sweeping:
            self._sweeping = True
            self.intake.look_everywhere()
            self.submit(self._reap, lambda result: None)
            self.submit(FireTimers(), self._sweep_answered)
        self._sweeps += 1
        for child_id in [each for each in self._parents if each not in self._live]:
            self._rested(child_id)  # executed elsewhere
        if self._sweeps % DEPLOYS_EVERY == 0:
            self.spawn(self._resume_deployed())
        if self._sweeps % AUDIT_EVERY == 0:
            self.spawn(self._audit())
        if self._retention and self._sweeps % PRUNE_EVERY == 0:
            self.spawn(self._prune())
        self._sweep = self.loop.call_later(SWEEP_SECONDS, self._swept)

    async def _audit(self) -> None:
        """Compare with the store what this process holds. Nothing is ever found, as far as anybody
        knows: but what is held here and forgotten would wait for as long as the process lives."""
        if self._renewing:
            return
        session = self._session.id
        try:
            await self._take_up_forgotten(session)
            await self._look_after_idle(session)
        except StoreError as error:
            log.warning("comparing with the store: %s", error)

    def _is_over(self, session: str) -> bool:
        return self._closed or self._renewing or session != self._session.id

    async def _take_up_forgotten(self, session: str) -> None:
        """Take up what nobody here has known of for two looks."""
        held = await self.store.holdings(session)
        if self._is_over(session):
            return
        before = self._unheard_of
        runs = held.runs.difference(self._live, self._coming)
        jobs = held.jobs.difference(self.jobs.held)
        self._unheard_of = Holdings(runs, jobs)
        for run_id in runs & before.runs:
            log.warning("run %s is held here and was forgotten: it is taken up again", run_id)
            self.spawn(self._take_up(run_id))
        for run_id, key in jobs & before.jobs:
            loaded = await self.store.load_steps(run_id)
            if self._is_over(session) or (run_id, key) in self.jobs.held or loaded is None:
                continue
            for step in loaded.steps:
                if step.key == key and step.worker == session:
                    log.warning("step %r of run %s was claimed here and forgotten", key, run_id)
                    self.submit(ReleaseStep(run_id, key, step.attempt), lambda result: None)

    async def _look_after_idle(self, session: str) -> None:
        """Replay the runs that wait for something else than their records say: a few at a time."""
        idle = list(self._idle.values())
        begin = self._looked_at if self._looked_at < len(idle) else 0
        looked_at = idle[begin : begin + LOOKED_AT_ONCE]
        self._looked_at = begin + len(looked_at)
        astray = await self._astray(session, looked_at)
        if not astray:
            return
        await asyncio.sleep(AUDIT_AGAIN_SECONDS)  # a word may have been on its way
        for live, stands in (await self._astray(session, astray)).items():
            if stands == astray[live] and self._idle.get(live.run_id) is live:
                log.warning("run %s does not go by its records: it is replayed", live.run_id)
                self._idle.pop(live.run_id)
                self.reload(live)

    async def _astray(
        self, session: str, looked_at: Iterable[LiveRun]
    ) -> dict[LiveRun, tuple[int, int]]:
        """Those of the waiting runs whose records say something else, and where they stand."""
        found: dict[LiveRun, tuple[int, int]] = {}
        for live in looked_at:
            if self._is_over(session):
                return {}
            loaded = await self.store.load_steps(live.run_id)
            waits = self._idle.get(live.run_id) is live and not live.moving
            if not waits or loaded is None or loaded.run.owner != session:
                continue  # it moves, or is somebody else's: the next answer says so
            if live.strays_from(loaded):
                found[live] = live.stands
        return {} if self._is_over(session) else found

    def _sweep_answered(self, result: OpResult) -> None:
        self._sweeping = False

    def _bodies_quiet(self) -> None:
        self.jobs.next_alone()
        self._quiet_soon()

    def _quiet_soon(self) -> None:
        if self._on_quiet is not None:
            self.loop.call_soon(self._quiet)

    def _quiet(self) -> None:
        if not self._closed and self.intake.worth_a_call:
            self._committer.poke()
            return
        if self._on_quiet is not None and not self._closed and self.is_quiet:
            self._on_quiet(self._next_due)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way: every run waits for a timer or a word."""
        return self.executes_at_most and not self.bodies.busy and not self.jobs.count

    @property
    def executes_at_most(self) -> bool:
        """Whether nothing is under way but the bodies of steps."""
        return self._committer.idle and not self._tasks and not self.intake.knows_of_work

    def _session_lost(self) -> None:
        """Others own our runs now: drop them all, and go on under a new name."""
        if self._renewing:
            return
        self._renewing = True
        log.error("%s", LeaseLostError("the lease of this process ran out"))
        self.observer.lost_lease()
        for live in list(self._live.values()):
            live.drop()
        self._coming.clear()
        self._unheard_of = Holdings(frozenset(), frozenset())
        self.jobs.drop()
        self.placed.clear()
        self._committer.session_is_over()
        if not self._closed:
            self.spawn(self._renew())

    async def _renew(self) -> None:
        while not self._closed:
            try:
                lease = await asyncio.to_thread(self._session.renew)
            except StoreError as error:
                log.warning("no new lease yet: %s", error)
                await asyncio.sleep(SWEEP_SECONDS)
            else:
                # At once: what is claimed under the new name is not for the old one to lose.
                self._session.adopt(lease)
                self._committer.session_is_over()
                self._renewing = False
                self.intake.look_again()
                self.submit(self._reap, lambda result: None)
                self._advertise()
                return


def _called_off(run: RunRecord) -> Settle:
    reason = run.cancel_reason or ""
    error = cancellation(run.run_id, run.workflow, reason)
    return Settle("cancelled", error=error, reason=reason)


def _check_same_start(run: RunRecord, workflow: str, text: str) -> None:
    if run.workflow != workflow:
        raise RunConflictError(
            f"run {run.run_id!r} exists: it is one of {run.workflow!r}, "
            f"and this start asks for {workflow!r}"
        )
    if run.input == text:
        return
    if (path := first_difference(run.input, text)) is not None:
        raise RunConflictError(
            f"run {run.run_id!r} of {workflow!r} exists with another input: they differ at {path}"
        )
