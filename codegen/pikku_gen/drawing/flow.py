"""A step graph as boxes and arrows, numbered in the order of the code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

from pikku_gen.drawing.words import (
    FRAMES,
    Node,
    Sequences,
    answers,
    nodes,
    note,
    question,
    sequences,
    title,
    unknown,
    visible,
)

Shape = Literal["step", "wait", "choice", "loop", "fork", "exit", "unknown", "terminal"]


class Box(NamedTuple):
    """One box; `group` is the frame it is in, -1 for none."""

    number: int
    shape: Shape
    title: str
    note: str
    group: int


class Arrow(NamedTuple):
    """One arrow; dashed where it is not the ordinary way."""

    source: int
    target: int
    label: str
    dashed: bool


class Group(NamedTuple):
    """A frame around boxes; `parent` is the one around it, -1 for none."""

    number: int
    label: str
    parent: int


class Loose(NamedTuple):
    """An end of an arrow that leads to whatever comes next."""

    source: int
    label: str = ""
    dashed: bool = False


@dataclass(slots=True)
class Flow:
    """The whole drawing."""

    boxes: list[Box] = field(default_factory=list[Box])
    arrows: list[Arrow] = field(default_factory=list[Arrow])
    groups: list[Group] = field(default_factory=list[Group])


def flow_of(graph: Sequence[Node]) -> Flow:
    """The boxes and arrows of a step graph."""
    builder = _Builder()
    start = builder.box("terminal", "start", "", [], -1)
    builder.box("terminal", "end", "", builder.sequence(graph, [Loose(start)], -1), -1)
    return builder.flow


Ways = list[Loose]


class _Builder:
    def __init__(self) -> None:
        self.flow = Flow()
        self._started: dict[object, Ways] = {}
        self._breaks: list[tuple[int, Ways]] = []
        self._returns: list[Ways] = []

    def box(self, shape: Shape, title: str, note: str, ways: Ways, group: int) -> int:
        """A new box, with arrows to it."""
        number = len(self.flow.boxes)
        self.flow.boxes.append(Box(number, shape, title, note, group))
        for way in ways:
            self.flow.arrows.append(Arrow(way.source, number, way.label, way.dashed))
        return number

    def sequence(self, graph: Sequence[Node], ways: Ways, group: int) -> Ways:
        """The boxes of one sequence; returns the ways out of it."""
        for node in visible(graph):
            ways = self._node(node, ways, group)
        return ways

    def _group(self, label: str, parent: int) -> int:
        number = len(self.flow.groups)
        self.flow.groups.append(Group(number, label, parent))
        return number

    def _node(self, node: Node, ways: Ways, group: int) -> Ways:
        match node:
            case {"start": number, "steps": inner}:
                return self._start(number, nodes(inner), ways, group)
            case {"step": method}:
                shape: Shape = "step" if method in ("do", "saga.do", "map") else "wait"
                return [Loose(self.box(shape, title(node), note(node), ways, group))]
            case {"end": str(kind)}:
                return self._end(kind, ways, group)
            case {"choice": parts}:
                return self._choice(node, sequences(parts), ways, group)
            case {"loop": body}:
                return self._loop(node, nodes(body), ways, group)
            case {"try": body}:
                return self._try(node, nodes(body), ways, group)
            case {"parallel": parts}:
                return self._side_by_side("all of", sequences(parts), ways, group)
            case {"race": parts}:
                return self._side_by_side("first of", sequences(parts), ways, group)
            case {"join": numbers}:
                joined = cast("list[object]", numbers)
                started = [way for each in joined for way in self._started.get(each, [])]
                return [Loose(self.box("fork", "wait", "", [*ways, *started], group))]
            case {"unknown": _}:
                here = [Loose(self.box("unknown", unknown(node), "", ways, group))]
                inner = nodes(node.get("steps"))
                return self.sequence(inner, here, self._group("unknown", group)) if inner else here
            case {"call": body}:
                self._returns.append([])
                inside = self._group(FRAMES["call"], group)
                out = self.sequence(nodes(body), ways, inside)
                return [*out, *self._returns.pop()]
            case _:
                kind = next((each for each in FRAMES if each in node), "")
                return self.sequence(nodes(node.get(kind)), ways, self._group(kind, group))

    def _start(self, number: object, inner: Sequence[Node], ways: Ways, group: int) -> Ways:
        inside = self._group("started", group)
        fork = self.box("fork", "start", "", ways, group)
        self._started[number] = [
            Loose(way.source, way.label, dashed=True)
            for way in self.sequence(inner, [Loose(fork, dashed=True)], inside)
        ]
        return [Loose(fork)]

    def _end(self, kind: str, ways: Ways, group: int) -> Ways:
        here = [Loose(self.box("exit", kind, "", ways, group))]
        if kind == "break" and self._breaks:
            self._breaks[-1][1].extend(here)
        elif kind == "continue" and self._breaks:
            self._again(here, self._breaks[-1][0])
        elif kind == "return" and self._returns:
            self._returns[-1].extend(here)
        return []

    def _choice(self, node: Node, parts: Sequences, ways: Ways, group: int) -> Ways:
        here = self.box("choice", question(node), "", ways, group)
        labels = answers(node)
        found: Ways = []
        for label, part in zip(labels, parts, strict=False):
            found += self.sequence(part, [Loose(here, label)], group)
        return [*found, Loose(here, labels[-1])] if node.get("otherwise") else found

    def _loop(self, node: Node, body: Sequence[Node], ways: Ways, group: int) -> Ways:
        inside = self._group("loop", group)
        head = self.box("loop", "repeat", "", ways, inside)
        self._breaks.append((head, []))
        self._again(self.sequence(body, [Loose(head)], inside), head)
        _, left = self._breaks.pop()
        over = self.sequence(nodes(node.get("else")), [Loose(head, "done")], group)
        return [*over, *left]

    def _again(self, ways: Ways, head: int) -> None:
        for way in ways:
            self.flow.arrows.append(Arrow(way.source, head, way.label, True))

    def _try(self, node: Node, body: Sequence[Node], ways: Ways, group: int) -> Ways:
        first = len(self.flow.boxes)
        found = self.sequence(body, ways, self._group("try", group))
        steps = [box.number for box in self.flow.boxes[first:] if box.shape in ("step", "wait")]
        last = [Loose(each, "fails", dashed=True) for each in steps[-1:]] or ways
        found = self.sequence(nodes(node.get("else")), found, group)
        for handler in sequences(node.get("except")):
            found += self.sequence(handler, last, self._group("except", group))
        if node.get("swallows"):
            found += last
        final = nodes(node.get("finally"))
        if not final:
            return found
        return self.sequence(final, found or last, self._group("finally", group))

    def _side_by_side(self, label: str, parts: Sequences, ways: Ways, group: int) -> Ways:
        fork = self.box("fork", label, "", ways, group)
        found = [way for part in parts for way in self.sequence(part, [Loose(fork)], group)]
        return [
            Loose(self.box("fork", "together" if label == "all of" else "first", "", found, group))
        ]
