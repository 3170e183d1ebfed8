"""exactly_once: what agents wrote to tables is stored together with the offsets of what they read.

A write is remembered with the event it came from. A commit takes, of every key, the last write of an
event that is done and none of an event still in progress, so a crash at any moment loses and doubles
nothing. Messages that agents send go out at once, under an id derived from the event: sent again after
a crash they are recognised, as long as the agent sends the same again (it must be deterministic).
"""

import weakref
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec
from faust.agents import current_agent
from faust.streams import current_event
from faust.transport import consumer
from faust.types import TP, RecordMetadata
from faust.types.core import HeadersArg
from faust.types.tuples import FutureMessage, Message

from lucid_events.faust_nats.errors import Fenced, Unsupported
from lucid_events.faust_nats.link import MAX_BATCH, Outgoing
from lucid_events.faust_nats.protocol import TIMESTAMP_KIND, TTL, headers_for

if TYPE_CHECKING:
    from lucid_events.faust_nats.producer import Producer
    from lucid_events.faust_nats.transport import Transport

COMMIT_AT: Final = 900
"""Changed keys after which a commit is due before its time: a batch holds `MAX_BATCH` messages."""
TOMBSTONE_S: Final = 3600
"""How long a deleted key is remembered: only a standby that lags as far would miss it."""


class Key(NamedTuple):
    """One key of one partition of a changelog."""

    topic: str
    partition: int
    key: bytes | None


class Write(msgspec.Struct, frozen=True, gc=False):
    """What an event set a key to; `future` is what the table's user may hold: most hold nothing."""

    order: int
    tp: TP
    offset: int
    value: bytes | None
    future: "weakref.ref[FutureMessage] | None"


class Writes:
    """The writes since the last commit, per key in the order they were made. Knows no server."""

    def __init__(self) -> None:
        self._writes: dict[Key, list[Write]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._writes)

    def add(
        self,
        key: Key,
        tp: TP,
        offset: int,
        value: bytes | None,
        *,
        future: FutureMessage | None = None,
    ) -> None:
        """Remember that the event at `offset` of `tp` set `key` to `value`."""
        self._order += 1
        held = weakref.ref(future) if future is not None else None
        write = Write(self._order, tp, offset, value, held)
        writes = self._writes.get(key)
        if writes is None:
            self._writes[key] = [write]
        else:
            writes.append(write)

    def cut(self, offsets: Mapping[TP, int], most: int) -> dict[TP, int]:
        """Return the offsets, at most `offsets`, up to which at most `most` keys were written.

        Whole events only, in the order in which they wrote.

        Raises:
            Unsupported: one event alone wrote more.
        """
        if len(self._writes) <= most:
            return dict(offsets)
        done = [
            (write.order, key, write)
            for key, writes in self._writes.items()
            for write in writes
            if write.offset < offsets.get(write.tp, 0)
        ]
        if len({key for _, key, _ in done}) <= most:
            return dict(offsets)
        done.sort(key=lambda one: one[0])
        events: dict[tuple[TP, int], set[Key]] = {}
        for _, key, write in done:
            events.setdefault((write.tp, write.offset), set()).add(key)
        kept: set[Key] = set()
        reached: dict[TP, int] = {}
        for (tp, offset), keys in events.items():
            # Not `kept | keys`: a new set of all keys for every event.
            if len(kept) + len(keys - kept) > most:
                if not reached:
                    raise Unsupported(
                        f"the event at {tp} {offset} changed {len(keys)} table keys: one commit holds {most}"
                    )
                break
            kept |= keys
            reached[tp] = max(reached.get(tp, 0), offset + 1)
        return reached

    def due(self, offsets: Mapping[TP, int]) -> dict[Key, Write]:
        """Return, per key, the last write of an event before `offsets`."""
        found: dict[Key, Write] = {}
        for key, writes in self._writes.items():
            for write in reversed(writes):
                if write.offset < offsets.get(write.tp, 0):
                    found[key] = write
                    break
        return found

    def settled(self, offsets: Mapping[TP, int]) -> list[tuple[Key, Write]]:
        """Forget the writes of events before `offsets` and return them."""
        gone: list[tuple[Key, Write]] = []
        for key in tuple(self._writes):
            writes = self._writes[key]
            left = []
            for write in writes:
                if write.offset < offsets.get(write.tp, 0):
                    gone.append((key, write))
                else:
                    left.append(write)
            if left:
                self._writes[key] = left
            else:
                del self._writes[key]
        return gone

    def drop(self) -> set[TP]:
        """Forget everything; returns the partitions of changelogs whose tables hold what was not stored."""
        void = {TP(key.topic, key.partition) for key in self._writes}
        self._writes.clear()
        return void


