"""The statements at the top level of one module, by the names that they bind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

import libcst as cst

from pikku_gen.model.facts import Problem
from pikku_gen.model.places import Span
from pikku_gen.scan.bindings import names_of_target
from pikku_gen.scan.expressions import dotted
from pikku_gen.scan.module import Locate, measure, parse_module

Kind = Literal["class", "value", "def", "import", "other"]
Small: TypeAlias = cst.BaseSmallStatement
_OPAQUE: Final = re.compile(r"#\s*pikku:\s*opaque\b")
_TYPE_CHECKING: Final = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


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
            for node in descendants(self._found[name].node)
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

    def node(self, name: str) -> cst.ClassDef | Small:
        """The statement of a name that is a class or a value."""
        return cast("cst.ClassDef | Small", self._found[name].node)

    @property
    def locate(self) -> Locate:
        """Where a node stands."""
        return self._locate

    # ---

    def _add(self, order: int, statement: cst.CSTNode) -> None:
        match statement:
            case cst.SimpleStatementLine():
                opaque = is_marked(statement.leading_lines, statement.trailing_whitespace)
                for small in statement.body:
                    self._add_small(order, small, opaque=opaque)
            case cst.ClassDef():
                opaque = is_marked(statement.leading_lines, _head_of(statement.body))
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


def is_marked(above: Sequence[cst.EmptyLine], behind: cst.TrailingWhitespace | None) -> bool:
    """True where `# pikku: opaque` stands behind a statement, or on the line above it."""
    comments = [above[-1].comment if above else None, behind.comment if behind else None]
    return any(comment and _OPAQUE.match(comment.value) for comment in comments)


def _head_of(body: cst.BaseSuite) -> cst.TrailingWhitespace | None:
    """What stands behind the colon of a block, or behind a suite on one line."""
    if isinstance(body, cst.IndentedBlock):
        return body.header
    return body.trailing_whitespace if isinstance(body, cst.SimpleStatementSuite) else None


def _only_imports(statement: cst.If | cst.Try) -> bool:
    """True for a choice between imports, such as one by the version of Python."""
    return all(
        isinstance(small, (cst.Import, cst.ImportFrom, cst.Pass))
        for node in descendants(statement)
        if isinstance(node, (cst.SimpleStatementLine, cst.SimpleStatementSuite))
        for small in node.body
    )


def _bound(statement: cst.CSTNode) -> Iterator[str]:
    for node in descendants(statement):
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


def descendants(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A node and everything below it."""
    yield node
    for child in node.children:
        yield from descendants(child)
