"""The ledger keeps every line of every process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.servers.ledger import VARIABLE, Ledger

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from tests.servers.ledger import Ledger

for attempt in range(int(sys.argv[2])):
    Ledger.here().begin("r", sys.argv[1], attempt + 1)
print("written", flush=True)
sys.stdin.read()
"""


def writer(step: str, times: int) -> subprocess.Popen[str]:
    """A process that finds its ledger in the environment."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, step, str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_a_line_says_what_where_and_when(ledger: Ledger) -> None:
    ledger.begin("r1", "charge", 1)
    ledger.begin("r1", "charge", 2)
    ledger.acknowledged("r1", "charge", 2)
    ledger.begin("r2", "charge", 1)

    assert [row.attempt for row in ledger.executions("r1", "charge")] == [1, 2]
    assert [row.attempt for row in ledger.acknowledgements("r1", "charge")] == [2]
    assert len(ledger.rows()) == 4
    assert {row.pid for row in ledger.rows()} == {os.getpid()}
    assert ledger.rows() == sorted(ledger.rows(), key=lambda row: row.at_ns)


def test_a_ledger_nobody_wrote_to_is_empty(ledger: Ledger) -> None:
    assert ledger.rows() == []
    assert ledger.executions("r", "s") == []
    assert os.environ[VARIABLE] == str(ledger.path)


def test_a_step_s_name_may_hold_anything(ledger: Ledger) -> None:
    ledger.begin("r\n1", 'say "hé", then |\u2028', 1)

    assert len(ledger.executions("r\n1", 'say "hé", then |\u2028')) == 1


def test_processes_write_side_by_side_and_lose_nothing(ledger: Ledger) -> None:
    writers = [writer("one", 200), writer("two", 200)]
    for process in writers:
        process.communicate()

    for step, process in zip(("one", "two"), writers, strict=True):
        rows = ledger.executions("r", step)
        assert [row.attempt for row in rows] == list(range(1, 201))
        assert {row.pid for row in rows} == {process.pid}


def test_threads_write_side_by_side_and_lose_nothing(ledger: Ledger) -> None:
    def write() -> None:
        for _ in range(100):
            ledger.begin("r", "s", 1)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ledger.executions("r", "s")) == 400


def test_what_was_written_outlives_a_kill(ledger: Ledger) -> None:
    process = writer("s", 1)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert [row.pid for row in ledger.executions("r", "s")] == [process.pid]


def test_half_a_line_of_a_killed_process_spoils_no_other(ledger: Ledger) -> None:
    ledger.begin("r", "s", 1)
    with ledger.path.open("a") as file:
        file.write('\n{"what": "began", "ru')
    ledger.begin("r", "s", 2)

    assert [row.attempt for row in ledger.rows()] == [1, 2]
