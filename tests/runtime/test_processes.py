"""Functions in child processes: what crosses, what dies with whom, and who is told."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.runtime import process_app
from tests.runtime.process_app import UTC_NOON, Order, Receipt, Refused, Size

from pikku import Run, RunCancelledError, StepContext
from pikku._bodies import Attempt, Bodies, End, Plan
from pikku._ids import invocation_id
from pikku._processes import Call, ProcessPool, Unpacker, packed
from pikku._retry import DEFAULT_POLICY
from pikku.errors import ProcessDiedError, ProgressError
from pikku.testing import FakeClock, WorkflowLab

PACKAGE = process_app.__name__
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find the app where this process does."""
    monkeypatch.syspath_prepend(str(ROOT))


class Told:
    """What a step's attempt is told, and what it reports."""

    def __init__(self) -> None:
        self.requested = False
        self.reports: list[tuple[float, str]] = []

    def report(self, done: float, note: str) -> None:
        self.reports.append((done, note))


class Host:
    """Bodies and a pool, without an engine."""

    def __init__(self, **options: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.may_begin = True
        self.fenced = 0
        self.clock = FakeClock()
        self.bodies = Bodies(
            self.loop,
            self.clock,
            2,
            lambda: self.may_begin,
            self._on_fenced,
            on_quiet=lambda: None,
            on_open=lambda: None,
        )
        options.setdefault("children", 2)
        self.pool = ProcessPool(self.loop, PACKAGE, {"store": "memory://host"}, **options)

    def _on_fenced(self) -> None:
        self.fenced += 1

    def begin(
        self, name: str, *data: Any, timeout_us: int | None = None, attempt: int = 1
    ) -> tuple[asyncio.Future[End], Told]:
        """Begin a step; how it will end, and what it is told."""
        func = process_app.registry.function(name)
        text = func.declaration.input.admit(data[0], name) if data else None
        policy = DEFAULT_POLICY._replace(timeout_us=timeout_us)
        where = f"step {name!r}"
        plan = Plan(func, None, text, func.declaration.output, policy, None, where)
        ended: asyncio.Future[End] = self.loop.create_future()
        told = Told()
        call = Call(name, text, "run-1", "flow", f"{name}#1", name, attempt, where)
        begin = partial(self.bodies.begin_process, pool=self.pool, call=call)
        self.bodies.start(Attempt(plan, ended.set_result, told), begin, alone=False)
        return ended, told

    async def end(self, name: str, *data: Any, **options: Any) -> End:
        """How a step ended."""
        return await self.begin(name, *data, **options)[0]

    async def value(self, name: str, *data: Any, **options: Any) -> Any:
        """What a step returned."""
        end = await self.end(name, *data, **options)
        assert not end.failed, end.error
        return end.value


@pytest_asyncio.fixture
async def make_host() -> AsyncIterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(**options: Any) -> Host:
        hosts.append(Host(**options))
        return hosts[-1]

    yield make
    for host in hosts:
        host.bodies.close()
        await host.pool.close()
        assert host.pool.pids == set()


@pytest_asyncio.fixture
async def host(make_host: Callable[..., Host]) -> Host:
    return make_host()


class Fifo:
    """A pipe with a name: a process says that it is there, and is gone when it ends."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)

    async def open(self) -> asyncio.BaseTransport:
        file = os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)
        self._stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._stream), file
        )
        return transport

    async def line(self) -> str:
        """What the process says first."""
        return (await self._stream.readline()).decode().strip()

    async def end(self) -> None:
        """Wait until every process that holds the pipe is gone."""
        await self._stream.read()


@pytest_asyncio.fixture
async def fifo(tmp_path: Path) -> AsyncIterator[Fifo]:
    fifo = Fifo(tmp_path / "fifo")
    transport = await fifo.open()
    yield fifo
    transport.close()


# --- what crosses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["where", "where_async"])
async def test_a_function_is_executed_in_another_process_with_services_of_its_own(
    host: Host, name: str
) -> None:
    pid, services_pid = await host.value(name)
    assert pid == services_pid != os.getpid()
    assert host.pool.pids == {pid}


async def test_a_child_is_reused_with_its_services(host: Host) -> None:
    assert await host.value("where") == await host.value("where_async") == await host.value("where")


async def test_concurrent_calls_have_a_child_each_and_at_most_so_many(host: Host) -> None:
    found = await asyncio.gather(*[host.value("where") for _ in range(6)])
    assert {pid for pid, _ in found} <= host.pool.pids
    assert len(host.pool.pids) == 2


async def test_input_and_result_have_their_declared_types(host: Host) -> None:
    order = Order("apple", Decimal("1.50"), UTC_NOON)
    assert await host.value("crunch", 10) == 285
    receipt = await host.value("sell", order)
    assert receipt == Receipt(order, {"apple": Size.LARGE}, Decimal("3.00"))


async def test_the_text_that_is_recorded_is_that_of_the_codec(host: Host) -> None:
    end = await host.end("sell", Order("apple", Decimal(1), UTC_NOON))
    assert json.loads(end.text or "")["sizes"] == {"apple": "large"}


async def test_values_larger_than_a_pipe_cross(host: Host) -> None:
    text = "grüße" * 100_000
    assert await host.value("big", text) == text[::-1]


async def test_the_child_has_the_settings_of_the_host(host: Host) -> None:
    assert await host.value("setting") == "memory://host"


async def test_the_context_knows_its_step(host: Host) -> None:
    key = "identity#1"
    assert await host.value("identity", attempt=4) == [
        "run-1",
        "run-1",
        key,
        "identity",
        4,
        invocation_id("run-1", key),
    ]


async def test_functions_call_one_another_in_the_child(host: Host) -> None:
    crunched, pid, own = await host.value("call_others")
    assert (crunched, pid) == (5, own)


@pytest.mark.parametrize("name", ["start_a_run", "ask_after_a_run"])
async def test_runs_are_refused_in_a_child_with_the_way_out(host: Host, name: str) -> None:
    end = await host.end(name)
    assert end.error is not None
    assert (end.error.type, end.error.code) == ("AppNotOpenError", "PKR104")
    assert "in the worker itself" in (end.error.hint or "")


# --- failures -------------------------------------------------------------------------------------


async def test_an_error_keeps_its_type_and_the_lines_where_it_was_raised(host: Host) -> None:
    end = await host.end("refuse", "no")
    assert (end.failed, end.final) == (True, False)
    assert end.error is not None
    assert (end.error.type, end.error.message) == ("Refused", "no")
    assert end.error.is_a(Refused)
    trace = (end.error.traceback or "").splitlines()
    assert "process_app.py" in trace[1]
    assert trace[-1].endswith("Refused: no")


async def test_what_forbids_another_attempt_forbids_it_from_a_child_too(host: Host) -> None:
    assert (await host.end("refuse_for_good", "no")).final
    terminal = await host.end("give_up")
    assert terminal.final
    assert terminal.error is not None
    assert terminal.error.code == "E1"
    payload = await host.end("lie")
    assert payload.final
    assert payload.error is not None
    assert payload.error.code == "PKR307"
    assert payload.error.message.startswith("step 'lie': value: ")


async def test_a_retry_error_chooses_the_wait(host: Host) -> None:
    end = await host.end("come_back")
    assert (end.final, end.after_us) == (False, 90_000_000)


@pytest.mark.parametrize("name", ["leave", "leave_async"])
async def test_sys_exit_is_an_error_of_the_step_and_the_child_goes_on(
    host: Host, name: str
) -> None:
    before = await host.value("where")
    end = await host.end(name)
    assert end.error is not None
    assert end.error.type == "SystemExit"
    assert await host.value("where") == before


@pytest.mark.parametrize(("name", "how"), [("be_killed", "signal 9"), ("vanish", "exit code 3")])
async def test_a_child_that_dies_is_a_failure_that_says_so_and_may_be_retried(
    host: Host, name: str, how: str
) -> None:
    before = await host.value("where")
    end = await host.end(name)
    assert (end.failed, end.final) == (True, False)
    assert end.error is not None
    assert end.error.is_a(ProcessDiedError)
    assert end.error.message == f"the process that executed it died ({how})"
    assert await host.value("where") != before


async def test_a_child_killed_from_outside_in_mid_step_is_a_failure(host: Host, fifo: Fifo) -> None:
    ended, _ = host.begin("spin", fifo.path)
    os.kill(int(await fifo.line()), signal.SIGKILL)
    end = await ended
    assert end.error is not None
    assert end.error.code == "PKR318"
    await fifo.end()


async def test_an_idle_child_that_was_killed_costs_no_attempt(host: Host) -> None:
    pid, _ = await host.value("where")
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert (await host.value("where"))[0] != pid


async def test_services_that_cannot_be_made_fail_the_attempt_with_their_error(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESS_APP_BROKEN", "no database")
    end = await host.end("where")
    assert (end.failed, end.final) == (True, False)
    assert end.error is not None
    assert (end.error.type, end.error.message) == ("OSError", "no database")
    monkeypatch.delenv("PROCESS_APP_BROKEN")
    assert (await host.value("where"))[0] in host.pool.pids


async def test_a_package_without_an_app_is_a_typed_error(make_host: Callable[..., Host]) -> None:
    host = make_host()
    host.pool = ProcessPool(host.loop, "tests.runtime.kit")
    end = await host.end("where")
    assert end.error is not None
    assert end.error.type == "AppNotFoundError"
    await host.pool.close()


# --- timeouts and cancels -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spin", "spin_async"])
async def test_a_timeout_kills_the_child_and_the_next_attempt_has_another(
    host: Host, fifo: Fifo, name: str
) -> None:
    ended, told = host.begin(name, fifo.path, timeout_us=1_000_000)
    pid = int(await fifo.line())
    host.clock.move_to(host.clock.now_us() + 1_000_000)
    end = await ended
    assert end.error is not None
    assert end.error.type == "StepTimeoutError"
    assert told.requested
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (await host.value("where"))[0] != pid
    await fifo.end()


async def test_the_start_of_a_child_is_not_counted_as_time_of_the_attempt(
    host: Host, fifo: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESS_APP_HELLO", fifo.path)
    ended, _ = host.begin("crunch", 3, timeout_us=1_000_000)
    assert await fifo.line() == "making services"
    host.clock.move_to(host.clock.now_us() + 2_000_000)
    assert (await ended).value == 5


async def test_what_a_function_started_is_killed_with_its_child(host: Host, fifo: Fifo) -> None:
    ended, told = host.begin("spin_with_help", fifo.path)
    assert await fifo.line() == "helper"
    told.requested = True
    host.bodies.called_off(told, hard=True)
    await ended
    await fifo.end()


@pytest.mark.parametrize("name", ["until_cancelled", "until_cancelled_async"])
async def test_a_function_sees_that_it_was_called_off(host: Host, fifo: Fifo, name: str) -> None:
    ended, told = host.begin(name, fifo.path)
    pid = await fifo.line()
    told.requested = True
    host.bodies.called_off(told)
    assert (await ended).value == "stopped early"
    assert await host.value("where") == [int(pid), int(pid)]


async def test_a_hard_call_off_kills_the_child_and_forbids_another_attempt(
    host: Host, fifo: Fifo
) -> None:
    ended, told = host.begin("spin", fifo.path)
    pid = int(await fifo.line())
    told.requested = True
    host.bodies.called_off(told, hard=True)
    end = await ended
    assert (end.failed, end.final) == (True, True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await fifo.end()


async def test_what_waits_for_a_child_is_called_off_at_once(
    make_host: Callable[..., Host], fifo: Fifo
) -> None:
    host = make_host(children=1)
    _, _ = host.begin("spin", fifo.path)
    await fifo.line()
    waiting, told = host.begin("where")
    told.requested = True
    host.bodies.called_off(told)
    end = await waiting
    assert end.final
    assert end.error is not None
    assert end.error.message == "the attempt was called off before it began"
    assert len(host.pool.pids) == 1


async def test_one_that_has_ended_may_be_called_off(host: Host) -> None:
    ended, told = host.begin("where")
    await ended
    host.bodies.called_off(told, hard=True)
    assert (await host.value("where")) == (await ended).value


async def test_no_body_begins_once_the_lease_may_have_run_out(host: Host) -> None:
    await host.value("where")
    ended, _ = host.begin("where")
    host.may_begin = False
    assert await host.bodies.wait_until_quiet(60)
    assert not ended.done()
    assert host.fenced == 1


# --- what a function says -------------------------------------------------------------------------


async def test_printing_is_harmless_and_there_is_no_input(
    host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await host.value("talk") == ""
    said = capfd.readouterr()
    assert said.out == ""
    assert "a print in a function" in said.err
    assert "from a child of the child" in said.err


async def test_what_ctx_logger_logs_is_logged_by_the_host(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await host.value("tell")
    first, second = [record for record in caplog.records if record.name == "pikku.run"]
    assert first.getMessage() == "at work on it"
    said = vars(first)
    assert (said["run_id"], said["step"], said["attempt"], said["rows"]) == ("run-1", "tell", 1, 3)
    assert said["process"] in host.pool.pids
    assert second.levelno == logging.ERROR
    assert "Refused: caught" in second.getMessage()


async def test_progress_reaches_whoever_is_asked_to_stop(host: Host) -> None:
    ended, told = host.begin("advance")
    assert not (await ended).failed
    assert told.reports == [(0.0, ""), (0.5, "half"), (1.0, "done")]


async def test_progress_beyond_the_end_is_an_error_of_the_step(host: Host) -> None:
    end = await host.end("advance_too_far")
    assert end.error is not None
    assert end.error.code == "PKR319"


@pytest.mark.parametrize("done", [-0.1, 1.1, float("nan"), float("inf"), True, "1", None])
def test_progress_is_a_number_from_0_to_1(done: Any) -> None:
    step = StepContext("run", "key", "name", 1, Told())
    with pytest.raises(ProgressError):
        step.progress(done)


def test_progress_that_nobody_follows_is_allowed() -> None:
    StepContext("run", "key", "name", 1, Told()).progress(0.5, "half")


# --- the ends of children -------------------------------------------------------------------------


async def test_a_child_that_idles_closes_its_services_and_goes(
    make_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    farewell = tmp_path / "farewell"
    monkeypatch.setenv("PROCESS_APP_FAREWELL", str(farewell))
    host = make_host(idle_seconds=0)
    pid, _ = await host.value("where")
    await asyncio.wait([child.exited for child in host.pool._children])
    assert farewell.read_text() == f"{pid} closed"
    assert host.pool.pids == set()
    assert (await host.value("where"))[0] != pid


async def test_closing_ends_all_children_whether_busy_or_not(host: Host, fifo: Fifo) -> None:
    ended, _ = host.begin("spin", fifo.path)
    await fifo.line()
    await host.value("where")
    assert len(host.pool.pids) == 2
    host.bodies.close()
    await host.pool.close()
    assert host.pool.pids == set()
    assert (await ended).failed
    await fifo.end()


PROGRAM = """
import asyncio, sys
from pikku._processes import Call, ProcessPool

async def main():
    pool = ProcessPool(asyncio.get_running_loop(), sys.argv[1])
    async with pool.child() as child:
        call = Call("spin", '"' + sys.argv[2] + '"', "run", "flow", "spin", "spin", 1, "step")
        await child.execute(call, None)

asyncio.run(main())
"""


async def test_a_child_does_not_outlive_its_host(fifo: Fifo) -> None:
    path = os.pathsep.join(sys.path)
    host = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, PACKAGE, fifo.path], env={**os.environ, "PYTHONPATH": path}
    )
    assert int(await fifo.line()) != host.pid
    host.kill()
    host.wait()
    await fifo.end()


# --- steps of runs --------------------------------------------------------------------------------


async def step(lab: WorkflowLab[Any], name: str, *data: Any, retries: int = 0) -> Run[Any]:
    """A run with one step that calls *name*."""
    return await lab.app.start_workflow("stepping", [name, list(data), retries], wait=False)


async def test_a_step_of_a_run_is_executed_in_another_process() -> None:
    async with WorkflowLab(process_app.app) as lab:
        assert (await (await step(lab, "where")).result())[0] != os.getpid()
        run = await lab.app.start_workflow("computing", 10)
        assert await run.result() == 285


async def test_a_stand_in_is_called_in_the_process_of_the_test() -> None:
    async with WorkflowLab(process_app.app) as lab:
        lab.fakes.where = lambda: [os.getpid()]
        assert await (await step(lab, "where")).result() == [os.getpid()]


async def test_a_step_whose_child_dies_is_tried_again(tmp_path: Path) -> None:
    async with WorkflowLab(process_app.app) as lab:
        run = await step(lab, "be_killed_once", str(tmp_path / "mark"), retries=1)
        assert await run.result() == "alive"
        assert lab.executions("Step") == 2


async def test_a_step_that_takes_too_long_is_killed_and_tried_again(fifo: Fifo) -> None:
    async with WorkflowLab(process_app.app, auto_advance=False) as lab:
        run = await step(lab, "spin_once", fifo.path, retries=1)
        first = int(await fifo.line())
        await lab.advance("1min")
        assert await run.result() != first
        await fifo.end()


async def test_cancelling_a_run_reaches_its_step_in_the_child(fifo: Fifo) -> None:
    async with WorkflowLab(process_app.app) as lab:
        run = await step(lab, "until_cancelled", fifo.path)
        await fifo.line()
        await run.cancel("enough")
        with pytest.raises(RunCancelledError):
            await run.result()
        loaded = await lab._store.load_steps(run.run_id)
        assert loaded is not None
        assert [each.result for each in loaded.steps] == ['"stopped early"']


async def test_a_step_that_does_not_stop_is_killed_when_the_time_to_clean_up_is_over(
    fifo: Fifo,
) -> None:
    async with WorkflowLab(process_app.app, auto_advance=False) as lab:
        run = await step(lab, "spin", fifo.path)
        await fifo.line()
        await run.cancel("enough")
        await lab.advance("1min")
        with pytest.raises(RunCancelledError):
            await run.result()
        await fifo.end()


async def test_a_crash_and_a_close_leave_no_child(fifo: Fifo) -> None:
    async with WorkflowLab(process_app.app, auto_advance=False) as lab:
        await step(lab, "spin", fifo.path)
        await fifo.line()
        await lab.crash()
        await fifo.end()


def test_frames_are_put_together_from_any_pieces() -> None:
    frames = [{"text": "ä" * n, "n": n} for n in (0, 1, 500)]
    data = b"".join(packed(frame) for frame in frames)
    for size in (1, 7, 64, len(data)):
        unpacker = Unpacker()
        found = [
            frame
            for start in range(0, len(data), size)
            for frame in unpacker.feed(data[start : start + size])
        ]
        assert found == frames
