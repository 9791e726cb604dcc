"""Same input, same bytes, same complaints: every folder of tests/golden is a small project.

A case is the project as it stands in a checkout, `diagnostics.txt` with what `pikku-gen` says about
it, and `expected/` with the package it writes, where it writes one. Those whose names begin with
`client_` are for `pikku-gen client`, and played by test_client.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pikku_gen.cli import diagnostics_text
from pikku_gen.codes import TABLE
from pikku_gen.pipeline import Outcome, run

GOLDEN = Path(__file__).parents[1] / "golden"
EVERY = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
CASES = [case for case in EVERY if not case.startswith("client_")]
ANSWERS = ("expected", "diagnostics.txt")


def project_of(case: str, folder: Path) -> Path:
    """A copy of the case's project that a run may write to."""
    project = folder / case
    ignore = shutil.ignore_patterns(*ANSWERS, "__pycache__", ".pikku")
    shutil.copytree(GOLDEN / case, project, symlinks=True, ignore=ignore)
    return project


def emitted(project: Path, outcome: Outcome) -> dict[str, str]:
    """The written package's files by path; nothing after an error."""
    package = project / outcome.package
    if outcome.failed or not outcome.package or not package.is_dir():
        return {}
    return {
        path.relative_to(package.parent).as_posix(): path.read_bytes().decode()
        for path in sorted(package.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("case", CASES)
def test_a_project_gets_exactly_this_package_and_these_words(
    case: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = project_of(case, tmp_path)

    outcome = run(project)

    said = diagnostics_text(outcome)
    made = emitted(project, outcome)
    if request.config.getoption("--update-golden"):
        update(GOLDEN / case, said, made)
    assert said == (GOLDEN / case / "diagnostics.txt").read_text(encoding="utf-8")
    assert made == expected_of(case)


@pytest.mark.parametrize("case", CASES)
def test_a_second_run_says_the_same_and_writes_nothing(case: str, tmp_path: Path) -> None:
    project = project_of(case, tmp_path)
    first = run(project)

    second = run(project)

    assert diagnostics_text(second) == diagnostics_text(first)
    assert not second.wrote
    assert second.failed or not second.changes.stale


def test_every_code_is_emitted_by_a_case() -> None:
    said = "".join((GOLDEN / case / "diagnostics.txt").read_text("utf-8") for case in EVERY)

    assert [code for code in TABLE if code not in said] == []


def expected_of(case: str) -> dict[str, str]:
    folder = GOLDEN / case / "expected"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().decode()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def update(case: Path, said: str, made: dict[str, str]) -> None:
    (case / "diagnostics.txt").write_text(said, encoding="utf-8")
    shutil.rmtree(case / "expected", ignore_errors=True)
    for path, text in made.items():
        target = case / "expected" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode())
