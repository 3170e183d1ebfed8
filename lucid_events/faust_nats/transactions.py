"""exactly_once: what agents wrote to tables is stored together with the offsets of what they read.

A write is remembered with the event it came from. A commit takes, of every key, the last write of an
event that is done and none of an event still in progress, nor of one that wrote the key after such a
one, so a crash at any moment loses and doubles nothing. Messages that agents send go out at once, under
an id derived from the event: sent again after a crash they are recognised, as long as the agent sends
the same again (it must be deterministic).
"""

import asyncio
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

from faust.agents import current_agent
from faust.streams import current_event
from faust.transport import consumer
from faust.types import TP, RecordMetadata
from faust.types.core import HeadersArg
from faust.types.tuples import FutureMessage
from mode import Service

from lucid_events.faust_nats.errors import Fenced, Unsupported
from lucid_events.faust_nats.link import MAX_BATCH, Outgoing
from lucid_events.faust_nats.protocol import TIMESTAMP_KIND, TTL, headers_for
from lucid_events.faust_nats.topology import key_token
from lucid_events.faust_nats.writes import Key, Write, Writes

if TYPE_CHECKING:
    from lucid_events.faust_nats.producer import Producer
    from lucid_events.faust_nats.transport import Transport

COMMIT_AT: Final = 900
"""Changed keys after which a commit is due before its time: a batch holds `MAX_BATCH` messages."""
TOMBSTONE_S: Final = 3600
"""How long a deleted key is remembered: only a standby that lags as far would miss it."""
CARRIED_ID: ContextVar[str | None] = ContextVar("faust_nats_carried_id", default=None)
"""The id of the message that the producer's buffer is sending, "" for one without; None elsewhere. The
buffer has no event in hand, so the id is made when a message enters it."""


