"""Every port, on one connection to a NATS server, as the settings ask for it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from lucid_events import __version__
from lucid_events.clock import SystemClock
from lucid_events.config import Settings
from lucid_events.domain.values import MIB
from lucid_events.jetstream.beats import JetStreamBeats
from lucid_events.jetstream.blobs import JetStreamBlobStore
from lucid_events.jetstream.commands import JetStreamCommandBus, JetStreamCommandServer
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.connection import connect as connect_nats
from lucid_events.jetstream.contexts import load_context
from lucid_events.jetstream.definitions import TopologySettings
from lucid_events.jetstream.gauge import JetStreamCaptureGauge
from lucid_events.jetstream.inbox import JetStreamInbox
from lucid_events.jetstream.kv import JetStreamKeyValue
from lucid_events.jetstream.letters import JetStreamLetters
from lucid_events.jetstream.live import JetStreamLiveFeed
from lucid_events.jetstream.options import DEFAULT_SERVER, NatsOptions
from lucid_events.jetstream.store import JetStreamEventStore
from lucid_events.jetstream.timers import JetStreamTimers
from lucid_events.jetstream.topology import exists
from lucid_events.measures import ProcessMeasures
from lucid_events.projections.generations import FIRST, Generations
from lucid_events.projections.status import StatusProjection
from lucid_events.service.measuring import MeasuredCapture
from lucid_events.subjects import Subjects, kv_stream


class Adapters:
    """One connection and what is built on it; cheap to make, shared by everything in a process.

    Args:
        measures: is told of everything that is captured here.
    """

    def __init__(
        self, connection: Connection, settings: Settings, *, measures: ProcessMeasures | None = None
    ) -> None:
        self.connection, self.settings = connection, settings
        self.subjects = Subjects(settings.prefix)
        self.clock = SystemClock()
        self.store = JetStreamEventStore(connection, self.subjects)
        self.capture = MeasuredCapture(connection, self.subjects, measures or ProcessMeasures())
        self.gauge = JetStreamCaptureGauge(connection, self.subjects)
        self.chunks = self.bucket(self.subjects.chunks_bucket)
        self.live = JetStreamLiveFeed(connection, self.subjects.events_stream)
        self.bus = JetStreamCommandBus(connection)
        self.server = JetStreamCommandServer(connection, version=__version__)
        self.beats = JetStreamBeats(connection, self.subjects)
        self.timers = JetStreamTimers(connection, self.subjects)
        self.letters = JetStreamLetters(connection, self.subjects)
        self.meta = self.kv(self.subjects.meta_bucket)
        self.snapshots = self.kv(self.subjects.snapshots_bucket)

    def bucket(self, name: str) -> JetStreamBlobStore:
        """Return the object store of that name."""
        return JetStreamBlobStore(self.connection, name)

    def kv(self, bucket: str) -> JetStreamKeyValue:
        """Return the key-value bucket of that name."""
        return JetStreamKeyValue(self.connection, bucket)

    @asynccontextmanager
    async def inbox(self, stream: str, consumer: str) -> AsyncIterator[JetStreamInbox]:
        """Bind to the durable consumer of that name for the time of the context; it has to exist."""
        inbox = await JetStreamInbox.bind(self.connection, stream, consumer)
        try:
            yield inbox
        finally:
            await inbox.close()


@asynccontextmanager
async def open_adapters(
    settings: Settings, *, name: str, wait: bool = False, measures: ProcessMeasures | None = None
) -> AsyncIterator[Adapters]:
    """Connect as `settings` say; `wait` keeps trying until the server is there.

    Raises:
        StoreUnavailable: no server answers.
        ConfigError: credentials or context are wrong.
    """
    async with connect_nats(nats_options(settings, name), wait=wait) as connection:
        yield Adapters(connection, settings, measures=measures)


def nats_options(settings: Settings, name: str) -> NatsOptions:
    """Return how to reach the server: the context, with what is set explicitly over it."""
    base = NatsOptions(name=name)
    if settings.nats_context:
        base = load_context(settings.nats_context, os.environ)
    urls = tuple(url.strip() for url in settings.nats_url.split(",") if url.strip())
    return NatsOptions(
        **{
            **{field: getattr(base, field) for field in base.__struct_fields__},
            "name": name,
            "servers": urls or base.servers or (DEFAULT_SERVER,),
            "creds": settings.nats_creds or base.creds,
            "nkey_seed": settings.nats_nkey_seed or base.nkey_seed,
            "tls_ca": settings.nats_ca or base.tls_ca,
            "tls_cert": settings.nats_cert or base.tls_cert,
            "tls_key": settings.nats_key or base.tls_key,
            "inbox_prefix": settings.nats_inbox_prefix or base.inbox_prefix,
            "api_prefix": settings.nats_js_api_prefix or base.api_prefix,
        }
    )


async def current_topology(adapters: Adapters, *, capture_max_bytes: int | None = None) -> TopologySettings:
    """Return what the definitions are filled in with on this server: the live generation is of its making.

    Raises:
        StoreUnavailable: the server could not be asked.
    """
    generation = FIRST
    if await exists(adapters.connection, kv_stream(adapters.subjects.meta_bucket)):
        generation = (await Generations(adapters.meta, StatusProjection.name).live()).generation
    wanted = topology_settings(adapters.settings, capture_max_bytes=capture_max_bytes)
    return msgspec.structs.replace(wanted, status_generation=generation)


def topology_settings(settings: Settings, *, capture_max_bytes: int | None = None) -> TopologySettings:
    """Return what the definitions are filled in with, the first generation of the views live."""
    return TopologySettings(
        replicas=settings.replicas,
        capture_max_bytes=capture_max_bytes or settings.capture_max_mib * MIB,
        chunks_pending=settings.stages.compression.buffer,
        chunks_ack_wait_s=settings.stages.compression.timeout_s,
        finaliser_pending=settings.stages.merkle_building.buffer,
        finaliser_ack_wait_s=settings.stages.merkle_building.timeout_s,
    )


def data_folder(settings: Settings) -> Path:
    """Return where the embedded server keeps its store: `LUCID_DATA`, or the user's data folder."""
    if settings.data:
        return Path(settings.data)
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "lucid_events"
