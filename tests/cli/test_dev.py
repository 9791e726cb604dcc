"""`pikku dev`: it generates, begins anew, and leaves nothing behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.cli.test_worker import eventually, is_gone

from pikku._commands import tether
from pikku._commands.dev_programs import what_to_check

FUNCTION = """\
from shop_pikku import Context, pikku_func


@pikku_func
async def {}(ctx: Context) -> int:
    return 1
"""
BROKEN = "from shop_pikku import ("
# Says that it is up and, when it is asked to, ends once it may.
SERVER = """\
import os, signal, sys, threading
from pathlib import Path
import shop.functions

asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
print("up", os.getpid(), *sorted(n for n in vars(shop.functions) if n.startswith("my")), flush=True)
while not asked.wait(0.01):
    if Path("crash.txt").exists():
        sys.exit(3)
print("draining", flush=True)
while Path("busy.txt").exists():
    asked.clear()
    asked.wait(0.01)
print("drained", flush=True)
"""


class Session:
    """One `pikku dev`, its lines, and a hand on its keyboard."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.process = process
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def until(self, start: str) -> str:
        """The first line that begins so."""
        seen: list[str] = []
        while (line := self._lines.get(timeout=45)) is not None:
            seen.append(line)
            if line.startswith(start):
                return line
        raise AssertionError(f"no line begins with {start!r}: {seen}")

    def rest(self) -> list[str]:
        """All lines up to the end."""
        lines: list[str] = []
        while (line := self._lines.get(timeout=45)) is not None:
            lines.append(line)
        self.process.wait(30)
        return lines

    def up(self) -> tuple[int, list[str]]:
        """The process that came up, and what it found in the code."""
        _, pid, *names = self.until("up ").split()
        return int(pid), names

    def save(self, path: str, text: str) -> None:
        (self.folder / path).write_text(text, "utf-8")

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "functions.py").write_text(FUNCTION.format("my_first"), "utf-8")
    (tmp_path / "server.py").write_text(SERVER, "utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pikku]\nroot = "shop"\nqueue_service = "store"\n', "utf-8"
    )
    return tmp_path


