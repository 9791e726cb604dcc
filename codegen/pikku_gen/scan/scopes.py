"""What names mean inside of a function: imports, aliases, parameters and what variables hold."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pikku_gen.scan.symbols import Def, dotted

CONTEXT: Final = "<ctx>"
"""The first part of a name that is about a workflow's context."""

_BUILTINS: Final = frozenset(dir(builtins))
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
_CONTEXTS: Final = {
    "WorkflowContext": CONTEXT,
    "WorkflowFunctionContext": CONTEXT,
    "Wire": f"{CONTEXT}.workflow",
    "WorkflowSteps": f"{CONTEXT}.workflow",
    "WorkflowWire": f"{CONTEXT}.workflow",
}
_CONTEXT_NAMES: Final = frozenset({"ctx", "context"})
_PATHS: Final = frozenset({"pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath"})
_PATH_MAKERS: Final = frozenset(
    {
        "parent",
        "absolute",
        "expanduser",
        "joinpath",
        "resolve",
        "with_name",
        "with_stem",
        "with_suffix",
        "relative_to",
    }
)
_MAKERS: Final = frozenset(
    {
        "asyncio.get_running_loop",
        "asyncio.get_event_loop",
        "asyncio.new_event_loop",
        "requests.session",
        "sqlite3.connect",
    }
)
Bindings = dict[str, list[ast.AST | None]]


