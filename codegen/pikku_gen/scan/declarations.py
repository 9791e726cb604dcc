"""Decorated functions and wires of one file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import libcst as cst

from pikku_gen.diagnostics import nearest
from pikku_gen.model.facts import (
    AnnotationFact,
    FunctionFact,
    GraphNode,
    HelperFact,
    NameUse,
    Option,
    Problem,
    QueueFact,
    ScanFact,
    ScheduleFact,
    SignalFact,
    SymbolsFact,
    WireFact,
)
from pikku_gen.model.places import Span
from pikku_gen.scan import queues, schedules
from pikku_gen.scan.expressions import (
    boolean,
    dotted,
    is_none,
    json_literal,
    positional,
    source,
    string,
    strings,
)
from pikku_gen.scan.graph import read_graph
from pikku_gen.scan.helpers import read_helper, workflow_contexts
from pikku_gen.scan.module import Locate, measure, parse_module, unmeasured
from pikku_gen.scan.names import Names
from pikku_gen.scan.values import read_value
from pikku_gen.scan.workflows import BodyFacts, read_body

Kind = Literal["function", "workflow"]
DECORATORS: Final[dict[str, Kind]] = {
    "pikku_func": "function",
    "pikku_workflow_func": "workflow",
}
_OPTIONS: Final[dict[Kind, tuple[str, ...]]] = {
    "function": (
        "name",
        "expose",
        "retries",
        "retry_delay",
        "timeout",
        "non_retryable",
        "queue",
        "dispatch",
        "executor",
        "tags",
        "description",
        "middleware",
        "permissions",
    ),
    "workflow": ("timeout",),
}
_WIRE_OPTIONS: Final = ("name", "func", "description", "tags", "expose")
_MIDDLEWARE_OPTIONS: Final = ("tags",)
_SIGNAL_OPTIONS: Final = ("name", "payload", "description")
_RESERVED: Final = ("schedule:", "queue:")
_TYPES: Final = (cst.Name, cst.Attribute, cst.Subscript, cst.BinaryOperation)
"""What a payload may be written as."""
_USES: Final = re.compile(
    r"\b(?:(?:start_workflow|get_run|invoke)\(\s*[\"']|send_signal\(|queues\b)"
)
_ADDING: Final = ("add", "add_many", "get_job")
"""The methods of a queue."""


def scan_module(text: str, symbols: SymbolsFact, names: Names, *, located: bool) -> ScanFact:
    """The declarations of one file; with positions where `located`."""
    module = parse_module(text)
    if isinstance(module, Problem):
        return ScanFact(problems=(module,), located=True)
    locate: Locate = unmeasured
    if located:
        module, locate = measure(module)
    scan = _Scan(names, locate)
    scan.block(module.body, top=True)
    uses: tuple[NameUse, ...] = ()
    if _USES.search(text):
        visitor = _Uses(names, locate)
        module.visit(visitor)
        uses = tuple(visitor.found)
    return ScanFact(
        functions=tuple(scan.functions),
        wires=tuple(scan.wires),
        signals=tuple(scan.signals),
        queues=tuple(scan.queues),
        schedules=tuple(scan.schedules),
        middleware=tuple(scan.middleware),
        helpers=tuple(scan.helpers),
        uses=uses,
        problems=tuple(scan.problems),
        imports_package=names.imports_package(symbols),
        aliases=names.new_names(symbols),
        foreign=dict(names.foreign),
        located=located,
    )


@dataclass(slots=True)
class _Scan:
    names: Names
    locate: Locate
    functions: list[FunctionFact] = field(default_factory=list[FunctionFact])
    wires: list[WireFact] = field(default_factory=list[WireFact])
    signals: list[SignalFact] = field(default_factory=list[SignalFact])
    queues: list[QueueFact] = field(default_factory=list[QueueFact])
    schedules: list[ScheduleFact] = field(default_factory=list[ScheduleFact])
    middleware: list[Span] = field(default_factory=list[Span])
    helpers: list[HelperFact] = field(default_factory=list[HelperFact])
    problems: list[Problem] = field(default_factory=list[Problem])

    def block(self, body: Sequence[cst.BaseStatement], *, top: bool, owner: str = "") -> None:
        for statement in body:
            match statement:
                case cst.SimpleStatementLine():
                    for small in statement.body:
                        self._small(small, top=top)
                case cst.FunctionDef():
                    if not self._function(statement, top=top) and (top or owner):
                        self._helper(statement, owner)
                    self._suite(statement.body, top=False)
                case cst.ClassDef():
                    self._suite(
                        statement.body, top=False, owner=statement.name.value if top else ""
                    )
                case cst.BaseCompoundStatement():
                    for suite in _suites(statement):
                        self._suite(suite, top=top)
                case _:
                    pass

    def _suite(self, suite: cst.BaseSuite, *, top: bool, owner: str = "") -> None:
        if isinstance(suite, cst.IndentedBlock):
            self.block(suite.body, top=top, owner=owner)
        elif isinstance(suite, cst.SimpleStatementSuite):
            for small in suite.body:
                self._small(small, top=top)

    def _small(self, statement: cst.BaseSmallStatement, *, top: bool) -> None:
        match statement:
            case cst.Expr(value=cst.Call() as call):
                meant = self.names.meaning(dotted(call.func))
                if meant == "wire_workflow":
                    if top:
                        self._wire(call)
                    else:
                        self._problem("PKG105", call.func, meant)
                elif meant == "wire_signal":
                    self._signal(call, "", top=top)
                elif meant == "wire_middleware":
                    self._middleware(call, top=top)
                elif meant == "wire_queue_worker":
                    self._queue(call, top=top)
                elif meant == "wire_scheduler":
                    self._schedule(call, top=top)
                elif meant in DECORATORS or self._is_applied(call):
                    self._problem("PKG106", call.func, meant or self._applied_name(call))
            case cst.Assign(value=cst.Call() as call) | cst.AnnAssign(value=cst.Call() as call):
                meant = self.names.meaning(dotted(call.func))
                if meant == "wire_signal":
                    self._signal(call, _variable(statement), top=top)
                elif meant in DECORATORS or self._is_applied(call):
                    self._problem("PKG106", call.func, meant or self._applied_name(call))
            case _:
                pass

    def _is_applied(self, call: cst.Call) -> bool:
        return self._applied_name(call) in DECORATORS

    def _applied_name(self, call: cst.Call) -> str:
        inner = call.func
        return self.names.meaning(dotted(inner.func)) if isinstance(inner, cst.Call) else ""

    # --- decorated functions

    def _helper(self, node: cst.FunctionDef, owner: str) -> None:
        found = read_helper(node, owner, self.names.meaning, self.locate)
        if found is not None:
            self.helpers.append(found)

    def _function(self, node: cst.FunctionDef, *, top: bool) -> bool:
        """False for a function under no decorator of ours."""
        for decorator in node.decorators:
            expression = decorator.decorator
            call = expression if isinstance(expression, cst.Call) else None
            meant = self.names.meaning(dotted(call.func if call else expression))
            if meant not in DECORATORS:
                continue
            if not top:
                self._problem("PKG105", node.name, node.name.value)
            else:
                self._declared(node, DECORATORS[meant], call)
            return True
        return False

    def _declared(self, node: cst.FunctionDef, kind: Kind, call: cst.Call | None) -> None:
        decorator = "pikku_func" if kind == "function" else "pikku_workflow_func"
        options = self._options(call, decorator, _OPTIONS[kind]) if call else {}
        name = node.name.value
        place: cst.CSTNode = node.name
        given = options.get("name")
        if given is not None and not is_none(given):
            place = given
            text = string(given)
            if not text:
                self._problem("PKG207", given, "name")
            name = text or name
        self._check_literals(options)
        is_async = node.asynchronous is not None
        if kind == "workflow" and not is_async:
            self._problem("PKG209", node.name, node.name.value)
        has_input, taken = self._input(node)
        returned = self._output(node)
        steps: BodyFacts | None = None
        graph: tuple[GraphNode, ...] = ()
        if kind == "workflow":
            meaning, contexts = self.names.meaning, workflow_contexts(node)
            steps = read_body(node, contexts, meaning, self.locate)
            graph = read_graph(node, contexts, meaning, self.locate)
        self.functions.append(
            FunctionFact(
                kind=kind,
                qualname=node.name.value,
                span=self.locate(node.name),
                name=name,
                name_span=self.locate(place),
                is_async=is_async,
                docstring=_docstring(node),
                has_input=has_input,
                input=taken,
                output=returned,
                options=tuple(_recorded(options)),
                steps=steps.steps if steps else (),
                calls=steps.calls if steps else (),
                concurrent=steps.concurrent if steps else (),
                linear=steps.linear if steps else False,
                graph=graph,
            )
        )

    def _input(self, node: cst.FunctionDef) -> tuple[bool, AnnotationFact]:
        parameters = node.params
        plain = [*parameters.posonly_params, *parameters.params]
        starred = isinstance(parameters.star_arg, cst.Param) or parameters.star_kwarg is not None
        nothing = AnnotationFact("", self.locate(node.name))
        if not 1 <= len(plain) <= 2 or starred or parameters.kwonly_params:
            self._problem("PKG203", node.name, node.name.value)
            return False, nothing
        if len(plain) == 1:
            return False, nothing
        data = plain[1]
        if data.default is not None:
            self._problem("PKG203", data.name, node.name.value)
        if data.annotation is None:
            self._problem("PKG201", data.name, f"`{data.name.value}`")
            return True, AnnotationFact("", self.locate(data.name))
        return True, self._annotation(data.annotation)

    def _output(self, node: cst.FunctionDef) -> AnnotationFact:
        if node.returns is None:
            name = node.name.value
            hint = f"annotate the result of `{name}`: `-> None` where it returns nothing"
            self._problem("PKG201", node.name, f"the result of `{name}`", hint)
            return AnnotationFact("", self.locate(node.name))
        return self._annotation(node.returns)

    def _annotation(self, node: cst.Annotation) -> AnnotationFact:
        return AnnotationFact(source(node.annotation), self.locate(node.annotation))

    # --- wires

    def _wire(self, call: cst.Call) -> None:
        form = 'wire_workflow(name="…", func=…)'
        given = self._keywords(call, _WIRE_OPTIONS, ("name", "func"), form)
        if given is None:
            return
        name_node, func_node = given["name"], given["func"]
        name = string(name_node)
        if not name:
            self._problem("PKG207", name_node, "name")
        elif name.startswith(_RESERVED):
            said = f"the workflow name `{name}` begins with what pikku keeps for itself"
            self._problem("PKG227", name_node, said)
            name = ""
        func = dotted(func_node)
        if not func:
            self._problem("PKG212", func_node, source(func_node))
        if not name or not func:
            return
        self._check_literals(given)
        described, tagged = given.get("description"), given.get("tags")
        exposed = given.get("expose")
        self.wires.append(
            WireFact(
                span=self.locate(call.func),
                name=name,
                name_span=self.locate(name_node),
                func=func,
                func_span=self.locate(func_node),
                description=(string(described) if described else None) or "",
                tags=(strings(tagged) if tagged else None) or (),
                expose=(boolean(exposed) if exposed else None) or False,
            )
        )

    # --- queues and schedules

    def _queue(self, call: cst.Call, *, top: bool) -> None:
        if not top:
            self._problem("PKG105", call.func, "wire_queue_worker")
            return
        given = self._keywords(call, queues.OPTIONS, queues.NEEDED, queues.FORM)
        if given is None:
            return
        found = queues.read_queue(call, given, self.locate)
        if isinstance(found, Problem):
            self.problems.append(found)
        else:
            self.queues.append(found)

    def _schedule(self, call: cst.Call, *, top: bool) -> None:
        if not top:
            self._problem("PKG105", call.func, "wire_scheduler")
            return
        given = self._keywords(call, schedules.OPTIONS, schedules.NEEDED, schedules.FORM)
        if given is None:
            return
        self._check_literals(given)
        found, problems = schedules.read_schedule(call, given, self.locate)
        self.problems += problems
        if found is not None:
            self.schedules.append(found)

    # --- middleware

    def _middleware(self, call: cst.Call, *, top: bool) -> None:
        if not top:
            self._problem("PKG105", call.func, "wire_middleware")
            return
        given = [argument for argument in call.args if argument.keyword is None]
        for argument in call.args:
            keyword = argument.keyword
            if keyword is not None and keyword.value not in _MIDDLEWARE_OPTIONS:
                self._unknown_option(keyword, "wire_middleware", _MIDDLEWARE_OPTIONS)
        if not given:
            hint = "write `wire_middleware(timed)`, with `tags=[…]` for some functions only"
            self._problem("PKG106", call.func, "wire_middleware", hint)
            return
        self.middleware.append(self.locate(call.func))

    # --- signals

    def _signal(self, call: cst.Call, variable: str, *, top: bool) -> None:
        if not top:
            self._problem("PKG105", call.func, "wire_signal")
            return
        form = 'wire_signal(name="…", payload=…)'
        given = self._keywords(call, _SIGNAL_OPTIONS, ("name",), form)
        if given is None:
            return
        name_node, payload = given["name"], given.get("payload")
        self._check_literals(given)
        name = string(name_node)
        if not name:
            self._problem("PKG207", name_node, "name")
        taken = AnnotationFact("", self.locate(call.func))
        if payload is not None and not is_none(payload):
            if not isinstance(payload, _TYPES):
                quoted = string(payload)
                hint = f"write it without quotes: `payload={quoted}`" if quoted else ""
                self._problem("PKG219", payload, source(payload), hint)
                return
            taken = AnnotationFact(source(payload), self.locate(payload))
        described = given.get("description")
        if name:
            self.signals.append(
                SignalFact(
                    span=self.locate(call.func),
                    name=name,
                    name_span=self.locate(name_node),
                    payload=taken,
                    description=(string(described) if described else None) or "",
                    variable=variable,
                )
            )

    # --- keywords

    def _keywords(
        self, call: cst.Call, known: tuple[str, ...], needed: tuple[str, ...], form: str
    ) -> dict[str, cst.BaseExpression] | None:
        """The keywords of a call that takes nothing else; None where it cannot be read."""
        name = form.partition("(")[0]
        given: dict[str, cst.BaseExpression] = {}
        plain = not positional(call.args) and not any(argument.star for argument in call.args)
        if plain:
            given = self._options(call, name, known)
        if not plain or any(each not in given for each in needed):
            self._problem("PKG106", call.func, name, f"write `{form}`")
            return None
        return given

    def _options(
        self, call: cst.Call, name: str, known: tuple[str, ...]
    ) -> dict[str, cst.BaseExpression]:
        found: dict[str, cst.BaseExpression] = {}
        for argument in call.args:
            if argument.keyword is None:
                self._problem("PKG106", argument.value, name)
            elif argument.keyword.value not in known:
                self._unknown_option(argument.keyword, name, known)
            else:
                found[argument.keyword.value] = argument.value
        return found

    def _unknown_option(self, keyword: cst.Name, name: str, known: tuple[str, ...]) -> None:
        close = nearest(keyword.value, known)
        hint = f"did you mean `{close}`?" if close else f"it has {', '.join(known)}"
        words = f"`{name}` has no option `{keyword.value}`"
        self._problem("PKG208", keyword, words, hint)

    def _check_literals(self, options: dict[str, cst.BaseExpression]) -> None:
        readers: dict[str, Callable[[cst.CSTNode], object]] = {
            "description": string,
            "tags": strings,
            "expose": boolean,
        }
        for option, read in readers.items():
            node = options.get(option)
            if node is not None and read(node) is None:
                self._problem("PKG207", node, option)

    def _problem(self, code: str, node: cst.CSTNode, subject: str, hint: str = "") -> None:
        self.problems.append(Problem(code, self.locate(node), subject, hint))


class _Uses(cst.CSTVisitor):
    """Strings that name an RPC or a workflow in calls outside of workflow bodies."""

    def __init__(self, names: Names, locate: Locate) -> None:
        super().__init__()
        self.names = names
        self.locate = locate
        self.found: list[NameUse] = []

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        decorators = [item.decorator for item in node.decorators]
        meant = [
            self.names.meaning(dotted(item.func if isinstance(item, cst.Call) else item))
            for item in decorators
        ]
        return "pikku_workflow_func" not in meant

    def visit_Call(self, node: cst.Call) -> None:
        name = dotted(node.func)
        self._queue(node, name)
        kind = self._kind(name)
        arguments = positional(node.args)
        if kind == "signal":  # the first argument is the run
            arguments = arguments[1:]
        text = string(arguments[0].value) if kind and arguments else None
        if kind is None or text is None:
            return
        data = None
        if len(arguments) > 1 and not name.endswith("get_run"):
            data = read_value(arguments[1].value, {}, self.locate)
        self.found.append(NameUse(kind, text, self.locate(arguments[0].value), data))

    def _queue(self, node: cst.Call, name: str) -> None:
        """What is added to a queue, whose name is an attribute or a string."""
        owner, _, method = name.rpartition(".")
        if method not in _ADDING or not isinstance(node.func, cst.Attribute):
            return
        arguments = positional(node.args)
        meant = self.names.meaning(owner)
        if meant == "queues" and method == "add":
            text = string(arguments[0].value) if arguments else None
            if text is not None:
                place, data = arguments[0].value, arguments[1:2]
                self._found("queue", text, place, data)
        elif meant.startswith("queues.") and meant.count(".") == 1:
            attribute = node.func.value
            place = attribute.attr if isinstance(attribute, cst.Attribute) else attribute
            data = arguments[:1] if method == "add" else []
            self._found("queues", meant.removeprefix("queues."), place, data)

    def _found(
        self,
        kind: Literal["queue", "queues"],
        name: str,
        place: cst.CSTNode,
        data: Sequence[cst.Arg],
    ) -> None:
        given = read_value(data[0].value, {}, self.locate) if data else None
        self.found.append(NameUse(kind, name, self.locate(place), given))

    def _kind(self, name: str) -> Literal["rpc", "workflow", "signal"] | None:
        owner, _, method = name.rpartition(".")
        meant = self.names.meaning(name)
        if meant == "send_signal":
            return "signal"
        if meant in ("start_workflow", "get_run"):
            return "workflow"
        if owner.rpartition(".")[2] == "rpc" or self.names.meaning(owner) == "rpc":
            if method == "invoke":
                return "rpc"
            if method in ("start_workflow", "get_run"):
                return "workflow"
        return None


def _variable(statement: cst.Assign | cst.AnnAssign) -> str:
    """The one name that a statement assigns to; empty for anything else."""
    if isinstance(statement, cst.AnnAssign):
        return dotted(statement.target)
    return dotted(statement.targets[0].target) if len(statement.targets) == 1 else ""


def _suites(statement: cst.BaseCompoundStatement) -> Iterator[cst.BaseSuite]:
    body: object = getattr(statement, "body", None)
    if isinstance(body, cst.BaseSuite):
        yield body
    for name in ("orelse", "finalbody"):
        other: object = getattr(statement, name, None)
        if isinstance(other, (cst.Else, cst.Finally)):
            yield other.body
        elif isinstance(other, cst.If):
            yield from _suites(other)
    if isinstance(statement, (cst.Try, cst.TryStar)):
        for handler in statement.handlers:
            yield handler.body
    if isinstance(statement, cst.Match):
        for case in statement.cases:
            yield case.body


def _recorded(options: dict[str, cst.BaseExpression]) -> Iterator[Option]:
    for name, node in sorted(options.items()):
        if name == "name":
            continue
        literal = json_literal(node)
        yield Option(name, literal is not None, literal if literal is not None else source(node))


def _docstring(node: cst.FunctionDef) -> str:
    text = node.get_docstring(clean=False)
    if not text:
        return ""
    return _dedented(text.encode("utf-8", "backslashreplace").decode())


def _dedented(text: str) -> str:
    """The docstring without its indentation, alike in every Python version."""
    lines = text.expandtabs().splitlines()
    rest = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(rest, default=0)
    cleaned = [lines[0].strip(), *(line[margin:].rstrip() for line in lines[1:])]
    return "\n".join(cleaned).strip()
