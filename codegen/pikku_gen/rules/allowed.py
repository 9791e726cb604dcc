"""What a project decides on its own: which findings it allows, and how much each weighs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pikku_gen.codes import LINT
from pikku_gen.config import Level
from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.model.facts import AllowFact
from pikku_gen.model.places import Place

_OWN = ("PKG319", "PKG320")
"""What is said of the comments themselves."""


def settle(
    found: Iterable[Diagnostic],
    allows: Iterable[tuple[str, AllowFact]],
    levels: Iterable[tuple[str, Level]],
) -> Iterator[Diagnostic]:
    """The findings that no comment allows, in the severities of the project."""
    given = dict(levels)
    comments = [(path, allow) for path, allow in allows]
    said = [*_unallowed([*found], comments)]
    for each in said:
        level = given.get(each.code)
        if level is None:
            yield each
        elif level != "off":
            yield replace(each, level=level)


def _unallowed(
    found: list[Diagnostic], allows: list[tuple[str, AllowFact]]
) -> Iterator[Diagnostic]:
    wanted = {
        (path, allow.line, code)
        for path, allow in allows
        for code in allow.codes
        if allow.reason and code in LINT
    }
    used: set[tuple[str, int, str]] = set()
    for each in found:
        key = (each.place.path, each.place.span.line, each.code)
        if each.code in LINT and key in wanted:
            used.add(key)
        else:
            yield each
    for path, allow in sorted(allows, key=lambda pair: (pair[0], pair[1].span)):
        yield from _comment(path, allow, used)


def _comment(path: str, allow: AllowFact, used: set[tuple[str, int, str]]) -> Iterator[Diagnostic]:
    place = Place(path, allow.span)
    unknown = [code for code in allow.codes if code not in LINT or code in _OWN]
    if not allow.codes:
        yield diagnostic("PKG319", place, "this comment names no code that it allows")
    elif unknown:
        yield diagnostic("PKG319", place, f"`{unknown[0]}` is no code of the determinism lint")
    elif not allow.reason:
        yield diagnostic("PKG319", place, "this comment gives no reason, and so allows nothing")
    else:
        for code in allow.codes:
            if (path, allow.line, code) not in used:
                yield diagnostic("PKG320", place, code)
