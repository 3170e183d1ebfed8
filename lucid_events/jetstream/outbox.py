"""What waits to be sent, in the order of calls: messages, and barriers between them."""

import asyncio
from collections import deque

from lucid_events.errors import StoreUnavailable
from lucid_events.jetstream.calls import Call
from lucid_events.jetstream.options import NatsOptions

Barrier = asyncio.Future[None]
"""Resolved by whoever sends, once the server has everything that was queued before it."""


class Outbox:
    """A queue whose bytes are bounded; one task takes from it."""

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._items: deque[Call | Barrier] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, call: Call) -> None:
        """Queue a message.

        Raises:
            StoreUnavailable: `pending_bytes` are queued already.
        """
        if self._bytes > self._options.pending_bytes:
            raise StoreUnavailable(
                f"{self._bytes} bytes wait to be sent to {self._options.server}: send less at once"
            )
        self._items.append(call)
        self._bytes += len(call.data)
        self._filled.set()

    def put_first(self, call: Call) -> None:
        """Queue a message that was taken and not sent in front of all others."""
        self._items.appendleft(call)
        self._bytes += len(call.data)

    def bar(self) -> Barrier:
        """Queue a barrier and return it."""
        barrier: Barrier = asyncio.get_running_loop().create_future()
        self._items.append(barrier)
        self._filled.set()
        return barrier

    async def filled(self) -> None:
        """Return once something is queued."""
        if not self._items:
            self._filled.clear()
            await self._filled.wait()

    def take(self) -> Call | Barrier:
        """Take what is first; something must be queued."""
        item = self._items.popleft()
        if isinstance(item, Call):
            self._bytes -= len(item.data)
        return item
