"""What an app has of the driver: one connection, its topics, its ledger; and Faust's way in.

Found by Faust under the entry points `nats`, `tls`, `ws` and `wss` of `faust.transports`.
"""

import asyncio
import socket
from importlib.metadata import version
from typing import Any, ClassVar, Final, cast

from faust.transport import base
from faust.types import AppT
from faust.types.enums import ProcessingGuarantee

from lucid_events.faust_nats.catalog import Catalog
from lucid_events.faust_nats.conductor import Conductor
from lucid_events.faust_nats.consumer import Consumer
from lucid_events.faust_nats.coordinator import new_member
from lucid_events.faust_nats.errors import Unsupported
from lucid_events.faust_nats.ledger import Ledger
from lucid_events.faust_nats.link import Link
from lucid_events.faust_nats.options import DEFAULT_PORT, from_urls
from lucid_events.faust_nats.producer import Producer
from lucid_events.faust_nats.topology import EventLog, Names
from lucid_events.faust_nats.transactions import TransactionManager

BOUND: Final = "_nats_event_logs"
"""Attribute of an app under which `bind` leaves its event logs for the transport."""


class Transport(base.Transport):
    """NATS JetStream as a Faust transport.

    Raises:
        Unsupported: the app asks for something that the driver does not do.
    """

    Consumer: ClassVar[Any] = Consumer
    Producer: ClassVar[Any] = Producer
    TransactionManager: ClassVar[Any] = TransactionManager
    Conductor: ClassVar[Any] = Conductor

    default_port = DEFAULT_PORT
    driver_version = f"nats-py={version('nats-py')}"

    def __init__(self, url: Any, app: AppT, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(url, app, loop)
        conf: Any = app.conf
        if conf.producer_threaded:
            raise Unsupported("producer_threaded has no meaning with NATS: leave it off")
        if not conf.stream_wait_empty and conf.processing_guarantee is ProcessingGuarantee.EXACTLY_ONCE:
            raise Unsupported(
                "stream_wait_empty is off: with exactly_once a rebalance must wait for the events in hand"
            )
        if conf.stream_publish_on_commit and conf.processing_guarantee is ProcessingGuarantee.EXACTLY_ONCE:
            raise Unsupported(
                "stream_publish_on_commit is on: with exactly_once a message has an id made of its event, "
                "which is not known at the commit, so a crash would double it: leave it off"
            )
        credentials = getattr(conf, "broker_credentials", None)
        options = from_urls(self.url, credentials=credentials, ssl_context=conf.ssl_context)
        self.names = Names(options.prefix, conf.id)
        self.link = Link(options, name=conf.broker_client_id or conf.id)
        self._tables: Any = app.tables
        self.catalog = Catalog(self.link, self.names, is_table=self._is_table)
        for log in getattr(app, BOUND, {}).values():
            self.bind(log)
        self.member = new_member(socket.gethostname())
        self.ledger = Ledger(self.link, self.names, self.member)
        self._users = 0
        self._opening: asyncio.Lock | None = None

    def bind(self, log: EventLog) -> None:
        """Let an existing stream be a topic."""
        self.catalog.bind(log)

    def _is_table(self, topic: str) -> bool:
        # `changelog_topics` makes a new set every time, and every message sent asks.
        return topic in self._tables._changelogs

    async def ensure(self, topic: str) -> int:
        """Return the number of partitions of `topic`; one that does not exist is created as the app has it.

        Raises:
            Unsupported: it does not exist, and the app may not create topics; or the app says how many
                partitions it has, and it has another number.
        """
        own = [found for found in cast(Any, self.app).topics if topic in found.topics]
        asked = next((found.partitions for found in own if found.partitions), None)
        count = (await self.catalog.look_up([topic])).get(topic)
        if count is None:
            replicas = next((found.replicas for found in own if found.replicas), self.replicas)
            count = await self._create(topic, asked, replicas)
        self.hold_partitions(topic, asked or count)
        return count

    def hold_partitions(self, topic: str, asked: int) -> None:
        """Check what an app says of a topic that is known.

        Raises:
            Unsupported: it has another number of partitions: keys would be looked for in the wrong place.
        """
        count = self.catalog.count(topic)
        if count is not None and count != asked:
            raise Unsupported(
                f"topic {topic!r} has {count} partitions, the app gives it {asked}: give it {count}, "
                "or none to take it as it is, or send to a new topic"
            )

    async def _create(self, topic: str, asked: int | None, replicas: int) -> int:
        app: Any = self.app
        if not app.conf.topic_allow_declare and not self.catalog.is_table(topic):
            raise Unsupported(
                f"topic {topic!r} does not exist, and topic_allow_declare is off: create it first"
            )
        return await self.catalog.declare(topic, asked or app.conf.topic_partitions or 1, replicas=replicas)

    @property
    def replicas(self) -> int:
        """How many servers keep each of the app's streams."""
        conf: Any = self.app.conf
        return max(conf.topic_replication_factor or 1, 1)

    async def acquire(self) -> None:
        """Open the connection for one more user of it."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if not self._users:
                await self.link.open()
                await self.catalog.check_logs()
            self._users += 1

    async def release(self) -> None:
        """Let one user go; the last one closes the connection."""
        self._users -= 1
        if self._users == 0:
            await self.link.close()
