"""The stream of messages set aside, on a server; implements `DeadLetterStore`."""

from collections.abc import AsyncIterator

from lucid_events.errors import NotFound
from lucid_events.jetstream.connection import Connection
from lucid_events.ports import StoredMessage
from lucid_events.subjects import Subjects


class JetStreamDeadLetterStore:
    """Pointers, each one read from the leader: there are few, and an operator acts on them."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection, self._subjects = connection, subjects
        self._stream = subjects.dlq_stream

    async def letters(
        self, consumer: str | None = None, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[StoredMessage]:
        """Yield up to `limit` pointers (of one consumer) behind sequence `after`, oldest first."""
        filter = self._subjects.dead_letter(consumer if consumer is not None else "*")
        for _ in range(limit):
            found = await self._connection.leader_get(self._stream, seq=after + 1, next_by_subj=filter)
            if found is None:
                return
            after = found.sequence
            yield as_port(found)

    async def letter(self, sequence: int) -> StoredMessage | None:
        """Return the pointer at `sequence` from the leader, None when it is gone."""
        return await self.original(self._stream, sequence)

    async def original(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message a pointer names from the leader, None when it is gone."""
        found = await self._connection.leader_get(stream, seq=sequence)
        return None if found is None else as_port(found)

    async def drop(self, sequence: int) -> bool:
        """Delete the pointer at `sequence`; False when there was none."""
        try:
            answer = await self._connection.api(f"STREAM.MSG.DELETE.{self._stream}", {"seq": sequence})
        except NotFound:
            return False
        return bool(answer.get("success"))


def as_port(found: object) -> StoredMessage:
    """Return the message as the ports know it."""
    fields = ("subject", "headers", "data", "sequence", "stored_at")
    return StoredMessage(**{name: getattr(found, name) for name in fields})
