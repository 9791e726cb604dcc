"""What one file says, read without knowledge of any other file.

Facts are plain enough to live in the scan cache as JSON: see `model.frozen`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from pikku_gen.model.places import Span

BindingKind = Literal["class", "def", "value", "alias", "typevar", "import"]
TargetKind = Literal[
    "name",
    "attribute",
    "reference",
    "workflow",
    "inline",
    "signal",
    "signals",
    "unknown",
]
GraphKind = Literal[
    "step",
    "call",
    "choice",
    "loop",
    "try",
    "with",
    "parallel",
    "race",
    "group",
    "saga",
    "start",
    "join",
    "local",
    "unknown",
    "return",
    "raise",
    "reraise",
    "break",
    "continue",
]


@dataclass(frozen=True, slots=True)
class Binding:
    """What a top-level name of a module stands for.

    `import`: the name `attribute` of `module`, or the module itself where `attribute` is empty.
    `alias`: another spelling of the expression `target`.
    """

    kind: BindingKind
    module: str = ""
    attribute: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One annotated field of a class."""

    name: str
    annotation: str
    required: bool


@dataclass(frozen=True, slots=True)
class ClassFact:
    """A class statement: enough to tell its fields and its family."""

    span: Span
    bases: tuple[str, ...]
    decorators: tuple[str, ...]
    fields: tuple[Field, ...]
    total: bool = True
    members: tuple[str, ...] = ()
    """Of an enumeration: `NAME = value`, as written."""


@dataclass(frozen=True, slots=True)
class FactoryFact:
    """A top-level function as a candidate for the services factory."""

    span: Span
    is_async: bool
    decorators: tuple[str, ...]
    returns: str
    returns_span: Span
    required_parameters: int


@dataclass(frozen=True, slots=True)
class SymbolsFact:
    """The names a module binds at its top level."""

    bindings: dict[str, Binding]
    stars: tuple[str, ...]
    submodules: tuple[str, ...]
    classes: dict[str, ClassFact]
    functions: dict[str, FactoryFact]


@dataclass(frozen=True, slots=True)
class Problem:
    """A diagnostic seen while reading one file."""

    code: str
    span: Span
    subject: str
    hint: str = ""


TOO_DEEP: Final = Problem(
    "PKG103", Span(1, 1), "", "it is nested too deeply: cut its longest expression into parts"
)


@dataclass(frozen=True, slots=True)
class AnnotationFact:
    """An annotation as written; empty where it is missing."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword given to a decorator: its JSON literal, or its source where it is no literal."""

    name: str
    literal: bool
    value: str


@dataclass(frozen=True, slots=True)
class ValueFact:
    """What can be said of an expression's type without running it.

    `literal` and `type` carry a type expression in `text`; `dict` carries `items`, keyed;
    `list` carries `items`; `item` and `attribute` look `text` up in the type of their only item;
    `step` is the result of the step number `index` of the same workflow; `unknown` says nothing.
    """

    kind: Literal["literal", "type", "dict", "list", "item", "attribute", "step", "unknown"]
    span: Span
    text: str = ""
    items: tuple[ValueFact, ...] = ()
    keys: tuple[str, ...] = ()
    key_spans: tuple[Span, ...] = ()
    complete: bool = True
    index: int = -1


@dataclass(frozen=True, slots=True)
class TargetFact:
    """What a step is told to run.

    `name`: a string; `attribute`: `ctx.rpc.<text>`; `reference`: a dotted name of the file;
    `workflow`: `workflows.<text>`; `inline`: a callable; `unknown`: any other expression.
    Of a step that waits for a signal: `signal`: a string; `signals`: `signals.<text>`.
    """

    kind: TargetKind
    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class StepFact:
    """One call of `ctx.workflow` in a workflow's body."""

    kind: str
    source: str
    """The call's function as written: `ctx.workflow.do`."""
    span: Span
    name: str | None
    """The literal name; None where it is computed."""
    name_span: Span
    name_problem: str
    target: TargetFact | None
    data: ValueFact | None
    fate: Literal["used", "unawaited", "unused"]
    variable: str
    """The variable an unused step was kept in."""
    undo: TargetFact | None = None
    """What a step of a saga is undone by."""
    detached: bool = False
    """The step starts its target and gives back the id of the run."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One node of a workflow's step graph as its file has it; names still have to be followed.

    `step`: `name` is its template, `text` the method of `ctx.workflow`; `call`: a helper, `text` as
    written, that is given the context as its argument number `index` (or `keyword`); `choice`:
    `exhaustive` where one of the parts is always taken; `loop`: body, else; `try`: body, else,
    finally, handlers; `start` and `join`: `name` is the number of what was started. `patch` is the
    guard that a choice asks for: its first part is the way of new runs, or with `unless` the way of
    old ones. Where a node stands is no part of what it says.
    """

    kind: GraphKind
    text: str = ""
    name: str = ""
    target: TargetFact | None = None
    undo: TargetFact | None = None
    parts: tuple[tuple[GraphNode, ...], ...] = ()
    exhaustive: bool = False
    detached: bool = False
    index: int = -1
    keyword: str = ""
    patch: str = ""
    unless: bool = False
    span: Span = field(default=Span(), compare=False)
    module: str = field(default="", compare=False)
    """The module of the span; empty for that of the workflow's or helper's own facts."""


