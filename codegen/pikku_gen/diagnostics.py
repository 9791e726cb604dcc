"""What the generator says: values, made by any stage, printed all at once."""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pikku_gen.codes import TABLE, Severity
from pikku_gen.model.places import Place, Span

ReadLine = Callable[[str, int], str | None]
"""The text of one line of a file of the project, where there is one."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding at one place, with the way out."""

    place: Place
    code: str
    message: str
    hint: str
    related: tuple[Place, ...] = ()
    fix: str = ""
    """What can be written at the place instead, without a second thought."""
    level: Severity | None = None
    """The severity that the project chose."""

    @property
    def severity(self) -> Severity:
        """As the project says, else as the table does."""
        return self.level or TABLE[self.code].severity


def diagnostic(
    code: str,
    place: Place,
    subject: str,
    *,
    hint: str = "",
    related: tuple[Place, ...] = (),
    fix: str = "",
) -> Diagnostic:
    """A diagnostic in the words of the table; `hint` replaces the table's."""
    entry = TABLE[code]
    return Diagnostic(
        place, code, entry.words.format(subject), hint or entry.hint.format(subject), related, fix
    )


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    matches = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    return matches[0] if matches else None


def all_near(name: str, names: Iterable[str]) -> list[str]:
    """The names that may have been meant, the nearest first."""
    return difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6)


def ordered(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Each once, sorted by place."""
    return tuple(
        sorted(set(diagnostics), key=lambda found: (found.place, found.code, found.message))
    )


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    """True when something must be corrected first."""
    return any(found.severity == "error" for found in diagnostics)


def as_text(diagnostics: Sequence[Diagnostic], read_line: ReadLine, *, color: bool = False) -> str:
    """For people: place, words, code frame, help."""
    paint = _Paint(color)
    return "".join(_text_block(found, read_line, paint) for found in diagnostics)


def as_json(diagnostics: Sequence[Diagnostic]) -> list[dict[str, object]]:
    """For programs: one object each."""
    return [
        {
            "code": found.code,
            "severity": found.severity,
            **_place_json(found.place),
            "message": found.message,
            "hint": found.hint,
            "related": [_place_json(place) for place in found.related],
        }
        for found in diagnostics
    ]


def as_github(diagnostics: Sequence[Diagnostic]) -> str:
    """Workflow commands that annotate a pull request."""
    kinds = {"error": "error", "warning": "warning", "note": "notice"}
    return "".join(
        f"::{kinds[found.severity]} file={_property(found.place.path)},"
        f"line={max(found.place.span.line, 1)},col={max(found.place.span.column, 1)},"
        f"endColumn={max(found.place.span.column, 1) + found.place.span.width},"
        f"title={found.code}::{_escaped(found.message)}%0Ahelp: {_escaped(found.hint)}\n"
        for found in diagnostics
    )


def dumps(value: object) -> str:
    """JSON as the programs of this project print it."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class _Paint:
    color: bool

    def __call__(self, style: str, text: str) -> str:
        return f"\033[{style}m{text}\033[0m" if self.color else text


def _text_block(found: Diagnostic, read_line: ReadLine, paint: _Paint) -> str:
    shade = {"error": "1;31", "warning": "1;33", "note": "1;36"}[found.severity]
    kind = "" if found.severity == "error" else f"{found.severity}: "
    lines = [f"{paint('1', _shown(found.place))}: {paint(shade, found.code)} {kind}{found.message}"]
    lines += _frame(found.place, read_line, paint, shade)
    for place in found.related:
        lines.append(f"  also here: {_shown(place)}")
        lines += _frame(place, read_line, paint, shade)
    lines.append(f"  {paint('1;32', 'help:')} {found.hint}")
    return "\n".join(lines) + "\n"


def _shown(place: Place) -> str:
    return str(place) if place.span.located else place.path


def _frame(place: Place, read_line: ReadLine, paint: _Paint, shade: str) -> list[str]:
    span: Span = place.span
    text = read_line(place.path, span.line) if span.located else None
    if text is None:
        return []
    shown = "".join(character if character >= " " else " " for character in text).rstrip()
    gutter = " " * len(str(span.line))
    before = shown[: span.column - 1].ljust(span.column - 1)
    marked = shown[span.column - 1 : span.column - 1 + span.width]
    return [
        f"  {gutter} |",
        f"  {span.line} | {shown}",
        f"  {gutter} | {' ' * _cells(before)}{paint(shade, '^' * max(1, _cells(marked)))}",
    ]


def _cells(text: str) -> int:
    """How wide a terminal shows it."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )


def _place_json(place: Place) -> dict[str, object]:
    return {
        "path": place.path,
        "line": place.span.line,
        "column": place.span.column,
        "width": place.span.width,
    }


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
