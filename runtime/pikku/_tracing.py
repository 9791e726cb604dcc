"""OpenTelemetry: spans of starts, of runs while they move, and of attempts. docs/adr/0016 says what
each means. Imports the API only; the program brings the SDK and sets the tracer provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pikku._redaction import redaction
from pikku._telemetry import UNWATCHED, Doing, Observer, Scope, Word

if TYPE_CHECKING:
    from pikku._error_info import ErrorInfo
    from pikku._records import RunRecord

P = ParamSpec("P")
T = TypeVar("T")

_WORDS = {"signal": "pikku.signal", "decide": "pikku.decide", "cancel": "pikku.cancel"}
_w3c = TraceContextTextMapPropagator()


def tracing_here() -> Tracing | None:
    """The tracing of this process; None where no tracer provider is set."""
    provider = get_tracer_provider()
    if isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider)):
        return None
    from pikku import __version__

    return Tracing(provider.get_tracer("pikku", __version__))


def current_ids() -> dict[str, str]:
    """The ids of the current trace and span, as a log record has them."""
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def under(traceparent: str | None) -> Scope:
    """What happens inside happens under a span of another process."""
    return UNWATCHED if traceparent is None else _Under(_remote(traceparent))


def _remote(traceparent: str | None) -> Context:
    """The context of another process; an empty one where there is none, or it cannot be read."""
    if traceparent is None:
        return Context()
    return _w3c.extract({"traceparent": traceparent}, Context())


def _text_of(context: Context | None) -> str | None:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, context)
    return carrier.get("traceparent")


class _Under(Scope):
    """A context that is made the current one."""

    __slots__ = ("_context", "_tokens")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tokens: list[Token[Context]] = []

    @property
    def traceparent(self) -> str | None:
        return _text_of(self._context)

    def run(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        token = contexts.attach(self._context)
        try:
            return func(*args, **kwargs)
        finally:
            contexts.detach(token)

    def __enter__(self) -> Self:
        self._tokens.append(contexts.attach(self._context))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        contexts.detach(self._tokens.pop())


class _Spanned(_Under):
    """A span."""

    __slots__ = ("_span",)

    def __init__(self, span: Span, context: Context | None = None) -> None:
        super().__init__(set_span_in_context(span, Context() if context is None else context))
        self._span = span

    def note(self, what: str, **said: str) -> None:
        self._span.add_event(what, {f"pikku.{name}": value for name, value in said.items()})

    def end(self, error: ErrorInfo | None = None, outcome: str = "") -> None:
        span = self._span
        if outcome:
            span.set_attribute("pikku.outcome", outcome)
        if error is not None:
            mask = redaction().text
            message = mask(error.message)
            span.add_event(
                "exception",
                {
                    "exception.type": error.type,
                    "exception.message": message,
                    "exception.stacktrace": mask(error.traceback or ""),
                },
            )
            span.set_status(Status(StatusCode.ERROR, f"{error.type}: {message}"))
        span.end()


class Tracing(Observer):
    """Makes spans of what the engine tells."""

    active = True

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def _span(
        self,
        name: str,
        kind: SpanKind,
        said: Mapping[str, str | int | bool],
        context: Context | None,
    ) -> _Spanned:
        attributes = {f"pikku.{key}": value for key, value in said.items() if value != ""}
        span = self._tracer.start_span(name, context, kind, attributes)
        return _Spanned(span, context)

    def starting(
        self, workflow: str, run_id: str, *, within: Scope | None = None, step: str = ""
    ) -> Scope:
        context = within._context if isinstance(within, _Under) else None
        said = {"run_id": run_id, "workflow": workflow, "step": step}
        return self._span(f"pikku.start {workflow}", SpanKind.PRODUCER, said, context)

    def moving(self, run: RunRecord, *, replayed: bool) -> Scope:
        said: dict[str, str | int | bool] = {
            "run_id": run.run_id,
            "workflow": run.workflow,
            "turn": run.turn,
            "replayed": replayed,
        }
        context = _remote(run.traceparent)
        return self._span(f"pikku.run {run.workflow}", SpanKind.CONSUMER, said, context)

    def attempting(self, doing: Doing, within: Scope, traceparent: str | None = None) -> Scope:
        said: dict[str, str | int | bool] = {
            "run_id": doing.run_id,
            "workflow": doing.workflow,
            "step": doing.step,
            "attempt": doing.attempt,
            "kind": doing.kind,
            "function": doing.function,
            "queue": doing.queue or "",
        }
        context = within._context if isinstance(within, _Under) else _remote(traceparent)
        kind = SpanKind.INTERNAL if doing.queue is None else SpanKind.CONSUMER
        return self._span(f"pikku.step {doing.step}", kind, said, context)

    def saying(self, word: Word, run_id: str, name: str) -> Scope:
        said = {"run_id": run_id, "name": name}
        return self._span(f"{_WORDS[word]} {name}".rstrip(), SpanKind.PRODUCER, said, None)

    def answering(self, method: str, route: str, headers: Mapping[str, str]) -> Scope:
        if get_current_span().get_span_context().is_valid:
            return UNWATCHED  # somebody around us has made a span of the request
        attributes = {"http.request.method": method, "http.route": route}
        context = _w3c.extract(dict(headers), Context())
        span = self._tracer.start_span(f"{method} {route}", context, SpanKind.SERVER, attributes)
        return _Spanned(span, context)

    @property
    def traceparent(self) -> str | None:
        return _text_of(None)
