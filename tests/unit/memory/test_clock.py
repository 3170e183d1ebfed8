import asyncio
from datetime import timedelta

from lucid_events.memory import ManualClock
from lucid_events.memory.clock import wait_by


def test_time_stands_still() -> None:
    """Time passes only in `advance`; a sleeper wakes when the clock has reached its deadline."""

    async def scenario() -> None:
        clock = ManualClock()
        start = clock.now()
        async with asyncio.TaskGroup() as tasks:
            sleeper = tasks.create_task(clock.sleep(10))
            await clock.asleep()
            await clock.advance(9.999)
            assert not sleeper.done()
            await clock.advance(0.001)
            assert sleeper.done()
        assert clock.now() == start + timedelta(seconds=10)

    asyncio.run(scenario())


def test_advance_stops_at_every_deadline() -> None:
    """A task that sleeps in a loop wakes at each of its deadlines, and deadlines come in order."""

    async def scenario() -> None:
        clock = ManualClock()
        start, woken = clock.now(), []

        async def tick(name: str, seconds: float) -> None:
            for _ in range(3):
                await clock.sleep(seconds)
                woken.append((name, (clock.now() - start).total_seconds()))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(tick("a", 2))
            tasks.create_task(tick("b", 3))
            await clock.asleep(2)
            await clock.advance(100)
        assert woken == [("a", 2), ("b", 3), ("a", 4), ("b", 6), ("a", 6), ("b", 9)]

    asyncio.run(scenario())


def test_a_wait_ends_with_the_event_or_the_time() -> None:
    """Waiting by a clock says whether the event was set, and leaves no sleeper behind."""

    async def scenario() -> None:
        clock = ManualClock()
        event = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(wait_by(clock, event, 5))
            await clock.asleep()
            await clock.advance(5)
            assert waiting.result() is False
            waiting = tasks.create_task(wait_by(clock, event, 5))
            await clock.asleep()
            event.set()
        assert waiting.result() is True
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_a_cancelled_wait_is_cancelled() -> None:
    """Cancelling a wait ends it with its own tasks; the cancellation is not swallowed."""

    async def scenario() -> None:
        clock = ManualClock()
        waiting = asyncio.create_task(wait_by(clock, asyncio.Event(), 5))
        await clock.asleep()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
