"""The standalone client: a model to the text of each of its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final, TypeAlias

from pikku_gen.model.app import RpcModel, SignalModel, Symbol, TypeRef, WorkflowModel
from pikku_gen.model.client import ClientModel, CopiedModule
from pikku_gen.project import MANIFEST
from pikku_gen.render.environment import environment, literal
from pikku_gen.render.home import templates_dir
from pikku_gen.render.imports import Imports
from pikku_gen.render.openapi import render_openapi, render_schemas
from pikku_gen.render.package import Line, SignalLine, docstring_of, tidy

Schemas: TypeAlias = Mapping[str, object]
Named: TypeAlias = RpcModel | WorkflowModel

_STATIC: Final = ("__init__.py", "_aio.py", "_wire.py", "errors.py")
_CLIENT_NAMES: Final = (
    *("ClientRpc", "ClientRun", "ClientWorkflow", "Connection", "Duration", "RPCS", "Rpc"),
    *("SyncClientRpc", "SyncClientRun", "SyncClientWorkflow", "Values", "WORKFLOWS", "Workflows"),
    *("call", "httpx2", "named", "start"),
)
_SYNC: Final = (
    (r"\basync (?=def |with |for )", ""),
    (r"\bawait ", ""),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsync(BaseTransport|Client|Generator)\b", r"\1"),
    (r"\bAbstractAsync", "Abstract"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\ba(close|read)\b", r"\1"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\bimport asyncio\n", ""),
    (r"\b_aio\b", "_sync"),
    (r"\bClient(Rpc|Run|Workflow)\b", r"SyncClient\1"),
    (r"\basynchronous\b", "synchronous"),
)
"""How the synchronous half is made of the asynchronous one, in its templates."""


def render_client(client: ClientModel, schemas: Schemas | None) -> dict[str, str]:
    """Every file of the client by its path below the client's folder."""
    shared = _shared(client)
    package = client.package
    found = {
        "pyproject.toml": _printed("client/pyproject.toml.jinja", shared),
        "README.md": _printed("client/README.md.jinja", shared | _readme(client)),
        f"{package}/py.typed": "",
        f"{package}/_calls.py": _module("_calls.py", shared | _calls(client)),
        f"{package}/_client.py": _module("_client.py", shared | _client(client)),
        f"{package}/signals.py": _module("signals.py", shared | _signals(client)),
    }
    for name in _STATIC:
        found[f"{package}/{name}"] = _module(name, shared)
    sync = shared | {"class_name": f"Sync{client.class_name}"}
    found[f"{package}/_sync.py"] = _module("_aio.py", sync, sync=True)
    found[f"{package}/_sync_client.py"] = _module("_client.py", sync | _client(client), sync=True)
    found |= render_types(client)
    if schemas is not None:
        found["schemas.json"] = render_schemas(client, schemas)
        found["openapi.json"] = render_openapi(client, schemas)
    found[MANIFEST] = _manifest(client, [*found, MANIFEST])
    return dict(sorted(found.items()))


def render_types(client: ClientModel) -> dict[str, str]:
    """The modules that types are copied to, and the one that users import them from."""
    top = f"{client.package}/types"
    names = [
        f"from {_home(client, symbol.module)} import {symbol.name} as {symbol.name}"
        for symbol in client.unambiguous
    ]
    found = {f"{top}/__init__.py": _module("types.py", {"imports": names})}
    for module in client.modules:
        path = f"{top}/{_file(module)}"
        found[path] = _module(
            "copied.py",
            {
                "module": module.module,
                "postponed": module.postponed,
                "imports": module.imports,
                "statements": module.statements,
                "dropped": module.dropped,
                "opaque": module.opaque,
            },
        )
        for folder in list(PurePosixPath(path).parents)[:-3]:
            init = f"{folder}/__init__.py"
            if all(f"{top}/{_file(other)}" != init for other in client.modules):
                found[init] = _module("empty.py", {})
    return found


def render_probe(client: ClientModel) -> str:
    """A program that prints the JSON Schemas of everything that goes over the wire."""
    imports = Imports((), ("TypeAdapter", "TYPES", "json", "sys", "inputs", "found", "shared"))
    keyed = [(key, mode, _found_in(client, ref)) for key, mode, ref in wire_types(client)]
    imports.use(ref for _, _, ref in keyed)
    variables: dict[str, object] = {
        "types": [(key, mode, imports.text(ref)) for key, mode, ref in keyed],
        "imports": imports.lines(),
    }
    return _printed("client/probe.py.jinja", variables)


def wire_types(client: ClientModel) -> list[tuple[str, str, TypeRef]]:
    """Each type that goes over the wire: its key, whether it is read or written, and itself."""
    found: list[tuple[str, str, TypeRef]] = []
    for rpc in client.rpcs:
        found.append((f"rpc.{rpc.name}.input", "validation", rpc.function.input))
        found.append((f"rpc.{rpc.name}.output", "serialization", rpc.function.output))
    for flow in client.workflows:
        found.append((f"workflow.{flow.name}.input", "validation", flow.function.input))
        found.append((f"workflow.{flow.name}.output", "serialization", flow.function.output))
    for signal in client.signals:
        found.append((f"signal.{signal.name}.payload", "validation", signal.payload))
    return found


