"""What a process shows to Prometheus, and to old clients as JSON.

Names follow the field's conventions: `lucid_…_total`, `_seconds`, `_bytes`. Labels are of small fixed
sets, never a session. What the server does not answer is left out and `lucid_scrape_complete` is 0:
a gap in a graph is honest, a zero is not. So it is with the stream analytics where there are none.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from lucid_events import __version__, logs, tracing
from lucid_events.domain.transitions import OPEN
from lucid_events.errors import LucidError
from lucid_events.gateway.access import route_of
from lucid_events.gateway.analytics import analytics_families
from lucid_events.measures import Histogram, ProcessMeasures
from lucid_events.service.monitoring import Monitor

_Asgi = Callable[[Any, Any, Any], Any]

_PROCESS: Final = CollectorRegistry()
ProcessCollector(registry=_PROCESS)


async def exposition(monitor: Monitor, accept: str = "") -> tuple[bytes, str]:
    """Return (body, content type) in the text format, or as OpenMetrics when `accept` asks for it."""
    registry = CollectorRegistry()
    families = [*own_families(monitor), *await pipeline_families(monitor)]
    registry.register(_Ready(families))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


async def as_json(monitor: Monitor) -> dict[str, Any]:
    """Return the metrics as the services have always told them.

    Raises:
        LucidError: the sessions can't be counted.
    """
    sessions = await monitor.sessions()
    stages = monitor.adapters.settings.stages
    return {
        "active_pipelines": sum(count for state, count in sessions.items() if state in OPEN),
        "total_workers": sum(getattr(stages, one.name).workers for one in monitor.measures.stages()),
        "pipeline_states": {str(state): count for state, count in sessions.items()},
        "stage_metrics": {
            one.name: stage_metrics(monitor.measures, one.name) for one in monitor.measures.stages()
        },
    }


def stage_metrics(measures: ProcessMeasures, name: str) -> dict[str, float]:
    """Return what one stage did in this process; empty for a stage that is not built."""
    for one in measures.stages():
        if one.name == name:
            return {
                "processed": one.processed,
                "failed": one.failed,
                "in_flight": one.in_flight,
                "total_bytes": one.bytes,
                "mean_ms": round(one.mean_ms, 3),
                "p95_ms": round(one.p95_ms, 3),
                "throughput_per_second": round(one.per_second, 3),
                "throughput_bytes_per_second": round(one.bytes_per_second, 1),
            }
    return {}


class Requests:
    """Measures every HTTP request of `service`; wraps the application, outside of everything else."""

    def __init__(self, app: _Asgi, service: str, measures: ProcessMeasures) -> None:
        self._app, self._service, self._measures = app, service, measures

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on; its time ends with the last byte of the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # as proxies log a client that went away

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = route_of(scope["method"], scope["path"]) or "none"
        parent = next((value for name, value in scope["headers"] if name == _TRACE), b"")
        try:
            with (
                tracing.span(f"{method} {route}", kind="server", parent=_trace_context(parent)) as span,
                logs.bound(trace=span.trace_id),
            ):
                await self._app(scope, receive, sending)
        finally:
            self._measures.served(self._service, method, route, status, time.perf_counter() - began)


def _trace_context(value: bytes) -> str:
    text = value.decode("latin-1")
    return text if _TRACE_CONTEXT.fullmatch(text) else ""


_TRACE: Final = b"traceparent"
_TRACE_CONTEXT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def own_families(monitor: Monitor) -> list[Metric]:
    """Return what this process knows of itself."""
    measures, statistics = monitor.measures, monitor.statistics.snapshot()
    info = InfoMetricFamily("lucid_build", "Version of lucid_events", value={"version": __version__})
    families: list[Metric] = [info, *_PROCESS.collect()]
    stages = measures.stages()
    limits = monitor.adapters.settings.stages
    families += [
        _counter(
            "lucid_stage_processed",
            "Pieces of work done",
            "stage",
            {one.name: one.processed for one in stages},
        ),
        _counter(
            "lucid_stage_failed",
            "Pieces of work that failed",
            "stage",
            {one.name: one.failed for one in stages},
        ),
        _counter(
            "lucid_stage_bytes", "Raw bytes of work done", "stage", {one.name: one.bytes for one in stages}
        ),
        _gauge(
            "lucid_stage_in_flight",
            "Begun and not ended",
            "stage",
            {one.name: one.in_flight for one in stages},
        ),
        _gauge(
            "lucid_stage_workers",
            "Pieces of work a stage may do at once",
            "stage",
            {one.name: getattr(limits, one.name).workers for one in stages},
        ),
        _histogram(
            "lucid_stage_seconds",
            "Work of one piece, waiting excluded",
            ("stage",),
            {(name,): one for name, one in measures.stage_histograms().items()},
        ),
        _histogram("lucid_chunk_step_seconds", "Steps of storing one chunk", ("step",), measures.steps()),
        _histogram("lucid_command_seconds", "Commands answered", ("verb", "outcome"), measures.commands()),
        _histogram(
            "lucid_http_request_seconds",
            "HTTP requests, to the last byte",
            ("service", "method", "route", "status"),
            measures.requests(),
        ),
    ]
    return [*families, *_compression(statistics), *_runners(monitor)]


async def pipeline_families(monitor: Monitor) -> list[Metric]:
    """Return what the server says of the pipeline, as far as it answers."""
    families: list[Metric] = []
    complete = 1
    for read in (_lags, _streams, _sessions, _reconciled, _analytics):
        try:
            families += await read(monitor)
        except LucidError:
            complete = 0
    health = await monitor.health.look()
    families.append(
        _gauge(
            "lucid_probe_well",
            "1 when the probe found nothing wrong",
            "probe",
            {one.name: int(one.well) for one in health.findings},
        )
    )
    done = GaugeMetricFamily("lucid_scrape_complete", "1 when the server answered everything asked")
    done.add_metric([], complete)
    return [*families, done]


async def _lags(monitor: Monitor) -> list[Metric]:
    lags = await monitor.lags()
    return [
        _gauge(
            "lucid_consumer_events_behind",
            "Messages not done",
            "consumer",
            {name: lag.events_behind for name, lag in lags.items()},
        ),
        _gauge(
            "lucid_consumer_seconds_behind",
            "Age of the oldest message not done",
            "consumer",
            {name: lag.seconds_behind for name, lag in lags.items()},
        ),
        _gauge(
            "lucid_consumer_seconds_since_progress",
            "How long nothing was done while messages wait",
            "consumer",
            {name: lag.seconds_since_progress for name, lag in lags.items()},
        ),
    ]


async def _streams(monitor: Monitor) -> list[Metric]:
    streams = await monitor.streams()
    limited = {name: one.limit_bytes for name, one in streams.items() if one.limit_bytes is not None}
    return [
        _gauge(
            "lucid_stream_messages",
            "Messages held",
            "stream",
            {n: one.messages for n, one in streams.items()},
        ),
        _gauge("lucid_stream_bytes", "Bytes held", "stream", {n: one.bytes for n, one in streams.items()}),
        _gauge("lucid_stream_limit_bytes", "Bytes it may hold", "stream", limited),
    ]


async def _sessions(monitor: Monitor) -> list[Metric]:
    sessions = await monitor.sessions()
    limit = GaugeMetricFamily("lucid_sessions_limit", "Open sessions beyond which create is refused")
    limit.add_metric([], monitor.adapters.settings.max_sessions)
    return [
        _gauge(
            "lucid_sessions", "Sessions that are not over", "state", {str(s): n for s, n in sessions.items()}
        ),
        limit,
    ]


async def _reconciled(monitor: Monitor) -> list[Metric]:
    """Return the sums of the last `lucid audit reconcile` over everything; none before the first."""
    totals = await monitor.reconciled()
    if totals is None:
        return []
    told = {
        "lucid_reconciled_timestamp_seconds": (
            "When captured and stored bytes were last compared",
            totals.at.timestamp(),
        ),
        "lucid_reconciled_sessions": ("Sessions that were looked at", totals.sessions),
        "lucid_reconciled_incomplete_sessions": ("Sessions with something missing", totals.incomplete),
        "lucid_reconciled_damaged_sessions": ("Sessions whose history can't be read", totals.damaged),
        "lucid_reconciled_captured_bytes": ("Bytes recorders were told are safe", totals.captured_bytes),
        "lucid_reconciled_sealed_bytes": ("Bytes in sealed chunks", totals.sealed_bytes),
        "lucid_reconciled_ready_bytes": ("Raw bytes in ready chunks", totals.ready_bytes),
        "lucid_reconciled_stored_bytes": ("Stored bytes of ready chunks", totals.stored_bytes),
        "lucid_reconciled_verified_bytes": (
            "Raw bytes the newest verifications held for",
            totals.verified_bytes,
        ),
        "lucid_reconciled_oldest_unstored_seconds": (
            "Age of the oldest byte not in a ready chunk",
            totals.oldest_unstored_s,
        ),
        "lucid_reconciled_events_without_objects": (
            "Ready chunks whose object is gone",
            totals.events_without_objects,
        ),
        "lucid_reconciled_objects_without_events": (
            "Objects no history knows",
            totals.objects_without_events,
        ),
        "lucid_reconciled_capture_lost": ("Sealed chunks neither stored nor in capture", totals.capture_lost),
        "lucid_reconciled_capture_left": ("Chunks purged and back in capture", totals.capture_left),
    }
    families: list[Metric] = []
    for name, (text, value) in told.items():
        family = GaugeMetricFamily(name, text)
        family.add_metric([], value)
        families.append(family)
    return families


async def _analytics(monitor: Monitor) -> list[Metric]:
    return analytics_families(await monitor.analytics())


def _compression(statistics: Mapping[str, Any]) -> list[Metric]:
    codecs: Mapping[str, Mapping[str, float]] = statistics["codecs"]
    told = {
        "lucid_compressions": ("Chunks compressed", "total_compressions", 1.0),
        "lucid_compression_raw_bytes": ("Bytes before compression", "total_bytes_compressed", 1.0),
        "lucid_compression_stored_bytes": ("Bytes after compression", "total_bytes_stored", 1.0),
        "lucid_compression_seconds": ("Time of compression", "total_compression_time_ms", 0.001),
        "lucid_decompressions": ("Chunks restored", "total_decompressions", 1.0),
        "lucid_decompression_seconds": ("Time of restoring", "total_decompression_time_ms", 0.001),
    }
    return [
        _counter(name, text, "codec", {codec: figures[key] * unit for codec, figures in codecs.items()})
        for name, (text, key, unit) in told.items()
    ]


def _runners(monitor: Monitor) -> list[Metric]:
    figures = monitor.consumers()
    told = {
        "lucid_handler_processed": ("Messages handled", "processed"),
        "lucid_handler_skipped": ("Messages there was nothing to do for", "skipped"),
        "lucid_handler_failed": ("Own failures", "failed"),
        "lucid_handler_retried": ("Messages tried again", "retried"),
        "lucid_handler_parked": ("Messages set aside", "parked"),
    }
    counters: list[Metric] = [
        _counter(name, text, "consumer", {consumer: getattr(one, key) for consumer, one in figures.items()})
        for name, (text, key) in told.items()
    ]
    in_flight = {consumer: one.in_flight for consumer, one in figures.items()}
    return [*counters, _gauge("lucid_handler_in_flight", "Messages in work", "consumer", in_flight)]


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, amount in values.items():
        family.add_metric([value], amount)
    return family


def _histogram(
    name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=list(labels))
    for key, one in values.items():
        family.add_metric(list(key), one.cumulative(), one.sum)
    return family


class _Ready:
    """A collector of what was collected before: the library can't wait for a server."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families
