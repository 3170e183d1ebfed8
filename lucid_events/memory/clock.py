"""A clock that stands still until it is moved, and waiting by any clock.

Knows nothing of streams; a test that uses `ManualClock` never waits in real time.
"""

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

from lucid_events.ports import Clock

_TURNS = 50
"""Turns of the event loop granted to the tasks a deadline woke. Half still covers the longest
chain of awaits in this package several times; twice only makes `advance` slower."""

START = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A clock whose time passes only in `advance`."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._arrived = asyncio.Event()

    def now(self) -> datetime:
        """Return the time the clock was last moved to."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved `seconds` on; zero or less only lets other tasks run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + timedelta(seconds=seconds), next(self._order), woken))
        self._arrived.set()
        await woken

    async def advance(self, seconds: float) -> None:
        """Move the clock on, stopping at every deadline on the way.

        What a deadline wakes runs before the clock moves further, so a task that sleeps again
        in a loop wakes as often as it would in real time.
        """
        end = self._now + timedelta(seconds=seconds)
        await _let_others_run()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not woken.done():
                woken.set_result(None)
                await _let_others_run()
        self._now = end
        await _let_others_run()

    async def asleep(self, count: int = 1) -> None:
        """Return once at least `count` tasks sleep on this clock."""
        while sum(not woken.done() for _, _, woken in self._sleepers) < count:
            self._arrived.clear()
            await self._arrived.wait()


async def _let_others_run() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def wait_by(clock: Clock, event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set or `seconds` have passed by `clock`; returns whether it is set."""
    if seconds <= 0 or event.is_set():
        await asyncio.sleep(0)
        return event.is_set()
    alarm = asyncio.ensure_future(clock.sleep(seconds))
    signal = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({alarm, signal}, return_when=asyncio.FIRST_COMPLETED)
        return event.is_set()
    finally:
        alarm.cancel()
        signal.cancel()
        await asyncio.gather(alarm, signal, return_exceptions=True)
