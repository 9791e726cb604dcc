"""Do users get the types, and the type errors, that are promised, in both checkers?

A line of `cases/` that ends in `# E: code` must be an error; mypy must give that code. A line that
ends in `# R: type` must reveal that type. Any other complaint is a failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "cases"
GOLDEN = ROOT / "tests" / "golden"
SOURCES = ("runtime", "sample_app", "generated")
OURS = [ROOT / source for source in SOURCES]
MARK = re.compile(r"# (?P<kind>[ER]): (?P<text>.+)$")
Lines = dict[tuple[str, int], str]


def marked(kind: str, cases: Path = CASES) -> Lines:
    """The marks of one kind in all cases, by file and line."""
    return {
        (path.name, number): found["text"].strip()
        for path in sorted(cases.glob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if (found := MARK.search(line)) and found["kind"] == kind
    }


def unqualified(text: str) -> str:
    """`builtins.list[shop.types.Line]` as `list[Line]`."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


def mypy(
    folder: Path, sources: list[Path], cache: str
) -> tuple[dict[tuple[str, int], set[str]], Lines]:
    """Codes of errors and revealed types, by file and line."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty"]
    command += ["--config-file", os.devnull, "--hide-error-context", "--no-color-output"]
    command += ["--follow-imports", "silent", "--explicit-package-bases"]
    command += ["--output", "json", str(folder)]
    path = os.pathsep.join(map(str, sources))
    environment = os.environ | {"MYPYPATH": path, "MYPY_CACHE_DIR": str(ROOT / cache)}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode in (0, 1), made.stdout + made.stderr
    errors: dict[tuple[str, int], set[str]] = defaultdict(set)
    revealed: Lines = {}
    for line in made.stdout.splitlines():
        found: dict[str, Any] = json.loads(line)
        place = (Path(found["file"]).name, int(found["line"]))
        shown = re.search(r'Revealed type is "(.+)"', found["message"])
        if shown:
            revealed[place] = unqualified(shown[1]).replace("?", "")
        elif found["severity"] == "error":
            errors[place].add(found["code"])
    return dict(errors), revealed


def pyright(folder: Path, sources: list[Path]) -> tuple[Lines, Lines]:
    """Messages of errors and revealed types, by file and line."""
    config = {
        "typeCheckingMode": "strict",
        "include": ["."],
        "pythonVersion": "3.11",
        "extraPaths": list(map(str, sources)),
        "reportUnusedExpression": "none",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    program = Path(sys.executable).with_name("basedpyright")
    command = [str(program), "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    document: dict[str, Any] = json.loads(made.stdout)
    errors: Lines = {}
    revealed: Lines = {}
    for found in document["generalDiagnostics"]:
        line = int(found["range"]["start"]["line"]) + 1
        place = (Path(found["file"]).name, line)
        shown = re.search(r'Type of ".+" is "(.+)"', found["message"], re.DOTALL)
        if shown:
            revealed[place] = unqualified(shown[1])
        elif found["severity"] == "error":
            errors[place] = found["message"]
    return errors, revealed


def test_the_cases_are_as_many_as_the_forms_ask_for() -> None:
    """Names, inputs, results and options of each form, forgotten awaits, wiring, fakes."""
    assert len(marked("E")) >= 150
    assert len(marked("R")) >= 50


def test_mypy_reports_every_misuse_at_its_line_and_knows_every_type() -> None:
    errors, revealed = mypy(CASES, OURS, ".mypy_cache/cases")

    expected = marked("E")
    missing = {place: code for place, code in expected.items() if code not in errors.get(place, ())}
    assert missing == {}
    assert {place: codes for place, codes in errors.items() if place not in expected} == {}
    assert revealed == marked("R")


def test_pyright_reports_every_misuse_at_its_line_and_knows_every_type(tmp_path: Path) -> None:
    shutil.copytree(CASES, tmp_path, dirs_exist_ok=True)
    errors, revealed = pyright(tmp_path, OURS)

    expected = marked("E")
    assert sorted(set(expected) - set(errors)) == []
    assert {place: text for place, text in errors.items() if place not in expected} == {}
    assert revealed == marked("R")


@pytest.mark.parametrize("case", ["names", "queues", "schedules"])
def test_a_package_full_of_difficult_names_is_clean_in_both_checkers(
    case: str, tmp_path: Path
) -> None:
    package = tmp_path / case
    shutil.copytree(GOLDEN / case / "expected", package)
    sources = [ROOT / "runtime", GOLDEN / case]

    assert mypy(package, [package, *sources], f".mypy_cache/{case}")[0] == {}
    assert pyright(package, [package, *sources])[0] == {}
