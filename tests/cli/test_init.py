"""`pikku init`: a project that generates, type-checks, is tested and runs; nothing overwritten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.desk import Desk


def test_a_new_project_generates_type_checks_is_tested_and_runs(tmp_path: Path) -> None:
    made = Desk(tmp_path).pikku("init", "my-shop")
    project = Desk(tmp_path / "my-shop")

    assert made.returncode == 0, made.stderr
    assert "  cd my-shop\n" in made.stdout
    _passes(project, "-m", "pikku_gen", "--check")
    _passes(project, "-m", "mypy")
    _passes(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    started = project.pikku(
        *("runs", "start", "welcome", "--id", "w1"),
        *("--input", '{"name": "Ada", "email": "ada@example.com"}'),
    )
    assert (started.returncode, started.stdout) == (0, "w1 running\n")
    assert (project.folder / ".pikku" / "runs.db").is_file()


def test_what_a_project_consists_of(tmp_path: Path) -> None:
    Desk(tmp_path).pikku("init", "--name", "kiosk")

    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found >= {
        ".gitattributes",
        ".gitignore",
        "README.md",
        "kiosk/__init__.py",
        "kiosk/functions.py",
        "kiosk/main.py",
        "kiosk/services.py",
        "kiosk/types.py",
        "kiosk/workflows.py",
        "kiosk_pikku/__init__.py",
        "pyproject.toml",
        "tests/test_workflows.py",
    }
    assert 'packages = ["kiosk", "kiosk_pikku"]' in (tmp_path / "pyproject.toml").read_text()
    attributes = (tmp_path / ".gitattributes").read_text()
    assert attributes == "kiosk_pikku/** linguist-generated=true\n"


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")

    done = Desk(tmp_path).pikku("init", "--name", "kiosk")

    assert done.returncode == 2
    assert done.stderr == (
        "error: PKR103 . already holds README.md; nothing was written\n"
        "help: choose an empty folder: pikku init DIR\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1shop", "it is no Python identifier"),
        ("my shop", "it is no Python identifier"),
        ("../shop", "it is no Python identifier"),
        ("class", "Python keeps this word for itself"),
        ("json", "a module of Python's standard library is called so"),
        ("pikku", "this name is taken"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, name: str, reason: str
) -> None:
    done = Desk(tmp_path).pikku("init", "new", "--name", name)

    assert done.returncode == 2
    assert done.stderr == (
        f"error: PKR103 a project cannot be called {name!r}: {reason}\n"
        "help: choose another: pikku init DIR --name my_shop\n"
    )
    assert list(tmp_path.iterdir()) == []


def _passes(project: Desk, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
