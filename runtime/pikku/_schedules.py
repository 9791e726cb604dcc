"""Scheduled tasks: each tick of a schedule is a run, made in advance by the tick before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, cast

from pikku._clock import as_datetime, as_us
from pikku._codec import Codec, codec_for
from pikku._error_info import cancellation
from pikku._functions import Func, Registry, WiredSchedule, WiredWorkflow, Workflow
from pikku._ids import new_session_id
from pikku._payloads import is_sealed
from pikku._records import (
    FINAL_STATUSES,
    CancelRun,
    CreateRun,
    DeleteRun,
    Op,
    OpResult,
    PutRun,
    RunFilter,
    RunRecord,
)
from pikku._retry import Backoff
from pikku._ticks import (
    PREFIX,
    ScheduleInfo,
    Tick,
    TickKind,
    Verdict,
    asked_id,
    healed,
    next_tick,
    pause_id,
    started_id,
    tick_id,
    verdict,
    version_of,
    workflow_of,
)
from pikku.errors import (
    DeclarationError,
    PikkuError,
    StoreError,
    TerminalError,
    UnknownScheduleError,
)

if TYPE_CHECKING:
    from pikku._clock import Clock
    from pikku._engine import Engine
    from pikku._records import RunStatus
    from pikku._workflow import WorkflowWire
    from pikku.stores.base import Store

    class Host(Protocol):
        """What carries out operations: the engine, or a command that executes nothing."""

        store: Store
        clock: Clock
        remote: bool

        async def request(self, op: Op) -> OpResult: ...


# On every run of a schedule, to find the schedules that are in a store.
TAG = "schedule"
# Why a tick is cancelled that whoever resumes its schedule makes up for.
PAUSED = "the schedule was paused"
AT_ONCE = 200
# How many of a schedule's newest runs are looked at: what is to come is among them.
LOOK_AT = 20
# A tick is not given up because the store does not answer.
PATIENCE: dict[str, Any] = {
    "retries": 100_000,
    "retry_delay": Backoff.exponential("500ms", cap="1min"),
}


class Plan(TypedDict):
    """A `Verdict` as a step records it."""

    at: str
    next: str
    said: str
    in_turn: bool
    before: list[str]
    drop: list[str]


# --- the workflow ---------------------------------------------------------------------------------


class TickContext:
    """The `ctx` of a tick: its steps, and what they ask of the store."""

    def __init__(
        self,
        workflow: WorkflowWire,
        run_id: str,
        target: Func[Any, Any] | Workflow[Any, Any],
        schedules: Schedules | None,
    ) -> None:
        self.workflow = workflow
        self.run_id = run_id
        self.target = target
        self._schedules = schedules

    @property
    def schedules(self) -> Schedules:
        assert self._schedules is not None, "a replay executes no step"
        return self._schedules


async def run_tick(ctx: TickContext, tick: Tick) -> str:
    """Make the next tick, and do what is due."""
    steps: Any = ctx.workflow  # what these steps return needs no overload
    run_id = ctx.run_id
    if tick.kind == "paused":
        await steps.do("Resume", lambda: ctx.schedules.begin(tick.name), **PATIENCE)
        return "resumed"
    try:
        plan: Plan = await steps.do("Look", lambda: ctx.schedules.look(run_id, tick), **PATIENCE)
        follows, in_turn = bool(plan["next"]), plan["in_turn"]

        async def make_next() -> None:
            await asyncio.gather(
                ctx.schedules.make(_following(tick, plan)), ctx.schedules.drop(plan["drop"])
            )

        if follows and not in_turn:
            await steps.do("Make next tick", make_next, **PATIENCE)
    except asyncio.CancelledError:
        # By hand: this tick is left out, and the schedule goes on.
        await steps.do("Go on without it", lambda: ctx.schedules.heal(run_id, tick), **PATIENCE)
        raise
    try:
        if plan["at"]:
            await _work(ctx, tick, datetime.fromisoformat(plan["at"]))
    finally:
        if follows and in_turn:
            await steps.do("Make next tick", make_next, **PATIENCE)
    if plan["drop"] and not follows:
        await steps.do("Drop earlier ticks", lambda: ctx.schedules.drop(plan["drop"]), **PATIENCE)
    return plan["said"]


async def _work(ctx: TickContext, tick: Tick, at: datetime) -> None:
    target = ctx.target
    if isinstance(target, Workflow):
        await ctx.workflow.do(
            "Start run", lambda: ctx.schedules.start(ctx.run_id, target, tick, at), **PATIENCE
        )
    elif target.declaration.takes_input:
        await ctx.workflow.do("Call", target, _input(target.declaration.input, at))
    else:
        await ctx.workflow.do("Call", target)


def _input(codec: Codec, at: datetime) -> datetime | None:
    """What a function that takes an input is given: the tick's time, if it takes that."""
    try:
        codec.admit(at, "the time of a tick")
    except PikkuError:
        return None
    return at


