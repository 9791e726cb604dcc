"""The body of a workflow: its steps, what happens to each, and the calls that are no steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import libcst as cst

from pikku_gen.model.facts import (
    CallFact,
    ConcurrentName,
    StepFact,
    TargetFact,
    ValueFact,
)
from pikku_gen.model.places import Span
from pikku_gen.scan.bindings import bound_names, parameters_of
from pikku_gen.scan.expressions import (
    dotted,
    is_detached,
    is_none,
    keyword,
    positional,
    source,
    string,
)
from pikku_gen.scan.module import Locate
from pikku_gen.scan.targets import Meaning, read_signal, read_target
from pikku_gen.scan.values import Variables, annotated, read_value

STEPS: Final = frozenset(
    {
        "do",
        "map",
        "sleep",
        "sleep_until",
        "wait_for_signal",
        "approval",
        "suspend",
        "patched",
        "saga.do",
    }
)
TARGETED: Final = frozenset({"do", "map", "wait_for_signal", "saga.do"})
_CONCURRENT: Final = frozenset(
    {"gather", "wait", "wait_for", "as_completed", "create_task", "ensure_future", "shield"}
)
_LITERALS: Final = (cst.Integer, cst.Float, cst.List, cst.Dict, cst.Tuple, cst.Set, cst.Lambda)


@dataclass(frozen=True, slots=True)
class BodyFacts:
    """What the body of one workflow says."""

    steps: tuple[StepFact, ...]
    calls: tuple[CallFact, ...]
    concurrent: tuple[ConcurrentName, ...]
    linear: bool


def read_body(
    function: cst.FunctionDef,
    contexts: Mapping[str, str],
    meaning: Meaning,
    locate: Locate,
    *,
    hands_back: bool = False,
) -> BodyFacts:
    """The facts of a workflow function's body; `contexts` are its parameters that stand for `ctx`
    or a part of it. What `hands_back` a step may leave it to its caller to await it."""
    body = _Body(function, meaning, locate, dict(contexts), hands_back)
    body.read()
    return BodyFacts(
        tuple(body.finished_steps()),
        tuple(call for function, call in body.calls if function not in body.inline),
        tuple(_clashes(body.started, body.functions)),
        body.linear,
    )


@dataclass(frozen=True, slots=True)
class _Here:
    """What surrounds the expression or statement that is being read."""

    group: int = 0
    """The concurrent group; 0: none."""
    member: int = 0
    repeated: bool = False
    variable: str = ""
    """The variable of the nearest loop."""
    loops: int = 0
    branches: tuple[tuple[int, int], ...] = ()
    straight: bool = True
    function: str = ""
    """The local function; empty in the workflow itself."""
    fate: Literal["used", "unawaited", "unused"] = "used"
    kept_in: str = ""
    awaited: bool = False


_OPEN: Final = -1
"""The group of the steps that are started and awaited later."""


@dataclass(slots=True)
class _Started:
    """A step, or the call of a local function with steps, and when it runs."""

    name: str
    is_call: bool
    span: Span
    here: _Here
    opened: int
    closed: int | None = None
    repeated: bool = False


@dataclass(slots=True)
class _Body:
    function: cst.FunctionDef
    meaning: Meaning
    locate: Locate
    aliases: dict[str, str]
    hands_back: bool = False
    steps: list[StepFact] = field(default_factory=list[StepFact])
    calls: list[tuple[str, CallFact]] = field(default_factory=list[tuple[str, CallFact]])
    """Calls that are no steps, with the local function whose recording would cover them."""
    started: list[_Started] = field(default_factory=list["_Started"])
    functions: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    linear: bool = True
    variables: Variables = field(default_factory=dict[str, ValueFact])
    loads: set[str] = field(default_factory=set[str])
    task_groups: dict[str, _Here] = field(default_factory=dict[str, _Here])
    assigned: set[str] = field(default_factory=set[str])
    reassigned: set[str] = field(default_factory=set[str])
    inline: set[str] = field(default_factory=set[str])
    """Local functions that are the callable of an inline step: what they return is recorded."""
    clock: int = 0
    numbers: int = 0

    def read(self) -> None:
        for parameter in parameters_of(self.function):
            known = annotated(parameter.annotation, self.locate)
            if known and parameter.name.value not in self.aliases:
                self.variables[parameter.name.value] = known
        self._note_assignments(self.function.body)
        self._block(self.function.body, _Here())

    def finished_steps(self) -> Iterator[StepFact]:
        """The steps, those kept in a variable nobody reads marked as unused."""
        for step in self.steps:
            if step.variable and step.variable not in self.loads:
                yield replace(step, fate="unused")
            else:
                yield replace(step, variable="")

    # --- statements

    def _block(self, block: cst.BaseSuite, here: _Here) -> None:
        for statement in block.body:
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    self._small(small, here)
            elif isinstance(statement, cst.BaseCompoundStatement):
                self._compound(statement, here)
            elif isinstance(statement, cst.BaseSmallStatement):
                self._small(statement, here)

    def _compound(self, statement: cst.BaseCompoundStatement, here: _Here) -> None:
        match statement:
            case cst.If():
                self._if(statement, here, self._number(), 0)
            case cst.For():
                self._expression(statement.iter, here)
                name = dotted(statement.target) or "item"
                self._block(statement.body, _looped(here, name))
                self._orelse(statement.orelse, here)
            case cst.While():
                self._expression(statement.test, _looped(here, ""))
                self._block(statement.body, _looped(here, ""))
                self._orelse(statement.orelse, here)
            case cst.Try() | cst.TryStar():
                self._block(statement.body, here)
                for handler in statement.handlers:
                    self._block(handler.body, replace(here, straight=False))
                self._orelse(statement.orelse, here)
                if statement.finalbody:
                    self._block(statement.finalbody.body, replace(here, straight=False))
            case cst.With():
                self._with(statement, here)
            case cst.Match():
                self._expression(statement.subject, here)
                number = self._number()
                for arm, case in enumerate(statement.cases):
                    self._block(case.body, _in_arm(here, number, arm))
            case cst.FunctionDef():
                self.functions.setdefault(statement.name.value, [])
                inner = _Here(straight=False, function=statement.name.value)
                self._block(statement.body, inner)
            case _:
                pass

    def _if(self, statement: cst.If, here: _Here, number: int, arm: int) -> None:
        self._expression(statement.test, here)
        self._block(statement.body, _in_arm(here, number, arm))
        if isinstance(statement.orelse, cst.If):
            self._if(statement.orelse, replace(here, straight=False), number, arm + 1)
        elif statement.orelse is not None:
            self._block(statement.orelse.body, _in_arm(here, number, arm + 1))

    def _orelse(self, orelse: cst.Else | None, here: _Here) -> None:
        if orelse is not None:
            self._block(orelse.body, replace(here, straight=False))

    def _with(self, statement: cst.With, here: _Here) -> None:
        inner = here
        for item in statement.items:
            self._expression(item.item, here)
            made = dotted(item.item.func) if isinstance(item.item, cst.Call) else ""
            if self._meant(made) == "ctx.saga" and item.asname:
                self.aliases[dotted(item.asname.name)] = "ctx.saga"
            if made.endswith("TaskGroup") and item.asname:
                group = replace(here, group=self._number())
                self.task_groups[dotted(item.asname.name)] = group
        self._block(statement.body, inner)

    def _small(self, statement: cst.BaseSmallStatement, here: _Here) -> None:
        self.clock += 1
        match statement:
            case cst.Expr(value=value):
                self._expression(value, replace(here, fate="unawaited"))
            case cst.Return(value=value):
                if not here.straight and not here.function:
                    self.linear = False
                if value is not None:
                    handed = here.function or self.hands_back
                    inner = here if handed else replace(here, fate="unawaited")
                    self._expression(value, inner)
            case cst.Assign(targets=targets, value=value):
                self._assign([target.target for target in targets], value, here)
            case cst.AnnAssign(target=target, annotation=annotation, value=value):
                if value is not None:
                    self._assign([target], value, here)
                known = annotated(annotation, self.locate)
                if known and isinstance(target, cst.Name):
                    self.variables[target.value] = known
            case cst.Raise():
                if not here.straight and not here.function:
                    self.linear = False
                self._children(statement, here)
            case _:
                self._children(statement, here)

    def _assign(
        self, targets: Sequence[cst.BaseExpression], value: cst.BaseExpression, here: _Here
    ) -> None:
        name = dotted(targets[0]) if len(targets) == 1 else ""
        variable = name if name and "." not in name else ""
        before = len(self.steps)
        self._expression(value, replace(here, kept_in=variable))
        for target in targets:
            if not isinstance(target, cst.Name):
                self._children(target, here)
        if not variable:
            return
        made = dotted(value.func) if isinstance(value, cst.Call) else ""
        meant = self._meant(dotted(value)) or (
            "ctx.saga" if self._meant(made) == "ctx.saga" else ""
        )
        if meant:
            self.aliases[variable] = meant
        if variable in self.reassigned or here.function:
            self.variables.pop(variable, None)
        elif isinstance(value, cst.Await) and len(self.steps) > before:
            step = len(self.steps) - 1
            self.variables[variable] = ValueFact("step", self.locate(value), index=step)
        else:
            self.variables[variable] = read_value(value, self.variables, self.locate)

    # --- expressions

    def _expression(self, node: cst.CSTNode, here: _Here) -> None:
        match node:
            case cst.Await():
                self._await(node, here)
            case cst.Call():
                self._call(node, here)
            case cst.Name():
                self.loads.add(node.value)
            case cst.Attribute():
                self._expression(node.value, _inside(here))
            case cst.Lambda():
                self._children(node, replace(_inside(here), repeated=True, straight=False))
            case cst.GeneratorExp() | cst.ListComp() | cst.SetComp():
                self._comprehension(node.elt, node.for_in, here)
            case cst.DictComp():
                self._comprehension(node.value, node.for_in, here)
            case cst.IfExp():
                self._expression(node.test, _inside(here))
                number = self._number()
                self._expression(node.body, _in_arm(here, number, 0))
                self._expression(node.orelse, _in_arm(here, number, 1))
            case cst.BooleanOperation():
                self._expression(node.left, _inside(here))
                self._expression(node.right, replace(_inside(here), straight=False))
            case _:
                self._children(node, here)

    def _children(self, node: cst.CSTNode, here: _Here) -> None:
        inner = _inside(here)
        for child in node.children:
            if isinstance(child, cst.Arg):
                self._expression(child.value, inner)
            elif not isinstance(child, (cst.BaseParenthesizableWhitespace, cst.Annotation)):
                self._expression(child, inner)

    def _comprehension(self, element: cst.BaseExpression, loop: cst.CompFor, here: _Here) -> None:
        self._expression(loop.iter, _inside(here))
        for condition in loop.ifs:
            self._expression(condition.test, _inside(here))
        variable = dotted(loop.target) or "item"
        inner = replace(_inside(here), repeated=True, variable=variable, straight=False)
        if loop.inner_for_in is not None:
            self._comprehension(element, loop.inner_for_in, inner)
        else:
            self._expression(element, inner)

    def _await(self, node: cst.Await, here: _Here) -> None:
        inner = node.expression
        settled = replace(here, fate="used", kept_in="", awaited=True)
        if isinstance(inner, cst.Call) and self._is_concurrent(inner):
            settled = replace(settled, group=self._number(), repeated=False, awaited=False)
            self._arguments(inner, settled)
        elif isinstance(inner, cst.Call):
            self._call(inner, replace(settled, group=0, repeated=False))
        else:
            self._expression(inner, settled)
        for name in _names(inner):
            self._close(name, here)

    def _call(self, node: cst.Call, here: _Here) -> None:
        name = dotted(node.func)
        meant = self._meant(name)
        method = meant.removeprefix("ctx.").removeprefix("workflow.") if "." in meant else ""
        if meant.startswith(("ctx.workflow.", "ctx.saga.")) and method in STEPS:
            self._step(method, node, here)
        elif name in self.functions:
            self._start(name, node, here, is_call=True)
            self._arguments(node, _fresh(here))
        elif self._is_concurrent(node):
            self._concurrent(node, name, here)
        else:
            self._note_call(node, name, meant, here.function)
            self._expression(node.func, _inside(here))
            group = here.group or (self._number() if here.awaited else _OPEN)
            self._arguments(node, replace(_inside(here), group=group, awaited=False))

    def _concurrent(self, node: cst.Call, name: str, here: _Here) -> None:
        owner, _, _ = name.rpartition(".")
        if owner in self.task_groups:
            self.loads.add(owner)
            group = self.task_groups[owner]
            repeated = here.repeated or here.loops > group.loops
            settled = replace(here, group=group.group, repeated=repeated, fate="used", kept_in="")
            self._arguments(node, settled)
        else:
            group_number = here.group or _OPEN
            self._arguments(node, replace(here, group=group_number, awaited=False))

    def _arguments(self, node: cst.Call, here: _Here) -> None:
        for argument in node.args:
            value: cst.BaseExpression = argument.value
            if isinstance(value, (cst.List, cst.Tuple, cst.Set)):
                for element in value.elements:
                    self._expression(element.value, replace(here, member=self._number()))
            else:
                self._expression(value, replace(here, member=self._number()))

    def _is_concurrent(self, node: cst.Call) -> bool:
        owner, _, method = dotted(node.func).rpartition(".")
        if method == "race" and self._meant(owner) == "ctx.workflow":
            return True
        return method in _CONCURRENT and (owner in self.task_groups or owner in ("", "asyncio"))

    def _step(self, kind: str, node: cst.Call, here: _Here) -> None:
        self._names_of_call(node)
        arguments = positional(node.args)
        for argument in node.args:
            if argument is not _second(arguments) and argument is not _first(arguments):
                self._expression(argument.value, _fresh(here))
        name_node = _first(arguments)
        name, problem = _step_name(name_node.value if name_node else None)
        target = data = undo = None
        if kind in TARGETED:
            target = self._target(kind, _second(arguments))
            if kind != "wait_for_signal" and len(arguments) > 2:
                data = read_value(arguments[2].value, self.variables, self.locate)
            self._note_inline(_second(arguments))
            undone = keyword(node.args, "undo") if kind == "saga.do" else None
            undo = self._target(kind, cst.Arg(undone)) if undone is not None else None
        elif len(arguments) > 1:
            self._expression(arguments[1].value, _fresh(here))
        if not here.straight or here.repeated:
            self.linear = False
        span = self.locate(node.func)
        self.steps.append(
            StepFact(
                kind=kind,
                source=dotted(node.func),
                span=span,
                name=name,
                name_span=self.locate(name_node.value) if name_node else span,
                name_problem=problem,
                target=target,
                data=data,
                fate=here.fate if kind != "patched" else "used",
                variable=here.kept_in if kind != "patched" else "",
                undo=undo,
                detached=is_detached(node),
            )
        )
        if name is not None and kind != "patched":
            self._start(name, node, here, is_call=False)

    def _start(self, name: str, node: cst.Call, here: _Here, *, is_call: bool) -> None:
        where = here
        if not here.awaited and not here.group:
            where = replace(here, group=_OPEN, member=self._number())
        repeated = where.repeated or (where.group == _OPEN and where.loops > 0)
        arguments = positional(node.args)
        place = node.func if is_call or not arguments else arguments[0].value
        span = self.locate(place)
        self.started.append(_Started(name, is_call, span, where, self.clock, repeated=repeated))
        if here.function and not is_call:
            self.functions[here.function].append(name)

    def _target(self, kind: str, argument: cst.Arg | None) -> TargetFact | None:
        if argument is None:
            return None
        node = argument.value
        if kind == "wait_for_signal":
            return read_signal(node, self._meant, self.assigned, self.locate)
        found = read_target(node, self._meant, self.functions, self.assigned, self.locate)
        if found.kind == "inline" and dotted(node):
            self.inline.add(dotted(node))
        return found

    def _note_inline(self, argument: cst.Arg | None) -> None:
        """In an inline step `ctx.rpc` is still a table of names."""
        if argument is None:
            return
        for call in _calls(argument.value):
            meant = self._meant(dotted(call.func))
            if meant.startswith("ctx.rpc."):
                self._note_call(call, dotted(call.func), meant, "")

    def _note_call(self, node: cst.Call, name: str, meant: str, function: str) -> None:
        if not name:
            return
        recorded = "" if meant.startswith("ctx.") else function
        span = self.locate(node.func)
        if meant.startswith(("ctx.rpc.", "rpc.")):
            target = meant.rpartition("rpc.")[2]
            self.calls.append((recorded, CallFact(span, name, "rpc", target)))
        elif meant.startswith("queues.") and meant.endswith((".add", ".add_many")):
            given = positional(node.args)
            text = string(given[0].value) if meant == "queues.add" and given else None
            queue = f"queue:{text}" if text else meant.rpartition(".")[0]
            self.calls.append((recorded, CallFact(span, name, "queue", queue)))
        elif meant in ("start_workflow", "send_signal") or (
            meant.startswith("workflows.") and meant.endswith(".start")
        ):
            self.calls.append((recorded, CallFact(span, name, "start", meant)))
        elif not meant and name.partition(".")[0] not in self.assigned:
            self.calls.append((recorded, CallFact(span, name, "reference", name)))

    def _meant(self, name: str) -> str:
        """A dotted name in terms of `ctx`, or of the generated package's public names."""
        if not name:
            return ""
        first, dot, rest = name.partition(".")
        known = self.aliases.get(first)
        if known:
            meant = f"{known}{dot}{rest}"
            return "ctx.saga" if meant == "ctx.workflow.saga" else meant
        return "" if first in self.assigned else self.meaning(name)

    def _names_of_call(self, node: cst.Call) -> None:
        for argument in node.args:
            self.loads.update(_names(argument.value))

    def _close(self, variable: str, here: _Here) -> None:
        for started in self.started:
            if started.here.kept_in == variable and started.closed is None:
                started.closed = self.clock
                if here.loops == started.here.loops:
                    started.repeated = started.here.repeated

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers

    def _note_assignments(self, block: cst.CSTNode) -> None:
        for name in bound_names(block):
            if name in self.assigned:
                self.reassigned.add(name)
            self.assigned.add(name)


