"""Functions that do the jobs of a queue: `wire_queue_worker`."""

from __future__ import annotations

import re
from typing import Final

import libcst as cst

from pikku_gen.model.facts import Problem, QueueFact
from pikku_gen.scan.expressions import dotted, is_none, source, string
from pikku_gen.scan.module import Locate

OPTIONS: Final = ("queue", "func", "config")
NEEDED: Final = ("queue", "func")
FORM: Final = 'wire_queue_worker(queue="…", func=…)'

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_RESERVED: Final = ("orchestrator", "inline")


def is_name(queue: str) -> bool:
    """True for what can name a queue. As `pikku._functions` judges it."""
    return bool(_NAME.fullmatch(queue)) and queue not in _RESERVED


def read_queue(
    call: cst.Call, given: dict[str, cst.BaseExpression], locate: Locate
) -> QueueFact | Problem:
    """What a call of `wire_queue_worker` declares."""
    queue_node, func_node = given["queue"], given["func"]
    queue = string(queue_node)
    if not queue:
        return Problem("PKG207", locate(queue_node), "queue")
    if queue in _RESERVED:
        said = f"the queue name `{queue}` is taken by pikku itself"
        return Problem("PKG227", locate(queue_node), said, "give the queue another name")
    if not is_name(queue):
        hint = "use 1 to 64 of the characters A-Z a-z 0-9 _ . -"
        return Problem("PKG227", locate(queue_node), f"`{queue}` is no name for a queue", hint)
    func = dotted(func_node)
    if not func:
        return Problem("PKG223", locate(func_node), source(func_node))
    config = given.get("config")
    return QueueFact(
        span=locate(call.func),
        queue=queue,
        queue_span=locate(queue_node),
        func=func,
        func_span=locate(func_node),
        config="" if config is None or is_none(config) else source(config),
    )
