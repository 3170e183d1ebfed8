"""Sending: each message is stored before its future is done."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from faust.transport import producer
from faust.types import TP, RecordMetadata
from faust.types.core import HeadersArg
from faust.types.transports import TransportT
from faust.types.tuples import FutureMessage
from mode import Seconds, want_seconds

from lucid_events.faust_nats.errors import Refused, Unavailable, Unsupported
from lucid_events.faust_nats.protocol import MSG_ID, TIMESTAMP_KIND, TTL, headers_for
from lucid_events.faust_nats.publishing import GIVE_UP_S, SWEEP_S, Ack
from lucid_events.faust_nats.topology import partition
from lucid_events.faust_nats.transactions import CARRIED_ID, TOMBSTONE_S, changelog_ttl_s

if TYPE_CHECKING:
    from lucid_events.faust_nats.transport import Transport

MESSAGE_ID: Final = "_nats_message_id"
"""Attribute of a future message that was sent for an event: the id it is stored under."""


class Buffer(producer.ProducerBuffer):
    """Messages sent by code that can't wait; `flush` waits for those that are in it now, no more.

    Upstream's waits until it is empty, which under constant writes is never, or gives up after 0.1 s.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._entered = self._gone = 0
        self.failure: BaseException | None = None

    @property
    def size(self) -> int:
        """How many messages wait. Asked before every event: upstream looks into the settings each time."""
        return self.pending.qsize()

    def put(self, fut: FutureMessage) -> None:
        """Add a message."""
        self._entered += 1
        super().put(fut)

    async def flush_atmost(self, max_messages: int | None) -> int:
        """Wait until what is in the buffer now, or `max_messages` of it, was sent."""
        before, target = self._gone, self._entered
        if max_messages is not None:
            target = min(target, before + max_messages)
        while self._gone < target and not self.should_stop:
            self.message_sent.clear()
            await self.wait_first(self.message_sent.wait(), timeout=1.0)
        return self._gone - before

    async def _send_pending(self, fut: FutureMessage) -> None:
        token = CARRIED_ID.set(getattr(fut, MESSAGE_ID, None) or "")
        try:
            await super()._send_pending(fut)
        except Exception as exc:
            self.failure = self.failure or exc
            raise
        finally:
            CARRIED_ID.reset(token)
            self._gone += 1


