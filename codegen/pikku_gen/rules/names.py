"""Is every name given once, and does every use of one lead somewhere?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from pikku_gen.diagnostics import Diagnostic, diagnostic, nearest
from pikku_gen.link.shapes import Shapes
from pikku_gen.model.app import App
from pikku_gen.model.places import Place

Named = tuple[str, str, Place]
"""Name, attribute, where it is given."""


def judge(app: App, shapes: Shapes) -> Iterator[Diagnostic]:
    """Duplicate names, colliding attributes, wires and strings that lead nowhere."""
    rpcs = [(rpc.name, rpc.attribute, rpc.function.name_place) for rpc in app.rpcs]
    flows = [(flow.name, flow.attribute, flow.place) for flow in app.workflows]
    signals = [(signal.name, signal.attribute, signal.place) for signal in app.signals]
    yield from _unique("PKG204", rpcs)
    yield from _unique("PKG205", flows)
    yield from _unique("PKG218", signals)
    functions = {name: place for name, _, place in rpcs}
    for name, _, place in flows:
        if name in functions:
            yield diagnostic("PKG220", place, name, related=(functions[name],))
    for loose in app.loose:
        place = loose.source.at(loose.wire.func_span)
        yield diagnostic("PKG212", place, loose.wire.func, hint=_loose_hint(app, loose.wire.func))
    for source, use in app.uses:
        named = {"rpc": rpcs, "workflow": flows, "signal": signals}[use.kind]
        known = [name for name, _, _ in named]
        if use.name not in known:
            kind = "RPC" if use.kind == "rpc" else use.kind
            others = {"rpc": flows, "workflow": rpcs}.get(use.kind, [])
            names = [name for name, _, _ in others]
            yield unknown_name(source.at(use.span), kind, use.name, known, names)


def unknown_name(
    place: Place, kind: str, name: str, known: Iterable[str], others: Collection[str] = ()
) -> Diagnostic:
    """A name that nothing answers to, with the nearest that does; `others` are RPCs where a
    workflow is meant, and workflows where an RPC is."""
    close = nearest(name, known)
    hint = f"did you mean `{close}`?" if close else ""
    if name in others:
        is_what = "a workflow, and no RPC" if kind == "RPC" else "an RPC, and no workflow"
        hint = f"`{name}` is {is_what}"
    return diagnostic("PKG210", place, f"there is no {kind} named `{name}`", hint=hint)


def _unique(code: str, named: list[Named]) -> Iterator[Diagnostic]:
    names: dict[str, Place] = {}
    attributes: dict[str, tuple[str, Place]] = {}
    for name, attribute, place in sorted(named, key=lambda entry: (entry[2], entry[0])):
        if name in names:
            yield diagnostic(code, place, name, related=(names[name],))
            continue
        names[name] = place
        if attribute in attributes:
            yield diagnostic("PKG206", place, attribute, related=(attributes[attribute][1],))
            continue
        attributes[attribute] = (name, place)


def _loose_hint(app: App, func: str) -> str:
    workflows = [function.fact.qualname for function in app.bodies]
    close = nearest(func.rpartition(".")[2], workflows)
    return f"did you mean `{close}`?" if close else ""