def _looped(here: _Here, variable: str) -> _Here:
    return replace(here, loops=here.loops + 1, variable=variable, straight=False)


def _in_arm(here: _Here, number: int, arm: int) -> _Here:
    return replace(here, branches=(*here.branches, (number, arm)), straight=False)


def _inside(here: _Here) -> _Here:
    """Within a larger expression a step is handed on, so somebody may await it."""
    return replace(here, fate="used", kept_in="") if here.fate != "used" else here


def _fresh(here: _Here) -> _Here:
    """An argument of a step stands outside of the step's own group."""
    return replace(here, group=0, fate="used", kept_in="", awaited=False)


def _first(arguments: Sequence[cst.Arg]) -> cst.Arg | None:
    return arguments[0] if arguments else None


def _second(arguments: Sequence[cst.Arg]) -> cst.Arg | None:
    return arguments[1] if len(arguments) > 1 else None


def _step_name(node: cst.BaseExpression | None) -> tuple[str | None, str]:
    if node is None:
        return None, "this step has no name"
    text = string(node)
    if text is not None:
        return (text, "") if text.strip() else (None, "the name of this step is empty")
    if isinstance(node, cst.FormattedString) and not node.parts:
        return None, "the name of this step is empty"
    if isinstance(node, _LITERALS) or is_none(node) or dotted(node) in ("True", "False"):
        return None, f"the name of this step must be a string, not `{source(node)}`"
    return None, ""