def _following(tick: Tick, plan: Plan) -> Tick:
    return Tick(
        tick.name,
        tick.schedule,
        tick.timezone,
        tick.catch_up,
        datetime.fromisoformat(plan["next"]),
        tick.since,
        before=plan["before"],
    )


_TICK: Workflow[Any, Any] = Workflow(run_tick)


def wire_ticks(registry: Registry) -> None:
    """Let the workflow of each schedule be known, so that its runs are executed here.

    Raises:
        DeclarationError: a schedule is for a workflow that is not wired.
    """
    for name, wired in registry.schedules.items():
        target = wired.func
        if isinstance(target, Workflow):
            there = registry.workflows.get(target.name)
            if there is None or there.workflow is not target:
                raise DeclarationError(
                    f"schedule {name!r}: workflow {target.declaration.place} is not wired",
                    hint="give it a name with wire_workflow",
                )
        workflow = workflow_of(name)
        registry.workflows[workflow] = WiredWorkflow(
            workflow, _TICK, wired.description, (TAG,), expose=False
        )
        registry.versions[workflow] = version_of(wired.schedule, wired.timezone, wired.catch_up)


# --- the schedules of an app ----------------------------------------------------------------------


class Schedules:
    """What is done to the schedules that an app has, and to those in its store."""

    def __init__(self, registry: Registry, host: Host) -> None:
        self._registry = registry
        self._host = host
        self._store = host.store

    def _now(self) -> datetime:
        return as_datetime(self._host.clock.now_us())

    # --- their ticks ------------------------------------------------------------------------------

    async def begin_all(self) -> None:
        """Make sure that every wired schedule has its next tick."""
        names = list(self._registry.schedules)
        for start in range(0, len(names), AT_ONCE):
            await asyncio.gather(*(self.begin(name) for name in names[start : start + AT_ONCE]))

    async def begin(self, name: str) -> None:
        """Make sure that the schedule *name* has its next tick: one of today's version."""
        wired = self._registry.schedules.get(name)
        if wired is None:
            return
        now = self._now()
        newest_runs = await self._newest(name)
        heads: list[tuple[Tick, RunRecord]] = []
        for tick, run in _unfinished(newest_runs):
            if _is_pause(tick, run):
                return
            if tick.kind == "tick" and _is_head(run):
                heads.append((tick, run))
        version = version_of(wired.schedule, wired.timezone, wired.catch_up)
        if heads:
            newest, _ = max(heads, key=lambda head: (head[0].since, head[0].at))
            if newest.version == version:
                return
        for tick, run in heads:  # what is due by now is executed as it was meant
            if tick.at > now and tick.version != version:
                await self._cancel(run.run_id, "the schedule has changed")
        after = max([now, *(each.at for each in _done(newest_runs))])
        at = next_tick(wired.schedule, wired.timezone, after)
        if at is not None:
            await self.make(_tick_of(wired, at, now))

    async def make(self, tick: Tick) -> None:
        """Make the run of a tick in advance, unless it is there."""
        text = _codec().admit(tick, "a tick")
        nth = 1
        while True:
            run_id = tick_id(tick.name, tick.at, nth)
            delay_us = as_us(tick.at) - self._host.clock.now_us()
            op = self._create(run_id, tick, text, delay_us if delay_us > 0 else None)
            result = await self._host.request(op)
            if result.code != "exists" or result.run is None:
                return
            there = _read(result.run)
            if there is None or there.since == tick.since or not _goes_on(result.run, there, tick):
                return
            if result.run.cancel_us is None and result.run.status not in FINAL_STATUSES:
                await self._cancel(run_id, "the schedule has changed")
            nth += 1

    def _create(self, run_id: str, tick: Tick, text: str, delay_us: int | None) -> CreateRun:
        return CreateRun(
            run_id,
            workflow_of(tick.name),
            text,
            tick.version,
            not self._host.remote,
            False,
            (TAG,),
            None,
            None,
            delay_us=delay_us,
        )

    async def look(self, run_id: str, tick: Tick) -> Plan:
        """What becomes of the tick that begins now. It changes nothing, so that a step that lost
        its process decides anew."""
        now = self._now()
        if tick.kind == "asked":
            return _planned(Verdict(tick.at, None, "done"))
        newest = await self._newest(tick.name)
        paused, row_ends = _others(tick, newest)
        statuses = {run.run_id: run.status for run in newest}
        kept, drop, completed = [run_id], list[str](), False
        for earlier in tick.before[:LOOK_AT]:
            status = statuses.get(earlier)
            if status is None:
                run = await self._store.load_run(earlier)
                status = None if run is None else run.status
            if status == "completed" and completed:
                drop.append(earlier)
            elif status in ("running", "completed"):
                completed = completed or status == "completed"
                kept.append(earlier)
        return _planned(verdict(tick, now, row_ends=row_ends, paused=paused), kept, drop)

    async def heal(self, run_id: str, tick: Tick) -> None:
        """Make the next tick where the run of this one was cancelled.

        Not where its schedule was paused by that: whoever resumes it makes the next one.
        """
        run = await self._store.load_run(run_id)
        if tick.kind == "asked" or (run is not None and run.cancel_reason == PAUSED):
            return
        paused, row_ends = _others(tick, await self._newest(tick.name))
        made = healed(tick, self._now(), row_ends=row_ends, paused=paused)
        if made.next is not None:
            await self.make(_following(tick, _planned(made, tick.before)))

    async def drop(self, run_ids: Sequence[str]) -> None:
        """Delete the runs of earlier ticks, which have completed."""
        await asyncio.gather(*(self._host.request(DeleteRun(run_id)) for run_id in run_ids))

    async def start(
        self, run_id: str, workflow: Workflow[Any, Any], tick: Tick, at: datetime
    ) -> str:
        """Start the run of *workflow* for a tick, or find it; its id.

        Raises:
            TerminalError: it cannot be started.
        """
        engine = cast("Engine", self._host)
        declaration = workflow.declaration
        data = _input(declaration.input, at) if declaration.takes_input else None
        try:
            made, _ = await engine.start_or_find(
                engine.registry.workflow(workflow.name),
                declaration.input.admit(data, f"workflow {workflow.name!r}"),
                run_id=started_id(run_id, tick, at),
                wait=False,
                started_by=workflow_of(tick.name),
            )
        except StoreError:
            raise
        except PikkuError as error:
            raise TerminalError(str(error)) from error
        return made

    # --- words from outside -----------------------------------------------------------------------

    async def pause(self, name: str) -> None:
        """Have no tick of the schedule come until it is resumed; what is under way ends.

        Raises:
            UnknownScheduleError: there is no such schedule.
        """
        wired = self._registry.schedule(name)
        marker = pause_id(name)
        if (there := await self._store.load_run(marker)) is not None:
            if there.status not in FINAL_STATUSES:
                return
            await self._host.request(DeleteRun(marker))
        tick = _tick_of(wired, self._now(), self._now(), "paused")
        await self._host.request(PutRun(self._marker(marker, tick), (), ()))
        await self._call_off(name, PAUSED)

    def _marker(self, run_id: str, tick: Tick) -> RunRecord:
        now_us = self._host.clock.now_us()
        return RunRecord(
            run_id=run_id,
            workflow=workflow_of(tick.name),
            status="suspended",
            input=_codec().admit(tick, "a tick"),
            output=None,
            error=None,
            version=tick.version,
            inline=not self._host.remote,
            run_attempt=1,
            owner=None,
            queued=False,
            turn=0,
            turned_by=None,
            deliveries=0,
            tags=(TAG,),
            started_by=None,
            created_us=now_us,
            updated_us=now_us,
            finished_us=None,
            cancel_us=None,
            cancel_kind=None,
            cancel_reason=None,
            cancel_delivery=None,
            suspend_reason="requested",
        )

    async def _call_off(self, name: str, reason: str) -> None:
        """Cancel the ticks that have not begun."""
        for tick, run in await self._unfinished(name):
            if tick.kind == "tick" and _is_head(run) and not run.turn:
                await self._cancel(run.run_id, reason)

    async def resume(self, name: str) -> None:
        """Have the schedule go on with its next tick from now; those meanwhile are not made up for.

        Raises:
            UnknownScheduleError: there is no such schedule.
        """
        self._registry.schedule(name)
        await self._end(pause_id(name), "the schedule was resumed")
        await self.begin(name)

    def asked(self, name: str) -> tuple[WiredWorkflow, str, str]:
        """The workflow, the input and the id of an extra tick, now.

        Raises:
            UnknownScheduleError: there is no such schedule.
        """
        wired = self._registry.schedule(name)
        now = self._now()
        tick = _tick_of(wired, now.replace(microsecond=0), now, "asked")
        run_id = asked_id(name, now, new_session_id()[:8])
        text = _codec().admit(tick, "a tick")
        return self._registry.workflows[workflow_of(name)], text, run_id

    async def ask(self, name: str) -> str:
        """Make the run of an extra tick, for whoever executes runs; its id.

        Raises:
            UnknownScheduleError: there is no such schedule.
        """
        _, text, run_id = self.asked(name)
        tick = _codec().decode(text, "a tick")
        await self._host.request(self._create(run_id, tick, text, None))
        return run_id

    async def remove(self, name: str) -> int:
        """Remove what the store has of a schedule that the app has no more; how many runs go.

        Raises:
            UnknownScheduleError: the store has nothing of it.
        """
        every = RunFilter(workflow=workflow_of(name), limit=100_000)
        runs = await self._store.list_runs(every)
        if not runs:
            known = [each.name for each in await self.listed() if not each.wired]
            raise UnknownScheduleError(name, known)
        for run in runs:
            await self._end(run.run_id, "the schedule was removed")
        return len(runs)

    async def _end(self, run_id: str, reason: str) -> None:
        """End a run and delete it; one that has to unwind first is left to whoever executes it."""
        run = await self._store.load_run(run_id)
        if run is None:
            return
        if run.status not in FINAL_STATUSES:
            await self._cancel(run_id, reason, forced=cancellation(run_id, run.workflow, reason))
        await self._host.request(DeleteRun(run_id))

    async def _cancel(self, run_id: str, reason: str, *, forced: str | None = None) -> None:
        await self._host.request(CancelRun(run_id, reason, forced=forced))

    # --- reading ----------------------------------------------------------------------------------

    async def listed(self) -> list[ScheduleInfo]:
        """Every schedule that is wired or in the store, by name."""
        unfinished: dict[str, list[tuple[Tick, RunRecord]]] = {}
        unended: tuple[RunStatus, ...] = ("running", "suspended")
        for status in unended:
            wanted = RunFilter(tag=TAG, status=status, limit=1_000_000)
            for run in await self._store.list_runs(wanted):
                if run.workflow.startswith(PREFIX) and (tick := _read(run)) is not None:
                    unfinished.setdefault(tick.name, []).append((tick, run))
        names = sorted({*self._registry.schedules, *unfinished})
        found: list[ScheduleInfo] = []
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            found += [
                each
                for each in await asyncio.gather(
                    *(self._info(name, unfinished.get(name, [])) for name in part)
                )
                if each is not None
            ]
        return found

    async def _info(
        self, name: str, unfinished: Sequence[tuple[Tick, RunRecord]]
    ) -> ScheduleInfo | None:
        wired = self._registry.schedules.get(name)
        heads = [
            tick
            for tick, run in unfinished
            if tick.kind == "tick" and run.turn == 0 and run.cancel_us is None
        ]
        head = max(heads, key=lambda each: (each.since, each.at), default=None)
        paused = any(_is_pause(*each) for each in unfinished)
        if wired is None and all(run.cancel_us is not None for _, run in unfinished):
            return None
        known: Any = wired or head or unfinished[0][0]
        last = await self._last(name)
        return ScheduleInfo(
            name,
            known.schedule,
            known.timezone,
            known.catch_up,
            "" if wired is None else wired.description,
            paused,
            None if head is None or paused else head.at,
            None if last is None else last.run_id,
            None if last is None else last.status,
            None if last is None else as_datetime(last.finished_us or last.updated_us),
            wired is not None,
        )

    async def _last(self, name: str) -> RunRecord | None:
        ended = _ended(await self._newest(name))
        return max(ended, key=lambda run: run.finished_us or 0, default=None)

    async def _unfinished(self, name: str) -> list[tuple[Tick, RunRecord]]:
        return _unfinished(await self._newest(name))

    async def _newest(self, name: str) -> list[RunRecord]:
        # Not by status: of two indexes, a store may take the one that has every schedule's runs.
        return await self._store.list_runs(RunFilter(workflow=workflow_of(name), limit=LOOK_AT))


