"""`lucid up`: a server of our own (or somebody's), the definitions applied, and all the workers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from lucid_events.config import Settings
from lucid_events.domain.values import MIB
from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.handlers.base import Checkpoint, no_checkpoint
from lucid_events.jetstream import topology
from lucid_events.jetstream.definitions import TopologySettings
from lucid_events.jetstream.embedded import capture_bytes_for, embedded_server
from lucid_events.jetstream.preflight import failures, preflight
from lucid_events.service.adapters import Adapters, current_topology, data_folder, open_adapters
from lucid_events.service.workers import Workers

_log = logging.getLogger(__name__)


class Service:
    """A running pipeline: where clients connect, its workers, and how it may end unasked."""

    def __init__(
        self,
        url: str,
        adapters: Adapters,
        workers: Workers,
        ended: asyncio.Future[str],
        *,
        embedded: bool = False,
    ) -> None:
        self.url, self.adapters, self.workers = url, adapters, workers
        self.ended, self.embedded = ended, embedded


@asynccontextmanager
async def up(
    settings: Settings,
    *,
    port: int = 0,
    only: Collection[str] = (),
    checkpoint: Checkpoint = no_checkpoint,
) -> AsyncIterator[Service]:
    """Run the pipeline for the time of the context; leaving it stops everything in order.

    With `nats_url` or `nats_context` set, uses that server; otherwise starts an embedded one on
    loopback, data in `LUCID_DATA`.

    Raises:
        ConfigError: the server's streams are not as defined, a port is taken, the folder is in use.
        StoreUnavailable: no server answers.
        IntegrityError: the log was cut back.
    """
    async with AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()
        capture_max = settings.capture_max_mib * MIB
        embedded = not settings.nats_url and not settings.nats_context
        if embedded:
            folder = data_folder(settings)
            server = await stack.enter_async_context(
                embedded_server(folder, port=port, sync_interval=settings.sync, restart=True)
            )
            settings = msgspec.structs.replace(settings, nats_url=server.url)
            capture_max = min(capture_max, capture_bytes_for(folder))
            watch = asyncio.create_task(_watch(server.died(), ended), name="lucid-watch-server")
            stack.push_async_callback(_cancel, watch)
        adapters = await stack.enter_async_context(open_adapters(settings, name="lucid"))
        if embedded:
            # The free disk differs from start to start: the limit chosen at the first one stays.
            capture_max = await topology.capture_limit(adapters.connection, adapters.subjects) or capture_max
        await prepare(adapters, capture_max_bytes=capture_max, sync=settings.sync if embedded else None)
        workers = Workers(adapters, only=only, checkpoint=checkpoint)
        await stack.enter_async_context(workers.running())
        yield Service(settings.nats_url, adapters, workers, ended, embedded=embedded)


@asynccontextmanager
async def work(settings: Settings, *, only: Collection[str] = ()) -> AsyncIterator[Workers]:
    """Run the parts named in `only` (all when it is empty) on a server that is set up already.

    Raises:
        ConfigError: the server is not set up, or unfit; an unknown part.
        StoreUnavailable: no server answers.
        IntegrityError: the log was cut back.
    """
    async with open_adapters(settings, name="lucid-worker") as adapters:
        workers = Workers(adapters, only=only)
        await check(adapters, await current_topology(adapters))
        async with workers.running():
            yield workers


async def prepare(adapters: Adapters, *, capture_max_bytes: int, sync: str | None) -> None:
    """Create what is missing on the server, then `check` it; `sync` is its interval where that is known.

    Raises:
        ConfigError: names every reason, with the setting to change.
    """
    wanted = await current_topology(adapters, capture_max_bytes=capture_max_bytes)
    done = await topology.apply(adapters.connection, adapters.subjects, wanted)
    for name in done.created:
        _log.info("created", extra={"stream": name})
    await adapters.capture.reserve()
    await check(adapters, wanted, sync=sync)


async def check(adapters: Adapters, wanted: TopologySettings, *, sync: str | None = None) -> None:
    """Refuse to run on a server that would break a promise; what weakens one is a warning.

    Raises:
        ConfigError: names every reason, with the setting to change.
    """
    findings = await preflight(adapters.connection, adapters.subjects, wanted, sync_interval=sync)
    for finding in findings:
        if finding.level == "warning":
            _log.warning("a promise is weaker", extra={"reason": f"{finding.what}: {finding.change}"})
    wrong = failures(findings)
    if wrong:
        listed = "\n  ".join(f"{finding.what}: {finding.change}" for finding in wrong)
        raise ConfigError(f"the server can't be used as it is:\n  {listed}", findings=wrong)


async def _watch(died: Awaitable[str], ended: asyncio.Future[str]) -> None:
    why = await died
    if not ended.done():
        ended.set_result(f"the embedded server is gone: {why}")


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(service: Service, stop: asyncio.Event) -> None:
    """Wait until `stop` is set; raises when the server is gone for good.

    Raises:
        StoreUnavailable: the embedded server died and could not be started again.
    """
    # A server that is gone sets the same event, so there is one thing to wait for.
    service.ended.add_done_callback(lambda _: stop.set())
    await stop.wait()
    if service.ended.done() and not service.ended.cancelled():
        raise StoreUnavailable(service.ended.result())
