"""Boxes and arrows as the text of a Graphviz graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pikku_gen.drawing.flow import Box, Flow, Shape

_SHAPES: Final[dict[Shape, str]] = {
    "step": 'shape=box, style="rounded"',
    "wait": 'shape=box, style="rounded,dashed"',
    "choice": "shape=diamond",
    "loop": "shape=hexagon",
    "fork": "shape=box, height=0.1",
    "exit": "shape=cds",
    "unknown": 'shape=box, style="dashed", color=red',
    "terminal": "shape=circle",
}


def as_dot(name: str, flow: Flow) -> str:
    """The text of the graph."""
    return "".join(f"{line}\n" for line in _lines(name, flow))


def _lines(name: str, flow: Flow) -> Iterator[str]:
    yield f"digraph {_quoted(name)} {{"
    yield '  node [fontname="sans-serif"]'
    yield from _inside(flow, -1, "  ")
    for arrow in flow.arrows:
        options = [f"label={_quoted(arrow.label)}"] if arrow.label else []
        options += ["style=dashed"] if arrow.dashed else []
        tail = f" [{', '.join(options)}]" if options else ""
        yield f"  n{arrow.source} -> n{arrow.target}{tail}"
    yield "}"


def _inside(flow: Flow, group: int, indent: str) -> Iterator[str]:
    for box in flow.boxes:
        if box.group == group:
            yield f"{indent}{_box(box)}"
    for inner in flow.groups:
        if inner.parent == group:
            yield f"{indent}subgraph cluster_{inner.number} {{"
            yield f"{indent}  label={_quoted(inner.label)}"
            yield from _inside(flow, inner.number, f"{indent}  ")
            yield f"{indent}}}"


def _box(box: Box) -> str:
    text = f"{box.title}\n{box.note}" if box.note else box.title
    return f"n{box.number} [label={_quoted(text)}, {_SHAPES[box.shape]}]"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
