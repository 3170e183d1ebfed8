"""`jetstream.group`: what flies on its own, what goes together, and within which bounds."""

import asyncio
from typing import Any, cast

import pytest

from lucid_events import codec
from lucid_events.domain.ids import SessionId, Version
from lucid_events.errors import StoreUnavailable
from lucid_events.jetstream.append import Draft, Landed
from lucid_events.jetstream.batch import BATCH_ID, BatchMessage
from lucid_events.jetstream.connection import Connection, Message, PubAck
from lucid_events.jetstream.group import ALONE, GROUP_BYTES, MANY, GroupWriter
from lucid_events.jetstream.pace import Pace, Way


class SlowConnection:
    """A server that acknowledges when it is told to."""

    def __init__(self) -> None:
        self.sequence = 0
        self.singles: list[asyncio.Future[PubAck]] = []
        self.batches: list[int] = []
        self._batch = 0

    async def publish_acked(self, *args: Any, **options: Any) -> PubAck:
        self.singles.append(asyncio.get_running_loop().create_future())
        return await self.singles[-1]

    def publish(self, *args: Any, **options: Any) -> None:
        self._batch += 1

    def call(self, *args: Any, headers: dict[str, str], **options: Any) -> asyncio.Future[Message]:
        assert BATCH_ID in headers
        count, self._batch = self._batch + 1, 0
        self.batches.append(count)
        self.sequence += count
        body = codec.encode({"stream": "S", "seq": self.sequence, "count": count, "batch": headers[BATCH_ID]})
        future = asyncio.get_running_loop().create_future()
        future.set_result(Message("inbox", {}, body))
        return future

    @property
    def flying(self) -> int:
        return sum(not single.done() for single in self.singles)

    def acknowledge(self) -> None:
        for single in self.singles:
            if not single.done():
                self.sequence += 1
                single.set_result(PubAck("S", self.sequence))


class Decided(Pace):
    """A pace that has chosen for good."""

    def __init__(self, way: Way) -> None:
        super().__init__(lambda: 0.0)
        self.way = way

    def landed(self, turn: int, count: int, *, crowded: bool) -> None:
        pass


def write(writer: GroupWriter, number: int, size: int = 10) -> asyncio.Task[Landed]:
    """Start to write one message of `size` bytes, on a history of its own."""
    session = SessionId(f"s{number}")
    message = BatchMessage(f"evt.{session}", bytes(size), {})
    draft = Draft(session, f"evt.{session}.>", Version(0), f"id-{number}", (message,), ())
    return asyncio.create_task(writer.write(draft, timeout_s=30.0))


@pytest.mark.parametrize(
    ("chosen", "size", "flying"),
    [
        (Way.TOGETHER, 10, ALONE),
        (Way.SINGLY, 10, MANY),
        (Way.SINGLY, GROUP_BYTES // 10, 10),
    ],
)
def test_only_so_many_fly_on_their_own(chosen: Way, size: int, flying: int) -> None:
    """The way decides how many appends are in flight, their bytes bound it, and all of them land."""

    async def main() -> None:
        server = SlowConnection()
        writer = GroupWriter(cast(Connection, server), pace=Decided(chosen))
        tasks = [write(writer, number, size) for number in range(MANY + 50)]
        await asyncio.sleep(0)
        assert server.flying == flying
        assert not server.batches

        for _ in tasks:  # each round lets one go at least
            server.acknowledge()
            for _ in range(5):
                await asyncio.sleep(0)
        landed = [task.result().first for task in tasks]
        assert sorted(landed) == list(range(1, len(tasks) + 1))
        assert bool(server.batches) is (chosen is Way.TOGETHER)

    asyncio.run(main())


def test_who_finds_no_turn_in_time_was_not_sent() -> None:
    """An append that waits for those before it until its time is up is known not to be stored."""

    async def main() -> None:
        server = SlowConnection()
        writer = GroupWriter(cast(Connection, server), pace=Decided(Way.SINGLY))
        tasks = [write(writer, number) for number in range(MANY)]
        await asyncio.sleep(0)
        message = BatchMessage("evt.late", b"", {})
        late = Draft(SessionId("late"), "evt.late.>", Version(0), "late", (message,), ())
        with pytest.raises(StoreUnavailable):
            await writer.write(late, timeout_s=0.01)
        assert server.flying == MANY
        server.acknowledge()
        await asyncio.gather(*tasks)
        assert len(server.singles) == MANY

    asyncio.run(main())


def test_a_turn_that_is_given_up_goes_to_the_next() -> None:
    """Who is let go and cancelled before it sends leaves no place empty; nobody flies beyond the bound."""

    async def main() -> None:
        server = SlowConnection()
        writer = GroupWriter(cast(Connection, server), pace=Decided(Way.SINGLY))
        flying = [write(writer, number) for number in range(MANY)]
        await asyncio.sleep(0)
        first, second = write(writer, MANY), write(writer, MANY + 1)
        await asyncio.sleep(0)
        server.singles[0].set_result(PubAck("S", 1))
        await flying[0]  # lets the first of those who wait go, which has not woken up yet
        first.cancel()
        newcomer = write(writer, MANY + 2)
        for _ in range(5):
            await asyncio.sleep(0)
        assert first.cancelled()
        assert server.flying == MANY
        server.acknowledge()
        await second
        for _ in range(5):
            await asyncio.sleep(0)
        server.acknowledge()
        await asyncio.gather(newcomer, *flying)

    asyncio.run(main())
