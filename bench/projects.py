"""The synthesizer of projects for the generator: N functions in 2N files of about a kilobyte.

Every function has a module of its own, as have its types, so that each annotation is
resolved through another file's imports; every tenth function has a workflow beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_DATACLASS = '''"""What function {n} takes and returns."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal


@dataclass
class Request{n}:
    """Order {n} as the caller sends it; amounts are in the currency of the account."""

    order_id: str
    amount: Decimal
    placed_at: datetime
    lines: list[str] = field(default_factory=list)
    note: str | None = None


@dataclass
class Response{n}:
    """What became of order {n}: accepted or not, and the total that was counted."""

    order_id: str
    accepted: bool
    total: Decimal
    reasons: dict[str, str] = field(default_factory=dict)
'''
_TYPED_DICT = '''"""What function {n} takes and returns."""

from datetime import datetime
from decimal import Decimal

from typing_extensions import NotRequired, TypedDict


class Request{n}(TypedDict):
    """Order {n} as the caller sends it; amounts are in the currency of the account."""

    order_id: str
    amount: Decimal
    placed_at: datetime
    lines: list[str]
    note: NotRequired[str]


class Response{n}(TypedDict):
    """What became of order {n}: accepted or not, and the total that was counted."""

    order_id: str
    accepted: bool
    total: Decimal
    reasons: NotRequired[dict[str, str]]
'''
_MODEL = '''"""What function {n} takes and returns."""

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, Field


class Request{n}(BaseModel):
    """Order {n} as the caller sends it; amounts are in the currency of the account."""

    order_id: str = Field(min_length=1)
    amount: Decimal = Field(ge=0)
    placed_at: datetime
    lines: list[str] = []
    note: str | None = None


class Response{n}(BaseModel):
    """What became of order {n}: accepted or not, and the total that was counted."""

    order_id: str
    accepted: bool
    total: Decimal
    reasons: dict[str, str] = {{}}
'''
_FUNCTION = '''"""Function {n} of the project: it accepts an order and counts its total."""

from __future__ import annotations

import logging
from decimal import Decimal

from {root}.types.t{n} import Request{n}, Response{n}
{imports}

logger = logging.getLogger(__name__)
LIMIT = Decimal({n_int} + 1) * 100


def _total(amounts: list[Decimal]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        if amount < 0:
            logger.warning("a negative amount of %s is left out", amount)
            continue
        total += amount
    return total


@pikku_func{options}
async def handle_{n}(ctx: Context, data: Request{n}) -> Response{n}:
    """Accept order {n} when its total is within the limit.

    The total is counted from the amounts of the lines; negative ones are left out and logged.
    The response names the limit and the total, so that a caller sees why an order was refused;
    a refused order may be sent again with fewer lines under another id.
    """
    total = _total([LIMIT / 2, LIMIT / 4])
    if total > LIMIT:
        logger.info("order %s is beyond the limit", ctx.step.invocation_id)
    reasons = {{"limit": str(LIMIT), "total": str(total)}}
    return Response{n}(
        order_id="order-{n}", accepted=total <= LIMIT, total=total, reasons=reasons
    )
'''
_WORKFLOW = '''

@pikku_workflow_func
async def flow_{n}(ctx: WorkflowContext, data: Request{n}) -> Response{n}:
    """Handle order {n}, a minute after it came in."""
    await ctx.workflow.sleep("Wait a minute", "1min")
    return await ctx.workflow.do("Handle order", handle_{n}, data)


wire_workflow(name="flow-{n}", func=flow_{n}, tags=["orders"])
'''
_OPTIONS: tuple[Callable[[str], str], ...] = (
    lambda n: '(retries=2, tags=["orders"])',
    lambda n: '(timeout="30s", expose=True)',
    lambda n: f'(name="orders.handle_{n}")',
    lambda n: "",
)
_TYPES = (_DATACLASS, _TYPED_DICT, _MODEL)
_WORKFLOW_EVERY = 10


def synthesize(folder: Path, root: str, functions: int) -> None:
    """Write a project of `functions` functions, its package named `root`, into `folder`."""
    package = folder / root
    for part in (package, package / "functions", package / "types"):
        part.mkdir(parents=True)
        (part / "__init__.py").write_text("", encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{root}"\nversion = "0"\nrequires-python = ">=3.11"\n\n'
        f'[tool.pikku]\nroot = "{root}"\n',
        encoding="utf-8",
    )
    for i in range(functions):
        types, function = package / "types" / f"t{i:04}.py", _function_file(folder, root, i)
        types.write_text(_TYPES[i % len(_TYPES)].format(n=f"{i:04}"), encoding="utf-8")
        function.write_text(_function(root, i), encoding="utf-8")


def change_one_file(folder: Path, root: str) -> None:
    """Change the docstring of one function, so that what is generated changes with it."""
    path = _function_file(folder, root, 0)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("within the limit", "at or below the limit"), encoding="utf-8")


def _function_file(folder: Path, root: str, i: int) -> Path:
    return folder / root / "functions" / f"f{i:04}.py"


def _function(root: str, i: int) -> str:
    n = f"{i:04}"
    has_workflow = i % _WORKFLOW_EVERY == 0
    names = "Context, pikku_func"
    if has_workflow:
        names = "Context, WorkflowContext, pikku_func, pikku_workflow_func, wire_workflow"
    imports = f"from {root}_pikku import {names}"
    options = _OPTIONS[i % len(_OPTIONS)](n)
    text = _FUNCTION.format(n=n, n_int=i, root=root, imports=imports, options=options)
    return text + (_WORKFLOW.format(n=n) if has_workflow else "")
