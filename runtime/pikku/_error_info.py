"""What is kept of an error: plain data that outlives the process that raised it."""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple, cast

from pikku._payloads import is_sealed, refuse_sealed

# What is kept of each part of an error, in bytes of its JSON form: together less than 64 KiB.
_MESSAGE_BYTES = 32_768
_TRACEBACK_BYTES = 24_576
_KINDS_BYTES = 4_096
_HINT_BYTES = 2_048
_NAME_BYTES = 512
_STEPS = 16


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
        """The record of *error*, with the names of all its classes for `is_a`.

        What is long is shortened, so that the record has less than 64 KiB: a message keeps its
        beginning, a traceback its end.
        """
        code = getattr(error, "code", None)
        message = getattr(error, "message", None) if code else None
        text = message if isinstance(message, str) else _message(error)
        hint = getattr(error, "hint", None) if isinstance(message, str) else None
        return cls(
            _beginning(type(error).__name__, _NAME_BYTES),
            _beginning(text, _MESSAGE_BYTES),
            _beginning(code, _NAME_BYTES) if isinstance(code, str) else None,
            _kinds(type(error)),
            None if traceback is None else _end(traceback, _TRACEBACK_BYTES),
            _beginning(hint, _HINT_BYTES) if isinstance(hint, str) and hint else None,
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
        """The error that such a text stands for.

        Raises:
            SealError: if the text is sealed.
        """
        import json

        refuse_sealed(text, "an error")
        data: dict[str, Any] = json.loads(text)
        return cls(
            data["type"],
            data["message"],
            data.get("code"),
            tuple(data.get("kinds") or ()),
            data.get("traceback"),
            data.get("hint"),
        )

    @classmethod
    def shown(cls, text: str) -> ErrorInfo:
        """The error that such a text stands for, for a person to read: one that is sealed shows
        the text as it is."""
        return cls("(sealed)", text) if is_sealed(text) else cls.from_json(text)


def failure(error: BaseException, info: ErrorInfo) -> str:
    """What is recorded as the error of a run whose function has raised *error*: *info*, and the
    names of the failed steps that it comes from."""
    import json

    return json.dumps({**info._asdict(), "steps": _failed_steps(error)}, ensure_ascii=False)


def steps_of_failure(text: str | None) -> list[str] | None:
    """The names of the failed steps that a run's recorded error comes from; None where that is not
    known."""
    import json

    if text is None or is_sealed(text):
        return None
    names: object = json.loads(text).get("steps")
    if not isinstance(names, list):
        return None
    return [str(name) for name in cast("list[object]", names)]


def _failed_steps(error: BaseException) -> list[str]:
    """The nearest failures of steps among *error*, its parts, and what it was raised from."""
    from pikku.errors import StepFailedError

    names: dict[str, None] = {}
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, StepFailedError):
            names[_beginning(each.step_name, _NAME_BYTES)] = None
        elif isinstance(each, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", each).exceptions
        else:
            left.append(each.__cause__ or (None if each.__suppress_context__ else each.__context__))
    return list(names)[:_STEPS]


def cancellation(run_id: str, workflow: str, reason: str) -> str:
    """What is recorded as the error of a cancelled run."""
    from pikku.errors import RunCancelledError

    info = ErrorInfo.of(RunCancelledError(run_id, workflow, reason))
    return info._replace(message=reason, hint=None).to_json()


def _class_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"(its message cannot be shown: {type(broken).__name__})"


def _kinds(kind: type[BaseException]) -> tuple[str, ...]:
    """The names of the classes of an error, the nearest first, as many as there is room for."""
    kinds: list[str] = []
    left = _KINDS_BYTES
    for each in kind.__mro__[:-1]:
        name = _writable(_class_name(each))
        left -= _size(name) + len('"", ')
        if left < 0:
            break
        kinds.append(name)
    return tuple(kinds)


def _writable(text: str) -> str:
    # A lone surrogate cannot be written as UTF-8, and the record must never fail to be written.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _size(text: str) -> int:
    """The bytes of *text* in JSON, without its quotation marks."""
    import json

    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def _beginning(text: str, most: int) -> str:
    text = _writable(text)
    kept = _kept(text, most)
    return text if kept == len(text) else text[:kept] + "…"


def _end(text: str, most: int) -> str:
    text = _writable(text)
    kept = _kept(text[::-1], most)
    return text if kept == len(text) else "…" + text[len(text) - kept :]


def _kept(text: str, most: int) -> int:
    """How many characters of *text* to keep, so that they and a `…` have at most *most* bytes."""
    if len(text) * len("\\u0000") <= most or _size(text) <= most:
        return len(text)
    most -= len("…".encode())
    kept = min(len(text), most)
    while (size := _size(text[:kept])) > most:
        kept = kept * most // size
    return kept
