"""What was found in one project, names resolved: what rules judge and templates print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pikku_gen.model.facts import (
    FunctionFact,
    HelperFact,
    NameUse,
    QueueFact,
    ScheduleFact,
    SignalFact,
    UseFact,
    WireFact,
)
from pikku_gen.model.places import Place, Span


@dataclass(frozen=True, slots=True, order=True)
class Symbol:
    """A name by the module that defines it; builtins have no module."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.name


@dataclass(frozen=True, slots=True)
class TypeRef:
    """A type expression as written, cut at its names.

    `parts` alternates plain text with symbols; joined with the symbols' names it is the annotation.
    """

    parts: tuple[str | Symbol, ...]

    @property
    def text(self) -> str:
        """The annotation with each name in its defining module's spelling."""
        return "".join(part if isinstance(part, str) else part.name for part in self.parts)

    @property
    def qualified(self) -> str:
        """The annotation with each name behind the module that defines it."""
        return "".join(map(str, self.parts))

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The names of the expression that need an import or are builtins."""
        return tuple(part for part in self.parts if isinstance(part, Symbol))

    @property
    def is_none(self) -> bool:
        """True for the annotation `None` and for a missing input."""
        return self.parts == ("None",)


NONE = TypeRef(("None",))


@dataclass(frozen=True, slots=True)
class Source:
    """The file a fact came from."""

    module: str
    path: str

    def at(self, span: Span) -> Place:
        """The place of a span of this file."""
        return Place(self.path, span)


@dataclass(frozen=True, slots=True)
class FunctionModel:
    """An RPC function or a workflow function with its types resolved."""

    source: Source
    fact: FunctionFact
    input: TypeRef
    output: TypeRef

    @property
    def key(self) -> tuple[str, str]:
        """Its identity at run time: module and qualified name."""
        return self.source.module, self.fact.qualname

    @property
    def place(self) -> Place:
        """Where its name stands in its `def`."""
        return self.source.at(self.fact.span)

    @property
    def name_place(self) -> Place:
        """Where its RPC name is given."""
        return self.source.at(self.fact.name_span)


@dataclass(frozen=True, slots=True)
class RpcModel:
    """A function under the name and the attribute it is called by."""

    name: str
    attribute: str
    function: FunctionModel


@dataclass(frozen=True, slots=True)
class WorkflowModel:
    """A wired workflow."""

    name: str
    attribute: str
    source: Source
    wire: WireFact
    function: FunctionModel
    graph: tuple[Mapping[str, object], ...] = ()
    """Its steps and what decides on them, ready to be written down."""
    version: str = ""
    """The hash of the graph."""

    @property
    def place(self) -> Place:
        """Where its name is given in `wire_workflow`."""
        return self.source.at(self.wire.name_span)


@dataclass(frozen=True, slots=True)
class SignalModel:
    """A wired signal."""

    name: str
    attribute: str
    source: Source
    fact: SignalFact
    payload: TypeRef

    @property
    def place(self) -> Place:
        """Where its name is given in `wire_signal`."""
        return self.source.at(self.fact.name_span)


@dataclass(frozen=True, slots=True)
class QueueModel:
    """A queue and the function that does its jobs."""

    name: str
    attribute: str
    source: Source
    fact: QueueFact
    function: FunctionModel

    @property
    def place(self) -> Place:
        """Where its name is given in `wire_queue_worker`."""
        return self.source.at(self.fact.queue_span)


@dataclass(frozen=True, slots=True)
class ScheduleModel:
    """A schedule and what is due by it."""

    name: str
    source: Source
    fact: ScheduleFact
    function: FunctionModel

    @property
    def place(self) -> Place:
        """Where its name is given in `wire_scheduler`."""
        return self.source.at(self.fact.name_span)

    @property
    def func_place(self) -> Place:
        """Where its function is named."""
        return self.source.at(self.fact.func_span)


@dataclass(frozen=True, slots=True)
class LooseWire:
    """A wire that leads to nothing of the kind it needs."""

    source: Source
    wire: WireFact | QueueFact | ScheduleFact


@dataclass(frozen=True, slots=True)
class BodyModel:
    """What the body of a workflow does, or that of a function it calls, names followed."""

    workflow: FunctionModel
    source: Source
    name: str
    uses: tuple[UseFact, ...]
    call: Place | None = None
    """Where the workflow calls the function; None for the workflow itself."""
    through: str = ""
    """The method that the workflow calls, where this is another one of the same object."""
    inline: bool = False
    """It is called inside of an inline step."""


@dataclass(frozen=True, slots=True)
class App:
    """Everything found in one project, sorted by name."""

    package: str
    root: str
    project: str
    """The way from the package's folder to the project's, with forward slashes."""
    services: TypeRef
    services_path: str
    session: TypeRef
    """What `ctx.session` is."""
    authorize_path: str
    settings: Mapping[str, str]
    rpcs: tuple[RpcModel, ...]
    workflows: tuple[WorkflowModel, ...]
    signals: tuple[SignalModel, ...]
    queues: tuple[QueueModel, ...]
    schedules: tuple[ScheduleModel, ...]
    unwired: tuple[FunctionModel, ...]
    loose: tuple[LooseWire, ...]
    uses: tuple[tuple[Source, NameUse], ...]
    modules: tuple[str, ...]
    """The modules that register something."""
    helpers: tuple[tuple[Source, HelperFact], ...]
    """Plain functions that take a workflow's context."""
    mixed: tuple[Source, ...]
    """Modules that define I/O types and import the generated package."""
    queue_strings: bool
    rpc_strings: bool
    child_strings: bool
    """A step may name a workflow by a string."""
    signal_strings: bool
    workflow_strings: bool
    conduct: tuple[BodyModel, ...] = ()
    """What is done in workflows besides steps."""
    types: Mapping[str, Mapping[str, object]] = field(
        default_factory=dict[str, Mapping[str, object]]
    )
    """What inputs, results and payloads are made of, by qualified name."""

    @property
    def bodies(self) -> tuple[FunctionModel, ...]:
        """Every workflow function, wired or not, once."""
        wired = {workflow.function.key: workflow.function for workflow in self.workflows}
        loose = {function.key: function for function in self.unwired}
        return tuple(sorted((wired | loose).values(), key=lambda found: found.key))

    @property
    def stepping(self) -> Iterator[tuple[Source, FunctionFact | HelperFact]]:
        """Whatever takes steps: the bodies, and the functions that are handed their context."""
        for function in self.bodies:
            yield function.source, function.fact
        yield from self.helpers
