"""The text of a source file: its declared encoding honoured, its line ends made one kind."""

from __future__ import annotations

import io
import tokenize

from pikku_gen.model.facts import Problem
from pikku_gen.model.places import Span


def decode(data: bytes) -> str | Problem:
    """The text, without byte order mark and with `\\n` line ends."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return Problem("PKG102", _place(data, error), _reason(error))
    if "\0" in text:
        return Problem("PKG103", _span_of(text, text.index("\0")), "")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} is not {error.encoding.lower()}"
    return str(error).split(" for ")[0]


def _place(data: bytes, error: Exception) -> Span:
    if not isinstance(error, UnicodeDecodeError):
        return Span(1, 1)
    line = data.count(b"\n", 0, error.start) + 1
    return Span(line, 1)


def _span_of(text: str, index: int) -> Span:
    return Span(text.count("\n", 0, index) + 1, index - (text.rfind("\n", 0, index) + 1) + 1)
