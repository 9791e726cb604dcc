"""What a module binds at its top level: imports, classes and their fields, functions, aliases.

Read with `ast`, which is nine times faster than libcst; where the running Python is older than the
syntax of the file, libcst rewrites the newer forms first.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pikku_gen.model.facts import (
    TOO_DEEP,
    Binding,
    ClassFact,
    FactoryFact,
    Field,
    Problem,
    SymbolsFact,
)
from pikku_gen.model.places import Span

Def = ast.FunctionDef | ast.AsyncFunctionDef


def read_symbols(text: str, module: str, *, is_package: bool) -> SymbolsFact | Problem:
    """The symbols of a module's text, or the syntax error in it."""
    tree = parse(text)
    if isinstance(tree, Problem):
        return tree
    return symbols_of_tree(tree, module, is_package=is_package)


def symbols_of_tree(tree: ast.Module, module: str, *, is_package: bool) -> SymbolsFact:
    """The symbols of a module's syntax tree."""
    found = _Symbols(module if is_package else module.rpartition(".")[0])
    for statement in _top_level(tree.body):
        found.add(statement)
    return found.fact()


def parse(text: str) -> ast.Module | Problem:
    """The syntax tree of a text, also of one written for a newer Python."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        from pikku_gen.scan.downlevel import downlevel

        try:
            older = downlevel(text)
        except RecursionError:
            return TOO_DEEP
    if isinstance(older, Problem):
        return older
    try:
        return ast.parse(older)
    except (SyntaxError, ValueError) as error:
        line = error.lineno or 1 if isinstance(error, SyntaxError) else 1
        return Problem("PKG103", Span(line, 1), "")
    except (RecursionError, MemoryError):
        return TOO_DEEP


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a chain of names; empty for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


class _Symbols:
    def __init__(self, package: str) -> None:
        self.package = package
        self.bindings: dict[str, Binding] = {}
        self.stars: list[str] = []
        self.submodules: list[str] = []
        self.classes: dict[str, ClassFact] = {}
        self.functions: dict[str, FactoryFact] = {}

    def fact(self) -> SymbolsFact:
        return SymbolsFact(
            self.bindings,
            tuple(self.stars),
            tuple(self.submodules),
            self.classes,
            self.functions,
        )

    def add(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import():
                self._import(statement)
            case ast.ImportFrom():
                self._import_from(statement)
            case ast.ClassDef():
                self._bind(statement.name, Binding("class"))
                self.classes.setdefault(statement.name, _class(statement))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._bind(statement.name, Binding("def"))
                self.functions.setdefault(statement.name, _function(statement))
            case ast.Assign(value=value):
                for target in statement.targets:
                    self._assign(target, value)
            case ast.AnnAssign(target=target, value=value):
                self._assign(target, value)
            case _ if type(statement).__name__ == "TypeAlias":  # Python 3.12
                name: ast.expr = getattr(statement, "name")  # noqa: B009
                self._assign(name, getattr(statement, "value"))  # noqa: B009
            case _:
                pass

    def _bind(self, name: str, binding: Binding) -> None:
        self.bindings.setdefault(name, binding)

    def _assign(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._assign(element, None)
        elif isinstance(target, ast.Name):
            self._bind(target.id, _assigned(value))

    def _import(self, statement: ast.Import) -> None:
        for alias in statement.names:
            if alias.asname:
                self._bind(alias.asname, Binding("import", alias.name))
            else:
                top = alias.name.partition(".")[0]
                self._bind(top, Binding("import", top))
                if top != alias.name:
                    self.submodules.append(alias.name)

    def _import_from(self, statement: ast.ImportFrom) -> None:
        module = statement.module or ""
        if statement.level:
            base = self.package.split(".") if self.package else []
            base = base[: len(base) - (statement.level - 1)]
            module = ".".join([*base, *([module] if module else [])])
        for alias in statement.names:
            if alias.name == "*":
                self.stars.append(module)
            else:
                self._bind(alias.asname or alias.name, Binding("import", module, alias.name))


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        match statement:
            case ast.If() | ast.For() | ast.While():
                yield from _top_level(statement.body)
                yield from _top_level(statement.orelse)
            case ast.Try() | ast.TryStar():
                yield from _top_level(statement.body)
                for handler in statement.handlers:
                    yield from _top_level(handler.body)
                yield from _top_level(statement.orelse)
                yield from _top_level(statement.finalbody)
            case ast.With():
                yield from _top_level(statement.body)
            case _:
                pass


def _assigned(value: ast.expr | None) -> Binding:
    match value:
        case ast.Name() | ast.Attribute() | ast.Subscript() | ast.BinOp(op=ast.BitOr()):
            return Binding("alias", target=ast.unparse(value))
        case ast.Call(func=func):
            made_by = dotted(func).rpartition(".")[2]
            if made_by in ("TypeVar", "ParamSpec", "TypeVarTuple"):
                return Binding("typevar")
            if made_by == "NewType" and len(value.args) == 2:
                return Binding("value", target=ast.unparse(value.args[1]))
            return Binding("value")
        case _:
            return Binding("value")


def _class(statement: ast.ClassDef) -> ClassFact:
    total = not any(
        keyword.arg == "total"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is False
        for keyword in statement.keywords
    )
    return ClassFact(
        span=Span(statement.lineno, statement.col_offset + len("class ") + 1, len(statement.name)),
        bases=tuple(ast.unparse(base) for base in statement.bases),
        decorators=_decorators(statement),
        fields=tuple(_fields(statement)),
        total=total,
        members=tuple(_members(statement)),
    )


def _members(statement: ast.ClassDef) -> Iterator[str]:
    names = [dotted(base).rpartition(".")[2] for base in statement.bases]
    if any(name.endswith(("Enum", "Flag")) for name in names):
        for item in statement.body:
            if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                yield ast.unparse(item)


def _fields(statement: ast.ClassDef) -> Iterator[Field]:
    for item in statement.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            annotation = ast.unparse(item.annotation)
            yield Field(item.target.id, annotation, required=_has_no_default(item.value))


def _has_no_default(value: ast.expr | None) -> bool:
    """True for nothing, and for `field(…)` or `Field(…)` that says all but a default."""
    if not isinstance(value, ast.Call):
        return value is None
    if dotted(value.func).rpartition(".")[2] not in ("field", "Field"):
        return False
    words = {word.arg for word in value.keywords}
    first = value.args[0] if value.args else None
    given = first is not None and not (isinstance(first, ast.Constant) and first.value is ...)
    return not given and not words & {"default", "default_factory", "init", None}


def _function(statement: Def) -> FactoryFact:
    arguments = statement.args
    positional = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    keyword = sum(default is None for default in arguments.kw_defaults)
    is_async = isinstance(statement, ast.AsyncFunctionDef)
    column = statement.col_offset + len("async def " if is_async else "def ") + 1
    return FactoryFact(
        span=Span(statement.lineno, column, len(statement.name)),
        is_async=is_async,
        decorators=_decorators(statement),
        returns=ast.unparse(statement.returns) if statement.returns else "",
        returns_span=_span(statement.returns) if statement.returns else Span(),
        required_parameters=positional + keyword,
    )


def _span(node: ast.expr) -> Span:
    """Where an expression stands, as far as it stands on one line."""
    end = node.end_col_offset if node.end_lineno == node.lineno else None
    width = end - node.col_offset if end is not None else 1
    return Span(node.lineno, node.col_offset + 1, width)


def _decorators(statement: ast.ClassDef | Def) -> tuple[str, ...]:
    return tuple(
        dotted(item.func if isinstance(item, ast.Call) else item)
        for item in statement.decorator_list
    )
