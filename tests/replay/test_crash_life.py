"""A crash at any call to the store changes nothing in the whole life of a run: words from outside,
children, races, sagas, repair, edits.

A crash at a reading call would leave what one after the write before it leaves, so only writes are
counted. `PIKKU_TEST_SEED=7` takes a sample with that seed, as a failure prints it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.kit import Ctx, ProxyLab, StoreProxy, Toy, Wf, World
from tests.servers.fixtures import PostgresServers, RedisServers

from pikku import (
    Decision,
    Run,
    Signal,
    SignalTimeoutError,
    StepFailedError,
    StepFailure,
    Undo,
)
from pikku._durations import duration_us
from pikku._records import Op, Reply, RunFilter
from pikku.errors import AlreadyDecidedError, CompensationError, RunStateError
from pikku.stores.base import Store
from pikku.stores.sqlite.store import SqliteStore

PATIENCE = 20.0
SAMPLE = 3
PAIRS = 12
OPENING = 2
"""The first calls open the process: there is nothing yet to be lost."""
UNCOUNTED = {"attempt_lost", "handed_back"}


class Broken(Exception):
    pass


# --- what is said from outside, and when ------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """Something that is said *at* a time, counted from the beginning; said again when the process
    died before it answered, and *refused* then only in the documented way."""

    at: str
    say: Callable[[Toy], Coroutine[Any, Any, Any]]
    refused: tuple[type[Exception], ...] = ()
    dies: bool = False  # the process, when it has been said
    forgets: tuple[str, ...] = ()  # steps that are taken again by it


def run_of(toy: Toy, run_id: str) -> Run[Any]:
    return toy.app.get_run("main", run_id)


def start(at: str = "0s", data: Any = "x", *, run_id: str = "r", **options: Any) -> Word:
    return Word(
        at,
        lambda toy: toy.app.start_workflow("main", data, run_id=run_id, **options),
    )


def signal(at: str, name: str, payload: int, *, run_id: str = "r") -> Word:
    said = f"{name}-{payload}"
    return Word(
        at,
        lambda toy: run_of(toy, run_id).signal(Signal(name), payload, signal_id=said),
        (RunStateError,),
    )


def approve(at: str, step: str, data: Any, **options: Any) -> Word:
    return Word(
        at,
        lambda toy: run_of(toy, "r").approve(step, data, **options),
        (AlreadyDecidedError, RunStateError),
    )


def reject(at: str, step: str, **options: Any) -> Word:
    return Word(
        at,
        lambda toy: run_of(toy, "r").reject(step, **options),
        (AlreadyDecidedError, RunStateError),
    )


def resume(at: str) -> Word:
    return Word(at, lambda toy: run_of(toy, "r").resume(), (RunStateError,))


def cancel(at: str, *, run_id: str = "r") -> Word:
    return Word(at, lambda toy: run_of(toy, run_id).cancel("changed my mind"))


def retry(at: str, *, forgets: tuple[str, ...] = ()) -> Word:
    return Word(at, lambda toy: run_of(toy, "r").retry(), (RunStateError,), forgets=forgets)


# --- workflows: each one declares itself as "main" and returns what is said to its run ---------


class Functions:
    """Functions of the app, and how often each step of each run executed one."""

    def __init__(self, toy: Toy) -> None:
        self.executed: Counter[tuple[str, str]] = Counter()
        self.seconds: Callable[[], float] = lambda: 0.0

        note = self.note

        @toy.func(dispatch="queue")
        async def work(ctx: Ctx, name: str) -> str:
            note(ctx)
            return name.upper()

        @toy.func
        async def broken(ctx: Ctx, name: str) -> str:
            note(ctx)
            raise Broken(name)

        @toy.func(dispatch="queue")
        async def opens(ctx: Ctx, at: int) -> str:
            """Fails until so many seconds have passed."""
            note(ctx)
            if self.seconds() < at:
                raise Broken("too early")
            return "open"

        @toy.func(dispatch="queue")
        async def odd(ctx: Ctx, number: int) -> int:
            note(ctx)
            if number % 2 == 0:
                raise Broken(str(number))
            return number

        @toy.func
        async def tell(ctx: Ctx, failure: StepFailure[Any]) -> str:
            note(ctx)
            return failure.error.type

        @toy.func
        async def release(ctx: Ctx, done: Undo[str, str]) -> str:
            note(ctx)
            if done.input == "stuck":
                raise Broken("stuck")
            return f"released {done.output}"

        self.work, self.broken, self.opens, self.odd = work, broken, opens, odd
        self.tell, self.release = tell, release

    def note(self, ctx: Ctx) -> None:
        """A step executes one of them."""
        self.executed[ctx.step.run_id, ctx.step.key] += 1


Script = Sequence[Word]
Play = Callable[[Toy, Functions], Script]


def signals_early_late_and_missed(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        got: list[Any] = []
        await ctx.workflow.sleep("Nap", "1h")
        got.append(await ctx.workflow.wait_for_signal("Early", go))
        got.append(await ctx.workflow.wait_for_signal("Late", go, timeout="10h"))
        try:
            await ctx.workflow.wait_for_signal("Missed", go, timeout="1h")
        except SignalTimeoutError:
            got.append(await ctx.workflow.do("Remind", f.work, "remind"))
        got.append(await ctx.workflow.wait_for_signal("After all", go))
        return got

    return [start(), signal("10min", "go", 1), signal("2h", "go", 2), signal("4h", "go", 3)]


def approvals(toy: Toy, f: Functions) -> Script:
    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        decisions = await asyncio.gather(
            ctx.workflow.approval("Pay?", schema=int, expires_in="1d", approvers="owner"),
            ctx.workflow.approval("Ship?", schema=int, expires_in="1d"),
            ctx.workflow.approval("Refund?", schema=int, expires_in="2h"),
        )
        said: list[Any] = [[each.outcome, each.data, each.note] for each in decisions]
        last: Decision[None] = await ctx.workflow.approval("Close?")
        return [*said, last.decided_by]

    return [
        start(started_by="ann"),
        approve("1h", "Pay?", 7, by="ann", note="fine"),
        reject("90min", "Ship?", by="bob", note="no"),
        approve("3h", "Close?", None, by="cid"),
    ]


def suspended_amid_steps(toy: Toy, f: Functions) -> Script:
    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        await ctx.workflow.do("Before", f.work, "before")
        got = await asyncio.gather(
            ctx.workflow.suspend("audit"),
            ctx.workflow.sleep("Nap", "30min"),
            ctx.workflow.do("Beside", f.work, "beside"),
        )
        await ctx.workflow.sleep("Rest", "1h")
        await ctx.workflow.suspend("second audit")
        return [got[2], await ctx.workflow.do("After", f.work, "after")]

    return [start(), resume("1h"), resume("3h")]


def cancelled_with_clean_up(toy: Toy, f: Functions) -> Script:
    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> None:
        try:
            await ctx.workflow.do("Before", f.work, "before")
            await ctx.workflow.sleep("Nap", "1d")
        finally:
            await ctx.workflow.do("Clean up", f.work, "clean up")
            await ctx.workflow.sleep("Cool down", "1h")
            await ctx.workflow.do("Report", f.work, "report")

    return [start(), cancel("1h"), cancel("90min")]


def cancelled_with_child_and_grandchild(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow
    async def grandchild(ctx: Wf, x: str) -> int:
        try:
            return await ctx.workflow.wait_for_signal("Wait for ever", go)
        finally:
            await ctx.workflow.do("Clean the grandchild", f.work, "g")

    @toy.workflow
    async def child(ctx: Wf, x: str) -> int:
        try:
            return await ctx.workflow.do("Grandchild", grandchild, x)
        finally:
            await ctx.workflow.do("Clean the child", f.work, "c")

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> None:
        try:
            await ctx.workflow.do("Child", child, x)
        finally:
            await ctx.workflow.do("Clean the parent", f.work, "p")

    return [start(), cancel("1h")]


def children_completed_and_failed(toy: Toy, f: Functions) -> Script:
    @toy.workflow
    async def child(ctx: Wf, name: str) -> str:
        await ctx.workflow.sleep(f"Nap of {name}", "1h")
        target = f.broken if name == "bad" else f.work
        return await ctx.workflow.do(f"Work of {name}", target, name)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        got: list[Any] = [await ctx.workflow.do("Good child", child, "good")]
        try:
            await ctx.workflow.do("Bad child", child, "bad", on_error=f.tell)
        except StepFailedError as failed:
            got.append(failed.error.type)
        return got

    return [start()]


def child_retried_with_delay(toy: Toy, f: Functions) -> Script:
    @toy.workflow
    async def child(ctx: Wf, at: int) -> str:
        return await ctx.workflow.do("Try", f.opens, at)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> Any:
        return await ctx.workflow.do("Child", child, 5000, retries=2, retry_delay="1h")

    return [start()]


def detached_child(toy: Toy, f: Functions) -> Script:
    @toy.workflow
    async def child(ctx: Wf, x: str) -> str:
        await ctx.workflow.sleep("Nap of the child", "5h")
        return await ctx.workflow.do("Work of the child", f.work, x)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> Any:
        made = await ctx.workflow.do("Detached", child, x, detached=True)
        await ctx.workflow.sleep("Nap", "1d")
        return made

    return [start(), cancel("1h")]


def gathered(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow
    async def child(ctx: Wf, x: str) -> str:
        return await ctx.workflow.do("Work of the child", f.work, x)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        got = await asyncio.gather(
            ctx.workflow.do("Work", f.work, "a"),
            ctx.workflow.do("Retried", f.opens, 1800, retries=1, retry_delay="1h"),
            ctx.workflow.do("Child", child, "b"),
            ctx.workflow.wait_for_signal("Word", go),
            ctx.workflow.sleep("Nap", "30min"),
        )
        return list(got)

    return [start(), signal("10min", "go", 1)]


def task_group_given_up(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow
    async def child(ctx: Wf, x: str) -> None:
        try:
            await ctx.workflow.sleep("Nap of the child", "1d")
        finally:
            await ctx.workflow.do("Clean the child", f.work, "c")

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        async def waits() -> None:
            try:
                await ctx.workflow.wait_for_signal("Wait in vain", go)
            finally:
                await ctx.workflow.do("Clean up", f.work, "clean up")

        async def fails() -> None:
            await ctx.workflow.sleep("Nap", "30min")
            await ctx.workflow.do("Break", f.broken, "b")

        got: list[Any] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                group.create_task(ctx.workflow.do("Child", child, "c"))
                group.create_task(fails())
        except* StepFailedError as failed:
            got += [
                each.step_name for each in failed.exceptions if isinstance(each, StepFailedError)
            ]
        return [*got, await ctx.workflow.wait_for_signal("Wait again", go)]

    return [start(), signal("1h", "go", 1)]


def mapped_with_tolerated_failures(toy: Toy, f: Functions) -> Script:
    @toy.workflow
    async def child(ctx: Wf, number: int) -> int:
        await ctx.workflow.sleep(f"Nap {number}", "1h")
        return await ctx.workflow.do(f"Odd {number}", f.odd, number)

    def shown(each: Any) -> Any:
        return f"failed {each.input}" if isinstance(each, StepFailure) else each

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        flow = ctx.workflow
        some = await flow.map(
            "Each", f.odd, range(3), max_concurrency=2, tolerated_failures=2, on_error=f.tell
        )
        more = await flow.map("Child", child, range(3), max_concurrency=2, tolerated_failures=3)
        try:
            await flow.map("Strict", f.odd, [1, 2], max_concurrency=1)
        except StepFailedError as failed:
            return [[shown(each) for each in [*some, *more]], failed.step_name]
        return []

    return [start()]


def handlers_side_by_side(toy: Toy, f: Functions) -> Script:
    @toy.workflow
    async def child(ctx: Wf, name: str) -> str:
        return await ctx.workflow.do("Work of the child", f.broken, name)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        ends = await asyncio.gather(
            ctx.workflow.do("Child", child, "c", on_error=f.tell),
            ctx.workflow.do("Step", f.broken, "s", on_error=f.tell),
            ctx.workflow.do("Job", f.odd, 2, retries=1, retry_delay="1h", on_error=f.tell),
            ctx.workflow.do("Work", f.work, "w"),
            return_exceptions=True,
        )
        return [each.error.type if isinstance(each, StepFailedError) else each for each in ends]

    return [start()]


def race_lost_by_a_signal_that_comes_later(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        first = await ctx.workflow.race(
            ctx.workflow.wait_for_signal("Loser", go), ctx.workflow.sleep("Winner", "1h")
        )
        await ctx.workflow.sleep("Nap", "2h")
        second = await ctx.workflow.race(
            ctx.workflow.wait_for_signal("Takes it", go), ctx.workflow.sleep("Slower", "1h")
        )
        return [*first, *second]

    return [start(), signal("2h", "go", 1)]


def race_lost_by_a_child(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow
    async def child(ctx: Wf, x: str) -> None:
        try:
            await ctx.workflow.sleep("Nap of the child", "1d")
        finally:
            await ctx.workflow.do("Clean the child", f.work, "c")

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        won = await ctx.workflow.race(
            ctx.workflow.do("Child", child, x),
            ctx.workflow.wait_for_signal("Word", go),
            ctx.workflow.do("Break", f.opens, 50_000, retries=20, retry_delay="1h"),
        )
        return [*won, await ctx.workflow.do("After", f.work, "after")]

    return [start(), signal("90min", "go", 1)]


def saga_unwound_by_a_failure(toy: Toy, f: Functions) -> Script:
    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", f.work, "seat", undo=f.release)
            await asyncio.gather(
                saga.do("Room", f.work, "room", undo=f.release),
                saga.do("Car", f.work, "car", undo=f.release),
            )
            await ctx.workflow.sleep("Think", "1h")
            await saga.do("Pay", f.broken, "pay", undo=f.release)

    return [start()]


def saga_unwound_by_a_cancel(toy: Toy, f: Functions) -> Script:
    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> None:
        async with ctx.workflow.saga() as saga:
            await saga.do("Seat", f.work, "seat", undo=f.release)
            await saga.do("Room", f.work, "stuck", undo=f.release)
            await ctx.workflow.approval("Pay?", expires_in="1d")

    return [start(), cancel("1h")]


def saga_that_cannot_be_undone(toy: Toy, f: Functions) -> Script:
    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[str]:
        try:
            async with ctx.workflow.saga() as saga:
                await saga.do("Seat", f.work, "seat", undo=f.release)
                await saga.do("Room", f.work, "stuck", undo=f.release)
                await saga.do("Pay", f.broken, "pay", undo=f.release)
        except CompensationError as failed:
            message = str(failed)
            return [await ctx.workflow.do("Report", f.work, "report"), message]
        return []

    return [start()]


def retried_from_the_failed_step(toy: Toy, f: Functions) -> Script:
    @toy.workflow
    async def child(ctx: Wf, x: str) -> str:
        return await ctx.workflow.do("Work of the child", f.work, x)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        got: list[Any] = [await ctx.workflow.do("Before", f.work, "before")]
        got.append(await ctx.workflow.do("Child", child, "c"))
        try:
            got.append(await ctx.workflow.do("Opens", f.opens, 1800, on_error=f.tell))
        except StepFailedError:
            await ctx.workflow.do("Forgotten", f.work, "forgotten")
            raise
        return [*got, await ctx.workflow.do("After", f.work, "after")]

    lost = ("Opens (on_error)", "Forgotten")
    return [start(), retry("1h", forgets=lost)]


def forked_with_another_input(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        got: list[Any] = [await ctx.workflow.wait_for_signal("Word", go)]
        got.append(await ctx.workflow.do("First", f.work, x))
        await ctx.workflow.sleep("Nap", "1h")
        return got

    return [
        start(),
        signal("10min", "go", 1),
        Word("30min", lambda toy: run_of(toy, "r").fork("First", input="other", run_id="f")),
    ]


def forked_before_a_signal(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        got: list[Any] = [await ctx.workflow.do("First", f.work, x)]
        got.append(await ctx.workflow.wait_for_signal("Word", go))
        return [*got, await ctx.workflow.do("Second", f.work, "second")]

    return [
        start(),
        signal("10min", "go", 1),
        Word("1h", lambda toy: run_of(toy, "r").fork("Word", run_id="f")),
        signal("2h", "go", 2, run_id="f"),
    ]


def patched(toy: Toy, f: Functions) -> Script:
    async def old(ctx: Wf, x: str) -> list[Any]:
        await ctx.workflow.sleep("Nap", "1h")
        return [await ctx.workflow.do("After", f.work, "after")]

    async def new(ctx: Wf, x: str) -> list[Any]:
        got: list[Any] = []
        if ctx.workflow.patched("checked first"):
            got.append(await ctx.workflow.do("Check", f.work, "check"))
        await ctx.workflow.sleep("Nap", "1h")
        if ctx.workflow.patched("checked again"):
            got.append(await ctx.workflow.do("Check again", f.work, "check again"))
        return [*got, await ctx.workflow.do("After", f.work, "after")]

    def deploy(at: str, body: Callable[..., Any]) -> Word:
        async def deployed(toy: Toy) -> None:
            toy.replace(body, name="main")

        return Word(at, deployed, dies=True)

    toy.workflow(old, name="main")
    return [deploy("0s", old), start(), deploy("30min", new), start("30min", run_id="s")]


def started_later(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        got = await ctx.workflow.wait_for_signal("Word", go)
        return [got, await ctx.workflow.do("Work", f.work, x)]

    return [
        start(delay="2h"),
        start("0s", run_id="never", delay="2h"),
        cancel("30min", run_id="never"),
        signal("1h", "go", 1),
    ]


def all_at_one_instant(toy: Toy, f: Functions) -> Script:
    go: Signal[int] = toy.registry.wire_signal(name="go", payload=int)

    @toy.workflow
    async def child(ctx: Wf, x: str) -> str:
        await ctx.workflow.sleep("Nap of the child", "1h")
        return await ctx.workflow.do("Work of the child", f.work, x)

    @toy.workflow(name="main")
    async def main(ctx: Wf, x: str) -> list[Any]:
        flow = ctx.workflow
        order: list[str] = []

        async def naps(name: str, duration: str) -> None:
            await flow.sleep(name, duration)
            order.append(name)

        async def waits() -> None:
            try:
                await flow.wait_for_signal("Word", go, timeout="1h")
            except SignalTimeoutError:
                order.append("Word")

        await asyncio.gather(waits(), naps("One", "1h"), flow.do("Child", child, "c"))
        first, _ = await flow.race(naps("Two", "1h"), naps("Three", "60min"))
        asked = await flow.approval("Decide", expires_in="1h")
        return [order, first, asked.outcome, await flow.do("After", f.work, "after")]

    return [start()]


def out_of_time(toy: Toy, f: Functions) -> Script:
    @toy.workflow(timeout="2h")
    async def child(ctx: Wf, x: str) -> None:
        try:
            await ctx.workflow.approval("Never answered")
        finally:
            await ctx.workflow.do("Clean the child", f.work, "c")

    @toy.workflow(name="main", timeout="4h")
    async def main(ctx: Wf, x: str) -> None:
        try:
            try:
                await ctx.workflow.do("Child", child, x)
            except StepFailedError:
                await ctx.workflow.do("Told", f.work, "told")
            await ctx.workflow.suspend("audit")
        finally:
            await ctx.workflow.do("Clean up", f.work, "clean up")

    return [start()]


PLAYS: list[Play] = [
    signals_early_late_and_missed,
    approvals,
    suspended_amid_steps,
    cancelled_with_clean_up,
    cancelled_with_child_and_grandchild,
    children_completed_and_failed,
    child_retried_with_delay,
    detached_child,
    gathered,
    task_group_given_up,
    mapped_with_tolerated_failures,
    handlers_side_by_side,
    race_lost_by_a_signal_that_comes_later,
    race_lost_by_a_child,
    saga_unwound_by_a_failure,
    saga_unwound_by_a_cancel,
    saga_that_cannot_be_undone,
    retried_from_the_failed_step,
    forked_with_another_input,
    forked_before_a_signal,
    patched,
    started_later,
    all_at_one_instant,
    out_of_time,
]


# --- processes that die at a call --------------------------------------------------------------


class Mortal(StoreProxy):
    """A store whose process dies at some of its calls: before one is carried out, or after it, the
    answer lost on its way."""

    def __init__(self, lab: ProxyLab, store: Store, crashes: Sequence[Crash]) -> None:
        super().__init__(lab, store)
        self.died = asyncio.Event()
        self.deaths = 0
        self._left = {crash.at: crash.before for crash in crashes}

    def live_on(self) -> None:
        """Have the process die no more."""
        self._left.clear()

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        self.applied.append(tuple(ops))
        before = self._left.pop(len(self.applied), None)
        if before is None:
            return await self.inner.apply(session, ops, want)
        if not before:
            await self.inner.apply(session, ops, want)
        self.deaths += 1
        self.lab._crash()
        self.died.set()
        await asyncio.Event().wait()  # until the task that called dies with its process
        raise AssertionError("the process is dead")


@dataclass(frozen=True)
class Crash:
    """A crash at the *at*-th call, *before* it was carried out or after."""

    at: int
    before: bool

    def __str__(self) -> str:
        return f"crash at call {self.at}, {'before it' if self.before else 'its answer lost'}"


@dataclass
class Ended:
    """What there is in the store at the end, and how often each step was executed."""

    runs: dict[str, Any]
    executed: Counter[str]
    calls: int
    crashes: int


class Stage:
    """A lab in which a script is played, by as many processes as it takes."""

    def __init__(self, lab: ProxyLab, toy: Toy, functions: Functions) -> None:
        self.lab, self.toy, self.functions = lab, toy, functions
        self._began_us = lab.clock.now_us()
        self._recorded: set[tuple[str, str]] = set()
        self._executed: Counter[tuple[str, str]] = Counter()
        self._bodies: Counter[str] = Counter()
        functions.seconds = lambda: (lab.clock.now_us() - self._began_us) / 1e6

    async def play(self, script: Script) -> None:
        """All words at their times, and then whatever is to come."""
        for word in script:
            await self._pass_time(self._began_us + duration_us(word.at))
            await self._say(word)
        await self._pass_time(self._began_us + duration_us("30d"))

    async def _still(self) -> None:
        """Nothing is under way, in a process that lives."""
        while True:
            await self.lab.settle()
            if not self.lab.crashed:
                return
            await self._take_note()
            self.mortal.died.clear()
            await self._lives(self.lab.recover())

    async def _lives(self, doing: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
        """What is done, or None where the process died meanwhile."""
        task = asyncio.ensure_future(doing)
        died = asyncio.ensure_future(self.mortal.died.wait())
        await asyncio.wait([task, died], return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if task.done():
            return task
        task.cancel()
        await asyncio.wait([task])
        return None

    async def _pass_time(self, until_us: int) -> None:
        clock = self.lab.clock
        await self._still()
        while (due := clock.next_alarm_us()) is not None and due <= until_us:
            clock.move_to(due)
            await self._still()
        clock.move_to(until_us)
        await self._still()

    async def _say(self, word: Word) -> None:
        said = await self._lives(word.say(self.toy))
        again = said is None
        while said is None:
            await self._still()
            said = await self._lives(word.say(self.toy))
        try:
            await said
        except word.refused:
            if not again:
                raise
        self._recorded -= {each for each in self._recorded if each[1] in word.forgets}
        if word.dies and not self.lab.crashed:
            await self.lab.crash()
        await self._still()

    @property
    def mortal(self) -> Mortal:
        """The store that is asked now."""
        wrapped = self.lab.wrapped
        assert isinstance(wrapped, Mortal)
        return wrapped

    # --- what is the same with and without a crash ----------------------------------------------

    async def _take_note(self) -> None:
        """What is recorded when the process dies, and how often that was executed."""
        for run_id, _, steps in await self._runs():
            self._recorded |= {(run_id, s.key) for s in steps if s.status == "succeeded"}
        self._executed = Counter(self.functions.executed)
        self._bodies = Counter(self.lab._executions)

    async def _runs(self) -> list[tuple[str, Any, Any]]:
        store: Any = self.lab.wrapped.inner
        found = []
        for info in await store.list_runs(RunFilter(limit=1000)):
            loaded = await store.load_steps(info.run_id)
            found.append((info.run_id, loaded.run, loaded.steps))
        return found

    async def ended(self) -> Ended:
        """The end of it all."""
        runs: dict[str, Any] = {}
        for run_id, run, steps in await self._runs():
            history = await self.lab.wrapped.inner.load_history(run_id)
            kinds = Counter((e.kind, e.step) for e in history if e.kind not in UNCOUNTED)
            runs[run_id] = {
                "run": (run.workflow, run.status, run.output, error_type(run.error)),
                "family": (run.parent, run.parent_step, run.forked_from, run.cancel_reason),
                "steps": {
                    s.key: (s.kind, s.target, s.status, s.result, error_type(s.error))
                    for s in steps
                },
                "history": dict(kinds),
            }
        return Ended(
            runs,
            Counter(self.lab._executions),
            len(self.mortal.applied),
            self.mortal.deaths,
        )

    def check_executions(self, expected: Ended) -> None:
        """Nothing recorded was executed again, and each crash lost one attempt of a step at most.

        Of several crashes the last one is looked at: what was recorded then."""
        for step in self._recorded:
            assert self.functions.executed[step] == self._executed[step], f"{step} was recorded"
        shared = Counter(key for _, key in self._recorded)
        for key, runs in shared.items():
            if runs == 1 and not any(k == key for _, k in self.functions.executed):
                assert self.lab.executions(key) == self._bodies[key], f"{key} was recorded"
        for key, count in self.lab._executions.items():
            most = expected.executed[key] + self.mortal.deaths
            assert count <= most, f"{key} was executed too often"


def error_type(error: str | None) -> str | None:
    return None if error is None else json.loads(error)["type"]


@dataclass(frozen=True)
class Theatre:
    """Where a play is played: new stores of one kind, a mode, and what waits in memory."""

    make_url: Callable[[], str]
    mode: str
    sticky: int

    async def play(self, play: Play, *crashes: Crash, expected: Ended | None = None) -> Ended:
        """The play with some crashes; it ends as *expected*."""
        toy = Toy()
        functions = Functions(toy)
        script = play(toy, functions)
        lab = ProxyLab(
            toy.app,
            store=self.make_url(),
            queue_service="store" if self.mode == "remote" else "none",
            auto_advance=False,
            options=World("", self.sticky).options(),
        )
        lab.proxy = lambda lab, store: Mortal(lab, store, crashes)
        told = ", ".join(map(str, crashes))
        async with lab:
            stage = Stage(lab, toy, functions)
            try:
                async with asyncio.timeout(PATIENCE):
                    await stage.play(script)
            except TimeoutError:
                pytest.fail(f"{told}: it does not come to rest")
            ended = await stage.ended()
            if expected is not None:
                assert ended.runs == expected.runs, told
                stage.check_executions(expected)
        return ended


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with nothing in it, to be copied: quicker than to make one."""
    path = tmp_path_factory.mktemp("empty") / "runs.db"

    async def make() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.close()

    asyncio.run(make())
    return path


