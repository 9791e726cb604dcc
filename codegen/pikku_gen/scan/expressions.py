"""Small questions about one libcst expression."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

_BLANK = cst.Module([])


def source(node: cst.CSTNode) -> str:
    """The node's own text."""
    return _BLANK.code_for_node(node)


def dotted(node: cst.CSTNode) -> str:
    """`a.b.c` of a chain of names; empty for any other expression."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    if not isinstance(node, cst.Name):
        return ""
    parts.append(node.value)
    return ".".join(reversed(parts))


def string(node: cst.CSTNode) -> str | None:
    """The value of a plain string literal, also of one written in pieces; None for one that no file
    can hold."""
    if isinstance(node, (cst.SimpleString, cst.ConcatenatedString)):
        value = node.evaluated_value
        return value if isinstance(value, str) and _is_unicode(value) else None
    return None


def _is_unicode(text: str) -> bool:
    """False for a lone surrogate, which an escape can write."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def strings(node: cst.CSTNode) -> tuple[str, ...] | None:
    """The values of a list or tuple of plain string literals."""
    if not isinstance(node, (cst.List, cst.Tuple)):
        return None
    found = [string(element.value) for element in node.elements]
    if any(value is None for value in found):
        return None
    return tuple(value for value in found if value is not None)


def boolean(node: cst.CSTNode) -> bool | None:
    """The value of `True` or `False`."""
    name = dotted(node)
    return {"True": True, "False": False}.get(name)


def is_none(node: cst.CSTNode) -> bool:
    """True for `None`."""
    return dotted(node) == "None"


def json_literal(node: cst.CSTNode) -> str | None:
    """A literal of a simple kind as JSON; None for any other expression."""
    import json

    text = string(node)
    if text is not None:
        return json.dumps(text, ensure_ascii=False)
    if is_none(node):
        return "null"
    truth = boolean(node)
    if truth is not None:
        return json.dumps(truth)
    listed = strings(node)
    if listed is not None:
        return json.dumps(listed, ensure_ascii=False)
    if isinstance(node, (cst.Integer, cst.Float)):
        return json.dumps(node.evaluated_value)
    return None


def positional(arguments: Sequence[cst.Arg]) -> list[cst.Arg]:
    """The leading plain arguments of a call."""
    found: list[cst.Arg] = []
    for argument in arguments:
        if argument.keyword is not None or argument.star:
            break
        found.append(argument)
    return found


def keyword(arguments: Sequence[cst.Arg], name: str) -> cst.BaseExpression | None:
    """The value of a keyword argument."""
    for argument in arguments:
        if argument.keyword is not None and argument.keyword.value == name:
            return argument.value
    return None


def is_detached(call: cst.Call) -> bool:
    """True for a step that only starts a workflow."""
    value = keyword(call.args, "detached")
    return value is not None and boolean(value) is True
