"""Is every name given once, and does every use of one lead somewhere?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from pikku_gen.diagnostics import Diagnostic, diagnostic, nearest
from pikku_gen.link.shapes import Shapes
from pikku_gen.model.app import App, LooseWire
from pikku_gen.model.facts import WireFact
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
    queues = [(queue.name, queue.attribute, queue.place) for queue in app.queues]
    yield from _unique("PKG218", signals)
    yield from _unique("PKG221", queues)
    yield from _unique("PKG222", [(each.name, each.name, each.place) for each in app.schedules])
    functions = {name: place for name, _, place in rpcs}
    for name, _, place in flows:
        if name in functions:
            yield diagnostic("PKG220", place, name, related=(functions[name],))
    for loose in app.loose:
        yield _loose(app, loose)
    named = {"rpc": rpcs, "workflow": flows, "signal": signals, "queue": queues, "queues": queues}
    for source, use in app.uses:
        known = [
            attribute if use.kind == "queues" else name for name, attribute, _ in named[use.kind]
        ]
        if use.name not in known:
            kind = {"rpc": "RPC", "queues": "queue"}.get(use.kind, use.kind)
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


def _loose(app: App, loose: LooseWire) -> Diagnostic:
    func = loose.wire.func
    of_workflow = isinstance(loose.wire, WireFact)
    functions = app.bodies if of_workflow else [rpc.function for rpc in app.rpcs]
    close = nearest(func.rpartition(".")[2], [each.fact.qualname for each in functions])
    hint = f"did you mean `{close}`?" if close else ""
    code = "PKG212" if of_workflow else "PKG223"
    return diagnostic(code, loose.source.at(loose.wire.func_span), func, hint=hint)
