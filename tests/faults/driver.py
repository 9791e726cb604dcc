"""A site of workers on one store: starts runs, does things to processes and connections, judges.

Everything random comes from the scenario's seed; times do not, so a seed repeats a plan and not an
interleaving.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults import fault_app
from tests.faults.clocks import CLOCK_FILE, clock_of
from tests.faults.invariants import Fault, Figures, Judge, Story
from tests.faults.places import Place
from tests.servers.ledger import VARIABLE, Ledger
from tests.servers.proxy import FaultProxy

from pikku import Run
from pikku._records import FINAL_STATUSES, LoadedRun
from pikku._settings import EngineOptions
from pikku.errors import PikkuError, RunStateError, StoreError

ROOT = Path(__file__).parents[2]
APP = "tests.faults.fault_app"
LEASE_SECONDS = 1.5
PATIENCE_SECONDS = 60.0
MIXED = ("order", "fan", "race")
# For a worker that leaves others something to do.
FEW = ("--concurrency", "2")
# What no log of a worker may hold: each is an exception that nobody expected.
BUGS = (
    "a bug in pikku",
    "Traceback",
    "never retrieved",
    "InternalError",
    "was destroyed but",
)
# What mends itself has been broken before: by us, unless it is a run that was damaged on purpose.
MENDED = ("was forgotten", "claimed here and forgotten", "does not go by its records")


def bugs(log: str, damaged: Collection[str] = ()) -> list[str]:
    """What *log* says that it may not say; of runs that are *damaged* it may say that they are
    mended."""
    others = "\n".join(
        line
        for line in log.splitlines()
        if not any(re.search(rf"\brun {re.escape(each)}(?![\w-])", line) for each in damaged)
    )
    return [each for each in BUGS if each in log] + [each for each in MENDED if each in others]


def monotonic_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Broken(AssertionError):
    """An invariant does not hold; what was counted all the same."""

    def __init__(self, wrong: str, figures: Figures | None = None) -> None:
        super().__init__(wrong)
        self.figures = figures or Figures()


class WorkerProcess:
    """A `pikku worker` of ours; its log outlives it."""

    def __init__(
        self,
        folder: Path,
        number: int,
        url: str,
        environment: dict[str, str],
        *words: str,
        proxied: bool = False,
    ) -> None:
        self.number = number
        self.proxied = proxied
        self.log_file = folder / f"worker-{number}.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker", "worker", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**environment, "PIKKU_STORE": url, "PIKKU_APP": APP},
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def settled(self) -> bool:
        """Whether it is ready for work, or will never be."""
        return "worker of" in self.log or not self.alive

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def drain(self) -> int:
        """Asked to stop: how it ended."""
        self.send(signal.SIGTERM)
        return self.wait()

    def wait(self, patience: float = 20.0) -> int:
        """How it ended; killed if it takes too long."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Site:
    """Workers, runs and faults of one scenario."""

    def __init__(
        self,
        folder: Path,
        place: Place,
        seed: int,
        *,
        options: str = "",
        lease: float | None = LEASE_SECONDS,
        **engine: Any,
    ) -> None:
        self.folder = folder
        self.place = place
        self.seed = seed
        self.dice = random.Random(seed)
        self.url = with_options(place.url, options)
        self.options: dict[str, Any] = {"max_lost_attempts": 1_000, **engine}
        if lease is not None:
            self.options["lease_seconds"] = lease
        self.lease = lease or EngineOptions().lease_seconds
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.refused_file = folder / "refused"
        self.faults: list[Fault] = []
        self.workers: list[WorkerProcess] = []
        self.stories: list[Story] = []
        self.followed: dict[str, asyncio.Task[Story]] = {}
        self.notes: list[str] = []
        self._started = 0
        self._background: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    # --- its life ------------------------------------------------------------

    async def open(self, *, url: str | None = None) -> None:
        # It reaps as workers do.
        options = EngineOptions(
            lease_seconds=max(self.lease, 5.0),
            max_lost_attempts=self.options["max_lost_attempts"],
        )
        with clock_of(self.place.clock_file):
            await self._stack.enter_async_context(
                fault_app.app.open(store=url or self.url, options=options, queue_service="store")
            )

    async def close(self) -> None:
        for task in [*self.followed.values(), *self._background]:
            task.cancel()
        await asyncio.gather(*self.followed.values(), *self._background, return_exceptions=True)
        for worker in self.workers:
            if worker.alive:
                worker.process.kill()
                worker.process.wait()
        if not self.place.running:
            self.place.start()
        await self._stack.aclose()

    @property
    def store(self) -> Any:
        return fault_app.app.opened.engine.store

    # --- workers -------------------------------------------------------------

    async def start_workers(
        self,
        count: int,
        *words: str,
        through: FaultProxy | None = None,
        options: str = "",
        **environment: str,
    ) -> list[WorkerProcess]:
        """So many more, ready for work; with these options in the store's URL."""
        url = through.through(self.url) if through is not None else self.url
        url = with_options(url, options)
        if self.place.clock_file is not None:
            environment[CLOCK_FILE] = str(self.place.clock_file)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {
            **os.environ,
            VARIABLE: str(self.ledger.path),
            "FAULT_REFUSED": str(self.refused_file),
            "FAULT_OPTIONS": json.dumps(self.options),
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        made = [
            WorkerProcess(
                self.folder,
                len(self.workers) + i,
                url,
                env,
                *words,
                proxied=through is not None,
            )
            for i in range(count)
        ]
        self.workers += made
        for worker in made:
            await self.until(worker.settled, "a worker to be ready")
            # One may be killed by its work before it has said that it is there.
            meant = fault_app.POISON_EXIT, -signal.SIGKILL if "FAULT_DIES_AFTER" in env else None
            if worker.process.poll() not in (None, *meant):
                raise Broken(f"a worker ended at its start:\n{worker.log}")
        return made

    @property
    def living(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.alive]

    def under_way(self, worker: WorkerProcess) -> int:
        """How many executions it has begun whose record it has not seen confirmed."""
        begun: set[tuple[str, str, int]] = set()
        for row in self.ledger.rows():
            if row.pid == worker.pid:
                place = (row.run, row.step, row.attempt)
                begun.add(place) if row.what == "began" else begun.discard(place)
        return len(begun)

    async def busy_worker(self, among: Sequence[WorkerProcess] | None = None) -> WorkerProcess:
        """One that is in the middle of something; it is given more to do if it is not."""
        found: list[WorkerProcess] = []

        def any_busy() -> bool:
            found[:] = [w for w in among or self.living if w.alive and self.under_way(w)]
            return bool(found)

        for _ in range(40):
            try:
                await self.until(any_busy, "a worker to be busy", patience=0.5)
                return self.dice.choice(found)
            except Broken:
                await self.start_mixed(2)
        raise Broken(await self._told("waited in vain for a worker to be busy"))

    # --- faults --------------------------------------------------------------

    def fault(
        self,
        what: str,
        workers: Sequence[WorkerProcess],
        *,
        froze: bool = False,
        forgot: bool = False,
        killed: bool = False,
    ) -> Fault:
        """Take down that something begins to happen to these; `ended` says when it was over."""
        now = monotonic_ns()
        pids = frozenset(worker.pid for worker in workers)
        made = Fault(what, pids, now, now, froze, forgot, killed)
        self.faults.append(made)
        return made

    def kill(self, worker: WorkerProcess, what: str = "kill") -> None:
        """SIGKILL, and gone."""
        made = self.fault(what, [worker], killed=True)
        worker.process.kill()
        worker.process.wait()
        made.ended_ns = monotonic_ns()

    async def freeze(self, worker: WorkerProcess, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so many seconds later."""
        made = self.fault("stop", [worker], froze=True)
        worker.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            # What it does before it has noticed still counts as met by the fault.
            made.ended_ns = monotonic_ns() + int(self.lease * 1e9)
            if worker.alive:
                worker.send(signal.SIGCONT)

    @asynccontextmanager
    async def network_fault(
        self, what: str, workers: Sequence[WorkerProcess], *, froze: bool = False
    ) -> AsyncGenerator[None, None]:
        """While the connections of these are not what they should be, and until they have found
        their way back."""
        made = self.fault(what, workers, froze=froze)
        try:
            yield
        finally:
            made.ended_ns = monotonic_ns() + int(2 * self.lease * 1e9)

    # --- runs ----------------------------------------------------------------

    def data(self) -> dict[str, int]:
        """An input for the mixed workflows."""
        dice = self.dice
        return {
            "n": dice.randrange(1000),
            "ms": dice.randrange(5, 60),
            "sleep": dice.randrange(30, 400),
            "width": dice.randrange(4, 14),
        }

    async def start_mixed(self, count: int) -> list[str]:
        """So many runs, of all kinds in turn."""
        return [await self.start(MIXED[i % len(MIXED)], self.data()) for i in range(count)]

    def new_id(self, workflow: str) -> str:
        """An id that no other run here has."""
        self._started += 1
        return f"{workflow}-{self._started}-{self.seed}"

    async def start(
        self, workflow: str, data: Any, *, expected: Any = None, pinned: bool = False
    ) -> str:
        """One run; it is followed to its end, whatever happens to the server meanwhile. A start
        whose answer is lost is made again, under the same id."""
        run_id = self.new_id(workflow)
        if expected is None:
            expected = fault_app.expected(workflow, data)
        while True:
            try:
                await fault_app.app.start_workflow(workflow, data, run_id=run_id, pinned=pinned)
                break
            except StoreError:
                await asyncio.sleep(0.05)
        self.follow(workflow, run_id, expected)
        return run_id

    def follow(self, workflow: str, run_id: str, expected: Any) -> None:
        """Follow a run to its end, whoever has started it."""
        run: Run[Any] = fault_app.app.get_run(workflow, run_id)
        self.followed[run_id] = asyncio.create_task(self._follow(run, expected))

    async def start_families(self, count: int) -> None:
        """So many families, each paid at some time, and as many sagas that fail."""
        for _ in range(count):
            data = self.data()
            run_id = await self.start("family", data)
            await self.in_background(self._pay(run_id, data["n"], self.dice.uniform(0, 2)))
            await self.start("undone", self.data())

    async def _pay(self, run_id: str, amount: int, seconds: float) -> None:
        """Send the signal until it is known to have arrived, and once more."""
        await asyncio.sleep(seconds)
        run: Run[Any] = fault_app.app.get_run("family", run_id)
        sent = 0
        while sent < 2:
            try:
                await run.signal(fault_app.paid, amount, signal_id=f"payment-{run_id}")
                sent += 1
            except RunStateError:
                return
            except StoreError:
                await asyncio.sleep(0.05)

    async def _follow(self, run: Run[Any], expected: Any) -> Story:
        while True:
            try:
                return Story(run.run_id, run.workflow, expected, await run.result())
            except StoreError:
                await asyncio.sleep(0.1)
            except PikkuError as error:
                return Story(run.run_id, run.workflow, expected, error)

    async def ends(self, *run_ids: str, patience: float = PATIENCE_SECONDS) -> list[Story]:
        """How these ended, or all. Nobody waits for one that has not moved for so long."""
        names = run_ids or tuple(self.followed)
        tasks = [self.followed[each] for each in names]
        stood = {each: await self._stands(each) for each in names}
        while any(not task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=patience)
            left = [each for each in names if not self.followed[each].done()]
            stands = {each: await self._stands(each) for each in left}
            stuck = [each for each in left if stands[each] == stood[each]]
            if stuck:
                said = await self._told(f"L: {len(stuck)} runs have not ended: {stuck[:5]}")
                raise Broken(said, Figures(runs=len(self.followed), lost_runs=len(stuck)))
            stood = stands
        return [task.result() for task in tasks]

    async def _stands(self, run_id: str) -> object:
        """What is another once the run has moved, or the store did not answer."""
        try:
            run = await self.store.load_run(run_id)
        except StoreError:
            return object()
        return None if run is None else (run.turn, run.deliveries, run.updated_us)

    async def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Have this go on beside the rest; `check` waits for it."""
        self._background.append(asyncio.create_task(work))

    async def until(
        self, true: Callable[[], bool], what: str, patience: float = PATIENCE_SECONDS
    ) -> None:
        """Look again and again."""
        end = time.monotonic() + patience
        while not true():
            if time.monotonic() > end:
                raise Broken(await self._told(f"waited in vain for {what}"))
            await asyncio.sleep(0.01)

    # --- judgement -----------------------------------------------------------

    async def check(
        self, *, doctor: bool = True, without: frozenset[str] | set[str] = frozenset()
    ) -> Figures:
        """Wait for the end of everything, and raise `Broken` with whatever is wrong; *without*
        these runs."""
        if self._background:
            await asyncio.gather(*self._background)
        self.stories = await self.ends()
        wrong = await asyncio.to_thread(self._stop_workers)
        loaded: dict[str, LoadedRun | None] = {}
        for story in self.stories:
            wrong += await self._load_family(story.run_id, loaded)
        accidents = self._accidents()
        rows = [row for row in self.ledger.rows() if row.run not in without]
        judge = Judge(rows, self.faults + accidents, self.stories, loaded)
        wrong += judge.wrong()
        figures = judge.figures
        figures.accidents = len(accidents)
        figures.refused = len(self.refused)
        for worker in self.workers:
            wrong += [
                f"X: worker {worker.number} logs {bug!r}" for bug in bugs(worker.log, without)
            ]
        if doctor:
            wrong += await asyncio.to_thread(self._doctor)
        wrong += await asyncio.to_thread(self.place.wrong)
        if wrong:
            raise Broken(await self._told("\n".join(wrong[:20])), figures)
        return figures

    async def _load_family(self, run_id: str, loaded: dict[str, LoadedRun | None]) -> list[str]:
        """The run with its children and theirs, of which none may be left over."""
        found = loaded[run_id] = await self.store.load_steps(run_id)
        wrong: list[str] = []
        for step in found.steps if found is not None else ():
            if step.kind != "child" or step.job is None:
                continue
            wrong += await self._load_family(step.job, loaded)
            child = loaded[step.job]
            if child is None or child.run.status not in FINAL_STATUSES:
                wrong.append(f"L: child {step.job} of {run_id} has not ended: {child}")
        return wrong

    @property
    def refused(self) -> list[str]:
        """What the store has refused to zombies: a process id, an operation and a run."""
        return self.refused_file.read_text().splitlines() if self.refused_file.exists() else []

    def _accidents(self) -> list[Fault]:
        """Workers that lost their lease though nothing was done to them: a machine that is too
        busy is a fault as well."""
        met = {pid for fault in self.faults for pid in fault.pids}
        return [
            Fault("accident", frozenset({worker.pid}), 0, monotonic_ns())
            for worker in self.workers
            if worker.pid not in met and "PKR401" in worker.log
        ]

    def _stop_workers(self) -> list[str]:
        living = self.living
        for worker in living:
            worker.send(signal.SIGTERM)
        codes = {worker.number: worker.wait() for worker in living}
        return [f"X: worker {number} ended with {code}" for number, code in codes.items() if code]

    def _doctor(self) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pikku.cli", "--app", APP, "doctor", "--json"],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**os.environ, "PIKKU_STORE": self.url, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
        if done.returncode == 0:
            return []
        return [
            f"D: doctor ends with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-1000:]}"
        ]

    async def _told(self, wrong: str) -> str:
        """What is wrong, with what helps to understand it."""
        parts = [f"seed {self.seed}: {wrong}", *self.notes]
        for each, task in self.followed.items():
            if not task.done():
                try:
                    async with asyncio.timeout(2):
                        loaded = await self.store.load_steps(each)
                except (PikkuError, TimeoutError) as error:
                    parts.append(f"{each}: {error}")
                    continue
                if loaded is not None:
                    open_steps = [
                        s for s in loaded.steps if s.status not in ("succeeded", "failed")
                    ]
                    parts.append(f"{each}: {loaded.run}\n  open: {open_steps}")
                if len(parts) > 6:
                    break
        if len(parts) > 1 + len(self.notes):
            parts += await asyncio.to_thread(self._doctor)
        parts += [f"fault: {fault}" for fault in self.faults if fault.pids]
        for worker in self.workers:
            parts.append(f"--- worker {worker.number} ({worker.pid})\n{worker.log[-2500:]}")
        return "\n".join(parts)


def with_options(url: str, options: str) -> str:
    """A store's URL with more options; one that it has already stays as it is."""
    if not options or options in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{options}"


@asynccontextmanager
async def site(place: Place, seed: int, **options: Any) -> AsyncGenerator[Site, None]:
    """A site on a place that is open already."""
    made = Site(place.folder, place, seed, **options)
    try:
        await made.open()
        yield made
    finally:
        await made.close()