@contextmanager
def developing(project: Path, *arguments: str) -> Generator[Session, None, None]:
    """`pikku dev` with stdout and stderr in one pipe; nothing of it outlives the test."""
    hidden = ("PIKKU_", "FORCE_COLOR")
    clean = {key: text for key, text in os.environ.items() if not key.startswith(hidden)}
    process = subprocess.Popen(
        [sys.executable, "-m", "pikku.cli", "dev", *arguments],
        cwd=project,
        env=clean,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        session = Session(project, process)
        try:
            yield session
        finally:
            process.kill()
            (project / "busy.txt").unlink(missing_ok=True)
            session.reader.join(45)  # whatever was started has let go of the pipe


SERVING = ("--", sys.executable, "server.py")


def test_a_save_generates_and_begins_the_program_anew(project: Path) -> None:
    with developing(project, *SERVING) as session:
        first, names = session.up()
        session.save("shop/functions.py", FUNCTION.format("my_second_one"))
        session.until("pikku-gen: generating: shop/functions.py changed")
        session.until("drained")
        second, later = session.up()
        session.process.send_signal(signal.SIGINT)
        rest = session.rest()

    assert (names, later) == (["my_first"], ["my_second_one"])
    assert first != second
    assert session.process.returncode == 0
    assert "drained" in rest
    assert is_gone(first) and is_gone(second)


def test_what_is_broken_leaves_the_program_up_until_it_is_mended(project: Path) -> None:
    with developing(project, *SERVING) as session:
        first, _ = session.up()
        session.save("shop/functions.py", BROKEN)
        session.until("shop/functions.py:1:")
        session.until("dev: the program goes on with the code from before")
        still = not is_gone(first)
        session.save("shop/functions.py", FUNCTION.format("my_mended_one"))
        _, names = session.up()

    assert still
    assert names == ["my_mended_one"]


def test_changes_while_the_program_finishes_wait_for_its_end(project: Path) -> None:
    with developing(project, *SERVING) as session:
        session.up()
        session.save("busy.txt", "")
        session.save("shop/functions.py", FUNCTION.format("my_second_one"))
        session.until("draining")
        session.save("shop/functions.py", FUNCTION.format("my_third_one_of_all"))
        session.until("pikku-gen: shop_pikku: ")
        (project / "busy.txt").unlink()
        session.until("drained")
        _, names = session.up()

    assert names == ["my_third_one_of_all"]


def test_a_program_that_ends_by_itself_is_told_and_waits_for_a_change(project: Path) -> None:
    with developing(project, *SERVING) as session:
        session.up()
        session.save("crash.txt", "")
        told = session.until("dev: the program")
        (project / "crash.txt").unlink()
        session.save("shop/functions.py", FUNCTION.format("my_second_one"))
        _, names = session.up()

    assert told == "dev: the program ended with 3; it begins anew after the next change"
    assert names == ["my_second_one"]


def test_types_are_checked_on_request(project: Path) -> None:
    with developing(project, *SERVING) as session:
        session.up()
        session.type("t")
        asked = session.until("dev: mypy")
        found = session.until("Success: no issues found")
        session.type("x")
        keys = session.until("dev: t + Enter")
        session.type("r")
        session.until("drained")
        session.up()

    assert asked == "dev: mypy shop shop_pikku"
    assert found
    assert keys == "dev: t + Enter checks the types, r + Enter begins anew, Ctrl-C stops"


def test_without_a_keyboard_it_goes_on(project: Path) -> None:
    with developing(project, *SERVING) as session:
        assert session.process.stdin is not None
        session.process.stdin.close()
        session.up()
        session.save("shop/functions.py", FUNCTION.format("my_second_one"))
        _, names = session.up()
        session.process.terminate()
        session.rest()

    assert names == ["my_second_one"]
    assert session.process.returncode == 0


def test_killed_hard_it_leaves_nothing_behind(project: Path) -> None:
    with developing(project, *SERVING) as session:
        pid, _ = session.up()
        generators = children_of(session.process.pid)
        os.killpg(session.process.pid, signal.SIGKILL)
        session.process.wait(30)

    assert len(generators) == 2
    eventually(lambda: is_gone(pid))
    eventually(lambda: all(is_gone(each) for each in generators))


def test_the_second_signal_ends_everything_at_once(project: Path) -> None:
    with developing(project, *SERVING) as session:
        pid, _ = session.up()
        session.save("busy.txt", "")
        session.process.send_signal(signal.SIGTERM)
        session.until("draining")
        eventually(lambda: ended(session.process))

    assert session.process.returncode == 128 + signal.SIGTERM
    eventually(lambda: is_gone(pid))


def test_the_program_is_a_worker_if_no_other_is_named(project: Path) -> None:
    with developing(project) as session:
        started = session.until("dev: ")
        session.until("worker of shop_pikku on sqlite")
        session.save("shop/functions.py", FUNCTION.format("my_second_one"))
        session.until("stopped; nothing was left unfinished")
        session.until("worker of shop_pikku on sqlite")
        session.process.terminate()
        rest = session.rest()

    assert started == "dev: pikku worker"
    assert "stopped; nothing was left unfinished" in rest
    assert session.process.returncode == 0


def test_a_program_that_is_not_there_is_wrong_usage(project: Path) -> None:
    with developing(project, "--", "no-such-program") as session:
        said = session.rest()

    assert session.process.returncode == 2
    assert said[-1] == "Error: there is no program 'no-such-program'"


def ended(process: subprocess.Popen[str]) -> bool:
    """Whether it has ended; if not, it is told once more."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    return process.poll() is not None


def children_of(pid: int) -> list[int]:
    done = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return [int(each) for each in done.stdout.split()]


# --- what is checked ----------------------------------------------------------------------------


def test_mypy_gets_the_packages_unless_its_settings_name_something(project: Path) -> None:
    (project / "shop_pikku").mkdir()
    pyproject = project / "pyproject.toml"

    assert what_to_check(project) == ["shop", "shop_pikku"]
    pyproject.write_text(pyproject.read_text() + '[tool.mypy]\nfiles = ["shop"]\n')
    assert what_to_check(project) == []
    pyproject.write_text("[tool")
    assert what_to_check(project) == ["."]
    (project / "mypy.ini").touch()
    assert what_to_check(project) == []


# --- the tether ---------------------------------------------------------------------------------

STUBBORN = """\
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def tethered(seconds: str, program: str) -> Generator[subprocess.Popen[bytes], None, None]:
    command = [sys.executable, "-I", tether.__file__, seconds, sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            with suppress(OSError):
                os.write(process.stdin.fileno() if process.stdin else 0, tether.KILL)


def pids_of(process: subprocess.Popen[bytes]) -> list[int]:
    assert process.stdout is not None
    return [int(each) for each in process.stdout.readline().split()]


@pytest.mark.parametrize(("seconds", "word"), [("600", tether.KILL), ("0.1", tether.ASK)])
def test_a_program_that_does_not_listen_is_killed_with_its_children(
    seconds: str, word: bytes
) -> None:
    with tethered(seconds, STUBBORN) as process:
        pids = pids_of(process)
        assert process.stdin is not None
        process.stdin.write(word)
        process.stdin.flush()

        assert process.wait(30) == -signal.SIGKILL
    eventually(lambda: all(is_gone(pid) for pid in pids))


def test_the_end_of_input_ends_a_program_that_does_not_listen(tmp_path: Path) -> None:
    with tethered("0.1", STUBBORN) as process:
        pids = pids_of(process)
        assert process.stdin is not None
        process.stdin.close()

        assert process.wait(30) == -signal.SIGKILL
        process.stdin = None
    eventually(lambda: all(is_gone(pid) for pid in pids))


def test_it_ends_as_the_program_does() -> None:
    with tethered("600", "import sys; sys.exit(7)") as process:
        assert process.wait(30) == 7
    with tethered("600", "import os; os.kill(os.getpid(), 15)") as process:
        assert process.wait(30) == -signal.SIGTERM
