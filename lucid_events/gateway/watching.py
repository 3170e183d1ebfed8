"""The routes of probes and of monitoring systems: `/health…` and `/metrics`."""

from typing import Any

import msgspec
from litestar import MediaType, Response, get

from lucid_events import codec
from lucid_events.config import Settings
from lucid_events.errors import NotFound
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.context import Gateway
from lucid_events.gateway.documenting import also, failures
from lucid_events.gateway.health import HealthAnswer, health, live
from lucid_events.gateway.metrics import as_json, exposition
from lucid_events.service.monitoring import Monitor


class Watched(msgspec.Struct, frozen=True):
    """What these routes need of a service; a `Gateway` has it too."""

    name: str
    settings: Settings
    monitor: Monitor


_UNWELL = {503: also(HealthAnswer, "Something is down; `down` says what and what to do.")}


@get("/health", responses=_UNWELL, tags=["service"])
async def health_route(request: AnyRequest) -> Response[HealthAnswer]:
    """Tell whether the service and what it rests on are well."""
    gateway = _watched(request)
    status, answer = await health(gateway.monitor, gateway.name)
    return Response(answer, status_code=status)


@get("/health/ready", responses=_UNWELL, tags=["service"])
async def ready_route(request: AnyRequest) -> Response[HealthAnswer]:
    """Tell whether the service can do its work now."""
    gateway = _watched(request)
    status, answer = await health(gateway.monitor, gateway.name)
    return Response(answer, status_code=status)


@get("/health/live", tags=["service"])
async def live_route(request: AnyRequest) -> HealthAnswer:
    """Tell that the process answers; asks nothing of the pipeline."""
    return live(_watched(request).name)


@get(
    "/metrics",
    media_type=MediaType.TEXT,
    responses={200: also(str, "Prometheus text, or OpenMetrics.", "text/plain"), **failures(404)},
    tags=["service"],
)
async def metrics_route(request: AnyRequest) -> Response[Any]:
    """Tell the metrics of this process and of the pipeline; JSON on `Accept: application/json`."""
    gateway = _watched(request)
    if not gateway.settings.http.metrics_enabled:
        raise NotFound("metrics are turned off: METRICS_ENABLED")
    accept = request.headers.get("accept", "")
    if "application/json" in accept:
        return Response(codec.encode(await as_json(gateway.monitor)), media_type="application/json")
    body, content_type = await exposition(gateway.monitor, accept)
    return Response(body, media_type=content_type)


def _watched(request: AnyRequest) -> Watched | Gateway:
    found: Watched | Gateway = request.app.state.gateway
    return found


ROUTES = (health_route, ready_route, live_route, metrics_route)