def _others(tick: Tick, runs: Sequence[RunRecord]) -> tuple[bool, datetime | None]:
    """Whether the schedule is paused, and when a younger row of ticks has begun."""
    found = _unfinished(runs)
    younger = [
        each.since
        for each, run in found
        if each.kind == "tick" and each.since > tick.since and run.cancel_us is None
    ]
    return any(_is_pause(*each) for each in found), min(younger, default=None)


def _ended(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The ticks that were executed."""
    return [run for run in runs if run.status in ("completed", "failed")]


def _done(runs: Sequence[RunRecord]) -> list[Tick]:
    ticks = [_read(run) for run in _ended(runs)]
    return [tick for tick in ticks if tick is not None and tick.kind == "tick"]


def _unfinished(runs: Sequence[RunRecord]) -> list[tuple[Tick, RunRecord]]:
    """What is to come, under way or stands still, and the mark of a pause."""
    found: list[tuple[Tick, RunRecord]] = []
    for run in runs:
        if run.status not in FINAL_STATUSES and (tick := _read(run)) is not None:
            found.append((tick, run))
    return found


def _codec() -> Codec:
    return codec_for(Tick, "the input of a tick")


def _read(run: RunRecord) -> Tick | None:
    """The tick that a run is; None where it cannot be read."""
    if is_sealed(run.input):
        return None
    try:
        tick: Tick = _codec().decode(run.input, f"the input of run {run.run_id}")
    except PikkuError:
        return None
    return tick


def _is_pause(tick: Tick, run: RunRecord) -> bool:
    """Whether a run says that its schedule is paused."""
    return tick.kind == "paused" and run.status == "suspended"


def _is_head(run: RunRecord) -> bool:
    """Whether a tick's run will make the next one."""
    if run.cancel_us is not None:
        return False
    return run.status == "running" or run.suspend_reason == "missing_function"


def _goes_on(run: RunRecord, there: Tick, tick: Tick) -> bool:
    """Whether a tick is made although there is a run of its time: that one was called off, or
    belongs to an older schedule."""
    if run.status in ("completed", "failed"):
        return False
    if run.cancel_us is not None or run.status == "cancelled":
        return True
    return there.version != tick.version and tick.since > there.since


def _tick_of(wired: WiredSchedule, at: datetime, since: datetime, kind: TickKind = "tick") -> Tick:
    return Tick(wired.name, wired.schedule, wired.timezone, wired.catch_up, at, since, kind)


def _planned(made: Verdict, before: Sequence[str] = (), drop: Sequence[str] = ()) -> Plan:
    return {
        "at": "" if made.at is None else made.at.isoformat(),
        "next": "" if made.next is None else made.next.isoformat(),
        "said": made.said,
        "in_turn": made.in_turn,
        "before": list(before),
        "drop": list(drop),
    }
