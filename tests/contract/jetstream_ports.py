"""The ports over a real server; each scenario has a prefix, and so streams, of its own."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from lucid_events.errors import ConfigError
from lucid_events.jetstream.beats import JetStreamBeats
from lucid_events.jetstream.blobs import JetStreamBlobStore
from lucid_events.jetstream.capture import JetStreamCaptureStore
from lucid_events.jetstream.commands import JetStreamCommandBus, JetStreamCommandServer
from lucid_events.jetstream.connection import Connection, NatsOptions, connect
from lucid_events.jetstream.dead_letters import JetStreamDeadLetterStore
from lucid_events.jetstream.definitions import Definition, TopologySettings, load
from lucid_events.jetstream.gauge import JetStreamCaptureGauge
from lucid_events.jetstream.inbox import JetStreamInbox
from lucid_events.jetstream.kv import JetStreamKeyValue
from lucid_events.jetstream.letters import JetStreamLetters
from lucid_events.jetstream.live import JetStreamLiveFeed
from lucid_events.jetstream.store import JetStreamEventStore
from lucid_events.jetstream.timers import JetStreamTimers
from lucid_events.ports import Inbox
from lucid_events.subjects import Subjects
from tests.contract.bundle import CAPTURE_MAX_BYTES, Ports, eventually

SETTINGS = TopologySettings(capture_max_bytes=CAPTURE_MAX_BYTES)

_prefixes = (f"t{i}" for i in itertools.count())


@asynccontextmanager
async def jetstream_ports(url: str, settings: TopologySettings = SETTINGS) -> AsyncIterator[Ports]:
    """Open ports on fresh streams, which are deleted afterwards."""
    subjects = Subjects(next(_prefixes))
    async with connect(NatsOptions(servers=tuple(url.split(",")))) as connection:
        # Streams alone: each test makes the consumers it wants, and a work queue takes only one.
        streams = [one for one in load(subjects, settings) if one.kind == "stream"]
        await asyncio.gather(*(connection.api(f"STREAM.CREATE.{one.name}", one.config) for one in streams))
        if settings.replicas > 1:
            await eventually(lambda: _known(connection, streams))
        try:
            async with AsyncExitStack() as inboxes:
                yield _ports(connection, subjects, inboxes)
        finally:
            await asyncio.gather(*(connection.api(f"STREAM.DELETE.{one.name}") for one in streams))


async def _known(connection: Connection, streams: Sequence[Definition]) -> bool:
    """Return whether whoever answers knows all of `streams`: a node of a cluster may be a moment behind."""
    try:
        for one in streams:
            await connection.leader_get(one.name, seq=1)
    except ConfigError:
        return False
    return True


def _ports(connection: Connection, subjects: Subjects, inboxes: AsyncExitStack) -> Ports:
    streams = {"": subjects.events_stream}

    async def add_consumer(
        name: str,
        filters: Sequence[str],
        *,
        stream: str | None = None,
        ack_wait_s: float = 30.0,
        max_ack_pending: int = 1000,
    ) -> Inbox:
        streams[name] = stream or subjects.events_stream
        config = {
            "durable_name": name,
            "ack_policy": "explicit",
            "filter_subjects": list(filters),
            "ack_wait": int(ack_wait_s * 1e9),
            "max_ack_pending": max_ack_pending,
            "max_deliver": -1,
        }
        body = {"stream_name": streams[name], "config": config}
        await connection.api(f"CONSUMER.DURABLE.CREATE.{streams[name]}.{name}", body)
        return await bind(name)

    async def bind(name: str) -> Inbox:
        stream = streams.get(name, subjects.events_stream)
        inbox = await JetStreamInbox.bind(connection, stream, name)
        inboxes.push_async_callback(inbox.close)
        return inbox

    async def publish(subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        return (await connection.publish_acked(subject, data, headers=headers)).sequence

    async def delete(stream: str, sequence: int) -> None:
        await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence})

    async def sequences(stream: str, filter: str) -> list[int]:
        found: list[int] = []
        while page := list(
            await connection.direct_get(
                stream, {"seq": found[-1] + 1 if found else 1, "next_by_subj": filter, "batch": 1000}
            )
        ):
            found += [message.sequence for message in page]
        return found

    return Ports(
        subjects=subjects,
        store=JetStreamEventStore(connection, subjects),
        capture=JetStreamCaptureStore(connection, subjects),
        gauge=JetStreamCaptureGauge(connection, subjects),
        blobs=JetStreamBlobStore(connection, subjects.chunks_bucket),
        kv=JetStreamKeyValue(connection, subjects.meta_bucket),
        live=JetStreamLiveFeed(connection, subjects.events_stream),
        bus=JetStreamCommandBus(connection),
        server=JetStreamCommandServer(connection, version="0.0.1"),
        beats=JetStreamBeats(connection, subjects),
        timers=JetStreamTimers(connection, subjects),
        letters=JetStreamLetters(connection, subjects),
        dead_letters=JetStreamDeadLetterStore(connection, subjects),
        add_consumer=add_consumer,
        bind=bind,
        publish=publish,
        delete=delete,
        sequences=sequences,
    )
