"""Each page does what it says: its files type-check, its commands print what it shows."""

from __future__ import annotations

import asyncio
import shutil
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.client.server import TOKEN, served
from tests.docs.blocks import ROOT, Block, blocks_of
from tests.docs.reader import Reader
from tests.servers.fixtures import MakeRedis
from tests.servers.resp import Connection, ReplyError

from pikku._settings import Work
from shop.services import Ledger, Mailer, Services
from shop.types import Line, Order
from shop_pikku import app, workflows

COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pikku demo\n",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest\n",
]
README = ROOT / "README.md"
START = ROOT / "docs" / "getting-started.md"
# What a page describes with examples from the sample app.
REMOTE = ROOT / "docs" / "remote.md"
POSTGRESQL = ROOT / "docs" / "postgresql.md"
CLIENTS = ROOT / "docs" / "clients.md"
ON_THE_SAMPLE = sorted(
    {*(ROOT / "docs").glob("*.md")}
    - {START, REMOTE, POSTGRESQL, CLIENTS, ROOT / "docs" / "errors.md"}
)
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
SERVER = "redis://127.0.0.1:6379/0"
DATABASE = "postgresql://pikku@127.0.0.1:5432/shop"
PROJECT = """\
[tool.pikku]
root = "shop"
services = "shop.services:create_services"
authorize = "shop.auth:authorize"

[tool.pytest.ini_options]
pythonpath = ["."]
asyncio_mode = "auto"
"""
ORDER = Order(
    order_id="1",
    email="ada@example.com",
    address="1 Main Street",
    card="visa",
    lines=[Line(sku="apple", quantity=2)],
    total=Decimal(1),
)
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
    reader = Reader(tmp_path)
    follow_on_the_sample(reader, blocks)


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_holds_in_the_sample_app(page: Path, tmp_path: Path) -> None:
    blocks = blocks_of(page)
    reader = Reader(tmp_path)
    put_sample(reader)

    for block in blocks:
        reader.follow(block)

    check_the_whole(reader, "mypy --strict --explicit-package-bases .")


def test_the_page_on_workers_holds_on_a_server_with_the_settings_it_names(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    blocks = blocks_of(REMOTE)
    server = make_redis(**directives_of(blocks, "redis.conf"))

    follow_on_the_sample(Reader(tmp_path, stands_for={SERVER: f"{server.url}?strict=1"}), blocks)


def test_the_page_on_postgresql_holds_on_a_server(postgres_url: str, tmp_path: Path) -> None:
    blocks = blocks_of(POSTGRESQL)
    reader = Reader(tmp_path, stands_for={DATABASE: postgres_url})

    follow_on_the_sample(reader, [block for block in blocks if "pip install" not in block.text])


async def test_the_page_on_clients_holds_against_a_server(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    services = Services(ledger, Mailer(ledger))
    async with app.open(store="memory://", services=services), served(app) as there:
        reader = Reader(
            tmp_path,
            import_path=[".", "clients/shop"],
            stands_for={"https://shop.example/pikku": there.url},
        )
        reader.environment["SHOP_TOKEN"] = TOKEN
        blocks = [block for block in blocks_of(CLIENTS) if "pip install" not in block.text]
        await asyncio.to_thread(follow_on_the_sample, reader, blocks)


async def test_the_user_that_the_page_on_workers_names_may_do_what_is_needed_and_no_more(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    blocks = blocks_of(REMOTE)
    user = directives_of(blocks, "users.acl")
    server = make_redis(**directives_of(blocks, "redis.conf"), **user)
    url = server.url.replace("//", "//shop:secret@")
    ledger = Ledger(tmp_path)

    async with app.open(store=url, services=Services(ledger, Mailer(ledger)), work=Work()):
        run = await workflows.order.start(ORDER)

        assert (await run.result(timeout="20s")).status == "shipped"
    with Connection(url) as connection, pytest.raises(ReplyError, match="NOPERM"):
        connection.ask("GET", "other")


def follow_on_the_sample(reader: Reader, blocks: list[Block]) -> None:
    """Do what blocks show in a copy of the sample app."""
    put_sample(reader)
    for block in blocks:
        reader.follow(block)

    check_the_whole(reader, "mypy --strict --explicit-package-bases .")
    run_what_is_new(reader)


def put_sample(reader: Reader) -> None:
    """A copy of the sample app, as a project of its own."""
    shutil.copytree(ROOT / "sample_app" / "shop", reader.folder / "shop", ignore=IGNORED)
    reader.write("pyproject.toml", PROJECT)


def directives_of(blocks: list[Block], name: str) -> dict[str, Any]:
    """What the block that is the server's file *name* says."""
    (text,) = (each.text for each in blocks if each.path == name)
    lines = [line.partition(" ") for line in text.splitlines()[1:]]
    return {directive.replace("-", "_"): value for directive, _, value in lines}


# What the pages' own workflows take; each is run to its end.
INPUTS = {"newsletter": '["ada", "grace"]'}
# What the sample app has of its own.
OWN = {"migration", "onboarding", "order", "purchase", "report", "trial"}
RUN_ALL = f"""
import asyncio, json
from pikku.testing import WorkflowLab
from shop_pikku import app

INPUTS = {INPUTS!r}

async def main():
    async with WorkflowLab(app) as lab:
        for name in sorted(app.registry.workflows.keys() - {OWN!r}):
            if name.startswith("schedule:"):  # pikku's own
                continue
            data = [json.loads(INPUTS[name])] if name in INPUTS else []
            run = await app.start_workflow(name, *data)
            print(name, await run.result())

asyncio.run(main())
"""


def run_what_is_new(reader: Reader) -> None:
    """Every workflow that a page adds completes."""
    reader.write("run_all.py", RUN_ALL)
    reader.expect_success(f"{sys.executable} run_all.py", "after the page")
