"""One model of the whole project, of the facts of its files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.link.annotations import resolve_annotation
from pikku_gen.link.attributes import QUEUES, attribute_for
from pikku_gen.link.authorize import resolve_authorize
from pikku_gen.link.functions import function_named
from pikku_gen.link.graph import Graphs, version_of
from pikku_gen.link.schemas import describe
from pikku_gen.link.services import resolve_services
from pikku_gen.link.shapes import Shapes
from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import (
    App,
    FunctionModel,
    LooseWire,
    QueueModel,
    RpcModel,
    ScheduleModel,
    SignalModel,
    Source,
    TypeRef,
    WorkflowModel,
)
from pikku_gen.model.facts import FunctionFact, ScanFact
from pikku_gen.project import Project

QUEUE_STRINGS: Final = 50
RPC_STRINGS: Final = 50
STEP_STRINGS: Final = 50
"""Functions and workflows together: up to here a step may name a workflow by a string."""
SIGNAL_STRINGS: Final = 50
WORKFLOW_STRINGS: Final = 200

Scanned = Sequence[tuple[Source, ScanFact]]


def link(
    project: Project, shapes: Shapes, scanned: Scanned, *, placed: bool = False
) -> tuple[App, tuple[Diagnostic, ...]]:
    """The model, and every name on the way that leads nowhere; `placed` adds to step graphs where
    their nodes stand."""
    table = shapes.table
    problems = [
        diagnostic(found.code, source.at(found.span), found.subject, hint=found.hint)
        for source, fact in scanned
        for found in fact.problems
    ]
    functions: dict[tuple[str, str], FunctionModel] = {}
    rpcs: list[RpcModel] = []
    for source, fact in scanned:
        for found in fact.functions:
            model, unresolved = _function(table, source, found)
            problems += unresolved
            functions.setdefault(model.key, model)
            if found.kind == "function":
                rpcs.append(RpcModel(found.name, attribute_for(found.name), model))
    workflows, loose = _wired(table, scanned, functions)
    workflows.sort(key=lambda flow: (flow.name, flow.place))
    queues = _queues(table, scanned, functions, loose)
    schedules = _schedules(table, scanned, functions, loose)
    signals, unresolved = _signals(table, scanned)
    problems += unresolved
    rpcs.sort(key=lambda rpc: (rpc.name, rpc.function.place))
    helpers = [(source, helper) for source, fact in scanned for helper in fact.helpers]
    named = {(source.module, helper.qualname): helper for source, helper in helpers}
    graphs = Graphs(table, functions, named, rpcs, workflows, signals)
    workflows = [_versioned(flow, graphs, placed=placed) for flow in workflows]
    services, services_path, wrong = resolve_services(project, table)
    problems += wrong
    session, authorize_path, wrong = resolve_authorize(project, table)
    problems += wrong
    used = {workflow.function.key for workflow in workflows}
    settings = project.settings
    return App(
        package=project.package,
        root=project.root,
        project=project.way_back,
        services=services,
        services_path=services_path,
        session=session,
        authorize_path=authorize_path,
        settings={
            key: value
            for key, value in (
                ("queue_service", settings.queue_service),
                ("retention", settings.retention),
                ("log_format", settings.log_format),
                ("redact", settings.redact),
                ("store", settings.store),
            )
            if value is not None
        },
        rpcs=tuple(rpcs),
        workflows=tuple(workflows),
        signals=tuple(signals),
        queues=tuple(queues),
        schedules=tuple(schedules),
        unwired=tuple(
            function
            for key, function in sorted(functions.items())
            if function.fact.kind == "workflow" and key not in used
        ),
        loose=tuple(loose),
        uses=tuple((source, use) for source, fact in scanned for use in fact.uses),
        modules=tuple(sorted(source.module for source, fact in scanned if fact.declares)),
        helpers=tuple(helpers),
        mixed=tuple(_mixed(scanned, rpcs, workflows, signals)),
        queue_strings=emits(settings.string_names, len(queues), QUEUE_STRINGS),
        rpc_strings=emits(settings.string_names, len(rpcs), RPC_STRINGS),
        child_strings=emits(settings.string_names, len(rpcs) + len(workflows), STEP_STRINGS),
        signal_strings=emits(settings.string_names, len(signals), SIGNAL_STRINGS),
        workflow_strings=emits(settings.string_names, len(workflows), WORKFLOW_STRINGS),
        types=describe(shapes, _named(rpcs, workflows, signals)),
    ), tuple(problems)


def _function(
    table: SymbolTable, source: Source, fact: FunctionFact
) -> tuple[FunctionModel, list[Diagnostic]]:
    taken, first = resolve_annotation(table, source, fact.input)
    returned, second = resolve_annotation(table, source, fact.output)
    return FunctionModel(source, fact, taken, returned), [*first, *second]


def _wired(
    table: SymbolTable, scanned: Scanned, functions: dict[tuple[str, str], FunctionModel]
) -> tuple[list[WorkflowModel], list[LooseWire]]:
    workflows: list[WorkflowModel] = []
    loose: list[LooseWire] = []
    for source, fact in scanned:
        for wire in fact.wires:
            function = function_named(table, functions, source.module, wire.func)
            if function is None or function.fact.kind != "workflow":
                loose.append(LooseWire(source, wire))
            else:
                attribute = attribute_for(wire.name)
                workflows.append(WorkflowModel(wire.name, attribute, source, wire, function))
    return workflows, loose


def _queues(
    table: SymbolTable,
    scanned: Scanned,
    functions: dict[tuple[str, str], FunctionModel],
    loose: list[LooseWire],
) -> list[QueueModel]:
    queues: list[QueueModel] = []
    for source, fact in scanned:
        for queue in fact.queues:
            function = function_named(table, functions, source.module, queue.func)
            if function is None or function.fact.kind != "function":
                loose.append(LooseWire(source, queue))
            else:
                attribute = attribute_for(queue.queue, taken=QUEUES)
                queues.append(QueueModel(queue.queue, attribute, source, queue, function))
    return sorted(queues, key=lambda queue: (queue.name, queue.place))


def _schedules(
    table: SymbolTable,
    scanned: Scanned,
    functions: dict[tuple[str, str], FunctionModel],
    loose: list[LooseWire],
) -> list[ScheduleModel]:
    schedules: list[ScheduleModel] = []
    for source, fact in scanned:
        for schedule in fact.schedules:
            function = function_named(table, functions, source.module, schedule.func)
            if function is None:
                loose.append(LooseWire(source, schedule))
            else:
                schedules.append(ScheduleModel(schedule.name, source, schedule, function))
    return sorted(schedules, key=lambda schedule: (schedule.name, schedule.place))


def _versioned(flow: WorkflowModel, graphs: Graphs, *, placed: bool) -> WorkflowModel:
    graph = graphs.of(flow.function)
    shown = graphs.of(flow.function, placed=True) if placed else graph
    return replace(flow, graph=tuple(shown), version=version_of(graph))


def _signals(table: SymbolTable, scanned: Scanned) -> tuple[list[SignalModel], list[Diagnostic]]:
    signals: list[SignalModel] = []
    problems: list[Diagnostic] = []
    for source, fact in scanned:
        for signal in fact.signals:
            payload, unresolved = resolve_annotation(table, source, signal.payload)
            problems += unresolved
            attribute = attribute_for(signal.name)
            signals.append(SignalModel(signal.name, attribute, source, signal, payload))
    return sorted(signals, key=lambda signal: (signal.name, signal.place)), problems


def _mixed(
    scanned: Scanned,
    rpcs: Iterable[RpcModel],
    workflows: Iterable[WorkflowModel],
    signals: Iterable[SignalModel],
) -> Iterator[Source]:
    refs = _named(rpcs, workflows, signals)
    homes = {symbol.module for ref in refs for symbol in ref.symbols}
    for source, fact in scanned:
        if fact.imports_package and source.module in homes:
            yield source


def _named(
    rpcs: Iterable[RpcModel], workflows: Iterable[WorkflowModel], signals: Iterable[SignalModel]
) -> list[TypeRef]:
    """The types of everything that is recorded."""
    models = [*(rpc.function for rpc in rpcs), *(flow.function for flow in workflows)]
    refs = [ref for model in models for ref in (model.input, model.output)]
    return [*refs, *(signal.payload for signal in signals)]


def emits(string_names: str, count: int, limit: int) -> bool:
    """True where so many names get an overload each."""
    return string_names == "always" or (string_names == "auto" and count <= limit)
