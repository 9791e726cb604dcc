"""The authorize hook: where it is, and what the sessions that it returns are."""

from __future__ import annotations

import ast

from pikku_gen.diagnostics import Diagnostic, diagnostic, nearest
from pikku_gen.link.annotations import resolve_annotation
from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import NONE, Source, TypeRef
from pikku_gen.model.facts import AnnotationFact
from pikku_gen.model.places import Place
from pikku_gen.project import Project

Found = tuple[TypeRef, str, tuple[Diagnostic, ...]]


def resolve_authorize(project: Project, table: SymbolTable) -> Found:
    """The type of `ctx.session` and the hook's path, `NONE` where the project has no hook."""
    path = project.settings.authorize
    if path is None:
        return NONE, "", ()
    place = project.settings.place("authorize")
    module, colon, name = path.partition(":")
    if not colon or not name.isidentifier():
        return _wrong(place, f"`authorize` must be `module:function`, not `{path}`")
    if table.symbols(module) is None:
        return _wrong(place, f"the module `{module}` of `authorize` does not exist")
    home, _, found = table.follow(f"{module}.{name}").rpartition(".")
    symbols = table.symbols(home)
    hook = symbols.functions.get(found) if symbols else None
    file = project.find(home)
    if hook is None or symbols is None or file is None:
        close = nearest(name, symbols.functions if symbols else ())
        hint = f"did you mean `{module}:{close}`?" if close else ""
        return _wrong(place, f"`{module}` has no function `{name}`", hint)
    source = Source(home, file.path)
    at = source.at(hook.span)
    if not hook.is_async:
        return _wrong(at, f"the authorize hook `{name}` must be `async def`")
    if hook.required_parameters != 2:
        return _wrong(at, f"the authorize hook `{name}` must take the request and the action")
    if not hook.returns:
        return _wrong(at, f"the authorize hook `{name}` has no return annotation")
    annotation = AnnotationFact(_or_none(hook.returns), hook.span)
    session, problems = resolve_annotation(table, source, annotation)
    return session, path, problems


def _or_none(text: str) -> str:
    """The annotation *text* with None as a part of it: there are calls without a session."""
    node = ast.parse(text, mode="eval").body
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _or_none(node.value)
    parts: list[ast.expr] = [node]
    while isinstance(parts[-1], ast.BinOp):
        last = parts.pop()
        assert isinstance(last, ast.BinOp)
        parts += [last.right, last.left]
    if any(isinstance(part, ast.Constant) and part.value is None for part in parts):
        return text
    return f"{text} | None"


def _wrong(place: Place, words: str, hint: str = "") -> Found:
    return NONE, "", (diagnostic("PKG508", place, words, hint=hint),)
