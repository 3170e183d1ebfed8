"""The live feed: what the log republishes after each write."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from lucid_events.jetstream.connection import Connection, Message
from lucid_events.jetstream.messages import LAST_SEQUENCE, SEQUENCE, STREAM, SUBJECT, TIME
from lucid_events.ports import LiveMessage

log = logging.getLogger(__name__)

BUFFER: Final = 4096
"""Messages that may wait for a listener. One that is further behind loses the oldest and reads the
log anyway; twice as many only cost memory for listeners that have gone to sleep."""

_from_server = frozenset({STREAM, SUBJECT, SEQUENCE, TIME, LAST_SEQUENCE})


class _Messages:
    """What a listener has not read yet.

    No generator: one that is cancelled while it waits has ended, and a listener may give up a wait.
    """

    def __init__(self, waiting: "asyncio.Queue[LiveMessage]") -> None:
        self._waiting = waiting

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> LiveMessage:
        return await self._waiting.get()


class JetStreamLiveFeed:
    """Listens to what `stream` republishes."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    @asynccontextmanager
    async def listen(self, subjects: str) -> AsyncIterator[AsyncIterator[LiveMessage]]:
        """Subscribe to a live subject filter; the subscription stands when the context is entered.

        A message may be lost (a slow listener, a reconnect), never invented: what does not carry
        the stream's name and a sequence, as the server writes them, is left out.

        Raises:
            StoreUnavailable: not connected.
        """
        waiting: asyncio.Queue[LiveMessage] = asyncio.Queue(BUFFER)

        def receive(message: Message) -> None:
            sequence = message.headers.get(SEQUENCE, "")
            if message.headers.get(STREAM) != self._stream or not sequence.isdigit():
                return
            if waiting.full():
                waiting.get_nowait()
                log.warning("a listener is too slow: a message was dropped", extra={"subject": subjects})
            headers = {name: value for name, value in message.headers.items() if name not in _from_server}
            waiting.put_nowait(LiveMessage(message.subject, headers, message.data, int(sequence)))

        subscription = await self._connection.subscribe(subjects, receive, confirm=True)
        try:
            yield _Messages(waiting)
        finally:
            await subscription.unsubscribe()
