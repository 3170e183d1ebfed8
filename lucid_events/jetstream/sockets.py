"""nats-py's client that lets go of every socket it has opened.

nats-py forgets the connection of a reconnect that came to nothing: one that was accepted and never
answered, or was closed before the first line. The event loop still holds it, so a server that hangs
for an hour costs a process all its descriptors. And a client whose goodbye is cut short keeps its own.
"""

from contextlib import suppress
from typing import Any

from nats.aio.client import Client

from lucid_events.jetstream.transport import BlockTransport


class TidyClient(Client):
    """A client that has at most one connection open."""

    async def _connect_to_server(self, s: Any) -> None:
        self.let_go()
        await super()._connect_to_server(s)

    def let_go(self) -> None:
        """Close the connection of the moment at once, if there is one; what is unsent is dropped.

        Repeating it is harmless.
        """
        if isinstance(self._transport, BlockTransport):
            with suppress(OSError, RuntimeError):  # uvloop's word for one that is gone already
                self._transport.abort()
