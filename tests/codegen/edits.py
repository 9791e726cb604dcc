"""The catalogue of edits: a workflow before and after each, and what becomes of runs in flight.

Each is judged by `pikku-gen diff`, and executed: see `test_diff_catalogue.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent, indent

MODULE = """\
import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pikku import StepFailedError, Undo
from shop_pikku import (
    Context,
    WorkflowContext,
    pikku_func,
    pikku_workflow_func,
    wire_signal,
    wire_workflow,
)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Receipt:
    number: int
    state: Literal["paid", "open"] = "open"
    colour: Colour = Colour.BLUE


@dataclass
class Parcel:
    sku: str
    count: int = 1


@pikku_func
async def note(ctx: Context, text: str) -> str:
    return text


@pikku_func
async def log(ctx: Context, text: str) -> str:
    return text


@pikku_func
async def charge(ctx: Context, amount: int) -> Receipt:
    return Receipt(amount)


@pikku_func
async def refuse(ctx: Context, text: str) -> str:
    raise ValueError(text)


@pikku_func
async def pack(ctx: Context, parcel: Parcel) -> str:
    return parcel.sku


@pikku_func
async def unpack(ctx: Context, told: Undo[Parcel, str]) -> None: ...


@pikku_func
async def throw_away(ctx: Context, told: Undo[Parcel, str]) -> None: ...


answered = wire_signal(name="answered", payload=str)
asked = wire_signal(name="asked", payload=str)


@pikku_workflow_func
async def child(ctx: WorkflowContext, amount: int) -> int:
    await ctx.workflow.sleep("Child waits", "1h")
    return amount


async def remind(ctx: WorkflowContext, text: str) -> None:
    await ctx.workflow.do("Remind", note, text)
    if text == "a":
        return
    await ctx.workflow.sleep("After reminding", "1h")


"""
WIRING = """

wire_workflow(name="child", func=child)
wire_workflow(name="flow", func=flow)
"""
STEPS = """
await ctx.workflow.do("Prepare", note, "a")
await ctx.workflow.sleep("Wait", "1h")
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
"""


@dataclass(frozen=True)
class Case:
    """One edit. `module` are replacements around the body that are part of it."""

    name: str
    before: str
    after: str
    verdict: str
    says: str
    """Part of what is said of it."""
    module: tuple[tuple[str, str], ...] = ()
    older: str = ""
    """The code that runs began under, if that is older than `before`."""

    @property
    def old_text(self) -> str:
        """The module before the edit."""
        return module_of(self.before)

    @property
    def older_text(self) -> str:
        """The module that runs began under."""
        return module_of(self.older or self.before)

    @property
    def new_text(self) -> str:
        """The module after the edit."""
        text = module_of(self.after)
        for one, other in self.module:
            assert one in text, one
            text = text.replace(one, other)
        return text


def module_of(body: str) -> str:
    """A module whose workflow `flow` has this body."""
    head = "@pikku_workflow_func\nasync def flow(ctx: WorkflowContext, amount: int) -> None:\n"
    return MODULE + head + indent(dedent(body).strip() or "pass", "    ") + "\n" + WIRING


def edited(before: str, *pairs: tuple[str, str]) -> str:
    """The text with each first replaced by the second."""
    for one, other in pairs:
        assert one in before, one
        before = before.replace(one, other)
    return before


def case(
    name: str, verdict: str, says: str, before: str, *pairs: tuple[str, str], older: str = ""
) -> Case:
    """An edit of the body."""
    return Case(name, before, edited(before, *pairs), verdict, says, older=older)


def around(name: str, verdict: str, says: str, before: str, *pairs: tuple[str, str]) -> Case:
    """An edit of the module around the body."""
    return Case(name, before, before, verdict, says, module=pairs)


SAFE, PATCHED, BREAKING = "safe", "needs patched", "breaking"
CHECK = 'await ctx.workflow.do("Check", log, "c")\n'
BRANCH = """
await ctx.workflow.do("Prepare", note, "a")
if amount > 3:
    await ctx.workflow.do("Ask", note, "b")
    await ctx.workflow.sleep("Think", "1h")
