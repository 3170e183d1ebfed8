"""A bound on bytes held at once, shared fairly: first come, first served.

Knows numbers only; whoever takes says what they stand for. For one event loop, not for threads.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lucid_events.errors import ConfigError


class ByteBudget:
    """At most `limit` bytes are taken at any time, or one single taking that is larger than that.

    Takings are served in the order they were asked for, so a large one is not starved by small ones
    that would fit before it. Taking again while holding can wait for oneself for ever: take once,
    for everything.

    Raises:
        ConfigError: `limit` is below 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ConfigError(f"a byte budget of {limit}: must be at least 1", value=limit)
        self._limit = limit
        self._in_use = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def limit(self) -> int:
        """Bytes that may be taken at once."""
        return self._limit

    @property
    def in_use(self) -> int:
        """Bytes taken now; above `limit` only while one oversized taking is served alone."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """How many takings wait for their turn."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes while the block runs; waits for its turn before."""
        await self.acquire(size)
        try:
            yield
        finally:
            self.release(size)

    async def acquire(self, size: int) -> None:
        """Take `size` bytes, to be given back by `release`; a cancelled call has taken nothing."""
        if size < 0:
            raise ValueError(f"size {size} is negative")
        if not self._waiting and self._fits(size):
            self._in_use += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (turn, size)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # Served and cancelled in the same moment: give back what nobody will use.
                self.release(size)
            else:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                # The one behind may fit where this one did not.
                self._serve()
            raise

    def release(self, size: int) -> None:
        """Give back `size` bytes that `acquire` took, and let in whoever fits now."""
        if not 0 <= size <= self._in_use:
            raise ValueError(f"release of {size} bytes, but {self._in_use} are taken")
        self._in_use -= size
        self._serve()

    def _fits(self, size: int) -> bool:
        return self._in_use == 0 or self._in_use + size <= self._limit

    def _serve(self) -> None:
        while self._waiting:
            turn, size = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()  # its owner has not woken up yet to take it out
            elif self._fits(size):
                self._waiting.popleft()
                # Counted here, not when the waiter wakes up: nobody may slip in between.
                self._in_use += size
                turn.set_result(None)
            else:
                return
