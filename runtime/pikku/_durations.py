"""Durations as people write them: one strict parser for every place that takes one."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache

from pikku.errors import DurationError

Duration = str | timedelta

_UNITS_US = {
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PART = re.compile(r"(\d+)(ms|min|s|h|d|w)")
_WHOLE = re.compile(r"(?:\d+(?:ms|min|s|h|d|w))+")
MAX_US = 100 * 366 * 86_400_000_000


def duration_us(value: object) -> int:
    """The duration in microseconds.

    Accepts `500ms 5s 5min 2h 1d 1w`, compounds from the largest unit to the smallest
    (`1h30min`), ISO-8601 (`PT5M`) and `timedelta`. A bare number is refused: 5000 would be
    seconds to one reader and milliseconds to another.

    Raises:
        DurationError: for anything else, for a negative one and for more than 100 years.
    """
    if isinstance(value, timedelta):
        us = value // timedelta(microseconds=1)
    elif isinstance(value, str):
        us = _parse(value)
    else:
        raise DurationError(f"{value!r} is no duration")
    if us < 0:
        raise DurationError(f"{value!r} is negative")
    if us > MAX_US:
        raise DurationError(f"{value!r} is longer than 100 years")
    return us


@lru_cache(maxsize=512)
def _parse(text: str) -> int:
    if text.startswith("P"):
        return _parse_iso(text)
    if not text.isascii() or not _WHOLE.fullmatch(text):
        raise DurationError(f"{text!r} is no duration")
    total = 0
    smallest = 2 * _UNITS_US["w"]
    for amount, unit in _PART.findall(text):
        if _UNITS_US[unit] >= smallest:
            raise DurationError(f"{text!r} has its units out of order")
        smallest = _UNITS_US[unit]
        if len(amount) > 18:
            raise DurationError(f"{text!r} is longer than 100 years")
        total += int(amount) * smallest
    return total


def _parse_iso(text: str) -> int:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(timedelta).validate_python(text) // timedelta(microseconds=1)
    except ValidationError:
        raise DurationError(f"{text!r} is no ISO-8601 duration") from None


def format_us(us: int) -> str:
    """*us* microseconds in the same notation, rounded to what a reader wants to see."""
    if us < 1_000_000:
        return f"{us // 1000}ms"
    seconds = us // 1_000_000
    parts: list[str] = []
    for unit in ("w", "d", "h", "min", "s"):
        size = _UNITS_US[unit] // 1_000_000
        if seconds >= size:
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return "".join(parts[:2])
