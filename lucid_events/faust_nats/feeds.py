"""Messages read ahead, per partition: what a consumer has in its hands without waiting.

A partition of the driver's own topics has a reader of its own. A stream of somebody else's knows no
partitions: one reader goes through it and deals out what falls into the partitions of this worker.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from faust.types import TP

from lucid_events.faust_nats.catalog import Catalog
from lucid_events.faust_nats.link import Link
from lucid_events.faust_nats.protocol import Record, read, read_foreign
from lucid_events.faust_nats.reader import BUFFER, Reader
from lucid_events.faust_nats.topology import EventLog

LOG_BUFFER: Final = 4 * BUFFER
"""Room of a reader that serves all partitions: one that is not consumed for a moment should not keep
the others waiting."""


class Feed:
    """Records of one partition, in order."""

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self.reader: Reader | None = None

    def take(self, most: int) -> list[Record]:
        """Return up to `most` records without waiting."""
        records = self.records
        if len(records) <= most:
            taken = list(records)
            records.clear()
        else:
            taken = [records.popleft() for _ in range(most)]
        if taken and self.reader is not None:
            self.reader.more()
        return taken


class Feeds:
    """The feeds of a consumer, opened where and when they are needed."""

    def __init__(self, link: Link, catalog: Catalog, arrived: Callable[[], None]) -> None:
        self._link, self._catalog, self._arrived = link, catalog, arrived
        self._feeds: dict[TP, Feed] = {}
        self._logs: dict[str, _LogFeeds] = {}

    async def open(self, tp: TP, first: int) -> Feed:
        """Return the feed of `tp`; a new one begins at offset `first`."""
        feed = self._feeds.get(tp)
        if feed is not None:
            return feed
        feed = self._feeds[tp] = Feed()
        log = self._catalog.logs.get(tp.topic)
        if log is not None:
            logs = self._logs.setdefault(tp.topic, _LogFeeds(self._link, log, self._arrived))
            try:
                await logs.add(tp.partition, feed, first)
            except asyncio.CancelledError:
                if self._feeds.get(tp) is feed:
                    del self._feeds[tp]  # nothing is dealt to it
                raise
        else:
            self._start(tp, feed, first)
        return feed

    def _start(self, tp: TP, feed: Feed, first: int) -> None:
        add, arrived = feed.records.append, self._arrived

        def take(
            subject: str, headers: Mapping[str, str] | None, data: bytes, offset: int, stored: float
        ) -> None:
            add(read(subject, headers, data, offset, stored))
            arrived()

        stream, subject = self._catalog.place(*tp)
        feed.reader = Reader(
            self._link,
            stream,
            subject,
            first=first,
            take=take,
            room=lambda: BUFFER - len(feed.records),
        )
        feed.reader.start()

    async def close(self, tp: TP) -> None:
        """Forget what was read ahead of `tp`; it is read again when it is opened again."""
        feed = self._feeds.pop(tp, None)
        if feed is None:
            return
        logs = self._logs.get(tp.topic)
        if logs is not None:
            await logs.drop(tp.partition)
        elif feed.reader is not None:
            await feed.reader.aclose()

    async def close_all(self) -> None:
        """Forget everything."""
        for tp in tuple(self._feeds):
            await self.close(tp)

    def check(self) -> None:
        """Raise what ended a reader for good."""
        readers = [feed.reader for feed in self._feeds.values()] + [log.reader for log in self._logs.values()]
        for reader in readers:
            if reader is not None and (failure := reader.failure) is not None:
                raise failure

    def __contains__(self, tp: TP) -> bool:
        return tp in self._feeds


class _Share:
    """One partition's part of a stream: where it goes, and the first offset it does not have yet."""

    def __init__(self, feed: Feed, first: int) -> None:
        self.feed, self.next = feed, first


class _LogFeeds:
    """One reader over a whole stream for those of its partitions that are wanted."""

    def __init__(self, link: Link, log: EventLog, arrived: Callable[[], None]) -> None:
        self._link, self._log, self._arrived = link, log, arrived
        self._shares: dict[int, _Share] = {}
        # Who waits for a reader to end must find the shares as they were.
        self._changing = asyncio.Lock()
        self.reader: Reader | None = None

    async def add(self, number: int, feed: Feed, first: int) -> None:
        """Deal out partition `number` too, from offset `first` on."""
        async with self._changing:
            reader = self.reader
            if reader is not None and first < reader.next:
                # Before the share is there: what is handed over until the end is not the share's first.
                await self._end(reader)
            self._catch_up()
            self._shares[number] = _Share(feed, first)
            if self.reader is None:
                self._read()
            feed.reader = self.reader

    async def drop(self, number: int) -> None:
        """Deal partition `number` out no more."""
        async with self._changing:
            self._shares.pop(number, None)
            if not self._shares and self.reader is not None:
                await self._end(self.reader)

    async def _end(self, reader: Reader) -> None:
        try:
            await reader.aclose()
        except asyncio.CancelledError:
            self._catch_up()
            self._read()
            raise
        self._catch_up()
        self.reader = None

    def _catch_up(self) -> None:
        """Note that every share has all up to where the reader stands."""
        if self.reader is not None:
            for share in self._shares.values():
                share.next = max(share.next, self.reader.next)

    def _read(self) -> None:
        """Read on for the shares that there are."""
        self.reader = None
        if not self._shares:
            return
        self.reader = Reader(
            self._link,
            self._log.stream,
            self._log.subject,
            first=min(share.next for share in self._shares.values()),
            take=self._take,
            room=self._room,
        )
        for share in self._shares.values():
            share.feed.reader = self.reader
        self.reader.start()

    def _room(self) -> int:
        return LOG_BUFFER - sum(len(share.feed.records) for share in self._shares.values())

    def _take(
        self, subject: str, headers: Mapping[str, str] | None, data: bytes, offset: int, stored: float
    ) -> None:
        share = self._shares.get(self._log.partition(subject))
        if share is None or offset < share.next:
            return
        share.next = offset + 1
        key = self._log.key(subject)
        share.feed.records.append(read_foreign(key, headers, data, offset, stored))
        self._arrived()
