"""A small project for the tests of the commands, and the ways to call `pikku` in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYPROJECT = """\
[tool.pikku]
root = "desk"
store = "sqlite:///runs.db"
"""

PACKAGE = """\
from pikku import App, Registry

registry = Registry("desk_pikku")
app = App(
    registry=registry,
    package="desk_pikku",
    bootstrap="desk.work",
    settings={"store": "sqlite:///runs.db"},
    project="..",
)
"""

WORK = """\
import asyncio
import os
from pathlib import Path

from typing_extensions import TypedDict

from desk_pikku import registry
from pikku import FunctionContext, Signal, WorkflowFunctionContext, WorkflowRef

Path("imported.txt").touch()


@registry.pikku_func
async def note(ctx: FunctionContext, what: str) -> str:
    with open("effects.txt", "a") as out:
        out.write(f"{what} {os.getpid()}\\n")
    return what


@registry.pikku_func
async def hold(ctx: FunctionContext) -> None:
    print("holding", flush=True)
    while not Path("release.txt").exists():
        await asyncio.sleep(0.01)


@registry.pikku_func
async def refuse(ctx: FunctionContext) -> None:
    raise ValueError("out of \\x1b[31mpaper")


@registry.pikku_workflow_func
async def nap(ctx: WorkflowFunctionContext, duration: str) -> str:
    await ctx.workflow.do("Before", note, "before")
    await ctx.workflow.sleep("Nap", duration)
    return await ctx.workflow.do("After", note, "after")


@registry.pikku_workflow_func
async def three(ctx: WorkflowFunctionContext) -> None:
    await ctx.workflow.do("First", note, "first")
    await ctx.workflow.do("Hold", hold)
    await ctx.workflow.do("Last", note, "last")


@registry.pikku_workflow_func
async def failing(ctx: WorkflowFunctionContext) -> None:
    await ctx.workflow.do("Refuse", refuse, retries=1, retry_delay="1ms")


@registry.pikku_workflow_func
async def patient(ctx: WorkflowFunctionContext) -> None:
    await ctx.workflow.do("Refuse", refuse, retries=1, retry_delay="1h")


@registry.pikku_workflow_func
async def giving_up(ctx: WorkflowFunctionContext) -> None:
    await ctx.workflow.cancel("no need")


class Plan(TypedDict):
    name: str


registry.wire_signal(name="upgraded", payload=Plan)
registry.wire_signal(name="nudge")


@registry.pikku_workflow_func
async def trial(ctx: WorkflowFunctionContext) -> str:
    plan = await ctx.workflow.wait_for_signal("Wait for upgrade", Signal[Plan]("upgraded"))
    return await ctx.workflow.do("Note plan", note, plan["name"])


@registry.pikku_workflow_func
async def purchase(ctx: WorkflowFunctionContext) -> str:
    decision = await ctx.workflow.approval(
        "Approve it", schema=Plan, reason="it is dear", approvers="not_initiator", scope="money"
    )
    return decision.outcome if decision.data is None else decision.data["name"]


@registry.pikku_workflow_func
async def careful(ctx: WorkflowFunctionContext) -> str:
    await ctx.workflow.do("Note it", note, "careful")
    await ctx.workflow.do("Check paper", check)
    return "printed"


@registry.pikku_func
async def check(ctx: FunctionContext) -> None:
    if not Path("paper.txt").exists():
        raise ValueError("out of paper")


@registry.pikku_workflow_func
async def outer(ctx: WorkflowFunctionContext) -> str:
    return await ctx.workflow.do("Inner", WorkflowRef("trial"))


registry.wire_workflow(name="trial", func=trial)
registry.wire_workflow(name="purchase", func=purchase)
registry.wire_workflow(name="careful", func=careful)
registry.wire_workflow(name="outer", func=outer)
registry.wire_workflow(name="nap", func=nap, tags=["rest"])
registry.wire_workflow(name="three", func=three)
registry.wire_workflow(name="failing", func=failing)
registry.wire_workflow(name="patient", func=patient)
registry.wire_workflow(name="giving up", func=giving_up)
"""


@dataclass(frozen=True)
class Desk:
    """The project in a folder of its own; every call is a process of its own."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Desk:
        """A new one in *folder*."""
        (folder / "desk").mkdir()
        (folder / "desk_pikku").mkdir()
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (folder / "desk" / "__init__.py").write_text("")
        (folder / "desk" / "work.py").write_text(WORK)
        (folder / "desk_pikku" / "__init__.py").write_text(PACKAGE)
        return cls(folder)

    def edit(self, old: str, new: str) -> None:
        """Change the project's code."""
        file = self.folder / "desk" / "work.py"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")

    def pikku(
        self, *arguments: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `pikku` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "pikku.cli", *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def spawn(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Begin `pikku`."""
        return subprocess.Popen(
            [sys.executable, "-m", "pikku.cli", *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """What a process of the project sees."""
        clean = {key: text for key, text in os.environ.items() if not key.startswith("PIKKU_")}
        clean.pop("FORCE_COLOR", None)
        return {**clean, **more}

    def document(self, *arguments: str) -> Any:
        """What `pikku … --json` prints."""
        done = self.pikku(*arguments, "--json")
        return json.loads(done.stdout)

    def status(self, run_id: str) -> str:
        """The status of a run."""
        status: str = self.document("runs", "show", run_id)["run"]["status"]
        return status

    @property
    def effects(self) -> list[str]:
        """What was done, without by whom."""
        file = self.folder / "effects.txt"
        return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def until(stream: Any, wanted: Callable[[str], bool]) -> str:
    """The first line of *stream* that is wanted."""
    for line in stream:
        if wanted(line):
            return str(line)
    raise AssertionError("the line did not come")
