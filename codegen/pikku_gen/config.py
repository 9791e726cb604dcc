"""The `[tool.pikku]` table of pyproject.toml: the settings of one project."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from pikku_gen.codes import LINT, Severity
from pikku_gen.diagnostics import Diagnostic, diagnostic, nearest
from pikku_gen.model.places import Place, Span

StringNames = Literal["auto", "always", "never"]
ClientTypes = Literal["copy", "import"]
Level = Severity | Literal["off"]

PYPROJECT: Final = "pyproject.toml"
_TEXTS: Final = ("root", "output", "package", "services", "store", "queue_service", "authorize")
_KNOWN: Final = (
    *_TEXTS,
    *("source", "string_names", "client_types", "queues", "lint", "retention"),
    *("log_format", "redact"),
)
_LEVELS: Final = ("error", "warning", "note", "off")
_ENDS: Final = ("completed", "failed", "cancelled")
_DURATION: Final = re.compile(r"([0-9]+(ms|s|min|h|d|w))+|P[0-9YMWDTHS.]+")
_AT: Final = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_HEADER: Final = re.compile(r"""\s*(\[([^][#"']*)\])""")
_KEY: Final = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([\w-]+))\s*=\s*""")
_VALUE: Final = re.compile(r"""\"[^"]*"|'[^']*'|\[.*\]|\{.*\}|[^#\s]+""")
_CHOICES: Final = {
    "string_names": ("auto", "always", "never"),
    "client_types": ("copy", "import"),
    "log_format": ("text", "json"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What `[tool.pikku]` says, with the places where it says it."""

    folder: Path
    root: str | None = None
    source: tuple[str, ...] = ()
    output: str | None = None
    package: str | None = None
    services: str | None = None
    authorize: str | None = None
    store: str | None = None
    queue_service: str | None = None
    retention: str | None = None
    """`30d`, or `completed=30d,failed=90d`."""
    log_format: str | None = None
    redact: str | None = None
    """`iban,bic`."""
    string_names: StringNames = "auto"
    client_types: ClientTypes = "copy"
    lint: tuple[tuple[str, Level], ...] = ()
    """Severities by code, where they are not those of the table."""
    admits_python_3_11: bool = False
    spans: tuple[tuple[str, Span, Span], ...] = ()
    """Of each key its own place and that of its value."""

    def place(self, key: str = "") -> Place:
        """Where a setting stands, or the table where it does not."""
        return Place(PYPROJECT, self._spans(key)[0])

    def place_of_value(self, key: str) -> Place:
        """Where the value of a setting stands, or the table where it does not."""
        return Place(PYPROJECT, self._spans(key)[1])

    def _spans(self, key: str) -> tuple[Span, Span]:
        found = {name: (own, value) for name, own, value in self.spans}
        return found.get(key) or found.get("") or (Span(), Span())


def find_project(start: Path) -> Path | None:
    """The nearest folder at or above `start` whose pyproject.toml has a `[tool.pikku]` table.

    Where none has one, the nearest folder with a pyproject.toml: what is missing is said about it.
    """
    folders = [start, *start.parents]
    holders = [folder for folder in folders if (folder / PYPROJECT).is_file()]
    for folder in holders:
        try:
            table = tomllib.loads((folder / PYPROJECT).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            return folder
        if _table(table, "tool", "pikku") is not None:
            return folder
    return holders[0] if holders else None


def read_settings(folder: Path) -> tuple[Settings, tuple[Diagnostic, ...]]:
    """The settings of the project in `folder`, and what is wrong with them."""
    settings = Settings(folder)
    place = Place(PYPROJECT)
    text = ""
    try:
        text = (folder / PYPROJECT).read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
    except FileNotFoundError:
        return settings, (diagnostic("PKG501", place, "there is no pyproject.toml"),)
    except OSError as error:
        return settings, (diagnostic("PKG502", place, error.strerror or "unreadable"),)
    except UnicodeDecodeError as error:
        return settings, (diagnostic("PKG502", place, f"it is not UTF-8: {error.reason}"),)
    except (ValueError, RecursionError) as error:
        reason, span = _located(str(error), text)
        return settings, (diagnostic("PKG502", Place(PYPROJECT, span), reason),)
    table = _table(document, "tool", "pikku")
    if table is None:
        missing = "pyproject.toml has no [tool.pikku] table"
        return settings, (diagnostic("PKG501", place, missing),)
    return _settings(folder, text, document, table)


def _located(reason: str, text: str) -> tuple[str, Span]:
    """What a TOML parser says, without the place that it says it of, and the place."""
    found = _AT.search(reason)
    if found is None:
        return reason, Span()
    if found["line"]:
        return reason[: found.start()], Span(int(found["line"]), int(found["column"]))
    lines = text.rstrip("\n").split("\n")
    return reason[: found.start()], Span(len(lines), len(lines[-1]) + 1)


def _settings(
    folder: Path, text: str, document: Mapping[str, object], table: Mapping[str, object]
) -> tuple[Settings, tuple[Diagnostic, ...]]:
    spans = tuple(_key_spans(text))
    found = Settings(folder, spans=spans)
    problems: list[Diagnostic] = []
    good: dict[str, str] = {}
    for key, value in table.items():
        place = found.place(key)
        if key not in _KNOWN:
            close = nearest(key, _KNOWN)
            hint = f"did you mean `{close}`?" if close else f"known settings: {', '.join(_KNOWN)}"
            problems.append(diagnostic("PKG503", place, key, hint=hint))
            continue
        wrong = _wrong(key, value)
        if key == "lint" and not wrong:
            problems += _wrong_lint(found, cast("Mapping[str, object]", value))
        elif wrong:
            place, hint = found.place_of_value(key), _choice_near(key, value)
            problems.append(diagnostic("PKG504", place, f"`{key}` {wrong}", hint=hint))
        elif isinstance(value, str):
            good[key] = value
        elif key == "redact":
            good[key] = ",".join(cast("list[str]", value))
        elif key == "retention":
            kept = cast("Mapping[str, str]", value)
            good[key] = ",".join(f"{status}={age}" for status, age in sorted(kept.items()))
    source = table.get("source", ())
    folders = tuple(cast("list[str]", source)) if not _wrong("source", source) else ()
    return (
        Settings(
            folder=folder,
            root=good.get("root"),
            source=folders,
            output=good.get("output"),
            package=good.get("package"),
            services=good.get("services"),
            authorize=good.get("authorize"),
            store=good.get("store"),
            queue_service=good.get("queue_service"),
            retention=good.get("retention"),
            log_format=good.get("log_format"),
            redact=good.get("redact"),
            string_names=cast(StringNames, good.get("string_names", "auto")),
            client_types=cast(ClientTypes, good.get("client_types", "copy")),
            lint=_levels(table.get("lint")),
            admits_python_3_11=_admits_3_11(document),
            spans=spans,
        ),
        tuple(problems),
    )


def _wrong(key: str, value: object) -> str:
    if key == "source":
        items = cast("list[object]", value) if isinstance(value, (list, tuple)) else [None]
        return "" if all(map(_is_text, items)) else "must be a list of folders"
    if key == "redact":
        items = cast("list[object]", value) if isinstance(value, list) else [None]
        return "" if all(map(_is_key, items)) else "must be a list of names of keys"
    if key == "retention":
        return _wrong_retention(value)
    if key in ("queues", "lint"):
        return "" if isinstance(value, dict) else "must be a table"
    if not isinstance(value, str):
        return "must be a string"
    if not _is_text(value):
        return "must not hold a null character"
    if key in _CHOICES and value not in _CHOICES[key]:
        return f"must be one of {', '.join(_CHOICES[key])}, not `{value}`"
    if key == "package" and not value.isidentifier():
        return f"must be an identifier, not `{value}`"
    if key == "root" and not value.isidentifier():
        return f"must be the name of a top-level package, not `{value}`"
    if not value:
        return "must not be empty"
    return ""


def _is_key(value: object) -> bool:
    return _is_text(value) and bool(str(value).strip()) and "," not in str(value)


def _levels(value: object) -> tuple[tuple[str, Level], ...]:
    if not isinstance(value, dict):
        return ()
    given = cast("Mapping[str, object]", value)
    return tuple((code, cast(Level, level)) for code, level in sorted(given.items()))


def _wrong_lint(settings: Settings, given: Mapping[str, object]) -> Iterator[Diagnostic]:
    for code, level in given.items():
        place = settings.place(f"lint.{code}")
        value = settings.place_of_value(f"lint.{code}")
        if code not in LINT:
            close = nearest(code, LINT)
            hint = f"did you mean `{close}`?" if close else f"there are {', '.join(LINT)}"
            yield diagnostic("PKG504", place, f"`lint` knows no `{code}`", hint=hint)
        elif level not in _LEVELS:
            words = f"`{code}` must be one of {', '.join(_LEVELS)}, not `{level}`"
            close = nearest(str(level), _LEVELS)
            hint = f"did you mean `{close}`?" if close else ""
            yield diagnostic("PKG504", value, words, hint=hint)


def _choice_near(key: str, value: object) -> str:
    close = nearest(str(value), _CHOICES.get(key, ()))
    return f"did you mean `{close}`?" if close else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _wrong_retention(value: object) -> str:
    kept = cast("Mapping[str, object]", value) if isinstance(value, dict) else {"": value}
    for status, age in kept.items():
        if status and status not in _ENDS:
            return f"knows the statuses {', '.join(_ENDS)}, not `{status}`"
        if not isinstance(age, str) or not _DURATION.fullmatch(age):
            return f'must be a duration such as "30d", or a table of them, not `{age}`'
    return "" if kept else "must not be empty"


def _admits_3_11(document: Mapping[str, object]) -> bool:
    project = _table(document, "project")
    requires = project.get("requires-python") if project else None
    if not isinstance(requires, str):
        return False
    clauses = [clause.strip() for clause in requires.replace(" ", "").split(",")]
    return any(
        clause.startswith(operator) and _version(clause[len(operator) :]) < (3, 12)
        for clause in clauses
        for operator in (">=", "~=", "==")
    ) and not any(
        clause.startswith(">") and not clause.startswith(">=") and _version(clause[1:]) >= (3, 11)
        for clause in clauses
    )


def _version(text: str) -> tuple[int, ...]:
    parts = text.removesuffix(".*").split(".")
    return tuple(int(part) for part in parts[:2] if re.fullmatch("[0-9]{1,9}", part))


def _table(document: Mapping[str, object], *path: str) -> Mapping[str, object] | None:
    for key in path:
        inner = document.get(key)
        if not isinstance(inner, dict):
            return None
        document = cast("Mapping[str, object]", inner)
    return document


def _key_spans(text: str) -> Iterator[tuple[str, Span, Span]]:
    """Where the tables of pikku and their keys stand, and their values, as far as they are written
    one to a line."""
    prefix: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header is not None:
            table = re.sub(r"\s", "", header[2])
            prefix = {"tool.pikku": "", "tool.pikku.lint": "lint."}.get(table)
            if prefix is not None:
                span = Span(number, header.start(1) + 1, len(header[1]))
                yield prefix.rstrip("."), span, span
        elif prefix is not None and (key := _KEY.match(line)) is not None:
            which = next(group for group in (1, 2, 3) if key[group] is not None)
            own = Span(number, key.start(which) + 1, max(len(key[which]), 1))
            value = _VALUE.match(line, key.end())
            there = Span(number, key.end() + 1, len(value[0])) if value else own
            yield f"{prefix}{key[which]}", own, there