await ctx.workflow.do("Finish", note, "c")
await ctx.workflow.sleep("Rest", "1h")
"""
BOTH_WAYS = """
if amount > 3:
    await ctx.workflow.sleep("If", "1h")
else:
    await ctx.workflow.sleep("Else", "1h")
"""
LOOP = """
for number in range(3):
    await ctx.workflow.do(f"Part {number}", note, "a")
    await ctx.workflow.sleep(f"Wait {number}", "1h")
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
"""
SIDE_BY_SIDE = """
await asyncio.gather(ctx.workflow.sleep("Long", "2h"), ctx.workflow.sleep("Short", "1h"))
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
"""
ONE_BY_ONE = """
await ctx.workflow.sleep("Long", "2h")
await ctx.workflow.sleep("Short", "1h")
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
"""
FIRST_OF = """
await ctx.workflow.race(ctx.workflow.sleep("Long", "2h"), ctx.workflow.sleep("Short", "1h"))
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
"""
TRIED = """
try:
    await ctx.workflow.do("Try", refuse, "a")
except StepFailedError:
    await ctx.workflow.do("Apologise", note, "b")
    await ctx.workflow.sleep("Cool down", "1h")
await ctx.workflow.do("Finish", note, "c")
await ctx.workflow.sleep("Rest", "1h")
"""
SWALLOWED = """
try:
    await ctx.workflow.do("Try", refuse, "a")
except StepFailedError:
    pass
await ctx.workflow.sleep("Rest", "1h")
await ctx.workflow.do("Finish", note, "c")
"""
SAGA = """
try:
    async with ctx.workflow.saga() as saga:
        await saga.do("Pack", pack, Parcel("a"), undo=unpack)
        await ctx.workflow.do("Try", refuse, "a")
except StepFailedError:
    pass
await ctx.workflow.sleep("Rest", "1h")
await ctx.workflow.do("Finish", note, "c")
"""
GUARDED = """
await ctx.workflow.do("Prepare", note, "a")
if ctx.workflow.patched("check first"):
    await ctx.workflow.do("Check", log, "c")
await ctx.workflow.sleep("Wait", "1h")
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
"""
UNGUARDED = edited(
    GUARDED,
    ('if ctx.workflow.patched("check first"):\n    ', ""),
)
REPEATED = """
for number in range(3):
    await ctx.workflow.do("Pack", pack, Parcel("a"))
    await ctx.workflow.sleep("Wait", "1h")
"""
CHARGED = """
receipt = await ctx.workflow.do("Charge", charge, amount)
await ctx.workflow.sleep("Rest", "1h")
await ctx.workflow.do("Finish", note, "b")
"""
ASIDE = """
reminder = asyncio.create_task(ctx.workflow.sleep("Remind", "3h"))
await ctx.workflow.sleep("Wait", "1h")
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
await reminder
"""
SIGNALLED = """
await ctx.workflow.wait_for_signal("Answer", answered)
await ctx.workflow.sleep("Rest", "1h")
await ctx.workflow.do("Finish", note, "b")
"""
PARENT = """
await ctx.workflow.do("Child", child, amount)
await ctx.workflow.sleep("Rest", "1h")
await ctx.workflow.do("Finish", note, "b")
"""
EARLY = """
await ctx.workflow.do("Prepare", note, "a")
if amount > 3:
    return
