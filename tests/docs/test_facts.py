"""What the pages list is complete, and what they link to exists."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from tests.docs.blocks import ROOT, blocks_of, prose_of

import pikku
from pikku import _records
from pikku._settings import ENVIRONMENT, EngineOptions
from pikku.testing import WorkflowLab
from pikku_gen import config

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "sample_app" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The fragments that a link into *page* may have."""
    headings = HEADING.findall(prose_of(page))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(prose_of(page)):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not fragment or fragment in anchors_of(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_says_what_it_is(page: Path) -> None:
    if page.name != "errors.md":
        assert [block.place for block in blocks_of(page) if not block.language] == []


PROOF = re.compile(r"\[`(\w+)`\]\(\.\./((?:tests|runtime)/[\w/]+\.py)\)")


def test_every_proof_that_is_named_is_a_test_in_the_file_that_it_leads_to() -> None:
    text = (DOCS / "guarantees.md").read_text(encoding="utf-8")
    proofs = PROOF.findall(text)

    assert len(proofs) > 40
    for name, path in proofs:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"def (test|check)_{name}\(", source), f"{name} in {path}"


def test_every_promise_names_its_proof() -> None:
    text = (DOCS / "guarantees.md").read_text(encoding="utf-8")
    promises = re.findall(r"^\d+\. .*(?:\n   .*)*", text, re.MULTILINE)

    assert len(promises) >= 11
    assert [each for each in promises if not PROOF.search(each)] == []


def test_every_setting_and_variable_is_described() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    settings: tuple[str, ...] = vars(config)["_KNOWN"]
    options = [field.name for field in dataclasses.fields(EngineOptions)]

    for name in (*settings, *ENVIRONMENT.values(), "PIKKU_APP", *options):
        assert f"`{name}`" in text, name


def test_every_default_of_the_engine_is_the_one_that_is_written_down() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")

    for name, default in dataclasses.asdict(EngineOptions()).items():
        said = "None" if default is None else f"{default:.0f}"
        assert f"| `{name}` | {said} |" in text, name


def test_every_status_is_drawn_and_no_other() -> None:
    page = blocks_of(DOCS / "state-machine.md")
    runs, steps, _ = (block.text for block in page if block.language == "mermaid")

    def drawn(text: str) -> set[str]:
        ends = re.findall(r"^ +(\S+) --> ([^\s:]+)", text, re.MULTILINE)
        return {end for pair in ends for end in pair} - {"[*]"}

    assert drawn(runs) == set(_records.RUN_STATUSES)
    assert drawn(steps) == {*_records.ENDED_STEP, "scheduled", "running"}


def test_every_reason_for_a_suspension_is_described() -> None:
    text = (DOCS / "state-machine.md").read_text(encoding="utf-8")
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "runtime" / "pikku").glob("_*.py")
    )
    found = set(re.findall(r'reason="(\w+)"|_suspend\("(\w+)"', source))

    for reason in {one or other for one, other in found}:
        assert f"| `{reason}` |" in text, reason


def test_every_step_of_the_public_door_is_described() -> None:
    text = (DOCS / "step-types.md").read_text(encoding="utf-8")

    for name in (*vars(pikku.WorkflowSteps), "do"):
        assert name.startswith("_") or f"{name}(" in text, name


def test_everything_that_a_lab_can_do_is_described() -> None:
    text = (DOCS / "testing.md").read_text(encoding="utf-8")

    for name in vars(WorkflowLab):
        assert name.startswith("_") or f"{name}(" in text, name