@dataclass(slots=True)
class Scope:
    """The names of one function, or of a module where there is no `outer`."""

    package: str
    outer: Scope | None = None
    names: dict[str, str] = field(default_factory=dict[str, str])
    """Dotted names, from their modules on; empty for what is bound to anything else."""
    types: dict[str, tuple[str, bool]] = field(default_factory=dict[str, tuple[str, bool]])
    """The classes of variables, and whether the body itself made what they hold."""
    functions: set[str] = field(default_factory=set[str])
    modules: set[str] = field(default_factory=set[str])
    context: str = ""
    """How `ctx.workflow` is written."""

    @property
    def is_outermost(self) -> bool:
        """True for a function at the top of its module."""
        return self.outer is not None and self.outer.outer is None

    def inner(self, function: Def, owner: str = "") -> Scope:
        """The scope of a function in this one; of a method with the dotted name of its class."""
        found = Scope(self.package, self)
        bindings = bindings_of(function)
        found.names.update(dict.fromkeys(bindings, ""))
        found._parameters(function, is_outermost=self.outer is None, owner=owner)
        for name, values in bindings.items():
            for value in values:
                found._bind(name, value, is_only=len(values) == 1)
        return found

    def qualified(self, node: ast.AST) -> str:
        """The dotted name that a chain of names stands for; empty for a variable's."""
        rest: list[str] = []
        while isinstance(node, ast.Attribute):
            rest.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        base = self.name(node.id)
        if not base:
            return ""
        found = ".".join([base, *reversed(rest)])
        return f"{CONTEXT}.saga" if found == f"{CONTEXT}.workflow.saga" else found

    def name(self, name: str) -> str:
        """What a single name stands for."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return name if name in _BUILTINS else ""

    def called(self, function: ast.expr) -> tuple[str, bool]:
        """The dotted name of what is called, and whether its object was made in the body."""
        name = self.qualified(function)
        if name:
            return name, False
        if isinstance(function, ast.Attribute):
            kind, made = self.type_of(function.value)
            if kind:
                return f"{kind}.{function.attr}", made
        return "", False

    def type_of(self, node: ast.expr) -> tuple[str, bool]:
        """The class of an expression's value, and whether the body made it."""
        match node:
            case ast.Name(id=name):
                scope: Scope | None = self
                while scope is not None:
                    if name in scope.types:
                        return scope.types[name]
                    scope = None if name in scope.names else scope.outer
            case ast.Call(func=function):
                name, _ = self.called(function)
                owner, _, method = name.rpartition(".")
                if owner in _PATHS and method in {*_PATH_MAKERS, "cwd", "home"}:
                    return "pathlib.Path", True
                last = method.lstrip("_")
                is_class = last[:1].isupper() and not owner.startswith(CONTEXT)
                if is_class or name in _MAKERS:
                    return name, True
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                for side in (left, right):
                    if self.type_of(side)[0] in _PATHS:
                        return "pathlib.Path", True
            case ast.Attribute(value=value, attr="parent"):
                if self.type_of(value)[0] in _PATHS:
                    return "pathlib.Path", True
            case _:
                pass
        return "", False

    def workflow(self) -> str:
        """How `ctx.workflow` is written here; empty where it cannot be reached."""
        scope: Scope | None = self
        shadowing: set[str] = set()
        while scope is not None:
            if scope.context:
                return "" if scope.context.partition(".")[0] in shadowing else scope.context
            shadowing.update(scope.names)
            scope = scope.outer
        return ""

    def is_of_module(self, name: str) -> bool:
        """True for a name that no function around binds."""
        scope = self
        while scope.outer is not None:
            if name in scope.names:
                return False
            scope = scope.outer
        return name in scope.names

    def is_function(self, name: str) -> bool:
        """True for a name that a `def` binds, and nothing else."""
        return name in self._home(name).functions

    def is_module(self, name: str) -> bool:
        """True for a name that `import` binds."""
        return name in self._home(name).modules

    # ---

    def _home(self, name: str) -> Scope:
        scope = self
        while scope.outer is not None and name not in scope.names:
            scope = scope.outer
        return scope

    def _parameters(self, function: Def, *, is_outermost: bool, owner: str) -> None:
        arguments = function.args
        first = [*arguments.posonlyargs, *arguments.args][:1]
        is_declared = bool(function.decorator_list) and isinstance(function, ast.AsyncFunctionDef)
        is_declared = is_declared and not owner
        own = [] if not owner or is_static(function) else first
        for parameter in parameters_of(function):
            name = parameter.arg
            if parameter in own:
                self.types[name] = (owner, False)
                continue
            kind = self._annotated(parameter.annotation)
            meant = _CONTEXTS.get(kind.rpartition(".")[2], "")
            unsaid = parameter.annotation is None and name in _CONTEXT_NAMES
            if is_outermost and (unsaid or (is_declared and parameter in first)):
                meant = meant or CONTEXT
            if meant:
                self.names[name] = meant
                self.context = name if meant.endswith(".workflow") else f"{name}.workflow"
            elif kind:
                self.types[name] = (kind, False)

    def _annotated(self, annotation: ast.expr | None) -> str:
        """The class that an annotation names, also with `| None`."""
        node = annotation
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                node = ast.parse(node.value, mode="eval").body
            except (SyntaxError, ValueError):
                return ""
        if isinstance(node, ast.BinOp):
            node = node.right if _is_none(node.left) else node.left
        if isinstance(node, ast.Subscript):
            if dotted(node.value).rpartition(".")[2] == "Optional":
                return self._annotated(node.slice)
            node = node.value
        outer = self.outer or self
        return (outer.qualified(node) or dotted(node)) if isinstance(node, ast.expr) else ""

    def _bind(self, name: str, value: ast.AST | None, *, is_only: bool) -> None:
        match value:
            case ast.Import():
                for alias in value.names:
                    top = alias.name.partition(".")[0]
                    if name == (alias.asname or top):
                        self.names[name] = alias.name if alias.asname else top
                        self.modules.add(name)
            case ast.ImportFrom():
                for alias in value.names:
                    if name == (alias.asname or alias.name):
                        self.names[name] = f"{_source(value, self.package)}.{alias.name}"
            case ast.FunctionDef() | ast.AsyncFunctionDef() if is_only:
                self.functions.add(name)
            case ast.Name() | ast.Attribute() if is_only:
                if self.names[name] == "" and dotted(value).partition(".")[0] != name:
                    self.names[name] = self.qualified(value)
                    kind = self.type_of(value)
                    if kind[0]:
                        self.types[name] = kind
            case ast.withitem(context_expr=made):
                self._entered(name, made)
            case ast.AnnAssign(annotation=annotation):
                kind_named = self._annotated(annotation)
                made_here = isinstance(value.value, ast.Call)
                if kind_named:
                    self.types[name] = (kind_named, made_here)
            case ast.expr() if is_only:
                kind = self.type_of(value)
                if kind[0]:
                    self.types[name] = kind
            case _:
                pass

    def _entered(self, name: str, made: ast.expr) -> None:
        if not isinstance(made, ast.Call):
            return
        if self.qualified(made.func) == f"{CONTEXT}.saga":
            self.names[name] = f"{CONTEXT}.saga"
            return
        kind = self.type_of(made)
        if kind[0]:
            self.types[name] = kind


