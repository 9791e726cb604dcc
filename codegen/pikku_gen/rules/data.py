"""Does the data of a step fit what its target declares?

Only what is certain is reported: where a type is not fully known, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pikku_gen.diagnostics import Diagnostic, diagnostic, nearest
from pikku_gen.link.shapes import UNKNOWN, ClassShape, Shape, Shapes
from pikku_gen.model.app import App, Source
from pikku_gen.model.facts import NameUse, StepFact, ValueFact
from pikku_gen.model.places import Span
from pikku_gen.rules.targets import Targets

_WIDER = {("bool", "int"), ("int", "float"), ("bool", "float")}
_WITH_DATA = ("do", "saga.do")
Misfit = tuple[Span, str, str]
"""Where, what, and a hint or nothing."""


def judge(app: App, shapes: Shapes) -> Iterator[Diagnostic]:
    """Data whose type is known and is not the declared one."""
    targets = Targets(app, shapes)
    for source, fact in app.stepping:
        fits = _Fits(shapes, targets, source.module, fact.steps)
        for step in fact.steps:
            if step.kind in _WITH_DATA:
                yield from fits.step(source, step)
    for source, use in app.uses:
        if use.data is not None:
            yield from _use(targets, shapes, source, use, use.data)


def _use(
    targets: Targets, shapes: Shapes, source: Source, use: NameUse, value: ValueFact
) -> Iterator[Diagnostic]:
    """The data beside a string that names what is called, started or sent."""
    if use.kind == "signal":
        signal = targets.signal_names.get(use.name)
        home, declared = (signal.source, signal.fact.payload) if signal else (source, None)
    elif use.kind in ("queue", "queues"):
        queues = targets.queue_names if use.kind == "queue" else targets.queue_attributes
        queue = queues.get(use.name)
        function = queue.function if queue else None
        home, declared = (function.source, function.fact.input) if function else (source, None)
    else:
        known = targets.workflow_names if use.kind == "workflow" else targets.names
        target = known.get(use.name)
        function = target.function if target else None
        home, declared = (function.source, function.fact.input) if function else (source, None)
    if declared is None or not declared.text:
        return
    fits = _Fits(shapes, targets, source.module)
    shape = shapes.of(home.module, declared.text)
    for span, words, hint in fits.misfits(shape, value, f"the data of `{use.name}`"):
        yield diagnostic("PKG211", source.at(span), words, hint=hint)


class _Fits:
    """Declared types against the values of one module; `steps` are those of one workflow in it."""

    def __init__(
        self, shapes: Shapes, targets: Targets, module: str, steps: Sequence[StepFact] = ()
    ) -> None:
        self.shapes = shapes
        self.targets = targets
        self.module = module
        self.steps = steps

    def step(self, source: Source, step: StepFact) -> Iterator[Diagnostic]:
        target = step.target
        if target is None or target.kind in ("inline", "unknown"):
            return
        declared = self.targets.declared(self.module, target)
        if declared is None:
            return
        name = declared.fact.name
        if not declared.fact.has_input:
            if step.data is not None and not _is_none(step.data):
                words = f"`{name}` takes no input"
                hint = "leave the data away"
                yield diagnostic("PKG211", source.at(step.data.span), words, hint=hint)
            return
        if not declared.fact.input.text or declared.input.is_none:
            return
        if step.data is None:
            words = f"`{name}` needs an input of type `{declared.input.text}`"
            yield diagnostic("PKG211", source.at(target.span), words)
            return
        shape = self.shapes.of(declared.source.module, declared.fact.input.text)
        for span, words, hint in self.misfits(shape, step.data, f"the input of `{name}`"):
            yield diagnostic("PKG211", source.at(span), words, hint=hint)

    def misfits(self, declared: Shape, value: ValueFact, what: str) -> Iterator[Misfit]:
        """Every certain difference between a value and its declared type."""
        found = self.shapes.class_of(declared)
        if value.kind == "dict" and found is not None and found.family == "typeddict":
            yield from self._dictionary(found, value)
        elif value.kind == "list" and declared.kind == "container" and declared.name == "list":
            for item in value.items:
                inner = declared.arguments[0] if declared.arguments else UNKNOWN
                yield from self.misfits(inner, item, f"an item of {what}")
        elif self._refuses(declared, self.shape(value)):
            words = f"{what} must be `{_shown(declared)}`, not `{_shown(self.shape(value))}`"
            made = found is not None and value.kind == "dict"
            yield value.span, words, f"write `{_shown(declared)}(…)`" if made else ""

    def _dictionary(self, found: ClassShape, value: ValueFact) -> Iterator[Misfit]:
        name = found.symbol.name
        known = [field.name for field in found.fields]
        for key, span, item in zip(value.keys, value.key_spans, value.items, strict=True):
            field = found.field(key)
            if field is not None:
                yield from self.misfits(field.shape, item, f"`{key}` of `{name}`")
            elif found.sealed:
                close = nearest(key, known)
                hint = f"did you mean `{close}`?" if close else f"it has {', '.join(known)}"
                yield span, f"`{name}` has no key `{key}`", hint
        missing = [f.name for f in found.fields if f.required and f.name not in value.keys]
        if missing and value.complete:
            keys = ", ".join(f"`{key}`" for key in missing)
            yield value.span, f"{keys} missing for `{name}`", ""

    def shape(self, value: ValueFact) -> Shape:
        """The type of a value, as far as it is known."""
        match value.kind:
            case "literal":
                return Shape("primitive", value.text)
            case "dict" | "list":
                return Shape("container", value.kind)
            case "type":
                return self._made(self.module, value)
            case "item" | "attribute":
                return self._looked_up(value)
            case "step":
                return self._result(value.index)
            case _:
                return UNKNOWN

    def _made(self, module: str, value: ValueFact) -> Shape:
        shape = self.shapes.of(module, value.text)
        found = self.shapes.class_of(shape)
        if shape.kind == "class" and (found is None or found.family == "enum"):
            return UNKNOWN
        return shape

    def _looked_up(self, value: ValueFact) -> Shape:
        owner = self.shapes.class_of(self.shape(value.items[0]))
        if owner is None or (value.kind == "item") != (owner.family == "typeddict"):
            return UNKNOWN
        field = owner.field(value.text)
        return field.shape if field else UNKNOWN

    def _result(self, index: int) -> Shape:
        step = self.steps[index] if 0 <= index < len(self.steps) else None
        if step is None or step.target is None or step.kind not in _WITH_DATA or step.detached:
            return UNKNOWN
        declared = self.targets.declared(self.module, step.target)
        if declared is None or not declared.fact.output.text:
            return UNKNOWN
        return self.shapes.of(declared.source.module, declared.fact.output.text)

    def _refuses(self, declared: Shape, given: Shape) -> bool:
        """True when no value of the given type can be of the declared one."""
        if "unknown" in (declared.kind, given.kind):
            return False
        if given.kind == "union":
            return all(self._refuses(declared, member) for member in given.arguments)
        if declared.kind == "union":
            return all(self._refuses(member, given) for member in declared.arguments)
        if "literal" in (declared.kind, given.kind):
            return False
        if declared.kind == "class" and given.kind == "class":
            return self._other_class(declared, given)
        if "class" in (declared.kind, given.kind):
            return self._class_and_builtin(declared, given)
        if declared.kind == given.kind == "primitive":
            same = declared.name == given.name
            return not same and (given.name, declared.name) not in _WIDER
        return declared.name != given.name

    def _other_class(self, declared: Shape, given: Shape) -> bool:
        wanted, found = self.shapes.class_of(declared), self.shapes.class_of(given)
        if wanted is None or found is None or not found.sealed or not wanted.sealed:
            return False
        if wanted.symbol in found.ancestors:
            return False
        if wanted.family == found.family == "typeddict":
            return any(f.required and found.field(f.name) is None for f in wanted.fields)
        return "plain" not in (wanted.family, found.family)

    def _class_and_builtin(self, declared: Shape, given: Shape) -> bool:
        one, other = (declared, given) if declared.kind == "class" else (given, declared)
        found = self.shapes.class_of(one)
        if found is None or not found.sealed or found.family in ("plain", "enum"):
            return False
        return not (found.family == "typeddict" and other.name == "dict")


def _is_none(value: ValueFact) -> bool:
    return value.kind == "literal" and value.text == "None"


def _shown(shape: Shape) -> str:
    match shape.kind:
        case "union":
            return " | ".join(_shown(member) for member in shape.arguments)
        case "container" if shape.arguments:
            return f"{shape.name}[{', '.join(_shown(item) for item in shape.arguments)}]"
        case "unknown":
            return "…"
        case "literal":
            return f"Literal[{', '.join(shape.values)}]"
        case _:
            return shape.name