def is_over(ended: Ended) -> bool:
    return all(state["run"][1] not in ("running", "suspended") for state in ended.runs.values())


@pytest.mark.parametrize("mode", ["inline", "remote"])
@pytest.mark.parametrize("store", ["memory-kept", "memory-evicted", "sqlite-evicted"])
@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
async def test_a_crash_at_any_call_changes_nothing_in_the_life_of_a_run(
    play: Play, store: str, mode: str, empty_file: Path, tmp_path: Path
) -> None:
    numbers = itertools.count()

    def make_url() -> str:
        if store.startswith("memory"):
            return "memory://"
        copy = shutil.copy(empty_file, tmp_path / f"{next(numbers)}.db")
        return f"sqlite:///{copy}?durability=process"

    theatre = Theatre(make_url, mode, 1000 if store.endswith("kept") else 0)
    expected = await theatre.play(play)
    assert is_over(expected)
    at, reached = OPENING, True
    while reached:
        at += 1
        ends = [
            await theatre.play(play, Crash(at, before), expected=expected)
            for before in (True, False)
        ]
        reached = any(end.crashes for end in ends)
    assert at > expected.calls - 3  # what comes at one moment may share a call, or not


def draw_of(play: Callable[..., Any], mode: str) -> random.Random:
    """A source of crashes, whose seed is printed."""
    given = os.environ.get("PIKKU_TEST_SEED")
    seed = int(given) if given else zlib.crc32(f"{play.__name__} {mode}".encode()) % 10_000
    print(f"PIKKU_TEST_SEED={seed}")
    return random.Random(seed)


