"""Can every input and output be stored and read back as what it was?"""

from __future__ import annotations

from collections.abc import Iterator

from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.link.shapes import ClassShape, Shape, Shapes
from pikku_gen.model.app import App, Source, Symbol
from pikku_gen.model.facts import AnnotationFact
from pikku_gen.model.places import Place, Span

_MODELS = ("model", "dataclass", "typeddict")


def judge(app: App, shapes: Shapes, *, admits_python_3_11: bool) -> Iterator[Diagnostic]:
    """Ambiguous unions, TypedDicts that cannot be validated, and two notes."""
    functions = [rpc.function for rpc in app.rpcs] + list(app.bodies)
    reached: dict[Symbol, ClassShape] = {}
    for function in functions:
        for fact in (function.fact.input, function.fact.output):
            yield from _annotation(shapes, function.source, fact, reached)
    for signal in app.signals:
        yield from _annotation(shapes, signal.source, signal.fact.payload, reached)
    for symbol, found in sorted(reached.items()):
        yield from _class(shapes, symbol, found, admits_python_3_11)
    yield from _notes(app)


def _annotation(
    shapes: Shapes,
    source: Source,
    fact: AnnotationFact,
    reached: dict[Symbol, ClassShape],
) -> Iterator[Diagnostic]:
    if not fact.text:
        return
    shape = shapes.of(source.module, fact.text)
    if _ambiguous(shapes, shape):
        yield diagnostic("PKG214", source.at(fact.span), fact.text)
    _reach(shapes, shape, reached)


def _reach(shapes: Shapes, shape: Shape, reached: dict[Symbol, ClassShape]) -> None:
    for inner in shape.arguments:
        _reach(shapes, inner, reached)
    found = shapes.class_of(shape)
    if found is None or found.symbol in reached:
        return
    reached[found.symbol] = found
    if found.family in _MODELS:
        for field in found.fields:
            _reach(shapes, field.shape, reached)


def _class(
    shapes: Shapes, symbol: Symbol, found: ClassShape, admits_python_3_11: bool
) -> Iterator[Diagnostic]:
    fact = shapes.table.class_of(symbol)
    if fact is None or found.family not in _MODELS:
        return
    place = _place(shapes, symbol, fact.span)
    if admits_python_3_11 and found.typing_module == "typing":
        yield from _typing_bases(shapes, found)
    own = {field.name: field.annotation for field in fact.fields}
    for field in found.fields:
        if field.name in own and _ambiguous(shapes, field.shape):
            subject = f"{symbol.name}.{field.name}: {own[field.name]}"
            yield diagnostic("PKG214", place, subject)


def _typing_bases(shapes: Shapes, found: ClassShape) -> Iterator[Diagnostic]:
    """The classes of the family that name `typing.TypedDict` themselves."""
    for symbol in sorted(found.ancestors):
        fact = shapes.table.class_of(symbol)
        for base in fact.bases if fact else ():
            named = shapes.table.resolve(symbol.module, base)
            if fact and named and named.symbol == Symbol("typing", "TypedDict"):
                yield diagnostic("PKG215", _place(shapes, symbol, fact.span), symbol.name)


def _place(shapes: Shapes, symbol: Symbol, span: Span) -> Place:
    return Place(shapes.path_of(symbol.module), span)


def _ambiguous(shapes: Shapes, shape: Shape) -> bool:
    if shape.kind == "container":
        return any(_ambiguous(shapes, inner) for inner in shape.arguments)
    if shape.kind != "union" or shape.tagged:
        return False
    models = [found for found in map(shapes.class_of, shape.arguments) if found is not None]
    models = [found for found in models if found.family in _MODELS]
    return len(models) > 1 and not _told_apart(models)


def _told_apart(models: list[ClassShape]) -> bool:
    """True when one field holds another literal in each."""
    for field in models[0].fields:
        values: list[str] = []
        for model in models:
            other = model.field(field.name)
            if other is None or other.shape.kind != "literal":
                break
            values += other.shape.values
        else:
            if len(set(values)) == len(values):
                return True
    return False


def _notes(app: App) -> Iterator[Diagnostic]:
    if app.mixed:
        source = app.mixed[0]
        others = len(app.mixed) - 1
        subject = f"`{source.module}`" + (f" and {others} more" if others else "")
        yield diagnostic("PKG216", Place(source.path), subject)
    left_out = [
        f"{count} {kind}"
        for count, kind, emitted in (
            (len(app.rpcs), "RPCs", app.rpc_strings),
            (len(app.workflows), "workflows", app.workflow_strings),
            (len(app.signals), "signals", app.signal_strings),
            (len(app.queues), "queues", app.queue_strings),
        )
        if count and not emitted
    ]
    if app.workflows and app.rpc_strings and app.workflow_strings and not app.child_strings:
        left_out.append(f"{len(app.workflows)} workflows as steps")
    if left_out:
        yield diagnostic(
            "PKG217",
            Place("pyproject.toml"),
            f"the string forms are left out for {' and '.join(left_out)}",
        )
