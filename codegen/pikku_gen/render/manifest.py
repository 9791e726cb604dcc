"""manifest.json: what was found, for programs of any language."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pikku_gen.model.app import (
    App,
    FunctionModel,
    QueueModel,
    RpcModel,
    ScheduleModel,
    SignalModel,
    WorkflowModel,
)
from pikku_gen.model.facts import Option, StepFact


def render_manifest(app: App, files: Iterable[str]) -> str:
    """The manifest's text; `files` are those of the generated package."""
    document = manifest_of(app, files)
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def manifest_of(app: App, files: Iterable[str], *, placed: bool = False) -> dict[str, object]:
    """What the manifest says; `placed` adds where queues and schedules are wired."""
    return {
        "manifest": 1,
        "package": app.package,
        "root": app.root,
        "services": app.services_path or None,
        "authorize": app.authorize_path or None,
        "files": sorted(files),
        "functions": [_function(rpc) for rpc in app.rpcs],
        "workflows": [_workflow(flow) for flow in app.workflows],
        "signals": [_signal(signal) for signal in app.signals],
        "queues": [_queue(queue) | _at(queue, placed) for queue in app.queues],
        "schedules": [_schedule(each) | _at(each, placed) for each in app.schedules],
        "types": app.types,
    }


def _function(rpc: RpcModel) -> dict[str, object]:
    fact = rpc.function.fact
    options = _options(fact.options)
    return {
        "name": rpc.name,
        "attribute": rpc.attribute,
        **_identity(rpc.function),
        "async": fact.is_async,
        "expose": options.pop("expose", False),
        "tags": options.pop("tags", []),
        "description": options.pop("description", "") or fact.docstring,
        "options": options,
    }


def _workflow(flow: WorkflowModel) -> dict[str, object]:
    found: dict[str, object] = {
        "name": flow.name,
        "attribute": flow.attribute,
        **_identity(flow.function),
        "description": flow.wire.description,
        "tags": list(flow.wire.tags),
        "expose": flow.wire.expose,
        "options": _options(flow.function.fact.options),
        "graph": flow.graph,
        "version": flow.version,
    }
    steps = flow.function.fact.steps
    if flow.function.fact.linear and all(step.name for step in steps):
        found["steps"] = [_step(step) for step in steps]
    return found


def _signal(signal: SignalModel) -> dict[str, object]:
    return {
        "name": signal.name,
        "attribute": signal.attribute,
        "module": signal.source.module,
        "payload": None if signal.payload.is_none else signal.payload.text,
        "payload_type": signal.payload.qualified,
        "description": signal.fact.description,
    }


def _queue(queue: QueueModel) -> dict[str, object]:
    return {
        "name": queue.name,
        "attribute": queue.attribute,
        "function": queue.function.fact.name,
        "module": queue.source.module,
        "config": {"source": queue.fact.config} if queue.fact.config else None,
    }


def _schedule(schedule: ScheduleModel) -> dict[str, object]:
    """A workflow is named by its module and qualified name: it may be wired more than once."""
    options = {"timezone": "UTC", "catch_up": "once"} | _options(schedule.fact.options)
    module, qualname = schedule.function.key
    return {
        "name": schedule.name,
        "kind": schedule.function.fact.kind,
        "func": f"{module}:{qualname}",
        "module": schedule.source.module,
        "description": schedule.fact.description,
        **options,
    }


def _at(wired: QueueModel | ScheduleModel, placed: bool) -> dict[str, object]:
    return {"at": f"{wired.source.module}:{wired.place.span.line}"} if placed else {}


def _identity(function: FunctionModel) -> dict[str, object]:
    return {
        "module": function.source.module,
        "qualname": function.fact.qualname,
        "input": function.input.text if function.fact.has_input else None,
        "output": function.output.text,
        "input_type": function.input.qualified,
        "output_type": function.output.qualified,
    }


def _options(options: tuple[Option, ...]) -> dict[str, object]:
    """Literal options by value, others by their source."""
    return {
        option.name: json.loads(option.value) if option.literal else {"source": option.value}
        for option in options
    }


def _step(step: StepFact) -> dict[str, object]:
    found: dict[str, object] = {"name": step.name, "kind": step.kind}
    if step.target is not None and step.target.kind != "unknown":
        found["target"] = step.target.text if step.target.kind != "inline" else None
    return found
