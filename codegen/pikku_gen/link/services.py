"""The services factory: where it is and what it makes."""

from __future__ import annotations

import ast
from typing import Final

from pikku_gen.diagnostics import Diagnostic, diagnostic, nearest
from pikku_gen.link.annotations import resolve_annotation
from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import NONE, Source, TypeRef
from pikku_gen.model.facts import AnnotationFact, FactoryFact
from pikku_gen.model.places import Place, Span
from pikku_gen.project import Project

_MANAGERS: Final = ("contextlib.asynccontextmanager", "contextlib.contextmanager")
_GENERATORS: Final = ("AsyncGenerator", "AsyncIterator", "Generator", "Iterator", "AsyncIterable")
Found = tuple[TypeRef, str, tuple[Diagnostic, ...]]


def resolve_services(project: Project, table: SymbolTable) -> Found:
    """The services' type and the factory's path, `NONE` where the project has no factory."""
    path = project.settings.services
    if path is None:
        return NONE, "", ()
    place = project.settings.place_of_value("services")
    module, colon, name = path.partition(":")
    if not colon or not name.isidentifier():
        return _wrong(place, f"`services` must be `module:function`, not `{path}`")
    if table.symbols(module) is None:
        close = nearest(module, {file.module for file in project.files()})
        hint = f"did you mean `{close}:{name}`?" if close else ""
        return _wrong(place, f"the module `{module}` of `services` does not exist", hint)
    home, _, name = table.follow(f"{module}.{name}").rpartition(".")
    symbols = table.symbols(home)
    factory = symbols.functions.get(name) if symbols else None
    file = project.find(home)
    if factory is None or symbols is None or file is None:
        close = nearest(path.partition(":")[2], symbols.functions if symbols else ())
        hint = f"did you mean `{module}:{close}`?" if close else ""
        return _wrong(place, f"`{module}` has no function `{path.partition(':')[2]}`", hint)
    return _made(table, Source(home, file.path), name, factory, path)


def _made(table: SymbolTable, source: Source, name: str, factory: FactoryFact, path: str) -> Found:
    place = source.at(factory.span)
    if not factory.returns:
        return _wrong(place, f"the services factory `{name}` has no return annotation")
    if factory.required_parameters > 1:
        words = f"the services factory `{name}` must take nothing, or one pikku.Config"
        return _wrong(place, words)
    text, there = factory.returns, factory.returns_span
    managed = any(_is_manager(table, source.module, item) for item in factory.decorators)
    if managed:
        text = _yielded(text)
        if not text:
            words = f"the services factory `{name}` must be annotated with what it yields"
            return _wrong(source.at(there), words)
        before = max(factory.returns.find(text), 0)
        there = Span(there.line, there.column + before, len(text))
    services, problems = resolve_annotation(table, source, AnnotationFact(text, there))
    return services, path, problems


def _is_manager(table: SymbolTable, module: str, decorator: str) -> bool:
    found = table.resolve(module, decorator)
    return found is not None and found.dotted in _MANAGERS


def _yielded(text: str) -> str:
    """What a generator's annotation yields; empty for any other annotation."""
    node = ast.parse(text, mode="eval").body
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _yielded(node.value)
    if not isinstance(node, ast.Subscript):
        return ""
    if ast.unparse(node.value).rpartition(".")[2] not in _GENERATORS:
        return ""
    inner = node.slice
    first = inner.elts[0] if isinstance(inner, ast.Tuple) else inner
    return ast.unparse(first)


def _wrong(place: Place, words: str, hint: str = "") -> Found:
    return NONE, "", (diagnostic("PKG507", place, words, hint=hint),)
