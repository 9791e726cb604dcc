"""The checkers' cells: mypy and basedpyright, both strict, on typed calls and on untyped ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .calls import (
    MISTAKE_LINES,
    MISTAKES,
    Form,
    add_mistakes,
    change_one_body,
    synthesize_calls,
)
from .generation import Metrics, pikku_gen

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "many"


@dataclass(frozen=True, slots=True)
class Checked:
    """One run of a checker: its CPU, that of its children with it, and what it said."""

    cpu_s: float
    messages: tuple[tuple[int, str], ...]
    """Line and text, of errors."""


Check = Callable[[Path], Checked]


def check_types(data: Path, *, checker: str, functions: int) -> list[Metrics]:
    """The floor; calls as attributes and by reference, over the floor and over half as many; where
    the checker remembers: unchanged, one body changed; what one mistake prints."""
    check = {"mypy": mypy, "pyright": pyright}[checker]
    floor = check(_project(data / "floor", functions, "floor"))
    found: list[Metrics] = [{"cpu_ms": floor.cpu_s * 1e3}]
    typed = _project(data / "attribute", functions, "attribute")
    half = _clean(check, _project(data / "half", functions // 2, "attribute"))
    attribute = _clean(check, typed)
    found.append(_over(floor, attribute) | {"times_half": attribute.cpu_s / half.cpu_s})
    if checker == "mypy":
        found.append({"cpu_ms": _clean(check, typed).cpu_s * 1e3})
        change_one_body(typed, PROJECT)
        found.append({"cpu_ms": _clean(check, typed).cpu_s * 1e3})
    reference = _clean(check, _project(data / "reference", functions, "reference"))
    found.append(_over(floor, reference))
    add_mistakes(typed, PROJECT)
    found.append(_mistakes(check(typed)))
    return found


def mypy(project: Path) -> Checked:
    """`mypy --strict`, with a cache below the project: cold the first time."""
    said = project.with_suffix(".mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    command += ["--output", "json", "--cache-dir", str(project / ".mypy_cache")]
    command += ["--no-error-summary", "--explicit-package-bases", PROJECT]
    found = _run(command, project, said, {"MYPYPATH": f"{project}:{ROOT / 'runtime'}"})
    lines = map(json.loads, said.read_text("utf-8").splitlines())
    errors = [(one["line"], one["message"]) for one in lines if one["severity"] == "error"]
    return Checked(found, tuple(errors))


def pyright(project: Path) -> Checked:
    """`basedpyright`, strict."""
    said = project.with_suffix(".pyright")
    config = {
        "typeCheckingMode": "strict",
        "include": [PROJECT],
        "extraPaths": [".", str(ROOT / "runtime")],
        "pythonVersion": "3.11",
    }
    (project / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    program = str(Path(sys.executable).with_name("basedpyright"))
    command = [program, "--outputjson", "--pythonpath", sys.executable, "-p", str(project)]
    found = _run(command, project, said, {})
    document: dict[str, Any] = json.loads(said.read_text("utf-8"))
    return Checked(
        found,
        tuple(
            (one["range"]["start"]["line"] + 1, one["message"])
            for one in document["generalDiagnostics"]
            if one["severity"] == "error"
        ),
    )


def _project(folder: Path, functions: int, form: Form) -> Path:
    synthesize_calls(folder, PROJECT, functions, form)
    if form != "floor":
        pikku_gen(folder)
    return folder


def _run(command: list[str], project: Path, said: Path, env: dict[str, str]) -> float:
    """CPU seconds of a command and its children; its words go to a file."""
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=project, env=os.environ | env, stdout=log, stderr=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def _clean(check: Check, project: Path) -> Checked:
    found = check(project)
    if found.messages:
        line, words = found.messages[0]
        raise AssertionError(f"{len(found.messages)} errors, the first in line {line}: {words}")
    return found


def _over(floor: Checked, found: Checked) -> Metrics:
    return {"cpu_ms": found.cpu_s * 1e3, "times_floor": found.cpu_s / floor.cpu_s}


def _mistakes(found: Checked) -> Metrics:
    """The most characters for one mistake, all its messages together, and the most lines of one
    message; each has to be at its own line."""
    lines = sorted({line for line, _ in found.messages})
    if len(lines) != MISTAKE_LINES or lines[-1] - lines[0] != MISTAKE_LINES - 1:
        raise AssertionError(f"{MISTAKES} has errors in lines {lines}")
    said = {line: [words for at, words in found.messages if at == line] for line in lines}
    return {
        "cpu_ms": found.cpu_s * 1e3,
        "characters": max(sum(map(len, words)) for words in said.values()),
        "lines": max(len(words.splitlines()) for _, words in found.messages),
    }
