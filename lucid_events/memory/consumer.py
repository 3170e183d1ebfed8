"""A durable consumer: what was delivered, what comes again and when.

One object per consumer, shared by everybody bound to it; `inbox.py` is the port over it.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from lucid_events.memory.faults import Faults
from lucid_events.memory.stream import MemoryStream, StoredMessage, matches
from lucid_events.ports import ConsumerLag

MAX_ACK_PENDING = 1000
"""The server's default bound of messages in flight."""


class Handed(NamedTuple):
    """One delivery: the message, its attempt, and how many are behind it."""

    message: StoredMessage
    attempt: int
    pending: int


@dataclass
class _Flight:
    attempt: int
    again_at: datetime


class MemoryConsumer:
    """Delivers the messages of a stream that fit its filters, each until it is answered for good."""

    def __init__(
        self,
        name: str,
        stream: MemoryStream,
        filters: tuple[str, ...],
        faults: Faults,
        *,
        ack_wait_s: float,
        max_ack_pending: int = MAX_ACK_PENDING,
    ) -> None:
        self.name, self.stream, self.filters = name, stream, filters
        self.ack_wait_s, self.max_ack_pending = ack_wait_s, max_ack_pending
        self.terminated: dict[int, str] = {}
        self._faults = faults
        self._new = deque(stream.select(filters))
        self._flights: dict[int, _Flight] = {}
        self._delivered = 0
        self._floor = 0
        stream.on_stored.append(self._offer)

    def take(self, limit: int) -> list[Handed]:
        """Hand out up to `limit` messages: those due again first, then new ones."""
        now = self.stream.clock.now()
        wait = timedelta(seconds=self.ack_wait_s)
        handed: list[Handed] = []
        overdue = sorted((f.again_at, s) for s, f in self._flights.items() if f.again_at <= now)
        for _, sequence in overdue[:limit]:
            message = self.stream.get(sequence)
            if message is None:
                del self._flights[sequence]
                continue
            flight = self._flights[sequence]
            flight.attempt, flight.again_at = flight.attempt + 1, now + wait
            handed.append(Handed(message, flight.attempt, len(self._new)))
        while len(handed) < limit and self._new and len(self._flights) < self.max_ack_pending:
            sequence = self._new.popleft()
            message = self.stream.get(sequence)
            if message is None:
                continue
            self._delivered = max(self._delivered, sequence)
            delay = self._faults.delay_of(self.name)
            if delay is not None:
                self._flights[sequence] = _Flight(0, now + timedelta(seconds=delay))
                continue
            again_at = now if self._faults.duplicates(self.name) else now + wait
            self._flights[sequence] = _Flight(1, again_at)
            handed.append(Handed(message, 1, len(self._new)))
        return handed

    def due(self) -> datetime | None:
        """Return when the next message comes again by itself."""
        return min((flight.again_at for flight in self._flights.values()), default=None)

    def settle(self, sequence: int, reason: str | None = None) -> None:
        """Never deliver `sequence` again: acknowledged, or terminated for `reason`."""
        if self._flights.pop(sequence, None) is None:
            return
        if reason is not None:
            self.terminated[sequence] = reason
        lowest = min(self._flights, default=None)
        if lowest is None:
            self._floor = self._delivered
        elif sequence < lowest:
            self._floor = lowest - 1
        if self.stream.work_queue:
            self.stream.remove([sequence])
        self.stream.wake()  # a place among the messages in flight is free

    def postpone(self, sequence: int, seconds: float) -> None:
        """Deliver `sequence` again in `seconds`, whatever was arranged before."""
        flight = self._flights.get(sequence)
        if flight is not None:
            flight.again_at = self.stream.clock.now() + timedelta(seconds=seconds)
            self.stream.wake()

    def lag(self) -> ConsumerLag:
        """Return where the consumer stands."""
        return ConsumerLag(
            name=self.name,
            pending=len(self._new),
            in_flight=len(self._flights),
            redelivered=sum(flight.attempt > 1 for flight in self._flights.values()),
            ack_floor=self._floor,
            delivered=self._delivered,
        )

    def _offer(self, message: StoredMessage) -> None:
        if any(matches(filter, message.subject) for filter in self.filters):
            self._new.append(message.sequence)
