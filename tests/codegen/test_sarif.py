"""`--format sarif`: valid, complete, and the same for a finding whose line has moved."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.codegen.test_golden import CASES, project_of

from pikku_gen.cli import main
from pikku_gen.codes import TABLE
from pikku_gen.pipeline import run
from pikku_gen.sarif import FINGERPRINT

# The official JSON schema as pydantic models that refuse what it does not know.
MODEL = import_module("pydantic_sarif.model").StaticAnalysisResultsFormatSarifVersion210JsonSchema

TWICE = """\
from shop_pikku import Context, pikku_func


@pikku_func
async def ping(ctx: Context) -> Itn: ...


@pikku_func
async def pong(ctx: Context) -> Itn: ...
"""


def report_on(folder: Path, *options: str) -> dict[str, Any]:
    """The one run of the log that `pikku-gen` prints of the project."""
    arguments = ["--project", str(folder), "--format", "sarif", *options]
    document = json.loads(CliRunner().invoke(main, arguments).stdout)
    MODEL.model_validate(document)
    assert document["version"] == "2.1.0"
    (found,) = document["runs"]
    return dict(found)


def prints_of(found: dict[str, Any]) -> list[str]:
    return [result["partialFingerprints"][FINGERPRINT] for result in found["results"]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "functions.py").write_text(TWICE, "utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.pikku]\nroot = "shop"\n', "utf-8")
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_every_complaint_of_the_golden_projects_is_a_valid_result(
    case: str, tmp_path: Path
) -> None:
    folder = project_of(case, tmp_path)
    expected = run(folder).diagnostics

    found = report_on(folder)

    rules = found["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(TABLE)
    assert len(set(prints_of(found))) == len(expected)
    for result, diagnostic in zip(found["results"], expected, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == diagnostic.code
        assert result["level"] == diagnostic.severity
        assert result["message"]["text"] == f"{diagnostic.message}\nhelp: {diagnostic.hint}"
        place = result["locations"][0]["physicalLocation"]
        span = diagnostic.place.span
        assert place["artifactLocation"]["uriBaseId"] == "%SRCROOT%"
        assert place.get("region") == (
            {
                "startLine": span.line,
                "startColumn": span.column,
                "endColumn": span.column + span.width,
            }
            if span.located
            else None
        )


def test_a_finding_keeps_its_fingerprint_when_its_line_moves(project: Path) -> None:
    before = prints_of(report_on(project))
    file = project / "shop" / "functions.py"

    file.write_text("# one\n# two\n" + TWICE.replace("ping(ctx", "ping( ctx"), "utf-8")
    moved = prints_of(report_on(project))

    assert len(set(before)) == 2
    assert moved[1] == before[1]
    assert moved[0] != before[0]


def test_equal_lines_have_fingerprints_of_their_own(project: Path) -> None:
    same = TWICE.replace("pong", "ping")
    (project / "shop" / "functions.py").write_text(same, "utf-8")

    prints = prints_of(report_on(project))

    assert len(prints) == len(set(prints)) > 2


def test_paths_are_uris_below_the_project(project: Path) -> None:
    (project / "shop" / "functions.py").rename(project / "shop" / "größe.py")

    result = report_on(project)["results"][0]

    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "shop/gr%C3%B6%C3%9Fe.py", "uriBaseId": "%SRCROOT%"}
    assert str(project) not in json.dumps(result)


def test_a_stale_package_is_told_though_it_is_no_finding(project: Path) -> None:
    (project / "shop" / "functions.py").write_text(TWICE.replace("Itn", "int"), "utf-8")

    (said,) = report_on(project, "--check")["invocations"]

    assert said["executionSuccessful"]
    assert said["toolExecutionNotifications"][0]["message"]["text"].endswith(
        "is stale (20 files); run pikku-gen"
    )


def test_a_project_that_cannot_be_read_is_no_successful_run(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.pikku", "utf-8")

    found = report_on(project)

    assert not found["invocations"][0]["executionSuccessful"]
    assert [result["ruleId"] for result in found["results"]] == ["PKG502"]
