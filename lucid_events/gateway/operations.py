"""What operators ask of a service itself: is it well, what does it do, how is it set."""

from typing import Any

import msgspec
from litestar import get, post

from lucid_events import __version__
from lucid_events.config import masked
from lucid_events.gateway import answers
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.chunk_answers import statistics_of
from lucid_events.gateway.context import Gateway, gateway_of
from lucid_events.gateway.documenting import failures
from lucid_events.gateway.statuses import open_sessions, service_status
from lucid_events.projections.index import entry_of


@get("/status", responses=failures(), tags=["service"])
async def pipeline_service_status(request: AnyRequest) -> answers.ServiceStatus:
    """Tell every session that is not over, and the settings."""
    return await service_status(gateway_of(request))


@get("/status", responses=failures(), tags=["service"])
async def recorder_service_status(request: AnyRequest) -> answers.RecorderStatus:
    """Tell every recording that is not over, and what was compressed."""
    gateway = gateway_of(request)
    sessions = await open_sessions(gateway)
    recordings = [answers.entry_of(entry) for view in sessions.views if (entry := entry_of(view))]
    hosted = [found for view in sessions.views if (found := gateway.recorders.find(view.session_id))]
    return answers.RecorderStatus(
        service=gateway.name,
        status="running",
        version=__version__,
        active_recordings=recordings,
        total_recordings=sessions.total,
        truncated=sessions.truncated,
        unreadable=sessions.unreadable,
        recorded_here=[one.session for one in hosted],
        chunk_statistics=statistics_of(*sessions.views),
        compression_statistics=_compression(gateway),
    )


@get("/config", responses=failures(), tags=["service"])
async def config(request: AnyRequest) -> dict[str, Any]:
    """Tell the settings of this process; secrets are masked."""
    told: dict[str, Any] = msgspec.to_builtins(masked(gateway_of(request).settings))
    return told


@get("/compression/stats", responses=failures(), tags=["service"])
async def compression_stats(request: AnyRequest) -> answers.CompressionStats:
    """Tell what was compressed in this process, in all and per codec."""
    return _compression(gateway_of(request))


@post("/compression/reset", status_code=200, responses=failures(), tags=["service"])
async def compression_reset(request: AnyRequest) -> answers.CompressionStats:
    """Begin to count anew; the histories keep what every chunk cost."""
    gateway_of(request).statistics.reset()
    return _compression(gateway_of(request))


def _compression(gateway: Gateway) -> answers.CompressionStats:
    return msgspec.convert(gateway.statistics.snapshot(), answers.CompressionStats)
