"""What must be true of a project: a file per question, each yielding diagnostics."""

from __future__ import annotations

from collections.abc import Iterator

from pikku_gen.diagnostics import Diagnostic
from pikku_gen.link.shapes import Shapes
from pikku_gen.model.app import App
from pikku_gen.rules import data, determinism, names, schedules, steps, types


def judge(app: App, shapes: Shapes, *, admits_python_3_11: bool) -> Iterator[Diagnostic]:
    """Everything that the rules find in a project."""
    yield from names.judge(app, shapes)
    yield from types.judge(app, shapes, admits_python_3_11=admits_python_3_11)
    yield from schedules.judge(app, shapes)
    yield from steps.judge(app, shapes)
    yield from data.judge(app, shapes)
    yield from determinism.judge(app)
