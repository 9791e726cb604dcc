"""The step graph of a workflow: what changes its version, and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pikku_gen.pipeline import run

FUNCTIONS = """
from shop_pikku import Context, pikku_func


@pikku_func
async def charge(ctx: Context, amount: int) -> str: ...


@pikku_func(name="give-back")
async def refund(ctx: Context, amount: int) -> None: ...


@pikku_func
async def undo_charge(ctx: Context, amount: int) -> None: ...
"""
HELPERS = """
from shop_pikku import WorkflowContext
from shop import functions


async def reserve_all(ctx: WorkflowContext, items: list[int]) -> int:
    for item in items:
        if item < 0:
            return 0
        await ctx.workflow.do(f"Reserve {item}", functions.charge, item)
    return len(items)


async def describe(ctx: WorkflowContext) -> str:
    return "nothing but words"


def waiting(workflow: "Wire", text: str):
    return workflow.sleep("Wait a little", text)


async def again(ctx: WorkflowContext) -> None:
    await ctx.workflow.do("Again", functions.charge, 1)
    await again(ctx)
"""
IMPORTS = """
import asyncio
from pikku import StepFailedError
from shop.functions import charge, refund, undo_charge
from shop.helpers import again, describe, reserve_all, waiting
from shop_pikku import (
    WorkflowContext, pikku_workflow_func, signals, wire_signal, wire_workflow, workflows
)

LIMIT = 1000
upgraded = wire_signal(name="upgraded", payload=int)


@pikku_workflow_func
async def child(ctx: WorkflowContext, amount: int) -> str: ...


wire_workflow(name="child-run", func=child)
"""
BASE = """
@pikku_workflow_func
async def flow(ctx: WorkflowContext, amount: int) -> str:
    receipt = await ctx.workflow.do("Charge", charge, amount)
    if amount > LIMIT:
        await ctx.workflow.sleep("Think it over", "5min")
    for number in range(3):
        await ctx.workflow.do(f"Part {number}", charge, number)
    try:
        await ctx.workflow.do("Refund", refund, amount)
    except StepFailedError:
        await ctx.workflow.do("Apologise", lambda: "sorry")
        return "failed"
    await asyncio.gather(
        ctx.workflow.do("Left", charge, 1), ctx.workflow.do("Right", charge, 2)
    )
    return receipt


wire_workflow(name="flow", func=flow)
"""

# What no body can do has a graph all the same.
PROJECT = """\
[tool.pikku]
root = "shop"

[tool.pikku.lint]
PKG312 = "off"
"""


class Shop:
    """A project with one workflow whose text is edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shop").mkdir()
        (folder / "pyproject.toml").write_text(PROJECT, "utf-8")
        (folder / "shop" / "__init__.py").write_text("", "utf-8")
        self.write("functions", FUNCTIONS)
        self.write("helpers", HELPERS)

    def write(self, module: str, text: str) -> None:
        (self.folder / "shop" / f"{module}.py").write_text(text, "utf-8")

    def flow(self, workflow: str, imports: str = IMPORTS) -> dict[str, Any]:
        """What the manifest says of the workflow."""
        self.write("flows", imports + "\n" + workflow)
        outcome = run(self.folder)
        assert not outcome.failed, outcome.diagnostics
        manifest = json.loads((self.folder / "shop_pikku" / "manifest.json").read_text("utf-8"))
        return next(flow for flow in manifest["workflows"] if flow["name"] == "flow")

    def version(self, workflow: str, imports: str = IMPORTS) -> str:
        version: str = self.flow(workflow, imports)["version"]
        return version

    def graph(self, body: str) -> Any:
        """The graph of a workflow with this body."""
        return self.flow(workflow(body))["graph"]


def workflow(body: str) -> str:
    lines = "\n".join(f"    {line}" for line in dedent(body).strip().splitlines())
    head = "@pikku_workflow_func\nasync def flow(ctx: WorkflowContext, amount: int) -> str:\n"
    return f'{head}{lines}\n\n\nwire_workflow(name="flow", func=flow)\n'


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


