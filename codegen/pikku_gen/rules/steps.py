"""Does every step run once, under a name of its own, and reach a target that exists?"""

from __future__ import annotations

from collections.abc import Iterator

from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.link.shapes import Shapes
from pikku_gen.model.app import App, Source
from pikku_gen.model.facts import CallFact, StepFact, TargetFact
from pikku_gen.rules.names import unknown_name
from pikku_gen.rules.targets import Targets


def judge(app: App, shapes: Shapes) -> Iterator[Diagnostic]:
    """What the bodies of workflows do that would not survive a replay."""
    targets = Targets(app, shapes)
    for source, fact in app.stepping:
        for step in fact.steps:
            yield from _step(source, step)
            for target in (step.target, step.undo):
                if target is not None:
                    yield from _target(targets, source, step, target)
        for call in fact.calls:
            yield from _call(targets, source, call)
        for clash in fact.concurrent:
            place = source.at(clash.span)
            first = source.at(clash.first)
            shown = (
                "{" + (clash.variable if "." in clash.variable else f"{clash.variable}.id") + "}"
            )
            hint = f'give each branch its own name: `f"{clash.name} {shown}"`'
            related = (first,) if clash.first != clash.span else ()
            yield diagnostic("PKG305", place, clash.name, hint=hint, related=related)


def _step(source: Source, step: StepFact) -> Iterator[Diagnostic]:
    if step.name_problem:
        yield diagnostic("PKG304", source.at(step.name_span), step.name_problem)
    if step.fate == "unawaited":
        yield diagnostic("PKG302", source.at(step.span), f"{step.source}(…)")
    elif step.fate == "unused":
        yield diagnostic("PKG303", source.at(step.span), step.variable)


def _target(
    targets: Targets, source: Source, step: StepFact, target: TargetFact
) -> Iterator[Diagnostic]:
    place = source.at(target.span)
    match target.kind:
        case "name":
            if not targets.names_target(step, target.text):
                kind = "RPC" if step.kind == "saga.do" else "RPC or workflow"
                others = targets.workflow_names
                yield unknown_name(place, kind, target.text, targets.target_names(step), others)
        case "attribute":
            if target.text not in targets.attributes:
                others = targets.workflow_attributes
                yield unknown_name(place, "RPC", target.text, targets.attributes, others)
        case "workflow":
            if target.text not in targets.workflow_attributes:
                known = targets.workflow_attributes
                yield unknown_name(place, "workflow", target.text, known, targets.attributes)
        case "signal":
            if target.text not in targets.signal_names:
                yield unknown_name(place, "signal", target.text, targets.signal_names)
        case "signals":
            if target.text not in targets.signal_attributes:
                yield unknown_name(place, "signal", target.text, targets.signal_attributes)
        case "reference":
            yield from _reference(targets, source, step, target)
        case _:
            pass


def _reference(
    targets: Targets, source: Source, step: StepFact, target: TargetFact
) -> Iterator[Diagnostic]:
    place = source.at(target.span)
    module = source.module
    if targets.is_unbound(module, target.text):
        kind = "signal" if step.kind == "wait_for_signal" else "function"
        yield unknown_name(place, kind, target.text, targets.bound(module))
    found = targets.function(module, target.text)
    if found is not None and found.fact.kind == "workflow" and not targets.is_wired(found):
        yield diagnostic("PKG213", place, target.text)


def _call(targets: Targets, source: Source, call: CallFact) -> Iterator[Diagnostic]:
    place = source.at(call.span)
    if call.kind == "rpc" and call.target.partition(".")[0] not in ("invoke", "start_workflow"):
        hint = f'make it a step: `await ctx.workflow.do("Step name", {call.text}, …)`'
        yield diagnostic("PKG301", place, f"{call.text}(…)", hint=hint)
    elif call.kind == "queue":
        done_by = targets.of_queue(call.target)
        named = f"ctx.rpc.{done_by.attribute}, …" if done_by else "…"
        hint = f'make it a step: `await ctx.workflow.do("Step name", {named})`'
        yield diagnostic("PKG301", place, f"{call.text}(…)", hint=hint)
    elif call.kind in ("rpc", "start"):
        yield diagnostic("PKG301", place, f"{call.text}(…)")
    elif targets.function(source.module, call.target) is not None:
        hint = f'make it a step: `await ctx.workflow.do("Step name", {call.text}, …)`'
        yield diagnostic("PKG301", place, f"{call.text}(…)", hint=hint)
