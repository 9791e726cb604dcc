"""A step graph as the list of its steps, each with what it waits for and what is around it.

A replay asks two things of the code: that it asks for every step that is recorded, under the same
name with the same target, and that it does so without waiting for anything that is not recorded.
So two graphs are compared by these lists, and not by their shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, cast

Node: TypeAlias = Mapping[str, object]
Ids: TypeAlias = frozenset[int]
PartKind = Literal[
    "choice", "loop", "try", "except", "else", "finally", "call", "unknown", "aside", "race"
]

NOTHING: Final[Ids] = frozenset()
_KINDS: Final = {"do": "rpc", "saga.do": "rpc", "sleep_until": "sleep", "wait_for_signal": "signal"}
_UNNAMED: Final = frozenset({"now", "uuid4", "random"})
_LEAVE_A_LOOP: Final = frozenset({"break", "continue"})


@dataclass(frozen=True, slots=True)
class Part:
    """One thing around a step: a loop, or a branch of a choice, by its number in the graph."""

    kind: PartKind
    number: int
    branch: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A step, an exit (`end`), or something that cannot be followed (`unknown`)."""

    index: int
    kind: str
    """As it is recorded: `rpc`, `inline`, `child`, `sleep`, …; or `end`, `unknown`."""
    name: str
    target: str
    undo: str
    detached: bool
    method: str
    way: tuple[Part, ...]
    waits: Ids
    """The steps that have to be over before this one is asked for, on one way or another."""
    at: str
    again: Ids = NOTHING
    """The same, for another round of a loop around it."""
    races: Ids = NOTHING
    """Those of races in front of it, of which one branch has to be over."""

    @property
    def is_asked_for(self) -> bool:
        """True for what leaves a record."""
        return self.kind != "end"

    @property
    def follows(self) -> Ids:
        """What it waits for, the first time or later."""
        return self.waits | self.again

    @property
    def shown(self) -> str:
        """As messages call it."""
        if self.kind == "end":
            return f"`{self.name}`"
        if self.kind == "unknown":
            return f"the unknown part `{self.name}`" if self.name else "an unknown part"
        return f"`{self.name}`"

    def is_inside(self, kind: PartKind) -> bool:
        """True with such a part around it."""
        return any(part.kind == kind for part in self.way)


@dataclass(slots=True)
class Steps:
    """The steps of one graph, in the order in which the code has them."""

    steps: list[Step]
    swallowing: frozenset[int]
    """The numbers of the `try` that let a failure pass without a step."""
    passable: Mapping[int, bool]
    """Whether a choice may be passed without any of its branches, by its number."""


def steps_of(graph: Sequence[Node], answers: Mapping[str, bool] | None = None) -> Steps:
    """The steps of a graph, as a run sees them that gets these answers from guards."""
    collector = _Collector(answers or {})
    collector.sequence(graph, (), NOTHING)
    steps = list(map(_split, collector.steps))
    return Steps(steps, frozenset(collector.swallowing), collector.passable)


def _split(step: Step) -> Step:
    """While steps are collected, one of a race counts by its complement."""
    waits = frozenset(each for each in step.waits if each >= 0)
    again = frozenset(each for each in step.again if each >= 0)
    races = frozenset(~each for each in step.waits | step.again if each < 0)
    return replace(step, waits=waits, again=again, races=races - waits)


def patches_of(graph: Iterable[Node]) -> frozenset[str]:
    """The ids of the guards that a graph asks for."""
    found: set[str] = set()
    for node in graph:
        if node.get("step") == "patched":
            found.add(str(node.get("name", "")))
        for part in parts_of(node):
            found |= patches_of(part)
    return frozenset(found)


def parts_of(node: Node) -> Iterator[Sequence[Node]]:
    """The sequences inside a node."""
    for key in ("choice", "parallel", "race", "except"):
        yield from branches(node.get(key))
    for key in ("loop", "try", "else", "finally", "with", "group", "saga", "call", "steps"):
        yield nodes(node.get(key))


def may_be_the_same(one: str, other: str) -> bool:
    """True where two templates can make the same name."""
    if one == other:
        return True
    return _fits(one, other) or _fits(other, one)


