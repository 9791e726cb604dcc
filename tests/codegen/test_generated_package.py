"""The package of the sample app: fresh, light, and its stubs tell the truth."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

import pikku
import pikku_gen
import shop_pikku
from pikku._functions import schedule_of
from shop.types import Receipt
from shop_pikku import rpc, signals, workflows
from shop_pikku._context import registry
from shop_pikku.testing import WorkflowLab

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "generated" / "shop_pikku"


def stub_classes(name: str) -> dict[str, list[str]]:
    """The annotated attributes of each class of a stub."""
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    return {
        node.name: [
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def test_the_checked_in_package_is_fresh() -> None:
    outcome = pikku_gen.check(ROOT)

    assert not outcome.failed
    assert not outcome.changes.stale, outcome.diff


def test_importing_the_package_imports_nothing_of_the_app() -> None:
    program = "import sys, shop_pikku; print('shop' in sys.modules, 'pikku_gen' in sys.modules)"

    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert made.stdout.split() == ["False", "False"]


def test_an_app_whose_root_imports_its_own_workflows_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "market").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.pikku]\nroot = "market"\n', encoding="utf-8")
    (tmp_path / "market" / "__init__.py").write_text("import market.flows\n", encoding="utf-8")
    source = """
        from market_pikku import WorkflowContext, pikku_workflow_func, wire_workflow


        @pikku_workflow_func
        async def flow(ctx: WorkflowContext) -> None: ...


        wire_workflow(name="flow", func=flow)
    """
    (tmp_path / "market" / "flows.py").write_text(dedent(source), encoding="utf-8")
    assert not pikku_gen.generate(tmp_path).failed

    program = "import market_pikku, market; print(market_pikku.workflows.flow.name)"
    made = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )

    assert made.stdout.strip() == "flow"


def test_every_public_name_is_there() -> None:
    assert shop_pikku.__all__ == sorted(shop_pikku.__all__, key=lambda name: (name.islower(), name))
    for name in shop_pikku.__all__:
        assert hasattr(shop_pikku, name)


def without_ticks(workflows: Iterable[str]) -> set[str]:
    """Those that a user has wired: an app that was open in this process knows those of its
    schedules as well."""
    return {name for name in workflows if schedule_of(name) is None}


def test_the_stubs_name_what_the_app_registers() -> None:
    import_module("shop_pikku._bootstrap")

    rpc_names = [getattr(rpc, name).name for name in stub_classes("_rpc.pyi")["Rpc"]]
    flow_attributes = [n for n in stub_classes("_workflows.pyi")["Workflows"] if n != "names"]
    flow_names = [getattr(workflows, name).name for name in flow_attributes]

    assert rpc_names == sorted(registry.functions)
    assert flow_names == sorted(without_ticks(registry.workflows))
    signal_attributes = [n for n in stub_classes("_signals.pyi")["Signals"] if n != "names"]
    signal_names = [getattr(signals, name).name for name in signal_attributes]

    assert signal_names == sorted(registry.signals)
    assert stub_classes("_rpc.pyi")["RpcNames"] == stub_classes("_rpc.pyi")["Rpc"]
    assert stub_classes("testing.pyi")["Fakes"] == stub_classes("_rpc.pyi")["Rpc"]
    assert stub_classes("sync.pyi")["SyncWorkflows"] == flow_attributes


def test_the_registry_knows_the_version_of_every_workflow() -> None:
    import_module("shop_pikku._bootstrap")
    manifest = json.loads((PACKAGE / "manifest.json").read_text(encoding="utf-8"))

    wired = without_ticks(registry.workflows)
    assert {name: registry.versions[name] for name in wired} == {
        flow["name"]: flow["version"] for flow in manifest["workflows"]
    }
    assert set(registry.versions) == set(registry.workflows)


async def test_the_lab_of_the_package_needs_no_app_and_takes_fakes() -> None:
    async with WorkflowLab(services=None) as lab:
        lab.fakes.create_user_profile = lambda data: None
        lab.fakes.send_email = lambda data: None
        lab.fakes.charge = lambda data: Receipt(data.order_id, data.amount)
        run = await workflows.onboarding.start({"email": "a@b.c", "user_id": "u1"})

        assert await run.result() == {"success": True}
        assert lab.executions("Send welcome email") == 1


@pytest.mark.parametrize("stub", sorted(PACKAGE.glob("*.pyi")), ids=lambda path: path.name)
def test_what_the_stubs_take_from_pikku_is_public_there(stub: Path) -> None:
    tree = ast.parse(stub.read_text(encoding="utf-8"))

    taken = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "pikku"
        for alias in node.names
    ]
    assert set(taken) <= set(pikku.__all__)


def test_the_manifest_lists_what_was_found() -> None:
    manifest = json.loads((PACKAGE / "manifest.json").read_text(encoding="utf-8"))

    flows = {flow["name"]: flow for flow in manifest["workflows"]}
    steps = flows["onboarding"]["steps"]
    assert [step["name"] for step in steps] == [
        "Create user profile in database",
        "Generate welcome message",
        "Wait 5 minutes before welcome email",
        "Send welcome email",
    ]
    assert [signal["name"] for signal in manifest["signals"]] == ["upgraded"]
    assert sorted(manifest["files"]) == sorted(p.name for p in PACKAGE.iterdir() if p.is_file())
