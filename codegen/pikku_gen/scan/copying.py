"""Classes, aliases and constants in the words of another package that copies them.

A copy holds what values are made of: fields, bases, constraints, members, constants. Methods and
validators are left out, and what would change the JSON form of a value is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

import libcst as cst

from pikku_gen.model.facts import Problem
from pikku_gen.model.places import Span
from pikku_gen.scan.bindings import bound_names, names_of_target
from pikku_gen.scan.expressions import dotted, source
from pikku_gen.scan.module import Locate
from pikku_gen.scan.toplevel import ModuleCode, Small, descendants, is_marked

_QUOTED: Final = re.compile(r"""([rRuU]?)("{3}|'{3}|"|')(.*)\2""", re.DOTALL)
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
    opaque: tuple[str, ...] = ()


def copy_statement(code: ModuleCode, name: str, meaning: Meaning) -> Copy:
    """The statement of a name that is a class or a value."""
    if code.is_opaque(name):
        return Copy(f"{name}: {meaning.alias()} = {meaning.anything()}", opaque=(name,))
    node = code.node(name)
    copier = _Copier(code.locate, meaning)
    if isinstance(node, cst.ClassDef):
        made = copier.whole_class(node, name)
        bare = made.with_changes(leading_lines=(), lines_after_decorators=())
        text = cst.Module([bare]).code
    else:
        small = copier.value(node, name)
        text = source(small.with_changes(semicolon=cst.MaybeSentinel.DEFAULT))
    problems = tuple(copier.problems)
    return Copy(text.strip("\n"), tuple(copier.dropped), problems, tuple(copier.opaque))


@dataclass(slots=True)
class _Copier:
    locate: Locate
    meaning: Meaning
    asks: bool = False
    """Only find out whether everything that is read can be copied."""
    in_string: bool = False
    dropped: list[str] = field(default_factory=list[str])
    problems: list[Problem] = field(default_factory=list[Problem])
    opaque: list[str] = field(default_factory=list[str])
    edits: dict[cst.CSTNode, cst.CSTNode] = field(default_factory=dict[cst.CSTNode, cst.CSTNode])
    local: frozenset[str] = frozenset()
    """Names that mean something nearer than the top level."""
    copyable: bool = True

    def whole_class(self, node: cst.ClassDef, where: str) -> cst.ClassDef:
        """The class without its methods."""
        for keyword in node.keywords:
            if keyword.keyword is not None and keyword.keyword.value == "metaclass":
                self._problem("PKG602", keyword, where)
            else:
                self._read(keyword.value, where)
        for base in node.bases:
            if any(isinstance(part, cst.Call) for part in descendants(base.value)):
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
                opaque = is_marked(statement.leading_lines, statement.trailing_whitespace)
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
        self.opaque.append(where)
        annotation = node.annotation.with_changes(
            annotation=cst.parse_expression(self.meaning.anything())
        )
        if node.value is None:
            return node.with_changes(annotation=annotation)
        asking = _Copier(self.locate, self.meaning, asks=True, local=self.local)
        asking._read(node.value, where)
        if not asking.copyable:
            plain = cst.MaybeSentinel.DEFAULT
            return node.with_changes(annotation=annotation, value=None, equal=plain)
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
        self._read(value, where, quoted=isinstance(value, cst.Subscript))

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

    def _name(self, node: cst.CSTNode, name: str, where: str) -> None:
        first = name.partition(".")[0]
        if first in self.local and not self.meaning.qualified(first):
            return
        if self.asks:
            self.copyable &= self.meaning.is_copyable(name)
            return
        spelled = self.meaning.spelled(name, self.locate(node), where, quoted=self.in_string)
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
        copier = _Copier(lambda _: span, self.meaning, in_string=True, local=self.local)
        copier._read(inner, where, quoted=True)
        if copier.edits:
            text = source(copier._edited(inner))
            self.edits[node] = node.with_changes(value=f"{found[2]}{text}{found[2]}")

    def _edited(self, node: cst.CSTNode) -> cst.CSTNode:
        return cast(cst.CSTNode, node.visit(_Edits(self.edits)))

    def _problem(self, code: str, node: cst.CSTNode, subject: str) -> None:
        self.problems.append(Problem(code, self.locate(node), subject))


class _Edits(cst.CSTTransformer):
    def __init__(self, edits: dict[cst.CSTNode, cst.CSTNode]) -> None:
        super().__init__()
        self._edits = edits

    def on_leave(
        self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT
    ) -> cst.CSTNodeT | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNodeT]:
        made = self._edits.get(original_node)
        return updated_node if made is None else cast("cst.CSTNodeT", made)


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
