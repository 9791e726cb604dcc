"""One history: the processes, the programs, the words and the faults that a seed draws, and what
has to hold whatever they are.

L every accepted run ends once the faults have. O what a steady program gives is what it gives
without faults. R no body begins once its step has an outcome, unless its process stood still
between its last look at its lease and the body's first line. Z what is recorded as ended does not
change (the server looks). D no run is ever without a next action. F no process that moves holds
what it knows nothing of. Besides, nothing is said to be a bug, and nobody is told what cannot be.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import pytest
from tests.runtime.kit import Toy
from tests.simulation.network import Line, Server, Weather
from tests.simulation.programs import (
    PLAIN,
    SIGNALS,
    Program,
    deployed,
    drawn_program,
    expected,
)
from tests.simulation.summary import Summary
from tests.simulation.world import SECOND, Process, World

from pikku import App
from pikku._app import OpenApp
from pikku._bodies import Attempt
from pikku._records import FINAL_STATUSES, LoadedRun, is_forsaken
from pikku._settings import EngineOptions, Work
from pikku.errors import AlreadyDecidedError, AppNotOpenError, RunStateError, StoreError

FAULTS = ("kill", "freeze", "cut off", "cut off one way", "leave", "storm")
LOOK_EVERY_US = 3 * SECOND
# After its app is closed, whoever waits for an answer has to be told: as late as a read is.
TOLD_WITHIN_SECONDS = 10.0
# For how many looks in a row a process may not have heard of what it holds: answers are lost.
UNHEARD_FOR = 12
# How long the runs of a healthy world may take.
PATIENCE_US = 400 * SECOND


@dataclass(frozen=True)
class Story:
    """A run that somebody wants: its id, its program, and what that gives, if it is steady."""

    run_id: str
    program: Program
    steady: bool


@dataclass
class Plan:
    """What a seed draws before anything happens."""

    remote: bool
    pushes: bool
    sticky: int
    lease_seconds: float
    processes: int
    concurrency: int
    slow_bodies: bool
    stories: list[Story]
    faults: tuple[str, ...]
    every_us: int
    loss: float
    slow: float
    stormy_us: int

    @staticmethod
    def drawn(draw: Random, *, faults: bool = True) -> Plan:
        """The plan that *draw* makes; the same one without *faults*, but for these."""
        stories: list[Story] = []
        for number in range(draw.randint(1, 4)):
            wild = draw.random() < 0.3
            if not wild and draw.random() < 0.3:
                program = draw.choice(PLAIN)
            else:
                program = drawn_program(draw, draw.choice([1, 2, 2, 3]), wild=wild)
            stories.append(Story(f"r{number}", program, not wild))
        kinds = tuple(kind for kind in FAULTS if draw.random() < 0.5)
        plan = Plan(
            remote=draw.random() < 0.6,
            pushes=draw.random() < 0.5,
            sticky=draw.choice([0, 1, 1000]),
            lease_seconds=draw.choice([2.0, 2.0, 6.0]),
            processes=draw.randint(2, 4),
            concurrency=draw.choice([1, 2, 100]),
            slow_bodies=draw.random() < 0.5,
            stories=stories,
            faults=kinds,
            every_us=draw.choice([1, 2, 4]) * SECOND,
            loss=draw.choice([0.0, 0.02, 0.1]),
            slow=draw.choice([0.0, 0.05, 0.3]),
            stormy_us=draw.randint(5, 15) * SECOND,
        )
        if not faults:
            plan.faults, plan.loss, plan.slow = (), 0.0, 0.0
        return plan


@cache
def code(version: str = "") -> Toy:
    """What is deployed in every process, or in those of a version."""
    toy = deployed()
    if version:
        toy.registry.versions.update(top=version, sub=version)
    return toy


class AppProcess(Process):
    """A process that has the app open. It is its app's services."""

    def __init__(self, history: History, name: str, version: str) -> None:
        super().__init__(history.world, name)
        self._history = history
        self.version = version
        plan = history.plan
        toy = code(version)
        self.app: App[Any] = App(registry=toy.registry, package="toy")
        self.opened: OpenApp | None = None
        self.is_open = False
        self.people: list[asyncio.Task[Any]] = []
        self._looked_us: dict[tuple[str, int], int] = {}
        self._line = Line(self, history.server, history.weather, pushes=plan.pushes)
        self.run(self._open(), "opens")

    def run(self, coro: Coroutine[Any, Any, Any], what: str) -> None:
        """Do something in the process; what it cannot do without the store ends the process."""

        async def running() -> None:
            try:
                await coro
            except StoreError as error:
                self.world.note(self, f"{what}: {error}")
                self._end()
            except Exception as error:
                self.world.blame(f"{self} {what}: {error!r}")

        self.spawn(running())

    async def _open(self) -> None:
        plan = self._history.plan
        options = EngineOptions(
            lease_seconds=plan.lease_seconds,
            sticky=plan.sticky,
            drain_seconds=2.0,
            max_lost_attempts=1000,
        )
        self.app._open = await self.app._opened(
            {"queue_service": "store" if plan.remote else "none"},
            self,
            options,
            store=self._line,
            work=Work(concurrency=plan.concurrency),
            prepare=self._prepare,
        )
        self.is_open = True
        self.world.note(self, "is open")

    def _prepare(self, opened: OpenApp) -> None:
        self.opened = opened
        bodies = opened.engine.bodies
        enter = bodies._enter

        def looking(attempt: Attempt, begin: Callable[[Attempt], None], alone: bool) -> None:
            flight: Any = attempt.cancellation
            self._looked_us[flight.ask.key, flight.attempt] = self.world.now_us
            enter(attempt, begin, alone)

        bodies._enter = looking  # type: ignore[method-assign]

    async def leave(self) -> None:
        """Close the app, and end."""
        self.is_open = False
        opened = self.opened
        assert opened is not None
        await opened.closing.aclose()
        if self.people:
            await asyncio.wait(self.people, timeout=TOLD_WITHIN_SECONDS)
        if any(not task.done() for task in self.people):
            self.world.blame(f"{self} is closed, and somebody still waits for its answer")
        self._end()

    def _end(self) -> None:
        self.later(0, self._history.replaced(self))

    def kill(self) -> None:
        """Die here and now."""
        opened = self.opened
        self.is_open = False
        self.die(lambda: opened.engine.kill() if opened is not None else None)

    # --- the services of the app ----------------------------------------------------------------

    def began(self, run_id: str, key: str, attempt: int) -> None:
        """A body begins: if its step has an outcome, its process must have stood still since it
        looked at its lease."""
        self.world.note(self, f"begins {key} of {run_id}, attempt {attempt}")
        self.world.counts["bodies"] += 1
        if not self._history.server.is_recorded(run_id, key):
            return
        looked_us = self._looked_us.get((key, attempt), self.world.now_us)
        if self.thawed_us > looked_us:
            self.world.counts["late bodies"] += 1
        else:
            self.world.blame(f"R: step {key} of run {run_id} has an outcome and begins again")

    def work_seconds(self) -> float:
        """How long a body takes."""
        draw = self.world.draw
        if not self._history.plan.slow_bodies or draw.random() < 0.3:
            return 0.0
        return draw.choice([0.01, 0.1, 1.0, 3.0])


