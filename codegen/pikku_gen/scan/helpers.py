"""Plain functions that are a part of workflows: they are handed the context of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import libcst as cst

from pikku_gen.model.facts import HelperFact
from pikku_gen.scan.bindings import parameters_of
from pikku_gen.scan.expressions import dotted, string
from pikku_gen.scan.graph import read_graph
from pikku_gen.scan.module import Locate
from pikku_gen.scan.targets import Meaning
from pikku_gen.scan.workflows import read_body

_NAMES: Final = {"ctx": "ctx", "context": "ctx"}
_TYPES: Final = {
    "WorkflowContext": "ctx",
    "WorkflowFunctionContext": "ctx",
    "Wire": "ctx.workflow",
    "WorkflowSteps": "ctx.workflow",
    "WorkflowWire": "ctx.workflow",
}


def read_helper(
    function: cst.FunctionDef, owner: str, meaning: Meaning, locate: Locate
) -> HelperFact | None:
    """A function, or a method of the class `owner`; None where it takes no workflow's context.

    By its name alone a parameter may be the context of an RPC function, so that of calls outside
    of steps nothing is said.
    """
    parameters = parameters_of(function)
    every = [*parameters, *function.params.kwonly_params]
    typed = {p.name.value: _typed(p, meaning) for p in every if p.annotation is not None}
    named = {p.name.value: _NAMES.get(p.name.value, "") for p in every if p.annotation is None}
    contexts = {name: meant for name, meant in (named | typed).items() if meant}
    if not contexts:
        return None
    body = read_body(function, contexts, meaning, locate, hands_back=True)
    return HelperFact(
        f"{owner}.{function.name.value}" if owner else function.name.value,
        tuple(parameter.name.value for parameter in parameters),
        tuple(p.name.value for p in every if p.name.value in contexts),
        read_graph(function, contexts, meaning, locate),
        body.steps,
        body.calls if any(typed.values()) else (),
        body.concurrent,
    )


def workflow_contexts(function: cst.FunctionDef) -> Mapping[str, str]:
    """The context of a workflow function: its first parameter, whatever it is called."""
    return {parameter.name.value: "ctx" for parameter in parameters_of(function)[:1]}


def _typed(parameter: cst.Param, meaning: Meaning) -> str:
    if parameter.annotation is None:
        return ""
    node = parameter.annotation.annotation
    if isinstance(node, cst.Subscript):
        node = node.value
    name = string(node) or dotted(node)
    last = (meaning(name) or name).partition("[")[0].rpartition(".")[2]
    return _TYPES.get(last, "")
