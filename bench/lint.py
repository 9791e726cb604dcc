"""The cell of the lint: what reading bodies and drawing step graphs add to a cold scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from pikku_gen import generate
from pikku_gen.link import graph
from pikku_gen.rules import determinism
from pikku_gen.scan import bodies, declarations, helpers

from .generation import MANY, Metrics
from .projects import synthesize

_PARTS: tuple[tuple[object, str], ...] = (
    (bodies, "read_bodies"),
    (declarations, "read_graph"),
    (helpers, "read_graph"),
    (graph.Graphs, "of"),
    (determinism, "judge"),
)


def lint_and_graph(data: Path, *, functions: int) -> list[Metrics]:
    """CPU of lint and graphs in one cold run, and its share of the rest of the run."""
    synthesize(data / MANY, MANY, functions)
    spent: list[float] = []
    for owner, name in _PARTS:
        setattr(owner, name, _timed(getattr(owner, name), spent))
    start = time.process_time()
    outcome = generate(data / MANY)
    whole = time.process_time() - start
    if outcome.failed or not outcome.wrote:
        raise AssertionError("nothing was generated")
    lint = sum(spent)
    return [{"cpu_ms": lint * 1e3, "share_of_scan": lint / (whole - lint)}]


def _timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., object]:
    def timed(*arguments: Any, **options: Any) -> object:
        start = time.process_time()
        found = function(*arguments, **options)
        if isinstance(found, Iterator):  # the work is done as it is read
            found = list(cast("Iterator[object]", found))
        spent.append(time.process_time() - start)
        return cast(object, found)

    return timed
