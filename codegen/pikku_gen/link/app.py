"""One model of the whole project, of the facts of its files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.link.annotations import resolve_annotation
from pikku_gen.link.attributes import attribute_for
from pikku_gen.link.services import resolve_services
from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import (
    App,
    FunctionModel,
    LooseWire,
    RpcModel,
    Source,
    WorkflowModel,
)
from pikku_gen.model.facts import FunctionFact, ScanFact
from pikku_gen.project import Project

RPC_STRINGS: Final = 50
WORKFLOW_STRINGS: Final = 200

Scanned = Sequence[tuple[Source, ScanFact]]


def link(
    project: Project, table: SymbolTable, scanned: Scanned
) -> tuple[App, tuple[Diagnostic, ...]]:
    """The model, and every name on the way that leads nowhere."""
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
    services, services_path, wrong = resolve_services(project, table)
    problems += wrong
    used = {workflow.function.key for workflow in workflows}
    settings = project.settings
    return App(
        package=project.package,
        root=project.root,
        project=project.way_back,
        services=services,
        services_path=services_path,
        settings={
            key: value
            for key, value in (
                ("queue_service", settings.queue_service),
                ("store", settings.store),
            )
            if value is not None
        },
        rpcs=tuple(sorted(rpcs, key=lambda rpc: (rpc.name, rpc.function.place))),
        workflows=tuple(sorted(workflows, key=lambda flow: (flow.name, flow.place))),
        unwired=tuple(
            function
            for key, function in sorted(functions.items())
            if function.fact.kind == "workflow" and key not in used
        ),
        loose=tuple(loose),
        uses=tuple((source, use) for source, fact in scanned for use in fact.uses),
        modules=tuple(
            sorted({source.module for source, fact in scanned if fact.functions or fact.wires})
        ),
        mixed=tuple(_mixed(scanned, rpcs, workflows)),
        rpc_strings=_emits(settings.string_names, len(rpcs), RPC_STRINGS),
        workflow_strings=_emits(settings.string_names, len(workflows), WORKFLOW_STRINGS),
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


def function_named(
    table: SymbolTable,
    functions: dict[tuple[str, str], FunctionModel],
    module: str,
    dotted: str,
) -> FunctionModel | None:
    """The decorated function that a dotted name of a module leads to."""
    found = table.resolve(module, dotted)
    if found is None or found.rest:
        return None
    key = table.follow(found.dotted).rpartition(".")
    return functions.get((key[0], key[2]))


def _mixed(
    scanned: Scanned, rpcs: Iterable[RpcModel], workflows: Iterable[WorkflowModel]
) -> Iterator[Source]:
    models = [*(rpc.function for rpc in rpcs), *(flow.function for flow in workflows)]
    homes = {
        symbol.module
        for model in models
        for ref in (model.input, model.output)
        for symbol in ref.symbols
    }
    for source, fact in scanned:
        if fact.imports_package and source.module in homes:
            yield source


def _emits(string_names: str, count: int, limit: int) -> bool:
    return string_names == "always" or (string_names == "auto" and count <= limit)
