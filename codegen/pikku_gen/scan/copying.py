"""The top level of one module as statements that can be copied into another package, name by name.

A copy holds what values are made of: fields, bases, constraints, members, constants. Methods and
validators are left out, and what would change the JSON form of a value is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias, cast

import libcst as cst

from pikku_gen.model.facts import Problem
from pikku_gen.model.places import Span
from pikku_gen.scan.bindings import bound_names, names_of_target
from pikku_gen.scan.expressions import dotted, source
from pikku_gen.scan.module import measure, parse_module

Kind = Literal["class", "value", "def", "import", "other"]
Small: TypeAlias = cst.BaseSmallStatement
_OPAQUE: Final = re.compile(r"#\s*pikku:\s*opaque\b")
_QUOTED: Final = re.compile(r"""([rRuU]?)("{3}|'{3}|"|')(.*)\2""", re.DOTALL)
_TYPE_CHECKING: Final = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
_FACTORIES: Final = frozenset(
    {
        "collections.namedtuple",
        "dataclasses.make_dataclass",
        "enum.Enum",
        "enum.Flag",
        "enum.IntEnum",
        "enum.IntFlag",
        "enum.StrEnum",
        "pydantic.create_model",
        "type",
        "types.new_class",
        "typing.NamedTuple",
        "typing.TypedDict",
        "typing_extensions.NamedTuple",
        "typing_extensions.TypedDict",
    }
)
_MAKES_VALUES: Final = frozenset(
    {"__init__", "__new__", "_generate_next_value_", "__get_pydantic_core_schema__"}
)
_SERIALIZERS: Final = frozenset({"field_serializer", "model_serializer"})
_CHECKS: Final = re.compile(
    r"pydantic(\.functional_validators)?\.(After|Before|Wrap)Validator", re.ASCII
)


class Meaning(Protocol):
    """What the names of the module stand for."""

    def spelled(self, name: str, span: Span, where: str, *, quoted: bool) -> str:
        """How the copy writes a dotted name of the module; `where` is the field that has it."""
        ...

    def qualified(self, name: str) -> str:
        """The dotted name from the module that defines it; or empty."""
        ...

    def is_copyable(self, name: str) -> bool:
        """False for a name that a copy cannot have."""
        ...

    def anything(self) -> str:
        """How the copy writes `typing.Any`."""
        ...

    def alias(self) -> str:
        """How the copy writes `typing.TypeAlias`."""
        ...


@dataclass(frozen=True, slots=True)
class Copy:
    """A statement in the words of the copy."""

    code: str
    dropped: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class _Statement:
    kind: Kind
    order: int
    node: cst.CSTNode
    opaque: bool = False


class ModuleCode:
    """A module that was parsed to be copied from.

    Attributes:
        postponed: its annotations are not evaluated (`from __future__ import annotations`).
        modern: it is written for Python 3.12 and newer.
    """

    def __init__(self, module: cst.Module) -> None:
        self._module, self._locate = measure(module)
        self._found: dict[str, _Statement] = {}
        self.postponed = False
        for order, statement in enumerate(self._module.body):
            self._add(order, statement)

    def kind(self, name: str) -> Kind | None:
        """What binds a name at the top level, where anything does."""
        found = self._found.get(name)
        return found.kind if found else None

    def order(self, name: str) -> int:
        """Where the statement of a name stands among the others."""
        return self._found[name].order

    def is_opaque(self, name: str) -> bool:
        """True for what is marked with `# pikku: opaque`."""
        found = self._found.get(name)
        return found is not None and found.opaque

    def is_modern(self, name: str) -> bool:
        """True for what Python 3.11 cannot read."""
        return any(
            isinstance(node, (cst.TypeAlias, cst.TypeParameters))
            for node in _descendants(self._found[name].node)
        )

    def span(self, name: str) -> Span:
        """Where a name is bound."""
        node = self._found[name].node
        return self._locate(node.name if isinstance(node, cst.ClassDef) else node)

    def imported(self, name: str) -> str:
        """The statement that imports a name under a condition; or empty."""
        found = self._found.get(name)
        if found is None or found.kind != "import":
            return ""
        bare = cast("cst.If | cst.Try", found.node).with_changes(leading_lines=())
        return cst.Module([bare]).code.rstrip("\n")

    def copy(self, name: str, meaning: Meaning) -> Copy:
        """The statement of a name, which is a class or a value."""
        found = self._found[name]
        copier = _Copier(self._locate, meaning)
        if found.opaque:
            return Copy(f"{name}: {meaning.alias()} = {meaning.anything()}", opaque=True)
        if isinstance(found.node, cst.ClassDef):
            node = copier.whole_class(found.node, name)
            code = cst.Module([node.with_changes(leading_lines=(), lines_after_decorators=())]).code
        else:
            small = copier.value(cast(Small, found.node), name)
            code = source(small.with_changes(semicolon=cst.MaybeSentinel.DEFAULT))
        return Copy(code.strip("\n"), tuple(copier.dropped), tuple(copier.problems))

    # ---

    def _add(self, order: int, statement: cst.CSTNode) -> None:
        match statement:
            case cst.SimpleStatementLine():
                opaque = _is_marked(statement.leading_lines, statement.trailing_whitespace)
                for small in statement.body:
                    self._add_small(order, small, opaque=opaque)
            case cst.ClassDef():
                opaque = _is_marked(statement.leading_lines, _head(statement.body))
                self._bind(statement.name.value, _Statement("class", order, statement, opaque))
            case cst.FunctionDef():
                self._bind(statement.name.value, _Statement("def", order, statement))
            case cst.If() if dotted(statement.test) in _TYPE_CHECKING:
                pass
            case cst.If() | cst.Try():
                kind: Kind = "import" if _only_imports(statement) else "other"
                for name in _bound(statement):
                    self._bind(name, _Statement(kind, order, statement))
            case _:
                for name in _bound(statement):
                    self._bind(name, _Statement("other", order, statement))

    def _add_small(self, order: int, small: Small, *, opaque: bool) -> None:
        match small:
            case cst.ImportFrom(module=cst.Name(value="__future__")):
                names = () if isinstance(small.names, cst.ImportStar) else small.names
                self.postponed |= any(each.evaluated_name == "annotations" for each in names)
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))]):
                self._bind(name, _Statement("value", order, small, opaque))
            case (
                cst.AnnAssign(target=cst.Name(value=name))
                | cst.TypeAlias(name=cst.Name(value=name))
            ):
                self._bind(name, _Statement("value", order, small, opaque))
            case cst.Assign():
                for target in small.targets:
                    for name in names_of_target(target.target):
                        self._bind(name, _Statement("other", order, small))
            case _:
                pass

    def _bind(self, name: str, statement: _Statement) -> None:
        self._found.setdefault(name, statement)


