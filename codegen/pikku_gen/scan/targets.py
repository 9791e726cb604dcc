"""What a step is told to run, wait for, or be undone by."""

from __future__ import annotations

from collections.abc import Callable, Container

import libcst as cst

from pikku_gen.model.facts import TargetFact
from pikku_gen.scan.expressions import dotted, string
from pikku_gen.scan.module import Locate

Meaning = Callable[[str], str]
"""What a dotted name means in terms of `ctx` and the generated package; empty for any other."""


def read_target(
    node: cst.BaseExpression,
    meant: Meaning,
    functions: Container[str],
    assigned: Container[str],
    locate: Locate,
) -> TargetFact:
    """The target of a step; `functions` and `assigned` are the names of the body's own."""
    span = locate(node)
    text = string(node)
    if text is not None:
        return TargetFact("name", span, text)
    name = dotted(node)
    meaning = meant(name)
    if meaning.startswith("ctx.rpc."):
        return TargetFact("attribute", span, meaning.removeprefix("ctx.rpc."))
    if meaning.startswith("rpc."):
        return TargetFact("attribute", span, meaning.removeprefix("rpc."))
    if meaning.startswith("workflows."):
        return TargetFact("workflow", span, meaning.removeprefix("workflows."))
    if name in functions or isinstance(node, cst.Lambda):
        return TargetFact("inline", span)
    if name and name.partition(".")[0] not in assigned:
        return TargetFact("reference", span, name)
    return TargetFact("unknown", span)


def read_signal(
    node: cst.BaseExpression, meant: Meaning, assigned: Container[str], locate: Locate
) -> TargetFact:
    """The signal that a step waits for."""
    span = locate(node)
    text = string(node)
    if text is not None:
        return TargetFact("signal", span, text)
    name = dotted(node)
    meaning = meant(name)
    if meaning.startswith("signals."):
        return TargetFact("signals", span, meaning.removeprefix("signals."))
    if name and name.partition(".")[0] not in assigned:
        return TargetFact("reference", span, name)
    return TargetFact("unknown", span)
