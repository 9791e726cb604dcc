"""What an expression's type is, as far as it can be read off the page."""

from __future__ import annotations

import libcst as cst

from pikku_gen.model.facts import ValueFact
from pikku_gen.model.places import Span
from pikku_gen.scan.expressions import boolean, dotted, is_none, source, string
from pikku_gen.scan.module import Locate

Variables = dict[str, ValueFact]


def read_value(node: cst.BaseExpression, variables: Variables, locate: Locate) -> ValueFact:
    """The facts of one expression; names are looked up among the variables."""
    span = locate(node)
    match node:
        case cst.SimpleString() | cst.ConcatenatedString():
            if string(node) is None and isinstance(node, cst.SimpleString):
                return ValueFact("literal", span, "bytes")
            return ValueFact("literal", span, "str")
        case cst.FormattedString():
            return ValueFact("literal", span, "str")
        case cst.Integer():
            return ValueFact("literal", span, "int")
        case cst.Float():
            return ValueFact("literal", span, "float")
        case cst.UnaryOperation(operator=cst.Minus()):
            return read_value(node.expression, variables, locate)
        case cst.Dict():
            return _dictionary(node, variables, locate)
        case cst.List():
            items = [read_value(element.value, variables, locate) for element in node.elements]
            plain = all(isinstance(element, cst.Element) for element in node.elements)
            return ValueFact("list", span, items=tuple(items) if plain else (), complete=plain)
        case cst.Name():
            return _name(node, variables, locate)
        case cst.Attribute():
            inner = read_value(node.value, variables, locate)
            if inner.kind == "unknown":
                return ValueFact("unknown", span)
            return ValueFact("attribute", span, node.attr.value, (inner,))
        case cst.Subscript(slice=[cst.SubscriptElement(slice=cst.Index(value=key))]):
            name = string(key)
            inner = read_value(node.value, variables, locate)
            if name is None or inner.kind == "unknown":
                return ValueFact("unknown", span)
            return ValueFact("item", span, name, (inner,))
        case cst.Call():
            made = dotted(node.func)
            return ValueFact("type", span, made) if made else ValueFact("unknown", span)
        case _:
            return ValueFact("unknown", span)


def annotated(annotation: cst.Annotation | None, locate: Locate) -> ValueFact | None:
    """The value of a variable or parameter with an annotation."""
    if annotation is None:
        return None
    return ValueFact("type", locate(annotation.annotation), source(annotation.annotation))


def _name(node: cst.Name, variables: Variables, locate: Locate) -> ValueFact:
    span = locate(node)
    if boolean(node) is not None:
        return ValueFact("literal", span, "bool")
    if is_none(node):
        return ValueFact("literal", span, "None")
    known = variables.get(node.value)
    if known is None:
        return ValueFact("unknown", span)
    return ValueFact(
        known.kind,
        span,
        known.text,
        known.items,
        known.keys,
        known.key_spans,
        known.complete,
        known.index,
    )


def _dictionary(node: cst.Dict, variables: Variables, locate: Locate) -> ValueFact:
    keys: list[str] = []
    spans: list[Span] = []
    items: list[ValueFact] = []
    complete = True
    for element in node.elements:
        if not isinstance(element, cst.DictElement):
            complete = False
            continue
        key = string(element.key)
        if key is None:
            complete = False
            continue
        keys.append(key)
        spans.append(locate(element.key))
        items.append(read_value(element.value, variables, locate))
    return ValueFact("dict", locate(node), "", tuple(items), tuple(keys), tuple(spans), complete)
