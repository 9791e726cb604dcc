"""The step graph of a wired workflow: names followed, helpers unfolded, what has no step left out.

The graph says which steps there are, in what order, under which choices, loops and handlers, and
what runs beside them. It holds no condition, no variable and no line, so that only an edit of the
steps changes it, and its hash can be the version of the workflow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from pikku_gen.link.functions import function_named
from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import FunctionModel, RpcModel, SignalModel, WorkflowModel
from pikku_gen.model.facts import GraphNode, HelperFact, TargetFact, TargetKind
from pikku_gen.model.places import Span

Key: TypeAlias = tuple[str, str]
"""Module and qualified name."""
Nodes: TypeAlias = tuple[GraphNode, ...]
Shown: TypeAlias = dict[str, object]

_DIGITS: Final = 16
_EXITS: Final = frozenset({"return", "raise", "reraise", "break", "continue"})
_NOTHING: Final[frozenset[str]] = frozenset()
_RETURNS: Final = frozenset({"return"})
_CONTINUES: Final = frozenset({"continue"})


class Graphs:
    """The step graphs of one project's workflows."""

    def __init__(
        self,
        table: SymbolTable,
        functions: Mapping[Key, FunctionModel],
        helpers: Mapping[Key, HelperFact],
        rpcs: Iterable[RpcModel],
        workflows: Sequence[WorkflowModel],
        signals: Iterable[SignalModel],
    ) -> None:
        self._table = table
        self._functions = functions
        self._helpers = helpers
        self._rpcs = {rpc.attribute: rpc.name for rpc in rpcs}
        self._workflows = {flow.attribute: flow.name for flow in workflows}
        self._names = {flow.name for flow in workflows}
        self._wired = {flow.function.key: flow.name for flow in reversed(workflows)}
        self._signals: dict[str, str] = {}
        self._kept: dict[Key, str] = {}
        for signal in signals:
            self._signals[signal.attribute] = signal.name
            self._kept[signal.source.module, signal.fact.variable] = signal.name
        self._unfolded = 0

    def of(self, function: FunctionModel, *, placed: bool = False) -> list[Shown]:
        """The canonical graph of one workflow; `placed` adds where each of its nodes stands."""
        nodes = self._followed(function.fact.graph, function.source.module, (function.key,), "")
        kept = simplified(nodes, _RETURNS)
        return self._shown(kept, _numbered(kept), placed=placed)

    # --- names and helpers

    def _followed(self, nodes: Nodes, module: str, stack: tuple[Key, ...], scope: str) -> Nodes:
        """The nodes with every helper unfolded; `scope` sets the numbers of copies apart."""
        found: list[GraphNode] = []
        for node in nodes:
            if node.kind == "call":
                found.append(self._call(node, module, stack))
                continue
            numbers = node.name
            if node.kind in ("start", "join"):
                numbers = " ".join(f"{scope}/{number}" for number in node.name.split())
            parts = tuple(self._followed(part, module, stack, scope) for part in node.parts)
            found.append(
                replace(
                    node,
                    name=numbers,
                    parts=parts,
                    target=self._target(module, node.target),
                    undo=self._target(module, node.undo),
                    module=module,
                )
            )
        return tuple(found)

    def _call(self, node: GraphNode, module: str, stack: tuple[Key, ...]) -> GraphNode:
        found = self._table.resolve(module, node.text)
        name = self._table.follow(found.dotted) if found else node.text
        home, _, last = name.rpartition(".")
        helper = self._helpers.get((home, last))
        if helper is None or (home, last) in stack or not _takes_it(helper, node):
            return GraphNode("unknown", name, span=node.span, module=module)
        self._unfolded += 1
        scope = str(self._unfolded)
        body = self._followed(helper.graph, home, (*stack, (home, last)), scope)
        return GraphNode("local", parts=(body,), span=node.span, module=module)

    def _target(self, module: str, target: TargetFact | None) -> TargetFact | None:
        """The target by the name it is registered under, however it was written."""
        if target is None:
            return None
        text = target.text
        match target.kind:
            case "name":
                return _meant("workflow" if self._is_workflow(text) else "name", text)
            case "attribute":
                return _meant("name", self._rpcs.get(text, text))
            case "workflow":
                return _meant("workflow", self._workflows.get(text, text))
            case "signal":
                return _meant("signal", text)
            case "signals":
                return _meant("signal", self._signals.get(text, text))
            case "reference":
                return self._reference(module, text)
            case _:
                return _meant(target.kind, "")

    def _reference(self, module: str, dotted: str) -> TargetFact:
        function = function_named(self._table, self._functions, module, dotted)
        if function is not None and function.fact.kind == "function":
            return _meant("name", function.fact.name)
        if function is not None:
            return _meant("workflow", self._wired.get(function.key, function.fact.qualname))
        found = self._table.resolve(module, dotted)
        if found is not None:
            home, _, last = self._table.follow(found.dotted).rpartition(".")
            if (home, last) in self._kept:
                return _meant("signal", self._kept[home, last])
            symbols = self._table.symbols(home)
            binding = symbols.bindings.get(last) if symbols else None
            callable_here = binding is not None and binding.kind in ("def", "class")
            if callable_here or not found.symbol.module:
                return _meant("inline", "")
        return _meant("unknown", "")

    def _is_workflow(self, name: str) -> bool:
        return name in self._names and name not in self._rpcs.values()

    # --- the graph as it is written down

    def _shown(self, nodes: Nodes, numbers: Mapping[str, int], *, placed: bool) -> list[Shown]:
        found: list[Shown] = []
        for node in nodes:
            parts = [self._shown(part, numbers, placed=placed) for part in node.parts]
            shown = _node(node, parts, numbers)
            if shown is not None:
                at = f"{node.module}:{node.span.line}"
                found.append({**shown, "at": at} if placed and node.span.located else shown)
        return found


