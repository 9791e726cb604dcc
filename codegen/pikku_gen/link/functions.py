"""Decorated functions by the dotted names that lead to them."""

from __future__ import annotations

from collections.abc import Mapping

from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import FunctionModel


def function_named(
    table: SymbolTable,
    functions: Mapping[tuple[str, str], FunctionModel],
    module: str,
    dotted: str,
) -> FunctionModel | None:
    """The decorated function that a dotted name of a module leads to."""
    found = table.resolve(module, dotted)
    if found is None or found.rest:
        return None
    key = table.follow(found.dotted).rpartition(".")
    return functions.get((key[0], key[2]))
