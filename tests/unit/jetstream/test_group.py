"""`jetstream.group`: what flies on its own, what goes together, and within which bounds."""

import asyncio
from typing import Any, cast

import pytest

from lucid_events import codec
from lucid_events.domain.ids import SessionId, Version
from lucid_events.errors import AppendUncertain, StoreUnavailable
from lucid_events.jetstream.append import Draft, Landed
from lucid_events.jetstream.batch import BATCH_ID, BatchMessage
from lucid_events.jetstream.connection import Connection, Message, PubAck
from lucid_events.jetstream.group import ALONE, GROUP_BYTES, MANY, GroupWriter
from lucid_events.jetstream.pace import Pace, Way


class SlowConnection:
    """A server that acknowledges when it is told to, and a batch after `batch_s`.

    Who gives it less time than that has no answer.
    """

    def __init__(self, batch_s: float = 0.0) -> None:
        self.sequence, self.batch_s = 0, batch_s
        self.singles: list[asyncio.Future[PubAck]] = []
        self.batches: list[int] = []
        self._batch = 0

    async def publish_acked(self, *args: Any, timeout_s: float, **options: Any) -> PubAck:
        single: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        self.singles.append(single)
        try:
            async with asyncio.timeout(timeout_s):
                return await single
        except TimeoutError as exc:
            raise AppendUncertain("no reply") from exc

    def publish(self, *args: Any, **options: Any) -> None:
        self._batch += 1

    def call(self, *args: Any, headers: dict[str, str], timeout_s: float) -> asyncio.Future[Message]:
        assert BATCH_ID in headers
        count, self._batch = self._batch + 1, 0
        self.batches.append(count)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if timeout_s < self.batch_s:
            future.set_exception(AppendUncertain("no reply"))
            return future
        self.sequence += count
        body = codec.encode({"stream": "S", "seq": self.sequence, "count": count, "batch": headers[BATCH_ID]})
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


def write(writer: GroupWriter, number: int, size: int = 10, timeout_s: float = 30.0) -> asyncio.Task[Landed]:
    """Start to write one message of `size` bytes, on a history of its own."""
    session = SessionId(f"s{number}")
    message = BatchMessage(f"evt.{session}", bytes(size), {})
    draft = Draft(session, f"evt.{session}.>", Version(0), f"id-{number}", (message,), ())
    return asyncio.create_task(writer.write(draft, timeout_s=timeout_s))


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


def test_who_has_little_time_left_leaves_the_others_theirs() -> None:
    """A batch has the time of whoever can wait longest, not of the append that made room for it."""

    async def main() -> None:
        server = SlowConnection(batch_s=10.0)
        writer = GroupWriter(cast(Connection, server), pace=Decided(Way.TOGETHER))
        late = write(writer, 0, timeout_s=0.01)
        flying = [write(writer, number) for number in range(1, ALONE)]
        await asyncio.sleep(0)
        waiting = [write(writer, number) for number in range(ALONE, 5 * ALONE)]
        with pytest.raises(AppendUncertain):
            await late
        await asyncio.gather(*waiting)
        assert server.batches == [4 * ALONE]
        server.acknowledge()
        await asyncio.gather(*flying)

    asyncio.run(main())


def test_who_is_in_a_hurry_is_told_in_time() -> None:
    """An append that gives up before its batch is answered is uncertain; those it flew with are stored."""

    async def main() -> None:
        server = SlowConnection()
        held: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        answers: list[asyncio.Future[Message]] = []
        answer = server.call

        def call(*args: Any, **options: Any) -> asyncio.Future[Message]:
            answers.append(answer(*args, **options))
            return held

        server.call = call  # type: ignore[method-assign] # the answer is kept back
        writer = GroupWriter(cast(Connection, server), pace=Decided(Way.TOGETHER))
        flying = [write(writer, number) for number in range(ALONE)]
        await asyncio.sleep(0)
        hurried = write(writer, ALONE, timeout_s=0.2)
        waiting = [write(writer, number) for number in range(ALONE + 1, 3 * ALONE)]
        await asyncio.sleep(0)
        server.acknowledge()
        with pytest.raises(AppendUncertain, match="batch with s8"):
            await hurried
        held.set_result(answers[0].result())
        await asyncio.gather(*flying, *waiting)

    asyncio.run(main())
