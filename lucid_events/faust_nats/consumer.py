"""Receiving: the worker's partitions, where it stands in them, and its place in the group.

Rebalancing is the coordinator's; this is the worker it talks to.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from faust.exceptions import ConsumerNotStarted
from faust.types import TP
from mode import Seconds, Service

from lucid_events.faust_nats.coordinator import Assignor, Coordinator
from lucid_events.faust_nats.delivery import EARLIEST, DeliveringConsumer
from lucid_events.faust_nats.errors import DriverError
from lucid_events.faust_nats.feeds import Feeds
from lucid_events.faust_nats.membership import Group
from lucid_events.faust_nats.restarts import close_before_restarts
from lucid_events.faust_nats.topology import partition as partition_of

LET_GO_SHARE: Final = 0.75
"""Part of `broker_rebalance_timeout` in which the events in hand may end when partitions are taken away:
the leader counts all of it from an earlier moment, and the last commit takes its time too."""


class Consumer(DeliveringConsumer):
    """A worker's consumer, one per app."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._coordinator: Coordinator | None = None
        self._open = False

    # lifetime

    async def on_start(self) -> None:
        """Connect, and create what the app keeps on the server."""
        await super().on_start()
        close_before_restarts(self.app)
        transport, conf = self.transport, self.app.conf
        await transport.acquire()
        self._open = True
        self._feeds = Feeds(transport.link, transport.catalog, self._arrived.set)
        if self.app.client_only:
            return
        await transport.ledger.create(transport.replicas)
        group = Group(transport.link, transport.names, session_s=conf.broker_session_timeout)
        await group.create(transport.replicas)
        self._coordinator = Coordinator(
            group,
            cast(Assignor, self.app.assignor),
            self,
            member=transport.member,
            session_s=conf.broker_session_timeout,
            beat_s=conf.broker_heartbeat_interval,
            rebalance_s=conf.broker_rebalance_timeout,
        )

    @Service.task
    async def _take_part(self) -> None:
        if self._coordinator is not None:
            try:
                await self._coordinator.run()
            except DriverError as exc:
                await self.app.crash(exc)
                raise

    async def on_stop(self) -> None:
        """Finish and commit what is in hand, then let the others have the partitions."""
        try:
            if not self.app.crashed:
                await super().on_stop()
                if self._coordinator is not None:
                    await self._coordinator.leave()
        finally:
            if self._feeds is not None:
                await self._feeds.close_all()
            if self._open:
                self._open = False
                await self.transport.release()

    # the coordinator's worker

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Take part in the group with `topics`; those that don't exist are created."""
        wanted = set(topics)
        for topic in sorted(wanted):
            await self.transport.ensure(topic)
        if self.app.client_only:
            for topic in wanted:
                await self._listen(TP(topic, 0))
            return
        if self._coordinator is None:
            raise ConsumerNotStarted("the consumer is not started")
        await self._coordinator.subscribe(wanted)

    async def _listen(self, tp: TP) -> None:
        """Read `tp` from now on, as a client that is in no group."""
        if tp not in self._assigned:
            self._assigned.add(tp)
            self._positions[tp] = (await self.highwaters(tp))[tp]
            await self.feeds.open(tp, self._positions[tp])

    async def let_go(self) -> None:
        """Finish and commit what is in hand; read nothing more.

        Ends before the leader gives up on it: the wait here and Faust's own, when it is told of the
        revoked partitions, have one deadline.
        """
        app = self.app
        self._empty_by = asyncio.get_running_loop().time() + LET_GO_SHARE * app.conf.broker_rebalance_timeout
        try:
            await self._let_go()
        finally:
            self._empty_by = None

    async def _let_go(self) -> None:
        app = self.app
        app.on_rebalance_start()
        if self._assigned:
            # Faust forgets what is acknowledged before it waits for the rest of what is in hand: then
            # the next owner would have to do it again.
            self.stop_flow()
            app.flow_control.suspend()
            self.pause_partitions(self._assigned)
            app.flow_control.clear()
            if app.conf.stream_wait_empty:
                await self.wait_empty()
        await self.on_partitions_revoked(set(self._assigned))
        await self._forget_positions()
        self._assigned.clear()

    async def take_over(self, generation: int, parts: list[tuple[str, list[int]]]) -> None:
        """Go on with `parts`: fence off their last owner, then let Faust load the tables and read."""
        assigned = {TP(topic, number) for topic, numbers in parts for number in numbers}
        catalog, ledger = self.transport.catalog, self.transport.ledger
        for topic in sorted({tp.topic for tp in assigned}):
            await ledger.hold_partitions(topic, catalog.count(topic) or 0)
        await ledger.claim((tp for tp in assigned if not catalog.is_table(tp.topic)), generation)
        self._assigned = assigned
        self.app.consumer_generation_id = generation
        await self.on_partitions_assigned(set(assigned), generation)

    async def partitions_of(self, topics: set[str]) -> dict[str, int]:
        """Return the number of partitions of each topic."""
        return await self.transport.catalog.look_up(topics)

    # where we are

    def assignment(self) -> set[TP]:
        """Return the worker's partitions."""
        return set(self._assigned)

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def topic_partitions(self, topic: str) -> int | None:
        """Return the number of partitions of `topic`, None when it is not known."""
        return self.transport.catalog.count(topic)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        """Return where `key` belongs, None when that is for the producer to choose."""
        count = self.topic_partitions(topic)
        if partition is not None or count is None:
            return partition
        return partition_of(key, count) if key is not None else None

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Put every partition of a source back to where its last commit says; tables are left alone."""
        found: dict[TP, int] = {}
        for tp in self._assigned:
            if self.transport.catalog.is_table(tp.topic):
                continue
            offset = self.transport.ledger.offsets.get(tp, 0)
            if not offset:
                latest = self.app.conf.consumer_auto_offset_reset == "latest"
                offset = (await self.highwaters(tp))[tp] if latest else EARLIEST
            found[tp] = offset
            await self._seek(tp, offset)
        return found

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek, and let reading begin there."""
        for tp, offset in partitions.items():
            # Faust counts from the last offset it has of a changelog; reading it again changes nothing.
            await self.seek(tp, offset)

    async def seek_to_beginning(self, *partitions: TP) -> None:
        """Seek to the first message there is."""
        await self.seek_wait(dict.fromkeys(partitions, EARLIEST))

    async def position(self, tp: TP) -> int | None:
        """Return the offset that is read next, None before the first seek."""
        return self._positions.get(tp)

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the offset after the last message of each partition, as the leader knows it."""
        found: dict[TP, int] = {}
        for tp in partitions:
            last = await self.transport.link.last(*self.transport.catalog.place(*tp))
            table = cast(Any, self.app.tables)._changelogs.get(tp.topic)
            had = table.persisted_offset(tp) if table is not None else None
            # An entry may have outlived its time since it was loaded; recovery would wait for it.
            found[tp] = max(last.sequence if last is not None else 0, had or 0) + 1
        self._highwaters |= found
        return found

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the offset of the first message of each partition, 0 for an empty one."""
        found: dict[TP, int] = {}
        for tp in partitions:
            first = await self.transport.link.first(*self.transport.catalog.place(*tp))
            found[tp] = first.sequence if first is not None else 0
        return found

    # writing

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        await self.transport.ledger.commit(offsets)
        return True

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: Seconds = 30.0,  # noqa: ASYNC109 - Faust's signature
        retention: Seconds | None = None,
        compacting: bool | None = None,
        deleting: bool | None = None,
        ensure_created: bool = False,
    ) -> None:
        """Create a topic unless it is there."""
        if not self.app.conf.topic_allow_declare:
            self.log.warning("Topic creation is off: %r is not created", topic)
            return
        await self.app.producer.create_topic(
            topic, partitions, replication, config=config, retention=retention, compacting=compacting
        )

    def close(self) -> None:
        """Read nothing more; the connection goes with `on_stop`."""
        self._active_partitions.clear()
