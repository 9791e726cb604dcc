"""The bodies of workflows and of the project's functions that they call, names followed.

Functions are followed one call deep: what those call in turn is not. A method is followed together
with the methods of its own object that it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import BodyModel, FunctionModel, Source, Symbol
from pikku_gen.model.facts import BodiesFact, UseFact

Key = tuple[str, str]
"""Module and qualified name."""
Read = Callable[[str], BodiesFact | None]
"""What the functions of a module of the project do."""
_DEPTH: Final = 12


def link_bodies(
    table: SymbolTable,
    workflows: Sequence[FunctionModel],
    declared: Collection[Key],
    read: Read,
    path_of: Callable[[str], str],
) -> tuple[BodyModel, ...]:
    """The bodies of workflows; `declared` are all functions under a decorator of ours."""
    bodies = _Bodies(table, declared, read, path_of)
    for workflow in workflows:
        bodies.add(workflow)
    return tuple(bodies.found)


class _Bodies:
    def __init__(
        self,
        table: SymbolTable,
        declared: Collection[Key],
        read: Read,
        path_of: Callable[[str], str],
    ) -> None:
        self.table = table
        self.declared = declared
        self.read = read
        self.path_of = path_of
        self.found: list[BodyModel] = []
        self.seen: set[tuple[Key, bool]] = set()
        self.names: dict[str, str] = {}

    def add(self, workflow: FunctionModel) -> None:
        """A workflow, and the functions it calls, each with the first workflow that does."""
        uses = self._uses(workflow.key)
        if uses is None:
            return
        name = workflow.fact.qualname
        self.found.append(BodyModel(workflow, workflow.source, name, uses))
        for key, use in self._helpers(uses):
            self._follow(workflow, key, use)

    def _follow(
        self, workflow: FunctionModel, key: Key, use: UseFact, through: Key | None = None
    ) -> None:
        """A function that a workflow calls, or a method of the object that it calls."""
        inner = self._uses(key)
        if inner is None or (key, use.inline) in self.seen:
            return
        self.seen.add((key, use.inline))
        source = Source(key[0], self.path_of(key[0]))
        call = workflow.source.at(use.span)
        named = through[1] if through else ""
        self.found.append(
            BodyModel(workflow, source, key[1], inner, call=call, through=named, inline=use.inline)
        )
        for other, its in self._helpers(inner):
            if _is_of_its_class(key, its):
                self._follow(workflow, other, replace(use, inline=use.inline or its.inline), key)

    def _helpers(self, uses: Sequence[UseFact]) -> Iterator[tuple[Key, UseFact]]:
        for use in uses:
            key = self._key(use.name) if use.kind == "call" else None
            if key is not None and key not in self.declared:
                yield key, use

    def _key(self, name: str) -> Key | None:
        """The function or method of the project that is called by a name."""
        module, _, last = name.rpartition(".")
        if not module:
            return None
        if self.table.symbols(module) is not None:
            return self._method(Symbol(module, last), "__init__") or (module, last)
        home, _, owner = module.rpartition(".")
        return self._method(Symbol(home, owner), last) if home else None

    def _method(self, symbol: Symbol, method: str, depth: int = 0) -> Key | None:
        """The method of a class of the project, or of the nearest base that has it."""
        fact = self.table.class_of(symbol)
        if fact is None or depth > _DEPTH:
            return None
        key = (symbol.module, f"{symbol.name}.{method}")
        facts = self.read(symbol.module)
        if facts is not None and key[1] in facts.functions:
            return key
        for base in fact.bases:
            found = self.table.resolve(symbol.module, base.partition("[")[0])
            if found is not None and found.known and not found.rest:
                inherited = self._method(found.symbol, method, depth + 1)
                if inherited is not None:
                    return inherited
        return None

    def _uses(self, key: Key) -> tuple[UseFact, ...] | None:
        module, name = key
        facts = self.read(module)
        uses = facts.functions.get(name) if facts else None
        return tuple(map(self._followed, uses)) if uses is not None else None

    def _followed(self, use: UseFact) -> UseFact:
        name = use.name
        if use.kind not in ("call", "read") or "." not in name:
            return use
        if name not in self.names:
            inside = self.table.is_module(name.partition(".")[0])
            self.names[name] = self.table.follow(name) if inside else name
        return replace(use, name=self.names[name]) if self.names[name] != name else use


def _is_of_its_class(method: Key, call: UseFact) -> bool:
    """True where a method calls another one of its class, its own or inherited."""
    owner, dot, _ = method[1].rpartition(".")
    return bool(dot) and call.name.rpartition(".")[0] == f"{method[0]}.{owner}"