class Producer(producer.Producer):
    """Publishes into topics. Messages of one key keep their order, in changelogs even across faults."""

    transport: "Transport"

    def __init__(self, transport: TransportT, **options: Any) -> None:
        super().__init__(transport, **options)
        # Not in `__post_init__`: upstream puts one of its own there after that.
        self.buffer = Buffer(loop=self.loop, beacon=self.beacon)
        self.buffer.app = self.app

    def __post_init__(self) -> None:
        super().__post_init__()
        self._turn = 0
        self._unsettled: set[asyncio.Future[RecordMetadata]] = set()
        self._failure: BaseException | None = None
        self._lanes: dict[str, deque[_Waiting]] = {}
        self._open = False

    def create_threaded_producer(self) -> Any:
        """Refuse: the client lives in the app's loop.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("producer_threaded has no meaning with NATS: leave it off")

    async def on_start(self) -> None:
        """Connect, then take messages."""
        await self.transport.acquire()
        self._open = True
        await super().on_start()

    async def on_stop(self) -> None:
        """Wait for what was sent, then disconnect."""
        await self.flush()
        await super().on_stop()
        if self._open:
            self._open = False
            await self.transport.release()

    def supports_headers(self) -> bool:
        """Headers are carried."""
        return True

    def key_partition(self, topic: str, key: bytes | None) -> TP:
        """Return where `key` belongs.

        Raises:
            Unsupported: the topic is not known yet.
        """
        count = self.transport.catalog.count(topic)
        if count is None:
            raise Unsupported(f"topic {topic!r} is not declared: declare it before its keys are placed")
        return TP(topic, self._choose(count, key))

    def _choose(self, count: int, key: bytes | None) -> int:
        if self.partitioner is not None:
            every = list(range(count))
            return int(self.partitioner(key, every, every))
        if key is None:
            self._turn += 1
            return self._turn % count
        return partition(key, count)

    def send_soon(self, fut: FutureMessage) -> None:
        """Take a message from code that can't wait; a table's change waits for the commit of its event."""
        app: Any = self.app
        if app.in_transaction:
            topic = fut.message.channel.get_topic_name()
            transactions = app.consumer.transactions
            if self.transport.catalog.is_table(topic):
                transactions.write(topic, fut)
                return
            setattr(fut, MESSAGE_ID, transactions.message_id(topic))
        super().send_soon(fut)

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
        msg_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Send a message; the future is done when it is stored.

        Args:
            msg_id: the topic stores only one message of that id within its `dedupe_s`.
        """
        catalog = self.transport.catalog
        key, value = _as_bytes(key), _as_bytes(value)
        count = catalog.count(topic)
        if count is None:
            count = await self._ensure(topic)
        if partition is None:
            partition = self._choose(count, key)
        elif not 0 <= partition < count:
            raise Unsupported(f"topic {topic!r} has no partition {partition}: it has {count}")
        subject = catalog.message(topic, partition, key)
        made = headers_for(key, value, timestamp, cast(Any, headers))
        if msg_id is not None:
            made[MSG_ID] = msg_id
        if catalog.is_table(topic):
            ttl_s = changelog_ttl_s(self.app, topic) if value is not None else TOMBSTONE_S
            if ttl_s:
                made[TTL] = f"{ttl_s}s"
        result: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self._unsettled.add(result)
        waiting = _Waiting(result, TP(topic, partition), subject, value or b"", made, timestamp)
        if not catalog.is_table(topic):
            await self._publish(waiting)
        elif subject in self._lanes:
            # One in flight per key: a repeated one must not end up behind its successor.
            self._lanes[subject].append(waiting)
        else:
            self._lanes[subject] = deque()
            await self._publish(waiting)
        return result

    async def _ensure(self, topic: str) -> int:
        """Return the number of partitions of a topic met for the first time, as patient as a publish.

        Raises:
            Unavailable, Refused: also at every commit from now on: an agent that is told so ends with its
                event in hand, which Faust counts as done.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + GIVE_UP_S
        while True:
            try:
                return await self.transport.ensure(topic)
            except Unavailable as exc:
                if loop.time() >= give_up_at:
                    self._failure = self._failure or exc
                    raise
                self.log.warning("Topic %r can't be looked up, which is tried again: %s", topic, exc)
            except Refused as exc:
                self._failure = self._failure or exc
                raise
            await asyncio.sleep(SWEEP_S)

    async def _publish(self, waiting: "_Waiting") -> None:
        future = await self.transport.link.publish(waiting.subject, waiting.data, waiting.headers)
        future.add_done_callback(lambda done: self._stored(done, waiting))

    def _stored(self, future: "asyncio.Future[Ack]", waiting: "_Waiting") -> None:
        lane = self._lanes.get(waiting.subject)
        if lane:
            self.add_future(self._publish(lane.popleft()))
        elif lane is not None:
            del self._lanes[waiting.subject]
        self._unsettled.discard(waiting.result)
        exc = None if future.cancelled() else future.exception()
        if exc is not None:
            self._failure = self._failure or exc
        if waiting.result.done():
            return
        if future.cancelled():
            waiting.result.cancel()
        elif exc is not None:
            waiting.result.set_exception(exc)
        else:
            tp, stamp = waiting.tp, waiting.timestamp
            metadata = RecordMetadata(tp.topic, tp.partition, tp, future.result().seq, stamp, TIMESTAMP_KIND)
            waiting.result.set_result(metadata)

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        """Send a message and return when it is stored."""
        return await (await self.send(topic, key, value, partition, timestamp, headers))

    async def flush(self) -> None:
        """Wait until everything sent before the call is stored."""
        if self.buffer.started:
            await self.buffer.flush()
        await self.settle()

    async def settle(self) -> None:
        """Wait until everything sent before the call is stored, the buffer aside.

        Raises:
            DriverError: a message sent since the start could not be stored, whether or not its sender
                looked: what was read must not be committed as done.
        """
        if self._unsettled:
            await asyncio.wait(tuple(self._unsettled))
        failure = self._failure or cast(Buffer, self.buffer).failure
        if failure is not None:
            raise failure

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
        """Create a topic unless it is there. Kafka's own settings in `config` have no meaning here.

        Raises:
            Unsupported: it is there, with another number of partitions than the app gives it.
        """
        if config:
            self.log.info("Topic %r: settings for Kafka are not used: %s", topic, ", ".join(config))
        await self.transport.catalog.declare(
            topic,
            partitions,
            replicas=max(replication or 1, 1),
            retention_s=want_seconds(retention) if retention else None,
            compacting=bool(compacting),
        )
        # Faust fills the app's default in, which is for topics that are created.
        if partitions != self.app.conf.topic_partitions:
            self.transport.hold_partitions(topic, partitions)

    async def begin_transaction(self, transactional_id: str) -> None:
        """Nothing to begin: a transaction is one batch, made at the commit."""

    async def commit_transaction(self, transactional_id: str) -> None:
        """Nothing to commit here: see `transactions.py`."""

    async def abort_transaction(self, transactional_id: str) -> None:
        """Nothing was sent, so nothing is to be taken back."""

    async def stop_transaction(self, transactional_id: str) -> None:
        """Nothing to stop."""

    async def maybe_begin_transaction(self, transactional_id: str) -> None:
        """Nothing to begin."""


class _Waiting:
    """A message and the future its sender holds."""

    __slots__ = ("data", "headers", "result", "subject", "timestamp", "tp")

    def __init__(
        self,
        result: "asyncio.Future[RecordMetadata]",
        tp: TP,
        subject: str,
        data: bytes,
        headers: dict[str, str],
        timestamp: float | None,
    ) -> None:
        self.result, self.tp, self.subject = result, tp, subject
        self.data, self.headers, self.timestamp = data, headers, timestamp


def _as_bytes(part: Any) -> bytes | None:
    """Return a key or value as Faust means it: `group_by` hands over keys that were never serialized."""
    if part is None or isinstance(part, bytes):
        return part
    if isinstance(part, str | int | float):
        return str(part).encode()
    raise Unsupported(f"a key or value of type {type(part).__name__}: give the topic a serializer for it")
