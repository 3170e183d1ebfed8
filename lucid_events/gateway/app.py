"""The two services as ASGI applications: routes, errors, OpenAPI, what every request goes through."""

from collections.abc import Sequence
from typing import Any

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.types import ASGIApp, ControllerRouterHandler

from lucid_events import __version__
from lucid_events.errors import LucidError
from lucid_events.gateway import operations, watching
from lucid_events.gateway.access import Access
from lucid_events.gateway.analytics import analytics_route
from lucid_events.gateway.chunks import Chunks
from lucid_events.gateway.context import Gateway
from lucid_events.gateway.documenting import describe_failures
from lucid_events.gateway.errors import (
    HttpError,
    answer_bug,
    answer_framework_error,
    answer_http_error,
    answer_lucid_error,
)
from lucid_events.gateway.histories import Histories
from lucid_events.gateway.metrics import Requests
from lucid_events.gateway.pipelines import Pipelines
from lucid_events.gateway.recordings import Recordings
from lucid_events.gateway.requests import RequestIds
from lucid_events.gateway.retention import RetentionOfPipelines

_TITLES = {"pipeline": "lucid_events: pipeline manager", "recorder": "lucid_events: session recorder"}
_SHARED: Sequence[ControllerRouterHandler] = (operations.config, analytics_route, *watching.ROUTES)
_ROUTES: dict[str, Sequence[ControllerRouterHandler]] = {
    "pipeline": (Pipelines, Histories, RetentionOfPipelines, operations.pipeline_service_status),
    "recorder": (
        Recordings,
        Chunks,
        operations.recorder_service_status,
        operations.compression_stats,
        operations.compression_reset,
    ),
}


_HANDLERS: dict[Any, Any] = {
    LucidError: answer_lucid_error,
    HttpError: answer_http_error,
    HTTPException: answer_framework_error,
    Exception: answer_bug,
}


def make_exporter(watched: watching.Watched) -> ASGIApp:
    """Return `/metrics` and `/health` alone, for a process that serves nothing else.

    Raises:
        ConfigError: the file of credentials is missing or broken, or others may read it.
    """
    app = Litestar(
        route_handlers=list(watching.ROUTES),
        guards=[Access(watched.settings.http).guard],
        exception_handlers=_HANDLERS,
        openapi_config=None,
        state=State({"gateway": watched, "service_name": watched.name}),
        logging_config=None,
        debug=False,
    )
    return RequestIds(app)


_EXPOSED = [
    "Accept-Ranges",
    "Content-Range",
    "ETag",
    "Lucid-Allowed",
    "Lucid-Codec",
    "Lucid-Gap-Bytes",
    "Lucid-Reason",
    "Lucid-Recorder",
    "Lucid-SHA256",
    "Lucid-State",
    "Retry-After",
    "Upload-Offset",
    "X-Request-Id",
]
"""Headers of answers that a page of another origin may read."""


def make_app(gateway: Gateway) -> ASGIApp:
    """Return the service that `gateway` stands for.

    Raises:
        ConfigError: the file of credentials is missing or broken, or others may read it.
    """
    http = gateway.settings.http
    access = Access(http)
    app = Litestar(
        route_handlers=[*_SHARED, *_ROUTES[gateway.service]],
        guards=[access.guard],
        exception_handlers=_HANDLERS,
        openapi_config=OpenAPIConfig(
            title=_TITLES[gateway.service],
            version=__version__,
            path="/schema",
            use_handler_docstrings=True,
            render_plugins=[JsonRenderPlugin(), YamlRenderPlugin()],
        ),
        cors_config=_cors(http.cors_origins),
        state=State({"gateway": gateway, "service_name": gateway.name}),
        # Every body is read by our own reader, against limits of its own (`bodies.py`).
        request_max_body_size=None,
        logging_config=None,
        debug=False,
    )
    describe_failures(app.openapi_schema)
    return Requests(RequestIds(app), gateway.service, gateway.monitor.measures)


def _cors(origins: Sequence[str]) -> CORSConfig | None:
    return CORSConfig(allow_origins=list(origins), expose_headers=_EXPOSED) if origins else None
