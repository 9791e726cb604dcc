"""`pikku-gen diff`: what is compared, how it is told, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.codegen.edits import CHECK, STEPS, module_of

from pikku_gen.cli import main
from pikku_gen.diff.report import report
from pikku_gen.diff.runs import RunInFlight
from pikku_gen.diff.sides import Side
from pikku_gen.diff.steps import may_be_the_same
from pikku_gen.diff.values import Values
from pikku_gen.pipeline import run

EDITED = STEPS.replace('await ctx.workflow.do("Finish"', CHECK + 'await ctx.workflow.do("Finish"')
APPENDED = STEPS + CHECK

ADDING = """
import asyncio
from shop_pikku import app, queues

async def add():
    async with app:  # its schedule has a tick from now on
        await queues.emails.add({"to": "ada", "message": ""}, delay="1h", dedupe_id="a")

asyncio.run(add())
"""


class Shop:
    """A project under version control, whose first commit has the workflow as it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shop").mkdir()
        (folder / "pyproject.toml").write_text('[tool.pikku]\nroot = "shop"\n', "utf-8")
        (folder / "shop" / "__init__.py").write_text("", "utf-8")
        self.write(STEPS)
        assert not run(folder).failed
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "first")

    def write(self, body: str) -> None:
        """Give the workflow another body."""
        (self.folder / "shop" / "flows.py").write_text(module_of(body), "utf-8")

    def git(self, *words: str) -> None:
        """Have git do something."""
        who = [
            f"GIT_{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
        ]
        alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        environment = os.environ | dict.fromkeys(who, "pikku") | alone
        subprocess.run(["git", *words], cwd=self.folder, env=environment, check=True)

    @property
    def line(self) -> int:
        """Where the step stands that was added."""
        text = (self.folder / "shop" / "flows.py").read_text("utf-8")
        return text[: text.index('"Check", log')].count("\n") + 1


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path)


def pikku_gen(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_nothing_edited_is_safe(shop: Shop) -> None:
    result = pikku_gen("diff", "HEAD")

    assert result.exit_code == 0
    assert result.stdout == "HEAD → the working tree: 2 safe (2 unchanged)\n"


def test_an_edit_is_told_with_its_place_and_the_way_out(shop: Shop) -> None:
    shop.write(EDITED)

    result = pikku_gen("diff", "HEAD")

    assert result.exit_code == 1
    assert result.stdout == (
        "flow: needs patched\n"
        f"  shop/flows.py:{shop.line}: step `Check` was added before `Finish`, which runs may have"
        " recorded\n"
        '    help: guard the edit: `if ctx.workflow.patched("Check before Finish"): …`,'
        " and keep the old way in `else`\n"
        "HEAD → the working tree: 1 needs patched, 1 safe (1 unchanged)\n"
    )


def test_a_safe_edit_is_told_too(shop: Shop) -> None:
    shop.write(APPENDED)

    result = pikku_gen("diff", "HEAD")

    assert result.exit_code == 0
    assert "step `Check` was added behind all others" in result.stdout


@pytest.mark.parametrize("old", ["manifest", "package", "copy", "HEAD~0", "HEAD"])
def test_a_state_may_be(old: str, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    shop.git("worktree", "add", "--quiet", "--detach", str(copy / "shop"), "HEAD")
    named = {
        "manifest": "shop_pikku/manifest.json",
        "package": "shop_pikku",
        "copy": str(copy / "shop"),
    }
    shop.write(EDITED)

    result = pikku_gen("diff", named.get(old, old))

    assert result.exit_code == 1
    assert "shop/flows.py:" in result.stdout


def test_two_revisions_are_compared_whatever_lies_in_the_working_tree(shop: Shop) -> None:
    shop.write(EDITED)
    shop.git("commit", "--quiet", "--all", "--message", "second")
    shop.write("this is no body")

    result = pikku_gen("diff", "HEAD~1", "HEAD")

    assert result.exit_code == 1
    assert f"shop/flows.py:{shop_line(shop)}: step `Check`" in result.stdout


def shop_line(shop: Shop) -> int:
    """Where the step stands in the last commit."""
    shop.write(EDITED)
    return shop.line


def test_manifests_need_no_sources(shop: Shop) -> None:
    manifest = shop.folder / "shop_pikku" / "manifest.json"
    before = shop.folder / "before.json"
    before.write_bytes(manifest.read_bytes())
    shop.write(EDITED)
    run(shop.folder)

    result = pikku_gen("diff", str(before), str(manifest))

    assert result.exit_code == 1
    assert "\n  step `Check` was added before `Finish`" in result.stdout


def test_json_is_one_document(shop: Shop) -> None:
    shop.write(EDITED)

    document = json.loads(pikku_gen("diff", "HEAD", "--format", "json").stdout)

    (flow,) = [each for each in document["workflows"] if each["workflow"] == "flow"]
    (edit,) = flow["edits"]
    assert document["verdict"] == flow["verdict"] == "needs patched"
    assert (edit["kind"], edit["at"]) == ("added", f"shop/flows.py:{shop.line}")
    assert flow["runs"] is None
    assert flow["old_version"] != flow["new_version"]


def test_markdown_is_for_a_pull_request(shop: Shop) -> None:
    shop.write(EDITED)

    result = pikku_gen("diff", "HEAD", "--format", "markdown")

    assert result.stdout.startswith(
        "### Runs in flight: needs patched\n\n"
        "| workflow | verdict | a run in flight |\n"
        "|---|---|---|\n"
        "| flow | **needs patched** | stands still where it is past the edit,"
    )
    assert f"- `shop/flows.py:{shop.line}` step `Check` was added" in result.stdout


def test_markdown_of_nothing_is_short(shop: Shop) -> None:
    result = pikku_gen("diff", "HEAD", "--format", "markdown")

    assert result.stdout == "### Runs in flight: safe\n\nNo workflow, queue or schedule changed.\n"


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ("nowhere", "nowhere is no manifest, no generated package, and no revision of git here"),
        ("broken.json", "broken.json cannot be read"),
        ("other.json", "other.json is no manifest of a generated package"),
    ],
)
def test_what_cannot_be_read_is_named(old: str, said: str, shop: Shop) -> None:
    (shop.folder / "broken.json").write_text("{", "utf-8")
    (shop.folder / "other.json").write_text('{"workflows": 1}', "utf-8")

    result = pikku_gen("diff", old)

    assert result.exit_code == 2
    assert said in result.stderr


