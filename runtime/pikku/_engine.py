"""The engine: where replay, step bodies and the store meet, in one process."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pikku._bodies import Attempt, Bodies, End, Plan, trimmed_traceback
from pikku._clock import Alarm
from pikku._codec import first_difference
from pikku._committer import Committer
from pikku._error_info import ErrorInfo
from pikku._functions import Func, Registry, WiredWorkflow
from pikku._ids import check_run_id, new_run_id
from pikku._live import Flight, LiveRun
from pikku._loop import GeneratorHooks
from pikku._records import (
    FINAL_STATUSES,
    CancelRun,
    CreateRun,
    FireTimers,
    LoadedRun,
    OpResult,
    ReapSessions,
    ReleaseRun,
    Reply,
    ResumeRun,
    RunFilter,
    RunRecord,
    Settle,
)
from pikku._replay import Ask, Replay
from pikku._session import FOREVER_SECONDS, Session
from pikku._settings import EngineOptions
from pikku.errors import (
    LeaseLostError,
    ResultTimeoutError,
    RunConflictError,
    RunNotFoundError,
    RunStateError,
    StoreError,
    StoreUnavailableError,
)
from pikku.stores.base import INLINE_QUEUE, Store

log = logging.getLogger("pikku")

GO_ON = "the run goes on when a process opens the app again"
SWEEP_SECONDS = 1.0
DEPLOYS_EVERY = 10  # sweeps
WATCH_SECONDS = 0.1
RELEASE_SECONDS = 5.0
CLAIM_AT_ONCE = 50
REMEMBERED_ENDS = 1000


class Contexts(Protocol):
    """Makes the `ctx` objects; the app's side."""

    def function(self, run_id: str, flight: Flight, workflow: str) -> Any: ...
    def workflow(self, run_id: str, name: str, replay: Replay) -> Any: ...


