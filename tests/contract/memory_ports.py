"""The ports over a `MemoryServer`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from lucid_events.memory import (
    MemoryBeats,
    MemoryBlobStore,
    MemoryCaptureGauge,
    MemoryCaptureStore,
    MemoryCommandBus,
    MemoryCommandServer,
    MemoryEventStore,
    MemoryInbox,
    MemoryKeyValue,
    MemoryLetters,
    MemoryLiveFeed,
    MemoryServer,
    MemoryTimers,
)
from lucid_events.memory.dead_letters import MemoryDeadLetterStore
from lucid_events.ports import Inbox
from tests.contract.bundle import CAPTURE_MAX_BYTES, Ports


@asynccontextmanager
async def memory_ports() -> AsyncIterator[Ports]:
    """Open ports on an empty server."""
    server = MemoryServer(capture_max_bytes=CAPTURE_MAX_BYTES)

    async def add_consumer(
        name: str,
        filters: Sequence[str],
        *,
        stream: str | None = None,
        ack_wait_s: float = 30.0,
        max_ack_pending: int = 1000,
    ) -> Inbox:
        server.add_consumer(
            name, filters, stream=stream, ack_wait_s=ack_wait_s, max_ack_pending=max_ack_pending
        )
        return MemoryInbox(server, name)

    async def bind(name: str) -> Inbox:
        return MemoryInbox(server, name)

    async def publish(subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        return server.publish(subject, data, headers).sequence

    async def delete(stream: str, sequence: int) -> None:
        assert server.stream(stream).remove([sequence]) == 1

    async def sequences(stream: str, filter: str) -> list[int]:
        return server.stream(stream).select([filter])

    yield Ports(
        subjects=server.subjects,
        store=MemoryEventStore(server),
        capture=MemoryCaptureStore(server),
        gauge=MemoryCaptureGauge(server),
        blobs=MemoryBlobStore(server, server.subjects.chunks_bucket),
        kv=MemoryKeyValue(server, server.subjects.meta_bucket),
        live=MemoryLiveFeed(server),
        bus=MemoryCommandBus(server),
        server=MemoryCommandServer(server),
        beats=MemoryBeats(server),
        timers=MemoryTimers(server),
        letters=MemoryLetters(server),
        dead_letters=MemoryDeadLetterStore(server),
        add_consumer=add_consumer,
        bind=bind,
        publish=publish,
        delete=delete,
        sequences=sequences,
    )
