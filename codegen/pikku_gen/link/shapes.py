"""What is known of a type without running anything, as far as rules need it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pikku_gen.link.annotations import TYPING, dotted_name, expression, one_line
from pikku_gen.link.symbols import SymbolTable, fields_of
from pikku_gen.model.app import Symbol

Family = Literal["model", "dataclass", "typeddict", "enum", "plain"]
PRIMITIVES: Final = frozenset({"str", "int", "float", "bool", "bytes", "None"})
_CONTAINERS: Final = frozenset({"list", "dict", "set", "tuple", "frozenset"})
_DEPTH: Final = 12


@dataclass(frozen=True, slots=True)
class Shape:
    """One type: `primitive` and `container` are builtins by name, `class` is of the project."""

    kind: Literal["primitive", "container", "class", "union", "literal", "unknown"]
    name: str = ""
    symbol: Symbol | None = None
    arguments: tuple[Shape, ...] = ()
    values: tuple[str, ...] = ()
    """Of a literal: its values as written."""
    tagged: bool = False
    """Of a union: something names its discriminator."""


UNKNOWN: Final = Shape("unknown")


@dataclass(frozen=True, slots=True)
class FieldShape:
    """A field of a class with its type."""

    name: str
    required: bool
    shape: Shape


@dataclass(frozen=True, slots=True)
class ClassShape:
    """A class of the project: its family and its fields; `sealed` when every base is known."""

    symbol: Symbol
    family: Family
    sealed: bool
    typing_module: str
    """For a TypedDict: the module its base comes from."""
    ancestors: frozenset[Symbol]
    fields: tuple[FieldShape, ...]

    def field(self, name: str) -> FieldShape | None:
        """The field of that name."""
        return next((field for field in self.fields if field.name == name), None)


class Shapes:
    """The shapes of a project's types."""

    def __init__(self, table: SymbolTable, path_of: Callable[[str], str]) -> None:
        self.table = table
        self.path_of = path_of
        self._classes: dict[Symbol, ClassShape | None] = {}
        self._shapes: dict[tuple[str, str], Shape] = {}

    def of(self, module: str, annotation: str) -> Shape:
        """The shape of an annotation as a module reads it."""
        key = (module, annotation)
        if key not in self._shapes:
            self._shapes[key] = UNKNOWN  # where the annotation holds itself
            if annotation.isidentifier() and annotation != "None":
                self._shapes[key] = self._named(module, annotation, 0)
                return self._shapes[key]
            node = expression(one_line(annotation))
            if node is not None:
                self._shapes[key] = self._shape(module, node, 0)
        return self._shapes[key]

    def class_of(self, shape: Shape) -> ClassShape | None:
        """The class behind a shape of kind `class`."""
        symbol = shape.symbol
        if symbol is None:
            return None
        if symbol not in self._classes:
            self._classes[symbol] = None
            self._classes[symbol] = self._class(symbol)
        return self._classes[symbol]

    # ---

    def _shape(self, module: str, node: ast.expr, depth: int) -> Shape:
        if depth > _DEPTH:
            return UNKNOWN
        match node:
            case ast.Constant(value=None):
                return Shape("primitive", "None")
            case ast.Constant(value=str() as quoted):
                return self.of(module, quoted)
            case ast.BinOp(op=ast.BitOr()):
                members = [*self._members(module, node, depth)]
                return Shape("union", arguments=tuple(members))
            case ast.Name() | ast.Attribute():
                return self._named(module, dotted_name(node), depth)
            case ast.Subscript():
                return self._subscript(module, node, depth)
            case _:
                return UNKNOWN

    def _members(self, module: str, node: ast.expr, depth: int) -> Iterator[Shape]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            yield from self._members(module, node.left, depth)
            yield from self._members(module, node.right, depth)
        else:
            shape = self._shape(module, node, depth + 1)
            if shape.kind == "union" and not shape.tagged:
                yield from shape.arguments
            else:
                yield shape

    def _named(self, module: str, dotted: str, depth: int) -> Shape:
        found = self.table.resolve(module, dotted)
        if found is None or found.rest:
            return UNKNOWN
        symbol = found.symbol
        if not symbol.module:
            if symbol.name in PRIMITIVES:
                return Shape("primitive", symbol.name)
            return Shape("container", symbol.name) if symbol.name in _CONTAINERS else UNKNOWN
        if not found.known:
            return UNKNOWN
        binding = self.table.binding(symbol)
        if binding is None:
            return UNKNOWN
        if binding.kind == "class":
            return Shape("class", symbol.name, symbol)
        if binding.target:
            node = expression(binding.target)
            if node is not None:
                return self._shape(symbol.module, node, depth + 1)
        return UNKNOWN

    def _subscript(self, module: str, node: ast.Subscript, depth: int) -> Shape:
        found = self.table.resolve(module, dotted_name(node.value))
        arguments = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if found is None or found.rest:
            return UNKNOWN
        if found.symbol.module in TYPING:
            return self._special(module, found.symbol.name, arguments, depth)
        if not found.symbol.module and found.symbol.name in _CONTAINERS:
            shapes = tuple(self._shape(module, item, depth + 1) for item in arguments)
            return Shape("container", found.symbol.name, arguments=shapes)
        return UNKNOWN

    def _special(self, module: str, form: str, arguments: list[ast.expr], depth: int) -> Shape:
        shapes = [self._shape(module, item, depth + 1) for item in arguments[:8]]
        match form:
            case "Annotated":
                text = " ".join(ast.unparse(item) for item in arguments[1:])
                tagged = "discriminator" in text.lower()
                inner = shapes[0]
                if inner.kind == "union" and tagged:
                    return Shape("union", arguments=inner.arguments, tagged=True)
                return inner
            case "Optional":
                return Shape("union", arguments=(shapes[0], Shape("primitive", "None")))
            case "Union":
                return Shape("union", arguments=tuple(shapes))
            case "Literal":
                return Shape("literal", values=tuple(ast.unparse(item) for item in arguments))
            case "Required" | "NotRequired" | "ReadOnly" | "Final":
                return shapes[0]
            case "List" | "Dict" | "Set" | "Tuple":
                return Shape("container", form.lower(), arguments=tuple(shapes))
            case _:
                return UNKNOWN

    def _class(self, symbol: Symbol) -> ClassShape | None:
        fact = self.table.class_of(symbol)
        if fact is None:
            return None
        family: Family = "plain"
        sealed, typing_module = True, ""
        ancestors: set[Symbol] = {symbol}
        if any(name.rpartition(".")[2] == "dataclass" for name in fact.decorators):
            family = "dataclass"
        for base in fact.bases:
            found = self.table.resolve(symbol.module, base.partition("[")[0])
            if found is None or found.rest:
                sealed = False
                continue
            ancestors.add(found.symbol)
            if found.known and found.symbol.module:
                inner = self.class_of(Shape("class", found.symbol.name, found.symbol))
                if inner is None:
                    sealed = False
                    continue
                ancestors |= inner.ancestors
                sealed = sealed and inner.sealed
                typing_module = typing_module or inner.typing_module
                family = inner.family if family == "plain" else family
                continue
            kind = _base_family(found.symbol)
            if kind == "typeddict":
                typing_module = found.symbol.module
            if kind is None:
                sealed = False
            elif family == "plain":
                family = kind
        return ClassShape(
            symbol,
            family,
            sealed,
            typing_module,
            frozenset(ancestors),
            tuple(self._fields(symbol)),
        )

    def _fields(self, symbol: Symbol) -> Iterator[FieldShape]:
        found: dict[str, FieldShape] = {}
        for module, name, annotation, required, total in fields_of(self.table, symbol):
            marker = annotation.partition("[")[0].rpartition(".")[2]
            needed = required and (total or marker == "Required") and marker != "NotRequired"
            if marker != "ClassVar":
                found[name] = FieldShape(name, needed, self.of(module, annotation))
        yield from found.values()


def _base_family(symbol: Symbol) -> Family | None:
    if symbol.name == "TypedDict" and symbol.module in TYPING:
        return "typeddict"
    if symbol == Symbol("pydantic", "BaseModel"):
        return "model"
    if symbol.module == "enum":
        return "enum"
    if symbol.name in ("Generic", "NamedTuple") and symbol.module in TYPING:
        return "plain"
    if symbol.module == "abc" and symbol.name == "ABC":
        return "plain"
    if not symbol.module:
        return "plain" if symbol.name == "object" else None
    return None
