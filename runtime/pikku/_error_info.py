"""What is kept of an error: plain data that outlives the process that raised it."""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple


class ErrorInfo(NamedTuple):
    """An error as it is recorded: the class's name, its message, its own code if it has one."""

    type: str
    message: str
    code: str | None = None
    kinds: tuple[str, ...] = ()
    traceback: str | None = None
    hint: str | None = None

    @classmethod
    def of(cls, error: BaseException, *, traceback: str | None = None) -> ErrorInfo:
        """The record of *error*, with the names of all its classes for `is_a`."""
        code = getattr(error, "code", None)
        kinds = tuple(_class_name(each) for each in type(error).__mro__[:-1])
        message = getattr(error, "message", None) if code else None
        text = message if isinstance(message, str) else _message(error)
        hint = getattr(error, "hint", None) if isinstance(message, str) else None
        return cls(
            type(error).__name__,
            text,
            code if isinstance(code, str) else None,
            kinds,
            traceback,
            hint if isinstance(hint, str) and hint else None,
        )

    def is_a(self, kind: builtins.type[BaseException]) -> bool:
        """Whether the recorded error was an instance of *kind*."""
        return _class_name(kind) in self.kinds

    def to_json(self) -> str:
        """The text that a store keeps."""
        import json

        return json.dumps(self._asdict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ErrorInfo:
        """The error that such a text stands for."""
        import json

        data: dict[str, Any] = json.loads(text)
        return cls(
            data["type"],
            data["message"],
            data.get("code"),
            tuple(data.get("kinds") or ()),
            data.get("traceback"),
            data.get("hint"),
        )


def _class_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its message cannot be shown: {type(broken).__name__})"
    # A lone surrogate cannot be written as UTF-8, and the record must never fail to be written.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:20_000]
