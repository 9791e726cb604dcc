"""`pikku demo`: a project is generated, type-checked, run, killed half-way and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import click

from pikku._commands.output import put, tell
from pikku._commands.target import Target
from pikku._commands.templates import project_files, write_project
from pikku.errors import MissingDependencyError

NAME = "signup"
RUN = "demo"
INPUT = '{"email": "ada@example.com", "user_id": "u1"}'
PATIENCE_SECONDS = 60.0
BEFORE_THE_KILL = ["create_user_profile", "welcome_message"]
IN_ALL = [*BEFORE_THE_KILL, "send_email"]


class NotHeld(Exception):
    """A promise of the demo that did not hold."""


@click.command()
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Keep the project in this new folder; otherwise nothing is left behind.",
)
@click.option(
    "--redis",
    is_flag=True,
    help="Two workers on a Redis, one of them killed. On the store that is configured, if that is "
    "a Redis; otherwise a server is started, and stopped afterwards.",
)
@click.pass_context
def demo(context: click.Context, keep: Path | None, redis: bool) -> None:
    """See it work: generate, type-check, run, kill -9, resume. About 15 seconds.

    Exits 0 only if everything it says has held.
    """
    with _folder(keep) as folder:
        try:
            _demo(context.obj, folder, redis).play()
        except NotHeld as problem:
            tell(f"{click.style('this did not hold:', fg='red', bold=True)} {problem}")
            context.exit(1)
        put()
        if keep is not None:
            put(f"The project is in {keep}.")
    put("Next:")
    put("  pikku init hello          a project of your own, ready to run")
    if not redis:
        put("  pikku demo --redis        two workers on a Redis, one of them killed")
    put("  pikku runs --help         start, list, show, cancel and resume runs")
    put("  pikku-gen --help          write and check the typed package")


def _demo(target: Target, folder: Path, redis: bool) -> Demo:
    if not redis:
        return Demo(folder)
    from pikku._commands.demo_redis import RedisDemo

    named = target.store or os.environ.get("PIKKU_STORE") or ""
    return RedisDemo(folder, named if named.startswith("redis") else None)


@contextmanager
def _folder(keep: Path | None) -> Generator[Path, None, None]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="pikku-demo-") as made:
            yield Path(made)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise click.UsageError(f"{keep} exists and is not an empty folder")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


class Demo:
    """The scenes, in their order; each raises `NotHeld` if what it shows is not so."""

    nap_seconds = 3

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.effects = folder / "effects.txt"
        hidden = ("PIKKU_", "MYPY", "FORCE_COLOR")
        self.environment = {
            key: text for key, text in os.environ.items() if not key.startswith(hidden)
        }
        self.environment["NO_COLOR"] = "1"

    def play(self) -> None:
        """All scenes."""
        self.write()
        self.generate()
        self.type_check()
        killed = self.start_and_kill()
        self.resume(killed)
        self.show()

    def write(self) -> None:
        """A project with two functions and a workflow."""
        files = project_files("demo", NAME)
        files = {
            path: text.replace('"3s"', f'"{self.nap_seconds}s"') for path, text in files.items()
        }
        write_project(files, self.folder)
        scene("A project: two functions, and this workflow")
        source = (self.folder / NAME / "workflows.py").read_text(encoding="utf-8")
        start = source.index("@pikku_workflow_func")
        for line in source[start : source.index("\n\n\n", start)].splitlines():
            put(f"    {line}")
        put(f"(The five minutes of the real thing are {self.nap_seconds} seconds here.)")

    def generate(self) -> None:
        """The typed package."""
        scene("Generate: read the code without importing it, write the typed package")
        done = self.run("pikku-gen", "-m", "pikku_gen")
        self.hold(done.returncode == 0, f"pikku-gen ended with {done.returncode}")
        self.hold((self.folder / f"{NAME}_pikku").is_dir(), "pikku-gen wrote no package")

    def type_check(self) -> None:
        """No error, and then the one error that a wrong call earns."""
        scene("Type-check")
        if find_spec("mypy") is None:
            missing = MissingDependencyError("the type check", "demo")
            put(f"{missing.message}, so this scene is left out; see it with:")
            put(f"  {missing.hint}")
            return
        done = self.run("mypy", "-m", "mypy")
        self.hold(done.returncode == 0, "mypy finds errors in the project")
        wrong = self.folder / "wrong_call.py"
        put()
        put("Now a call with a mistake in it:")
        lines = wrong.read_text(encoding="utf-8").splitlines()
        put(f"    {lines[-1].strip()}")
        done = self.run("mypy wrong_call.py", "-m", "mypy", "wrong_call.py")
        reported = '"user_id"' in done.stdout and "Found 1 error" in done.stdout
        self.hold(done.returncode == 1 and reported, "mypy does not report the wrong call")

    def start_and_kill(self) -> int:
        """A process executes the first steps and is killed while the run sleeps."""
        scene("Run it in a process of its own, and kill that process half-way")
        arguments = ["runs", "start", "onboarding", "--input", INPUT, "--id", RUN, "--wait"]
        shown = f"pikku runs start onboarding --input '{INPUT}' --id {RUN} --wait"
        with self.child(shown, arguments) as child:
            asleep = tell_until(child.stderr, lambda line: "sleeping until" in line)
            self.hold(asleep, "the run never came to its sleep")
            os.kill(child.pid, signal.SIGKILL)
            code = child.wait()
        self.hold(code == -signal.SIGKILL, f"the process ended with {code}, not by the kill")
        put(f"    kill -9 {child.pid}")
        self.hold_effects(BEFORE_THE_KILL, "before the kill")
        return child.pid

    def resume(self, killed: int) -> None:
        """A new process goes on; nothing that was recorded is executed again."""
        scene("A new process goes on where the records end")
        arguments = ["runs", "resume", RUN, "--wait"]
        with self.child(f"pikku runs resume {RUN} --wait", arguments) as child:
            tell_until(child.stderr, lambda line: False)
            result = _read(child.stdout)
            code = child.wait()
        put(f"    {result.strip()}")
        self.hold(code == 0, f"`pikku runs resume` ended with {code}")
        self.hold(_parsed(result) == {"success": True}, f"the result is {result.strip()}")
        put()
        put("Each step left a line in a file when it was executed, with its process:")
        lines = self.hold_effects(IN_ALL, "in all")
        for what, process in lines:
            place = "before the kill" if process == str(killed) else "after it"
            put(f"    {what:<20}  process {process}, {place}")
        executors = [process for _, process in lines]
        self.hold(
            executors == [str(killed), str(killed), str(child.pid)],
            "the steps were not executed by the processes that should have",
        )
        put("Every step was executed once.")

    def show(self) -> None:
        """The run's timeline and graph."""
        scene("What is recorded")
        done = self.run(f"pikku runs show {RUN}", "-m", "pikku.cli", "runs", "show", RUN)
        self.hold(done.returncode == 0, f"`pikku runs show` ended with {done.returncode}")
        done = self.run("", "-m", "pikku.cli", "runs", "show", RUN, "--json", quiet=True)
        self.hold(done.returncode == 0, "`pikku runs show --json` failed")
        document: dict[str, Any] = json.loads(done.stdout)
        steps: list[dict[str, Any]] = document["steps"]
        self.hold(
            document["run"]["status"] == "completed"
            and [step["status"] for step in steps] == ["succeeded"] * 4
            and [step["attempt"] for step in steps] == [1] * 4,
            "the records do not show four steps that succeeded at the first attempt",
        )
        put()
        put("Its graph:")
        put("    onboarding")
        for step in steps:
            put("      |")
            kind = step["target"] if step["kind"] == "rpc" else step["kind"]
            put(f"    [ {step['key']} ]  {kind}")

    # --- how scenes are played --------------------------------------------------------------

    def run(
        self, shown: str, *arguments: str, quiet: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this Python to its end and show what it says."""
        if not quiet:
            put(f"  $ {shown}")
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE_SECONDS * 2,
            check=False,
        )
        if not quiet:
            for line in (done.stdout + done.stderr).splitlines():
                put(f"    {line}")
        return done

    @contextmanager
    def child(
        self, shown: str, arguments: list[str]
    ) -> Generator[subprocess.Popen[str], None, None]:
        """`pikku` with *arguments* in a process that does not outlive the scene."""
        put(f"  $ {shown}")
        child = subprocess.Popen(
            [sys.executable, "-m", "pikku.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        deadline = threading.Timer(PATIENCE_SECONDS, child.kill)
        deadline.start()
        try:
            with child:
                try:
                    yield child
                finally:
                    child.kill()
        finally:
            deadline.cancel()

    def hold(self, held: bool, otherwise: str) -> None:
        """Go on only if it held."""
        if not held:
            raise NotHeld(otherwise)

    def hold_effects(self, expected: list[str], when: str) -> list[tuple[str, str]]:
        """The lines of the side-effect file, if they are the expected ones, once each."""
        text = self.effects.read_text(encoding="utf-8") if self.effects.exists() else ""
        lines = [tuple(line.split("\t")) for line in text.splitlines()]
        found = [(line[0], line[1]) for line in lines if len(line) == 2]
        count = Counter(what for what, _ in found)
        self.hold(
            count == Counter(expected),
            f"the side-effect file should hold {expected} {when}, and it holds {dict(count)}",
        )
        return found


def scene(title: str) -> None:
    put()
    put(click.style(f"== {title}", bold=True))


def tell_until(stream: IO[str] | None, wanted: Callable[[str], bool]) -> bool:
    """Show the lines of *stream* up to one that is wanted; whether it came."""
    for line in stream or ():
        put(f"    {line.rstrip()}")
        if wanted(line):
            return True
    return False


def _read(stream: IO[str] | None) -> str:
    return "" if stream is None else stream.read()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
