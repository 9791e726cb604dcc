"""Can everything that is due by the clock be called with nothing, or with the time?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.link.shapes import Shape, Shapes
from pikku_gen.model.app import App, FunctionModel, Symbol

_OTHER_TIMES: Final = frozenset(
    Symbol("datetime", name) for name in ("date", "time", "timedelta", "tzinfo")
)


def judge(app: App, shapes: Shapes) -> Iterator[Diagnostic]:
    """Scheduled functions with another input, and scheduled workflows that nothing wires."""
    wired = {flow.function.key for flow in app.workflows}
    for schedule in app.schedules:
        function = schedule.function
        if not _takes_time(shapes, function):
            yield diagnostic("PKG224", schedule.func_place, schedule.fact.func)
        if function.fact.kind == "workflow" and function.key not in wired:
            yield diagnostic("PKG213", schedule.func_place, schedule.fact.func)


def _takes_time(shapes: Shapes, function: FunctionModel) -> bool:
    """False where it is certain that the input is neither nothing nor a datetime."""
    if not function.fact.has_input or not function.fact.input.text:
        return True
    if function.input.parts[0] in _OTHER_TIMES and len(function.input.parts) == 1:
        return False
    return not _is_other(shapes.of(function.source.module, function.fact.input.text))


def _is_other(shape: Shape) -> bool:
    if shape.kind == "union":
        return all(map(_is_other, shape.arguments))
    return shape.kind != "unknown" and shape.name != "None"