def parse_code(text: str) -> ModuleCode | Problem:
    """The module of a text, or the syntax error in it."""
    module = parse_module(text)
    return module if isinstance(module, Problem) else ModuleCode(module)


@dataclass(slots=True)
class _Copier:
    locate: _Locate
    meaning: Meaning
    dropped: list[str] = field(default_factory=list[str])
    problems: list[Problem] = field(default_factory=list[Problem])
    edits: dict[cst.CSTNode, cst.CSTNode] = field(default_factory=dict[cst.CSTNode, cst.CSTNode])
    local: frozenset[str] = frozenset()
    """Names that mean something nearer than the top level."""

    def whole_class(self, node: cst.ClassDef, where: str) -> cst.ClassDef:
        """The class without its methods."""
        for keyword in node.keywords:
            if keyword.keyword is not None and keyword.keyword.value == "metaclass":
                self._problem("PKG602", keyword, where)
            else:
                self._read(keyword.value, where)
        for base in node.bases:
            if any(isinstance(part, cst.Call) for part in _descendants(base.value)):
                self._problem("PKG601", base, where)
            else:
                self._read(base.value, where, quoted=True)
        for decorator in node.decorators:
            self._read(decorator.decorator, where)
        self._parameters(node.type_parameters, where)
        body = node.body
        statements: list[cst.BaseStatement] = []
        outer = self.local
        self.local |= frozenset(_members(body)) | frozenset(_parameter_names(node.type_parameters))
        if isinstance(body, cst.IndentedBlock):
            for statement in body.body:
                statements += self._member(statement, where)
        elif isinstance(body, cst.SimpleStatementSuite):
            line = cst.SimpleStatementLine(body.body)
            statements += self._member(line, where)
        self.local = outer
        if not statements:
            statements = [cst.SimpleStatementLine([cst.Pass()])]
        head = statements[0]
        if isinstance(head, (cst.SimpleStatementLine, cst.ClassDef)):
            statements[0] = head.with_changes(
                leading_lines=[line for line in head.leading_lines if line.comment]
            )
        made = node.with_changes(body=cst.IndentedBlock(statements))
        return cast(cst.ClassDef, self._edited(made))

    def value(self, node: Small, where: str) -> Small:
        """An assignment or a type alias."""
        match node:
            case cst.TypeAlias():
                outer = self.local
                self.local |= frozenset(_parameter_names(node.type_parameters))
                self._parameters(node.type_parameters, where)
                self._read(node.value, where, quoted=True)
                self.local = outer
            case cst.Assign():
                self._made(node.value, where)
            case cst.AnnAssign():
                self._read(node.annotation.annotation, where, quoted=True)
                self._made(node.value, where)
            case _:
                self._problem("PKG606", node, where)
        return cast(Small, self._edited(node))

    # --- the body of a class

    def _member(self, statement: cst.BaseStatement, where: str) -> Iterator[cst.BaseStatement]:
        match statement:
            case cst.FunctionDef():
                self._method(statement, where)
            case cst.ClassDef():
                yield self.whole_class(statement, f"{where}.{statement.name.value}")
            case cst.SimpleStatementLine():
                opaque = _is_marked(statement.leading_lines, statement.trailing_whitespace)
                kept = [self._field(small, where, opaque=opaque) for small in statement.body]
                if kept:
                    yield statement.with_changes(body=kept)
            case _:
                self._problem("PKG606", statement, where)

    def _method(self, node: cst.FunctionDef, where: str) -> None:
        name = node.name.value
        made_by = {
            dotted(item.func if isinstance(item, cst.Call) else item).rpartition(".")[2]
            for item in (decorator.decorator for decorator in node.decorators)
        }
        if name in _MAKES_VALUES or made_by & _SERIALIZERS:
            self._problem("PKG605", node.name, f"{where}.{name}")
        else:
            self.dropped.append(f"{where}.{name}")

    def _field(self, node: Small, where: str, *, opaque: bool) -> Small:
        match node:
            case cst.AnnAssign(target=cst.Name(value=name)):
                if opaque:
                    return self._opaque(node, f"{where}.{name}")
                self._read(node.annotation.annotation, f"{where}.{name}", quoted=True)
                if node.value is not None:
                    self._read(node.value, f"{where}.{name}")
            case cst.Assign():
                name = dotted(node.targets[0].target)
                self._read(node.value, f"{where}.{name}" if name else where)
            case (
                cst.Pass()
                | cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString() | cst.Ellipsis())
            ):
                pass
            case _:
                self._problem("PKG606", node, where)
        return node

    def _opaque(self, node: cst.AnnAssign, where: str) -> Small:
        annotation = node.annotation.with_changes(
            annotation=cst.parse_expression(self.meaning.anything())
        )
        if node.value is None:
            return node.with_changes(annotation=annotation)
        probe = _Copier(self.locate, _Silent(self.meaning), local=self.local)
        try:
            probe._read(node.value, where)
        except _Uncopyable:
            return node.with_changes(annotation=annotation, value=None, equal=_NO_EQUAL)
        self._read(node.value, where)
        return node.with_changes(annotation=annotation)

    # --- expressions

    def _made(self, value: cst.BaseExpression | None, where: str) -> None:
        """The value of a constant or an alias."""
        if value is None:
            return
        if isinstance(value, cst.Call):
            if self.meaning.qualified(dotted(value.func)) in _FACTORIES:
                self._problem("PKG601", value.func, where)
                return
            self._read(value, where)
        else:
            self._read(value, where, quoted=not isinstance(value, cst.SimpleString))

    def _parameters(self, parameters: cst.TypeParameters | None, where: str) -> None:
        for each in parameters.params if parameters else ():
            if isinstance(each.param, cst.TypeVar) and each.param.bound is not None:
                self._read(each.param.bound, where, quoted=True)
            if each.default is not None:
                self._read(each.default, where, quoted=True)

    def _read(self, node: cst.CSTNode, where: str, *, quoted: bool = False) -> None:
        """Notes how every name below a node is written in the copy."""
        match node:
            case cst.Name() | cst.Attribute() if dotted(node):
                self._name(node, dotted(node), where)
            case cst.Attribute():
                self._read(node.value, where)
            case cst.Arg():
                self._read(node.value, where, quoted=quoted)
            case cst.Subscript():
                self._subscript(node, where, quoted=quoted)
            case cst.SimpleString():
                if quoted:
                    self._string(node, where)
            case cst.Lambda():
                self._nested(node.body, node.params, where)
                for parameter in node.params.params:
                    if parameter.default is not None:
                        self._read(parameter.default, where)
            case cst.ListComp() | cst.SetComp() | cst.GeneratorExp() | cst.DictComp():
                self._nested(node, node.for_in, where)
            case cst.CompFor():
                for part in (node.iter, *node.ifs, node.inner_for_in):
                    if part is not None:
                        self._read(part, where)
            case cst.NamedExpr():
                self._read(node.value, where)
            case _:
                for child in node.children:
                    self._read(child, where, quoted=quoted)

    def _nested(self, node: cst.CSTNode, binder: cst.CSTNode, where: str) -> None:
        outer = self.local
        if isinstance(binder, cst.Parameters):
            every = [*binder.posonly_params, *binder.params, *binder.kwonly_params]
            self.local |= {parameter.name.value for parameter in every}
        else:
            self.local |= set(bound_names(binder))
        if isinstance(node, cst.BaseComp):
            for child in node.children:
                self._read(child, where)
        else:
            self._read(node, where)
        self.local = outer

    def _name(self, node: cst.CSTNode, name: str, where: str, *, quoted: bool = False) -> None:
        first = name.partition(".")[0]
        if first in self.local and not self.meaning.qualified(first):
            return
        spelled = self.meaning.spelled(name, self.locate(node), where, quoted=quoted)
        if spelled != name:
            self.edits[node] = cst.parse_expression(spelled)

    def _subscript(self, node: cst.Subscript, where: str, *, quoted: bool) -> None:
        self._read(node.value, where, quoted=quoted)
        form = self.meaning.qualified(dotted(node.value)).rpartition(".")[2]
        if form == "Annotated":
            first, *rest = node.slice
            self._read(first.slice, where, quoted=quoted)
            kept = [item for item in rest if not self._is_check(item)]
            for item in kept:
                self._read(item.slice, where)
            if len(kept) < len(rest):
                self.dropped.append(where)
                self.edits[node] = self._annotated(node, first, kept)
            return
        for item in node.slice:
            self._read(item.slice, where, quoted=quoted and form != "Literal")

    def _is_check(self, item: cst.SubscriptElement) -> bool:
        index = item.slice
        if not isinstance(index, cst.Index) or not isinstance(index.value, cst.Call):
            return False
        return bool(_CHECKS.fullmatch(self.meaning.qualified(dotted(index.value.func))))

    def _annotated(
        self, node: cst.Subscript, first: cst.SubscriptElement, kept: list[cst.SubscriptElement]
    ) -> cst.CSTNode:
        if not kept:
            return self._edited(cast(cst.Index, first.slice).value)
        last = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return self._edited(node.with_changes(slice=[first, *kept[:-1], last]))

    def _string(self, node: cst.SimpleString, where: str) -> None:
        """A reference to a type that is defined further below."""
        found = _QUOTED.fullmatch(node.value)
        if found is None or found[1] or "\\" in found[3]:
            return
        try:
            inner = cst.parse_expression(found[3].strip())
        except cst.ParserSyntaxError:
            return
        span = self.locate(node)
        copier = _Copier(lambda _: span, _Quoted(self.meaning), local=self.local)
        copier._read(inner, where, quoted=True)
        self.problems += copier.problems
        if copier.edits:
            text = source(copier._edited(inner))
            self.edits[node] = node.with_changes(value=f"{found[2]}{text}{found[2]}")

    def _edited(self, node: cst.CSTNode) -> cst.CSTNode:
        return cast(cst.CSTNode, node.visit(_Edits(self.edits)))

    def _problem(self, code: str, node: cst.CSTNode, subject: str) -> None:
        self.problems.append(Problem(code, self.locate(node), subject))