class History:
    """A world from its beginning until all its runs have ended."""

    def __init__(
        self,
        seed: int,
        *,
        traced: bool = False,
        faults: bool = True,
        make_server: Callable[[World], Server] = Server,
    ) -> None:
        self.seed = seed
        self.world = World(seed, traced=traced)
        self.plan = Plan.drawn(self.world.draw, faults=faults)
        self.server = make_server(self.world)
        self.weather = Weather(self.world)
        self.accepted: set[str] = set()
        self._names = 0
        self._calm = False
        self._words = 0
        # In some histories the processes have two versions of the code, and half of the runs are
        # executed by the one that they began under; in some nobody compares himself with the store.
        self._versions = ("v1", "v2") if seed % 3 == 0 else ("",)
        self._audits = seed % 2 == 0
        self._forgotten: Counter[tuple[Any, ...]] = Counter()

    # --- the course of events -------------------------------------------------------------------

    def play(self) -> list[str]:
        """What is wrong with it."""
        world, plan = self.world, self.plan
        world.note("seed", f"{self.seed}: {plan}")
        with world.as_machine(), _no_bugs(world), pytest.MonkeyPatch.context() as patch:
            if not self._audits:
                patch.setattr("pikku._engine.AUDIT_EVERY", 10**9)
            for number in range(plan.processes):
                self._start_process(self._versions[number % len(self._versions)])
            for number, story in enumerate(plan.stories):
                pinned = len(self._versions) > 1 and number % 2 == 0
                starting = self._starting(story, pinned=pinned)
                world.after(world.draw.randrange(3 * SECOND), starting)
                for _ in range(world.draw.randint(0, 3)):
                    at = world.draw.randrange(plan.stormy_us)
                    world.after(at, self._saying(story, self._early_word(story)))
            self.weather.loss, self.weather.slow = plan.loss, plan.slow
            if plan.faults:
                world.after(world.draw.randrange(plan.every_us), self._strike)
            world.after(plan.stormy_us, self._calm_down)
            world.after(LOOK_EVERY_US, self._look)
            if not world.run(self._is_over, PATIENCE_US) and not world.wrong:
                self._blame_the_living()
            self._judge()
            for process in list(world.processes):
                assert isinstance(process, AppProcess)
                process.kill()
        return world.wrong

    @property
    def summary(self) -> Summary:
        """What happened in it."""
        return Summary(1, self.world.seconds, self.world.counts)

    def _is_over(self) -> bool:
        return self._calm and len(self.accepted) == len(self.plan.stories) and self.server.all_final

    def _start_process(self, version: str) -> None:
        self._names += 1
        AppProcess(self, f"p{self._names}", version)

    def replaced(self, process: AppProcess) -> Callable[[], None]:
        """Have *process* be dead, and another one come."""

        def replace() -> None:
            if not process.dead:
                process.kill()
                self.world.after(
                    self.world.draw.randrange(2 * SECOND),
                    lambda: self._start_process(process.version),
                )

        return replace

    def _calm_down(self) -> None:
        """No more faults."""
        self._calm = True
        self.weather.loss = self.weather.slow = 0.0
        self.world.note("world", "calms down")
        for process in list(self.world.processes):
            process.cut_in = process.cut_out = False
            process.thaw()
        self._talk()

    def _look(self) -> None:
        for symptom in self.server.symptoms():
            self.world.blame(f"D: {symptom}")
        forgotten = {
            each for process in self.world.processes for each in self._forgotten_by(process)
        }
        self._forgotten = Counter({each: self._forgotten[each] + 1 for each in forgotten})
        for each, looks in self._forgotten.items():
            if looks >= UNHEARD_FOR:
                self.world.blame(f"F: forgotten: {each}")
        self.world.after(LOOK_EVERY_US, self._look)

    def _forgotten_by(self, process: Process) -> Iterator[tuple[Any, ...]]:
        """What the store takes a process to hold that lives and moves, and does not know of it; and
        the steps of its runs that only their owner executes, and others have begun."""
        if not isinstance(process, AppProcess) or process.opened is None or not process.is_open:
            return
        engine = process.opened.engine
        hindered = process.frozen or process.cut_in or process.cut_out or engine._renewing
        if hindered or engine.draining:
            return
        session = engine.session_id
        held = self.server.held_by(session)
        for run_id in held.runs:
            loaded = self.server.loaded(run_id)
            if run_id not in engine._live and run_id not in engine._coming:
                yield session, run_id, loaded.run.turn
            for step in loaded.steps:
                if is_forsaken(step, loaded.run):
                    yield session, run_id, step.key, step.attempt, step.worker
        for run_id, key in held.jobs.difference(engine.jobs.held):
            yield session, run_id, key

    # --- faults ---------------------------------------------------------------------------------

    def _strike(self) -> None:
        world, draw = self.world, self.world.draw
        if self._calm:
            return
        world.after(draw.randrange(1, 2 * self.plan.every_us), self._strike)
        process = draw.choice(world.processes) if world.processes else None
        if not isinstance(process, AppProcess) or process.frozen:
            return
        kind = draw.choice(self.plan.faults)
        if kind == "leave" and not process.is_open:
            return
        world.counts[kind] += 1
        world.note(process, f"fault: {kind}")
        lease_us = int(self.plan.lease_seconds * SECOND)
        match kind:
            case "kill":
                process.soon(self.replaced(process))
            case "freeze":
                us = draw.randrange(lease_us // 2, lease_us * 3)
                process.soon(lambda: self._freeze(process, us))
            case "leave":
                process.run(process.leave(), "leaves")
            case "storm":
                self.weather.loss, self.weather.slow = 0.4, 0.5
                world.after(draw.randrange(SECOND, 3 * SECOND), self._end_storm)
            case _:
                ways = (
                    (True, True)
                    if kind == "cut off"
                    else draw.choice([(True, False), (False, True)])
                )
                process.cut_out, process.cut_in = ways
                us = draw.randrange(lease_us // 2, lease_us * 3)
                world.after(us, lambda: self._mend(process))

    def _freeze(self, process: AppProcess, us: int) -> None:
        if not self._calm:
            process.freeze()
            self.world.after(us, process.thaw)

    def _end_storm(self) -> None:
        if not self._calm:
            self.weather.loss, self.weather.slow = self.plan.loss, self.plan.slow

    def _mend(self, process: AppProcess) -> None:
        process.cut_in = process.cut_out = False
        self.world.note(process, "is on the line again")

    # --- what people do -------------------------------------------------------------------------

    def _early_word(self, story: Story) -> str:
        draw = self.world.draw
        known = [*SIGNALS, "approve", "resume"]
        if not story.steady:
            known += ["reject", "cancel", "cancel"]
        return draw.choice(known)

    def _starting(self, story: Story, *, pinned: bool) -> Callable[[], None]:
        async def start(app: App[Any]) -> None:
            given = [story.run_id, story.program]
            await app.start_workflow("top", given, run_id=story.run_id, wait=False, pinned=pinned)
            self.accepted.add(story.run_id)
            self.world.note("people", f"{story.run_id} is accepted")

        return lambda: self._do(start)

    def _saying(self, story: Story, word: str) -> Callable[[], None]:
        self._words += 1
        word_id = f"word-{self._words}"

        def say() -> None:
            if story.run_id in self.accepted:
                self._do(lambda app: self._say(app, "top", story.run_id, word, word_id))
            elif not self._calm:
                self.world.after(SECOND, say)

        return say

    async def _say(
        self, app: App[Any], workflow: str, run_id: str, word: str, word_id: str
    ) -> None:
        run = app.get_run(workflow, run_id)
        self.world.note("people", f"say {word} to {run_id}")
        with contextlib.suppress(RunStateError, AlreadyDecidedError):
            match word:
                case "approve" | "reject":
                    answer = run.approve if word == "approve" else run.reject
                    for request in await run.approvals():
                        await answer(request.step, by="bob")
                case "resume":
                    await run.resume()
                case "cancel":
                    await run.cancel("enough")
                case _:
                    await run.signal(code().registry.signals[word], 7, signal_id=word_id)

    def _do(self, what: Callable[[App[Any]], Coroutine[Any, Any, None]]) -> None:
        """Have it done in some process; again in another one, if nobody knows whether it was."""
        there = [p for p in self.world.processes if isinstance(p, AppProcess) and p.is_open]

        def again() -> None:
            self.world.after(SECOND, lambda: self._do(what))

        if not there:
            again()
            return
        process = self.world.draw.choice(there)

        async def doing() -> None:
            done = False
            try:
                await what(process.app)
                done = True
            except (StoreError, AppNotOpenError):
                pass
            except Exception as error:
                self.world.blame(f"somebody at {process} was told {error!r}")
                done = True
            finally:
                if not done:
                    again()

        process.wake(lambda: process.people.append(process.spawn(doing())))

    def _talk(self) -> None:
        """Say whatever is still waited for."""
        for loaded in self.server.everything():
            run = loaded.run
            for word in dict.fromkeys(_wanted_words(loaded)):
                self._words += 1
                self._do(self._word_for(run.workflow, run.run_id, word, f"word-{self._words}"))
        self.world.after(2 * SECOND, self._talk)

    def _word_for(
        self, workflow: str, run_id: str, word: str, word_id: str
    ) -> Callable[[App[Any]], Coroutine[Any, Any, None]]:
        return lambda app: self._say(app, workflow, run_id, word, word_id)

    # --- the judgement --------------------------------------------------------------------------

    def _blame_the_living(self) -> None:
        for story in self.plan.stories:
            if story.run_id not in self.accepted:
                self.world.blame(f"L: {story.run_id} was never accepted")
        for loaded in self.server.everything():
            if loaded.run.status not in FINAL_STATUSES:
                steps = [f"{step.key}: {step.status}" for step in loaded.steps]
                self.world.blame(f"L: {loaded.run} has not ended: {', '.join(steps)}")

    def _judge(self) -> None:
        world = self.world
        for symptom in self.server.symptoms():
            world.blame(f"D: {symptom}")
        if world.wrong:
            return
        ended = {loaded.run.run_id: loaded.run for loaded in self.server.everything()}
        world.counts["runs"] += len(ended)
        for story in self.plan.stories:
            run = ended.get(story.run_id)
            if run is None:
                world.blame(f"L: {story.run_id} was accepted and is not there")
            elif story.steady:
                given = json.loads(run.output) if run.output is not None else run.error
                if run.status != "completed" or given != expected(story.program):
                    world.blame(
                        f"O: {story.run_id} is {run.status} with {given!r}, and {story.program} "
                        f"gives {expected(story.program)!r}"
                    )


def _wanted_words(loaded: LoadedRun) -> list[str]:
    """What would let the run go on."""
    if loaded.run.status in FINAL_STATUSES:
        return []
    if loaded.run.status == "suspended":
        return ["resume"]
    words: list[str] = []
    for step in loaded.steps:
        if step.status == "scheduled" and step.kind == "signal":
            words.append(step.target)
        elif step.status == "scheduled" and step.kind == "approval":
            words.append("approve")
    return words


class _Bugs(logging.Handler):
    """What the product says is a bug of its own."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.CRITICAL)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.blame(f"the log says: {self.format(record)}")


@contextlib.contextmanager
def _no_bugs(world: World) -> Generator[None]:
    """Hear the log; without the collector, which would take an eighth of the time."""
    log = logging.getLogger("pikku")
    handler = _Bugs(world)
    level, spread = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.CRITICAL)
    log.propagate = False
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        log.propagate = spread
        log.setLevel(level)
        log.removeHandler(handler)
