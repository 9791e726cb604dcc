"""Whatever lies in `.pikku/scan.json` or in the manifest of the last run: the generator writes what
it writes without, and says the same."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.codegen.test_golden import project_of
from tests.fuzz.kit import mangled, mutated, odd_value, rounds

from pikku_gen.cache import FORMAT
from pikku_gen.cli import diagnostics_text
from pikku_gen.pipeline import run

CACHE = ".pikku/scan.json"
CASES = ("signals", "duplicates", "notes")


class Project:
    """A copy of a golden case, what was made of it, and what the generator then knew."""

    def __init__(self, case: str, folder: Path) -> None:
        self.folder = project_of(case, folder)
        backdate(self.folder)
        self.said = diagnostics_text(run(self.folder))
        run(self.folder)
        self.cache = (self.folder / CACHE).read_bytes()
        self.output = self.files()
        self.manifest = next((p for p in self.output if p.endswith("manifest.json")), "")

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.is_relative_to(self.folder / ".pikku")
        }

    def assert_as_ever(self) -> None:
        outcome = run(self.folder)
        assert diagnostics_text(outcome) == self.said
        assert self.files() == self.output


def backdate(folder: Path) -> None:
    """Files as old as those of a checkout, so that their stat alone says that they are the same."""
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


@pytest.fixture(params=CASES)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    return Project(request.param, tmp_path)


def changed(data: bytes, draw: Random) -> bytes:
    """Lines of JSON cut, flipped or of other types."""
    if draw.random() < 0.4:
        return mangled(data, draw, draw.randint(1, 3))
    start = data.index(b"{")
    document = json.loads(data[start:])
    if draw.random() < 0.5:
        document = mutated(document, draw, draw.randint(1, 4))
    else:
        document[draw.choice(list(document))] = odd_value(draw)
    return data[:start] + json.dumps(document).encode()


def test_a_damaged_cache_changes_neither_output_nor_words(project: Project) -> None:
    for draw in rounds(30, "cache"):
        (project.folder / CACHE).write_bytes(changed(project.cache, draw))

        project.assert_as_ever()


def test_a_damaged_cache_is_of_no_use_after_an_edit_either(project: Project) -> None:
    sources = sorted(path for path in project.folder.rglob("*.py") if "_pikku" not in str(path))
    for draw in rounds(15, "cache and edit"):
        (project.folder / CACHE).write_bytes(changed(project.cache, draw))
        edited = draw.choice(sources)
        before = edited.read_bytes()

        edited.write_bytes(before + b"\n# a comment\n")
        outcome = run(project.folder)

        assert diagnostics_text(outcome) == project.said
        edited.write_bytes(before)
        backdate(project.folder)


def test_a_damaged_manifest_is_written_again_and_no_other_file_is_touched(
    tmp_path: Path,
) -> None:
    project = Project("signals", tmp_path)
    manifest = project.folder / project.manifest
    (project.folder / "precious.txt").write_bytes(b"precious")
    project.output["precious.txt"] = b"precious"
    for draw in rounds(40, "manifest"):
        good = project.output[project.manifest]
        if draw.random() < 0.3:
            document: Any = json.loads(good)
            odd = ["../precious.txt", "/etc/hostname", "a\x00b", "\ud800", "x" * 300, 5, None, "."]
            document["files"] = draw.sample(odd, 3) + document["files"][1:]
            damaged = json.dumps(document).encode()
        else:
            damaged = changed(good, draw)
        manifest.write_bytes(damaged)

        outcome = run(project.folder)

        refused = {found.code for found in outcome.diagnostics if found.code == "PKG402"}
        if refused:  # it no longer looks like one of ours
            assert manifest.read_bytes() == damaged
            manifest.write_bytes(good)
        assert project.files() == project.output


def test_a_cache_of_another_format_is_none(tmp_path: Path) -> None:
    project = Project("signals", tmp_path)
    document = json.loads(project.cache.partition(b"\n")[2])
    document["format"] = FORMAT + 1
    document["files"] = {}
    body = json.dumps(document).encode()
    line = f'"{sha256(body).hexdigest()}"\n'.encode()
    (project.folder / CACHE).write_bytes(line + body)

    project.assert_as_ever()


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "null", "[]", '{"format": 2}'])
def test_a_cache_that_is_no_cache_is_none(tmp_path: Path, text: str) -> None:
    project = Project("signals", tmp_path)
    (project.folder / CACHE).write_text(text, encoding="utf-8")

    project.assert_as_ever()


def test_a_folder_in_the_place_of_the_cache_is_none(tmp_path: Path) -> None:
    project = Project("signals", tmp_path)
    shutil.rmtree(project.folder / ".pikku")
    (project.folder / CACHE).mkdir(parents=True)

    project.assert_as_ever()
