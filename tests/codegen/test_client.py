"""`pikku-gen client`: the same input, the same bytes, the same complaints; and a folder of its own.

The cases are the folders of tests/golden whose names begin with `client_`: see test_golden.py. The
client is written to the folder `client` of each project.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.codegen.test_golden import EVERY, GOLDEN, expected_of, project_of, update

from pikku_gen.cli import diagnostics_text, main
from pikku_gen.client.build import ClientNameError, build_client, package_of
from pikku_gen.pipeline import Outcome

CASES = [case for case in EVERY if case.startswith("client_")]


def built(project: Path, *, check: bool = False) -> Outcome:
    return build_client(project, project / "client", None, check=check)


def written(project: Path, outcome: Outcome) -> dict[str, str]:
    """The files of the client by path; nothing after an error."""
    folder = project / "client"
    if outcome.failed:
        return {}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().decode()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("case", CASES)
def test_a_project_gets_exactly_this_client_and_these_words(
    case: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = project_of(case, tmp_path)

    outcome = built(project)

    said = diagnostics_text(outcome)
    made = written(project, outcome)
    if request.config.getoption("--update-golden"):
        update(GOLDEN / case, said, made)
    assert said == (GOLDEN / case / "diagnostics.txt").read_text(encoding="utf-8")
    assert made == expected_of(case)


@pytest.fixture
def depot(tmp_path: Path) -> Path:
    project = project_of("client_depot", tmp_path)
    assert built(project).wrote
    return project


def test_a_second_run_writes_nothing_and_check_is_content(depot: Path) -> None:
    assert not built(depot).wrote
    assert not built(depot, check=True).changes.stale


def test_check_says_what_is_stale_and_writes_nothing(depot: Path) -> None:
    file = depot / "depot" / "money.py"
    file.write_text(file.read_text("utf-8").replace("10_000", "20_000"), encoding="utf-8")
    before = written(depot, Outcome(depot))

    outcome = built(depot, check=True)

    assert set(outcome.changes.written) == {
        "depot_client/types/depot/money.py",
        "openapi.json",
        "schemas.json",
    }
    assert "+LIMIT = Decimal(20_000)" in outcome.diff
    assert written(depot, Outcome(depot)) == before


def test_what_is_no_longer_needed_is_removed_and_what_others_put_there_stays(depot: Path) -> None:
    own = depot / "client" / "notes.txt"
    own.write_text("mine", encoding="utf-8")
    functions = depot / "depot" / "functions.py"
    text = functions.read_text("utf-8").replace("-> Sketch | None", "-> None")
    text = text.replace("Page[Line]", "list[Line]").replace("data: Lines", "data: str")
    functions.write_text(text, encoding="utf-8")

    outcome = built(depot)

    assert outcome.wrote
    assert "Sketch" not in (depot / "client" / "depot_client" / "types" / "__init__.py").read_text()
    assert own.read_text(encoding="utf-8") == "mine"


def test_a_module_without_anything_to_copy_is_removed(depot: Path) -> None:
    (depot / "depot" / "workflows.py").unlink()
    (depot / "depot" / "functions.py").write_text(
        "from depot_pikku import Context, pikku_func\n\n\n"
        "@pikku_func(expose=True)\nasync def ping(ctx: Context) -> int: ...\n",
        encoding="utf-8",
    )

    outcome = built(depot)

    assert "depot_client/types/depot/money.py" in outcome.changes.removed
    assert not (depot / "client" / "depot_client" / "types" / "depot" / "money.py").exists()


def test_a_file_that_was_edited_by_hand_is_not_overwritten(depot: Path) -> None:
    readme = depot / "client" / "README.md"
    readme.write_text("# Ours now\n", encoding="utf-8")

    outcome = built(depot)

    assert [found.code for found in outcome.diagnostics if found.severity == "error"] == ["PKG402"]
    assert readme.read_text(encoding="utf-8") == "# Ours now\n"


def test_the_package_that_the_server_imports_is_no_folder_for_a_client(tmp_path: Path) -> None:
    from pikku_gen import generate

    project = project_of("client_depot", tmp_path)
    generate(project)

    outcome = build_client(project, project / "depot_pikku", None)

    assert [found.code for found in outcome.diagnostics] == ["PKG608", "PKG611"]
    assert (project / "depot_pikku" / "_app.py").exists()


def test_the_same_sources_elsewhere_make_the_same_bytes(depot: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(depot, other, ignore=shutil.ignore_patterns("client", ".pikku"))

    assert written(other, built(other)) == written(depot, Outcome(depot))


def pikku_gen(project: Path, *arguments: str) -> Result:
    command = ["--project", str(project), *arguments]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def test_the_command_says_what_it_wrote_and_what_is_stale(tmp_path: Path) -> None:
    project = project_of("client_import", tmp_path)
    out = str(project / "client")

    stale = pikku_gen(project, "client", "--out", out, "--check")
    written = pikku_gen(project, "client", "--out", out)
    fresh = pikku_gen(project, "client", "--out", out, "--check")

    assert (stale.exit_code, written.exit_code, fresh.exit_code) == (1, 0, 0)
    assert stale.stderr == "pikku-gen: client is stale (14 files); run pikku-gen client\n"
    assert "+++ client/pyproject.toml" in stale.stdout
    assert written.stderr == "pikku-gen: client: 14 written, 0 unchanged\n"
    assert fresh.stderr == "pikku-gen: client is up to date\n"


def test_the_command_prints_diagnostics_for_programs(tmp_path: Path) -> None:
    project = project_of("client_nothing", tmp_path)

    result = pikku_gen(project, "--format", "json", "client", "--out", str(project / "client"))

    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)["diagnostics"]
    assert (found["code"], found["path"]) == ("PKG610", "pyproject.toml")


def test_a_name_that_cannot_be_is_wrong_usage(tmp_path: Path) -> None:
    project = project_of("client_import", tmp_path)

    result = pikku_gen(project, "client", "--out", str(project / "client"), "--name", "1shop")

    assert result.exit_code == 2
    assert "`1shop` cannot be the name of a package" in result.stderr
    assert not (project / "client").exists()


def test_a_client_may_have_another_name_and_keeps_it(tmp_path: Path) -> None:
    project = project_of("client_import", tmp_path)

    result = pikku_gen(project, "client", "--out", str(project / "client"), "--name", "My.Shop")

    assert result.exit_code == 0
    assert not built(project, check=True).changes.stale
    text = (project / "client" / "my_shop" / "__init__.py").read_text(encoding="utf-8")
    assert "from ._sync_client import SyncMyShop as SyncMyShop" in text


def test_what_stops_the_server_s_package_stops_the_client(tmp_path: Path) -> None:
    project = project_of("client_import", tmp_path)
    (project / "shop" / "functions.py").write_text("@pikku_func(:\n", encoding="utf-8")

    outcome = built(project)

    assert [found.code for found in outcome.diagnostics] == ["PKG103"]


@pytest.mark.parametrize("name", ["", "1shop", "shop client", "shop-", "import", "../shop"])
def test_a_distribution_has_a_name_that_python_can_import(name: str) -> None:
    with pytest.raises(ClientNameError, match="cannot be the name of a package"):
        package_of(name, ())


def test_a_client_is_not_called_like_the_server() -> None:
    with pytest.raises(ClientNameError, match="`shop_pikku` is the server's own package"):
        package_of("shop-pikku", ("shop", "shop_pikku"))
