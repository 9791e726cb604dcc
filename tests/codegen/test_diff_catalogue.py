"""Every edit of the catalogue, judged and executed: what is said to go on goes on, wherever the run
stood, and what is said to need a guard stands still in at least one place without it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.codegen.edits import CASES, Case
from tests.runtime.kit import CrashingStore, Toy, World

from pikku import FunctionContext, WorkflowFunctionContext, WorkflowWire
from pikku_gen.diff.edits import VERDICTS, Change
from pikku_gen.diff.workflows import compare
from pikku_gen.pipeline import read

AMOUNTS = (1, 5)
STOPPED = ("suspended nondeterminism", "suspended missing_function")
FIRST_OF_THE_RUN = 3
"""The first two calls of a store open the engine."""
POINTS = 60
"""More than any run of the catalogue has calls."""


def manifest_of(text: str, folder: Path) -> Any:
    """The manifest of a project with this one module."""
    (folder / "shop").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[tool.pikku]\nroot = "shop"\n', "utf-8")
    (folder / "shop" / "__init__.py").write_text("", "utf-8")
    (folder / "shop" / "flows.py").write_text(text, "utf-8")
    reading = read(folder)
    assert not reading.failed, reading.diagnostics
    return reading.manifest


def judged(case: Case, folder: Path) -> Change:
    """What is said of the workflow."""
    old = manifest_of(case.old_text, folder / "old")
    new = manifest_of(case.new_text, folder / "new")
    (change,) = [each for each in compare(old, new) if each.name == "flow"]
    return change


@contextmanager
def generated(toy: Toy) -> Generator[None, None, None]:
    """The package that a module of the catalogue imports."""
    package: Any = ModuleType("shop_pikku")
    package.Context = FunctionContext[Any, Any]
    package.WorkflowContext = WorkflowFunctionContext[Any, Any, WorkflowWire]
    for name in ("pikku_func", "pikku_workflow_func", "wire_workflow", "wire_signal"):
        setattr(package, name, getattr(toy.registry, name))
    before = sys.modules.get("shop_pikku")
    sys.modules["shop_pikku"] = package
    try:
        yield
    finally:
        del sys.modules["shop_pikku"]
        if before is not None:
            sys.modules["shop_pikku"] = before


def deploy(toy: Toy, text: str) -> None:
    """Have the app execute this code, and no other."""
    for registered in (toy.registry.functions, toy.registry.workflows, toy.registry.signals):
        registered.clear()
    module = ModuleType("shop_flows")
    with generated(toy):
        sys.modules[module.__name__] = module
        exec(compile(text, "flows.py", "exec"), module.__dict__)


async def outcome_of(case: Case, amount: int, point: int) -> str | None:
    """How a run goes on whose process died at this call of its store, and which then met the code
    after the edit; None where it was over by then."""
    toy = Toy()
    deploy(toy, case.older_text)
    world = World("memory://")
    lab = world.proxied(toy, lambda lab, store: CrashingStore(lab, store, point, before=False))

    async def begin() -> None:
        run = await toy.app.start_workflow("flow", amount, run_id="r", wait=False)
        await toy.app.send_signal(run, "answered", "yes")

    async with lab, asyncio.timeout(20):
        beginning = asyncio.ensure_future(begin())
        while not lab.crashed and not (beginning.done() and lab._opened.engine.is_quiet):
            await asyncio.sleep(0)
        beginning.cancel()
        await asyncio.wait([beginning])
        if not lab.crashed:
            return None
        deploy(toy, case.new_text)
        await lab.recover()
        (info,) = await toy.app.list_runs(workflow="flow")
        return f"{info.status} {info.suspend_reason or ''}".strip()


async def outcomes(case: Case) -> list[str]:
    """How runs go on that stood in any place when the code was replaced."""
    found: list[str] = []
    for amount in AMOUNTS:
        for point in range(FIRST_OF_THE_RUN, POINTS):
            outcome = await outcome_of(case, amount, point)
            if outcome is None:
                break
            found.append(f"{amount}@{point}: {outcome}")
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_verdict_on(case: Case, tmp_path: Path) -> None:
    change = judged(case, tmp_path)

    said = [edit.message for edit in change.edits]
    assert change.verdict == case.verdict, said
    assert not case.says or any(case.says in message for message in said), said
    for edit in change.edits:
        assert bool(edit.fix) == (edit.verdict != "safe"), edit


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_run_in_flight_meets(case: Case) -> None:
    found = await outcomes(case)

    stopped = [each for each in found if each.partition(": ")[2] in STOPPED]
    assert len(found) > 3
    assert bool(stopped) == (case.verdict != "safe"), found


def test_the_catalogue_has_its_forty_and_each_verdict() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40
    assert {case.verdict for case in CASES} == set(VERDICTS)
