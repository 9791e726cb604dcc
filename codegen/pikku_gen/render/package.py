"""The generated package: a model to the text of each of its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from pikku_gen.model.app import (
    App,
    FunctionModel,
    QueueModel,
    RpcModel,
    SignalModel,
    Symbol,
    TypeRef,
    WorkflowModel,
)
from pikku_gen.project import MANIFEST
from pikku_gen.render.environment import environment, literal
from pikku_gen.render.imports import Imports
from pikku_gen.render.manifest import render_manifest

Named: TypeAlias = (
    tuple[RpcModel, ...]
    | tuple[WorkflowModel, ...]
    | tuple[QueueModel, ...]
    | tuple[SignalModel, ...]
)

_TYPED: Final = "py.typed"
_RPC_NAMES: Final = ("BoundRpc", "RpcRef", "Run")
_WIRE_NAMES: Final = (
    "Backoff",
    "Duration",
    "RpcRef",
    "StepFailure",
    "WorkflowRef",
    "WorkflowSteps",
)
_START_NAMES: Final = (Symbol("collections.abc", "Sequence"), Symbol("pikku", "Duration"))


@dataclass(frozen=True, slots=True)
class Line:
    """A function or workflow as templates print it."""

    attribute: str
    literal: str
    input: str
    output: str
    has_input: bool
    docstring: list[str]


@dataclass(frozen=True, slots=True)
class SignalLine:
    """A signal as templates print it."""

    attribute: str
    literal: str
    payload: str
    has_payload: bool
    docstring: list[str]


def render_package(app: App) -> dict[str, str]:
    """Every file of the package by its path below the package's folder."""
    shared: dict[str, object] = {
        "package": app.package,
        "root": app.root,
        "queue_strings": app.queue_strings,
        "rpc_strings": app.rpc_strings,
        "signal_strings": app.signal_strings,
        "workflow_strings": app.workflow_strings,
    }
    own: dict[str, dict[str, object]] = {
        "__init__.py": {},
        "_app.py": _app(app),
        "_bootstrap.py": {"modules": app.modules},
        "_context.py": _context(app),
        "_queues.py": {"names": _renamed(app.queues)},
        "_queues.pyi": _queues_stub(app),
        "_rpc.py": {"names": _renamed(app.rpcs)},
        "_rpc.pyi": _rpc_stub(app),
        "_signals.py": {"names": _renamed(app.signals)},
        "_signals.pyi": _signals_stub(app),
        "_wire.py": {},
        "_wire.pyi": _wire_stub(app),
        "_workflows.py": {"names": _renamed(app.workflows)},
        "_workflows.pyi": _workflows_stub(app),
        "sync.py": {},
        "sync.pyi": _sync_stub(app),
        "testing.py": {},
        "testing.pyi": _testing_stub(app),
    }
    rendered = {
        path: tidy(environment().get_template(f"package/{path}.jinja").render(shared | variables))
        for path, variables in own.items()
    }
    rendered[_TYPED] = ""
    rendered[MANIFEST] = render_manifest(app, [*rendered, MANIFEST])
    return dict(sorted(rendered.items()))


def _app(app: App) -> dict[str, object]:
    imports = Imports((), ("App", "Context", "WorkflowContext", "registry", "app"))
    imports.use([app.services])
    return {
        "imports": imports.lines(),
        "services": imports.text(app.services),
        "services_path": app.services_path,
        "authorize_path": app.authorize_path,
        "settings": sorted(app.settings.items()),
        "project": app.project,
    }


def _context(app: App) -> dict[str, object]:
    taken = ("Context", "WorkflowContext", "Rpc", "RpcNames", "Wire", "I", "O", "P", "Any")
    typing = ("Callable", "Coroutine", "Sequence", "Literal", "Protocol", "TypeAlias", "TypeVar")
    fixed = (Symbol("datetime", "datetime"),)
    imports = Imports(fixed, (*taken, *typing, "Middleware", "Permission", "pikku"))
    imports.use([app.services, app.session])
    text = imports.text(app.services)
    return {
        "imports": imports.lines(),
        "session": imports.text(app.session),
        "services_argument": text if app.services.is_none else literal(text),
        "versions": [(flow.name, flow.version) for flow in app.workflows],
    }


