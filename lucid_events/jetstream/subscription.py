"""A subscription that the application keeps while clients come and go under it."""

import logging
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription

from lucid_events.jetstream.faults import CLIENT_ERRORS
from lucid_events.jetstream.intake import IntakeClient
from lucid_events.jetstream.messages import NO_HEADERS, Message

log = logging.getLogger(__name__)

PENDING_MESSAGES: Final = 512 * 1024
PENDING_BYTES: Final = 256 * 1024 * 1024
"""What one subscription may hold unprocessed. Callbacks return at once, so this is only reached by
pages of direct gets (64 MB each, at most) that arrive together; beyond it messages are dropped."""


class Subscription:
    """A subscription that outlives reconnects and clients; `unsubscribe` ends it."""

    def __init__(
        self,
        subject: str,
        queue: str,
        callback: Callable[[Message], None],
        forget: Callable[["Subscription"], None],
    ) -> None:
        self.subject = subject
        self.queue = queue
        self.callback = callback
        self.dropped = 0
        """Messages the client dropped because they were not taken fast enough."""
        self.refused = False
        """The server has said that we have no right to it; nothing will ever arrive."""
        self._forget = forget
        self._inner: ClientSubscription | None = None

    async def attach(self, client: Client) -> None:
        """Subscribe on `client`."""
        callback = self.callback

        async def deliver(msg: Msg) -> None:
            callback(Message(msg.subject, msg.headers or NO_HEADERS, msg.data, msg.reply))

        self._inner = await client.subscribe(
            self.subject,
            queue=self.queue,
            cb=deliver,
            pending_msgs_limit=PENDING_MESSAGES,
            pending_bytes_limit=PENDING_BYTES,
        )
        if isinstance(client, IntakeClient):
            client.hand_over(self._inner, callback)

    def is_on(self, inner: object) -> bool:
        """Return whether `inner` is the client's side of this subscription."""
        return self._inner is inner

    async def unsubscribe(self) -> None:
        """Stop receiving; messages that wait are dropped. Repeating is harmless."""
        self._forget(self)
        inner, self._inner = self._inner, None
        if inner is not None:
            try:
                await inner.unsubscribe()
            except CLIENT_ERRORS:
                log.debug("unsubscribed while not connected", extra={"subject": self.subject})