class _Locate(Protocol):
    def __call__(self, node: cst.CSTNode, /) -> Span: ...


class _Uncopyable(Exception):
    """A default that holds what a copy cannot have."""


@dataclass(slots=True)
class _Silent:
    """Asks whether an expression can be copied, and notes nothing."""

    meaning: Meaning

    def spelled(self, name: str, span: Span, where: str, *, quoted: bool) -> str:
        if not self.meaning.is_copyable(name):
            raise _Uncopyable
        return name

    def qualified(self, name: str) -> str:
        return self.meaning.qualified(name)

    def is_copyable(self, name: str) -> bool:
        return self.meaning.is_copyable(name)

    def anything(self) -> str:
        return self.meaning.anything()

    def alias(self) -> str:
        return self.meaning.alias()


@dataclass(slots=True)
class _Quoted:
    """The same meaning, of names in a string."""

    meaning: Meaning

    def spelled(self, name: str, span: Span, where: str, *, quoted: bool) -> str:
        return self.meaning.spelled(name, span, where, quoted=True)

    def qualified(self, name: str) -> str:
        return self.meaning.qualified(name)

    def is_copyable(self, name: str) -> bool:
        return self.meaning.is_copyable(name)

    def anything(self) -> str:
        return self.meaning.anything()

    def alias(self) -> str:
        return self.meaning.alias()


