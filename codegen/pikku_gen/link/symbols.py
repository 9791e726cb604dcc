"""Names followed through the project's own modules: imports, re-exports, star imports, aliases."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pikku_gen.model.app import Symbol
from pikku_gen.model.facts import Binding, ClassFact, SymbolsFact

Load = Callable[[str], SymbolsFact | None]
"""The symbols of a module of the project; None for any other module."""

_BUILTINS: Final = frozenset(dir(builtins))
_DEPTH: Final = 24


@dataclass(frozen=True, slots=True)
class Resolved:
    """A name's definition and what is left of the dotted name after it."""

    symbol: Symbol
    rest: str = ""
    known: bool = True
    """False where the definition is outside of the project and was not looked at."""

    @property
    def dotted(self) -> str:
        """The whole, from the defining module on."""
        return f"{self.symbol}.{self.rest}" if self.rest else str(self.symbol)


class SymbolTable:
    """The names of all modules of a project, read when they are asked for."""

    def __init__(self, load: Load, is_folder: Callable[[str], bool]) -> None:
        self._load = load
        self._is_folder = is_folder
        self._resolved: dict[tuple[str, str], Resolved | None] = {}
        self._modules: dict[str, bool] = {}

    def symbols(self, module: str) -> SymbolsFact | None:
        """What a module of the project binds."""
        return self._load(module)

    def names(self, module: str) -> Iterable[str]:
        """The names that can be meant in a module: for suggestions."""
        found = self._load(module)
        if found is None:
            return ()
        stars = [name for star in found.stars for name in self.names_of_star(star)]
        return [*found.bindings, *stars]

    def names_of_star(self, module: str) -> list[str]:
        """What `from module import *` brings, as far as it is the project's."""
        found = self._load(module)
        return [name for name in found.bindings if not name.startswith("_")] if found else []

    def resolve(self, module: str, dotted: str) -> Resolved | None:
        """What a dotted name means in a module; None where nothing binds it."""
        key = (module, dotted)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(module, dotted, 0)
        return self._resolved[key]

    def binding(self, symbol: Symbol) -> Binding | None:
        """How a symbol of the project is bound."""
        found = self._load(symbol.module)
        return found.bindings.get(symbol.name) if found else None

    def class_of(self, symbol: Symbol) -> ClassFact | None:
        """The class statement of a symbol of the project."""
        found = self._load(symbol.module)
        return found.classes.get(symbol.name) if found else None

    def follow(self, dotted: str) -> str:
        """An absolute dotted name to that of its definition; itself where it leads nowhere."""
        module, name = self._split(dotted)
        if not module or not name:
            return dotted
        first, _, rest = name.partition(".")
        found = self._member(module, first, rest, 0)
        for _ in range(_DEPTH):
            if found is None:
                return dotted
            binding = self.binding(found.symbol)
            if binding is None or binding.kind != "alias":
                break
            target = self.resolve(found.symbol.module, binding.target)
            rest = ".".join(part for part in (target.rest if target else "", found.rest) if part)
            found = Resolved(target.symbol, rest, target.known) if target else None
        return found.dotted if found else dotted

    def is_module(self, module: str) -> bool:
        """True for a module or package of the project."""
        if module not in self._modules:
            self._modules[module] = self._load(module) is not None or self._is_folder(module)
        return self._modules[module]

    # ---

    def _resolve(self, module: str, dotted: str, depth: int) -> Resolved | None:
        first, _, rest = dotted.partition(".")
        symbols = self._load(module)
        if symbols is None or depth > _DEPTH or not first:
            return None
        binding = symbols.bindings.get(first)
        if binding is None:
            return self._unbound(symbols, first, rest, depth)
        if binding.kind != "import":
            return Resolved(Symbol(module, first), rest)
        if binding.attribute:
            return self._member(binding.module, binding.attribute, rest, depth + 1)
        return self._below(binding.module, rest, symbols.submodules, depth + 1)

    def _unbound(self, symbols: SymbolsFact, first: str, rest: str, depth: int) -> Resolved | None:
        for star in symbols.stars:
            if self.is_module(star):
                found = self._member(star, first, rest, depth + 1)
                if found is not None:
                    return found
        return Resolved(Symbol("", first), rest) if first in _BUILTINS else None

    def _member(self, module: str, name: str, rest: str, depth: int) -> Resolved | None:
        """`module.name.rest`, where `name` may be a submodule."""
        if depth > _DEPTH:
            return None
        if not self.is_module(module):
            return Resolved(Symbol(module, name), rest, known=False)
        symbols = self._load(module)
        if symbols is not None and (name in symbols.bindings or symbols.stars):
            dotted = f"{name}.{rest}" if rest else name
            binding = symbols.bindings.get(name)
            circular = binding is not None and binding == Binding("import", module, name)
            found = None if circular else self._resolve(module, dotted, depth + 1)
            if found is not None and found.symbol.module:
                return found
        if self.is_module(f"{module}.{name}"):
            return self._below(f"{module}.{name}", rest, (), depth + 1)
        return None

    def _below(
        self, module: str, rest: str, imported: Iterable[str], depth: int
    ) -> Resolved | None:
        """A dotted name below a module."""
        if not rest:
            return None
        if not self.is_module(module):
            for deeper in sorted(imported, key=len, reverse=True):
                whole = f"{module}.{rest}"
                if whole.startswith(f"{deeper}.") and deeper.startswith(f"{module}."):
                    module, rest = deeper, whole[len(deeper) + 1 :]
                    break
            name, _, rest = rest.partition(".")
            return Resolved(Symbol(module, name), rest, known=False)
        name, _, rest = rest.partition(".")
        return self._member(module, name, rest, depth)

    def _split(self, dotted: str) -> tuple[str, str]:
        parts = dotted.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:cut])
            if self._load(module) is not None:
                return module, ".".join(parts[cut:])
        return "", dotted


def fields_of(
    table: SymbolTable, symbol: Symbol, depth: int = 0
) -> Iterator[tuple[str, str, str, bool, bool]]:
    """Module, name, annotation, required, total of each field of a class and its bases."""
    fact = table.class_of(symbol)
    if fact is None or depth > _DEPTH:
        return
    for base in fact.bases:
        found = table.resolve(symbol.module, base.partition("[")[0])
        if found is not None and not found.rest:
            yield from fields_of(table, found.symbol, depth + 1)
    for field in fact.fields:
        yield symbol.module, field.name, field.annotation, field.required, fact.total
