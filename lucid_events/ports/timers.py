"""Deadlines kept by the server."""

from datetime import datetime
from typing import Protocol

from lucid_events.domain.ids import SessionId


class Timers(Protocol):
    """Deadlines kept by the server."""

    async def arm(self, session: SessionId, name: str, *, at: datetime, payload: bytes) -> None:
        """Deliver `payload` on the due subject at `at`; arming again under the name replaces it."""
        ...

    async def armed(self, session: SessionId, name: str) -> bool:
        """Return whether a schedule stands under that name."""
        ...

    async def cancel(self, session: SessionId, name: str) -> None:
        """Forget the timer; a stray due message is the reader's to ignore."""
        ...
