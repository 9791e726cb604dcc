"""The program as a whole: help, version, colour, the table of exit codes, the doctor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.cli.desk import Desk

from pikku import ErrorInfo, RunCancelledError, RunFailedError
from pikku.cli import exit_code, main
from pikku.errors import (
    AppNotFoundError,
    InternalError,
    NoSuchStepError,
    PikkuError,
    ReplayDivergedError,
    ResultTimeoutError,
    RunNotFoundError,
    StoreUnavailableError,
)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["runs", "--help"]])
def test_help_ends_with_0(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_every_command_says_what_it_does() -> None:
    listed = CliRunner().invoke(main, ["--help"]).output.split("Commands:")[1].splitlines()

    assert [line.split()[0] for line in listed if line.strip()] == [
        "db",
        "demo",
        "dev",
        "doctor",
        "init",
        "queue",
        "runs",
        "schedule",
        "serve",
        "worker",
    ]
    assert all(len(line.split()) > 1 for line in listed if line.strip())


def test_an_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["rnus"]).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunFailedError("r", "w", ErrorInfo("E", "m")), 1),
        (InternalError("m"), 1),
        (AppNotFoundError("m"), 2),
        (StoreUnavailableError("m"), 2),
        (ReplayDivergedError("r", "w", "m"), 1),
        (RunNotFoundError("r", store="s"), 3),
        (NoSuchStepError("r", "s", []), 3),
        (ResultTimeoutError("m"), 4),
        (RunCancelledError("r", "w", "m"), 5),
    ],
)
def test_errors_end_with_the_codes_of_the_table(error: PikkuError, code: int) -> None:
    assert exit_code(error) == code


def test_there_is_no_escape_code_in_a_pipe_unless_asked_for(desk: Desk) -> None:
    desk.pikku("runs", "start", "failing", "--id", "f1")
    show = ("runs", "show", "f1")

    assert "\x1b" not in desk.pikku(*show).stdout
    assert "\x1b" in desk.pikku(*show, FORCE_COLOR="1").stdout
    assert "\x1b" not in desk.pikku(*show, FORCE_COLOR="1", NO_COLOR="1").stdout


def test_text_that_the_terminal_cannot_show_does_not_end_the_command(desk: Desk) -> None:
    desk.edit('"Before"', '"Vorher ✓ 日本"')
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1")

    done = desk.pikku("runs", "show", "n1", PYTHONIOENCODING="iso-8859-1")

    assert done.returncode == 0
    assert "Vorher \\u2713" in done.stdout


def test_the_doctor_names_each_setting_with_its_origin(desk: Desk) -> None:
    report = json.loads(desk.pikku("doctor", "--json", PIKKU_STORE="sqlite:///b.db").stdout)

    assert report["settings"] == {
        "store": {"value": "sqlite:///b.db", "origin": "environment"},
        "queue_service": {"value": "none", "origin": "default"},
        "retention": {"value": "for ever", "origin": "default"},
        "log_format": {"value": "text", "origin": "default"},
        "redact": {"value": "the usual keys", "origin": "default"},
    }


def test_the_doctor_ends_with_1_for_a_store_that_is_none(desk: Desk) -> None:
    (desk.folder / "runs.db").write_text("this is no database, however long it may be " * 50)

    done = desk.pikku("doctor")

    assert done.returncode == 1
    assert "PKR505" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_doctor_notices_a_generated_package_that_is_stale(tmp_path: Path) -> None:
    project = Desk(tmp_path / "shed")
    Desk(tmp_path).pikku("init", "shed")
    fresh = project.pikku("doctor")
    with (tmp_path / "shed" / "shed" / "functions.py").open("a") as file:
        file.write("\n\n@pikku_func\ndef later(ctx: Context) -> None: ...\n")

    stale = project.pikku("doctor")

    assert (fresh.returncode, fresh.stdout.splitlines()[-1]) == (0, "everything is fine")
    assert (stale.returncode, stale.stdout.splitlines()[-1]) == (1, "1 problem")
    assert "shed_pikku is stale" in stale.stdout
