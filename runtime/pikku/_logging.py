"""`ctx.logger`: log records that say which run and step they come from; and how commands show
records."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

from pikku._redaction import redaction

log = logging.getLogger("pikku.run")

# What every record has; the rest of its attributes are fields of whoever logged.
_STANDARD: Final = frozenset(
    (*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message")
)


class ContextLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry the run, the workflow and, in a step, its name and attempt.

    In a workflow body it is silent while recorded history is repeated.
    """

    def __init__(self, extra: Mapping[str, object], replay: Any = None) -> None:
        super().__init__(log, extra)
        self._replay = replay

    def isEnabledFor(self, level: int) -> bool:  # the name in logging
        if self._replay is not None and self._replay.replaying:
            return False
        return super().isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        own = kwargs.get("extra")
        # Here and not in a formatter only, as programs that embed pikku have formatters of theirs.
        given: dict[str, Any] = redaction().value(own) if own else {}
        kwargs["extra"] = {**(self.extra or {}), **given}
        return msg, kwargs


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What *record* carries besides its message, masked; and the trace that it was logged in."""
    own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    fields: dict[str, Any] = redaction().value(own)
    if "trace_id" not in fields and "opentelemetry.trace" in sys.modules:
        from pikku._tracing import current_ids

        fields.update(current_ids())
    return fields


class TextFormatter(logging.Formatter):
    """One line of text for a record, its fields behind it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # the name in logging
        line = super().formatMessage(record)
        fields = fields_of(record)
        if not fields:
            return line
        return f"{line}  [{' '.join(f'{name}={value}' for name, value in fields.items())}]"

    def format(self, record: logging.LogRecord) -> str:
        return redaction().text(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object on one line for a record: `time`, `level`, `logger`, `message`, its fields,
    and `error` with `type`, `message` and `traceback` where it has one."""

    def format(self, record: logging.LogRecord) -> str:
        from pydantic_core import to_json

        mask = redaction().text
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
            "pid": record.process,
        }
        for name, value in fields_of(record).items():
            document.setdefault(name, value)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            document["error"] = {
                "type": type(error).__name__,
                "message": mask(str(error)),
                "traceback": mask("".join(traceback.format_exception(error)).rstrip()),
            }
        elif record.exc_text:
            document["error"] = {"traceback": mask(record.exc_text)}
        if record.stack_info:
            document["stack"] = mask(record.stack_info)
        return to_json(document, fallback=repr, inf_nan_mode="strings").decode("utf-8", "replace")


def formatter_of(name: str) -> logging.Formatter:
    """The formatter of the log format *name*: `text` or `json`."""
    return JsonFormatter() if name == "json" else TextFormatter()
