"""The table of codes is complete, ordered and printable."""

from __future__ import annotations

import re

from pikku_gen.codes import AREAS, ENTRIES, TABLE, markdown


def test_codes_are_unique_and_in_order() -> None:
    codes = [entry.code for entry in ENTRIES]

    assert codes == sorted(set(codes))
    assert all(re.fullmatch(r"PKG[1-6]\d\d", code) for code in codes)
    assert {code[3] for code in codes} == set(AREAS)


def test_every_entry_says_cause_example_and_remedy() -> None:
    for entry in TABLE.values():
        assert entry.cause.endswith("."), entry.code
        assert entry.example, entry.code
        assert entry.remedy.endswith((".", "`")), entry.code
        assert entry.hint, entry.code


def test_the_markdown_has_a_heading_for_every_code() -> None:
    headings = re.findall(r"^#### (PKG\d+):", markdown(), re.MULTILINE)

    assert headings == list(TABLE)