class _Edits(cst.CSTTransformer):
    def __init__(self, edits: dict[cst.CSTNode, cst.CSTNode]) -> None:
        super().__init__()
        self._edits = edits

    def on_leave(
        self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT
    ) -> cst.CSTNodeT | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNodeT]:
        made = self._edits.get(original_node)
        return updated_node if made is None else cast("cst.CSTNodeT", made)


_NO_EQUAL: Final = cst.MaybeSentinel.DEFAULT


def _is_marked(above: Sequence[cst.EmptyLine], behind: cst.TrailingWhitespace | None) -> bool:
    comments = [above[-1].comment if above else None, behind.comment if behind else None]
    return any(comment and _OPAQUE.match(comment.value) for comment in comments)


def _head(body: cst.BaseSuite) -> cst.TrailingWhitespace | None:
    """What stands behind the colon of a block, or behind a suite on one line."""
    if isinstance(body, cst.IndentedBlock):
        return body.header
    return body.trailing_whitespace if isinstance(body, cst.SimpleStatementSuite) else None


def _only_imports(statement: cst.If | cst.Try) -> bool:
    """True for a choice between imports, such as one by the version of Python."""
    return all(
        isinstance(small, (cst.Import, cst.ImportFrom, cst.Pass))
        for node in _descendants(statement)
        if isinstance(node, (cst.SimpleStatementLine, cst.SimpleStatementSuite))
        for small in node.body
    )


