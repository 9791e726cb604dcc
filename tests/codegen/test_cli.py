"""The command line: what goes where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pikku_gen.cli import main
from pikku_gen.codes import ENTRIES

GOOD = """\
from shop_pikku import Context, pikku_func


@pikku_func
async def ping(ctx: Context) -> {}: ...
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "functions.py").write_text(GOOD.format("int"), encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.pikku]\nroot = "shop"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path / "shop")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def pikku_gen(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_a_build_finds_the_project_above_and_says_what_it_wrote(project: Path) -> None:
    result = pikku_gen()

    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "pikku-gen: shop_pikku: 20 written, 0 unchanged\n"
    assert (project / "shop_pikku" / "py.typed").exists()


def test_check_exits_with_1_and_the_diff_on_stdout_when_stale(project: Path) -> None:
    result = pikku_gen("--check")

    assert result.exit_code == 1
    assert "+++ shop_pikku/_rpc.pyi" in result.stdout
    assert result.stderr.endswith("is stale (20 files); run pikku-gen\n")


def test_check_exits_with_0_when_fresh(project: Path) -> None:
    pikku_gen()

    assert pikku_gen("--check").exit_code == 0


def test_diagnostics_go_to_stderr_with_a_frame_and_exit_with_1(project: Path) -> None:
    (project / "shop" / "functions.py").write_text(GOOD.format("Itn"), encoding="utf-8")

    result = pikku_gen()

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "shop/functions.py:5:33: PKG202 `Itn` leads to no type here\n"
        "    |\n"
        "  5 | async def ping(ctx: Context) -> Itn: ...\n"
        "    |                                 ^^^\n"
        "  help: import it in this file, or define it\n"
        "pikku-gen: 1 error; nothing was written\n"
    )


def test_json_is_one_document_on_stdout(project: Path) -> None:
    (project / "shop" / "functions.py").write_text(GOOD.format("Itn"), encoding="utf-8")

    result = pikku_gen("--format", "json")

    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [found["code"] for found in document["diagnostics"]] == ["PKG202"]
    assert document["diagnostics"][0]["line"] == 5
    assert document["written"] == []


def test_github_gets_annotations(project: Path) -> None:
    (project / "shop" / "functions.py").write_text(GOOD.format("Itn"), encoding="utf-8")

    result = pikku_gen("--format", "github")

    assert result.stdout.startswith(
        "::error file=shop/functions.py,line=5,col=33,endColumn=36,"
        "title=PKG202::`Itn` leads to no type here"
    )


def test_a_wrong_configuration_exits_with_2(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.pikku]\nrot = 1\n", encoding="utf-8")

    result = pikku_gen()

    assert result.exit_code == 2
    assert "PKG503" in result.stderr


def test_a_wrong_option_exits_with_2() -> None:
    assert pikku_gen("--formt", "json").exit_code == 2


def test_without_any_project_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = pikku_gen()

    assert result.exit_code == 2
    assert "PKG501 there is no pyproject.toml" in result.stderr


def test_colors_only_where_asked_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "shop" / "functions.py").write_text(GOOD.format("Itn"), encoding="utf-8")
    plain = pikku_gen().stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    colored = pikku_gen().stderr
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\033[" not in plain
    assert "\033[" in colored
    assert pikku_gen().stderr == plain


@pytest.mark.parametrize("code", [entry.code for entry in ENTRIES])
def test_every_code_is_explained(code: str) -> None:
    result = pikku_gen("explain", code.lower())

    assert result.exit_code == 0
    assert result.stdout.startswith(code)
    assert "Example:" in result.stdout
    assert "Remedy:" in result.stdout


def test_an_unknown_code_is_answered_with_the_nearest() -> None:
    result = pikku_gen("explain", "PKG2O1")

    assert result.exit_code == 2
    assert "did you mean PKG2" in result.stderr


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_load_nothing_heavy(option: str) -> None:
    program = (
        "import sys, contextlib\n"
        "from pikku_gen.cli import main\n"
        "with contextlib.suppress(SystemExit): main([sys.argv[1]])\n"
        "heavy = {'libcst', 'jinja2', 'pydantic', 'tomllib', 'pikku_gen.pipeline'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )

    made = subprocess.run(
        [sys.executable, "-c", program, option],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
    )

    assert made.stderr.strip() == "[]"
    assert "pikku-gen" in made.stdout or "Usage" in made.stdout


def test_the_caret_stands_below_the_name_behind_wide_characters_too(project: Path) -> None:
    source = GOOD.format("Itn").replace("ctx: Context)", 'ctx: Context, data: "数量")')
    (project / "shop" / "functions.py").write_text(source, encoding="utf-8")

    lines = pikku_gen().stderr.splitlines()

    assert lines[2:4] == [
        '  5 | async def ping(ctx: Context, data: "数量") -> Itn: ...',
        "    |                                     ^^^^",
    ]


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ('[tool.pikku]\nroot = "shop', "2:13"),
        ("[tool.pikku]\nroot = = 1\n", "2:8"),
        ("[tool.pikku]\nsource = [\n", "2:11"),
    ],
)
def test_settings_that_are_no_toml_are_shown_where_they_stop_being_it(
    project: Path, settings: str, place: str
) -> None:
    (project / "pyproject.toml").write_text(settings, encoding="utf-8")

    assert pikku_gen().stderr.startswith(f"pyproject.toml:{place}: PKG502 ")


def test_a_setting_is_found_however_it_is_indented_and_quoted(project: Path) -> None:
    settings = '[ tool.pikku ]  # ours\n  "root" = 7 # seven\n'
    (project / "pyproject.toml").write_text(settings, encoding="utf-8")

    lines = pikku_gen().stderr.splitlines()

    assert lines[0] == "pyproject.toml:2:12: PKG504 [tool.pikku] `root` must be a string"
    assert lines[2:4] == ['  2 |   "root" = 7 # seven', "    |            ^"]