def _fits(template: str, name: str) -> bool:
    if "{}" not in template:
        return False
    pattern = ".*".join(re.escape(part) for part in template.split("{}"))
    return re.fullmatch(pattern, name) is not None


def nodes(value: object) -> Sequence[Node]:
    """A part of a graph."""
    return cast("Sequence[Node]", value or ())


def branches(value: object) -> Sequence[Sequence[Node]]:
    """The parts of a node that has several."""
    return cast("Sequence[Sequence[Node]]", value or ())


class _Collector:
    def __init__(self, answers: Mapping[str, bool]) -> None:
        self.steps: list[Step] = []
        self.swallowing: set[int] = set()
        self.passable: dict[int, bool] = {}
        self._answers = answers
        self._parts = 0
        self._started: dict[object, Ids] = {}
        self._groups: list[set[int]] = []
        self._loops: list[set[int]] = []
        self._calls: list[set[int]] = []

    def sequence(self, graph: Iterable[Node], way: tuple[Part, ...], before: Ids) -> Ids:
        """Collects the nodes of one sequence; returns what is over behind it."""
        for node in self._as_seen(graph):
            before = self._node(node, way, before)
        return before

    def _as_seen(self, graph: Iterable[Node]) -> Iterator[Node]:
        """The nodes, guards answered, and a branch beside one that ends joined to what follows."""
        for node in graph:
            if "choice" not in node:
                yield node
                continue
            parts = branches(node["choice"])
            patch = str(node.get("patched", node.get("unless")))
            answer = self._answers.get(patch)
            if answer is not None and answer is ("patched" in node):
                yield from self._as_seen(parts[0])
                continue
            if answer is not None:
                parts = parts[1:]
                if not parts or (len(parts) == 1 and "otherwise" not in node):
                    yield from self._as_seen(parts[0] if parts else ())
                    continue
                node = {**node, "choice": parts}
            if len(parts) == 2 and "otherwise" not in node:
                ends = [_ends(part) for part in parts]
                if any(ends) and not all(ends):
                    yield {**node, "choice": [parts[ends.index(True)]], "otherwise": True}
                    yield from self._as_seen(parts[ends.index(False)])
                    continue
            yield node

    def _node(self, node: Node, way: tuple[Part, ...], before: Ids) -> Ids:
        match node:
            case {"start": number, "steps": inner}:
                over = self.sequence(nodes(inner), (*way, self._part("aside")), before)
                self._started[number] = over - before
                if self._groups:
                    self._groups[-1] |= over - before
                return before
            case {"step": str(method)}:
                return self._step(node, method, way, before)
            case {"end": str(kind)}:
                return self._end(node, kind, way, before)
            case {"choice": parts}:
                return self._choice(node, branches(parts), way, before)
            case {"loop": body}:
                return self._loop(node, nodes(body), way, before)
            case {"try": body}:
                return self._try(node, nodes(body), way, before)
            case {"parallel": parts}:
                part = self._part("aside")
                return before.union(
                    *(self.sequence(each, (*way, part), before) for each in branches(parts))
                )
            case {"race": parts}:
                number, first = self._part("race").number, len(self.steps)
                raced: set[int] = set()
                for branch, each in enumerate(branches(parts)):
                    raced |= self.sequence(each, (*way, Part("race", number, branch)), before)
                raced |= set(range(first, len(self.steps)))
                return before.union(~index if index >= 0 else index for index in raced - before)
            case {"join": numbers}:
                started = cast("list[object]", numbers)
                return before.union(*(self._started.get(each, NOTHING) for each in started))
            case {"group": body}:
                self._groups.append(set())
                over = self.sequence(nodes(body), way, before)
                return over | self._groups.pop()
            case {"call": body}:
                self._calls.append(set())
                over = self.sequence(nodes(body), (*way, self._part("call")), before)
                returned = self._calls.pop()
                return self._without(over | returned, {"return"})
            case {"unknown": str(text)}:
                over = self._add(node, "unknown", text, way, before)
                part = self._part("unknown")
                return self.sequence(nodes(node.get("steps")), (*way, part), over)
            case {"with": body} | {"saga": body}:
                return self.sequence(nodes(body), way, before)
            case _:
                return before

    def _step(self, node: Node, method: str, way: tuple[Part, ...], before: Ids) -> Ids:
        name = str(node.get("name", ""))
        if method == "patched":
            return before
        if method == "cancel":
            return self._add(node, "end", "cancel", way, before)
        if method in _UNNAMED:
            return self._add(node, "side_effect", f"{method}()", way, before, method=method)
        kind = _KINDS.get(method, method)
        target = ""
        if "workflow" in node:
            kind, target = "child", str(node["workflow"])
        elif "rpc" in node:
            kind, target = "rpc", str(node["rpc"])
        elif "signal" in node:
            target = str(node["signal"])
        elif "inline" in node:
            kind = "inline"
        elif "unknown" in node:
            target = "?"
        if method == "map":
            name = f"{name}[{{}}]"
        return self._add(node, kind, name, way, before, method=method, target=target)

    def _add(
        self,
        node: Node,
        kind: str,
        name: str,
        way: tuple[Part, ...],
        before: Ids,
        *,
        method: str = "",
        target: str = "",
    ) -> Ids:
        undo = cast("Mapping[str, object]", node.get("undo") or {})
        index = len(self.steps)
        self.steps.append(
            Step(
                index,
                kind,
                name,
                target,
                str(undo.get("rpc", "?" if undo else "")),
                bool(node.get("detached")),
                method,
                way,
                before,
                str(node.get("at", "")),
            )
        )
        return before | {index}

    def _end(self, node: Node, kind: str, way: tuple[Part, ...], before: Ids) -> Ids:
        over = self._add(node, "end", kind, way, before)
        if kind in _LEAVE_A_LOOP and self._loops:
            self._loops[-1] |= over
        elif kind == "return" and self._calls:
            self._calls[-1] |= over
        return over

    def _choice(
        self, node: Node, parts: Sequence[Sequence[Node]], way: tuple[Part, ...], before: Ids
    ) -> Ids:
        number = self._part("choice").number
        self.passable[number] = bool(node.get("otherwise"))
        over = before
        for branch, part in enumerate(parts):
            found = self.sequence(part, (*way, Part("choice", number, branch)), before)
            if _ends(part):  # whoever goes on did not come this way
                found = before | {max(found)}
            over |= found
        return over

    def _loop(self, node: Node, body: Sequence[Node], way: tuple[Part, ...], before: Ids) -> Ids:
        part = self._part("loop")
        first = len(self.steps)
        self._loops.append(set())
        over = self.sequence(body, (*way, part), before)
        left = self._loops.pop()
        again = (over | left) - before
        for index in range(first, len(self.steps)):
            step = self.steps[index]
            self.steps[index] = replace(step, again=step.again | again)
        behind = self._without(over | left, _LEAVE_A_LOOP)
        return self.sequence(nodes(node.get("else")), (*way, self._part("else")), behind) | behind

    def _try(self, node: Node, body: Sequence[Node], way: tuple[Part, ...], before: Ids) -> Ids:
        part = self._part("try")
        if node.get("swallows"):
            self.swallowing.add(part.number)
        first = len(self.steps)
        over = self.sequence(body, (*way, part), before)
        failed = before | frozenset(range(first, len(self.steps)))
        over = self.sequence(nodes(node.get("else")), (*way, part), over)
        for branch, handler in enumerate(branches(node.get("except"))):
            inside = (*way, Part("except", part.number, branch))
            found = self.sequence(handler, inside, failed)
            over |= {max(found)} if _ends(handler) else found - (failed - over)
        final = nodes(node.get("finally"))
        if not final:
            return over
        whatever = over | frozenset(range(first, len(self.steps)))
        behind = self.sequence(final, (*way, Part("finally", part.number)), whatever)
        return over | (behind - whatever)

    def _part(self, kind: PartKind) -> Part:
        self._parts += 1
        return Part(kind, self._parts)

    def _without(self, ids: Iterable[int], exits: Iterable[str]) -> Ids:
        """The ids without exits that lead no further than here."""
        gone = set(exits)
        steps = self.steps
        return frozenset(
            each
            for each in ids
            if each < 0 or steps[each].kind != "end" or steps[each].name not in gone
        )


def _ends(part: Sequence[Node]) -> bool:
    return bool(part) and "end" in part[-1]
