"""What the engine does, in words: an observer that logs, where pikku's logger is at debug."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

from pikku._redaction import redaction
from pikku._telemetry import Doing, Observer, Scope

if TYPE_CHECKING:
    from pikku._error_info import ErrorInfo
    from pikku._records import RunRecord

log = logging.getLogger("pikku")


class _Attempt(Scope):
    __slots__ = ("_began", "_doing", "_fields")

    def __init__(self, doing: Doing) -> None:
        self._doing = doing
        self._fields = {
            "run_id": doing.run_id,
            "workflow": doing.workflow,
            "step": doing.step,
            "attempt": doing.attempt,
        }
        self._began = perf_counter()
        data = redaction().payload(doing.data)
        log.debug("step %r begins%s", doing.step, data and f": {data}", extra=self._fields)

    def end(self, error: ErrorInfo | None = None, outcome: str = "") -> None:
        took = (perf_counter() - self._began) * 1e3
        ended = "ended" if error is None else f"failed with {error.type}: {error.message}"
        words = redaction().text(ended)
        log.debug("step %r %s after %.1f ms", self._doing.step, words, took, extra=self._fields)


class _Stretch(Scope):
    __slots__ = ("_fields",)

    def __init__(self, run: RunRecord, *, replayed: bool) -> None:
        self._fields = {"run_id": run.run_id, "workflow": run.workflow}
        if run.turn == 0:
            data = redaction().payload(run.input)
            log.debug("run of %r begins: %s", run.workflow, data, extra=self._fields)
        elif replayed:
            log.debug("run of %r is replayed", run.workflow, extra=self._fields)

    def note(self, what: str, **said: str) -> None:
        words = redaction().value(said)
        log.debug("%s %s", what, words, extra=self._fields)

    def end(self, error: ErrorInfo | None = None, outcome: str = "") -> None:
        if outcome:
            log.debug("run %s", outcome, extra=self._fields)


class Narration(Observer):
    """Logs, at debug, runs and attempts with their inputs: masked, and shortened."""

    active = True

    def moving(self, run: RunRecord, *, replayed: bool) -> Scope:
        return _Stretch(run, replayed=replayed)

    def attempting(self, doing: Doing, within: Scope, traceparent: str | None = None) -> Scope:
        return _Attempt(doing)
