"""Expressions replaced in a file's text, whose formatting stays as it is."""

from __future__ import annotations

import codecs
from collections.abc import Mapping

import libcst as cst

from pikku_gen.model.places import Span
from pikku_gen.scan.module import Locate, measure


def replaced(data: bytes, fixes: Mapping[Span, str]) -> tuple[bytes, int]:
    """A file's bytes with the calls at those places replaced, and how many were."""
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    try:
        module = cst.parse_module(data[len(bom) :])
    except (cst.ParserSyntaxError, UnicodeDecodeError, RecursionError):
        return data, 0
    module, locate = measure(module)
    finder = _Finder(locate, {(span.line, span.column): fix for span, fix in fixes.items()})
    module.visit(finder)
    fixed = module.visit(_Replacer(finder.found, finder.bare))
    return bom + fixed.bytes, len(finder.found)


class _Finder(cst.CSTVisitor):
    """The calls that start at given places: of several the innermost, which is left first."""

    def __init__(self, locate: Locate, starts: dict[tuple[int, int], str]) -> None:
        super().__init__()
        self.locate = locate
        self.starts = starts
        self.found: dict[cst.CSTNode, str] = {}
        self.bare: set[cst.CSTNode] = set()
        """What an attribute, an index or a call is taken of: there `await` needs brackets."""

    def visit_Attribute(self, node: cst.Attribute) -> None:
        self.bare.add(node.value)

    def visit_Subscript(self, node: cst.Subscript) -> None:
        self.bare.add(node.value)

    def visit_Call(self, node: cst.Call) -> None:
        self.bare.add(node.func)

    def leave_Call(self, original_node: cst.Call) -> None:
        span = self.locate(original_node)
        fix = self.starts.pop((span.line, span.column), None)
        if fix is not None:
            self.found[original_node] = fix


class _Replacer(cst.CSTTransformer):
    def __init__(self, found: dict[cst.CSTNode, str], bare: set[cst.CSTNode]) -> None:
        super().__init__()
        self.found = found
        self.bare = bare

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        fix = self.found.get(original_node)
        if fix is None:
            return updated_node
        made = cst.parse_expression(fix)
        if original_node in self.bare and isinstance(made, cst.Await) and not original_node.lpar:
            return made.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        lpar = [*original_node.lpar, *getattr(made, "lpar", ())]
        rpar = [*getattr(made, "rpar", ()), *original_node.rpar]
        return made.with_changes(lpar=lpar, rpar=rpar)
