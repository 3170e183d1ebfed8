"""The services on their sockets: uvicorn inside our own loop, started, and ended in order.

Ending: no new connection, streams end, bodies are read no further and their answers say how far they
came, what was taken in is sealed, and only then the recorders leave their sessions.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import uvicorn
from litestar.types import ASGIApp

from lucid_events.config import Service, Settings, is_loopback, refuse_exposed
from lucid_events.errors import ConfigError
from lucid_events.gateway.app import make_app, make_exporter
from lucid_events.gateway.connections import bounded
from lucid_events.gateway.context import Gateway
from lucid_events.gateway.peers import uvicorn_options
from lucid_events.gateway.watching import Watched
from lucid_events.measures import ProcessMeasures
from lucid_events.service import Workers, connect, hosting
from lucid_events.service.monitoring import Monitor

_LINUX = hasattr(socket, "TCP_USER_TIMEOUT")
WRITE_STALL_MS = 60_000
"""How long a client may take no byte of an answer. Half cuts off a player that is paused for a moment,
twice lets whoever reads nothing hold a chunk in memory for longer."""
KEEP_ALIVE_S = 75
"""How long an idle connection stays open: longer than the 60 s after which proxies close theirs."""
BACKLOG = 1024
POLL_S = 0.01
REQUESTS_SHARE = 0.4
"""Of the time a stop may take, what requests have to end; the rest is for sealing what was taken in."""

_PATIENCE = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    # A reader that takes nothing: the kernel gives the connection up, and with it what waits to be sent.
    # (Linux; accepted connections inherit it from the socket that listens.)
    **({(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): WRITE_STALL_MS} if _LINUX else {}),
}


class Gateways:
    """The services of one process: `urls` by service."""

    def __init__(self, urls: dict[Service, str]) -> None:
        self.urls = urls


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


@asynccontextmanager
async def serving(
    settings: Settings,
    services: Sequence[Service],
    *,
    workers: Workers | None = None,
    embedded: bool = False,
    ports: dict[Service, int] | None = None,
) -> AsyncIterator[Gateways]:
    """Serve for the time of the context; leaving it ends in order within `shutdown_s`.

    Args:
        workers: those of this process, when it has any.
        embedded: the server's store is on this machine.
        ports: instead of those of the settings; 0 takes a free one.

    Raises:
        ConfigError: a port is taken, or who asks would go unchecked beyond loopback.
        StoreUnavailable: no server answers.
    """
    http = settings.http
    refuse_exposed(http.host, http)
    stopping = asyncio.Event()
    sockets = {
        service: _bind(http.host, (ports or {}).get(service, http.port_of(service, alone=len(services) == 1)))
        for service in services
    }
    async with AsyncExitStack() as stack:
        for one in sockets.values():
            stack.callback(one.close)
        measures = workers.measures if workers else ProcessMeasures()
        client = await stack.enter_async_context(connect(settings, name="lucid-gateway", measures=measures))
        left_s = settings.shutdown_s * (1 - REQUESTS_SHARE)
        recorders = await stack.enter_async_context(hosting(client, shutdown_s=left_s))
        monitor = Monitor(client.adapters, measures=measures, workers=workers, embedded=embedded)
        apps = [
            make_app(Gateway(service, client, recorders, stopping=stopping, monitor=monitor))
            for service in services
        ]
        await stack.enter_async_context(_running(apps, list(sockets.values()), settings))
        stack.callback(stopping.set)
        yield Gateways({service: _url(settings, sockets[service]) for service in services})


@asynccontextmanager
async def exporting(
    settings: Settings, workers: Workers, *, embedded: bool = False, port: int | None = None
) -> AsyncIterator[str]:
    """Show `/metrics` and `/health` of a process that serves nothing else; gives the address.

    Args:
        workers: those of this process.
        embedded: the server's store is on this machine.
        port: instead of `LUCID_METRICS_PORT`; 0 takes a free one.

    Raises:
        ConfigError: the port is taken, or who asks would go unchecked beyond loopback.
    """
    refuse_exposed(settings.http.host, settings.http)
    bound = _bind(settings.http.host, (settings.http.metrics_port or 0) if port is None else port)
    watched = Watched("lucid-worker", settings, Monitor(workers.adapters, workers=workers, embedded=embedded))
    try:
        async with _running([make_exporter(watched)], [bound], settings):
            yield _url(settings, bound)
    finally:
        bound.close()


@asynccontextmanager
async def _running(
    apps: Sequence[ASGIApp], sockets: Sequence[socket.socket], settings: Settings
) -> AsyncIterator[None]:
    servers = [_Server(_config(app, settings)) for app in apps]
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(server.serve(sockets=[bound]), name="lucid-http")
            for server, bound in zip(servers, sockets, strict=True)
        ]
        try:
            # uvicorn tells by a flag alone that it listens; a task that has ended says why it does not.
            while not all(s.started for s in servers) and not any(t.done() for t in running):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            yield
        finally:
            for server in servers:
                server.should_exit = True


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_s * REQUESTS_SHARE)),
        backlog=BACKLOG,
        ws="none",
        **uvicorn_options(settings.http),
    )
    config.load()
    config.http_protocol_class = bounded(config.http_protocol_class)
    return config


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens nowhere yet, so that a port that is taken is found before any work."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as exc:
        raise ConfigError(
            f"can't listen on {host}:{port}: {exc.strerror or exc}", host=host, port=port
        ) from exc
    for option, value in _PATIENCE.items():
        bound.setsockopt(*option, value)
    bound.setblocking(False)
    bound.set_inheritable(False)
    return bound


def _url(settings: Settings, bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    shown = host if is_loopback(host) else settings.http.host
    scheme = "https" if settings.http.tls_cert else "http"
    return f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}"