await ctx.workflow.sleep("Wait", "1h")
await ctx.workflow.do("Finish", note, "b")
"""
MAPPED = """
await ctx.workflow.map("Each", note, ["a", "b"])
await ctx.workflow.sleep("Rest", "1h")
await ctx.workflow.do("Finish", note, "b")
"""
HELPED = """
await remind(ctx, "a" if amount > 3 else "b")
await ctx.workflow.sleep("Rest", "1h")
"""

CASES = [
    # steps in a row
    case("nothing but words", SAFE, "", STEPS, ('"a")', '"a")  # first')),
    case(
        "a step behind all others",
        SAFE,
        "`Check` was added behind all others",
        STEPS,
        ('"Rest", "1h")\n', f'"Rest", "1h")\n{CHECK}'),
    ),
    case(
        "a step before the first",
        PATCHED,
        "`Check` was added before `Prepare`",
        STEPS,
        ('await ctx.workflow.do("Prepare"', CHECK + 'await ctx.workflow.do("Prepare"'),
    ),
    case(
        "a step in the middle",
        PATCHED,
        "`Check` was added before `Finish`",
        STEPS,
        ('await ctx.workflow.do("Finish"', CHECK + 'await ctx.workflow.do("Finish"'),
    ),
    case(
        "a sleep before the last step",
        PATCHED,
        "`Nap` was added before `Rest`",
        STEPS,
        (
            'await ctx.workflow.sleep("Rest"',
            'await ctx.workflow.sleep("Nap", "1h")\nawait ctx.workflow.sleep("Rest"',
        ),
    ),
    case(
        "a time that is recorded",
        PATCHED,
        "`now()` was added before `Wait`",
        STEPS,
        (
            'await ctx.workflow.sleep("Wait"',
            'await ctx.workflow.now()\nawait ctx.workflow.sleep("Wait"',
        ),
    ),
    case(
        "the first step removed",
        PATCHED,
        "`Prepare` was removed",
        STEPS,
        ('await ctx.workflow.do("Prepare", note, "a")\n', ""),
    ),
    case(
        "the last step removed",
        PATCHED,
        "`Rest` was removed",
        STEPS,
        ('await ctx.workflow.sleep("Rest", "1h")\n', ""),
    ),
    case("a step renamed", PATCHED, "`Finish` was renamed to `End`", STEPS, ('"Finish"', '"End"')),
    case(
        "a step moved to the front",
        PATCHED,
        "was moved in front of",
        STEPS,
        ('await ctx.workflow.do("Prepare", note, "a")\n', ""),
        (
            'await ctx.workflow.do("Finish"',
            'await ctx.workflow.do("Prepare", note, "a")\nawait ctx.workflow.do("Finish"',
        ),
    ),
    case(
        "another kind of step",
        PATCHED,
        "`Wait` was a step of kind sleep",
        STEPS,
        ('sleep("Wait", "1h")', 'do("Wait", lambda: 1)'),
    ),
    case(
        "another target",
        PATCHED,
        "the target of `Finish` was `note`, and is `log`",
        STEPS,
        ('"Finish", note', '"Finish", log'),
    ),
    case(
        "a function becomes an inline step",
        PATCHED,
        "`Finish` was a call of a function",
        STEPS,
        ('"Finish", note, "b"', '"Finish", lambda: "b"'),
    ),
    case(
        "a map becomes one step",
        PATCHED,
        "`Each` was a map",
        MAPPED,
        ('map("Each", note, ["a", "b"])', 'do("Each", note, "a")'),
    ),
    case("another input", SAFE, "", STEPS, ('note, "b"', 'note, "new"')),
    case(
        "another duration and other retries",
        SAFE,
        "",
        STEPS,
        ('"Rest", "1h"', '"Rest", "2h"'),
        ('note, "b"', 'note, "b", retries=3'),
    ),
    # guards
    case(
        "a guarded step",
        SAFE,
        'patched("check first")',
        UNGUARDED.replace(CHECK, ""),
        (
            'await ctx.workflow.sleep("Wait"',
            f'if ctx.workflow.patched("check first"):\n    {CHECK}await ctx.workflow.sleep("Wait"',
        ),
    ),
    case(
        "a guard around what is removed",
        SAFE,
        'patched("no wait")',
        STEPS,
        (
            'await ctx.workflow.sleep("Wait"',
            'if not ctx.workflow.patched("no wait"):\n    await ctx.workflow.sleep("Wait"',
        ),
    ),
    case(
        "a guard between two ways",
        SAFE,
        'patched("log it")',
        STEPS,
        (
            'await ctx.workflow.do("Finish", note, "b")',
            'new = ctx.workflow.patched("log it")\nif new and amount:\n'
            '    await ctx.workflow.do("Log it", log, "b")\n'
            'else:\n    await ctx.workflow.do("Finish", note, "b")',
        ),
    ),
    case(
        "a guard the wrong way round",
        PATCHED,
        "`Check` was added before `Wait`",
        UNGUARDED.replace(CHECK, ""),
        (
            'await ctx.workflow.sleep("Wait"',
            f'if not ctx.workflow.patched("check first"):\n    {CHECK}'
            'await ctx.workflow.sleep("Wait"',
        ),
    ),
    case(
        "a guard that was there already around more",
        PATCHED,
        "`Log` was added",
        GUARDED,
        (
            'await ctx.workflow.do("Finish"',
            'if ctx.workflow.patched("check first"):\n    await ctx.workflow.do("Log", log, "c")\n'
            'await ctx.workflow.do("Finish"',
        ),
    ),
    case(
        "a guard taken out",
        PATCHED,
        'patched("check first")` was removed',
        GUARDED,
        ('if ctx.workflow.patched("check first"):\n    ', ""),
        older=UNGUARDED.replace(CHECK, ""),
    ),
    # branches
    case(
        "a step at the end of a branch",
        PATCHED,
        "`Check` was added before `Finish`",
        BRANCH,
        ('"Think", "1h")\n', f'"Think", "1h")\n    {CHECK}'),
    ),
    case(
        "another branch",
        PATCHED,
        "`Check` was added before `Finish`",
        BRANCH,
        ('"Think", "1h")\n', f'"Think", "1h")\nelse:\n    {CHECK}'),
    ),
    case(
        "a branch removed",
        PATCHED,
        "`Ask` was removed",
        BRANCH,
        (
            'if amount > 3:\n    await ctx.workflow.do("Ask", note, "b")\n'
            '    await ctx.workflow.sleep("Think", "1h")\n',
            "",
        ),
    ),
    case(
        "a step under a condition",
        PATCHED,
        "`Finish` is now under a condition",
        STEPS,
        ('await ctx.workflow.do("Finish"', 'if amount > 3:\n    await ctx.workflow.do("Finish"'),
    ),
    case(
        "a condition for the last branch",
        PATCHED,
        "`Else` is now under a condition",
        STEPS + BOTH_WAYS,
        ("else:", "elif amount > 9:"),
    ),
    case(
        "the last branch for all others",
        PATCHED,
        "`Else` is no longer under a condition",
        BOTH_WAYS.replace("else:", "elif amount > 9:") + STEPS,
        ("elif amount > 9:", "else:"),
    ),
    case(
        "steps out of their branch",
        PATCHED,
        "no longer under a condition",
        BRANCH,
        (
            'if amount > 3:\n    await ctx.workflow.do("Ask", note, "b")\n'
            '    await ctx.workflow.sleep("Think"',
            'await ctx.workflow.do("Ask", note, "b")\nawait ctx.workflow.sleep("Think"',
        ),
    ),
    case(
        "the last step out of its branch",
        SAFE,
        "no longer under a condition",
        STEPS + 'if amount > 3:\n    await ctx.workflow.do("Ask", note, "b")\n'
        '    await ctx.workflow.sleep("Think", "1h")\n',
        (
            'if amount > 3:\n    await ctx.workflow.do("Ask", note, "b")\n'
            '    await ctx.workflow.sleep("Think"',
            'await ctx.workflow.do("Ask", note, "b")\nawait ctx.workflow.sleep("Think"',
        ),
    ),
    case(
        "a branch behind all others",
        SAFE,
        "`Check` was added behind all others",
        STEPS,
        ('"Rest", "1h")\n', f'"Rest", "1h")\nif amount > 3:\n    {CHECK}'),
    ),
    case(
        "an early return",
        PATCHED,
        "an early `return` was added before `Wait`",
        STEPS,
        (
            'await ctx.workflow.sleep("Wait"',
            'if amount > 3:\n    return\nawait ctx.workflow.sleep("Wait"',
        ),
    ),
    case(
        "an early failure",
        PATCHED,
        "an early `raise` was added before `Wait`",
        STEPS,
        (
            'await ctx.workflow.sleep("Wait"',
            'if amount > 3:\n    raise ValueError\nawait ctx.workflow.sleep("Wait"',
        ),
    ),
    case(
        "an early return removed",
        SAFE,
        "`return` was removed",
        EARLY,
        ("if amount > 3:\n    return\n", ""),
    ),
    case(
        "a step before an early return",
        SAFE,
        "`Check` was added",
        EARLY,
        ("    return\n", f"    {CHECK}    return\n"),
    ),
    # loops
    case(
        "a step at the end of a loop",
        PATCHED,
        "`Check {}` was added before `Part {}`",
        LOOP,
        (
            '"Wait {number}", "1h")\n',
            '"Wait {number}", "1h")\n    await ctx.workflow.do(f"Check {number}", log, "c")\n',
        ),
    ),
    case(
        "a loop around a step",
        PATCHED,
        "`Finish` is now in a loop",
        STEPS,
        (
            'await ctx.workflow.do("Finish"',
            'for _ in range(2):\n    await ctx.workflow.do("Finish"',
        ),
    ),
    case(
        "a step out of its loop",
        PATCHED,
        "and is no longer in a loop",
        LOOP,
        (
            '    await ctx.workflow.sleep(f"Wait {number}"',
            'await ctx.workflow.sleep(f"Wait {number}"',
        ),
    ),
    case(
        "another order in a loop",
        PATCHED,
        "was moved in front of",
        LOOP,
        (
            '    await ctx.workflow.do(f"Part {number}", note, "a")\n'
            '    await ctx.workflow.sleep(f"Wait {number}", "1h")\n',
            '    await ctx.workflow.sleep(f"Wait {number}", "1h")\n'
            '    await ctx.workflow.do(f"Part {number}", note, "a")\n',
        ),
    ),
    case(
        "a break",
        PATCHED,
        "an early `break` was added before",
        LOOP,
        (
            '    await ctx.workflow.sleep(f"Wait',
            '    if number:\n        break\n    await ctx.workflow.sleep(f"Wait',
        ),
    ),
    case(
        "a break removed",
        PATCHED,
        "`break` was removed",
        LOOP.replace(
            '    await ctx.workflow.sleep(f"Wait',
            '    if number:\n        break\n    await ctx.workflow.sleep(f"Wait',
        ),
        ("    if number:\n        break\n", ""),
    ),
    case(
        "a loop behind all others",
        SAFE,
        "`Check {}` was added behind all others",
        STEPS,
        (
            '"Rest", "1h")\n',
            '"Rest", "1h")\nfor n in range(2):\n'
            '    await ctx.workflow.do(f"Check {n}", log, "c")\n',
        ),
    ),
    # side by side
    case(
        "one by one becomes side by side",
        SAFE,
        "",
        ONE_BY_ONE,
        (
            ONE_BY_ONE.split("await ctx.workflow.do")[0],
            SIDE_BY_SIDE.split("await ctx.workflow.do")[0],
        ),
    ),
    case(
        "side by side becomes one by one",
        PATCHED,
        "`Short` now waits for `Long`",
        SIDE_BY_SIDE,
        (
            SIDE_BY_SIDE.split("await ctx.workflow.do")[0],
            ONE_BY_ONE.split("await ctx.workflow.do")[0],
        ),
    ),
    case(
        "branches in another order",
        SAFE,
        "",
        SIDE_BY_SIDE,
        (
            'ctx.workflow.sleep("Long", "2h"), ctx.workflow.sleep("Short", "1h")',
            'ctx.workflow.sleep("Short", "1h"), ctx.workflow.sleep("Long", "2h")',
        ),
    ),
    case(
        "one more beside the others",
        PATCHED,
        "`More` was added before `Finish`",
        SIDE_BY_SIDE,
        (
            'ctx.workflow.sleep("Short", "1h")',
            'ctx.workflow.sleep("Short", "1h"), ctx.workflow.sleep("More", "1h")',
        ),
    ),
    case(
        "one more beside the others, and nothing behind",
        SAFE,
        "`More` was added beside",
        SIDE_BY_SIDE.split("await ctx.workflow.do")[0],
        (
            'ctx.workflow.sleep("Short", "1h")',
            'ctx.workflow.sleep("Short", "1h"), ctx.workflow.sleep("More", "1h")',
        ),
    ),
    case(
        "one more in a race",
        SAFE,
        "`More` was added beside",
        FIRST_OF,
        (
            'ctx.workflow.sleep("Short", "1h")',
            'ctx.workflow.sleep("Short", "1h"), ctx.workflow.sleep("More", "9h")',
        ),
    ),
    case(
        "a step at the end of a branch of a race",
        PATCHED,
        "`More` was added before `Finish`",
        """
