"""Each page does what it says: its files type-check, its commands print what it shows."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from tests.docs.blocks import ROOT, Block, blocks_of
from tests.docs.reader import Reader

COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pikku demo\n",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest\n",
]
README = ROOT / "README.md"
START = ROOT / "docs" / "getting-started.md"
# What a page describes with examples from the sample app.
ON_THE_SAMPLE = sorted({*(ROOT / "docs").glob("*.md")} - {START, ROOT / "docs" / "errors.md"})
PROJECT = """\
[tool.pikku]
root = "shop"
services = "shop.services:create_services"

[tool.pytest.ini_options]
pythonpath = ["."]
asyncio_mode = "auto"
"""
IGNORED = shutil.ignore_patterns("__pycache__", ".pikku")


def check_the_whole(reader: Reader, mypy: str) -> None:
    """What the page has made is generated, typed and tested."""
    reader.generate()
    reader.expect_success("pikku-gen --check", "after the page")
    reader.expect_success(mypy, "after the page")
    if (reader.folder / "tests").is_dir():
        options = f"-q -p no:cacheprovider -c {reader.folder / 'pyproject.toml'} -o addopts="
        reader.expect_success(f"pytest {options} --import-mode=importlib tests", "after the page")


def assert_quoted(block: Block, file: Path) -> None:
    """Each paragraph of the block stands in *file*, word for word."""
    source = file.read_text(encoding="utf-8")
    for paragraph in block.text.partition("\n")[2].split("\n\n\n"):
        assert paragraph.strip("\n") in source, f"{block.place} quotes what {file} does not say"


@pytest.fixture
def checkout(tmp_path: Path) -> Reader:
    """A reader at the root of the repository, or of as much of it as is needed."""
    for folder in ("sample_app", "generated"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=IGNORED)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return Reader(tmp_path, generates=False, import_path=["sample_app", "generated"])


def test_the_sample_app_does_what_its_readme_says(checkout: Reader) -> None:
    blocks = blocks_of(ROOT / "sample_app" / "README.md")
    order = next(block for block in blocks if block.language == "json")
    checkout.write("order.json", order.text)

    for block in blocks:
        checkout.follow(block)


def test_the_readme_shows_the_sample_app_as_it_is(checkout: Reader) -> None:
    blocks = [block for block in blocks_of(README) if block.text not in COMMANDS]
    for block in blocks:
        if block.path is not None and (ROOT / block.path).exists():
            assert_quoted(block, ROOT / block.path)
        else:
            checkout.follow(block)

    check_the_whole(checkout, "mypy sample_app generated tests")


def test_the_readme_starts_with_the_two_commands_that_the_ci_runs() -> None:
    found = [block.text for block in blocks_of(README)]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert found[:2] == COMMANDS
    assert "-m venv .venv && .venv/bin/pip install -q -e '.[dev]'" in script
    for command in COMMANDS:
        assert command.rpartition(" && ")[2] in script


def test_getting_started_leads_from_an_empty_folder_to_a_workflow(tmp_path: Path) -> None:
    reader = Reader(tmp_path, generates=False)

    for block in blocks_of(START):
        reader.follow(block)

    check_the_whole(reader, "mypy .")


@pytest.mark.parametrize("page", ON_THE_SAMPLE, ids=lambda page: page.stem)
def test_a_page_holds_in_the_sample_app(page: Path, tmp_path: Path) -> None:
    blocks = blocks_of(page)
    if not any(block.language in ("python", "sh", "console") for block in blocks):
        for block in blocks:
            Reader(tmp_path).follow(block)
        return
    shutil.copytree(ROOT / "sample_app" / "shop", tmp_path / "shop", ignore=IGNORED)
    reader = Reader(tmp_path)
    reader.write("pyproject.toml", PROJECT)

    for block in blocks:
        reader.follow(block)

    check_the_whole(reader, "mypy --strict --explicit-package-bases .")
    run_what_is_new(reader)


# What the pages' own workflows take; each is run to its end.
INPUTS = {"newsletter": '["ada", "grace"]'}
RUN_ALL = f"""
import asyncio, json
from pikku.testing import WorkflowLab
from shop_pikku import app

INPUTS = {INPUTS!r}

async def main():
    async with WorkflowLab(app) as lab:
        for name in sorted(app.registry.workflows.keys() - {{"onboarding", "order"}}):
            data = [json.loads(INPUTS[name])] if name in INPUTS else []
            run = await app.start_workflow(name, *data)
            print(name, await run.result())

asyncio.run(main())
"""


def run_what_is_new(reader: Reader) -> None:
    """Every workflow that a page adds completes."""
    reader.write("run_all.py", RUN_ALL)
    reader.expect_success(f"{sys.executable} run_all.py", "after the page")