# --- edits that are none of the steps' business, and edits that are ------------------------------

SAME = {
    "a comment": ("    receipt =", "    # money first\n    receipt ="),
    "formatting": (
        'do("Charge", charge, amount)',
        'do(\n        "Charge",\n        charge, amount)',
    ),
    "a docstring": ("-> str:\n", '-> str:\n    """What it does."""\n'),
    "a renamed variable": ("receipt", "paper"),
    "a renamed loop variable": ("number", "n"),
    "a renamed context": ("ctx", "c"),
    "another condition": ("amount > LIMIT", "amount > 2 * LIMIT and amount % 2"),
    "another input of a step": ("charge, number)", "charge, number * 2)"),
    "code without steps": ("    for number", "    total = sum(range(amount))\n    for number"),
    "a loop without steps": (
        "    for number",
        "    for x in range(9):\n        if x > amount:\n            break\n    for number",
    ),
    "a branch without steps": ("    for number", "    if amount:\n        print()\n    for number"),
    "another way to write the loop": ("in range(3)", "in (0, 1, 2)"),
    "an expression that returns": ("return receipt", "return receipt + '!'"),
    "a return at the very end": ("    return receipt\n", "    await asyncio.sleep(0)\n"),
    "options of a step": (
        'do("Refund", refund, amount)',
        'do("Refund", refund, amount, retries=3)',
    ),
    "another duration": ('"5min"', '"1h"'),
    "a target by its name": ("refund, amount", '"give-back", amount'),
    "a target by its attribute": ("refund, amount", "ctx.rpc.give_back, amount"),
    "another inline callable": ('lambda: "sorry"', "str"),
    "an alias of the steps": (
        "    receipt = await ctx.workflow.do",
        "    do = ctx.workflow.do\n    receipt = await do",
    ),
    "a type of failure": ("except StepFailedError", "except (StepFailedError, ValueError)"),
    "a handler that only raises": (
        "    except StepFailedError",
        "    except KeyError:\n        print()\n        raise\n    except StepFailedError",
    ),
    "a helper without steps": ("    for number", "    await describe(ctx)\n    for number"),
    "another expression in a name": ('f"Part {number}"', 'f"Part {number + 1:02d}"'),
    "an if that says the opposite": (
        "    if amount > LIMIT:\n        await",
        "    if amount <= LIMIT:\n        print()\n    else:\n        await",
    ),
    "code that is never reached": (
        "    return receipt",
        '    return receipt\n    await ctx.workflow.sleep("Never", "1s")',
    ),
    "the name of the function": ("flow(ctx", "whole_flow(ctx"),
}

