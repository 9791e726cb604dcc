"""A parsed module and the measure of where its nodes stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from pikku_gen.model.facts import TOO_DEEP, Problem
from pikku_gen.model.places import Span


class Locate(Protocol):
    """Where a node stands; the zero span where nobody measured."""

    def __call__(self, node: cst.CSTNode, /) -> Span: ...


def parse_module(text: str) -> cst.Module | Problem:
    """The module, or the syntax error in it."""
    try:
        return cst.parse_module(text)
    except cst.ParserSyntaxError as error:
        return Problem("PKG103", Span(error.raw_line, error.raw_column + 1), "")
    except RecursionError:
        return TOO_DEEP


def unmeasured(_: cst.CSTNode, /) -> Span:
    """No position: measuring costs twice what parsing does."""
    return Span()


def measure(module: cst.Module) -> tuple[cst.Module, Locate]:
    """The module with the measured position of each of its nodes."""
    wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
    ranges: Mapping[cst.CSTNode, CodeRange] = wrapper.resolve(PositionProvider)

    def locate(node: cst.CSTNode, /) -> Span:
        found = ranges.get(node)
        if found is None:
            return Span(1, 1)
        start, end = found.start, found.end
        width = end.column - start.column if end.line == start.line else 1
        return Span(start.line, start.column + 1, max(width, 1))

    return wrapper.module, locate