class TransactionManager(consumer.TransactionManager):
    """Gathers the table writes of an app and commits them."""

    transport: "Transport"
    producer: "Producer"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.writes = Writes()
        self._sent: dict[tuple[str, TP, int], int] = {}
        self._void: set[TP] = set()

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP]) -> None:
        """Forget what was written and not committed: the stores load those partitions again."""
        self._void |= self.writes.drop()
        self._sent.clear()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Nothing is left to do: the consumer has committed what was done."""

    def take_void(self, tp: TP) -> bool:
        """Whether a table's partition holds what was never committed; asked once per rebalance."""
        if tp in self._void:
            self._void.discard(tp)
            return True
        return False

    @property
    def full(self) -> bool:
        """Whether a commit is due because of the number of keys."""
        return len(self.writes) >= COMMIT_AT

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
        source: Message = event.message
        if source.generation_id != self.app.consumer_generation_id:
            raise Fenced(
                f"{source.tp} {source.offset}: a rebalance took this event away while it was handled"
            )
        message = fut.message
        key = Key(topic, cast(int, message.partition), message.key)
        self.writes.add(key, source.tp, source.offset, message.value, future=fut)

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
            topic, key, value, partition, timestamp, headers, msg_id=self._msg_id(topic)
        )

    def _msg_id(self, topic: str) -> str | None:
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

        A worker whose partitions were taken over crashes: what it computed is void.
        """
        try:
            await self.producer.settle()
            rest = dict(offsets)
            while rest:
                now = self.writes.cut(rest, MAX_BATCH - len(rest))
                await self._commit(now)
                rest = {tp: offset for tp, offset in rest.items() if now.get(tp, 0) < offset}
        except Fenced as exc:
            await self.app.crash(exc)
            raise
        return True

    async def _commit(self, offsets: Mapping[TP, int]) -> None:
        due = self.writes.due(offsets)
        entries = [
            Outgoing(
                self.transport.names.entry(key.topic, key.partition, key.key),
                write.value or b"",
                self._headers(key, write),
            )
            for key, write in due.items()
        ]
        first = await self.transport.ledger.commit(offsets, entries)
        stored = {key: first + number for number, key in enumerate(due)}
        self._tell(self.writes.settled(offsets), stored)
        for place in [place for place in self._sent if place[2] < offsets.get(place[1], 0)]:
            del self._sent[place]

    def _headers(self, key: Key, write: Write) -> dict[str, str]:
        made = headers_for(key.key, write.value)
        if ttl_s := changelog_ttl_s(self.app, key.topic, write.value):
            made[TTL] = f"{ttl_s}s"
        return made

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


def changelog_ttl_s(app: Any, topic: str, value: bytes | None) -> int:
    """Return how long an entry of a changelog is kept, 0 for ever: as long as its window may be asked for."""
    if value is None:
        return TOMBSTONE_S
    table = app.tables._changelogs.get(topic)
    window = getattr(table, "window", None)
    expires = getattr(window, "expires", None)
    if not expires:
        return 0
    return max(1, int(expires + getattr(window, "size", 0)) + 1)
