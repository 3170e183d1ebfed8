"""Delivering: from what was read ahead to the streams, and from what they are done with to offsets."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import nats.errors
from faust.exceptions import ConsumerNotStarted
from faust.transport import consumer
from faust.transport.consumer import ensure_TP
from faust.types import TP, ConsumerMessage

from lucid_events.faust_nats.feeds import Feeds
from lucid_events.faust_nats.protocol import TIMESTAMP_KIND, Record
from lucid_events.faust_nats.tracker import AckTracker

if TYPE_CHECKING:
    from lucid_events.faust_nats.transport import Transport

TAKE: Final = 256
"""Records of one partition delivered in a row: twice as many starve the others for 50 ms."""
IDLE_S: Final = 1.0
ACK_S: Final = 0.25
EARLIEST: Final = 1


class DeliveringConsumer(consumer.Consumer):
    """The half of a consumer that knows nothing of groups: assigned partitions in, offsets out."""

    transport: "Transport"

    consumer_stopped_errors: ClassVar[tuple[type[BaseException], ...]] = (nats.errors.ConnectionClosedError,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._assigned: set[TP] = set()
        self._positions: dict[TP, int] = {}
        self._highwaters: dict[TP, int] = {}
        self._trackers: dict[TP, AckTracker] = {}
        self._arrived = asyncio.Event()
        self._feeds: Feeds | None = None
        self._empty_by: float | None = None
        # How often each partition was put somewhere else, and how often it had been when the records
        # in hand were taken: records from before a seek must not be delivered after it.
        self._seeks: Counter[TP] = Counter()
        self._taken_at: dict[TP, int] = {}

    @property
    def feeds(self) -> Feeds:
        """What is read ahead.

        Raises:
            ConsumerNotStarted: nothing yet.
        """
        if self._feeds is None:
            raise ConsumerNotStarted("the consumer is not started")
        return self._feeds

    def highwater(self, tp: TP) -> int:
        """Return the offset after the last one known; for the monitor only, not asked of the server."""
        return self._highwaters.get(tp, 0)

    # reading

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - Faust's signature
    ) -> dict[TP, list[Record]]:
        wanted = self._assigned if active_partitions is None else active_partitions
        found = await self._collect(wanted)
        if not found:
            self._arrived.clear()
            found = await self._collect(wanted)
        if not found:
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                self.feeds.check()
            found = await self._collect(wanted)
        return found

    async def _collect(self, wanted: Iterable[TP]) -> dict[TP, list[Record]]:
        found: dict[TP, list[Record]] = {}
        feeds = self.feeds
        for tp in tuple(wanted):
            position = self._positions.get(tp)
            if position is None:
                continue  # not told yet where to read from
            feed = await feeds.open(tp, position)
            if tp in self._positions and (records := feed.take(TAKE)):
                self._taken_at[tp] = self._seeks[tp]
                self._positions[tp] = records[-1].offset + 1
                self._highwaters[tp] = max(self._highwaters.get(tp, 0), records[-1].offset + 1)
                found[tp] = records
        return found

    async def _wait_next_records(
        self,
        timeout: float,  # noqa: ASYNC109 - Faust's signature
    ) -> tuple[Any, set[TP] | None]:
        if not self.flow_active:
            await self.wait(cast(Any, self.can_resume_flow))
        try:
            self.not_waiting_next_records.clear()
            active = None if self.app.client_only else self._get_active_partitions()
            if active is not None and not active:
                # Everything is paused or buffered; a buffer that drains wakes us.
                self._arrived.clear()
                await self.wait_first(self._arrived.wait(), timeout=IDLE_S)
                return {}, active
            return await self._getmany(active_partitions=active, timeout=timeout), active
        finally:
            self.not_waiting_next_records.set()

    def on_buffer_drop(self, tp: TP) -> None:
        """Read on: a stream that had too much waiting has room again."""
        super().on_buffer_drop(tp)
        self._arrived.set()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Read on."""
        super().resume_partitions(tps)
        self._arrived.set()

    def _to_message(self, tp: TP, record: Record) -> ConsumerMessage:
        key, value = record.key, record.value
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp,
            TIMESTAMP_KIND,
            record.headers,
            key,
            value,
            None,
            len(key) if key is not None else 0,
            len(value) if value is not None else 0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _drain_messages(self, fetcher: Any) -> None:
        """Deliver until the fetcher stops. One wait per batch: upstream makes four tasks per message."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                records, active = await self._wait_next_records(timeout=IDLE_S)
                if not records:
                    await asyncio.sleep(0)
                    continue
                await self.wait_first(self._deliver(records, active), self.suspend_flow.wait())
                if self._due():
                    await self.commit()
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    def _due(self) -> bool:
        """Whether so much was done that a commit should not wait for its time."""
        if self._commit_every is not None and self._n_acked >= self._commit_every:
            self._n_acked = 0
            return True
        return bool(self.in_transaction and cast(Any, self.transactions).full)

    async def _deliver(self, records: Mapping[TP, list[Record]], active: set[TP] | None) -> None:
        app, callback = self.app, self.callback
        generation = app.consumer_generation_id
        acks = app.topics.acks_enabled_for
        for tp in records:
            app.monitor.track_tp_end_offset(tp, self.highwater(tp))
        for tp, record in self.scheduler.iterate(records):
            if not self.flow_active or app.consumer_generation_id != generation:
                return
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue
            if self._taken_at.get(tp) != self._seeks[tp]:
                continue
            offset = record.offset
            read = self._read_offset[tp]
            if read is not None and offset < read:
                continue
            acked = acks(tp.topic)
            if acked and not self._tracker(tp).delivered(offset):
                continue
            message = self._to_message(tp, record)
            await callback(message)
            self._read_offset[tp] = offset
            if acked and not message.refcount and not message.acked:
                # Nobody wants it: it is as done as it will ever be.
                self.ack(message)

    async def _seek(self, partition: TP, offset: int) -> None:
        tp = ensure_TP(partition)
        # All of this before anything is waited for: who reads on meanwhile must read from there.
        self._seeks[tp] += 1
        self._trackers.pop(tp, None)
        self._positions[tp] = max(offset, EARLIEST)
        await self.feeds.close(tp)

    async def _forget_positions(self) -> None:
        """Read nothing of any partition until it is told where to begin."""
        self._seeks.update(self._assigned)
        self._trackers.clear()
        self._positions.clear()
        await self.feeds.close_all()

    # what is done

    async def wait_empty(self) -> None:
        """Wait for the events in hand and commit what is done, at most `broker_rebalance_timeout`.

        In a rebalance the deadline is that of the whole rebalance, however often this is asked. What is
        not done by then is left to the next owner, and in hand no more; upstream would wait for ever.
        """
        loop = asyncio.get_running_loop()
        deadline = self._empty_by or loop.time() + self.app.conf.broker_rebalance_timeout
        while self._unacked_messages and not self._void():
            # Messages that nobody holds any more count as done only once they are collected.
            gc.collect()
            await self.commit()
            self._clean_unacked_messages()
            if not self._unacked_messages:
                break
            if loop.time() > deadline:
                self.log.warning("%s events did not end in time: they will be repeated", len(self.unacked))
                break
            acked = self._waiting_for_ack = loop.create_future()
            await asyncio.wait((acked,), timeout=ACK_S)
            self._waiting_for_ack = None
        if not self._void():
            await self.commit_and_end_transactions()
        self._disown()

    def _disown(self) -> None:
        """Let go of the events in hand: how they end counts no more.

        A stop cancels the agents, and a stream acknowledges what it is cut off in. After a rebalance the
        same event may be here again, and is not done because its first handling came to an end.
        """
        for message in tuple(self._unacked_messages):
            message.acked = True
        self._unacked_messages.clear()

    def _void(self) -> bool:
        """Whether nothing that was done may be committed any more."""
        return bool(self.app.crashed or self.crashed)

    def _tracker(self, tp: TP) -> AckTracker:
        tracker = self._trackers.get(tp)
        if tracker is None:
            tracker = self._trackers[tp] = AckTracker()
        return tracker

    def _new_offset(self, tp: TP) -> int | None:
        # Not in `ack`: Faust's compiled streams write into these lists themselves.
        acked = self._acked[tp]
        if not acked:
            return None
        tracker = self._tracker(tp)
        for done in acked:
            tracker.done(done)
        acked.clear()
        offset = tracker.committable
        if offset is not None:
            index = self._acked_index[tp]
            index.difference_update([old for old in index if old < offset])
        return offset

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Do nothing: the tracker knows what was delivered, so holes between offsets mean nothing."""
