"""The step graph of a body: its steps and what decides whether, when and how often they run.

Whatever neither is a step nor ends the body early is left out as it is read, so that an edit there
leaves the graph as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import libcst as cst

from pikku_gen.model.facts import GraphKind, GraphNode, TargetFact
from pikku_gen.scan.bindings import bound_names, names_of_target, parameters_of
from pikku_gen.scan.expressions import dotted, is_detached, keyword, positional, source, string
from pikku_gen.scan.module import Locate
from pikku_gen.scan.targets import Meaning, read_signal, read_target

Nodes = list[GraphNode]

_TARGETED: Final = frozenset({"do", "map", "saga.do"})
_UNNAMED: Final = frozenset({"now", "uuid4", "random", "cancel"})
_SIDE_BY_SIDE: Final = frozenset({"gather", "wait", "as_completed"})
_PASSED_ON: Final = frozenset({"wait_for", "shield", "timeout"})
_TASKS: Final = frozenset({"create_task", "ensure_future"})


def read_graph(
    function: cst.FunctionDef, contexts: Mapping[str, str], meaning: Meaning, locate: Locate
) -> tuple[GraphNode, ...]:
    """The graph of a workflow function, or of a function it hands one of `contexts` to."""
    return tuple(_Reader(function, meaning, locate, dict(contexts)).read())


def template(node: cst.BaseExpression | None) -> str:
    """A step's name with `{}` for whatever is computed in it."""
    match node:
        case cst.SimpleString() | cst.ConcatenatedString() if string(node) is not None:
            return string(node) or ""
        case cst.ConcatenatedString():
            return template(node.left) + template(node.right)
        case cst.FormattedString():
            return "".join(
                part.value if isinstance(part, cst.FormattedStringText) else "{}"
                for part in node.parts
            )
        case cst.BinaryOperation(operator=cst.Add()):
            return template(node.left) + template(node.right)
        case cst.BinaryOperation(left=left, operator=cst.Modulo()):
            return template(left)
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="format"))):
            return template(value)
        case _:
            return "{}"


