"""Is a generated client clean in both checkers, and are mistakes with it errors at their lines?

The marks are those of `tests/typing/test_types.py`; the client is the golden one of the depot.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.typing.test_types import GOLDEN, marked, mypy, pyright

CASES = Path(__file__).parent / "cases"
DEPOT = GOLDEN / "client_depot" / "expected"


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


def test_a_client_is_clean_in_both_checkers(tmp_path: Path) -> None:
    package = tmp_path / "client"
    shutil.copytree(DEPOT, package)

    assert mypy(package, [package], ".mypy_cache/client")[0] == {}
    assert pyright(package, [package])[0] == {}
