"""Pings that are out; none is given up while its pong may come."""

import asyncio
import logging
from typing import Any, Final

from nats.aio.client import Client

from lucid_events.jetstream.faults import described

log = logging.getLogger(__name__)

NEVER_S: Final = 86_400
"""How long nats-py is told to wait for a pong: when it gives a ping up, a pong that comes late kills its read
loop."""


class Pings:
    """The pings of one connection, whichever client they went out on."""

    def __init__(self) -> None:
        self._out: set[asyncio.Task[Any]] = set()

    def send(self, client: Client) -> asyncio.Task[Any]:
        """Ping on `client`; the task returned ends with the pong."""
        ping = asyncio.create_task(client.rtt(timeout=NEVER_S))
        self._out.add(ping)
        ping.add_done_callback(self._ended)
        return ping

    async def answered(self, client: Client, *, within_s: float) -> bool:
        """Return whether `client` gets its pong in time."""
        ping = self.send(client)
        await asyncio.wait({ping}, timeout=within_s)
        # Cancelled means that the connection was lost meanwhile, and nats-py knows.
        return ping.cancelled() or (ping.done() and ping.exception() is None)

    def give_up(self) -> list[asyncio.Task[Any]]:
        """Cancel all that are out, because their pongs can not come any more, and return them."""
        out = list(self._out)
        for ping in out:
            ping.cancel()
        return out

    def _ended(self, ping: asyncio.Task[Any]) -> None:
        self._out.discard(ping)
        if not ping.cancelled() and (exc := ping.exception()) is not None:
            log.debug("a ping failed", extra={"reason": described(exc)})
