"""The step graph of a workflow, drawn: for Mermaid, for Graphviz, and as an SVG of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

from pikku_gen.diagnostics import dumps
from pikku_gen.drawing.dot import as_dot
from pikku_gen.drawing.flow import flow_of
from pikku_gen.drawing.mermaid import as_mermaid
from pikku_gen.drawing.svg import as_svg

Style = Literal["mermaid", "svg", "dot", "json"]


def drawn(workflow: Mapping[str, object], style: Style) -> str:
    """A workflow of the manifest as a text of this style."""
    entry = cast("Mapping[str, object]", _unplaced(workflow))
    name = str(entry["name"])
    graph = cast("Sequence[Mapping[str, object]]", entry["graph"])
    match style:
        case "json":
            return dumps(entry)
        case "mermaid":
            return as_mermaid(flow_of(graph))
        case "dot":
            return as_dot(name, flow_of(graph))
        case "svg":
            return as_svg(name, graph)


def _unplaced(value: object) -> object:
    """The entry as the manifest has it: without where its nodes stand."""
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return {key: _unplaced(each) for key, each in pairs if key != "at"}
    if isinstance(value, (list, tuple)):
        return [_unplaced(each) for each in cast("Sequence[object]", value)]
    return value