def drawn(draw: random.Random, calls: int, count: int) -> list[Crash]:
    """So many crashes at different calls of a play that makes *calls* of them."""
    places = draw.sample(range(OPENING + 1, max(calls, OPENING + count) + 1), count)
    return [Crash(at, draw.random() < 0.5) for at in sorted(places)]


@pytest.mark.parametrize("mode", ["inline", "remote"])
@pytest.mark.parametrize("store", ["memory-kept", "memory-evicted"])
@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
async def test_crashes_at_any_two_calls_change_nothing_in_the_life_of_a_run(
    play: Play, store: str, mode: str
) -> None:
    theatre = Theatre(lambda: "memory://", mode, 1000 if store.endswith("kept") else 0)
    expected = await theatre.play(play)
    draw = draw_of(play, f"{store} {mode}")
    for _ in range(PAIRS):
        # The second one comes among the calls that the first one has made necessary.
        pair = drawn(draw, expected.calls + 6, 2)
        await theatre.play(play, *pair, expected=expected)


@pytest.mark.parametrize("mode", ["inline", "remote"])
@pytest.mark.parametrize("server", ["redis", "postgres"])
@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
async def test_a_crash_changes_nothing_on_a_server_either(
    play: Play, server: str, mode: str, request: pytest.FixtureRequest
) -> None:
    if server == "redis":
        caches: RedisServers = request.getfixturevalue("redis_servers")
        make_url = caches.databases().fresh_url
    else:
        databases: PostgresServers = request.getfixturevalue("postgres_servers")
        make_url = databases.emptied_url
    theatre = Theatre(make_url, mode, 0)
    expected = await theatre.play(play)
    assert is_over(expected)
    draw = draw_of(play, mode)
    for crash in drawn(draw, expected.calls, SAMPLE):
        await theatre.play(play, crash, expected=expected)