def _rpc_stub(app: App) -> dict[str, object]:
    attributes = [rpc.attribute for rpc in app.rpcs]
    fixed = [Symbol("pikku", name) for name in _RPC_NAMES]
    strings = _overloads(app.rpc_strings, app.rpcs) or _overloads(
        app.workflow_strings, app.workflows
    )
    literals = (app.rpc_strings and app.rpcs) or (app.workflow_strings and app.workflows)
    never = not (app.rpc_strings and app.rpcs and app.workflow_strings and app.workflows)
    fixed += [*_START_NAMES, *_typing(Literal=bool(literals), Never=never, overload=strings)]
    imports = Imports(fixed, (*attributes, "Rpc", "RpcNames"))
    functions = [rpc.function for rpc in app.rpcs] + [flow.function for flow in app.workflows]
    imports.use(_types(functions))
    return {
        "rpcs": [_rpc_line(imports, rpc) for rpc in app.rpcs],
        "workflows": [_workflow_line(imports, flow) for flow in app.workflows],
        "imports": imports.lines(),
    }


def _wire_stub(app: App) -> dict[str, object]:
    rpcs = app.rpcs if app.rpc_strings else ()
    workflows = app.workflows if app.child_strings else ()
    signals = app.signals if app.signal_strings else ()
    fixed = [Symbol("pikku", name) for name in _WIRE_NAMES]
    fixed += [Symbol("pikku", "Signal")] if signals else []
    fixed += [Symbol("collections.abc", name) for name in ("Callable", "Coroutine")]
    fixed += [Symbol("collections.abc", "Iterable")] if rpcs or workflows else []
    fixed += _typing(Any=True, Literal=True, TypeVar=True, overload=True)
    imports = Imports(fixed, ("I", "O", "P", "T", "Wire", "do", "map", "wait_for_signal"))
    imports.use(_types([*(rpc.function for rpc in rpcs), *(flow.function for flow in workflows)]))
    imports.use(signal.payload for signal in signals)
    return {
        "rpcs": [_rpc_line(imports, rpc) for rpc in rpcs],
        "workflows": [_workflow_line(imports, flow) for flow in workflows],
        "signals": [_signal_line(imports, signal) for signal in signals],
        "imports": imports.lines(),
    }


def _queues_stub(app: App) -> dict[str, object]:
    fixed = [Symbol("pikku", name) for name in ("Duration", "Job")]
    fixed += [Symbol("pikku", "BoundQueue")] if app.queues else []
    emitted = bool(app.queue_strings and app.queues)
    overloads = _overloads(app.queue_strings, app.queues)
    fixed += _typing(ClassVar=True, Literal=emitted, Never=not emitted, overload=overloads)
    imports = Imports(fixed, ("Queues", "queues", "add"))
    imports.take(queue.attribute for queue in app.queues)
    imports.use(_types(queue.function for queue in app.queues))
    return {
        "queues": [_queue_line(imports, queue) for queue in app.queues],
        "imports": imports.lines(),
    }


def _signals_stub(app: App) -> dict[str, object]:
    emitted = bool(app.signal_strings and app.signals)
    fixed = [Symbol("pikku", "Run")] + ([Symbol("pikku", "Signal")] if app.signals else [])
    overloads = _overloads(app.signal_strings, app.signals)
    fixed += _typing(
        Any=True, ClassVar=True, Literal=emitted, Never=not emitted, overload=overloads
    )
    imports = Imports(fixed, ("Signals", "signals", "send_signal"))
    imports.take(signal.attribute for signal in app.signals)
    imports.use(signal.payload for signal in app.signals)
    return {
        "signals": [_signal_line(imports, signal) for signal in app.signals],
        "imports": imports.lines(),
    }


def _testing_stub(app: App) -> dict[str, object]:
    fixed = [Symbol("pikku", "EngineOptions")]
    fixed += [Symbol("collections.abc", name) for name in ("Awaitable", "Callable") if app.rpcs]
    fixed += _typing(Literal=True)
    imports = Imports(fixed, ("BaseLab", "Fakes", "WorkflowLab"))
    imports.take(rpc.attribute for rpc in app.rpcs)
    imports.use([app.services, *_types(rpc.function for rpc in app.rpcs)])
    services = imports.text(app.services)
    return {
        "fakes": [_rpc_line(imports, rpc) for rpc in app.rpcs],
        "imports": sorted([*imports.lines(), "from pikku.testing import WorkflowLab as BaseLab"]),
        "services": services,
        "services_given": services if app.services.is_none else f"{services} | None",
    }


