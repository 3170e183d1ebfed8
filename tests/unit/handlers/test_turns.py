"""`handlers.turns`: one at a time, first come, first served, and nobody waits for ever."""

import asyncio

import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.errors import StoreUnavailable
from lucid_events.handlers.turns import Turns

SID, OTHER = SessionId("s1"), SessionId("s2")


def test_turns_come_in_order_and_one_at_a_time() -> None:
    """Whoever asks first has its turn first and alone; another session's turn is its own."""

    async def main() -> None:
        turns, order, inside = Turns(), list[int](), 0

        async def one(number: int) -> None:
            nonlocal inside
            async with turns.of(SID):
                inside += 1
                assert inside == 1
                order.append(number)
                await asyncio.sleep(0)
                inside -= 1

        async with turns.of(OTHER), asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(one(number))
        assert order == list(range(10))
        assert len(turns) == 0

    asyncio.run(main())


def test_one_that_comes_as_another_leaves_waits_behind_those_before_it() -> None:
    """A turn given back belongs to who waits for it, not to who asks at that moment."""

    async def main() -> None:
        turns, order = Turns(), list[str]()

        async def waiting() -> None:
            async with turns.of(SID):
                order.append("waiting")

        async with asyncio.TaskGroup() as group:
            async with turns.of(SID):
                group.create_task(waiting())
                await asyncio.sleep(0)
            async with turns.of(SID):
                order.append("back again")
        assert order == ["waiting", "back again"]

    asyncio.run(main())


def test_a_turn_that_does_not_come_is_refused() -> None:
    """After the wait the caller is told, and neither it nor one that was cancelled leaves a trace."""

    async def main() -> None:
        turns = Turns(wait_s=0.01)
        async with turns.of(SID):
            with pytest.raises(StoreUnavailable):
                async with turns.of(SID):
                    pytest.fail("two have their turn at once")
            cancelled = asyncio.create_task(turns.take(SID))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert len(turns) == 0
        async with turns.of(SID):
            assert len(turns) == 1
        assert len(turns) == 0

    asyncio.run(main())


def test_what_fails_in_its_turn_gives_it_back() -> None:
    """An exception inside ends the turn and goes on."""

    async def main() -> None:
        turns = Turns()
        with pytest.raises(ValueError, match="inside"):
            async with turns.of(SID):
                raise ValueError("inside")
        assert len(turns) == 0

    asyncio.run(main())
