"""`pikku runs`: what each command promises, with its exit codes."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path

import pytest
from tests.cli.desk import Desk, until


def test_start_returns_when_the_run_only_waits(desk: Desk) -> None:
    done = desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")

    assert (done.returncode, done.stdout) == (0, "n1 running\n")
    assert "Nap: sleeping until" in done.stderr
    assert "pikku runs resume n1 --wait" in done.stderr
    assert desk.effects == ["before"]


def test_start_with_wait_prints_the_result_and_nothing_else_on_stdout(desk: Desk) -> None:
    (desk.folder / "input.json").write_text('"10ms"')

    done = desk.pikku("runs", "start", "nap", "--input", "@input.json", "--wait")

    assert (done.returncode, done.stdout) == (0, '"after"\n')


def test_start_reads_its_input_from_stdin(desk: Desk) -> None:
    done = desk.pikku("runs", "start", "nap", "--input", "-", "--wait", "--json", stdin='"10ms"')

    outcome = json.loads(done.stdout)
    assert (outcome["status"], outcome["output"], outcome["waits"]) == ("completed", "after", None)


def test_starting_under_the_same_id_finds_the_run(desk: Desk) -> None:
    arguments = ("runs", "start", "nap", "--input", '"10ms"', "--id", "n1", "--wait")

    first, second = desk.pikku(*arguments), desk.pikku(*arguments)

    assert first.stdout == second.stdout == '"after"\n'
    assert desk.effects == ["before", "after"]


def test_a_failed_run_ends_with_1_and_its_error(desk: Desk) -> None:
    done = desk.pikku("runs", "start", "failing", "--id", "f1")

    assert (done.returncode, done.stdout) == (1, "f1 failed\n")
    assert done.stderr.splitlines()[-1] == (
        "error: PKR303 run f1 of 'failing' failed: StepFailedError: step 'Refuse' failed after "
        "2 attempts: ValueError: out of \\x1b[31mpaper"
    )


def test_a_cancelled_run_ends_with_5(desk: Desk) -> None:
    done = desk.pikku("runs", "start", "giving up", "--id", "g1", "--wait")

    assert done.returncode == 5
    assert done.stderr.splitlines()[-1] == (
        "error: PKR304 run g1 of 'giving up' was cancelled: no need"
    )


def test_waiting_too_long_ends_with_4_and_the_run_goes_on(desk: Desk) -> None:
    done = desk.pikku(
        "runs", "start", "nap", "--input", '"1h"', "--id", "n1", "--wait", "--timeout", "100ms"
    )

    assert done.returncode == 4
    assert done.stderr.endswith(
        "error: PKR309 run n1 did not end within 0.1 s\n"
        "help: it goes on with: pikku worker, or: pikku runs resume n1 --wait\n"
    )
    assert desk.status("n1") == "running"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (
            ["runs", "start", "nab", "--input", "1"],
            3,
            "error: PKR202 unknown workflow 'nab'\nhelp: did you mean 'nap'?\n",
        ),
        (["runs", "start", "nap"], 2, "workflow 'nap' takes an input: pass --input JSON, @FILE"),
        (["runs", "start", "nap", "--input", '{"a":'], 2, "error: PKR308 invalid input for"),
        (["runs", "start", "nap", "--input", "5"], 2, "error: PKR308 invalid input for"),
        (["runs", "start", "nap", "--input", "@no.json"], 2, "no.json: No such file or directory"),
        (["runs", "start", "three", "--id", "a b"], 2, "error: PKR317"),
        (["runs", "start", "three", "--timeout", "5s"], 2, "--timeout goes with --wait"),
        (["runs", "start", "three", "--wait", "--timeout", "5"], 2, "error: PKR310"),
        (["runs", "resume", "nobody"], 3, "error: PKR305 no run 'nobody' in sqlite:///"),
        (["runs", "show", "nobody"], 3, "help: `pikku runs list` shows what the store holds"),
        (["runs", "history", "nobody"], 3, "error: PKR305"),
        (["runs", "cancel", "nobody", "--reason", "x"], 3, "error: PKR305"),
        (["runs", "cancel", "nobody"], 2, "Missing option '--reason'"),
        (["runs", "list", "--status", "asleep"], 2, "'asleep' is not one of"),
        (["--store", "mysql://x", "runs", "list"], 2, "error: PKR101 unknown store URL"),
        (["--store", "memory://", "runs", "list"], 2, "can only be seen by the process"),
        (["--app", "desk", "runs", "start", "nap"], 2, "help: known: desk_pikku"),
        (["--app", "dask.pikku", "runs", "start", "nap"], 2, "there is no package 'dask.pikku'"),
        (["--app", "../desk", "runs", "start", "nap"], 2, "error: PKR1"),
        (["--app", "dask_pikku", "runs", "start", "nap"], 2, "help: did you mean 'desk_pikku'?"),
    ],
)
def test_bad_input_gets_an_error_and_an_exit_code(
    desk: Desk, arguments: list[str], code: int, complaint: str
) -> None:
    done = desk.pikku(*arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert desk.effects == []


def test_no_app_far_and_wide_is_an_error_with_the_ways_to_name_one(tmp_path: Path) -> None:
    done = Desk(tmp_path).pikku("runs", "start", "nap")

    assert done.returncode == 2
    assert done.stderr == (
        "error: PKR105 no app is named, and no pyproject.toml with [tool.pikku] is here or above\n"
        "help: pass --app PACKAGE, set PIKKU_APP, or run inside a folder with [tool.pikku]\n"
    )


def test_a_project_without_its_generated_package_is_told_to_write_it(desk: Desk) -> None:
    (desk.folder / "desk_pikku" / "__init__.py").unlink()
    (desk.folder / "desk_pikku").rmdir()

    done = desk.pikku("runs", "start", "nap")

    assert (done.returncode, done.stderr) == (
        2,
        "error: PKR105 there is no package 'desk_pikku'\nhelp: write it first: pikku-gen\n",
    )


def test_a_module_that_raises_when_imported_is_shown_with_its_own_frames(desk: Desk) -> None:
    desk.edit('Path("imported.txt").touch()', "1 / 0")

    done = desk.pikku("runs", "start", "nap", "--input", '"1h"')

    assert done.returncode == 2
    assert "1 / 0" in done.stderr
    assert "ZeroDivisionError" in done.stderr.splitlines()[-2]
    assert "_commands" not in done.stderr


def test_services_that_cannot_be_made_are_blamed_on_the_app(desk: Desk) -> None:
    package = desk.folder / "desk_pikku" / "__init__.py"
    package.write_text(
        package.read_text().replace("app = App(", "app = App(services='desk.work:missing',")
    )

    done = desk.pikku("runs", "start", "nap", "--input", '"1h"')

    assert done.returncode == 2
    assert "error: PKR100 desk_pikku cannot be opened: AttributeError:" in done.stderr


def test_a_pyproject_that_is_no_toml_is_named(desk: Desk) -> None:
    (desk.folder / "pyproject.toml").write_text("[tool.pikku\n")

    done = desk.pikku("runs", "start", "nap")

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: PKR103 {desk.folder}/pyproject.toml cannot be read:")


def test_the_app_is_found_from_a_folder_below_and_by_the_environment(
    desk: Desk, tmp_path: Path
) -> None:
    below = desk.folder / "desk" / "deeper"
    below.mkdir()
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")

    seen = Desk(below).pikku("runs", "list", PIKKU_APP="desk_pikku")

    assert "n1" in seen.stdout


def test_list_filters_and_prints_newest_first(desk: Desk) -> None:
    assert desk.pikku("runs", "list").stderr == "no runs\n"
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    desk.pikku("runs", "start", "failing", "--id", "f1")

    rows = desk.pikku("runs", "list").stdout.splitlines()
    named = [json.loads(line) for line in desk.pikku("runs", "list", "--json").stdout.splitlines()]

    assert [row.split()[:3] for row in rows] == [
        ["RUN", "WORKFLOW", "STATUS"],
        ["f1", "failing", "failed"],
        ["n1", "nap", "running"],
    ]
    assert [each["run_id"] for each in named] == ["f1", "n1"]
    for arguments in (["--workflow", "nap"], ["--status", "running"], ["--tag", "rest"]):
        only = desk.pikku("runs", "list", *arguments).stdout.splitlines()
        assert [row.split()[0] for row in only] == ["RUN", "n1"]
    assert len(desk.pikku("runs", "list", "--limit", "1").stdout.splitlines()) == 2


def test_show_draws_the_attempts_and_what_comes_next(desk: Desk) -> None:
    desk.pikku("runs", "start", "patient", "--id", "p1")

    shown = desk.pikku("runs", "show", "p1").stdout
    document = desk.document("runs", "show", "p1")

    assert shown.startswith("patient  p1  running\n")
    assert "  scheduled  Refuse  refuse, attempt 2 at " in shown
    assert "attempt 1 failed at" in shown
    assert "ValueError: out of \\x1b[31mpaper" in shown
    assert "\x1b" not in shown
    assert "next attempt at" in shown
    assert document["waits"]["for"] == "retry"
    assert document["steps"][0]["failed_attempts"] == 1


def test_show_tells_a_suspended_run_why_and_what_to_do(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    desk.edit('name="nap"', 'name="siesta"')
    desk.pikku("runs", "cancel", "n1", "--reason", "no more")

    resumed = desk.pikku("runs", "resume", "n1")
    shown = desk.pikku("runs", "show", "n1").stdout

    assert (resumed.returncode, resumed.stdout) == (0, "n1 suspended\n")
    assert "suspended (missing_function): unknown workflow 'nap'\n" in shown
    assert "what to do: deploy it; the run goes on with the next host" in shown
    assert desk.pikku("doctor").returncode == 1


def test_a_run_whose_code_was_changed_is_suspended_and_says_so(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1s"', "--id", "n1")
    desk.edit('"Before", note', '"Earlier", note')

    with desk.spawn("runs", "resume", "n1", "--wait") as waiting:
        until(waiting.stderr, lambda line: line.startswith("suspended (nondeterminism)"))
        waiting.send_signal(signal.SIGINT)
        waiting.communicate(timeout=60)
    shown = desk.pikku("runs", "show", "n1").stdout

    assert waiting.returncode == 130
    assert "suspended (nondeterminism): run n1 of 'nap': at step 'Before'" in shown
    assert "what to do: deploy the code that matches its history, then: pikku runs" in shown


def test_history_is_in_the_order_of_events(desk: Desk) -> None:
    desk.pikku("runs", "start", "failing", "--id", "f1")

    lines = desk.pikku("runs", "history", "f1", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]

    assert [event["kind"] for event in events if event["kind"] != "retry_scheduled"] == [
        "run_started",
        "attempt_failed",
        "step_started",
        "step_failed",
        "run_failed",
    ]
    assert "attempt_failed" in desk.pikku("runs", "history", "f1").stdout


def test_cancel_records_the_request_and_the_next_host_carries_it_out(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    (desk.folder / "imported.txt").unlink()

    asked = desk.pikku("runs", "cancel", "n1", "--reason", "no more")
    executed_user_code = (desk.folder / "imported.txt").exists()
    carried_out = desk.pikku("runs", "resume", "n1")
    again = desk.pikku("runs", "cancel", "n1", "--reason", "no more")

    assert (asked.returncode, asked.stdout) == (0, "n1 running, cancel requested\n")
    assert not executed_user_code
    assert (carried_out.returncode, carried_out.stdout) == (5, "n1 cancelled\n")
    assert again.returncode == 2
    assert "error: PKR316 run n1 is cancelled and cannot be cancelled" in again.stderr
    assert desk.effects == ["before"]


def test_a_run_that_has_ended_cannot_be_resumed(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"10ms"', "--id", "n1", "--wait")

    done = desk.pikku("runs", "resume", "n1")

    assert done.returncode == 2
    assert done.stderr == (
        "error: PKR316 run n1 is completed and cannot be resumed\n"
        "help: start another run, or retry it if it has failed\n"
    )


def test_commands_that_read_execute_nothing_and_write_nothing(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    desk.pikku("runs", "cancel", "n1", "--reason", "so that a host has something to do")
    desk.edit('Path("imported.txt").touch()', "raise SystemExit('the app was imported')")
    before = _dump(desk)

    for arguments in (
        ["runs", "list"],
        ["runs", "show", "n1"],
        ["runs", "show", "n1", "--json"],
        ["runs", "history", "n1"],
    ):
        done = desk.pikku(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
    desk.pikku("doctor")

    assert _dump(desk) == before
    assert desk.effects == ["before"]


def test_reading_makes_no_store(desk: Desk) -> None:
    desk.pikku("runs", "list")
    desk.pikku("doctor")

    assert not (desk.folder / "runs.db").exists()


def test_the_store_of_the_option_wins_over_the_environment(desk: Desk) -> None:
    desk.pikku("--store", "sqlite:///a.db", "runs", "start", "failing", "--id", "a")
    desk.pikku("runs", "start", "failing", "--id", "b", PIKKU_STORE="sqlite:///b.db")

    seen = desk.pikku("--store", "sqlite:///a.db", "runs", "list", PIKKU_STORE="sqlite:///b.db")

    assert [line.split()[0] for line in seen.stdout.splitlines()] == ["RUN", "a"]
    assert not (desk.folder / "runs.db").exists()


def _dump(desk: Desk) -> list[str]:
    connection = sqlite3.connect(desk.folder / "runs.db")
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_a_suspended_run_ends_by_force_and_a_reason_says_something(desk: Desk) -> None:
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")
    desk.edit('name="nap"', 'name="siesta"')
    desk.pikku("runs", "cancel", "n1", "--reason", "no more")
    desk.pikku("runs", "resume", "n1")

    nothing = desk.pikku("runs", "cancel", "n1", "--reason", " ")
    forced = desk.pikku("runs", "cancel", "n1", "--reason", "its code is gone", "--force")
    again = desk.pikku("runs", "cancel", "n1", "--reason", "its code is gone", "--force")

    assert "error: PKR204 pikku runs cancel: the reason is ' '" in nothing.stderr
    assert (forced.returncode, forced.stdout) == (0, "n1 cancelled, without cleaning up\n")
    assert "PKR316 run n1 is cancelled" in again.stderr
