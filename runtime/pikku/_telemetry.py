"""What the engine tells of what it does: the one door to traces, metrics and debug logs.

An `Observer` is told at a handful of places, and gives a `Scope` for what takes time. The classes
here listen to nothing: they stand where nobody does. `pikku._tracing` and `pikku._metrics` listen;
neither is imported unless somebody wants it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from pikku._error_info import ErrorInfo
    from pikku._records import RunRecord

P = ParamSpec("P")
T = TypeVar("T")
Word = Literal["signal", "decide", "cancel"]


class Doing(NamedTuple):
    """One attempt of a step.

    Attributes:
        function: what it calls; `inline` for a callable of the workflow's own.
        queue: the queue that it has crossed, or None.
        data: its input as JSON text.
    """

    run_id: str
    workflow: str
    step: str
    attempt: int
    kind: str
    function: str
    queue: str | None
    data: str | None


class Scope:
    """Something that takes time, while somebody watches. This one is watched by nobody.

    As a context manager it is what is current for whoever is called inside; that does not end it.
    """

    __slots__ = ()

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context of what happens inside, for other processes."""
        return None

    def run(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *func* with the scope as the current one."""
        return func(*args, **kwargs)

    def note(self, what: str, **said: str) -> None:
        """Something happened inside, at this moment."""

    def end(self, error: ErrorInfo | None = None, outcome: str = "") -> None:
        """It is over, by *error* if there is one. A scope that never ends is never reported."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        pass


UNWATCHED = Scope()


class Observer:
    """Who is told. This one hears nothing; all calls come on the engine's loop.

    Attributes:
        active: whether anybody listens. What costs something is asked for only then.
    """

    active = False

    def starting(
        self, workflow: str, run_id: str, *, within: Scope | None = None, step: str = ""
    ) -> Scope:
        """A run is about to be created: by the caller, or *within* a run by its *step*."""
        return UNWATCHED

    def started(self, workflow: str) -> None:
        """A run was created, and not found."""

    def moving(self, run: RunRecord, *, replayed: bool) -> Scope:
        """A run goes on in this process, until it rests, ends or leaves. *replayed*: it was taken
        up, and its function called again."""
        return UNWATCHED

    def recovered(self, workflow: str) -> None:
        """A run was taken up whose process was lost in the middle of a step."""

    def ended(self, workflow: str, outcome: str, seconds: float) -> None:
        """A run has ended, so many seconds after it was created."""

    def suspended(self, workflow: str, reason: str) -> None:
        """A run stands still until somebody resumes it."""

    def attempting(self, doing: Doing, within: Scope, traceparent: str | None = None) -> Scope:
        """The body of a step begins: here *within* its run, or elsewhere under *traceparent*."""
        return UNWATCHED

    def retrying(self, function: str) -> None:
        """An attempt has failed, and another one follows."""

    def saying(self, word: Word, run_id: str, name: str) -> Scope:
        """Somebody here is about to send a word to a run."""
        return UNWATCHED

    def answering(self, method: str, route: str, headers: Mapping[str, str]) -> Scope:
        """A request has come over HTTP."""
        return UNWATCHED

    def called_store(self, seconds: float, *, failed: bool) -> None:
        """A batch of operations was sent to the store, and answered after so long."""

    def lost_lease(self) -> None:
        """The lease of this process has run out."""

    def refused(self) -> None:
        """The store refused an outcome, as the run or job is somebody else's by now."""

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that is current here and now."""
        return None


NOBODY = Observer()


class _Scopes(Scope):
    """Several scopes as one."""

    __slots__ = ("_each",)

    def __init__(self, each: Sequence[Scope]) -> None:
        self._each = each

    @property
    def traceparent(self) -> str | None:
        return next((found for each in self._each if (found := each.traceparent)), None)

    def run(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self:
            return func(*args, **kwargs)

    def note(self, what: str, **said: str) -> None:
        for each in self._each:
            each.note(what, **said)

    def end(self, error: ErrorInfo | None = None, outcome: str = "") -> None:
        for each in self._each:
            each.end(error, outcome)

    def __enter__(self) -> Self:
        for each in self._each:
            each.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        for each in reversed(self._each):
            each.__exit__(kind, error, trace)

    def of(self, place: int) -> Scope:
        """What the observer number *place* has given."""
        return self._each[place]


class Several(Observer):
    """Several observers as one."""

    active = True

    def __init__(self, each: Sequence[Observer]) -> None:
        self._each = each

    def starting(
        self, workflow: str, run_id: str, *, within: Scope | None = None, step: str = ""
    ) -> Scope:
        return _Scopes(
            [
                each.starting(workflow, run_id, within=_part(within, place), step=step)
                for place, each in enumerate(self._each)
            ]
        )

    def started(self, workflow: str) -> None:
        for each in self._each:
            each.started(workflow)

    def moving(self, run: RunRecord, *, replayed: bool) -> Scope:
        return _Scopes([each.moving(run, replayed=replayed) for each in self._each])

    def recovered(self, workflow: str) -> None:
        for each in self._each:
            each.recovered(workflow)

    def ended(self, workflow: str, outcome: str, seconds: float) -> None:
        for each in self._each:
            each.ended(workflow, outcome, seconds)

    def suspended(self, workflow: str, reason: str) -> None:
        for each in self._each:
            each.suspended(workflow, reason)

    def attempting(self, doing: Doing, within: Scope, traceparent: str | None = None) -> Scope:
        return _Scopes(
            [
                each.attempting(doing, _part(within, place) or UNWATCHED, traceparent)
                for place, each in enumerate(self._each)
            ]
        )

    def retrying(self, function: str) -> None:
        for each in self._each:
            each.retrying(function)

    def saying(self, word: Word, run_id: str, name: str) -> Scope:
        return _Scopes([each.saying(word, run_id, name) for each in self._each])

    def answering(self, method: str, route: str, headers: Mapping[str, str]) -> Scope:
        return _Scopes([each.answering(method, route, headers) for each in self._each])

    def called_store(self, seconds: float, *, failed: bool) -> None:
        for each in self._each:
            each.called_store(seconds, failed=failed)

    def lost_lease(self) -> None:
        for each in self._each:
            each.lost_lease()

    def refused(self) -> None:
        for each in self._each:
            each.refused()

    @property
    def traceparent(self) -> str | None:
        return next((found for each in self._each if (found := each.traceparent)), None)


def _part(scope: Scope | None, place: int) -> Scope | None:
    return scope.of(place) if isinstance(scope, _Scopes) else scope


def observer_of(given: Sequence[Observer]) -> Observer:
    """Whoever listens in this process: those *given*, the tracer provider if one is set, and the
    log if it is at debug."""
    listening = [*given]
    # Whoever has set a tracer provider has imported this; nobody else pays for the import.
    if "opentelemetry.trace" in sys.modules or os.environ.get("OTEL_PYTHON_TRACER_PROVIDER"):
        from pikku._tracing import tracing_here

        tracing = tracing_here()
        if tracing is not None:
            listening.append(tracing)
    if logging.getLogger("pikku").isEnabledFor(logging.DEBUG):
        from pikku._narration import Narration

        listening.append(Narration())
    if not listening:
        return NOBODY
    return listening[0] if len(listening) == 1 else Several(listening)
