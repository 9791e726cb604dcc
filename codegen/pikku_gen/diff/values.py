"""Whether a value that was recorded under one type can be read under another, by their names.

Says what is in the way, in words, or nothing. What is not known to differ is taken to be readable
only where it is the same text.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

Types: TypeAlias = Mapping[str, Mapping[str, object]]
_TYPING: Final = ("typing.", "typing_extensions.")
_OBJECTS: Final = frozenset({"model", "dataclass", "typeddict"})
_MEMBER_LIMIT: Final = 40


class Values:
    """The types of two states of a project."""

    def __init__(self, old: Types, new: Types) -> None:
        self._old = old
        self._new = new
        self._asked: set[tuple[str, str]] = set()

    def problem(self, old: str, new: str) -> str:
        """Why a value of the type `old` cannot be read as `new`; empty where it can."""
        self._asked.clear()
        return self._compare(_parsed(old), _parsed(new), "")

    def same(self, old: str, new: str) -> bool:
        """True where both write the same value in the same way."""
        self._asked.clear()
        return self._is_same(old, new)

    def _compare(self, old: ast.expr, new: ast.expr, where: str) -> str:
        old, new = self._unfolded(old, self._old), self._unfolded(new, self._new)
        before, after = ast.unparse(old), ast.unparse(new)
        if (before, after) in self._asked or after in ("typing.Any", "object"):
            return ""
        self._asked.add((before, after))
        ones, others = _members(old), _members(new)
        if len(ones) > 1 or len(others) > 1:
            return self._unions(ones, others, where)
        if isinstance(old, ast.Subscript) and isinstance(new, ast.Subscript):
            return self._subscripts(old, new, where)
        first, second = self._old.get(before), self._new.get(after)
        if first is not None and second is not None:
            return self._classes(first, second, before, after, where)
        if (before, after) == ("int", "float") or (before == after and first is second):
            return ""
        return _differs(before, after, where)

    def _unions(self, ones: Sequence[ast.expr], others: Sequence[ast.expr], where: str) -> str:
        for one in ones:
            problems = [self._compare(one, other, where) for other in others]
            if all(problems):
                alone = len(ones) == len(others) == 1
                shown = _shown(ast.unparse(one))
                union = _shown(" | ".join(map(ast.unparse, others)))
                return problems[0] if alone else _differs(shown, union, where)
        return ""

    def _subscripts(self, old: ast.Subscript, new: ast.Subscript, where: str) -> str:
        before, after = ast.unparse(old.value), ast.unparse(new.value)
        ones, others = _arguments(old), _arguments(new)
        if before != after:
            return _differs(ast.unparse(old), ast.unparse(new), where)
        if _special(before) == "Literal":
            gone = {ast.unparse(one) for one in ones} - {ast.unparse(other) for other in others}
            return f"{_at(where)}{', '.join(sorted(gone))} is no longer allowed" if gone else ""
        if len(ones) != len(others):
            return _differs(ast.unparse(old), ast.unparse(new), where)
        for one, other in zip(ones, others, strict=True):
            if problem := self._compare(one, other, f"{where}[]"):
                return problem
        return ""

    def _classes(
        self,
        one: Mapping[str, object],
        other: Mapping[str, object],
        before: str,
        after: str,
        where: str,
    ) -> str:
        families = (one.get("family"), other.get("family"))
        if families == ("enum", "enum"):
            gone = _values(one) - _values(other)
            return f"{_at(where)}`{_shown(after)}` has no {', '.join(sorted(gone))}" if gone else ""
        if not set(families) <= _OBJECTS:
            return "" if one == other and before == after else _differs(before, after, where)
        fields = {str(field["name"]): field for field in _fields(one)}
        for field in _fields(other):
            name = str(field["name"])
            known = fields.get(name)
            place = f"{where}.{name}" if where else f"{_shown(after)}.{name}"
            if known is None:
                if field["required"] and not other.get("open"):
                    return f"`{place}` has no default, and recorded values lack it"
                continue
            if field["required"] and not known["required"] and families[0] == "typeddict":
                return f"`{place}` is required now, and recorded values may lack it"
            types = _parsed(str(known["type"])), _parsed(str(field["type"]))
            if problem := self._compare(*types, place):
                return problem
        return ""

    def _unfolded(self, node: ast.expr, types: Types) -> ast.expr:
        """The type without aliases, and without what says nothing of how it is written."""
        for _ in range(_MEMBER_LIMIT):
            text = ast.unparse(node)
            alias = types.get(text, {}).get("alias")
            if alias is not None:
                node = _parsed(str(alias))
                continue
            if isinstance(node, ast.Subscript):
                form = _special(ast.unparse(node.value))
                if form in ("Annotated", "Required", "NotRequired", "ReadOnly", "Final"):
                    node = _arguments(node)[0]
                    continue
            return node
        return node

    def _is_same(self, old: str, new: str) -> bool:
        if old != new:
            return False
        if (old, new) in self._asked:
            return True
        self._asked.add((old, new))
        for node in ast.walk(_parsed(old)):
            if not isinstance(node, (ast.Name, ast.Attribute)):
                continue
            name = ast.unparse(node)
            one, other = self._old.get(name), self._new.get(name)
            if one != other:
                return False
            inner = [str(field["type"]) for field in _fields(one or {})]
            alias = (one or {}).get("alias")
            inner += [] if alias is None else [str(alias)]
            if not all(self._is_same(text, text) for text in inner):
                return False
        return True


def _fields(described: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    return cast("Sequence[Mapping[str, object]]", described.get("fields") or ())


def _values(described: Mapping[str, object]) -> set[str]:
    members = cast("Sequence[str]", described.get("members") or ())
    return {member.partition("=")[2].strip() for member in members}


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return ast.Constant(text)


def _members(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_members(node.left), *_members(node.right)]
    if isinstance(node, ast.Subscript):
        form = _special(ast.unparse(node.value))
        if form == "Union":
            return [member for each in _arguments(node) for member in _members(each)]
        if form == "Optional":
            return [*_members(_arguments(node)[0]), ast.Constant(None)]
    return [node]


def _arguments(node: ast.Subscript) -> list[ast.expr]:
    return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]


def _special(name: str) -> str:
    prefix = next((each for each in _TYPING if name.startswith(each)), None)
    return name.removeprefix(prefix) if prefix else ""


def _differs(before: str, after: str, where: str) -> str:
    return f"{_at(where)}it was `{_shown(before)}`, and is `{_shown(after)}`"


def _at(where: str) -> str:
    return f"`{where}`: " if where else ""


def _shown(name: str) -> str:
    """A type without the modules of its names."""
    tree = _parsed(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            node.value = ast.Name("")
    return ast.unparse(tree).replace(" .", " ").lstrip(".").replace("[.", "[")
