"""The bodies of workflows and of the project's functions that they call, names followed.

Functions are followed one call deep: what those call in turn is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import BodyModel, FunctionModel, Source
from pikku_gen.model.facts import BodiesFact, UseFact

Key = tuple[str, str]
"""Module and qualified name."""
Read = Callable[[str], BodiesFact | None]
"""What the functions of a module of the project do."""


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
            if (key, use.inline) in self.seen:
                continue
            self.seen.add((key, use.inline))
            module, helper = key
            inner = self._uses(key)
            if inner is not None:
                source = Source(module, self.path_of(module))
                call = workflow.source.at(use.span)
                self.found.append(BodyModel(workflow, source, helper, inner, call, use.inline))

    def _helpers(self, uses: Sequence[UseFact]) -> Iterator[tuple[Key, UseFact]]:
        for use in uses:
            module, _, name = use.name.rpartition(".")
            if use.kind != "call" or (module, name) in self.declared or not module:
                continue
            if self.table.symbols(module) is not None:
                yield (module, name), use

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