@dataclass(frozen=True, slots=True)
class ConcurrentName:
    """A step name that two branches of one workflow would use at the same time."""

    name: str
    span: Span
    first: Span
    variable: str
    """What could complete the name: the variable of the loop around it."""


@dataclass(frozen=True, slots=True)
class CallFact:
    """A call in a workflow's body that would start work outside of a step."""

    span: Span
    text: str
    kind: Literal["rpc", "reference", "start", "queue"]
    target: str
    """Of a job that is added: `queue:<name>` or `queues.<attribute>`."""


@dataclass(frozen=True, slots=True)
class HelperFact:
    """A plain function or method that takes a workflow's context, and its steps."""

    qualname: str
    parameters: tuple[str, ...]
    contexts: tuple[str, ...]
    """The parameters that are taken for a context, or for its `workflow`."""
    graph: tuple[GraphNode, ...]
    steps: tuple[StepFact, ...] = ()
    calls: tuple[CallFact, ...] = ()
    concurrent: tuple[ConcurrentName, ...] = ()


UseKind = Literal["call", "read", "set", "global", "swallow", "result", "services"]


@dataclass(frozen=True, slots=True)
class UseFact:
    """One thing that the body of a function does, and that a replay may meet otherwise.

    `call`, `read`: `name` is the dotted name of what is called or read, from its module on; `set`:
    an iteration; `global`: a changing variable of the module; `swallow`: a handler; `result`:
    `name` is the kind of value handed back; `services`: of a workflow's context.
    """

    kind: UseKind
    span: Span
    text: str
    """As written."""
    name: str = ""
    arguments: tuple[str, ...] = ()
    """Of a call, as written."""
    workflow: str = ""
    """How `ctx.workflow` is written where a step could be awaited in its place; or empty."""
    inline: bool = False
    """It stands in an inline callable, so it is done once."""
    made: bool = False
    """It is done with an object that the same body makes."""
    exact: bool = True
    """The span is that of the expression itself."""


@dataclass(frozen=True, slots=True)
class AllowFact:
    """A comment `# pikku: allow[CODE, …] reason`."""

    span: Span
    line: int
    """The line that it is about."""
    codes: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class BodiesFact:
    """What the top-level functions and the methods (`Class.method`) of one file do, by their names;
    and what the file allows."""

    functions: dict[str, tuple[UseFact, ...]]
    allows: tuple[AllowFact, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionFact:
    """A function under `@pikku_func` or `@pikku_workflow_func`."""

    kind: Literal["function", "workflow"]
    qualname: str
    span: Span
    name: str
    name_span: Span
    is_async: bool
    docstring: str
    has_input: bool
    input: AnnotationFact
    output: AnnotationFact
    options: tuple[Option, ...]
    steps: tuple[StepFact, ...] = ()
    calls: tuple[CallFact, ...] = ()
    concurrent: tuple[ConcurrentName, ...] = ()
    linear: bool = False
    """The steps stand on one straight line."""
    graph: tuple[GraphNode, ...] = ()


@dataclass(frozen=True, slots=True)
class WireFact:
    """A call of `wire_workflow`."""

    span: Span
    name: str
    name_span: Span
    func: str
    func_span: Span
    description: str
    tags: tuple[str, ...]
    expose: bool


@dataclass(frozen=True, slots=True)
class SignalFact:
    """A call of `wire_signal`."""

    span: Span
    name: str
    name_span: Span
    payload: AnnotationFact
    description: str
    variable: str
    """The top-level name it is kept in; empty where there is none."""


@dataclass(frozen=True, slots=True)
class QueueFact:
    """A call of `wire_queue_worker`."""

    span: Span
    queue: str
    queue_span: Span
    func: str
    func_span: Span
    config: str
    """As written; empty where there is none."""


@dataclass(frozen=True, slots=True)
class ScheduleFact:
    """A call of `wire_scheduler`."""

    span: Span
    name: str
    name_span: Span
    func: str
    func_span: Span
    description: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class NameUse:
    """A string that names an RPC, a workflow, a signal or a queue outside of a workflow's steps; or
    an attribute of `queues`."""

    kind: Literal["rpc", "workflow", "signal", "queue", "queues"]
    name: str
    span: Span
    data: ValueFact | None = None


@dataclass(frozen=True, slots=True)
class ScanFact:
    """Everything a file that passed the prefilter contributes."""

    functions: tuple[FunctionFact, ...] = ()
    wires: tuple[WireFact, ...] = ()
    signals: tuple[SignalFact, ...] = ()
    queues: tuple[QueueFact, ...] = ()
    schedules: tuple[ScheduleFact, ...] = ()
    middleware: tuple[Span, ...] = ()
    """Where middleware is wired."""
    helpers: tuple[HelperFact, ...] = ()
    uses: tuple[NameUse, ...] = ()
    problems: tuple[Problem, ...] = ()
    imports_package: bool = False
    aliases: tuple[str, ...] = ()
    """New names under which this module passes the decorators on."""
    foreign: dict[str, str] | None = None
    """What names of other modules were taken to mean: a change there makes these facts stale."""
    located: bool = False

    @property
    def declares(self) -> bool:
        """True for a file that registers something when it is imported."""
        return bool(
            self.functions
            or self.wires
            or self.signals
            or self.queues
            or self.schedules
            or self.middleware
        )