class TransactionManager(consumer.TransactionManager):
    """Gathers the table writes of an app and commits them."""

    transport: "Transport"
    producer: "Producer"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.writes = Writes()
        self._sent: dict[tuple[str, TP, int], int] = {}
        self._void: set[TP] = set()
        self._held: dict[TP, int] = {}
        self._filled = asyncio.Event()
        self._due_at = COMMIT_AT

    @Service.task
    async def _commit_when_full(self) -> None:
        """Commit as soon as a batch is full: by the consumer's next look there may be more than one holds."""
        while not self.should_stop:
            await self._filled.wait()
            await cast(Any, self.consumer).commit()
            self._set_due()

    def _set_due(self) -> None:
        """Note when the next commit is due: what could not be stored now should not call for one at once."""
        left = len(self.writes)
        self._due_at = COMMIT_AT if left < COMMIT_AT else left + COMMIT_AT // 2
        self._filled.clear()

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP]) -> None:
        """Forget what was written and not committed: the stores load those partitions again."""
        self._void |= self.writes.drop()
        self._set_due()
        self._sent.clear()
        self._held.clear()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """The consumer has committed what was done; what had to wait is repeated by the next owner."""
        self._held.clear()

    def take_void(self, tp: TP) -> bool:
        """Whether a table's partition holds what was never committed; asked once per rebalance."""
        if tp in self._void:
            self._void.discard(tp)
            return True
        return False

    @property
    def full(self) -> bool:
        """Whether a commit is due because of the number of keys."""
        return len(self.writes) >= self._due_at

    def write(self, topic: str, fut: FutureMessage) -> None:
        """Remember a write to a table's changelog.

        Raises:
            Unsupported: it comes from outside an agent.
            Fenced: its event was taken away by a rebalance.
        """
        event = current_event()
        if event is None:
            raise Unsupported(
                f"table of changelog {topic!r} is changed outside an agent: with exactly_once a change "
                "belongs to the event that caused it"
            )
        source = event.message
        if source.generation_id != self.app.consumer_generation_id:
            raise Fenced(
                f"{source.tp} {source.offset}: a rebalance took this event away while it was handled"
            )
        message: Any = fut.message
        key = Key(topic, message.partition, message.key)
        self.writes.add(key, source.tp, source.offset, message.value, future=fut)
        if self.full:
            self._filled.set()

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Send a message; under an id derived from the event in hand, if there is one."""
        return await self.producer.send(
            topic, key, value, partition, timestamp, headers, msg_id=self.message_id(topic)
        )

    def message_id(self, topic: str) -> str | None:
        """Return the id of the message to `topic` that is sent now; None when no event is in hand."""
        carried = CARRIED_ID.get()
        if carried is not None:
            return carried or None
        event = current_event()
        if event is None:
            return None
        source, agent = event.message, current_agent()
        name = agent.name if agent is not None else ""
        place = (name, source.tp, source.offset)
        count = self._sent[place] = self._sent.get(place, 0) + 1
        tp = source.tp
        return f"{self.app.conf.id}|{name}|{tp.topic}|{tp.partition}|{source.offset}|{topic}|{count}"

    async def commit(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Store `offsets` and what was written up to them; several batches when it does not fit one.

        An offset whose changes build on those of an event in progress waits for the commit after that
        event. A worker whose partitions were taken over crashes: what it computed is void.
        """
        # Faust takes the offsets for committed, and names them no more.
        for tp, offset in offsets.items():
            self._held[tp] = max(offset, self._held.get(tp, 0))
        try:
            await self.producer.flush()
            stored = self.transport.ledger.offsets
            rest = {
                tp: offset
                for tp, offset in self.writes.closed(self._held).items()
                if offset > stored.get(tp, 0)
            }
            while rest:
                now = self.writes.cut(rest, MAX_BATCH - len(rest))
                await self._commit(now)
                rest = {tp: offset for tp, offset in rest.items() if now.get(tp, 0) < offset}
                self._held = {tp: offset for tp, offset in self._held.items() if now.get(tp, 0) < offset}
        except Fenced as exc:
            await self.app.crash(exc)
            raise
        self._set_due()
        return True

    async def _commit(self, offsets: Mapping[TP, int]) -> None:
        due = self.writes.due(offsets)
        first = await self.transport.ledger.commit(offsets, self._entries(due))
        stored = {key: first + number for number, key in enumerate(due)}
        self._tell(self.writes.settled(offsets), stored)
        for place in [place for place in self._sent if place[2] < offsets.get(place[1], 0)]:
            del self._sent[place]

    def _entries(self, due: Mapping[Key, Write]) -> list[Outgoing]:
        entries: list[Outgoing] = []
        places: dict[tuple[str, int], tuple[str, int]] = {}
        for key, write in due.items():
            place = key.topic, key.partition
            if place not in places:
                places[place] = self.transport.names.keys(*place), changelog_ttl_s(self.app, key.topic)
            subject, kept_s = places[place]
            headers = headers_for(key.key, write.value)
            if ttl_s := kept_s if write.value is not None else TOMBSTONE_S:
                headers[TTL] = f"{ttl_s}s"
            entries.append(Outgoing(subject + key_token(key.key), write.value or b"", headers))
        return entries

    def _tell(self, gone: list[tuple[Key, Write]], stored: Mapping[Key, int]) -> None:
        """Complete the futures of writes, and tell the stores how far their changelogs reach."""
        reached: dict[TP, int] = {}
        for key, at in stored.items():
            tp = TP(key.topic, key.partition)
            if at > reached.get(tp, 0):
                reached[tp] = at
        for key, write in gone:
            future = write.future() if write.future is not None else None
            if future is not None and not future.done():
                tp, at = TP(key.topic, key.partition), stored[key]
                future.set_result(RecordMetadata(tp.topic, tp.partition, tp, at, None, TIMESTAMP_KIND))
        tables = cast(Any, self.app.tables)
        for tp, offset in reached.items():
            table = tables._changelogs.get(tp.topic)  # Faust's own recovery reads it too
            if table is not None:
                table.data.set_persisted_offset(tp, offset)


def changelog_ttl_s(app: Any, topic: str) -> int:
    """Return how long a value in a changelog is kept, 0 for ever: as long as its window may be asked for."""
    table = app.tables._changelogs.get(topic)
    window = getattr(table, "window", None)
    expires = getattr(window, "expires", None)
    if not expires:
        return 0
    return max(1, int(expires + getattr(window, "size", 0)) + 1)
