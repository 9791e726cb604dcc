"""A small app for tests that kill its process; also a program: `kill_app.py STORE RUN_ID…`.

Every execution of a step is a line in the file that `LEDGER` names, written before the step ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from pikku import App, FunctionContext, Registry, WorkflowFunctionContext, WorkflowWire
from pikku._settings import EngineOptions

registry = Registry("kill_app")
app: App[Any] = App(registry=registry, package="kill_app")
LEASE_SECONDS = 0.5


def note(run_id: str, what: str) -> None:
    """One line, in one write."""
    line = f"{run_id}|{what}|{os.getpid()}\n".encode()
    file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)


@registry.pikku_func
async def create_profile(ctx: FunctionContext[Any, Any], data: dict[str, str]) -> None:
    note(ctx.run_id, "create profile")
    await asyncio.sleep(0.02)


@registry.pikku_func
def send_email(ctx: FunctionContext[Any, Any], data: dict[str, str]) -> str:
    note(ctx.run_id, "send email")
    return data["message"]


@registry.pikku_func
async def slow(ctx: FunctionContext[Any, Any], seconds: float) -> str:
    note(ctx.run_id, "slow began")
    await asyncio.sleep(seconds)
    note(ctx.run_id, "slow ended")
    return "slow"


async def onboarding(
    ctx: WorkflowFunctionContext[Any, Any, WorkflowWire], data: dict[str, str]
) -> str:
    steps: Any = ctx.workflow
    await steps.do("create profile", "create_profile", data)
    message = await steps.do("generate message", lambda: note(ctx.run_id, "generate message"))
    await steps.sleep("wait a little", "250ms")
    text: str = await steps.do("send email", "send_email", {"message": f"welcome {message}"})
    return text


async def waiting(ctx: WorkflowFunctionContext[Any, Any, WorkflowWire], seconds: float) -> str:
    steps: Any = ctx.workflow
    text: str = await steps.do("slow", "slow", seconds)
    await steps.do("after", lambda: note(ctx.run_id, "after"))
    return text


for each in (onboarding, waiting):
    registry.wire_workflow(name=each.__name__, func=registry.pikku_workflow_func(each))


async def main(store: str, run_ids: list[str]) -> None:
    options = EngineOptions(lease_seconds=LEASE_SECONDS)
    async with app.open(store=store, options=options):
        print("open", flush=True)
        runs = [
            await app.start_workflow("onboarding", {"email": "a@b.c"}, run_id=run_id, wait=False)
            for run_id in run_ids
        ]
        for run in runs:
            print(run.run_id, await run.result(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
