"""What the services tell of the stream analytics: `GET /analytics`, and their part of `/metrics`."""

from collections.abc import Mapping
from typing import Annotated

from litestar import get
from litestar.params import QueryParameter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from lucid_events.errors import ConfigError, NotFound
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.context import gateway_of
from lucid_events.gateway.documenting import also, failures
from lucid_events.gateway.errors import ErrorAnswer
from lucid_events.projections.analytics.layout import LENGTHS, MAX_LAST, Length
from lucid_events.projections.analytics.reports import Glance, Report
from lucid_events.service.analytics import read

_NONE = {404: also(ErrorAnswer, "No analytics have run on this server, or they can't be read here.")}


@get("/analytics", responses={**failures(), **_NONE}, tags=["service"])
async def analytics_route(
    request: AnyRequest,
    window: Annotated[Length, QueryParameter(description="Length of a window.")] = "1m",
    last: Annotated[int, QueryParameter(ge=1, le=MAX_LAST, description="How many windows.")] = 20,
) -> Report:
    """Tell what `lucid analytics --json` prints: states, throughput, ratios, delays, busiest owners."""
    try:
        return await read(gateway_of(request).client.adapters, size_s=LENGTHS[window], last=last)
    except ConfigError as exc:
        # Of this service, not of the request: it lacks a package, or its login the right to read them.
        raise NotFound(exc.message) from exc


def analytics_families(glance: Glance | None) -> list[Metric]:
    """Return the metrics; families without a sample where there are no analytics, or nothing is known."""
    minute = glance.minute if glance else None
    delays = minute.delay_ms if minute else {}
    families: list[CounterMetricFamily | GaugeMetricFamily] = [
        CounterMetricFamily("lucid_analytics_events", "Events counted"),
        CounterMetricFamily("lucid_analytics_late", "Windows that events came too late for"),
        CounterMetricFamily("lucid_analytics_undecodable", "Events that could not be read"),
        GaugeMetricFamily("lucid_analytics_events_behind", "Messages of the log not counted yet"),
    ]
    if glance is not None:
        sums = (glance.events, glance.late, glance.undecodable, glance.events_behind)
        for family, value in zip(families, sums, strict=True):
            family.add_metric([], value)
    rates = [
        GaugeMetricFamily(
            f"lucid_analytics_{what}_bytes_per_second", f"Bytes {what} in the last whole minute"
        )
        for what in ("captured", "sealed", "ready")
    ]
    if minute is not None:
        for family, count in zip(
            rates, (minute.captured_bytes, minute.sealed_bytes, minute.ready_bytes), strict=True
        ):
            family.add_metric([], count / minute.seconds)
    return [
        *families,
        *rates,
        _labelled("sessions", "Sessions by state, over or not", "state", glance.sessions if glance else {}),
        _labelled(
            "compression_ratio",
            "Raw / stored bytes of the last whole minute",
            "codec",
            minute.codecs if minute else {},
        ),
        _labelled(
            "ready_delay_seconds",
            "From sealed to ready, in the last whole minute",
            "quantile",
            {f"0.{name[1:].rstrip('0')}": ms / 1000 for name, ms in delays.items() if ms is not None},
        ),
    ]


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"lucid_analytics_{name}", text, labels=[label])
    for value, amount in values.items():
        family.add_metric([value], amount)
    return family
