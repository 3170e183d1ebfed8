"""The stream of messages set aside, in memory, and the originals its pointers name."""

from collections.abc import AsyncIterator

from lucid_events.memory.server import MemoryServer
from lucid_events.memory.stream import StoredMessage as Kept
from lucid_events.ports import StoredMessage


class MemoryDeadLetterStore:
    """Pointers in the server's dead letter stream."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    async def letters(
        self, consumer: str | None = None, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[StoredMessage]:
        """Yield up to `limit` pointers (of one consumer) behind sequence `after`, oldest first."""
        await self._server.faults.reach("read")
        subjects = self._server.subjects
        filter = subjects.dead_letter(consumer if consumer is not None else "*")
        stream = self._server.stream(subjects.dlq_stream)
        for sequence in stream.select([filter], after=after)[:limit]:
            kept = stream.get(sequence)
            if kept is not None:
                yield as_port(kept)

    async def letter(self, sequence: int) -> StoredMessage | None:
        """Return the pointer at `sequence`, None when it is gone."""
        return await self.original(self._server.subjects.dlq_stream, sequence)

    async def original(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message a pointer names, None when it is gone."""
        await self._server.faults.reach("read")
        kept = self._server.stream(stream).get(sequence)
        return None if kept is None else as_port(kept)

    async def drop(self, sequence: int) -> bool:
        """Delete the pointer at `sequence`; False when there was none."""
        await self._server.faults.reach("letter")
        return self._server.stream(self._server.subjects.dlq_stream).remove([sequence]) == 1


def as_port(kept: Kept) -> StoredMessage:
    """Return the message as the ports know it."""
    return StoredMessage(
        subject=kept.subject,
        headers=kept.headers,
        data=kept.data,
        sequence=kept.sequence,
        stored_at=kept.stored_at,
    )
