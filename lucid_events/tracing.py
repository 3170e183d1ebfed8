"""Spans of distributed traces, carried from message to message by their `traceparent` header.

    client ──> command ──> event ──> reaction ──> command ──> event
    a span     a span      header    a span       ...         header

Built on OpenTelemetry's API, when it is installed (extra `telemetry`); which SDK and exporter take the
spans is the operator's choice (`opentelemetry-instrument lucid up`). Without them nothing is recorded
and a `traceparent` that somebody sends is handed on as it came.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

try:
    from opentelemetry import trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # the extra is not installed
    INSTALLED = False
else:
    INSTALLED = True
    _tracer = trace.get_tracer("lucid_events")
    _propagator = TraceContextTextMapPropagator()
    _KINDS = {
        "client": SpanKind.CLIENT,
        "server": SpanKind.SERVER,
        "consumer": SpanKind.CONSUMER,
        "internal": SpanKind.INTERNAL,
    }

_passing: ContextVar[str] = ContextVar("traceparent", default="")
"""The trace context in whose name work goes on, where there is no OpenTelemetry to keep it."""

HEADER = "traceparent"
Kind = Literal["client", "server", "consumer", "internal"]


class Span:
    """One span; `traceparent` continues the trace elsewhere, `trace_id` finds it (both may be empty)."""

    def __init__(self, traceparent: str, span: Any = None) -> None:
        self.traceparent, self._span = traceparent, span

    @property
    def trace_id(self) -> str:
        """The trace's id in hex."""
        return self.traceparent[3:35]

    def failed(self, reason: str) -> None:
        """Mark the work as failed."""
        if self._span is not None:
            self._span.set_status(Status(StatusCode.ERROR, reason))


@contextmanager
def span(name: str, *, kind: Kind = "internal", parent: str = "", **attributes: str | int) -> Iterator[Span]:
    """Measure the block as a span of the trace in `parent`, else of the trace that is under way.

    What the block raises marks the span as failed and goes on. Attributes are named with `__` for a dot.
    """
    if not INSTALLED:
        passing = parent or _passing.get()
        token = _passing.set(passing)
        try:
            yield Span(passing)
        finally:
            _passing.reset(token)
        return
    context = _propagator.extract({HEADER: parent}) if parent else None
    named = {key.replace("__", "."): value for key, value in attributes.items()}
    with _tracer.start_as_current_span(name, context=context, kind=_KINDS[kind], attributes=named) as made:
        yield Span(current(), made)


def current() -> str:
    """Return the `traceparent` of the span that is under way, empty when there is none."""
    if not INSTALLED:
        return _passing.get()
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(HEADER, "")
