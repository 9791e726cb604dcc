"""Which expressions of a function are sets whose order differs between processes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from pikku_gen.scan.scopes import Scope, bindings_of, parameters_of
from pikku_gen.scan.symbols import Def, dotted

_TYPES: Final = frozenset({"set", "frozenset", "Set", "FrozenSet", "AbstractSet", "MutableSet"})
_SETS: Final = frozenset({"set", "frozenset"})
_METHODS: Final = frozenset({"union", "intersection", "difference", "symmetric_difference", "copy"})
_OPERATORS: Final = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
_INDIFFERENT: Final = frozenset(
    {"sorted", "set", "frozenset", "sum", "min", "max", "any", "all", "len", "collections.Counter"}
)
_DRAWS: Final = frozenset({"list", "tuple", "enumerate", "iter", "map", "filter", "zip"})
_ORDERED: Final = frozenset({"append", "appendleft", "insert", "extend", "write", "send", "put"})
_STABLE: Final = frozenset(
    {"int", "bool", "float", "complex", "Decimal", "UUID", "None", "Task", "Future"}
)
"""What has the same hash in every process; tasks of a run have their place in it."""


class Sets:
    """The variables of one function that hold sets."""

    def __init__(self, function: Def, scope: Scope) -> None:
        self._scope = scope
        self._names: set[str] = set()
        self._bindings = bindings_of(function)
        self._function = function
        for parameter in parameters_of(function):
            if _is_annotation(parameter.annotation):
                self._names.add(parameter.arg)
        parameters = {parameter.arg for parameter in parameters_of(function)}
        for name, values in self._bindings.items():
            if name in parameters and len(values) > 1:
                self._names.discard(name)
            elif name not in parameters and values and all(map(self._holds, values)):
                self._names.add(name)
        for name in sorted(self._names):
            if self._is_stable(name):
                self._names.discard(name)

    def is_set(self, node: ast.expr) -> bool:
        """True where the value certainly is a set, and its order not certainly the same."""
        match node:
            case ast.Set(elts=elements):
                is_single = len(elements) == 1 and not isinstance(elements[0], ast.Starred)
                return not is_single and not all(map(self._is_stable_element, elements))
            case ast.SetComp(elt=element):
                return not _is_stable_value(element)
            case ast.Name(id=name):
                return name in self._names
            case ast.Call(func=ast.Name(id=name)) if name in _SETS:
                return self._scope.name(name) == name and not _is_stable_call(node)
            case ast.Call(func=ast.Attribute(value=value, attr=method)) if method in _METHODS:
                return self.is_set(value)
            case ast.BinOp(left=left, op=operator, right=right):
                return isinstance(operator, _OPERATORS) and (
                    self.is_set(left) or self.is_set(right)
                )
            case ast.IfExp(body=body, orelse=orelse):
                return self.is_set(body) and self.is_set(orelse)
            case _:
                return False

    def is_drawn(self, node: ast.Call, scope: Scope) -> bool:
        """True for a call that puts a set into an order, or takes one element."""
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr == "pop":
            return not node.args and self.is_set(function.value)
        if not node.args or not self.is_set(node.args[0]):
            return False
        if isinstance(function, ast.Attribute) and function.attr == "join":
            return isinstance(function.value, ast.Constant)
        return scope.qualified(function) in _DRAWS

    def _holds(self, value: ast.AST | None) -> bool:
        if isinstance(value, ast.AnnAssign):
            return _is_annotation(value.annotation)
        return isinstance(value, ast.expr) and self.is_set(value)

    def _is_stable(self, name: str) -> bool:
        """True where what is added to an empty set is all numbers, or tasks."""
        added = [
            argument
            for node in ast.walk(self._function)
            if isinstance(node, ast.Call) and dotted(node.func) == f"{name}.add"
            for argument in node.args
        ]
        return any(map(self._is_stable_element, added))

    def _is_stable_element(self, node: ast.expr) -> bool:
        """True for what is a number or a task, or a variable that holds one."""
        values = self._bindings.get(node.id, ()) if isinstance(node, ast.Name) else (node,)
        return any(isinstance(value, ast.expr) and _is_stable_value(value) for value in values)


def is_unordered_use(node: ast.Call, scope: Scope) -> bool:
    """True for a call that gives the same whatever the order of its argument."""
    return scope.qualified(node.func) in _INDIFFERENT


def order_matters(loop: ast.For) -> bool:
    """True where a loop does something whose order can be seen."""
    for statement in loop.body:
        for node in ast.walk(statement):
            match node:
                case ast.Await() | ast.Return() | ast.Break() | ast.Yield() | ast.YieldFrom():
                    return True
                case ast.Subscript(ctx=ast.Store()):
                    return True
                case ast.Call(func=ast.Attribute(attr=method)) if method in _ORDERED:
                    return True
                case ast.Call(func=ast.Attribute(attr="create_task")):
                    return True
                case _:
                    pass
    return False


def _is_annotation(annotation: ast.expr | None) -> bool:
    node = annotation
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            node = ast.parse(node.value, mode="eval").body
        except (SyntaxError, ValueError):
            return False
    if isinstance(node, ast.Subscript):
        if any(name in _STABLE for name in _last_names(node.slice)):
            return False
        node = node.value
    return node is not None and dotted(node).rpartition(".")[2] in _TYPES


def _last_names(node: ast.expr) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr


def _is_stable_value(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, (int, float)) or value is None
        case ast.Call(func=ast.Attribute(attr="create_task" | "ensure_future")):
            return True
        case ast.Call(func=ast.Name(id="int" | "len" | "ord" | "create_task" | "ensure_future")):
            return True
        case _:
            return False


def _is_stable_call(node: ast.Call) -> bool:
    """`set()` of nothing, of numbers, or of tasks."""
    match node.args:
        case []:
            return False
        case [ast.Call(func=ast.Name(id="range"))]:
            return True
        case [ast.List(elts=elements) | ast.Tuple(elts=elements)]:
            return all(map(_is_stable_value, elements))
        case [ast.ListComp(elt=element) | ast.GeneratorExp(elt=element)]:
            return _is_stable_value(element)
        case _:
            return False
