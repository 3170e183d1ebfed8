"""The port over a durable consumer in memory: fetching waits, answering ends a delivery."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from lucid_events.memory.clock import wait_by
from lucid_events.memory.consumer import Handed, MemoryConsumer
from lucid_events.memory.faults import Faults, Outcome
from lucid_events.memory.server import MemoryServer
from lucid_events.ports import ConsumerLag, Delivery


class MemoryDelivery:
    """One delivery; the first final answer counts, later ones change nothing."""

    def __init__(self, handed: Handed, consumer: MemoryConsumer, faults: Faults) -> None:
        message = handed.message
        self.subject, self.headers, self.data = message.subject, message.headers, message.data
        self.sequence, self.stored_at = message.sequence, message.stored_at
        self.attempt, self.pending = handed.attempt, handed.pending
        self._consumer, self._faults = consumer, faults
        self._answered = False

    async def ack(self) -> None:
        """Done; the consumer will not deliver it again."""
        if await self._arrives():
            self._consumer.settle(self.sequence)

    async def retry(self, after_s: float) -> None:
        """Deliver again after `after_s` seconds."""
        if await self._arrives():
            self._consumer.postpone(self.sequence, after_s)

    async def working(self) -> None:
        """Restart the ack wait."""
        await asyncio.sleep(0)
        if not self._answered:
            self._consumer.postpone(self.sequence, self._consumer.ack_wait_s)

    async def terminate(self, reason: str) -> None:
        """Never deliver again."""
        if await self._arrives():
            self._consumer.settle(self.sequence, reason)

    async def _arrives(self) -> bool:
        if self._answered:
            return False
        outcome = await self._faults.reach("ack")
        self._answered = True
        return outcome is not Outcome.REQUEST_LOST


class MemoryInbox:
    """Binds to a consumer that exists; several may bind to one and share its messages."""

    def __init__(self, server: MemoryServer, name: str) -> None:
        self._consumer = server.consumer(name)
        self._server = server
        self.name = name
        self.ack_wait_s = self._consumer.ack_wait_s

    async def fetch(self, limit: int, *, wait_s: float) -> Sequence[Delivery]:
        """Return 0 to `limit` messages, waiting at most `wait_s` for the first."""
        await self._server.faults.reach("fetch")
        clock, stream = self._server.clock, self._consumer.stream
        until = clock.now() + timedelta(seconds=wait_s)
        changed = asyncio.Event()
        stream.watch(changed)
        try:
            while True:
                changed.clear()
                stream.refresh()
                handed = self._consumer.take(limit)
                now = clock.now()
                if handed or now >= until:
                    return [MemoryDelivery(one, self._consumer, self._server.faults) for one in handed]
                wakes = [until, *(at for at in (self._consumer.due(), stream.due()) if at is not None)]
                await wait_by(clock, changed, (min(wakes) - now).total_seconds())
        finally:
            stream.unwatch(changed)

    async def lag(self) -> ConsumerLag:
        """Return the consumer's backlog."""
        await self._server.faults.reach("fetch")
        return self._consumer.lag()
