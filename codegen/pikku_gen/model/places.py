"""Where something stands in a source file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Line and column (both from 1) and width of a piece of one file's text.

    The zero span means "not located yet": the scanner measures positions only in files that a
    diagnostic is about.
    """

    line: int = 0
    column: int = 0
    width: int = 1

    @property
    def located(self) -> bool:
        """True once the position was measured."""
        return self.line > 0


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A span and the file it is in, by the file's path below the project."""

    path: str
    span: Span = Span()

    def __str__(self) -> str:
        return f"{self.path}:{self.span.line}:{self.span.column}"
