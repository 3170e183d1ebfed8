import asyncio
from dataclasses import dataclass

from lucid_events.handlers.lanes import Lanes


@dataclass
class Item:
    sequence: int
    owner: str
    lane: str | None = None


def ordered(sequence: int, owner: str) -> Item:
    """An item whose lane is its owner."""
    return Item(sequence, owner, owner)


def test_sessions_take_turns() -> None:
    """One message of a quiet session waits for one of a busy session, not for all of them."""

    async def scenario() -> None:
        lanes: Lanes[Item] = Lanes()
        for sequence in range(1, 6):
            lanes.put(Item(sequence, "busy"))
        lanes.put(Item(9, "quiet"))
        taken = [await lanes.take() for _ in range(6)]
        assert [item.sequence for item in taken if item] == [1, 9, 2, 3, 4, 5]

    asyncio.run(scenario())


def test_a_lane_stands_still_while_one_of_it_is_in_work() -> None:
    """Within a lane the next message is handed out after `done`, other lanes go on."""

    async def scenario() -> None:
        lanes: Lanes[Item] = Lanes()
        first, second, other = ordered(1, "a"), ordered(2, "a"), ordered(3, "b")
        for item in (first, second, other):
            lanes.put(item)
        assert await lanes.take() is first
        assert await lanes.take() is other
        waiting = asyncio.ensure_future(lanes.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        lanes.done(first)
        assert await waiting is second

    asyncio.run(scenario())


def test_a_message_put_back_comes_before_later_ones() -> None:
    """A message that is tried again, or redelivered late, keeps its place in the lane."""

    async def scenario() -> None:
        lanes: Lanes[Item] = Lanes()
        first, second = ordered(1, "a"), ordered(2, "a")
        lanes.put(second)
        lanes.put(first)
        assert await lanes.take() is first
        lanes.again(first)
        assert await lanes.take() is first
        lanes.done(first)
        assert await lanes.take() is second

    asyncio.run(scenario())


def test_closing_returns_what_waits_and_wakes_who_waits() -> None:
    """After `close` nothing is handed out, and nothing that waited is forgotten."""

    async def scenario() -> None:
        lanes: Lanes[Item] = Lanes()
        waiting = asyncio.ensure_future(lanes.take())
        await asyncio.sleep(0)
        lanes.put(ordered(1, "a"))
        lanes.put(ordered(2, "a"))
        assert len(lanes) == 2
        assert [item.sequence for item in lanes.close()] == [1, 2]
        assert await waiting is None

    asyncio.run(scenario())
