"""What the bodies of functions do besides steps: which names they call and read, what they loop
over, catch and return.

Read with `ast`: plain functions that workflows call are read too, and most of them stand in files
that nothing else has to be parsed for.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Final

from pikku_gen.model.facts import AllowFact, BodiesFact, UseFact, UseKind
from pikku_gen.model.places import Span
from pikku_gen.scan.scopes import CONTEXT, Scope, local_names, module_scope
from pikku_gen.scan.sets import Sets, is_unordered_use, order_matters
from pikku_gen.scan.symbols import Def, dotted

_TARGETED: Final = frozenset({"do", "map"})
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_CHANGES: Final = frozenset(
    {
        "append",
        "appendleft",
        "extend",
        "insert",
        "add",
        "update",
        "setdefault",
        "pop",
        "popleft",
        "popitem",
        "clear",
        "remove",
        "discard",
        "sort",
        "reverse",
    }
)
_CONTAINERS: Final = frozenset(
    {"list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict"}
)
_CONTROL_FLOW: Final = {
    "BaseException": "BaseException",
    "asyncio.CancelledError": "asyncio.CancelledError",
    "asyncio.exceptions.CancelledError": "asyncio.CancelledError",
}
_FIELDS: Final = frozenset({"property", "cached_property", "setter", "getter", "deleter"})
_LENGTH: Final = 50
"""Of a call that is shown whole."""
_PASSED_ON: Final = frozenset({"asyncio.gather", "asyncio.shield", "asyncio.wait"})
_ALLOW: Final = re.compile(r"#\s*pikku:\s*allow\b(?:\[([^\]]*)\])?(.*)")


def read_bodies(tree: ast.Module, text: str, module: str, *, is_package: bool) -> BodiesFact:
    """The facts of the top-level functions of a module, and of the methods of its classes; of two
    with one name the last."""
    lines = text.split("\n")
    outer = module_scope(tree, module, is_package=is_package)
    state = _State(_variables(tree), frozenset(_changed(tree)))
    functions: dict[str, tuple[UseFact, ...]] = {}
    for statement in _top_level(tree.body):
        if isinstance(statement, _FUNCTIONS):
            functions[statement.name] = read_function(statement, outer, state, lines)
        elif isinstance(statement, ast.ClassDef):
            owner = f"{module}.{statement.name}"
            for method in _methods(statement):
                found = read_function(method, outer, state, lines, owner)
                functions[f"{statement.name}.{method.name}"] = found
    allows = tuple(_allows(text)) if "pikku:" in text else ()
    return BodiesFact(functions, allows)


@dataclass(frozen=True, slots=True)
class _State:
    """The variables of a module: its containers, and those that some function changes."""

    containers: frozenset[str]
    changed: frozenset[str]


def read_function(
    function: Def, outer: Scope, state: _State, lines: Sequence[str], owner: str = ""
) -> tuple[UseFact, ...]:
    """What the body of one function does; of a method with the dotted name of its class."""
    scope = outer.inner(function, owner)
    body = _Body(function, scope, state, lines, Sets(function, scope))
    body.read()
    return tuple(body.found)


@dataclass(frozen=True, slots=True)
class _Here:
    """What is around the node that is read."""

    inline: bool = False
    awaits: bool = True
    """An `await` may be written."""
    text: ast.expr | None = None
    """The f-string around the node: positions inside of it differ between Pythons."""


@dataclass(slots=True)
class _Body:
    function: Def
    scope: Scope
    state: _State
    lines: Sequence[str]
    sets: Sets
    found: list[UseFact] = field(default_factory=list[UseFact])
    inline: set[str] = field(default_factory=set[str])
    """Local functions that are the callable of an inline step."""
    cancelled: set[str] = field(default_factory=set[str])
    """Names of what the body cancels itself."""
    rebound: set[str] = field(default_factory=set[str])
    """Names that the body declares `global`."""
    indifferent: set[int] = field(default_factory=set[int])
    """Sets, by identity, whose order is of no consequence."""

    def read(self) -> None:
        for node in ast.walk(self.function):
            if isinstance(node, ast.Call):
                self._note_call(node)
            elif isinstance(node, ast.Global):
                self.rebound.update(self.state.changed.intersection(node.names))
        for node in ast.walk(self.function):
            if isinstance(node, ast.For) and ast.unparse(node.target) in self.cancelled:
                self.cancelled.add(ast.unparse(node.iter))
        here = _Here(awaits=isinstance(self.function, ast.AsyncFunctionDef))
        for statement in self.function.body:
            self._visit(statement, here)

    def _note_call(self, node: ast.Call) -> None:
        for callable_ in self._callables(node):
            if isinstance(callable_, ast.Name):
                self.inline.add(callable_.id)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "cancel":
            self.cancelled.add(ast.unparse(node.func.value))
        if is_unordered_use(node, self.scope):
            self.indifferent.update(id(argument) for argument in node.args)

    def _callables(self, node: ast.Call) -> Iterator[ast.expr]:
        """What a step is told to call, and to undo."""
        meant = self.scope.qualified(node.func)
        owner, _, method = meant.rpartition(".")
        if owner not in (f"{CONTEXT}.workflow", f"{CONTEXT}.saga") or method not in _TARGETED:
            return
        yield from node.args[1:2]
        for keyword in node.keywords:
            if keyword.arg in ("undo", "on_error"):
                yield keyword.value

    # --- nodes

    def _visit(self, node: ast.AST, here: _Here) -> None:
        match node:
            case ast.Call():
                self._call(node, here)
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._inner(node, here)
                return
            case ast.Lambda():
                self._visit(node.body, replace(here, awaits=False))
                return
            case ast.ClassDef() | ast.Import() | ast.ImportFrom():
                return
            case ast.Subscript(value=value) if self.scope.qualified(value) == "os.environ":
                self._add("read", node, here, "os.environ")
                self._visit(node.slice, here)
                return
            case ast.JoinedStr():
                here = replace(here, text=here.text or node)
            case ast.Attribute() | ast.Name():
                if self._read(node, here):
                    return
            case ast.For() | ast.AsyncFor():
                if isinstance(node, ast.For) and order_matters(node):
                    self._iteration(node.iter, here)
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp() | ast.DictComp():
                self._comprehension(node, here)
                here = replace(here, awaits=here.awaits and not isinstance(node, ast.GeneratorExp))
            case ast.Starred(value=value, ctx=ast.Load()):
                self._iteration(value, here)
            case ast.Try() | ast.TryStar():
                self._try(node, here)
            case ast.With() | ast.AsyncWith():
                self._with(node, here)
            case ast.Return(value=ast.expr() as value):
                self._result(value, here)
            case ast.Assign(targets=targets):
                for target in targets:
                    self._assigned(target, here)
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                self._assigned(target, here)
            case ast.Delete(targets=targets):
                for target in targets:
                    self._assigned(target, here)
            case _:
                pass
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.AnnAssign) and child is node.annotation):
                self._visit(child, here)

    def _inner(self, node: Def, here: _Here) -> None:
        """A local function: a part of the body, or the callable of an inline step."""
        inline = here.inline or node.name in self.inline
        awaits = isinstance(node, ast.AsyncFunctionDef)
        inner = replace(here, inline=inline, awaits=awaits, text=None)
        if inline and not here.inline:
            for statement in _statements(node.body):
                if isinstance(statement, ast.Return) and statement.value is not None:
                    self._handed_back(statement.value, inner)
        before = self.scope
        self.scope = before.inner(node)
        for statement in node.body:
            self._visit(statement, inner)
        self.scope = before

    def _call(self, node: ast.Call, here: _Here) -> None:
        callables = list(self._callables(node))
        name, made = self.scope.called(node.func)
        if name and not name.startswith(CONTEXT):
            arguments = tuple(map(ast.unparse, node.args))
            arguments += tuple(f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords if k.arg)
            self._add("call", node, here, name, arguments=arguments, made=made)
        self._changing_call(node, here)
        is_next = name == "next" and self._is_module_value(node)
        if is_next or (id(node) not in self.indifferent and self.sets.is_drawn(node, self.scope)):
            self._draw(node, here, name)
        for child in (node.func, *node.args, *(keyword.value for keyword in node.keywords)):
            if child in callables:
                self._callable(child, here)
            elif child is not node.func or not name:
                self._visit(child, here)
            elif isinstance(child, ast.Attribute):
                self._read_owner(child, here)

    def _read_owner(self, node: ast.Attribute, here: _Here) -> None:
        """Whatever stands before the last dot of what is called."""
        owner = node.value
        while isinstance(owner, ast.Attribute):
            owner = owner.value
        if not isinstance(owner, ast.Name):
            self._visit(owner, here)
        elif self.scope.qualified(node).startswith(f"{CONTEXT}.services"):
            self._read(node, here)

    def _callable(self, node: ast.expr, here: _Here) -> None:
        inner = replace(here, inline=True, awaits=False)
        if isinstance(node, ast.Lambda):
            self._handed_back(node.body, inner)
            self._visit(node.body, inner)
            return
        if isinstance(node, ast.Call):  # functools.partial and the like
            for argument in node.args:
                self._callable(argument, here)
            return
        name = self.scope.qualified(node)
        if name and not name.startswith(CONTEXT):
            self._add("call", node, inner, name)

    def _draw(self, node: ast.Call, here: _Here, name: str) -> None:
        argument = node.args[0] if node.args else node.func
        if name == "next":
            self._add("global", argument, here)
        else:
            owner = argument.value if isinstance(argument, ast.Attribute) else argument
            self._add("set", owner, here)

    def _read(self, node: ast.Attribute | ast.Name, here: _Here) -> bool:
        """True for a chain of names, of which something was said."""
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load) and node.id in self.state.changed:
                if self.scope.is_of_module(node.id) and node.id not in self.rebound:
                    self._add("global", node, here)
            if self.scope.qualified(node) == "os.environ":
                self._add("read", node, here, "os.environ")
            return True
        name = self.scope.qualified(node)
        if not name:
            return False
        if name.startswith(f"{CONTEXT}.services"):
            owner = node
            while self.scope.qualified(owner.value).startswith(f"{CONTEXT}.services"):
                assert isinstance(owner.value, ast.Attribute)
                owner = owner.value
            self._add("services", owner, here, name)
        elif name.startswith("os.environ"):
            self._add("read", node, here, name)
        return True

    # --- sets

    def _iteration(self, node: ast.expr, here: _Here) -> None:
        if id(node) not in self.indifferent and self.sets.is_set(node):
            self._add("set", node, here)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, here: _Here
    ) -> None:
        if isinstance(node, ast.SetComp) or id(node) in self.indifferent:
            return
        for loop in node.generators:
            self._iteration(loop.iter, here)

    # --- variables of the module

    def _assigned(self, target: ast.expr, here: _Here) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._assigned(element, here)
            return
        if isinstance(target, ast.Name):
            if target.id in self.rebound:
                self._add("global", target, here)
            return
        if isinstance(target, ast.Subscript) and self._is_container(target.value):
            self._add("global", target.value, here)

    def _changing_call(self, node: ast.Call, here: _Here) -> None:
        function = node.func
        if not isinstance(function, ast.Attribute) or function.attr not in _CHANGES:
            return
        if self._is_container(function.value):
            self._add("global", function.value, here)

    def _is_container(self, node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Name)
            and node.id in self.state.containers
            and self.scope.is_of_module(node.id)
        )

    def _is_module_value(self, node: ast.Call) -> bool:
        argument = node.args[0] if node.args else None
        return (
            isinstance(argument, ast.Name)
            and self.scope.is_of_module(argument.id)
            and not self.scope.qualified(argument)
        )

    # --- control flow

    def _try(self, node: ast.Try | ast.TryStar, here: _Here) -> None:
        if here.inline or not self._may_be_cancelled(node.body):
            return
        for handler in node.handlers:
            caught = self._control_flow(handler.type)
            if any(isinstance(inner, ast.Raise) for inner in _statements(handler.body)):
                if caught:  # what it lets through, no later handler sees
                    return
            elif caught and not self._is_raised_later(handler):
                text = f"except {caught}:" if caught != "except:" else caught
                self._add("swallow", handler, here, text=text)
                return

    def _with(self, node: ast.With | ast.AsyncWith, here: _Here) -> None:
        if here.inline or not self._may_be_cancelled(node.body):
            return
        for item in node.items:
            made = item.context_expr
            if not isinstance(made, ast.Call):
                continue
            if self.scope.qualified(made.func) != "contextlib.suppress":
                continue
            if any(self._control_flow(argument) for argument in made.args):
                self._add("swallow", made, here)

    def _may_be_cancelled(self, body: Sequence[ast.stmt]) -> bool:
        """True where something is awaited that the body does not itself cancel."""
        for statement in _statements(body):
            if isinstance(statement, (ast.AsyncFor, ast.AsyncWith)):
                return True
        for node in _expressions(body):
            if isinstance(node, ast.Await):
                inner = node.value
                if isinstance(inner, ast.Call) and self.scope.qualified(inner.func) in _PASSED_ON:
                    awaited = [*inner.args]
                else:
                    awaited = [inner]
                texts = {
                    ast.unparse(each.value if isinstance(each, ast.Starred) else each)
                    for each in awaited
                }
                if not texts <= self.cancelled:
                    return True
        return False

    def _is_raised_later(self, handler: ast.ExceptHandler) -> bool:
        """True where the handler keeps what it caught in a variable that is raised below."""
        kept = {
            target.id
            for statement in _statements(handler.body)
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name)
            if statement.value.id == handler.name
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        return any(
            isinstance(statement.exc, ast.Name) and statement.exc.id in kept
            for statement in _statements(self.function.body)
            if isinstance(statement, ast.Raise)
        )

    def _control_flow(self, node: ast.expr | None) -> str:
        """How the cancellation is caught; empty where it is not."""
        if node is None:
            return "except:"
        for each in node.elts if isinstance(node, ast.Tuple) else (node,):
            name = self.scope.qualified(each) or dotted(each)
            if name in _CONTROL_FLOW:
                return ast.unparse(node)
        return ""

    # --- results

    def _result(self, node: ast.expr, here: _Here) -> None:
        if not here.inline and self.scope.is_outermost:
            self._handed_back(node, here)

    def _handed_back(self, node: ast.expr, here: _Here) -> None:
        kind = ""
        match node:
            case ast.Lambda():
                kind = "a function"
            case ast.GeneratorExp():
                kind = "a generator"
            case ast.Name() if self.scope.is_function(node.id):
                kind = "a function"
            case ast.Name() if self.scope.is_module(node.id):
                kind = "a module"
            case ast.Call():
                name, _ = self.scope.called(node.func)
                if name in ("open", "io.open", "pathlib.Path.open"):
                    kind = "an open file"
                elif name in ("map", "filter", "zip", "iter", "reversed", "enumerate"):
                    kind = "an iterator"
            case _:
                pass
        if kind:
            self._add("result", node, here, kind)

    # ---

    def _add(
        self,
        kind: UseKind,
        node: ast.AST,
        here: _Here,
        name: str = "",
        *,
        text: str = "",
        arguments: tuple[str, ...] = (),
        made: bool = False,
    ) -> None:
        place = here.text or node
        workflow = self.scope.workflow() if here.awaits and here.text is None else ""
        fact = UseFact(
            kind=kind,
            span=self._span(place),
            text=text or self._text(node, here),
            name=name,
            arguments=arguments,
            workflow=workflow,
            inline=here.inline,
            made=made,
            exact=here.text is None,
        )
        if fact not in self.found:
            self.found.append(fact)

    def _text(self, node: ast.AST, here: _Here) -> str:
        """The node as written, where that is on one line and short."""
        written = ast.unparse(node)
        place = self._span(node)
        if here.text is None and getattr(node, "end_lineno", 0) == place.line:
            start = place.column - 1
            written = self.lines[place.line - 1][start : start + place.width]
        if len(written) <= _LENGTH or not isinstance(node, ast.Call):
            return written
        name = dotted(node.func)
        if not name and isinstance(node.func, ast.Attribute):
            name = f"….{node.func.attr}"
        return f"{name or '…'}(…)" if node.args or node.keywords else f"{name}()"

    def _span(self, node: ast.AST) -> Span:
        assert isinstance(node, (ast.expr, ast.stmt, ast.excepthandler))
        line = self.lines[node.lineno - 1] if node.lineno <= len(self.lines) else ""
        column = _column(line, node.col_offset)
        if node.end_lineno == node.lineno and node.end_col_offset is not None:
            width = _column(line, node.end_col_offset) - column
        else:
            width = 6 if isinstance(node, ast.excepthandler) else len(line.rstrip()) - column
        if isinstance(node, ast.excepthandler):
            width = len("except")
        return Span(node.lineno, column + 1, max(width, 1))


def _column(line: str, offset: int) -> int:
    return offset if line.isascii() else len(line.encode()[:offset].decode(errors="replace"))


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement of a body, without those of inner functions and classes."""
    for node in _expressions(body):
        if isinstance(node, ast.stmt):
            yield node


