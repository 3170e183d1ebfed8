"""What the log republishes after each write."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec


class LiveMessage(msgspec.Struct, frozen=True):
    """An event of the live feed: stored already, `sequence` from the server."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    sequence: int


class LiveFeed(Protocol):
    """What the log republishes after each write; a lost message is possible, a wrong one is not."""

    def listen(self, subjects: str) -> AbstractAsyncContextManager[AsyncIterator[LiveMessage]]:
        """Subscribe to a live subject filter; the subscription stands when the context is entered.

        A wait for the next message may be given up; the next wait goes on from there.
        """
        ...