async def one():
    await ctx.workflow.sleep("Short", "1h")


await ctx.workflow.race(ctx.workflow.sleep("Long", "9h"), one())
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
""",
        ('"Short", "1h")', '"Short", "1h")\n    await ctx.workflow.sleep("More", "1h")'),
    ),
    case(
        "the first that is completed becomes all of them",
        PATCHED,
        "`Finish` now waits for",
        """
tasks = [
    asyncio.create_task(ctx.workflow.sleep("Long", "9h")),
    asyncio.create_task(ctx.workflow.sleep("Short", "1h")),
]
await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
await ctx.workflow.do("Finish", note, "b")
await ctx.workflow.sleep("Rest", "1h")
""",
        ("asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)", "asyncio.gather(*tasks)"),
    ),
    case(
        "all of them becomes the first",
        SAFE,
        "",
        SIDE_BY_SIDE,
        ("asyncio.gather", "ctx.workflow.race"),
    ),
    case(
        "the first becomes all of them",
        PATCHED,
        "`Finish` now waits for",
        FIRST_OF,
        ("ctx.workflow.race", "asyncio.gather"),
    ),
    case(
        "a step started aside",
        SAFE,
        "",
        STEPS,
        (
            'await ctx.workflow.do("Prepare"',
            'aside = asyncio.create_task(ctx.workflow.sleep("Aside", "9h"))\n'
            'await ctx.workflow.do("Prepare"',
        ),
        ('"Rest", "1h")\n', '"Rest", "1h")\naside.cancel()\n'),
    ),
    case(
        "what was aside is waited for at once",
        PATCHED,
        "`Wait` now waits for `Remind`",
        ASIDE,
        (
            'asyncio.create_task(ctx.workflow.sleep("Remind", "3h"))',
            'await ctx.workflow.sleep("Remind", "3h")',
        ),
        ("await reminder\n", ""),
    ),
    case(
        "a name that takes the key of another",
        PATCHED,
        "may take the key of `Finish`",
        SIDE_BY_SIDE,
        (
            "await asyncio.gather",
            'aside = asyncio.create_task(ctx.workflow.do(f"F{\'inish\'}", log, "c"))\n'
            "await asyncio.gather",
        ),
        ('"Rest", "1h")\n', '"Rest", "1h")\nawait aside\n'),
    ),
    # handlers
    case(
        "a step at the end of a handler",
        PATCHED,
        "`Check` was added before `Finish`",
        TRIED,
        ('"Cool down", "1h")\n', f'"Cool down", "1h")\n    {CHECK}'),
    ),
    case(
        "a handler removed",
        PATCHED,
        "`Apologise` was removed",
        TRIED,
        (
            'await ctx.workflow.do("Apologise", note, "b")\n'
            '    await ctx.workflow.sleep("Cool down", "1h")',
            "pass",
        ),
    ),
    case(
        "a handler for what ended the run",
        SAFE,
        "in a handler that no run in flight",
        STEPS,
        (
            'await ctx.workflow.do("Finish", note, "b")',
            'try:\n    await ctx.workflow.do("Finish", note, "b")\n'
            f"except StepFailedError:\n    {CHECK}",
        ),
    ),
    case(
        "a finally with a step",
        PATCHED,
        "`Check` was added before `Rest`",
        STEPS,
        (
            'await ctx.workflow.do("Finish", note, "b")',
            f'try:\n    await ctx.workflow.do("Finish", note, "b")\nfinally:\n    {CHECK}',
        ),
    ),
    case(
        "a failure that is no longer swallowed",
        PATCHED,
        "no longer passes",
        SWALLOWED,
        (
            SWALLOWED.partition("\nawait ctx.workflow.sleep")[0].strip(),
            'await ctx.workflow.do("Try", refuse, "a")',
        ),
    ),
    case(
        "another undoing",
        PATCHED,
        "was undone by `unpack`, and is undone by",
        SAGA,
        ("undo=unpack", "undo=throw_away"),
    ),
    # helpers, children, signals
    around(
        "a step in a helper",
        PATCHED,
        "`Check` was added before `After reminding`",
        HELPED,
        (
            '    if text == "a":',
            '    await ctx.workflow.do("Check", log, "c")\n    if text == "a":',
        ),
    ),
    around(
        "a return out of a helper removed",
        PATCHED,
        "`return` was removed",
        HELPED,
        ('    if text == "a":\n        return\n', ""),
    ),
    case(
        "a child that is no longer waited for",
        PATCHED,
        "is no longer waited for",
        PARENT,
        ("child, amount", "child, amount, detached=True"),
    ),
    case(
        "a child that is waited for now",
        PATCHED,
        "is waited for now",
        PARENT.replace("child, amount", "child, amount, detached=True"),
        ("child, amount, detached=True", "child, amount"),
    ),
    case(
        "another signal",
        PATCHED,
        "was `answered`, and is `asked`",
        SIGNALLED,
        ("answered", "asked"),
    ),
    # values
    around(
        "a result with one field more",
        BREAKING,
        "`Receipt.tax` has no default",
        CHARGED,
        ("    number: int\n", "    number: int\n    tax: int\n"),
        ("Receipt(amount)", "Receipt(amount, 1)"),
    ),
    around(
        "a result with one field more, and its default",
        SAFE,
        "",
        CHARGED,
        ("    number: int\n", "    number: int\n    tax: int = 0\n"),
    ),
    around(
        "a result with one field less",
        SAFE,
        "",
        CHARGED,
        ('    state: Literal["paid", "open"] = "open"\n', ""),
    ),
    around(
        "a result with a field of another type",
        BREAKING,
        "`Receipt.number`",
        CHARGED,
        ("    number: int\n", "    number: list[int]\n"),
        ("Receipt(amount)", "Receipt([amount])"),
    ),
    around(
        "a result that may be none",
        SAFE,
        "",
        CHARGED,
        ("amount: int) -> Receipt", "amount: int) -> Receipt | None"),
    ),
    around(
        "a value that is no longer allowed",
        BREAKING,
        "'open' is no longer allowed",
        CHARGED,
        ('Literal["paid", "open"] = "open"', 'Literal["paid"] = "paid"'),
    ),
    around(
        "a member of an enumeration removed",
        BREAKING,
        "has no 'blue'",
        CHARGED,
        ('    BLUE = "blue"\n', ""),
        ("Colour.BLUE", "Colour.RED"),
    ),
    around(
        "another result of a child",
        BREAKING,
        "recorded by `Child`",
        PARENT,
        (
            "async def child(ctx: WorkflowContext, amount: int) -> int",
            "async def child(ctx: WorkflowContext, amount: int) -> str",
        ),
        ("    return amount\n", "    return str(amount)\n"),
    ),
    around(
        "another payload of a signal",
        BREAKING,
        "payload of signal `answered`",
        SIGNALLED,
        ('name="answered", payload=str', 'name="answered", payload=int'),
    ),
    around(
        "another input under a repeated name",
        PATCHED,
        "fingerprint of its input",
        REPEATED,
        ("    count: int = 1\n", "    count: int = 1\n    gift: bool = False\n"),
    ),
    around(
        "an undoing that cannot read its input",
        BREAKING,
        "for its undoing",
        SAGA,
        ("    sku: str\n", "    sku: str\n    weight: int\n"),
        ('Parcel("a")', 'Parcel("a", 1)'),
    ),
    # the workflow itself
    around(
        "an input of another type",
        BREAKING,
        "the input of runs in flight",
        STEPS,
        (
            "flow(ctx: WorkflowContext, amount: int)",
            "flow(ctx: WorkflowContext, amount: list[int])",
        ),
    ),
    around(
        "an input where there was a wider one",
        SAFE,
        "",
        STEPS,
        (
            "flow(ctx: WorkflowContext, amount: int)",
            "flow(ctx: WorkflowContext, amount: int | None)",
        ),
    ),
    around(
        "no input any more",
        BREAKING,
        "it was `int`, and is `None`",
        STEPS,
        ("flow(ctx: WorkflowContext, amount: int)", "flow(ctx: WorkflowContext)"),
    ),
    around(
        "the workflow renamed",
        BREAKING,
        "was renamed to `stream`",
        STEPS,
        ('wire_workflow(name="flow"', 'wire_workflow(name="stream"'),
    ),
    around(
        "the workflow removed",
        BREAKING,
        "was removed",
        STEPS,
        ('wire_workflow(name="flow", func=flow)\n', ""),
    ),
]
