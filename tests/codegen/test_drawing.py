"""`pikku-gen graph`: what is drawn of a workflow, byte by byte, and that nothing is left out."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from tests.codegen.edits import MODULE, WIRING

from pikku_gen.cli import main
from pikku_gen.drawing import Style, drawn
from pikku_gen.drawing.flow import flow_of
from pikku_gen.pipeline import Reading, read

ROOT = Path(__file__).parents[2]
DRAWINGS = Path(__file__).parent / "drawings"
ENDINGS: dict[Style, str] = {"mermaid": "mmd", "dot": "dot", "svg": "svg", "json": "json"}
EVERYTHING = """
if ctx.workflow.patched("check <first> & \\"always\\""):
    await ctx.workflow.do("Check <b>", log, "c")
one = asyncio.create_task(ctx.workflow.do("Aside", note, "a"))
await remind(ctx, "x")
for number in range(3):
    if number == 2:
        break
    elif number == 1:
        continue
    await ctx.workflow.do(f"Part {number} of a name too long for one line", note, "a")
else:
    await ctx.workflow.now()
await one
try:
    await ctx.workflow.do("Try", refuse, "a")
except StepFailedError:
    await ctx.workflow.do("Apologise", note, "b")
except ValueError:
    pass
else:
    await ctx.workflow.do("Child", child, 1)
finally:
    await ctx.workflow.sleep("Calm", "1h")
match amount:
    case 1:
        await ctx.workflow.do("A", note, "b")
    case 2:
        return
    case _:
        await asyncio.gather(ctx.workflow.do("B", note, "b"), ctx.workflow.do("C", note, "b"))
async with ctx.workflow.saga() as saga:
    await saga.do("Pack", pack, Parcel("a"), undo=unpack)
await ctx.workflow.map("Each", note, ["a"])
await ctx.workflow.race(
    ctx.workflow.wait_for_signal("Answer", answered), ctx.workflow.sleep("Too late", "1h")
)
await other(ctx)
await ctx.workflow.do("注文を確認する", child, 1, detached=True)
"""
EMPTY = "pass"


def read_flow(body: str, folder: Path) -> Reading:
    """A project whose workflow `flow` has this body."""
    head = "@pikku_workflow_func\nasync def flow(ctx: WorkflowContext, amount: int) -> None:\n"
    other = "from elsewhere import other\n"
    (folder / "shop").mkdir()
    (folder / "pyproject.toml").write_text('[tool.pikku]\nroot = "shop"\n', "utf-8")
    (folder / "shop" / "__init__.py").write_text("", "utf-8")
    text = other + MODULE + head + indent(body.strip("\n"), "    ") + "\n" + WIRING
    (folder / "shop" / "flows.py").write_text(text, "utf-8")
    reading = read(folder)
    assert not reading.failed, reading.diagnostics
    return reading


@pytest.fixture(scope="module")
def sample() -> Reading:
    return read(ROOT)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return read_flow(EVERYTHING, tmp_path_factory.mktemp("everything"))


def entry(reading: Reading, name: str) -> dict[str, Any]:
    """A workflow of the manifest."""
    found = reading.workflow(name)
    assert found is not None
    return cast("dict[str, Any]", found)


def steps_in(graph: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every node of a graph that is a step or unknown."""
    for node in graph:
        if "step" in node or "unknown" in node:
            yield node
        for value in node.values():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                yield from steps_in(value)
            elif isinstance(value, list) and value and isinstance(value[0], list):
                for part in value:
                    yield from steps_in(part)


def pikku_gen(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize("style", ENDINGS)
@pytest.mark.parametrize(
    "name", ["everything", "migration", "onboarding", "order", "purchase", "trial"]
)
def test_a_workflow_is_drawn_like_this(
    name: str,
    style: Style,
    sample: Reading,
    everything: Reading,
    request: pytest.FixtureRequest,
) -> None:
    flow = entry(everything, "flow") if name == "everything" else entry(sample, name)
    file = DRAWINGS / f"{name}.{ENDINGS[style]}"

    made = drawn(flow, style)

    if request.config.getoption("--update-golden"):
        file.write_bytes(made.encode())
    assert made.encode() == file.read_bytes()


def test_no_step_is_left_out_of_any_drawing(everything: Reading, sample: Reading) -> None:
    flows = [entry(everything, "flow"), *(entry(sample, name) for name in sample.workflows)]
    for flow in flows:
        steps = [step for step in steps_in(flow["graph"]) if step.get("step") != "patched"]
        boxes = [
            box for box in flow_of(flow["graph"]).boxes if box.shape in ("step", "wait", "unknown")
        ]
        assert len(boxes) == len(steps)
        svg = drawn(flow, "svg")
        assert sum(svg.count(f'class="{kind}" width') for kind in "bwu") == len(steps)


def test_an_svg_is_well_formed_whatever_names_hold(everything: Reading) -> None:
    root = xml.etree.ElementTree.fromstring(drawn(entry(everything, "flow"), "svg"))
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]

    assert "Check <b>" in words
    assert "unknown: elsewhere.other" in words


def test_a_workflow_without_a_step_is_drawn(tmp_path: Path) -> None:
    flow = entry(read_flow(EMPTY, tmp_path), "flow")

    assert "n0 --> n1" in drawn(flow, "mermaid")
    assert xml.etree.ElementTree.fromstring(drawn(flow, "svg")) is not None


def test_json_is_as_in_the_manifest() -> None:
    result = pikku_gen("--project", str(ROOT), "graph", "order", "--format", "json")

    manifest = json.loads((ROOT / "generated/shop_pikku/manifest.json").read_text("utf-8"))
    assert json.loads(result.stdout) in manifest["workflows"]


def test_a_drawing_is_written_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "order.svg"

    result = pikku_gen(
        "--project", str(ROOT), "graph", "order", "--format", "svg", "--out", str(out)
    )

    assert (result.exit_code, result.stdout) == (0, "")
    assert out.read_bytes() == (DRAWINGS / "order.svg").read_bytes()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    out = tmp_path / "no" / "order.svg"

    result = pikku_gen("--project", str(ROOT), "graph", "order", "--out", str(out))

    assert result.exit_code == 2
    assert f"{out} cannot be written" in result.stderr


@pytest.mark.parametrize(
    ("name", "hint"),
    [("ordr", "did you mean order?"), ("zzz", "there are migration, onboarding, order")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    result = pikku_gen("--project", str(ROOT), "graph", name)

    assert (result.exit_code, result.stdout) == (3, "")
    assert hint in result.stderr