def _names(node: cst.CSTNode) -> Iterator[str]:
    """Every name an expression reads."""
    if isinstance(node, cst.Name):
        yield node.value
    elif isinstance(node, cst.Attribute):
        yield from _names(node.value)
    elif isinstance(node, cst.Arg):
        yield from _names(node.value)
    elif not isinstance(node, cst.BaseParenthesizableWhitespace):
        for child in node.children:
            yield from _names(child)


def _calls(node: cst.CSTNode) -> Iterator[cst.Call]:
    if isinstance(node, cst.Call):
        yield node
    for child in node.children:
        yield from _calls(child)


def _clashes(
    started: Sequence[_Started], functions: dict[str, list[str]]
) -> Iterator[ConcurrentName]:
    """Names in use twice at the same time: in one group, in other branches of it."""
    seen: dict[tuple[str, int, str], list[_Started]] = {}
    for entry in started:
        names = functions.get(entry.name, ()) if entry.is_call else (entry.name,)
        if not entry.here.group:
            continue
        for name in dict.fromkeys(names):
            variable = entry.here.variable or "item"
            if entry.repeated:
                yield ConcurrentName(name, entry.span, entry.span, variable)
                continue
            earlier = seen.setdefault((entry.here.function, entry.here.group, name), [])
            for other in earlier:
                if _overlap(other, entry):
                    yield ConcurrentName(name, entry.span, other.span, variable)
                    break
            earlier.append(entry)


def _overlap(first: _Started, second: _Started) -> bool:
    arms = dict(first.here.branches)
    if any(number in arms and arms[number] != arm for number, arm in second.here.branches):
        return False
    if first.here.group == _OPEN:
        return first.closed is None or first.closed > second.opened
    return first.here.member != second.here.member
