"""Helpers that workflows call, and names that lead elsewhere."""

import os
import time
import uuid
from datetime import datetime as moment
from pathlib import Path

from shop_pikku import WorkflowContext

now = moment.now
cache: dict[str, str] = {}


def stamp(prefix: str) -> str:
    return f"{prefix}-{time.time()}"


def remembered(key: str) -> str:
    if key not in cache:
        cache[key] = uuid.uuid4().hex
    return cache[key]


async def deadline(ctx: WorkflowContext) -> moment:
    started = moment.now()
    return max(started, await ctx.workflow.now())


def region() -> str:
    return outer()


def outer() -> str:
    """Two calls deep: not followed."""
    return os.environ["REGION"] + Path("region").read_text()