def _expressions(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Every node of a body, without those of inner functions and classes."""
    stack = list(body)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            stack.extend(ast.iter_child_nodes(node))


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try)):
            yield from _top_level(statement.body)
            yield from _top_level(statement.orelse)


def _methods(statement: ast.ClassDef) -> Iterator[Def]:
    """The methods of a class that are called as such: what looks like a field is none."""
    for inner in statement.body:
        if isinstance(inner, _FUNCTIONS) and not any(map(_is_field, inner.decorator_list)):
            yield inner


def _is_field(decorator: ast.expr) -> bool:
    return dotted(decorator).rpartition(".")[2] in _FIELDS


# --- variables of a module


def _variables(tree: ast.Module) -> frozenset[str]:
    """The variables of a module that hold a list, a dictionary or a set."""
    found: set[str] = set()
    for statement in _top_level(tree.body):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                continue
        made = dotted(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""
        literal = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
        if isinstance(value, literal) or made in _CONTAINERS:
            found.add(name)
    return frozenset(found)


def _changed(tree: ast.Module) -> Iterator[str]:
    """The variables of a module that its functions change."""
    containers = _variables(tree)
    modules = {
        node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Call)
        and dotted(node.value.func).endswith("import_module")
    }
    for function in _functions(tree.body):
        own = local_names(function)
        for node in ast.walk(function):
            match node:
                case ast.Global(names=names):
                    yield from (name for name in names if name not in modules)
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)):
                    if method in _CHANGES and name in containers and name not in own:
                        yield name
                case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                    if name in containers and name not in own:
                        yield name
                case _:
                    pass


def _functions(body: Sequence[ast.stmt]) -> Iterator[Def]:
    for statement in _top_level(body):
        if isinstance(statement, _FUNCTIONS):
            yield statement
        elif isinstance(statement, ast.ClassDef):
            yield from _functions(statement.body)


# --- comments


def _allows(text: str) -> Iterator[AllowFact]:
    """The comments that allow something, with the line each is about."""
    try:
        tokens = list(tokenize.generate_tokens(StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return
    code = sorted({t.start[0] for t in tokens if t.type not in _BLANK})
    for token in tokens:
        found = _ALLOW.match(token.string) if token.type == tokenize.COMMENT else None
        if found is None:
            continue
        line, column = token.start
        alone = not token.line[:column].strip()
        about = next((number for number in code if number > line), line) if alone else line
        codes = tuple(part.strip() for part in (found[1] or "").split(",") if part.strip())
        span = Span(line, column + 1, len(token.string))
        yield AllowFact(span, about, codes, found[2].strip())


_BLANK: Final[Container[int]] = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)