def _node(
    node: GraphNode, parts: Sequence[list[Shown]], numbers: Mapping[str, int]
) -> Shown | None:
    match node.kind:
        case "step":
            return _step(node)
        case "choice":
            guard = {"unless" if node.unless else "patched": node.patch} if node.patch else {}
            shown: Shown = {"choice": parts, **guard}
            return shown if node.exhaustive else {**shown, "otherwise": True}
        case "loop":
            return _filled({"loop": parts[0]}, {"else": parts[1]})
        case "try":
            body, orelse, final, *handlers = parts
            more: Shown = {"except": [handler for handler in handlers if handler]}
            more |= {"swallows": not all(handlers)}
            return _filled({"try": body}, more | {"else": orelse, "finally": final})
        case "with" | "group" | "saga":
            return {node.kind: parts[0]}
        case "local":
            return {"call": parts[0]}
        case "parallel" | "race":
            return {node.kind: parts}
        case "start":
            return {"start": numbers[node.name], "steps": parts[0]}
        case "join":
            joined = sorted(numbers[one] for one in node.name.split() if one in numbers)
            return {"join": joined} if joined else None
        case "unknown" | "call":
            inner = [one for part in parts for one in part]
            return _filled({"unknown": node.text}, {"steps": inner})
        case _:
            return {"end": node.kind}


