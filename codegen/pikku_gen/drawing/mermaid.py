"""Boxes and arrows as the text of a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pikku_gen.drawing.flow import Box, Flow, Shape

_SHAPES: Final[dict[Shape, tuple[str, str]]] = {
    "step": ("[", "]"),
    "wait": ("([", "])"),
    "choice": ("{", "}"),
    "loop": ("{{", "}}"),
    "fork": ("[/", "/]"),
    "exit": (">", "]"),
    "unknown": ("[[", "]]"),
    "terminal": ("((", "))"),
}


def as_mermaid(flow: Flow) -> str:
    """The text of the flowchart."""
    return "".join(f"{line}\n" for line in _lines(flow))


def _lines(flow: Flow) -> Iterator[str]:
    yield "flowchart TD"
    yield from _inside(flow, -1, "  ")
    for arrow in flow.arrows:
        line = "-.->" if arrow.dashed else "-->"
        label = f"|{_quoted(arrow.label)}|" if arrow.label else ""
        yield f"  n{arrow.source} {line}{label} n{arrow.target}"
    unknown = [f"n{box.number}" for box in flow.boxes if box.shape == "unknown"]
    if unknown:
        yield "  classDef unknown stroke-dasharray: 4 3"
        yield f"  class {','.join(unknown)} unknown"


def _inside(flow: Flow, group: int, indent: str) -> Iterator[str]:
    for box in flow.boxes:
        if box.group == group:
            yield f"{indent}{_box(box)}"
    for inner in flow.groups:
        if inner.parent == group:
            yield f"{indent}subgraph g{inner.number} [{_quoted(inner.label)}]"
            yield from _inside(flow, inner.number, f"{indent}  ")
            yield f"{indent}end"


def _box(box: Box) -> str:
    left, right = _SHAPES[box.shape]
    text = f"{_escaped(box.title)}<br>{_escaped(box.note)}" if box.note else _escaped(box.title)
    return f'n{box.number}{left}"{text}"{right}'


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """The text with whatever Mermaid or HTML would read otherwise as numbered entities."""
    return "".join(
        character
        if character.isalnum() or character in " .,:()[]{}+-_/'!?"
        else f"#{ord(character)};"
        for character in text
    )
