"""Waiting by the injected clock, and waking those who wait for a condition."""

import asyncio
from collections.abc import Callable

from lucid_events.ports import Clock


class Signal:
    """Wakes everyone who waits for something to have become true."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Let every waiter look again."""
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as `condition()` is true."""
        while not condition():
            await self._event.wait()


async def wait_by(clock: Clock, event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait until `event` is set, or `timeout_s` have passed by `clock`; return whether it is set."""
    if event.is_set() or timeout_s is None:
        await event.wait()
        return True
    if timeout_s <= 0:
        await asyncio.sleep(0)
        return event.is_set()
    alarm = asyncio.ensure_future(clock.sleep(timeout_s))
    rung = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({alarm, rung}, return_when=asyncio.FIRST_COMPLETED)
        return event.is_set()
    finally:
        alarm.cancel()
        rung.cancel()
        await asyncio.gather(alarm, rung, return_exceptions=True)