def test_errors_in_the_sources_are_printed(shop: Shop) -> None:
    (shop.folder / "shop" / "flows.py").write_text("@pikku_func\ndef (", "utf-8")

    result = pikku_gen("diff", "HEAD")

    assert result.exit_code == 2
    assert "PKG103" in result.stderr
    assert result.stderr.endswith("pikku-gen: the working tree cannot be read; run pikku-gen\n")


def test_a_state_with_other_errors_is_compared(shop: Shop) -> None:
    shop.write(EDITED + "await asyncio.sleep(1)\n")

    result = pikku_gen("diff", "HEAD")

    assert result.exit_code == 1
    assert "step `Check` was added before `Finish`" in result.stdout


# --- runs in flight -------------------------------------------------------------------------------


def sides(body: str) -> tuple[Side, Side]:
    def side(name: str, version: str, *steps: str) -> Side:
        graph = [{"step": "sleep", "name": step} for step in steps]
        flow: dict[str, Any] = {
            "name": "flow",
            "graph": graph,
            "version": version,
            "module": "shop",
            "qualname": "flow",
        }
        return Side(name, {"functions": [], "signals": [], "workflows": [flow]})

    return side("old", "1", "A", "B"), side("new", "2", *body.split())


def test_the_runs_that_are_touched_are_those_of_another_version() -> None:
    runs = (
        RunInFlight("r1", "flow", "1"),
        RunInFlight("r2", "flow", "2"),
        RunInFlight("r3", "other", "1"),
    )
    told = report(*sides("B"), runs)

    (change,) = told.changes
    assert change.verdict == "needs patched"
    assert [run.run_id for run in told.touched(change)] == ["r1"]


def test_a_store_is_read_by_the_public_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    store = f"sqlite:///{tmp_path}/runs.db"
    data = '{"email": "ada@example.com", "user_id": "ada"}'
    begin = ["runs", "start", "trial", "--input", data, "--id", "t1"]
    subprocess.run(
        [sys.executable, "-c", "from pikku.cli import main; main()", "--store", store, *begin],
        check=True,
        capture_output=True,
    )
    manifest = json.loads((root / "generated/shop_pikku/manifest.json").read_text("utf-8"))
    (trial,) = [flow for flow in manifest["workflows"] if flow["name"] == "trial"]
    trial["version"] = "another"
    trial["graph"] = trial["graph"][1:]
    after = tmp_path / "after.json"
    after.write_text(json.dumps(manifest), "utf-8")

    result = pikku_gen("diff", "generated/shop_pikku", str(after), "--store", store)

    assert result.exit_code == 1
    assert "  1 run in flight: t1\n" in result.stdout


