"""The stubs of the generated package against the package itself: names, parameters, defaults."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pikku.testing

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "generated" / "shop_pikku"
ALLOWED = Path(__file__).with_name("stubtest_allowed.txt")
STUBS = sorted(PACKAGE.glob("*.pyi"))
MADE_BY_THE_PACKAGE = {"SyncApp", "Fakes", "Rpc", "RpcNames", "Workflows", "Signals", "Queues"}
FORWARDED: dict[str, Callable[..., Any]] = {
    "Rpc.start_workflow": pikku.App[Any].start_workflow,
    "WorkflowLab.__init__": pikku.testing.WorkflowLab.__init__,
}
"""What hands its options on, and to whom."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(stub: Path) -> Iterator[tuple[str, Callable[..., Any], list[Function]]]:
    """Every function and method of a stub with its overloads, and what it is at run time."""
    module = import_module(f"shop_pikku.{stub.stem}")
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    yield from grouped("", module, tree.body)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and hasattr(module, node.name):
            yield from grouped(f"{node.name}.", getattr(module, node.name), node.body)


def grouped(
    prefix: str, owner: object, body: list[ast.stmt]
) -> Iterator[tuple[str, Callable[..., Any], list[Function]]]:
    found: dict[str, list[Function]] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.setdefault(node.name, []).append(node)
    for name, overloads in found.items():
        if name != "__init__" or prefix.removesuffix(".") not in MADE_BY_THE_PACKAGE:
            full = f"{prefix}{name}"
            yield full, FORWARDED.get(full) or getattr(owner, name), overloads


def named(function: Function) -> dict[str, ast.expr | None]:
    """The parameters that may be given by their names, with their defaults."""
    arguments = function.args
    defaults = dict(zip(reversed(arguments.args), reversed(arguments.defaults), strict=False))
    found = {parameter.arg: defaults.get(parameter) for parameter in arguments.args}
    own = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found |= {parameter.arg: default for parameter, default in own}
    found.pop("self", None)
    return found


def accepting(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], int]:
    """What a function takes by name, and how much by place."""
    parameters = inspect.signature(function).parameters.values()
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters)
    any_place = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    count = sum(each.kind in by_place for each in parameters)
    return (
        {each.name: each for each in parameters if each.kind in by_name},
        1000 if any_place else count,
    )


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.name)
def test_whatever_a_stub_lets_one_pass_is_taken_at_run_time(stub: Path) -> None:
    for name, function, overloads in functions(stub):
        taken, places = accepting(function)
        for overload in overloads:
            given = named(overload)
            unknown = given.keys() - taken.keys()
            assert not unknown, f"{name} does not take {unknown}"
            positional = len(overload.args.posonlyargs) + len(overload.args.args)
            assert positional <= places, f"{name} takes {places} by place, not {positional}"
            is_async = isinstance(overload, ast.AsyncFunctionDef)
            assert is_async == inspect.iscoroutinefunction(function), f"{name} is async: {is_async}"


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.name)
def test_whatever_is_taken_at_run_time_is_in_the_stub_with_the_same_default(stub: Path) -> None:
    for name, function, overloads in functions(stub):
        taken, _ = accepting(function)
        for parameter in taken.values():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                continue
            given = [named(each) for each in overloads if parameter.name in named(each)]
            assert given, f"{name} takes {parameter.name}, and the stub does not say so"
            told = [each[parameter.name] for each in given]
            literal = [ast.literal_eval(each) for each in told if isinstance(each, ast.Constant)]
            assert set(literal) <= {parameter.default}, f"{name}: {parameter.name} = {literal}"


def test_stubtest_finds_only_what_is_meant() -> None:
    path = os.pathsep.join(str(ROOT / part) for part in ("runtime", "sample_app", "generated"))
    command = [sys.executable, "-m", "mypy.stubtest", "shop_pikku", "--concise"]
    command += ["--ignore-missing-stub", "--allowlist", str(ALLOWED)]

    made = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MYPYPATH": path},
        cwd=ROOT / "generated",
    )

    assert (made.returncode, made.stderr) == (0, ""), made.stdout + made.stderr