class Engine:
    """Starts, executes, follows and recovers runs in one process on one event loop."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        contexts: Contexts,
        options: EngineOptions,
        *,
        on_quiet: Callable[[int | None], None] | None = None,
    ) -> None:
        self.registry = registry
        self.store = store
        self.clock = store.clock
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.on_execute: Callable[[str, str], None] | None = None
        self.on_recorded: Callable[[str, str], None] | None = None
        self.fakes: dict[str, Callable[..., Any]] = {}
        self._contexts = contexts
        self._on_quiet = on_quiet
        self._live: dict[str, LiveRun] = {}
        self._idle: OrderedDict[str, LiveRun] = OrderedDict()
        self._ended: OrderedDict[str, Settle] = OrderedDict()
        self._results: dict[str, list[asyncio.Future[Settle]]] = {}
        self._main: asyncio.Task[None] | None = None
        self._next_due: int | None = None
        self._alarm: Alarm | None = None
        self._sweeps = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._renewing = False
        self._want = {INLINE_QUEUE: CLAIM_AT_ONCE}
        self._hooks = GeneratorHooks()
        lease = options.lease_seconds if store.shared else FOREVER_SECONDS
        self._session = Session(store, self.loop, lease_seconds=lease, on_lost=self._session_lost)
        self.bodies = Bodies(
            self.loop,
            self.clock,
            options.threads,
            may_begin=lambda: not self._session.expired,
            on_fenced=self._session_lost,
            on_quiet=self._quiet_soon,
        )
        self._committer = Committer(
            store,
            session=lambda: self._session.id,
            want=self._want,
            on_reply=self._on_reply,
            on_idle=self._quiet,
            on_answered=self._quiet_soon,
            busy=lambda: self.bodies.busy,
        )
        self.submit = self._committer.submit

    # --- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take a lease, and go on with whatever was left behind.

        Raises:
            StoreError: if the store cannot be used.
        """
        await asyncio.to_thread(self._session.open)
        self._main = self.loop.create_task(self._committer.run(), name="pikku-committer")
        await self._committer.request(ReapSessions())
        await self._committer.request(FireTimers())
        await self._resume_deployed()
        if self.store.shared:
            self._sweep = self.loop.call_later(SWEEP_SECONDS, self._swept)

    async def _resume_deployed(self) -> None:
        """Open the runs that were suspended for want of a function that is here now."""
        waiting = await self.store.list_runs(RunFilter(status="suspended", limit=1000))
        for run in waiting:
            if run.suspend_reason == "missing_function" and self._has_what_missed(run):
                await self._committer.request(ResumeRun(run.run_id))

    def _has_what_missed(self, run: RunRecord) -> bool:
        if run.workflow not in self.registry.workflows or run.error is None:
            return False
        error = ErrorInfo.from_json(run.error)
        _, _, missing = error.message.partition("unknown function ")
        return not missing or missing.strip("'\"") in self.registry.functions

    async def close(self, *, drain: bool = True) -> None:
        """Record what ends in time, hand back the rest, and let go of every run."""
        if self._closed:
            return
        self._closed = True
        self.draining = True
        self._want.clear()
        for handle in (self._sweep, self._alarm):
            if handle is not None:
                handle.cancel()
        for live in list(self._live.values()):
            live.advance()
        until = self.loop.time() + (self.options.drain_seconds if drain else 0.0)
        while any(live.moving for live in self._live.values()) and self.loop.time() < until:
            await self.bodies.wait_until_quiet(until - self.loop.time())
            await asyncio.sleep(0.001)
        until = self.loop.time() + self.options.lease_seconds
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
        self.bodies.close()
        self._hooks.remove()
        await asyncio.to_thread(self._session.close)
        for waiting in self._results.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(
                        StoreUnavailableError("the app was closed meanwhile", hint=GO_ON)
                    )

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
        started_by: str | None = None,
    ) -> str:
        """Create a run and execute it here, or find the one that was there; its id.

        With *wait*, returns when it is final, or when no task of it can move before a timer or
        some word from outside.
        """
        run_id = new_run_id() if run_id is None else check_run_id(run_id)
        under_way: asyncio.Future[OpResult | None] = self.loop.create_future()

        def created(result: OpResult) -> None:
            # Begun here and not after an await, so that a caller who is cancelled meanwhile
            # leaves no run behind that nobody executes.
            run = result.run
            if result.code == "ok" and run is not None and run.owner == self._session.id:
                live = LiveRun(self, LoadedRun(run, ()), wired)
                self._live[run.run_id] = live
                if wait:
                    live.started = under_way
                elif not under_way.done():
                    under_way.set_result(None)
                live.begin()
            elif not under_way.done():
                under_way.set_result(result)

        op = CreateRun(
            run_id,
            wired.name,
            text,
            "",
            True,
            True,
            wired.tags,
            started_by,
            wired.workflow.timeout_us,
        )
        self._committer.send(op, created)
        result = await under_way
        if result is not None and result.error is not None:
            raise result.error
        if result is not None and result.code == "exists" and result.run is not None:
            _check_same_start(result.run, wired.name, text)
        return run_id

    async def cancel(self, run_id: str, reason: str) -> None:
        """Ask a run to unwind; a final run stays as it is.

        Raises:
            RunNotFoundError: if there is none.
        """
        result = await self._committer.request(CancelRun(run_id, reason))
        if result.code == "not_found":
            raise RunNotFoundError(run_id, store=self.store.address)

    async def resume(self, run_id: str) -> None:
        """Open a suspended run; one that is interrupted goes on by itself.

        Raises:
            RunNotFoundError: if there is none.
            RunStateError: if it has ended.
        """
        result = await self._committer.request(ResumeRun(run_id))
        if result.code == "not_found":
            raise RunNotFoundError(run_id, store=self.store.address)
        if result.code == "not_suspended":
            run = await self.store.load_run(run_id)
            if run is not None and run.status in FINAL_STATUSES:
                raise RunStateError(
                    f"run {run_id} is {run.status} and cannot be resumed",
                    hint="start another run",
                )

    async def result(self, run_id: str, timeout_us: int | None) -> Settle:
        """How the run ended, once it has.

        Raises:
            RunNotFoundError: if there is no such run.
            ResultTimeoutError: if it has not ended in time.
        """
        if timeout_us is None:
            return await self._result(run_id)
        try:
            async with asyncio.timeout(timeout_us / 1e6):
                return await self._result(run_id)
        except TimeoutError:
            raise ResultTimeoutError(
                f"run {run_id} did not end within {timeout_us / 1e6:g} s"
            ) from None

    async def _result(self, run_id: str) -> Settle:
        while True:
            if (ended := self._ended.get(run_id)) is not None:
                return ended
            if self._closed:
                raise StoreUnavailableError("the app was closed meanwhile", hint=GO_ON)
            if run_id in self._live:
                future: asyncio.Future[Settle] = self.loop.create_future()
                self._results.setdefault(run_id, []).append(future)
                self._quiet_soon()
                try:
                    settle = await future
                finally:
                    waiting = self._results.get(run_id)
                    if waiting is not None and future in waiting:
                        waiting.remove(future)
                        if not waiting:
                            del self._results[run_id]
                if settle.status in FINAL_STATUSES:
                    return settle
                continue
            run = await self.store.load_run(run_id)
            if run is None:
                raise RunNotFoundError(run_id, store=self.store.address)
            if run.status in FINAL_STATUSES:
                return Settle(run.status, run.output, run.error, run.cancel_reason)
            if run_id not in self._live:
                await asyncio.sleep(WATCH_SECONDS)

    # --- what live runs ask of the engine -------------------------------------------------------

    def workflow_context(self, run_id: str, name: str, replay: Replay) -> Any:
        return self._contexts.workflow(run_id, name, replay)

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
            }
        )
        where = f"handler {handler.name!r} of step {ask.name!r}"
        return Plan(handler, None, data, handler.declaration.output, handler.policy, None, where)

    def execute(self, live: LiveRun, flight: Flight) -> None:
        """Begin the body of an attempt that is recorded as running."""
        plan: Plan = flight.ask.plan
        if self._session.expired:
            self._session_lost()
            return
        if self.on_execute is not None:
            self.on_execute(flight.ask.key, flight.ask.name)
        begin: Callable[[Attempt], None]
        if plan.func is not None:
            begin = functools.partial(self._begin_function, plan.func, live, flight)
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

    def _begin_function(
        self, func: Func[Any, Any], live: LiveRun, flight: Flight, attempt: Attempt
    ) -> None:
        context = self._contexts.function(live.run_id, flight, live.wired.name)
        declaration = func.declaration
        plan = attempt.plan

        def arguments() -> tuple[Any, ...]:
            if not declaration.takes_input:
                return (context,)
            return (context, declaration.input.decode(plan.data or "null", plan.where))

        async def run_async() -> Any:
            return await func.func(*arguments())

        async def run_fake(fake: Callable[..., Any]) -> Any:
            made = fake(*arguments()[1:])
            return await made if inspect.isawaitable(made) else made

        if (fake := self.fakes.get(func.name)) is not None:
            self.bodies.begin_coroutine(attempt, run_fake(fake))
        elif func.is_async:
            self.bodies.begin_coroutine(attempt, run_async())
        else:
            self.bodies.begin_thread(attempt, lambda: func.func(*arguments()))

    def error_info(self, error: BaseException) -> ErrorInfo:
        """The record of what a workflow function raised."""
        return ErrorInfo.of(error, traceback=trimmed_traceback(error))

    def idle(self, live: LiveRun) -> None:
        """The run waits for a timer or a word: keep it at hand, or park it."""
        self._started(live)
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
            self._ended[live.run_id] = settle
            if len(self._ended) > REMEMBERED_ENDS:
                self._ended.popitem(last=False)
        waiting = self._results.pop(live.run_id, ())
        self.forget(live)
        for future in waiting:
            if not future.done():
                future.set_result(settle)

    def forget(self, live: LiveRun) -> None:
        """The run is not in this process any more."""
        if self._live.get(live.run_id) is live:
            del self._live[live.run_id]
        self._idle.pop(live.run_id, None)
        self._started(live)
        if live.run_id in self._results and not self._closed:
            for future in self._results.pop(live.run_id):
                if not future.done():
                    future.set_result(Settle("running"))

    def reload(self, live: LiveRun) -> None:
        """Fetch what others have recorded for the run, and have it replayed."""

        async def reload() -> None:
            while not live.gone:
                try:
                    loaded = await self.store.load_steps(live.run_id)
                    break
                except StoreError as error:
                    log.warning("run %s: %s; trying again", live.run_id, error)
                    await asyncio.sleep(SWEEP_SECONDS)
            else:
                return
            if loaded is None or loaded.run.owner != self._session.id:
                live.drop()
            else:
                live.reloaded(loaded)

        live.loading()
        self._spawn(reload())

    def release_later(self, live: LiveRun) -> None:
        """Let somebody else, or this process after a while, take the run up again."""

        def release() -> None:
            if not self._closed:
                self.submit(ReleaseRun(live.run_id), lambda result: None)

        self.loop.call_later(RELEASE_SECONDS, release)

    def _started(self, live: LiveRun) -> None:
        if live.started is not None and not live.started.done():
            live.started.set_result(None)

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coro)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._quiet_soon()

        task.add_done_callback(done)

    # --- claims, mail, timers -------------------------------------------------------------------

    def _on_reply(self, reply: Reply) -> None:
        if not reply.session_alive and not self._closed:
            self._session_lost()
            return
        if reply.claimed:
            for loaded in reply.claimed:
                try:
                    self._take_over(loaded)
                except Exception:
                    log.critical("run %s: a bug in pikku", loaded.run.run_id, exc_info=True)
            if len(reply.claimed) == CLAIM_AT_ONCE:
                self._committer.poke()
        if reply.inbox:
            for delivery in reply.inbox:
                live = self._live.get(delivery.run_id)
                if live is not None:
                    self._idle.pop(delivery.run_id, None)
                    live.receive(delivery)
        if reply.next_due_us != self._next_due:
            self._set_alarm(reply.next_due_us)

    def _take_over(self, loaded: LoadedRun) -> None:
        run = loaded.run
        there = self._live.get(run.run_id)
        if there is not None:
            there.drop()
        wired = self.registry.workflows.get(run.workflow)
        if wired is None:
            self._spawn(self._suspend_unknown(run))
            return
        live = LiveRun(self, loaded, wired)
        self._live[run.run_id] = live
        live.begin()

    async def _suspend_unknown(self, run: RunRecord) -> None:
        from pikku._records import Commit
        from pikku.errors import UnknownWorkflowError

        error = UnknownWorkflowError(run.workflow, self.registry.workflows)
        log.error("run %s cannot be executed here: %s", run.run_id, error)
        settle = Settle("suspended", error=ErrorInfo.of(error).to_json(), reason="missing_function")
        self.submit(
            Commit(run.run_id, run.turn + 1, None, (), (), (), settle),
            lambda result: None,
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
        self._committer.poke()

    def _swept(self) -> None:
        """What an event would have told, had it not been lost with its process."""
        if self._closed:
            return
        if self._committer.idle:
            self.submit(ReapSessions(), lambda result: None)
            self.submit(FireTimers(), lambda result: None)
        self._sweeps += 1
        if self._sweeps % DEPLOYS_EVERY == 0:
            self._spawn(self._resume_deployed())
        self._sweep = self.loop.call_later(SWEEP_SECONDS, self._swept)

    def _quiet_soon(self) -> None:
        if self._on_quiet is not None:
            self.loop.call_soon(self._quiet)

    def _quiet(self) -> None:
        if self._on_quiet is not None and not self._closed and self.is_quiet:
            self._on_quiet(self._next_due)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way: every run waits for a timer or a word."""
        return self._committer.idle and not self.bodies.busy and not self._tasks

    def _session_lost(self) -> None:
        """Others own our runs now: drop them all, and go on under a new name."""
        if self._closed or self._renewing:
            return
        self._renewing = True
        log.error("%s", LeaseLostError("the lease of this process ran out"))
        for live in list(self._live.values()):
            live.drop()
        self._spawn(self._renew())

    async def _renew(self) -> None:
        while not self._closed:
            try:
                await asyncio.to_thread(self._session.renew)
            except StoreError as error:
                log.warning("no new lease yet: %s", error)
                await asyncio.sleep(SWEEP_SECONDS)
            else:
                self._renewing = False
                self.submit(ReapSessions(), lambda result: None)
                return


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
