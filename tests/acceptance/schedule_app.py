"""A worker of an app with one schedule that is due every second: `schedule_app.py STORE FILE`."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime
from typing import Any

from pikku import App, EngineOptions, FunctionContext, Registry, Work, _cron, _ticks


def six_fields(schedule: object) -> str:
    """The schedule as it is: one with seconds, so that the test need not wait for minutes."""
    return str(schedule)


_cron.cron_fields = six_fields
_ticks.cron_fields = six_fields  # type: ignore[attr-defined]

registry = Registry("clockwork")
app: App[Any] = App(registry=registry, package="clockwork")


@registry.pikku_func
async def note(ctx: FunctionContext[Any, Any], due: datetime) -> None:
    """Write down which tick came, and in which process."""
    line = f"{int(due.timestamp())} {os.getpid()}\n"
    out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(out, line.encode())
    os.close(out)


registry.wire_scheduler(name="note", schedule="* * * * * *", func=note, catch_up="all")


async def main() -> None:
    """Work until killed."""
    options = EngineOptions(lease_seconds=1.0)
    opened = app.open(store=sys.argv[1], options=options, queue_service="store", work=Work())
    async with opened:
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
