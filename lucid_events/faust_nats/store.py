"""The `jetstream://` table store: a dictionary in memory, loaded in bulk from the table's changelog.

Faust's `memory://` store is filled by its recovery, a message at a time; it keeps the keys of
partitions it lost, and windows it recovered never expire. This one loads before recovery looks,
which then finds nothing left to do.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from faust.stores import memory
from faust.streams import current_event
from faust.tables.objects import ChangeloggedObjectManager
from faust.types import TP, EventT

from lucid_events.faust_nats.errors import Unavailable, Unsupported
from lucid_events.faust_nats.protocol import read

LOAD_TRIES: Final = 100
LOAD_PAUSE_S: Final = 0.1


class Store(memory.Store[Any, Any]):
    """Keys and values of the partitions that this worker has, active and standby."""

    table: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        self._reached: dict[TP, int] = {}
        self._keys: defaultdict[int, set[Any]] = defaultdict(set)
        self.loads = 0

    async def on_start(self) -> None:
        """Refuse a table that is not one of keys and values.

        Raises:
            Unsupported: a SetTable: the changelog keeps one entry per key, a set's needs them all.
        """
        if isinstance(self.table.data, ChangeloggedObjectManager):
            raise Unsupported(
                f"table {self.table.name!r} is a SetTable, whose changelog can't be compacted: "
                "use a Table whose values are lists"
            )
        await super().on_start()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a key, remembering its partition: that of the event in hand."""
        event = current_event()
        if event is not None:
            self._keys[event.message.partition].add(key)
        self.data[key] = value

    def __delitem__(self, key: Any) -> None:
        """Delete a key; an expired window goes without an event in hand."""
        del self.data[key]
        for keys in self._keys.values():
            keys.discard(key)

    def clear(self) -> None:
        """Delete all keys."""
        self.data.clear()
        self._keys.clear()

    def persisted_offset(self, tp: TP) -> int | None:
        """Return how far the changelog is in this store; None when it was never loaded."""
        return self._reached.get(tp)

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Note how far the changelog is in this store."""
        if offset > self._reached.get(tp, -1):
            self._reached[tp] = offset

    async def need_active_standby_for(self, tp: TP) -> bool:
        """Standby partitions are kept up to date."""
        return True

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Drop what went elsewhere and load what came; Faust recovers only what is written after that."""
        topic = self.table.changelog_topic_name
        transactions = getattr(self.app.consumer, "transactions", None)
        void = getattr(transactions, "take_void", lambda _: False)
        here = {tp for tp in assigned if tp.topic == topic}
        for tp in [tp for tp in self._reached if tp not in here]:
            self._forget(tp)
        for tp in sorted(here):
            if void(tp) or tp not in self._reached:
                self._forget(tp)
                await self._load(tp)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Nothing is left to drop: `on_rebalance` did."""

    def apply_changelog_batch(
        self,
        batch: Iterable[EventT[Any]],
        to_key: Callable[[Any], Any],
        to_value: Callable[[Any], Any],
    ) -> None:
        """Apply entries that came after the load, in order."""
        for event in batch:
            message = event.message
            key, keys = to_key(event.key), self._keys[message.partition]
            if message.value is None:
                self.data.pop(key, None)
                keys.discard(key)
            else:
                self.data[key] = to_value(event.value)
                keys.add(key)
            self._reached[message.tp] = message.offset

    def _forget(self, tp: TP) -> None:
        self._reached.pop(tp, None)
        stale = self._keys.pop(tp.partition, set())
        for key in stale:
            self.data.pop(key, None)
        if self.table._should_expire_keys():
            self.table._partition_timestamps.pop(tp.partition, None)
            for place in [
                place for place in self.table._partition_timestamp_keys if place[0] == tp.partition
            ]:
                del self.table._partition_timestamp_keys[place]

    async def _load(self, tp: TP) -> None:
        """Fill the partition from its changelog, up to what the leader has now."""
        transport = cast(Any, self.app.transport)
        stream, subject = transport.catalog.place(*tp)
        last = await transport.link.last(stream, subject)
        wanted = last.sequence if last is not None else 0
        reached = 0
        for _ in range(LOAD_TRIES):
            if reached < wanted:
                body = {"seq": reached + 1, "next_by_subj": subject}
                async for page in transport.link.pages(stream, body):
                    reached = self._fill(tp.partition, page)
            if reached >= wanted:
                self._reached[tp] = reached
                self.loads += 1
                return
            # A replica that lags answered, or the last entry's time ran out: look at the leader again.
            await asyncio.sleep(LOAD_PAUSE_S)
            last = await transport.link.last(stream, subject)
            wanted = last.sequence if last is not None else 0
        raise Unavailable(f"the changelog of {tp} could not be read up to {wanted}")

    def _fill(self, number: int, page: Iterable[Any]) -> int:
        table, serializers = self.table, self.app.serializers
        to_key, to_value = table._to_key, table._to_value
        loads_key, loads_value = serializers.loads_key, serializers.loads_value
        expires, data, keys = table._should_expire_keys(), self.data, self._keys[number]
        sequence = 0
        for message in page:
            headers = message.headers
            sequence = int(headers["Nats-Sequence"])
            record = read(headers["Nats-Subject"], headers, message.data, sequence, 0.0)
            key = to_key(loads_key(table.key_type, record.key, serializer=table.key_serializer))
            if record.value is None:
                data.pop(key, None)
                keys.discard(key)
                continue
            value = loads_value(table.value_type, record.value, serializer=table.value_serializer)
            data[key] = to_value(value)
            keys.add(key)
            if expires:
                table._maybe_set_key_ttl(key, number)
        return sequence
