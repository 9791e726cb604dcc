"""Annotations as written, cut at their names, each name followed to its definition."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from pikku_gen.diagnostics import Diagnostic, diagnostic, nearest
from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import NONE, Source, Symbol, TypeRef
from pikku_gen.model.facts import AnnotationFact
from pikku_gen.model.places import Span

Special = Callable[[str], str]
TYPING: Final = ("typing", "typing_extensions")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of an annotation's text: a dotted name, or a quote to drop."""

    start: int
    end: int
    name: str


def resolve_annotation(
    table: SymbolTable, source: Source, fact: AnnotationFact
) -> tuple[TypeRef, tuple[Diagnostic, ...]]:
    """The type that an annotation of one file names, and what in it has no meaning there."""
    if not fact.text:
        return NONE, ()
    text = one_line(fact.text)
    problems: list[Diagnostic] = []
    parts: list[str | Symbol] = []
    at = 0
    for piece in _pieces(text, lambda name: special_form(table, source.module, name)):
        _append(parts, text[at : piece.start])
        at = piece.end
        if not piece.name:
            continue
        found = table.resolve(source.module, piece.name)
        if found is None or _is_open(table, found.symbol):
            problems.append(_unresolved(table, source, fact, text, piece))
            continue
        parts.append(found.symbol)
        _append(parts, f".{found.rest}" if found.rest else "")
    _append(parts, text[at:])
    return TypeRef(tuple(parts)), tuple(problems)


@cache
def one_line(text: str) -> str:
    """The annotation on one line, as written where it was on one."""
    if "\n" not in text:
        return text
    return ast.unparse(ast.parse(f"({text}\n)", mode="eval").body)


@cache
def expression(text: str) -> ast.expr | None:
    """The tree of an annotation, which nobody changes; None where the text is no expression."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return None


def _append(parts: list[str | Symbol], text: str) -> None:
    if text:
        parts.append(text)


def special_form(table: SymbolTable, module: str, name: str) -> str:
    """`Literal`, `Annotated`, … where the name is a special form of typing."""
    found = table.resolve(module, name)
    if found is not None and found.symbol.module in TYPING and not found.rest:
        return found.symbol.name
    return ""


def _is_open(table: SymbolTable, symbol: Symbol) -> bool:
    binding = table.binding(symbol)
    return binding is not None and binding.kind in ("typevar", "def")


def _unresolved(
    table: SymbolTable, source: Source, fact: AnnotationFact, text: str, piece: _Piece
) -> Diagnostic:
    span = fact.span
    if span.located and text == fact.text:
        span = Span(span.line, span.column + piece.start, piece.end - piece.start)
    owner, _, last = piece.name.rpartition(".")
    candidates = table.names(source.module)
    if owner:
        names = table.names_of_star(owner)
        close = nearest(last, names)
        close = f"{owner}.{close}" if close else None
    else:
        close = nearest(piece.name, candidates)
    found = table.resolve(source.module, piece.name)
    if found is not None:
        hint = f"`{piece.name}` is no type: name a class, or an alias of one"
        return diagnostic("PKG202", source.at(span), piece.name, hint=hint)
    binding = _import_of(table, source.module, piece.name)
    hint = f"did you mean `{close}`?" if close and close != piece.name else ""
    if binding:
        module, attribute = binding
        close = nearest(attribute, table.names_of_star(module))
        hint = f"`{module}` has no `{attribute}`"
        hint += f"; did you mean `{close}`?" if close else ""
    return diagnostic("PKG202", source.at(span), piece.name, hint=hint)


def _import_of(table: SymbolTable, module: str, name: str) -> tuple[str, str] | None:
    symbols = table.symbols(module)
    binding = symbols.bindings.get(name) if symbols else None
    if binding is None or binding.kind != "import" or not binding.attribute:
        return None
    return binding.module, binding.attribute


def _pieces(text: str, special: Special) -> Sequence[_Piece]:
    return _read(text, special) if '"' in text or "'" in text else _unquoted_pieces(text)


@cache
def _unquoted_pieces(text: str) -> Sequence[_Piece]:
    """The pieces of a text without quotes, which are the same whatever its names mean."""
    if text.isidentifier():
        return [] if text == "None" else [_Piece(0, len(text), text)]
    return _read(text, lambda _: "")


def _read(text: str, special: Special) -> Sequence[_Piece]:
    reader = _Reader(text, special)
    tree = expression(text)
    if tree is not None:
        reader.read(tree, text.encode(), 0, quoted=True)
    return sorted(reader.found, key=lambda piece: piece.start)


class _Reader:
    """The names of one annotation and the quotes around them, by their place in its text."""

    def __init__(self, text: str, special: Special) -> None:
        self.text = text
        self.special = special
        self.found: list[_Piece] = []

    def read(self, node: ast.expr, data: bytes, base: int, *, quoted: bool) -> None:
        """Collects from a node whose columns count in `data`, which starts at `base`."""
        start = base + _column(data, node.col_offset) if hasattr(node, "col_offset") else base
        end = base + _column(data, getattr(node, "end_col_offset", None) or 0)
        match node:
            case ast.Name() | ast.Attribute() if dotted_name(node):
                self.found.append(_Piece(start, end, dotted_name(node)))
            case ast.Constant(value=str() as inner) if (
                quoted and self.text[start + 1 : end - 1] == inner
            ):
                self.found.append(_Piece(start, start + 1, ""))
                tree = expression(inner)
                if tree is not None:
                    self.read(tree, inner.encode(), start + 1, quoted=True)
                self.found.append(_Piece(end - 1, end, ""))
            case ast.Subscript(value=value, slice=arguments):
                self.read(value, data, base, quoted=quoted)
                self._arguments(self.special(dotted_name(value)), arguments, data, base, quoted)
            case _:
                for child in _children(node):
                    self.read(child, data, base, quoted=quoted)

    def _arguments(self, form: str, node: ast.expr, data: bytes, base: int, quoted: bool) -> None:
        if form == "Annotated" and isinstance(node, ast.Tuple):
            first, *metadata = node.elts
            self.read(first, data, base, quoted=quoted)
            for item in metadata:
                self.read(item, data, base, quoted=False)
        else:
            self.read(node, data, base, quoted=quoted and form != "Literal")


def _column(data: bytes, offset: int) -> int:
    return len(data[:offset].decode())


def _children(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif isinstance(child, ast.keyword):
            yield child.value


def dotted_name(node: ast.expr) -> str:
    """`a.b.c` of a chain of names; empty for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    parts.append(node.id)
    return ".".join(reversed(parts))
