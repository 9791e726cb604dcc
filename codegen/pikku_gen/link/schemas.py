"""The types that values of a project are written as, by name: what tells later whether a value that
was recorded under one can still be read under another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pikku_gen.link.annotations import resolve_annotation
from pikku_gen.link.shapes import Shape, Shapes
from pikku_gen.link.symbols import SymbolTable, fields_of
from pikku_gen.model.app import Source, Symbol, TypeRef
from pikku_gen.model.facts import AnnotationFact
from pikku_gen.model.places import Span

Described = dict[str, object]
_MARKERS: Final = {"Required": True, "NotRequired": False}


def describe(shapes: Shapes, refs: Iterable[TypeRef]) -> Mapping[str, Described]:
    """Every class and alias of the project that is named in the types, or in one of those."""
    found: dict[str, Described] = {}
    pending = [symbol for ref in refs for symbol in ref.symbols]
    while pending:
        symbol = pending.pop()
        if not symbol.module or str(symbol) in found:
            continue
        said, more = _described(shapes, symbol)
        if said:
            found[str(symbol)] = said
            pending += more
    return dict(sorted(found.items()))


def _described(shapes: Shapes, symbol: Symbol) -> tuple[Described, tuple[Symbol, ...]]:
    table = shapes.table
    binding = table.binding(symbol)
    if binding is None:
        return {}, ()
    if binding.kind != "class":
        ref = _resolved(table, symbol.module, binding.target)
        return ({"alias": ref.qualified}, ref.symbols) if binding.target else ({}, ())
    known = shapes.class_of(Shape("class", symbol.name, symbol))
    fact = table.class_of(symbol)
    if known is None or fact is None:
        return {}, ()
    if known.family == "enum":
        return {"family": "enum", "members": list(fact.members)}, ()
    fields: dict[str, Described] = {}
    named: dict[str, tuple[Symbol, ...]] = {}
    for module, name, annotation, required, total in fields_of(table, symbol):
        marker = annotation.partition("[")[0].rpartition(".")[2]
        if marker == "ClassVar":
            continue
        ref = _resolved(table, module, annotation)
        needed = _MARKERS.get(marker, required and total)
        fields[name] = {"name": name, "type": ref.qualified, "required": needed}
        named[name] = ref.symbols
    bases = {} if known.sealed else {"open": True}
    described: Described = {"family": known.family, "fields": list(fields.values()), **bases}
    return described, tuple(symbol for symbols in named.values() for symbol in symbols)


def _resolved(table: SymbolTable, module: str, annotation: str) -> TypeRef:
    ref, _ = resolve_annotation(table, Source(module, ""), AnnotationFact(annotation, Span()))
    return ref
