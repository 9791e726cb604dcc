"""Imports as records: collected from types, given names that do not collide, printed sorted."""

from __future__ import annotations

import builtins
from collections.abc import Iterable

from pikku_gen.model.app import Symbol, TypeRef


class Imports:
    """The imports of one emitted file and the names that types have in it."""

    def __init__(self, fixed: Iterable[Symbol], taken: Iterable[str] = ()) -> None:
        self._fixed = frozenset(fixed)
        self._taken = {*taken, *(symbol.name for symbol in self._fixed)}
        self._used: set[Symbol] = set()
        self._names: dict[Symbol, str] | None = None

    def use(self, refs: Iterable[TypeRef]) -> Imports:
        """Adds the names of types."""
        for ref in refs:
            self._used.update(ref.symbols)
        return self

    def take(self, names: Iterable[str]) -> None:
        """Reserves names that mean something else in this file."""
        self._taken.update(names)

    def text(self, ref: TypeRef) -> str:
        """The type as this file spells it."""
        names = self._settled()
        return "".join(part if isinstance(part, str) else names[part] for part in ref.parts)

    def lines(self) -> list[str]:
        """The import statements, sorted, one name each."""
        lines = {_line(symbol, symbol.name) for symbol in self._fixed}
        for symbol, name in self._settled().items():
            if symbol.module or name != symbol.name:
                lines.add(_line(symbol, name))
        return sorted(lines)

    def _settled(self) -> dict[Symbol, str]:
        if self._names is None:
            taken = set(self._taken)
            names: dict[Symbol, str] = {}
            for symbol in sorted(self._used):
                name = symbol.name
                if symbol not in self._fixed and name in taken:
                    name = f"{symbol.name}_from_{(symbol.module or builtins.__name__)}"
                    name = name.replace(".", "_")
                    while name in taken:
                        name += "_"
                taken.add(name)
                names[symbol] = name
            self._names = names
        return self._names


def _line(symbol: Symbol, name: str) -> str:
    module = symbol.module or builtins.__name__
    alias = "" if name == symbol.name else f" as {name}"
    return f"from {module} import {symbol.name}{alias}"