def version_of(graph: Sequence[Shown]) -> str:
    """The version that a step graph stands for."""
    text = json.dumps(graph, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def simplified(nodes: Iterable[GraphNode], tail: frozenset[str] = _NOTHING) -> Nodes:
    """The nodes that say anything; `tail` are the exits that lead where the way ends anyway."""
    kept: Nodes = ()
    for node in reversed(_reached(nodes)):
        kept = _simplified(node, tail if not kept else _NOTHING) + kept
    return tuple(_reached(kept))


def _simplified(node: GraphNode, tail: frozenset[str]) -> Nodes:
    match node.kind:
        case "choice":
            return _choice(node, tail)
        case "loop":
            return _loop(node, tail)
        case "try":
            return _try(node, tail)
        case "with" | "group" | "saga":
            body = simplified(node.parts[0], tail)
            return (replace(node, parts=(body,)),) if body else ()
        case "local":
            body = simplified(node.parts[0], _RETURNS)
            return (replace(node, parts=(body,)),) if _returns(body) else body
        case "start":
            body = simplified(node.parts[0])
            return (replace(node, parts=(body,)),) if body else ()
        case "parallel" | "race":
            branches = [simplified(part) for part in node.parts]
            return _with_parts(node, [branch for branch in branches if branch])
        case "unknown":
            return (replace(node, parts=tuple(simplified(part) for part in node.parts)),)
        case _:
            return () if node.kind in tail else (node,)


def _choice(node: GraphNode, tail: frozenset[str]) -> Nodes:
    branches = [simplified(part, tail) for part in node.parts]
    exhaustive = node.exhaustive
    last = branches[-1]
    if exhaustive and len(last) == 1 and last[0].kind == "choice" and not last[0].patch:  # `elif`
        branches[-1:] = last[0].parts
        exhaustive = last[0].exhaustive
    exhaustive = exhaustive and all(branches)
    if node.patch and not branches[0]:  # what is left is the other way, if it is one
        patch = node.patch if len(branches) == 2 else ""
        node = replace(node, patch=patch, unless=bool(patch) and not node.unless)
    return _with_parts(replace(node, exhaustive=exhaustive), [one for one in branches if one])


def _loop(node: GraphNode, tail: frozenset[str]) -> Nodes:
    body, orelse = simplified(node.parts[0], _CONTINUES), simplified(node.parts[1], tail)
    if not body or (not orelse and all(map(_stays_inside, body))):
        return orelse
    return (replace(node, parts=(body, orelse)),)


def _try(node: GraphNode, tail: frozenset[str]) -> Nodes:
    handlers = [simplified(part, tail) for part in node.parts[3:]]
    handlers = [handler for handler in handlers if [one.kind for one in handler] != ["reraise"]]
    orelse, final = simplified(node.parts[1], tail), simplified(node.parts[2])
    body = simplified(node.parts[0], _NOTHING if orelse else tail)
    if not body:
        handlers = [handler for handler in handlers if handler]
    if not handlers and not final:
        return body + orelse
    if not handlers and not body:
        return orelse + final
    handlers = list(dict.fromkeys(handlers))
    return (replace(node, parts=(body, orelse, final, *handlers)),)


def _with_parts(node: GraphNode, parts: Sequence[Nodes]) -> Nodes:
    return (replace(node, parts=tuple(parts)),) if parts else ()


def _reached(nodes: Iterable[GraphNode]) -> list[GraphNode]:
    """The nodes up to the first exit."""
    found: list[GraphNode] = []
    for node in nodes:
        found.append(node)
        if node.kind in _EXITS:
            break
    return found


def _returns(nodes: Nodes) -> bool:
    """True where a way through the nodes leaves the function around them early."""
    return any(
        node.kind == "return" or (node.kind != "local" and any(map(_returns, node.parts)))
        for node in nodes
    )


def _stays_inside(node: GraphNode) -> bool:
    """True for what only decides how often a loop without steps goes round."""
    if node.kind in ("choice", "with", "try"):
        return all(_stays_inside(inner) for part in node.parts for inner in part)
    return node.kind in ("break", "continue")


def _meant(kind: TargetKind, name: str) -> TargetFact:
    return TargetFact(kind, Span(), name)


def _takes_it(helper: HelperFact, node: GraphNode) -> bool:
    """True where the parameter that is given the context is taken for one."""
    if node.keyword:
        return node.keyword in helper.contexts
    parameters = helper.parameters
    return node.index < len(parameters) and parameters[node.index] in helper.contexts


def _numbered(nodes: Nodes) -> dict[str, int]:
    """What is started, numbered from 0 in the order of the graph."""
    return {name: number for number, name in enumerate(_starts(nodes))}


def _starts(nodes: Nodes) -> Iterator[str]:
    for node in nodes:
        if node.kind == "start":
            yield node.name
        for part in node.parts:
            yield from _starts(part)


def _step(node: GraphNode) -> Shown:
    found: Shown = {"step": node.text}
    if node.name:
        found["name"] = node.name
    if node.target is not None:
        found |= _target(node.target)
    if node.undo is not None:
        found["undo"] = _target(node.undo)
    if node.detached:
        found["detached"] = True
    return found


def _target(target: TargetFact) -> Shown:
    match target.kind:
        case "name":
            return {"rpc": target.text}
        case "workflow" | "signal":
            return {target.kind: target.text}
        case "inline":
            return {"inline": True}
        case _:
            return {"unknown": True}


def _filled(first: Shown, more: Shown) -> Shown:
    return first | {key: value for key, value in more.items() if value}
