"""What a drawing says in its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

Node: TypeAlias = Mapping[str, object]
Sequences: TypeAlias = Sequence[Sequence[Node]]

FRAMES: Final = {
    "call": "helper",
    "group": "task group",
    "saga": "saga",
    "with": "with",
}
_UNNAMED: Final = frozenset({"now", "uuid4", "random"})


def nodes(value: object) -> Sequence[Node]:
    """A sequence inside a node."""
    return cast("Sequence[Node]", value or ())


def sequences(value: object) -> Sequences:
    """The sequences of a node that has several."""
    return cast("Sequences", value or ())


def visible(graph: Sequence[Node]) -> list[Node]:
    """The nodes that get a box: a guard is seen by the choice right behind it, where there is."""
    found: list[Node] = []
    for number, node in enumerate(graph):
        following: Node = graph[number + 1] if number + 1 < len(graph) else {}
        asked = following.get("patched", following.get("unless"))
        if node.get("step") != "patched" or node.get("name") != asked:
            found.append(node)
    return found


def title(node: Node) -> str:
    """The first line of a step's box: its name."""
    method = str(node["step"])
    return f"{method}()" if method in _UNNAMED else str(node.get("name") or method)


def note(node: Node) -> str:
    """The second line: what it does."""
    method = str(node["step"])
    kind = {"do": "", "saga.do": "", "sleep": "sleep", "wait_for_signal": "signal"}.get(
        method, method.replace("_", " ")
    )
    if method in _UNNAMED:
        kind = "recorded value"
    target = ""
    if "workflow" in node:
        kind, target = "starts run of" if node.get("detached") else "child", str(node["workflow"])
    elif "rpc" in node or "signal" in node:
        target = str(node.get("rpc", node.get("signal")))
    elif "inline" in node:
        kind = "inline"
    elif "unknown" in node:
        target = "unknown target"
    undo = cast("Mapping[str, object]", node.get("undo") or {})
    undone = f", undone by {undo.get('rpc', 'unknown')}" if undo else ""
    return f"{kind} {target}".strip() + undone


def question(node: Node) -> str:
    """What a choice asks: the guard where it is one."""
    patch = node.get("patched", node.get("unless"))
    return f"patched: {patch}" if patch is not None else "?"


def answers(node: Node) -> list[str]:
    """What leads into each branch of a choice, and past it where that is possible."""
    count = len(sequences(node["choice"]))
    found = [""] * count
    if "patched" in node or "unless" in node:
        first, second = ("yes", "no") if "patched" in node else ("no", "yes")
        found = [first, *[second] * (count - 1)]
        past = second
    else:
        past = "otherwise"
    return [*found, past] if node.get("otherwise") else found


def unknown(node: Node) -> str:
    """What is said of a part that cannot be followed."""
    text = str(node["unknown"])
    return f"unknown: {text}" if text else "unknown"