OTHER = {
    "another step name": ('"Charge"', '"Charge the card"'),
    "another target": ("refund, amount", "charge, amount"),
    "another kind of target": ("charge, amount)", "lambda: amount)"),
    "another kind of step": ('sleep("Think it over", "5min")', 'suspend("Think it over")'),
    "a step more": ("    for number", '    await ctx.workflow.sleep("Rest", "1s")\n    for number'),
    "a step less": ('        await ctx.workflow.do("Apologise", lambda: "sorry")\n', ""),
    "another order": (
        'ctx.workflow.do("Left", charge, 1), ctx.workflow.do("Right", charge, 2)',
        'ctx.workflow.do("Right", charge, 2), ctx.workflow.do("Left", charge, 1)',
    ),
    "a step out of its branch": ("    if amount > LIMIT:\n        await", "    await"),
    "a step out of its loop": (
        '        await ctx.workflow.do(f"Part {number}"',
        '        pass\n    await ctx.workflow.do(f"Part {number}"',
    ),
    "a name with more holes": ('f"Part {number}"', 'f"Part {number} of {amount}"'),
    "a branch more": (
        "    for number",
        '    else:\n        await ctx.workflow.sleep("No", "1s")\n    for number',
    ),
    "one after the other": (
        'asyncio.gather(\n        ctx.workflow.do("Left", charge, 1), '
        'ctx.workflow.do("Right", charge, 2)\n    )',
        'ctx.workflow.do("Left", charge, 1)\n    await ctx.workflow.do("Right", charge, 2)',
    ),
    "an early return": (
        "    for number",
        '    if amount < 0:\n        return "none"\n    for number',
    ),
    "an early failure": (
        "    for number",
        "    if amount < 0:\n        raise ValueError\n    for number",
    ),
    "a handler that goes on": ('        return "failed"\n', "        pass\n"),
    "a finally with a step": (
        "    await asyncio.gather",
        '    finally:\n        await ctx.workflow.sleep("Calm down", "1s")\n'
        "    await asyncio.gather",
    ),
    "a break in a loop of steps": ("    try:", "        break\n    try:"),
    "a helper with steps": ("    for number", "    await reserve_all(ctx, [1])\n    for number"),
    "a time that is recorded": ("    for number", "    await ctx.workflow.now()\n    for number"),
    "a patch": ("    if amount > LIMIT", '    if ctx.workflow.patched("p1")'),
    "a context that goes somewhere unknown": (
        "    for number",
        "    await print(ctx)\n    for number",
    ),
}


@pytest.mark.parametrize("edit", SAME)
def test_a_version_outlives(edit: str, shop: Shop) -> None:
    before, after = SAME[edit]
    edited = BASE.replace(before, after)
    if edit == "the name of the function":
        edited = edited.replace("func=flow", "func=whole_flow")
    assert edited != BASE

    assert shop.version(edited) == shop.version(BASE)


@pytest.mark.parametrize("edit", OTHER)
def test_a_version_changes_with(edit: str, shop: Shop) -> None:
    before, after = OTHER[edit]
    edited = BASE.replace(before, after)
    assert edited != BASE

    assert shop.version(edited) != shop.version(BASE)


def test_an_edit_of_a_helper_counts_only_where_its_steps_are(shop: Shop) -> None:
    text = workflow("await reserve_all(ctx, [amount])")
    first = shop.version(text)

    shop.write("helpers", HELPERS.replace("len(items)", "len(items) + 1"))
    assert shop.version(text) == first

    shop.write("helpers", HELPERS.replace("Reserve {item}", "Book {item}"))
    assert shop.version(text) != first


def test_versions_are_the_same_from_the_cache_and_without_it(shop: Shop) -> None:
    first = shop.flow(BASE)
    (shop.folder / ".pikku" / "scan.json").unlink()
    assert shop.flow(BASE) == first

    (shop.folder / "shop" / "extra.py").write_text("import shop_pikku\n", "utf-8")
    assert shop.flow(BASE) == first


def test_the_package_tells_the_registry_of_every_version(shop: Shop) -> None:
    version = shop.version(BASE)

    context = (shop.folder / "shop_pikku" / "_context.py").read_text("utf-8")
    assert len(version) == 16
    assert f'"flow": "{version}",' in context
    assert '"child-run": "' in context


# --- what the graph looks like --------------------------------------------------------------------


def step(name: str, rpc: str = "charge", kind: str = "do") -> dict[str, Any]:
    return {"step": kind, "name": name, "rpc": rpc}


