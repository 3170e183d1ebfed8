"""One reader over a stream of somebody else's, dealt out to partitions that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from faust.types import TP

from lucid_events.faust_nats import feeds as feeds_module
from lucid_events.faust_nats.catalog import Catalog
from lucid_events.faust_nats.feeds import Feed, Feeds
from lucid_events.faust_nats.topology import EventLog
from tests.faust.waiting import until

LOG = EventLog(topic="log", stream="LOG", subject="x.>", key_token=1, partitions=2)
SUBJECTS = {LOG.partition(f"x.{name}"): f"x.{name}" for name in "abcdefgh"}
HERE, THERE = TP("log", 0), TP("log", 1)


class FakeReader:
    """A reader of a stream whose messages the test hands over; it ends when it is allowed to."""

    made: list[FakeReader]
    may_end: asyncio.Event
    failure = None

    def __init__(self, *_: Any, first: int, take: Callable[..., None], room: Callable[[], int]) -> None:
        self._take, self.next = take, first
        self.ending = self.ended = False
        self.made.append(self)

    def start(self) -> None:
        """Nothing comes by itself."""

    def more(self) -> None:
        """Nothing is asked for."""

    def hand(self, offset: int, number: int) -> None:
        """A message of partition `number`."""
        self.next = offset + 1
        self._take(SUBJECTS[number], None, b"", offset, 0.0)

    async def aclose(self) -> None:
        self.ending = True
        await self.may_end.wait()
        self.ended = True


class _Bound:
    logs = {LOG.topic: LOG}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[FakeReader]:
    """The readers that are made, in order."""
    FakeReader.made, FakeReader.may_end = [], asyncio.Event()
    monkeypatch.setattr(feeds_module, "Reader", FakeReader)
    return FakeReader.made


def _feeds() -> Feeds:
    return Feeds(cast(Any, None), cast(Catalog, _Bound()), lambda: None)


def _offsets(feed: Feed) -> list[int]:
    return [record.offset for record in feed.take(100)]


def test_partitions_that_go_while_one_comes_leave_a_reader(readers: list[FakeReader]) -> None:
    """Until the old reader ended all partitions may be gone, and come again: they are read."""

    async def run() -> None:
        feeds = _feeds()
        await feeds.open(HERE, 10)
        coming = asyncio.create_task(feeds.open(THERE, 5))
        await until(lambda: readers[0].ending, "the first reader ends")
        going = asyncio.create_task(feeds.close_all())
        await asyncio.sleep(0)
        again = asyncio.create_task(feeds.open(HERE, 7))
        await asyncio.sleep(0)
        FakeReader.may_end.set()
        await asyncio.wait_for(asyncio.gather(coming, going), 10)
        feed = await asyncio.wait_for(again, 10)
        (reading,) = [reader for reader in readers if not reader.ended]
        assert reading.next <= 7
        reading.hand(7, 0)
        assert _offsets(feed) == [7]
        feeds.check()

    asyncio.run(run())


def test_what_an_ending_reader_hands_over_makes_no_hole(readers: list[FakeReader]) -> None:
    """A partition that is read from further back gets all from there, whatever still came meanwhile."""

    async def run() -> None:
        feeds = _feeds()
        first = await feeds.open(HERE, 10)
        readers[0].hand(10, 0)
        coming = asyncio.create_task(feeds.open(THERE, 5))
        await until(lambda: readers[0].ending, "the first reader ends")
        readers[0].hand(11, 1)
        readers[0].hand(12, 0)
        FakeReader.may_end.set()
        second = await asyncio.wait_for(coming, 10)
        assert readers[1].next == 5
        for offset, number in ((5, 1), (10, 0), (11, 1), (12, 0), (13, 0)):
            readers[1].hand(offset, number)
        assert _offsets(first) == [10, 12, 13]
        assert _offsets(second) == [5, 11]

    asyncio.run(run())


def test_a_partition_that_is_given_up_while_it_comes_costs_the_others_nothing(
    readers: list[FakeReader],
) -> None:
    """Who is cancelled while a reader ends leaves another to the rest, and no feed that gets nothing."""

    async def run() -> None:
        feeds = _feeds()
        first = await feeds.open(HERE, 10)
        coming = asyncio.create_task(feeds.open(THERE, 5))
        await until(lambda: readers[0].ending, "the first reader ends")
        coming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await coming
        assert THERE not in feeds
        readers[1].hand(10, 0)
        assert _offsets(first) == [10]

    asyncio.run(run())
