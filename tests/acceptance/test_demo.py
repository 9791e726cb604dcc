"""`pikku demo`, as a newcomer runs it: in an empty folder, with nothing but the installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pikku._commands.demo import BEFORE_THE_KILL, Demo, NotHeld


def play(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PIKKU_")}
    return subprocess.run(
        [sys.executable, "-m", "pikku.cli", "demo", *arguments],
        cwd=folder,
        env={**environment, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_the_demo_holds_what_it_says_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = play(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    scenes = [
        "$ pikku-gen\n",
        "Success: no issues found",
        'TypedDict item "user_id" has type "str"',
        "Wait 5 minutes before welcome email: sleeping until",
        "kill -9 ",
        "Create user profile in database: recorded before (succeeded)",
        '{"success":true}',
        "Every step was executed once.",
        "onboarding  demo  completed",
        "[ Send welcome email ]  send_email",
        "pikku init hello",
    ]
    places = [said.find(scene) for scene in scenes]
    assert -1 not in places and places == sorted(places), said
    assert "\x1b" not in said
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]


def test_a_kept_project_is_complete(tmp_path: Path) -> None:
    done = play(tmp_path, "--keep", "kept")

    assert done.returncode == 0, done.stdout + done.stderr
    kept = tmp_path / "kept"
    effects = (kept / "effects.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in effects] == [*BEFORE_THE_KILL, "send_email"]
    assert (kept / "signup_pikku" / "__init__.py").is_file()
    assert (kept / "runs.db").is_file()


def test_a_folder_with_something_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").touch()

    done = play(tmp_path, "--keep", "kept")

    assert done.returncode == 2
    assert "kept exists and is not an empty folder" in done.stderr


def test_a_step_that_was_executed_twice_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "effects.txt").write_text("create_user_profile\t1\n" * 2 + "welcome_message\t1\n")

    with pytest.raises(NotHeld, match="'create_user_profile': 2"):
        Demo(tmp_path).hold_effects(BEFORE_THE_KILL, "before the kill")


def test_without_mypy_the_scene_names_the_pip_line_and_the_demo_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_spec(name: str) -> None:
        return None

    monkeypatch.setattr("pikku._commands.demo.find_spec", no_spec)

    Demo(tmp_path).type_check()

    assert capsys.readouterr().out.endswith("  pip install 'pikku[demo]'\n")