@dataclass(slots=True)
class _Reader:
    function: cst.FunctionDef
    meaning: Meaning
    locate: Locate
    aliases: dict[str, str]
    local: dict[str, cst.FunctionDef] = field(default_factory=dict[str, cst.FunctionDef])
    inside: tuple[str, ...] = ()
    """The local functions around what is read."""
    groups: set[str] = field(default_factory=set[str])
    """Variables that hold a TaskGroup."""
    held: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Variables that hold something started, by its numbers."""
    started: int = 0
    assigned: set[str] = field(default_factory=set[str])
    guards: dict[str, str] = field(default_factory=dict[str, str])
    """Variables that hold the answer of a guard, by its id."""

    def read(self) -> Nodes:
        self.assigned = set(bound_names(self.function.body))
        return self._block(self.function.body, is_async=self.function.asynchronous is not None)

    # --- statements

    def _block(self, block: cst.BaseSuite, *, is_async: bool = True) -> Nodes:
        found: Nodes = []
        for statement in block.body:
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    found += self._at(small, self._small(small, is_async=is_async))
            elif isinstance(statement, cst.BaseSmallStatement):
                found += self._at(statement, self._small(statement, is_async=is_async))
            elif isinstance(statement, cst.BaseCompoundStatement):
                found += self._at(statement, self._compound(statement, is_async=is_async))
        return found

    def _at(self, place: cst.CSTNode, nodes: Nodes) -> Nodes:
        """The nodes, those without a place of their own at this one."""
        if not nodes:
            return nodes
        span = self.locate(place)
        return [node if node.span.located else replace(node, span=span) for node in nodes]

    def _compound(self, statement: cst.BaseCompoundStatement, *, is_async: bool) -> Nodes:
        match statement:
            case cst.If():
                return self._if(statement, is_async=is_async)
            case cst.For():
                self._hold(names_of_target(statement.target), self._numbers_in(statement.iter))
                before = self._expression(statement.iter, live=True)
                before += self._within(statement.target)
                body = self._block(statement.body, is_async=is_async)
                return [*before, *self._loop(body, self._else(statement.orelse, is_async))]
            case cst.While():
                body = self._expression(statement.test)
                body += self._block(statement.body, is_async=is_async)
                return self._loop(body, self._else(statement.orelse, is_async))
            case cst.Try() | cst.TryStar():
                body = self._block(statement.body, is_async=is_async)
                handlers = [
                    (self._expression(h.type) if h.type else [])
                    + self._block(h.body, is_async=is_async)
                    for h in statement.handlers
                ]
                orelse = self._else(statement.orelse, is_async)
                last = statement.finalbody
                final = self._block(last.body, is_async=is_async) if last else []
                parts = (body, orelse, final, *handlers)
                return [_node("try", *parts)] if any(parts) else []
            case cst.With():
                return self._with(statement, is_async=is_async)
            case cst.Match():
                before = self._expression(statement.subject)
                branches = [
                    (self._expression(case.guard) if case.guard else [])
                    + self._block(case.body, is_async=is_async)
                    for case in statement.cases
                ]
                return [*before, *_choice(*branches, exhaustive=_is_exhaustive(statement))]
            case cst.FunctionDef():
                self.local[statement.name.value] = statement
                return self._definition(statement.decorators, statement.params)
            case cst.ClassDef():
                return self._class(statement)
            case _:
                return []

    def _definition(self, decorators: Sequence[cst.Decorator], parameters: cst.Parameters) -> Nodes:
        """What is executed where a function is defined."""
        found: Nodes = []
        for decorator in decorators:
            found += self._expression(decorator.decorator)
        every = [*parameters.posonly_params, *parameters.params, *parameters.kwonly_params]
        for parameter in every:
            if parameter.default is not None:
                found += self._expression(parameter.default)
        return found

    def _class(self, statement: cst.ClassDef) -> Nodes:
        """A class in a body: when its methods are called is not followed."""
        found = self._definition(statement.decorators, cst.Parameters())
        for argument in (*statement.bases, *statement.keywords):
            found += self._expression(argument.value)
        inner: Nodes = []
        for part in statement.body.body:
            if isinstance(part, cst.FunctionDef):
                found += self._definition(part.decorators, part.params)
                inner += self._block(part.body, is_async=part.asynchronous is not None)
            elif isinstance(part, cst.BaseCompoundStatement):
                inner += self._compound(part, is_async=True)
            elif isinstance(part, cst.SimpleStatementLine):
                for small in part.body:
                    inner += self._small(small, is_async=True)
        return [*found, _node("unknown", inner)] if _says(inner) else found

    def _if(self, statement: cst.If, *, is_async: bool) -> Nodes:
        before = self._expression(statement.test)
        body = self._block(statement.body, is_async=is_async)
        orelse: Nodes = []
        if isinstance(statement.orelse, cst.If):
            orelse = self._if(statement.orelse, is_async=is_async)
        elif statement.orelse is not None:
            orelse = self._block(statement.orelse.body, is_async=is_async)
        made = self._at(statement, _choice(body, orelse, exhaustive=True))
        return [*before, *self._guarded(statement.test, made)]

    def _guarded(self, test: cst.BaseExpression, choice: Nodes) -> Nodes:
        """The choice with the guard that its test asks for."""
        unless = isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not)
        inner = test.expression if isinstance(test, cst.UnaryOperation) and unless else test
        if isinstance(inner, cst.BooleanOperation) and isinstance(inner.operator, cst.And):
            if unless:  # `not (guard and more)` is no guard alone
                return choice
            inner = inner.left
        if isinstance(inner, cst.NamedExpr):
            inner = inner.value
        patch = ""
        if isinstance(inner, cst.Name):
            patch = self.guards.get(inner.value, "")
        elif isinstance(inner, cst.Call):
            patch = self._patch(inner)
        return [replace(node, patch=patch, unless=unless) for node in choice] if patch else choice

    def _patch(self, node: cst.Call) -> str:
        """The id of the guard that a call asks for; empty for any other call."""
        if self._meant(dotted(node.func)) != "ctx.workflow.patched" or not node.args:
            return ""
        return string(node.args[0].value) or ""

    def _else(self, orelse: cst.Else | None, is_async: bool) -> Nodes:
        return self._block(orelse.body, is_async=is_async) if orelse else []

    def _loop(self, body: Nodes, orelse: Nodes) -> Nodes:
        if all(node.kind in ("break", "continue") for node in body) and not orelse:
            return []
        return [_node("loop", body, orelse)]

    def _with(self, statement: cst.With, *, is_async: bool) -> Nodes:
        before: Nodes = []
        kinds: list[GraphKind] = []
        for item in statement.items:
            made = dotted(item.item.func) if isinstance(item.item, cst.Call) else ""
            kind: GraphKind = "with"
            if "ctx.saga" in (self._meant(made), self._meant(dotted(item.item))):
                kind = "saga"
            else:
                before += self._expression(item.item, live=True)
            if item.asname is not None:
                before += self._within(item.asname.name)
            if kind == "saga":
                pass
            elif made.rpartition(".")[2] == "TaskGroup":
                kind = "group"
            for name in names_of_target(item.asname.name) if item.asname else ():
                if kind == "saga":
                    self.aliases[name] = "ctx.saga"
                elif kind == "group":
                    self.groups.add(name)
            kinds.append(kind)
        inner = self._block(statement.body, is_async=is_async)
        for kind in reversed(kinds):
            inner = [_node(kind, inner)] if inner else []
        return [*before, *inner]

    def _small(self, statement: cst.BaseSmallStatement, *, is_async: bool) -> Nodes:
        match statement:
            case cst.Return(value=value):
                handed_on = not is_async
                found = self._expression(value, live=handed_on) if value is not None else []
                return [*found, GraphNode("return")]
            case cst.Raise(exc=error):
                found = self._expression(error) if error is not None else []
                return [*found, GraphNode("raise" if error is not None else "reraise")]
            case cst.Break():
                return [GraphNode("break")]
            case cst.Continue():
                return [GraphNode("continue")]
            case cst.Assign(targets=targets, value=value):
                return self._assign([target.target for target in targets], value)
            case cst.AnnAssign(target=target, value=value) if value is not None:
                return self._assign([target], value)
            case cst.AugAssign(target=target, value=value):
                found = [*self._within(target), *self._expression(value)]
                self._hold(names_of_target(target), _numbers(found))
                return found
            case _:
                return self._children(statement)

    def _assign(self, targets: Sequence[cst.BaseExpression], value: cst.BaseExpression) -> Nodes:
        meant = self._meant(dotted(value.func if isinstance(value, cst.Call) else value))
        is_call = isinstance(value, cst.Call)
        known = meant if meant == "ctx.saga" or (meant.startswith("ctx") and not is_call) else ""
        is_kept = bool(known) and all(isinstance(target, cst.Name) for target in targets)
        found = [] if is_kept else self._expression(value)
        names = [name for target in targets for name in names_of_target(target)]
        patch = self._patch(value) if isinstance(value, cst.Call) else ""
        for name in names:
            self.held.pop(name, None)
            self.guards.pop(name, None)
            if patch:
                self.guards[name] = patch
            if known:
                self.aliases[name] = known
            elif not isinstance(value, cst.Await):
                self.aliases.pop(name, None)
        self._hold(names, [*_numbers(found), *self._numbers_in(value)])
        for target in targets:
            found += self._within(target)
        return found

    def _within(self, target: cst.BaseExpression) -> Nodes:
        """What is executed to find the place that is assigned to."""
        return [] if isinstance(target, cst.Name) else self._children(target)

    # --- expressions

    def _expression(self, node: cst.CSTNode, *, live: bool = False) -> Nodes:
        """`live`: what the expression makes is awaited there and then."""
        match node:
            case cst.Await(expression=inner):
                found = self._expression(inner, live=True)
                if isinstance(inner, cst.Call) and self._is_step(inner):
                    return found
                numbers = self._numbers_in(inner)
                if isinstance(inner, cst.Call) and _ends_with_the_first(inner):
                    ends = [[GraphNode("join", name=number)] for number in numbers]
                    return [*found, _node("race", *ends)] if ends else found
                return [*found, GraphNode("join", name=" ".join(numbers))] if numbers else found
            case cst.Call():
                return self._call(node, live=live)
            case cst.Lambda(params=parameters, body=body):
                before = self._definition((), parameters)
                found = self._expression(body, live=True)
                return [*before, _node("unknown", found)] if found else before
            case cst.GeneratorExp() | cst.ListComp() | cst.SetComp():
                return self._comprehension([node.elt], node.for_in, live)
            case cst.DictComp():
                return self._comprehension([node.key, node.value], node.for_in, live)
            case cst.IfExp():
                before = self._expression(node.test)
                one = self._expression(node.body, live=live)
                other = self._expression(node.orelse, live=live)
                made = _choice(one, other, exhaustive=True)
                return [*before, *self._guarded(node.test, made)]
            case cst.BooleanOperation():
                before = self._expression(node.left)
                return [*before, *_choice(self._expression(node.right, live=live))]
            case cst.NamedExpr(target=target, value=value):
                found = self._assign([target], value)
                handed_on = _is_context(self._meant(dotted(value)))
                return [*found, GraphNode("unknown")] if handed_on else found
            case cst.Name(value=name) if name in self.local:
                return self._unfold(name)
            case cst.Name() | cst.Attribute(value=cst.Name()):
                # The context as a value: what is done with it is not followed.
                return [GraphNode("unknown")] if _is_context(self._meant(dotted(node))) else []
            case _:
                return self._children(node, live=live)

    def _children(self, node: cst.CSTNode, *, live: bool = False) -> Nodes:
        found: Nodes = []
        for child in node.children:
            if not isinstance(child, (cst.BaseParenthesizableWhitespace, cst.Annotation)):
                found += self._expression(child, live=live)
        return found

    def _comprehension(
        self, elements: Sequence[cst.BaseExpression], loop: cst.CompFor, live: bool
    ) -> Nodes:
        before = self._expression(loop.iter, live=True)
        before += self._within(loop.target)
        self._hold(names_of_target(loop.target), self._numbers_in(loop.iter))
        inner: Nodes = []
        for condition in loop.ifs:
            inner += self._expression(condition.test)
        if loop.inner_for_in is not None:
            inner += self._comprehension(elements, loop.inner_for_in, live)
        else:
            for element in elements:
                inner += self._expression(element, live=live)
        return [*before, *self._loop(inner, [])]

    def _call(self, node: cst.Call, *, live: bool) -> Nodes:
        name = dotted(node.func)
        owner, _, method = name.rpartition(".")
        meant = self._meant(name)
        if meant == "ctx.saga":  # neither entered nor assigned
            return [GraphNode("unknown")]
        if meant == "ctx.saga.do":
            return self._step("saga.do", node, live=live)
        if meant == "ctx.workflow.race":
            return self._side_by_side("race", node, live=live)
        if meant.startswith("ctx.workflow."):
            return self._step(meant.removeprefix("ctx.workflow."), node, live=live)
        if name in self.local:
            known = self._given_to(self.local[name], node)
            found = self._arguments(node, live=False, given=set(known))
            return [*found, *self._live(self._unfold(name, dict(known.values())), live)]
        if owner in self.groups and method in _TASKS:
            return self._start(self._arguments(node, live=True))
        if owner in ("", "asyncio") and method in _TASKS:
            found = self._arguments(node, live=True)
            return found if live else self._start(found)
        if owner in ("", "asyncio") and method in _SIDE_BY_SIDE:
            kind: GraphKind = "race" if _ends_with_the_first(node) else "parallel"
            return self._side_by_side(kind, node, live=live)
        if owner in ("", "asyncio") and method in _PASSED_ON:
            return self._live(self._arguments(node, live=True), live)
        found = self._expression(node.func)
        handed = {argument for argument in node.args if self._is_handed(argument)}
        found += self._arguments(node, live=live, given=handed)
        if method and "." not in owner:
            self._hold([owner] if owner else [], [*_numbers(found), *self._all_held(node)])
        given = next(self._given(node), None)
        return found if given is None else [*found, *self._live([given], live)]

    def _given(self, node: cst.Call) -> Iterator[GraphNode]:
        """The call as one that hands the context on, where it does."""
        for index, argument in enumerate(node.args):
            meant = self._meant(dotted(argument.value))
            if _is_context(meant):
                word = argument.keyword.value if argument.keyword else ""
                name = dotted(node.func) or source(node.func)
                own = name.partition(".")[0] in self.assigned
                if own or argument.star or meant.startswith("ctx.workflow."):
                    yield GraphNode("unknown", "" if own else name)
                else:
                    yield GraphNode("call", name, index=index, keyword=word)

    def _is_handed(self, argument: cst.Arg) -> bool:
        return _is_context(self._meant(dotted(argument.value)))

    def _given_to(
        self, function: cst.FunctionDef, node: cst.Call
    ) -> dict[cst.Arg, tuple[str, str]]:
        """The arguments of a local function that are the context: the parameter, and its meaning
        there."""
        found: dict[cst.Arg, tuple[str, str]] = {}
        parameters = [parameter.name.value for parameter in parameters_of(function)]
        words = [parameter.name.value for parameter in function.params.kwonly_params]
        for index, argument in enumerate(node.args):
            if argument.star:
                break
            if argument.keyword is not None:
                name = argument.keyword.value
            else:
                name = parameters[index] if index < len(parameters) else ""
            if name in (*parameters, *words) and self._is_handed(argument):
                found[argument] = (name, self._meant(dotted(argument.value)))
        return found

    def _side_by_side(self, kind: GraphKind, node: cst.Call, *, live: bool) -> Nodes:
        branches: list[Nodes] = []
        for argument in node.args:
            value = argument.value
            if argument.keyword is not None and argument.keyword.value not in ("fs", "aws"):
                continue
            if isinstance(value, (cst.List, cst.Tuple, cst.Set)):
                branches += [self._expression(item.value, live=True) for item in value.elements]
            else:
                branches.append(self._expression(value, live=True))
        branches = [branch for branch in branches if branch]
        return self._live([_node(kind, *branches)], live) if branches else []

    def _arguments(self, node: cst.Call, *, live: bool, given: Collection[cst.Arg] = ()) -> Nodes:
        found: Nodes = []
        for argument in node.args:
            if argument not in given:
                found += self._expression(argument.value, live=live)
        return found

    def _step(self, kind: str, node: cst.Call, *, live: bool) -> Nodes:
        arguments = positional(node.args)
        targeted = kind in _TARGETED or kind == "wait_for_signal"
        aside = arguments[1] if targeted and len(arguments) > 1 else None
        found: Nodes = []
        for argument in node.args:
            if argument is not aside:
                found += self._expression(argument.value)
        target = undo = None
        if kind == "wait_for_signal":
            if aside is not None:
                target = read_signal(aside.value, self._meant, self.assigned, self.locate)
        elif aside is not None:
            target = self._target(aside.value)
        undone = keyword(node.args, "undo")
        if kind == "saga.do" and undone is not None:
            undo = self._target(undone)
        step = GraphNode(
            "step",
            kind,
            "" if kind in _UNNAMED else template(arguments[0].value if arguments else None),
            target,
            undo,
            detached=is_detached(node),
            span=self.locate(node),
        )
        return [*found, *([step] if kind == "patched" else self._live([step], live))]

    def _target(self, node: cst.BaseExpression) -> TargetFact:
        return read_target(node, self._meant, self.local, self.assigned, self.locate)

    def _is_step(self, node: cst.Call) -> bool:
        meant = self._meant(dotted(node.func))
        return meant.startswith(("ctx.workflow.", "ctx.saga.")) and meant != "ctx.workflow.race"

    def _unfold(self, name: str, given: Mapping[str, str] | None = None) -> Nodes:
        """The graph of a local function, in the place where it is used; `given` are the parameters
        that stand for the context."""
        function = self.local[name]
        if name in self.inside:
            return [GraphNode("unknown")]
        own = {parameter.name.value for parameter in parameters_of(function)}
        shadowed = {
            alias: meant
            for alias, meant in self.aliases.items()
            if alias in own and meant not in ("ctx", "ctx.workflow")
        }
        for alias in shadowed:
            del self.aliases[alias]
        before = {word: self.aliases.get(word, "") for word in given or {}}
        self.aliases |= given or {}
        outer, self.inside = self.inside, (*self.inside, name)
        body = self._block(function.body, is_async=function.asynchronous is not None)
        self.inside = outer
        self.aliases |= {word: meant for word, meant in before.items() if meant}
        for word, meant in before.items():
            if not meant:
                self.aliases.pop(word, None)
        self.aliases |= shadowed
        return [_node("local", body)] if body else []

    # --- what is started in one place and awaited in another

    def _live(self, nodes: Nodes, live: bool) -> Nodes:
        return nodes if live else self._start(nodes)

    def _start(self, nodes: Nodes) -> Nodes:
        if not nodes:
            return []
        number = str(self.started)
        self.started += 1
        return [replace(_node("start", nodes), name=number)]

    def _hold(self, names: Iterable[str], numbers: Sequence[str]) -> None:
        for name in names:
            if numbers:
                self.held[name] = tuple(dict.fromkeys((*self.held.get(name, ()), *numbers)))

    def _all_held(self, node: cst.Call) -> list[str]:
        return [number for argument in node.args for number in self._numbers_in(argument.value)]

    def _numbers_in(self, node: cst.CSTNode) -> list[str]:
        """The numbers of what the names in an expression hold, without what it awaits itself."""
        if isinstance(node, (cst.Await, cst.BaseParenthesizableWhitespace)):
            return []
        if isinstance(node, cst.Name):
            return list(self.held.get(node.value, ()))
        return [number for child in node.children for number in self._numbers_in(child)]

    def _meant(self, name: str) -> str:
        if not name:
            return ""
        first, dot, rest = name.partition(".")
        known = self.aliases.get(first)
        if known:
            meant = f"{known}{dot}{rest}"
        else:
            meant = "" if first in self.assigned else self.meaning(name)
        return "ctx.saga" if meant == "ctx.workflow.saga" else meant


def _node(kind: GraphKind, *parts: Nodes) -> GraphNode:
    return GraphNode(kind, parts=tuple(map(tuple, parts)))


def _choice(*branches: Nodes, exhaustive: bool = False) -> Nodes:
    if not any(branches):
        return []
    return [replace(_node("choice", *branches), exhaustive=exhaustive)]


def _ends_with_the_first(node: cst.Call) -> bool:
    """True for `asyncio.wait(…, return_when=FIRST_COMPLETED)`."""
    when = keyword(node.args, "return_when")
    return when is not None and dotted(when).rpartition(".")[2] == "FIRST_COMPLETED"


def _is_context(meant: str) -> bool:
    """True for what steps can be taken by."""
    return meant in ("ctx", "ctx.workflow", "ctx.saga") or meant.startswith("ctx.workflow.")


def _says(nodes: Iterable[GraphNode]) -> bool:
    """True where anything below the nodes is or may be a step."""
    return any(
        node.kind in ("step", "call", "unknown") or any(map(_says, node.parts)) for node in nodes
    )


def _numbers(nodes: Iterable[GraphNode]) -> list[str]:
    """The numbers of everything that is started below some nodes."""
    found: list[str] = []
    for node in nodes:
        if node.kind == "start":
            found.append(node.name)
        for part in node.parts:
            found += _numbers(part)
    return found


def _is_exhaustive(statement: cst.Match) -> bool:
    last = statement.cases[-1]
    return last.guard is None and isinstance(last.pattern, cst.MatchAs) and not last.pattern.pattern
