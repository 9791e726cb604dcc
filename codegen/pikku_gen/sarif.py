"""Diagnostics as a SARIF 2.1.0 log, which code scanning services and editors read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pikku_gen.codes import AREAS, ENTRIES, Entry
from pikku_gen.diagnostics import Diagnostic, ReadLine
from pikku_gen.model.places import Place

SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
FINGERPRINT: Final = "pikkuLine/v1"
_BASE: Final = "%SRCROOT%"
_INDEX: Final = {entry.code: index for index, entry in enumerate(ENTRIES)}

Json = dict[str, object]


def as_sarif(
    diagnostics: Sequence[Diagnostic],
    read_line: ReadLine,
    *,
    version: str,
    failed: str = "",
    notice: str = "",
) -> Json:
    """One run with a result for each diagnostic; `failed` says why nothing could be examined,
    `notice` what is wrong although no diagnostic says so."""
    invocation: Json = {"executionSuccessful": not failed}
    said = [{"level": "error", "message": {"text": text}} for text in (failed, notice) if text]
    if said:
        invocation["toolExecutionNotifications"] = said
    prints = _fingerprints(diagnostics, read_line)
    driver: Json = {
        "name": "pikku-gen",
        "version": version,
        "rules": [_rule(entry) for entry in ENTRIES],
    }
    run: Json = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {
            _BASE: {"description": {"text": "The folder of the project's pyproject.toml."}}
        },
        "invocations": [invocation],
        "results": [_result(found, mark) for found, mark in zip(diagnostics, prints, strict=True)],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(entry: Entry) -> Json:
    plain = f"{entry.cause}\n\nExample:\n\n{entry.example}\n\nRemedy: {entry.remedy}"
    marked = f"{entry.cause}\n\n```python\n{entry.example}\n```\n\n**Remedy.** {entry.remedy}"
    return {
        "id": entry.code,
        "shortDescription": {"text": f"{entry.title[0].upper()}{entry.title[1:]}"},
        "fullDescription": {"text": entry.cause},
        "help": {"text": plain, "markdown": marked},
        "defaultConfiguration": {"level": entry.severity},
        "properties": {"tags": [AREAS[entry.code[3]]]},
    }


def _result(found: Diagnostic, fingerprint: str) -> Json:
    result: Json = {
        "ruleId": found.code,
        "ruleIndex": _INDEX[found.code],
        "level": found.severity,
        "message": {"text": f"{found.message}\nhelp: {found.hint}"},
        "locations": [{"physicalLocation": _location(found.place)}],
        "partialFingerprints": {FINGERPRINT: fingerprint},
    }
    if found.related:
        result["relatedLocations"] = [
            {"physicalLocation": _location(place), "message": {"text": "also here"}}
            for place in found.related
        ]
    return result


def _location(place: Place) -> Json:
    path = Path(place.path)
    if path.is_absolute():
        location: Json = {"artifactLocation": {"uri": path.as_uri()}}
    else:
        artifact = {"uri": quote(place.path), "uriBaseId": _BASE}
        location = {"artifactLocation": artifact}
    span = place.span
    if span.located:
        location["region"] = {
            "startLine": span.line,
            "startColumn": span.column,
            "endColumn": span.column + span.width,
        }
    return location


def _fingerprints(diagnostics: Sequence[Diagnostic], read_line: ReadLine) -> Iterator[str]:
    """Of each diagnostic what stays when lines above it come and go: its code, its file and the
    text of its line, and which of several such it is."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for found in diagnostics:
        line = read_line(found.place.path, found.place.span.line) or ""
        what = (found.code, found.place.path, " ".join(line.split()))
        digest = hashlib.sha256("\0".join(what).encode(errors="replace")).hexdigest()
        yield f"{digest[:32]}:{seen[what]}"
        seen[what] += 1