def module_scope(tree: ast.Module, module: str, *, is_package: bool) -> Scope:
    """The names of a module; its functions and classes go by their full names."""
    found = Scope(module if is_package else module.rpartition(".")[0])
    bindings: Bindings = {}
    _collect(tree.body, bindings)
    found.names.update(dict.fromkeys(bindings, ""))
    for name, values in bindings.items():
        for value in values:
            if isinstance(value, (*_FUNCTIONS, ast.ClassDef)):
                found.names[name] = f"{module}.{name}"
                if isinstance(value, _FUNCTIONS) and len(values) == 1:
                    found.functions.add(name)
            else:
                found._bind(name, value, is_only=len(values) == 1)  # pyright: ignore[reportPrivateUsage]
    found.types = {name: (kind, False) for name, (kind, _) in found.types.items()}
    return found


def bindings_of(function: Def) -> Bindings:
    """Every name that a function binds, with what it is bound to, where that is one thing."""
    found: Bindings = {parameter.arg: [None] for parameter in parameters_of(function)}
    _collect(function.body, found)
    for node in _nodes(function.body):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            for name in node.names:
                found.pop(name, None)
    return found


def local_names(function: Def) -> frozenset[str]:
    """The names that a function binds."""
    return frozenset(bindings_of(function))


def is_static(function: Def) -> bool:
    """True for a method that is given no object."""
    return any(dotted(decorator) == "staticmethod" for decorator in function.decorator_list)


def parameters_of(function: Def) -> Iterator[ast.arg]:
    """All parameters."""
    arguments = function.args
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    for starred in (arguments.vararg, arguments.kwarg):
        if starred is not None:
            yield starred


def _collect(body: Sequence[ast.stmt], found: Bindings) -> None:
    for node in _nodes(body):
        match node:
            case ast.Import():
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    found.setdefault(name, []).append(node)
            case ast.ImportFrom():
                for alias in node.names:
                    found.setdefault(alias.asname or alias.name, []).append(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.setdefault(node.name, []).append(node)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found.setdefault(name, []).append(value)
            case ast.Assign(targets=targets):
                for target in targets:
                    _unknown(target, found)
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.setdefault(name, []).append(node)
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                found.setdefault(name, []).append(value)
            case ast.withitem(optional_vars=ast.Name(id=name)):
                found.setdefault(name, []).append(node)
            case ast.withitem(optional_vars=ast.expr() as target):
                _unknown(target, found)
            case ast.AugAssign(target=target) | ast.comprehension(target=target):
                _unknown(target, found)
            case ast.For(target=target) | ast.AsyncFor(target=target):
                _unknown(target, found)
            case ast.ExceptHandler(name=str() as name):
                found.setdefault(name, []).append(None)
            case ast.MatchAs(name=str() as name) | ast.MatchStar(name=str() as name):
                found.setdefault(name, []).append(None)
            case _:
                pass


def _unknown(target: ast.expr, found: Bindings) -> None:
    if isinstance(target, ast.Name):
        found.setdefault(target.id, []).append(None)
    elif isinstance(target, (ast.Tuple, ast.List)):
        for element in target.elts:
            _unknown(element, found)
    elif isinstance(target, ast.Starred):
        _unknown(target.value, found)


def _nodes(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """Every node, without the insides of functions and classes, in the order of the text."""
    stack: list[ast.AST] = list(reversed(body))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _source(statement: ast.ImportFrom, package: str) -> str:
    module = statement.module or ""
    if not statement.level:
        return module
    base = package.split(".") if package else []
    base = base[: len(base) - (statement.level - 1)]
    return ".".join([*base, *([module] if module else [])])


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
