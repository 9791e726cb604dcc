"""Columns of rows as array literals: one parameter a column, whatever the number of rows.

The text form of an array (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-INPUT) has no
type of its own, so that a statement is prepared once for all sizes of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def numbers(values: Iterable[int | None]) -> str:
    """An array of whole numbers."""
    return "{" + ",".join(["NULL" if each is None else str(each) for each in values]) + "}"


def truths(values: Iterable[bool]) -> str:
    """An array of truth values."""
    return "{" + ",".join(["t" if each else "f" for each in values]) + "}"


def texts(values: Iterable[str | None]) -> str:
    """An array of texts."""
    return "{" + ",".join(["NULL" if each is None else _quoted(each) for each in values]) + "}"


def _quoted(text: str) -> str:
    if '"' in text or "\\" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def columns(kinds: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    """The columns of *rows*; a letter of *kinds* for each: `n`umbers, `t`exts, `b` truth values."""
    if not rows:
        return ["{}"] * len(kinds)
    by_column = zip(*rows, strict=True)
    return [_BY_KIND[kind](column) for kind, column in zip(kinds, by_column, strict=True)]


_BY_KIND: dict[str, Callable[[Iterable[Any]], str]] = {"n": numbers, "t": texts, "b": truths}
