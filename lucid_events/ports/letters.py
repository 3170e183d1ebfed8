"""Plain messages in streams that are no histories."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Protocol

import msgspec


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it stands in its stream."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    sequence: int
    stored_at: datetime


class Letters(Protocol):
    """Plain appends to a stream that is not a history: outcomes, dead letters."""

    async def publish(self, subject: str, data: bytes, *, headers: Mapping[str, str], id: str) -> int:
        """Store a message once per `id` within the dedupe window; returns its sequence."""
        ...

    async def last(self, subject: str) -> StoredMessage | None:
        """Return the last message on `subject` from the leader, None when there is none.

        Raises:
            ContractError: it is the subject of no letters.
        """
        ...


class DeadLetterStore(Protocol):
    """The stream of pointers to messages set aside, and the originals they point to."""

    def letters(
        self, consumer: str | None = None, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[StoredMessage]:
        """Yield up to `limit` pointers (of one consumer) behind sequence `after`, oldest first."""
        ...

    async def letter(self, sequence: int) -> StoredMessage | None:
        """Return the pointer at `sequence` from the leader, None when it is gone."""
        ...

    async def original(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message a pointer names from the leader, None when it is gone."""
        ...

    async def drop(self, sequence: int) -> bool:
        """Delete the pointer at `sequence`; False when there was none."""
        ...