def _workflows_stub(app: App) -> dict[str, object]:
    fixed = [Symbol("pikku", "Run")]
    fixed += [Symbol("pikku", "BoundWorkflow")] if app.workflows else []
    fixed.append(Symbol(f"{app.package}._rpc", "Rpc"))
    emitted = bool(app.workflow_strings and app.workflows)
    overloads = _overloads(app.workflow_strings, app.workflows)
    fixed += [*_START_NAMES]
    fixed += _typing(ClassVar=True, Literal=emitted, Never=not emitted, overload=overloads)
    taken = ("Workflows", "workflows", "rpc", "start_workflow", "get_run")
    return _workflow_lines(app, Imports(fixed, taken))


def _sync_stub(app: App) -> dict[str, object]:
    fixed = [Symbol("pikku", name) for name in ("Duration", "SyncJob", "SyncRun")]
    fixed += [Symbol("pikku", "SyncBoundQueue")] if app.queues else []
    fixed += [Symbol("pikku", "SyncBoundWorkflow")] if app.workflows else []
    fixed.append(Symbol("contextlib", "AbstractContextManager"))
    emitted = (app.workflow_strings and app.workflows, app.queue_strings and app.queues)
    overloads = _overloads(app.workflow_strings, app.workflows) or _overloads(
        app.queue_strings, app.queues
    )
    fixed += _typing(Literal=any(emitted), Never=not all(emitted), overload=overloads)
    taken = ("SyncQueues", "SyncWorkflows", "SyncApp", "add", "get_run", "open_app")
    imports = Imports(fixed, (*taken, "queues", "workflows"))
    imports.take(queue.attribute for queue in app.queues)
    imports.use(_types(queue.function for queue in app.queues))
    return _workflow_lines(app, imports) | {
        "queues": [_queue_line(imports, queue) for queue in app.queues]
    }


def _workflow_lines(app: App, imports: Imports) -> dict[str, object]:
    imports.take(flow.attribute for flow in app.workflows)
    imports.use(_types(flow.function for flow in app.workflows))
    return {
        "workflows": [_workflow_line(imports, flow) for flow in app.workflows],
        "imports": imports.lines(),
    }


def _types(functions: Iterable[FunctionModel]) -> list[TypeRef]:
    return [ref for function in functions for ref in (function.input, function.output)]


def _typing(**names: bool) -> list[Symbol]:
    return [Symbol("typing", name) for name, used in names.items() if used]


def _overloads(emitted: bool, named: Named) -> bool:
    return emitted and len(named) > 1


def _rpc_line(imports: Imports, rpc: RpcModel) -> Line:
    return _line(imports, rpc.name, rpc.attribute, rpc.function, rpc.function.fact.docstring)


def _workflow_line(imports: Imports, flow: WorkflowModel) -> Line:
    words = flow.wire.description or flow.function.fact.docstring
    return _line(imports, flow.name, flow.attribute, flow.function, words)


def _queue_line(imports: Imports, queue: QueueModel) -> Line:
    words = queue.function.fact.docstring
    return _line(imports, queue.name, queue.attribute, queue.function, words)


def _signal_line(imports: Imports, signal: SignalModel) -> SignalLine:
    variable = signal.fact.variable
    place = f"{signal.source.module}:{variable}" if variable else signal.source.module
    return SignalLine(
        attribute=signal.attribute,
        literal=literal(signal.name),
        payload=imports.text(signal.payload),
        has_payload=not signal.payload.is_none,
        docstring=docstring_of(place, signal.fact.description),
    )


def _line(imports: Imports, name: str, attribute: str, function: FunctionModel, words: str) -> Line:
    module, qualname = function.key
    return Line(
        attribute=attribute,
        literal=literal(name),
        input=imports.text(function.input),
        output=imports.text(function.output),
        has_input=not function.input.is_none,
        docstring=docstring_of(f"{module}:{qualname}", words),
    )


def docstring_of(place: str, words: str) -> list[str]:
    """A docstring's lines, escaped: where something is declared, and what is said of it."""
    if not words:
        return [place]
    escaped = words.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return [place, "", *escaped.split("\n")]


def _renamed(named: Named) -> list[tuple[str, str]]:
    return sorted((item.attribute, item.name) for item in named if item.attribute != item.name)


def tidy(text: str) -> str:
    """The text with one line end at its end."""
    return text.rstrip("\n") + "\n"