def _bound(statement: cst.CSTNode) -> Iterator[str]:
    for node in _descendants(statement):
        if isinstance(node, (cst.Import, cst.ImportFrom)):
            if not isinstance(node.names, cst.ImportStar):
                for alias in node.names:
                    yield alias.evaluated_alias or alias.evaluated_name.partition(".")[0]
        elif isinstance(node, cst.Assign):
            for target in node.targets:
                yield from names_of_target(target.target)
        elif isinstance(node, (cst.AnnAssign, cst.AugAssign, cst.For)):
            yield from names_of_target(node.target)
        elif isinstance(node, (cst.ClassDef, cst.FunctionDef)):
            yield node.name.value


def _members(body: cst.BaseSuite) -> Iterator[str]:
    for statement in body.body:
        if isinstance(statement, (cst.ClassDef, cst.FunctionDef)):
            yield statement.name.value
        elif isinstance(statement, cst.SimpleStatementLine):
            for small in statement.body:
                if isinstance(small, cst.AnnAssign):
                    yield from names_of_target(small.target)
                elif isinstance(small, cst.Assign):
                    for target in small.targets:
                        yield from names_of_target(target.target)


def _parameter_names(parameters: cst.TypeParameters | None) -> list[str]:
    return [each.param.name.value for each in parameters.params] if parameters else []


def _descendants(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _descendants(child)
