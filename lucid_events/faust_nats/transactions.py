"""exactly_once: what agents wrote to tables is stored together with the offsets of what they read.

A write is remembered with the event it came from. A commit takes, of every key, the last write of an
event that is done and none of an event still in progress, nor of one that wrote the key after such a
one, so a crash at any moment loses and doubles nothing. Messages that agents send go out at once, under
an id derived from the event: sent again after a crash they are recognised, as long as the agent sends
the same again (it must be deterministic).
"""

import weakref
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
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
CARRIED_ID: ContextVar[str | None] = ContextVar("faust_nats_carried_id", default=None)
"""The id of the message that the producer's buffer is sending, "" for one without; None elsewhere. The
buffer has no event in hand, so the id is made when a message enters it."""


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

    def closed(self, offsets: Mapping[TP, int]) -> dict[TP, int]:
        """Return the offsets, at most `offsets`, of a commit that holds nothing of an event outside of it.

        An event that wrote a key after one that is not in the commit may have built on what that one
        wrote, so it, and what follows it in its partition, has to wait for a later commit.
        """
        found = dict(offsets)
        changed = True
        while changed:
            changed = False
            for writes in self._writes.values():
                outside = False
                for write in writes:
                    if write.offset >= found.get(write.tp, 0):
                        outside = True
                    elif outside:
                        found[write.tp] = write.offset
                        changed = True
        return found

    def cut(self, offsets: Mapping[TP, int], most: int) -> dict[TP, int]:
        """Return the offsets, at most `offsets`, up to which at most `most` keys were written.

        Whole events only, in the order in which they wrote; as `closed` as `offsets` are.

        Raises:
            Unsupported: one event alone wrote more, or events that wrote the same keys in turns did.
        """
        if len(self._writes) <= most:
            return dict(offsets)
        done = _Done(self._writes, offsets)
        if len(done.keys) <= most:
            return dict(offsets)
        kept: set[Key] = set()
        reached: dict[TP, int] = {}
        while events := done.take():
            keys = {key for event in events for key in done.events[event]}
            # Not `kept | keys`: a new set of all keys for every event.
            if len(kept) + len(keys - kept) > most:
                if reached:
                    break
                tp, offset = max(events, key=lambda event: len(done.events[event]))
                with_it = f" with the {len(events) - 1} it took turns with" if len(events) > 1 else ""
                raise Unsupported(
                    f"the event at {tp} {offset}{with_it} changed {len(keys)} table keys: "
                    f"one commit holds {most}"
                )
            kept |= keys
            for tp, offset in events:
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


class _Done:
    """The events of a commit, taken in the order of their first writes, those that belong together at once.

    An event is taken with all before it in its partition, and with all that wrote one of its keys
    before it did. Each is looked at once.
    """

    def __init__(self, writes: Mapping[Key, list[Write]], offsets: Mapping[TP, int]) -> None:
        inside = [
            (write.order, key, write)
            for key, made in writes.items()
            for write in made
            if write.offset < offsets.get(write.tp, 0)
        ]
        inside.sort(key=lambda one: one[0])
        self.events: dict[tuple[TP, int], dict[Key, int]] = {}
        """Of each event, the keys it wrote, and the place of its last write of each among all of the key."""
        self.keys: dict[Key, list[tuple[TP, int]]] = {}
        for _, key, write in inside:
            event = (write.tp, write.offset)
            authors = self.keys.setdefault(key, [])
            authors.append(event)
            self.events.setdefault(event, {})[key] = len(authors)
        self._offsets: dict[TP, list[int]] = {}
        for tp, offset in sorted(self.events, key=lambda event: event[1], reverse=True):
            self._offsets.setdefault(tp, []).append(offset)
        self._passed = dict.fromkeys(self.keys, 0)
        self._order = iter(tuple(self.events))
        self._taken: set[tuple[TP, int]] = set()

    def take(self) -> list[tuple[TP, int]]:
        """Return the next events that belong together; none when all were taken."""
        first = next((event for event in self._order if event not in self._taken), None)
        found = [] if first is None else [first]
        self._taken.update(found)
        for event in found:  # which grows
            for other in self._before(event):
                if other not in self._taken:
                    self._taken.add(other)
                    found.append(other)
        return found

    def _before(self, event: tuple[TP, int]) -> list[tuple[TP, int]]:
        tp, offset = event
        before: list[tuple[TP, int]] = []
        left = self._offsets[tp]
        while left and left[-1] <= offset:
            before.append((tp, left.pop()))
        for key, upto in self.events[event].items():
            passed = self._passed[key]
            if passed < upto:
                before += self.keys[key][passed:upto]
                self._passed[key] = upto
        return before


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

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP]) -> None:
        """Forget what was written and not committed: the stores load those partitions again."""
        self._void |= self.writes.drop()
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
