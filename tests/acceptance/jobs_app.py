"""A process of an app with a queue: `jobs_app.py STORE FILE` works until killed, `add` leaves jobs,
`count` says what the queue holds."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from pikku import App, EngineOptions, FunctionContext, QueueConfig, Registry, Work

registry = Registry("letters")
app: App[Any] = App(registry=registry, package="letters")


@registry.pikku_func
async def send(ctx: FunctionContext[Any, Any], to: int) -> None:
    """Write down what was done; the first attempt of number 0 never ends."""
    if to == 0 and ctx.step.attempt_count == 1:
        note("begun", to)
        await asyncio.Event().wait()
    note("done", to)


def note(what: str, to: int) -> None:
    out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(out, f"{to} {what}\n".encode())
    os.close(out)


registry.wire_queue_worker(queue="letters", func=send, config=QueueConfig(group_concurrency=1))


async def main(what: str) -> None:
    """Work, add, or count."""
    options: dict[str, Any] = {"options": EngineOptions(lease_seconds=1.0)}
    if what == "work":
        options["work"] = Work()
    async with app.open(store=sys.argv[1], queue_service="store", **options):
        if what == "add":
            for to in range(6):  # those of one group wait for one another
                await app.add_job("letters", to, group="even" if to % 2 == 0 else "odd")
        elif what == "count":
            print(*await app.opened.jobs.counts("letters"))
        else:
            print("ready", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[3] if len(sys.argv) > 3 else "work"))
