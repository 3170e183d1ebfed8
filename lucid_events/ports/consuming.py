"""A durable consumer and what it hands out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec


class Delivery(Protocol):
    """One message handed to a durable consumer; exactly one of the four answers ends it."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    sequence: int
    stored_at: datetime
    attempt: int
    """1 for the first delivery."""
    pending: int
    """Messages behind this one in the consumer's filter."""

    async def ack(self) -> None:
        """Done; returns when the server knows."""
        ...

    async def retry(self, after_s: float) -> None:
        """Deliver again after `after_s` seconds."""
        ...

    async def working(self) -> None:
        """Still at it: restart the ack wait."""
        ...

    async def terminate(self, reason: str) -> None:
        """Never deliver again."""
        ...


class ConsumerLag(msgspec.Struct, frozen=True):
    """Where a durable consumer stands, as the server says."""

    name: str
    pending: int
    in_flight: int
    redelivered: int
    ack_floor: int
    delivered: int


class Inbox(Protocol):
    """A durable consumer that already exists; binding to one that does not is an error."""

    name: str
    ack_wait_s: float

    async def fetch(self, limit: int, *, wait_s: float) -> Sequence[Delivery]:
        """Return 0 to `limit` messages, waiting at most `wait_s` for the first."""
        ...

    async def lag(self) -> ConsumerLag:
        """Return the consumer's backlog."""
        ...
