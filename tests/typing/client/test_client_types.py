"""Is a generated client clean in both checkers, and are mistakes with it errors at their lines?

The marks are those of `tests/typing/test_types.py`; the client is the golden one of the depot.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests.typing.test_types import GOLDEN, ROOT, marked, mypy, pyright

from pikku_gen.client.build import build_client

CASES = Path(__file__).parent / "cases"
DEPOT = GOLDEN / "client_depot" / "expected"
IMPORTING = GOLDEN / "client_import"


def test_mypy_reports_every_misuse_at_its_line_and_knows_every_type() -> None:
    errors, revealed = mypy(CASES, [DEPOT], ".mypy_cache/client")

    expected = marked("E", CASES)
    missing = {place: code for place, code in expected.items() if code not in errors.get(place, ())}
    assert missing == {}
    assert {place: codes for place, codes in errors.items() if place not in expected} == {}
    assert revealed == marked("R", CASES)


def test_pyright_reports_every_misuse_at_its_line_and_knows_every_type(tmp_path: Path) -> None:
    shutil.copytree(CASES, tmp_path, dirs_exist_ok=True)
    errors, revealed = pyright(tmp_path, [DEPOT])

    expected = marked("E", CASES)
    assert sorted(set(expected) - set(errors)) == []
    assert {place: text for place, text in errors.items() if place not in expected} == {}
    assert revealed == marked("R", CASES)


def exposed_names(folder: Path) -> Path:
    """The project of difficult names, with all of them exposed."""
    shutil.copytree(GOLDEN / "names", folder, ignore=shutil.ignore_patterns("expected"))
    for path in (folder / "shop").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"(@(?:p\.)?pikku_func)(?:\(\))?$", r"\1(expose=True)", text, flags=re.M)
        text = re.sub(r"(@(?:p\.)?pikku_func|wire)\((?=name=)", r"\1(expose=True, ", text)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("what", ["many names", "difficult names", "one of each", "imported types"])
def test_a_client_is_clean_in_both_checkers(what: str, tmp_path: Path) -> None:
    package, sources = tmp_path / "client", [tmp_path / "client"]
    match what:
        case "many names":
            shutil.copytree(DEPOT, package)
        case "difficult names":
            assert build_client(exposed_names(tmp_path / "names"), package, "x-shop").wrote
        case "one of each":
            assert build_client(ROOT, package, None).wrote
        case _:
            shutil.copytree(IMPORTING / "expected", package)
            sources.append(IMPORTING)

    assert mypy(package, sources, ".mypy_cache/client")[0] == {}
    assert pyright(package, sources)[0] == {}