@pytest.mark.parametrize(
    ("body", "graph"),
    [
        ("pass", []),
        (
            "await ctx.workflow.do('A' 'B', charge, 1)",
            [step("AB")],
        ),
        (
            "await ctx.workflow.do('Child', child, 1)\n"
            "await ctx.workflow.do('Child', 'child-run', 1, detached=True)\n"
            "await ctx.workflow.do('Child', workflows.child_run, 1)",
            [
                {"step": "do", "name": "Child", "workflow": "child-run"},
                {"step": "do", "name": "Child", "workflow": "child-run", "detached": True},
                {"step": "do", "name": "Child", "workflow": "child-run"},
            ],
        ),
        (
            "await ctx.workflow.wait_for_signal('W', upgraded)\n"
            "await ctx.workflow.wait_for_signal('W', signals.upgraded)\n"
            "await ctx.workflow.wait_for_signal('W', 'upgraded')",
            [{"step": "wait_for_signal", "name": "W", "signal": "upgraded"}] * 3,
        ),
        (
            "await ctx.workflow.map('Each', charge, [1])\n"
            "await ctx.workflow.approval('Ok?')\n"
            "await ctx.workflow.cancel('enough')",
            [
                step("Each", kind="map"),
                {"step": "approval", "name": "Ok?"},
                {"step": "cancel"},
            ],
        ),
        (
            "async with ctx.workflow.saga() as s:\n"
            "    await s.do('A', charge, 1, undo=undo_charge)",
            [{"saga": [{**step("A", kind="saga.do"), "undo": {"rpc": "undo_charge"}}]}],
        ),
        (
            "await ctx.workflow.race(ctx.workflow.sleep('A', '1s'), waiting(ctx.workflow, '1s'))",
            [
                {
                    "race": [
                        [{"step": "sleep", "name": "A"}],
                        [{"step": "sleep", "name": "Wait a little"}],
                    ]
                }
            ],
        ),
        (
            "if amount:\n    await ctx.workflow.do('A', charge, 1)\n"
            "elif await ctx.workflow.do('Q', charge, 1):\n    return ''\n"
            "else:\n    await ctx.workflow.do('B', charge, 1)",
            [{"choice": [[step("A")], [step("Q"), {"choice": [[step("B")]], "otherwise": True}]]}],
        ),
        (
            "match amount:\n    case 1:\n        await ctx.workflow.do('A', charge, 1)\n"
            "    case _:\n        await ctx.workflow.do('B', charge, 1)",
            [{"choice": [[step("A")], [step("B")]]}],
        ),
        (
            "x = await ctx.workflow.do('A', charge, 1) if amount else 0",
            [{"choice": [[step("A")]], "otherwise": True}],
        ),
        (
            "x = [await ctx.workflow.do(f'{i}', charge, i) for i in range(3)]",
            [{"loop": [step("{}")]}],
        ),
        (
            "while await ctx.workflow.do('More?', charge, 1):\n    continue",
            [{"loop": [step("More?")]}],
        ),
        (
            "try:\n    await ctx.workflow.do('A', charge, 1)\nexcept KeyError:\n    pass\n"
            "finally:\n    await ctx.workflow.do('B', charge, 1)",
            [{"try": [step("A")], "swallows": True, "finally": [step("B")]}],
        ),
        (
            "async with asyncio.timeout(3):\n    await ctx.workflow.do('A', charge, 1)",
            [{"with": [step("A")]}],
        ),
        (
            "async with asyncio.TaskGroup() as g:\n"
            "    t = g.create_task(ctx.workflow.do('A', charge, 1))\n"
            "    await ctx.workflow.do('B', charge, 1)\n"
            "    await t",
            [{"group": [{"start": 0, "steps": [step("A")]}, step("B"), {"join": [0]}]}],
        ),
        (
            "one = asyncio.create_task(ctx.workflow.do('A', charge, 1))\n"
            "two = ctx.workflow.do('B', charge, 1)\n"
            "await two\nawait asyncio.gather(one, two)",
            [
                {"start": 0, "steps": [step("A")]},
                {"start": 1, "steps": [step("B")]},
                {"join": [1]},
                {"join": [0, 1]},
            ],
        ),
        (
            "tasks = []\nfor i in range(3):\n"
            "    tasks.append(asyncio.create_task(ctx.workflow.do(f'A {i}', charge, i)))\n"
            "for task in tasks:\n    await task",
            [
                {"loop": [{"start": 0, "steps": [step("A {}")]}]},
                {"loop": [{"join": [0]}]},
            ],
        ),
        (
            "async def branch(i):\n    await ctx.workflow.do(f'A {i}', charge, i)\n\n"
            "await asyncio.gather(*(branch(i) for i in range(3)))",
            [{"parallel": [[{"loop": [step("A {}")]}]]}],
        ),
        (
            "await reserve_all(ctx, [1])\nawait waiting(ctx.workflow, '1s')\nawait describe(ctx)",
            [
                {
                    "call": [
                        {
                            "loop": [
                                {"choice": [[{"end": "return"}]], "otherwise": True},
                                step("Reserve {}"),
                            ]
                        }
                    ]
                },
                {"step": "sleep", "name": "Wait a little"},
            ],
        ),
        (
            "await again(ctx)",
            [step("Again"), {"unknown": "shop.helpers.again"}],
        ),
        (
            "await asyncio.to_thread(print, ctx)\nhanded = list(map(ctx.workflow.do, []))",
            [
                {"unknown": "asyncio.to_thread"},
                {"start": 0, "steps": [{"unknown": "map"}]},
            ],
        ),
        (
            "await ctx.workflow.do('A %s' % amount, charge, 1)\n"
            "await ctx.workflow.do('B {}'.format(amount), charge, 1)\n"
            "await ctx.workflow.do('C ' + str(amount), charge, 1)",
            [step("A %s"), step("B {}"), step("C {}")],
        ),
        (
            "async def branch(i):\n    if i:\n        return\n"
            "    await ctx.workflow.do(f'A {i}', charge, i)\n\n"
            "await branch(1)\nawait ctx.workflow.do('B', charge, 1)",
            [
                {"call": [{"choice": [[{"end": "return"}]], "otherwise": True}, step("A {}")]},
                step("B"),
            ],
        ),
        (
            "try:\n    return await ctx.workflow.do('A', charge, 1)\n"
            "finally:\n    await ctx.workflow.do('B', charge, 1)",
            [{"try": [step("A")], "finally": [step("B")]}],
        ),
        (
            "for i in range(3):\n    try:\n        await ctx.workflow.do('A', charge, 1)\n"
            "        break\n    except StepFailedError:\n"
            "        await ctx.workflow.sleep('Wait', '1s')\nelse:\n    raise ValueError",
            [
                {
                    "loop": [
                        {
                            "try": [step("A"), {"end": "break"}],
                            "except": [[{"step": "sleep", "name": "Wait"}]],
                        }
                    ],
                    "else": [{"end": "raise"}],
                }
            ],
        ),
        (
            "if ctx.workflow.patched('p'):\n    await ctx.workflow.do('A', charge, 1)",
            [
                {"step": "patched", "name": "p"},
                {"choice": [[step("A")]], "patched": "p", "otherwise": True},
            ],
        ),
        (
            "new = ctx.workflow.patched('p')\nif not new:\n"
            "    await ctx.workflow.do('A', charge, 1)\n"
            "x = await ctx.workflow.do('B', charge, 1) if new and amount else 0",
            [
                {"step": "patched", "name": "p"},
                {"choice": [[step("A")]], "unless": "p", "otherwise": True},
                {"choice": [[step("B")]], "patched": "p", "otherwise": True},
            ],
        ),
        (
            "if not (data and ctx.workflow.patched('p')):\n"
            "    await ctx.workflow.do('A', charge, 1)",
            [
                {"choice": [[{"step": "patched", "name": "p"}]], "otherwise": True},
                {"choice": [[step("A")]], "otherwise": True},
            ],
        ),
        (
            "if ctx.workflow.patched('p'):\n    pass\n"
            "else:\n    await ctx.workflow.do('A', charge, 1)",
            [
                {"step": "patched", "name": "p"},
                {"choice": [[step("A")]], "unless": "p", "otherwise": True},
            ],
        ),
    ],
)
def test_the_graph_of(body: str, graph: list[Any], shop: Shop) -> None:
    assert shop.graph(body) == graph