def _shared(client: ClientModel) -> dict[str, object]:
    return {
        "class_name": client.class_name,
        "distribution": client.distribution,
        "package": client.package,
        "requirements": client.requirements,
        "requires_python": client.requires_python,
        "version": client.version,
        "root": client.root,
        "rpc_strings": client.rpc_strings,
        "workflow_strings": client.workflow_strings,
    }


def _calls(client: ClientModel) -> dict[str, object]:
    fixed = [Symbol("typing", name) for name in ("Any", "Final")]
    imports = Imports(fixed, ("Call", "RPCS", "WORKFLOWS"))
    return _lines(client, imports) | {"imports": imports.lines()}


def _client(client: ClientModel) -> dict[str, object]:
    rpcs = client.rpcs if client.rpc_strings else ()
    workflows = client.workflows if client.workflow_strings else ()
    used = {
        "Any": True,
        "Final": True,
        "Literal": bool(rpcs or workflows),
        "Never": not rpcs or not workflows,
        "Self": True,
        "overload": len(rpcs) > 1 or len(workflows) > 1,
    }
    fixed = [Symbol("typing", name) for name, needed in used.items() if needed]
    imports = Imports(fixed, (*_CLIENT_NAMES, client.class_name, f"Sync{client.class_name}"))
    shown = _lines(client, imports, [*rpcs, *workflows])
    return shown | {"imports": imports.lines()}


def _signals(client: ClientModel) -> dict[str, object]:
    fixed = [Symbol("typing", "Final")] if client.signals else []
    imports = Imports(fixed, ("ClientSignal", *(signal.attribute for signal in client.signals)))
    imports.use(_found_in(client, signal.payload) for signal in client.signals)
    return {
        "signals": [_signal(client, imports, signal) for signal in client.signals],
        "imports": imports.lines(),
    }


def _readme(client: ClientModel) -> dict[str, object]:
    plain = Imports((), ())
    shown = _lines(client, plain)
    plain.use(_found_in(client, signal.payload) for signal in client.signals)
    exported = sorted(f"`{symbol.name}`" for symbol in client.unambiguous)
    signals = [
        {
            "attribute": signal.attribute,
            "payload": signal.payload.text,
            "has_payload": not signal.payload.is_none,
        }
        for signal in client.signals
    ]
    copied = bool(client.modules) or not client.exported
    return shown | {"signals": signals, "exported": exported, "copied": copied}


def _lines(
    client: ClientModel, imports: Imports, spelled: Sequence[Named] | None = None
) -> dict[str, object]:
    """Functions and workflows as templates print them; `spelled` are those whose types are."""
    every: list[Named] = [*client.rpcs, *client.workflows]
    spelled = every if spelled is None else spelled
    for each in spelled:
        imports.use(_types(client, each))
    return {
        "rpcs": [_line(client, imports, rpc, spelled) for rpc in client.rpcs],
        "workflows": [_line(client, imports, flow, spelled) for flow in client.workflows],
    }


def _line(client: ClientModel, imports: Imports, item: Named, spelled: Sequence[Named]) -> Line:
    function = item.function
    words = function.fact.docstring
    if isinstance(item, WorkflowModel):
        words = item.wire.description or words
    texts = map(imports.text, _types(client, item)) if item in spelled else ("", "")
    taken, given = texts
    return Line(
        attribute=item.attribute,
        literal=literal(item.name),
        input=taken,
        output=given,
        has_input=not function.input.is_none,
        docstring=docstring_of(":".join(function.key), words),
    )


def _types(client: ClientModel, item: Named) -> tuple[TypeRef, TypeRef]:
    function = item.function
    return _found_in(client, function.input), _found_in(client, function.output)


def _signal(client: ClientModel, imports: Imports, signal: SignalModel) -> SignalLine:
    return SignalLine(
        attribute=signal.attribute,
        literal=literal(signal.name),
        payload=imports.text(_found_in(client, signal.payload)),
        has_payload=not signal.payload.is_none,
        docstring=docstring_of(f"the signal {signal.name}", signal.fact.description),
    )


def _found_in(client: ClientModel, ref: TypeRef) -> TypeRef:
    """The type with its names where the client finds them."""
    return TypeRef(
        tuple(
            part if isinstance(part, str) else Symbol(_home(client, part.module), part.name)
            for part in ref.parts
        )
    )


def _home(client: ClientModel, module: str) -> str:
    copied = any(each.module == module for each in client.modules)
    return f"{client.package}.types.{module}" if copied else module


def _file(module: CopiedModule) -> str:
    way = module.module.replace(".", "/")
    return f"{way}/__init__.py" if module.path.endswith("__init__.py") else f"{way}.py"


def _manifest(client: ClientModel, files: Iterable[str]) -> str:
    document = {
        "manifest": 1,
        "client": client.distribution,
        "root": client.root,
        "files": sorted(files),
    }
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _module(name: str, variables: Mapping[str, object], *, sync: bool = False) -> str:
    path = f"client/package/{name}.jinja"
    return _printed(path, variables, sync=sync)


def _printed(path: str, variables: Mapping[str, object], *, sync: bool = False) -> str:
    if not sync:
        return tidy(environment().get_template(path).render(variables))
    text = (templates_dir() / path).read_text(encoding="utf-8")
    for pattern, words in _SYNC:
        text = re.sub(pattern, words, text)
    return tidy(environment().from_string(text).render(variables))
