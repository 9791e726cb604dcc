"""`pikku-gen client`: what is exposed → its types → their schemas → a package in its own folder."""

from __future__ import annotations

import keyword
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias, cast

from pikku_gen.client.closure import Closure, Need, copy_types, needs_of
from pikku_gen.client.libraries import at_least, read_publisher, requirements
from pikku_gen.client.schemas import describe
from pikku_gen.diagnostics import Diagnostic, diagnostic, has_errors, ordered
from pikku_gen.link.app import RPC_STRINGS, WORKFLOW_STRINGS, emits
from pikku_gen.model.app import App, RpcModel, SignalModel, Symbol, WorkflowModel
from pikku_gen.model.client import ClientModel
from pikku_gen.model.places import Place, Span
from pikku_gen.pipeline import Outcome, Understanding, emit, understand
from pikku_gen.reading import quiet
from pikku_gen.render.client import render_client
from pikku_gen.write import manifest_in

_NAME: Final = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")


_Defined: TypeAlias = tuple[str, str, Span]
"""The module that defines a name, its path and where it stands there."""


class ClientNameError(ValueError):
    """A distribution cannot have this name."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """What clients may reach."""

    rpcs: tuple[RpcModel, ...]
    workflows: tuple[WorkflowModel, ...]
    signals: tuple[SignalModel, ...]

    def needs(self) -> Iterator[Need]:
        """The types that go over the wire."""
        for rpc in self.rpcs:
            yield from needs_of(rpc.function, f"`{rpc.name}`")
        for flow in self.workflows:
            yield from needs_of(flow.function, f"workflow `{flow.name}`")
        for signal in self.signals:
            place = signal.source.at(signal.fact.payload.span)
            yield Need(signal.payload, place, f"the payload of signal `{signal.name}`")


def build_client(folder: Path, out: Path, name: str | None, *, check: bool = False) -> Outcome:
    """Brings the client in `out` up to date; `check` only looks.

    Raises:
        ClientNameError: no distribution can have this name.
    """
    found = understand(folder)
    if not isinstance(found, Understanding):
        return Outcome(folder, found, misconfigured=True)
    project = found.project
    distribution = name or _known_name(out) or f"{project.root.replace('_', '-')}-client"
    package = package_of(distribution, (project.root, project.package, "pikku"))
    outcome = Outcome(folder, package=project.shown(out), command="pikku-gen client")
    if has_errors(found.diagnostics):
        errors = (said for said in found.diagnostics if said.severity == "error")
        return replace(outcome, diagnostics=tuple(errors))
    with quiet():
        exposed, closure, said = _closed(found, package)
    if not exposed.rpcs and not exposed.workflows:
        said = (diagnostic("PKG610", project.settings.place(), ""),)
    if not _is_ours(out):
        said = (*said, diagnostic("PKG611", Place(project.shown(out)), project.shown(out)))
    outcome = replace(outcome, diagnostics=ordered(said))
    if outcome.failed:
        return outcome
    client = _client(found, distribution, package, exposed, closure)
    schemas: Mapping[str, object] | None = None
    if closure is not None:
        described = describe(client)
        if isinstance(described, str):
            place = Place(project.shown(out))
            return replace(
                outcome, diagnostics=ordered([*said, diagnostic("PKG609", place, described)])
            )
        schemas = described
    rendered = render_client(client, schemas)
    return emit(outcome, project, out, rendered, check=check)


def package_of(distribution: str, taken: Iterable[str]) -> str:
    """The import package of a distribution.

    Raises:
        ClientNameError: no distribution can have this name.
    """
    package = re.sub(r"[-._]+", "_", distribution).lower()
    if not _NAME.fullmatch(distribution) or keyword.iskeyword(package):
        raise ClientNameError(f"`{distribution}` cannot be the name of a package")
    if package in taken:
        raise ClientNameError(f"`{package}` is the server's own package")
    return package


def exposed_of(app: App) -> Exposed:
    """The functions and workflows with `expose=True`, and the signals that these wait for."""
    rpcs = tuple(rpc for rpc in app.rpcs if _is_exposed(rpc))
    workflows = tuple(flow for flow in app.workflows if flow.wire.expose)
    names: set[str] = set()
    for flow in workflows:
        names |= set(_signals_in(flow.graph, {signal.name for signal in app.signals}))
    signals = tuple(signal for signal in app.signals if signal.name in names)
    return Exposed(rpcs, workflows, signals)


def _is_exposed(rpc: RpcModel) -> bool:
    return any(
        option.name == "expose" and option.value == "true" for option in rpc.function.fact.options
    )


def _signals_in(graph: object, every: set[str]) -> Iterator[str]:
    """The names of signals that steps of a graph wait for; all of them where one is computed."""
    if isinstance(graph, (list, tuple)):
        for node in cast("list[object]", graph):
            yield from _signals_in(node, every)
    elif isinstance(graph, dict):
        node = cast("dict[str, object]", graph)
        if node.get("step") == "wait_for_signal":
            signal = node.get("signal")
            yield from [signal] if isinstance(signal, str) else every
        else:
            yield from _signals_in(list(node.values()), every)


def _closed(
    found: Understanding, package: str
) -> tuple[Exposed, Closure | None, tuple[Diagnostic, ...]]:
    """What is exposed and its types, and all that is wrong with those, at measured places."""
    app = found.app
    while True:
        exposed = exposed_of(app)
        needs = list(exposed.needs())
        if found.project.settings.client_types == "import":
            closure, said = None, tuple(_mixed(app, needs))
        else:
            closure = copy_types(found.reader, needs, found.project.package, package)
            said = (*closure.problems, *found.reader.problems(), *_ambiguous(closure, package))
        unmeasured = (each.place.path for each in said if not each.place.span.located)
        located = found.located(unmeasured)
        if located is None:
            return exposed, closure, said
        app = located


def _mixed(app: App, needs: Iterable[Need]) -> Iterator[Diagnostic]:
    """Modules that cannot be imported without the server."""
    mixed = {source.module for source in app.mixed}
    for need in needs:
        for symbol in need.ref.symbols:
            if symbol.module in mixed or symbol.module.partition(".")[0] in ("pikku", app.package):
                yield diagnostic("PKG607", need.place, str(symbol))


def _ambiguous(closure: Closure, package: str) -> Iterator[Diagnostic]:
    for name, modules in _homes(closure).items():
        if len(modules) > 1:
            first, *others = (Place(path, span) for _, path, span in modules)
            homes = " and ".join(f"`{package}.types.{module}`" for module, _, _ in modules)
            words = f"`{name}` is defined by several modules, so it is found in {homes} only"
            yield diagnostic("PKG608", first, words, related=tuple(others))


def _homes(closure: Closure) -> dict[str, list[_Defined]]:
    found: dict[str, list[_Defined]] = defaultdict(list)
    for module in closure.modules:
        for name, span in module.exported:
            found[name].append((module.module, module.path, span))
    return found


def _client(
    found: Understanding,
    distribution: str,
    package: str,
    exposed: Exposed,
    closure: Closure | None,
) -> ClientModel:
    project = found.project
    publisher = read_publisher(project.folder, project.root)
    string_names = project.settings.string_names
    refs = [need.ref for need in exposed.needs()]
    outside = {symbol.module for ref in refs for symbol in ref.symbols}
    if closure is None:
        table = found.reader.table
        own = {s for ref in refs for s in ref.symbols if s.module and table.is_module(s.module)}
        exported = tuple(sorted(own))
        outside -= {symbol.module for symbol in own}
    else:
        exported = tuple(
            sorted(
                Symbol(each.module, name) for each in closure.modules for name, _ in each.exported
            )
        )
        outside = set(closure.outside)
    required = requirements(publisher, outside)
    return ClientModel(
        distribution=distribution,
        package=package,
        root=project.root,
        rpcs=exposed.rpcs,
        workflows=exposed.workflows,
        signals=exposed.signals,
        rpc_strings=emits(string_names, len(exposed.rpcs), RPC_STRINGS),
        workflow_strings=emits(string_names, len(exposed.workflows), WORKFLOW_STRINGS),
        modules=closure.modules if closure else (),
        exported=exported,
        version=publisher.version,
        requirements=required if closure else tuple(sorted({*required, publisher.name})),
        requires_python=at_least(
            publisher.requires_python, modern=closure is not None and closure.modern
        ),
    )


def _known_name(out: Path) -> str:
    """The distribution that is in the folder already."""
    name = manifest_in(out).get("client")
    return name if isinstance(name, str) else ""


def _is_ours(out: Path) -> bool:
    """True for a folder that is not there, is empty, or holds a client."""
    if not out.is_dir():
        return not out.exists()
    shown = any(not entry.name.startswith(".") for entry in out.iterdir())
    return not shown or bool(_known_name(out))
