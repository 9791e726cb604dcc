"""`pikku worker`: what it takes on, how it stops, and how it keeps several processes going."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from tests.cli.desk import Desk, until

REMOTE = {"PIKKU_QUEUE_SERVICE": "store"}
# A second time it finds the run that is there.
START_NAP = ("runs", "start", "nap", "--input", '"1ms"', "--id", "n1")

IMPATIENT = """\
import functools
import pikku._settings as settings
from pikku.cli import main

settings.EngineOptions = functools.partial(settings.EngineOptions, {options})
main(["worker"])
"""

HOLD = """\
async def hold(ctx: FunctionContext) -> None:
    print("holding", flush=True)
    while not Path("release.txt").exists():
        await asyncio.sleep(0.01)
"""

HOLD_THE_LOOP = """\
async def hold(ctx: FunctionContext) -> None:
    import time
    print("holding", flush=True)
    while not Path("release.txt").exists():
        time.sleep(0.01)
"""

HOLD_A_THREAD = HOLD_THE_LOOP.replace("async def", "def")


def stop(worker: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """What a worker says from the signal to its end, which is a good one."""
    worker.send_signal(number)
    said = worker.communicate(timeout=60)[1]
    assert worker.returncode == 0, said
    return said


def spawn_impatient(desk: Desk, options: str) -> subprocess.Popen[str]:
    """A worker whose engine has other options."""
    return subprocess.Popen(
        [sys.executable, "-c", IMPATIENT.format(options=options)],
        cwd=desk.folder,
        env=desk.environment(**REMOTE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_gone(pid: int) -> bool:
    """Whether no process has this id, or only the remains of one."""
    done = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()[:1] in ("", "Z")


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pid_in(line: str) -> int:
    """The process id in `[1] process 123`."""
    return int(line.split()[2])


# --- one process --------------------------------------------------------------------------------


def test_a_run_is_started_in_one_process_and_executed_in_another(desk: Desk) -> None:
    started = desk.pikku(*START_NAP, **REMOTE)
    before = desk.effects

    with desk.spawn("worker", **REMOTE) as worker:
        result = desk.pikku(*START_NAP, "--wait", **REMOTE)
        stop(worker)

    assert (started.returncode, started.stdout) == (0, "n1 running\n")
    assert before == []
    assert (result.returncode, result.stdout) == (0, '"after"\n')
    lines = (desk.folder / "effects.txt").read_text().splitlines()
    assert lines == [f"before {worker.pid}", f"after {worker.pid}"]


def test_a_worker_says_in_one_line_what_it_takes_on(desk: Desk) -> None:
    with desk.spawn("worker", "--concurrency", "7", **REMOTE) as worker:
        line = until(worker.stderr, lambda line: line.startswith("worker of"))
        stop(worker)

    assert line == (
        f"worker of desk_pikku on sqlite:///{desk.folder}/runs.db; "
        "queues: default, orchestrator; concurrency: 7\n"
    )


def test_a_worker_of_some_queues_leaves_the_others_alone(desk: Desk) -> None:
    desk.edit(
        "@registry.pikku_func\nasync def note", '@registry.pikku_func(queue="n")\nasync def note'
    )
    desk.pikku(*START_NAP, **REMOTE)

    with desk.spawn("worker", "--queues", " orchestrator, default ", **REMOTE) as worker:
        eventually(lambda: bool(desk.document("runs", "show", "n1")["steps"]))
        stop(worker)
    [step] = desk.document("runs", "show", "n1")["steps"]
    with desk.spawn("worker", "--queues", "n,orchestrator", **REMOTE) as worker:
        result = desk.pikku(*START_NAP, "--wait", **REMOTE)
        stop(worker)

    assert (step["key"], step["status"]) == ("Before", "scheduled")
    assert result.stdout == '"after"\n'


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_unknown_queue_is_refused_with_the_nearest_name(desk: Desk, processes: str) -> None:
    desk.edit(
        "@registry.pikku_func\nasync def note",
        '@registry.pikku_func(queue="notes")\nasync def note',
    )

    done = desk.pikku("worker", "--queues", "default,note", "--processes", processes)

    assert done.returncode == 2
    assert done.stderr == (
        "error: PKR103 no function of desk_pikku has the queue 'note'\n"
        "help: did you mean 'notes'?\n"
    )


def test_no_queue_at_all_is_refused(desk: Desk) -> None:
    done = desk.pikku("worker", "--queues", ",")

    assert done.returncode == 2
    assert "PKR103" in done.stderr


def test_the_first_signal_lets_what_is_under_way_finish(desk: Desk) -> None:
    desk.pikku("runs", "start", "three", "--id", "t1", **REMOTE)

    with desk.spawn("worker", **REMOTE) as worker:
        until(worker.stderr, lambda line: line.startswith("worker of"))
        until(worker.stdout, lambda line: line == "holding\n")
        worker.send_signal(signal.SIGTERM)
        asked = until(worker.stderr, lambda line: line.startswith("SIGTERM"))
        (desk.folder / "release.txt").touch()
        said = worker.communicate(timeout=60)[1]

    assert asked == "SIGTERM: finishing what is under way (1); once more to stop at once\n"
    assert (worker.returncode, said.splitlines()[-1]) == (0, "stopped; nothing was left unfinished")
    steps = {step["key"]: step["status"] for step in desk.document("runs", "show", "t1")["steps"]}
    assert steps["Hold"] == "succeeded"


def test_the_second_signal_stops_at_once(desk: Desk) -> None:
    desk.pikku("runs", "start", "three", "--id", "t1", **REMOTE)

    with desk.spawn("worker", **REMOTE) as worker:
        until(worker.stderr, lambda line: line.startswith("worker of"))
        until(worker.stdout, lambda line: line == "holding\n")
        worker.send_signal(signal.SIGTERM)
        until(worker.stderr, lambda line: line.startswith("SIGTERM: finishing"))
        deadline = time.monotonic() + 20
        while worker.poll() is None and time.monotonic() < deadline:
            worker.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        said = worker.communicate(timeout=60)[1]

    assert worker.returncode == 128 + signal.SIGTERM
    assert said == "SIGTERM again: stopped at once\n"


def test_what_does_not_finish_in_time_is_handed_back_and_a_thread_holds_up_nobody(
    desk: Desk,
) -> None:
    desk.edit(HOLD, HOLD_A_THREAD)
    desk.pikku("runs", "start", "three", "--id", "t1", **REMOTE)

    with spawn_impatient(desk, "drain_seconds=0.1") as worker:
        until(worker.stdout, lambda line: line == "holding\n")
        said = stop(worker)

    assert said.endswith("stopped; 1 handed back\n")
    shown = desk.document("runs", "show", "t1")
    [hold] = [step for step in shown["steps"] if step["key"] == "Hold"]
    assert (hold["status"], hold["attempt"], hold["lost_attempts"]) == ("scheduled", 2, 0)


def test_a_worker_whose_loop_stands_still_says_where_and_ends(desk: Desk) -> None:
    desk.edit(HOLD, HOLD_THE_LOOP)
    desk.pikku("runs", "start", "three", "--id", "t1", **REMOTE)

    with spawn_impatient(desk, "lease_seconds=0.4, loop_grace_seconds=0.5") as worker:
        said = worker.communicate(timeout=60)[1]

    assert worker.returncode == 70
    assert "the event loop has not moved" in said
    assert "time.sleep(0.01)" in said


# --- several processes --------------------------------------------------------------------------


def test_a_process_that_dies_is_followed_by_another_one(desk: Desk) -> None:
    with desk.spawn("worker", "--processes", "2", **REMOTE) as worker:
        pid = pid_in(until(worker.stderr, lambda line: line.startswith("[2] process")))
        until(worker.stderr, lambda line: line.startswith("[2] worker of desk_pikku"))
        subprocess.run(["kill", "-9", str(pid)], check=True)
        told = until(worker.stderr, lambda line: line.startswith("[2] process"))
        following = until(worker.stderr, lambda line: line.startswith("[2] process"))
        until(worker.stderr, lambda line: line.startswith("[2] worker of desk_pikku"))

        desk.pikku(*START_NAP, **REMOTE)
        result = desk.pikku(*START_NAP, "--wait", **REMOTE)
        said = stop(worker)

    assert told == f"[2] process {pid} was ended by SIGKILL; another one in 0.5 s\n"
    assert pid_in(following) != pid
    assert result.stdout == '"after"\n'
    assert "[1] stopped; nothing was left unfinished\n" in said
    assert "[2] stopped; nothing was left unfinished\n" in said


def test_what_the_processes_print_has_their_number_and_one_signal_drains_them(desk: Desk) -> None:
    desk.pikku("runs", "start", "three", "--id", "t1", **REMOTE)

    with desk.spawn("worker", "--processes", "2", **REMOTE) as worker:
        holding = until(worker.stdout, lambda line: "holding" in line)
        worker.send_signal(signal.SIGINT)
        until(worker.stderr, lambda line: line.startswith(f"{holding[:3]} SIGINT: finishing"))
        (desk.folder / "release.txt").touch()
        said = worker.communicate(timeout=60)[1]

    assert worker.returncode == 0, said
    assert holding in ("[1] holding\n", "[2] holding\n")
    steps = {step["key"]: step["status"] for step in desk.document("runs", "show", "t1")["steps"]}
    assert steps["Hold"] == "succeeded"


def test_the_second_signal_ends_every_process_at_once(desk: Desk) -> None:
    desk.pikku("runs", "start", "three", "--id", "t1", **REMOTE)

    with desk.spawn("worker", "--processes", "2", **REMOTE) as worker:
        lines = [until(worker.stderr, lambda line: "] process " in line) for _ in range(2)]
        until(worker.stdout, lambda line: "holding" in line)
        worker.send_signal(signal.SIGTERM)
        until(worker.stderr, lambda line: line.startswith("SIGTERM: finishing"))
        deadline = time.monotonic() + 20
        while worker.poll() is None and time.monotonic() < deadline:
            worker.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        worker.communicate(timeout=60)

    assert worker.returncode == 128 + signal.SIGTERM
    eventually(lambda: all(is_gone(pid_in(line)) for line in lines))


def test_the_processes_stop_when_the_one_that_keeps_them_going_is_killed(desk: Desk) -> None:
    desk.pikku("runs", "start", "three", "--id", "t1", **REMOTE)

    with desk.spawn("worker", "--processes", "2", **REMOTE) as worker:
        lines = [until(worker.stderr, lambda line: "] process " in line) for _ in range(2)]
        until(worker.stdout, lambda line: "holding" in line)
        worker.kill()
        worker.wait(60)
    (desk.folder / "release.txt").touch()

    eventually(lambda: all(is_gone(pid_in(line)) for line in lines))
    steps = {step["key"]: step for step in desk.document("runs", "show", "t1")["steps"]}
    assert (steps["Hold"]["status"], steps["Hold"]["attempt"]) == ("succeeded", 1)


def test_processes_that_cannot_start_are_not_started_again_and_again(desk: Desk) -> None:
    desk.edit('Path("imported.txt").touch()', "raise OSError('no such disk')")

    done = desk.pikku("worker", "--processes", "2", **REMOTE)

    assert done.returncode == 2
    assert "PKR100 a module of desk_pikku cannot be imported: OSError: no such disk" in done.stderr
    assert "another one" not in done.stderr