def test_jobs_and_ticks_in_flight_are_told_like_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    store = f"sqlite:///{tmp_path}/runs.db"
    subprocess.run(
        [sys.executable, "-c", ADDING], env=os.environ | {"PIKKU_STORE": store}, check=True
    )
    manifest = json.loads((root / "generated/shop_pikku/manifest.json").read_text("utf-8"))
    manifest["queues"] = [each for each in manifest["queues"] if each["name"] != "emails"]
    manifest["schedules"][0]["schedule"] = "0 4 * * *"
    after = tmp_path / "after.json"
    after.write_text(json.dumps(manifest), "utf-8")
    words = ("diff", "generated/shop_pikku", str(after), "--store", store)

    text = pikku_gen(*words).stdout
    document = json.loads(pikku_gen(*words, "--format", "json").stdout)
    markdown = pikku_gen(*words, "--format", "markdown").stdout

    (tick,) = document["schedules"][0]["ticks"]
    assert tick.startswith("schedule:nightly_report:")
    assert text.startswith(
        "queue emails: breaking\n"
        "  the queue was removed: its jobs wait, and nobody takes them\n"
        "    help: keep it until none of its jobs is left, or remove them:"
        " `pikku queue purge emails --status waiting`\n"
        "  1 job in flight: emails~a\n"
        "schedule nightly_report: safe\n"
        "  `schedule` was `0 3 * * *`, and is `0 4 * * *`: what is due by then is done as it was"
        " meant, and the new ticks follow\n"
        f"  1 tick in flight: {tick}\n"
    )
    assert [(each["queue"], each["jobs"]) for each in document["queues"]] == [
        ("emails", ["emails~a"]),
        ("quotes", []),
    ]
    assert (
        "| queue | verdict | a job in flight | jobs |\n"
        "|---|---|---|---|\n"
        "| emails | **breaking** | is not done, or its result is not read | 1 |\n"
    ) in markdown
    assert "| nightly_report | **safe** | is done | 1 |\n" in markdown


def test_the_mark_of_a_pause_is_no_tick() -> None:
    old, new = sides("A B")
    daily = {"name": "daily", "kind": "function", "func": "shop:daily"}
    flow = "schedule:daily"
    runs = (RunInFlight(f"{flow}:paused", flow, "1"), RunInFlight(f"{flow}:2030", flow, "1"))

    told = report(Side("old", {**old.manifest, "schedules": [daily]}), new, runs)

    (change,) = told.of("schedule")
    assert [run.run_id for run in told.touched(change)] == [f"{flow}:2030"]


def test_a_store_that_cannot_be_read_is_no_verdict(shop: Shop) -> None:
    result = pikku_gen("diff", "HEAD", "--store", "nonsense://")

    assert result.exit_code == 2
    assert result.stderr.startswith("pikku-gen: the runs cannot be listed: ")


# --- names and types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A", "A", True),
        ("A", "B", False),
        ("A {}", "A 1", True),
        ("A 1", "A {}", True),
        ("A {}", "B 1", False),
        ("{}", "anything", True),
    ],
)
def test_two_templates_may_make_the_same_name(one: str, other: str, same: bool) -> None:
    assert may_be_the_same(one, other) is same


def model(**fields: str) -> dict[str, Any]:
    return {
        "family": "model",
        "fields": [
            {"name": name, "type": text.rstrip("="), "required": not text.endswith("=")}
            for name, text in fields.items()
        ],
    }


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("int", "int", ""),
        ("int", "float", ""),
        ("float", "int", "it was `float`, and is `int`"),
        ("int", "int | None", ""),
        ("int | None", "int", "it was `None`, and is `int`"),
        ("int", "typing.Any", ""),
        ("list[int]", "list[float]", ""),
        ("list[int]", "list[str]", "`[]`: it was `int`, and is `str`"),
        ("dict[str, int]", "dict[str, str]", "it was `int`, and is `str`"),
        ("typing.Optional[int]", "int | None", ""),
        ("typing.Literal['a']", "typing.Literal['a', 'b']", ""),
        ("decimal.Decimal", "decimal.Decimal", ""),
        ("decimal.Decimal", "str", "it was `Decimal`, and is `str`"),
        ("shop.Id", "int", ""),
        ("typing.Annotated[int, 1]", "int", ""),
        ("shop.Tree", "shop.Tree", ""),
        ("shop.One", "shop.Two", "`Two.b` has no default"),
        ("shop.Two", "shop.One", ""),
        ("shop.One", "shop.Default", ""),
    ],
)
def test_a_value_of_one_type_is_read_as_another(old: str, new: str, problem: str) -> None:
    types = {
        "shop.Id": {"alias": "int"},
        "shop.Tree": model(children="list[shop.Tree]"),
        "shop.One": model(a="int"),
        "shop.Two": model(a="int", b="int"),
        "shop.Default": model(a="int", b="int="),
    }
    found = Values(types, types).problem(old, new)

    assert problem in found if problem else found == ""


def test_a_type_is_the_same_only_with_all_that_it_holds() -> None:
    old = {"shop.Outer": model(inner="shop.Inner"), "shop.Inner": model(a="int")}
    new = {"shop.Outer": model(inner="shop.Inner"), "shop.Inner": model(a="int", b="int=")}

    assert Values(old, old).same("list[shop.Outer]", "list[shop.Outer]")
    assert not Values(old, new).same("list[shop.Outer]", "list[shop.Outer]")
