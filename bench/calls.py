"""Ten typed calls for each function of a synthesized project, and the same calls untyped."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from .projects import synthesize

Form = Literal["floor", "attribute", "reference"]
CALLS: Final = 10
"""By each function's caller, of ten functions."""
MISTAKES: Final = "mistakes.py"
MISTAKE_LINES: Final = 4
_CALLERS_OF_A_FILE: Final = 10

_UNTYPED = '''"""What a project without types would import: no call is checked."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])
Context: TypeAlias = Any
WorkflowContext: TypeAlias = Any


@overload
def pikku_func(function: F, /) -> F: ...
@overload
def pikku_func(**options: Any) -> Callable[[F], F]: ...
def pikku_func(function: Any = None, /, **options: Any) -> Any:
    return function


def pikku_workflow_func(function: F, /) -> F:
    return function


def wire_workflow(**options: Any) -> None:
    return None
'''
_HEAD = '''"""Who calls functions {first} to {last}."""

from __future__ import annotations

{imports}
from {root}_pikku import {context}


'''
_LINES: dict[Form, str] = {
    "floor": "    await ctx.rpc.{attribute}(r{n})\n",
    "attribute": "    await ctx.rpc.{attribute}(r{n})\n",
    "reference": '    await ctx.workflow.do("Call {n}", handle_{n}, r{n})\n',
}


def synthesize_calls(folder: Path, root: str, functions: int, form: Form) -> None:
    """A project of `functions` functions with ten calls for each; its package is still to be
    generated, but for the untyped floor, which has one that says nothing."""
    synthesize(folder, root, functions)
    callers = folder / root / "callers"
    callers.mkdir()
    (callers / "__init__.py").write_text("", encoding="utf-8")
    for first in range(0, functions, _CALLERS_OF_A_FILE):
        numbers = range(first, min(first + _CALLERS_OF_A_FILE, functions))
        _write(callers / f"c{first:04}.py", _callers(root, numbers, functions, form))
    if form == "floor":
        package = folder / f"{root}_pikku"
        package.mkdir()
        _write(package / "__init__.py", _UNTYPED)
        _write(package / "py.typed", "")


def change_one_body(folder: Path, root: str) -> None:
    """Another statement in the body of one function, whose types stay."""
    path = folder / root / "functions" / "f0001.py"
    text = path.read_text(encoding="utf-8")
    _write(path, text.replace("    if total > LIMIT:\n", "    if not total <= LIMIT:\n"))


def add_mistakes(folder: Path, root: str) -> None:
    """A file with a mistake on each of its last lines: a wrong name and a wrong input, as an
    attribute and by reference."""
    head = _HEAD.format(
        first="0000",
        last="0001",
        root=root,
        context="Context, WorkflowContext",
        imports=f"from {root}.functions.f0000 import handle_0000\n"
        f"from {root}.types.t0000 import Request0000\n"
        f"from {root}.types.t0001 import Request0001\n",
    )
    _write(
        folder / root / MISTAKES,
        f"{head}async def call(c: Context, w: WorkflowContext, a: Request0000, b: Request0001)"
        " -> None:\n"
        "    await c.rpc.handle_0009x(a)\n"
        "    await c.rpc.handle_0000(b)\n"
        '    await w.workflow.do("Call", w.rpc.handle_0009x, a)\n'
        '    await w.workflow.do("Call", handle_0000, b)\n',
    )


def _callers(root: str, numbers: range, functions: int, form: Form) -> str:
    called = sorted({_called(caller, i, functions) for caller in numbers for i in range(CALLS)})
    imports = [f"from {root}.types.t{i:04} import Request{i:04}" for i in called]
    if form == "reference":
        imports += [f"from {root}.functions.f{i:04} import handle_{i:04}" for i in called]
    context = "WorkflowContext" if form == "reference" else "Context"
    text = _HEAD.format(
        first=f"{numbers[0]:04}",
        last=f"{numbers[-1]:04}",
        root=root,
        context=context,
        imports="\n".join(sorted(imports)),
    )
    return text + "\n\n".join(_caller(n, functions, form, context) for n in numbers)


def _caller(number: int, functions: int, form: Form, context: str) -> str:
    called = [_called(number, i, functions) for i in range(CALLS)]
    given = "".join(f", r{i:04}: Request{i:04}" for i in called)
    lines = [_LINES[form].format(n=f"{i:04}", attribute=_attribute(i)) for i in called]
    return f"async def call_{number:04}(ctx: {context}{given}) -> None:\n" + "".join(lines)


def _called(caller: int, i: int, functions: int) -> int:
    """Ten functions from all over the project."""
    return (caller + i * (functions // CALLS)) % functions


def _attribute(i: int) -> str:
    return f"orders_handle_{i:04}" if i % 4 == 2 else f"handle_{i:04}"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
