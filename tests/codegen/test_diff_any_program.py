"""Random workflows and random edits: no run in flight stands still at one that is called safe."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.codegen.edits import Case
from tests.codegen.test_diff_catalogue import STOPPED, judged, outcomes

FIRST = int(os.environ.get("PIKKU_TEST_SEED", "1"))
COUNT = 12
Block = list[Any]
"""A statement: its kind, then its parts; a sequence is a list of statements."""
# A function is thrown away where it has called a branch and not yet handed it on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Draw:
    """Programs and edits of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.names = 0

    def name(self) -> str:
        """A name that no step has yet."""
        self.names += 1
        return f"S{self.names}"

    def statement(self, depth: int = 0) -> Block:
        """Any statement."""
        simple = ["do", "sleep", "sleep"]
        nested = ["if", "if", "else", "for", "gather", "race", "try", "finally", "aside", "return"]
        kind = self.random.choice(simple if depth > 1 else simple + nested)
        match kind:
            case "do":
                return [kind, self.name(), self.random.choice(("note", "log"))]
            case "sleep":
                return [kind, self.name(), self.random.randint(1, 4)]
            case "else" | "gather" | "race" | "try" | "finally":
                return [kind, self.sequence(depth + 1), self.sequence(depth + 1)]
            case "return":
                return ["if", [["return"]]]
            case _:
                return [kind, self.sequence(depth + 1)]

    def sequence(self, depth: int = 0) -> list[Block]:
        """A few statements."""
        count = self.random.randint(1, 4 if depth == 0 else 2)
        return [self.statement(depth) for _ in range(count)]

    def edited(self, program: list[Block]) -> list[Block]:
        """The program with one edit somewhere."""
        made = deepcopy(program)
        places = [made]
        for each in places:
            places += [part for block in each for part in block[1:] if isinstance(part, list)]
        where = self.random.choice(places)
        at = self.random.randrange(len(where))
        edits = ("add", "add", "end", "remove", "swap", "if", "for", "unwrap", "beside")
        match self.random.choice(edits):
            case "add":
                where.insert(at, self.statement())
            case "end":
                made.append(self.statement())
            case "remove" if len(where) > 1:
                del where[at]
            case "swap":
                where[0], where[at] = where[at], where[0]
            case "if":
                where[at] = ["if", [where[at]]]
            case "for":
                where[at] = ["for", [where[at]]]
            case "unwrap" if isinstance(where[at][-1], list):
                where[at : at + 1] = where[at][-1]
            case _:
                where[at] = ["gather", [where[at]], [["sleep", self.name(), 1]]]
        return made


class Writer:
    """Programs as text."""

    def __init__(self) -> None:
        self.count = 0

    def lines(self, program: list[Block], indent: str = "") -> list[str]:
        """The lines of a sequence."""
        return [indent + line for block in program for line in self.block(block)]

    def branch(self, program: list[Block]) -> tuple[str, list[str]]:
        """A local function with these statements."""
        self.count += 1
        name = f"branch_{self.count}"
        return name, [f"async def {name}():", *self.lines(program, "    ")]

    def block(self, block: Block) -> list[str]:
        """The lines of one statement."""
        match block:
            case ["do", name, target]:
                return [f'await ctx.workflow.do("{name}", {target}, "x")']
            case ["sleep", name, hours]:
                return [f'await ctx.workflow.sleep("{name}", "{hours}h")']
            case ["return"]:
                return ["return"]
            case ["if", body]:
                return ["if amount > 3:", *self.lines(body, "    ")]
            case ["else", body, other]:
                above, below = self.lines(body, "    "), self.lines(other, "    ")
                return ["if amount > 3:", *above, "else:", *below]
            case ["for", body]:
                return ["for _ in range(2):", *self.lines(body, "    ")]
            case ["try", body, handler]:
                self.count += 1
                inside = self.lines(body, "    ")
                if handler[0][0] == "do":
                    inside.append(f'    await ctx.workflow.do("Try {self.count}", refuse, "x")')
                return ["try:", *inside, "except StepFailedError:", *self.lines(handler, "    ")]
            case ["finally", body, final]:
                return ["try:", *self.lines(body, "    "), "finally:", *self.lines(final, "    ")]
            case ["gather" | "race" as kind, one, other]:
                (first, above), (second, below) = self.branch(one), self.branch(other)
                call = "asyncio.gather" if kind == "gather" else "ctx.workflow.race"
                return [*above, *below, f"await {call}({first}(), {second}())"]
            case ["aside", body]:
                name, above = self.branch(body)
                return [*above, f"task_{name} = asyncio.create_task({name}())"]
            case _:
                raise AssertionError(block)


def text_of(program: list[Block]) -> str:
    """The body of a workflow."""
    return "\n".join(Writer().lines(program))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
async def test_what_is_called_safe_goes_on(seed: int, tmp_path: Path) -> None:
    draw = Draw(seed)
    program = draw.sequence()
    case = Case(str(seed), text_of(program), text_of(draw.edited(program)), "safe", "")
    change = judged(case, tmp_path)
    found = await outcomes(case)
    stopped = [each for each in found if each.partition(": ")[2] in STOPPED]

    assert change.verdict == "needs patched" or not stopped, (
        f"PIKKU_TEST_SEED={seed}\n{case.before}\n--- edited\n{case.after}\n{change.edits}\n{found}"
    )
