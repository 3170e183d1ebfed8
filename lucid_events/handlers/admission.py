"""How many sessions may be open at once, asked before a `create` is appended.

The count is that of the index, which follows the log by a moment; what this process let in meanwhile
is added, for `SHOWN_AFTER_S` also when it has ended since. So one process never lets in more than the
limit; several may together exceed it by what they let in within the same moment. A created session
counts: it may be started without being asked again. One that comes back by `recover` is not refused: its
bytes matter more than the limit.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from lucid_events.domain.ids import SessionId
from lucid_events.errors import CommandRejected

MAX_AGE_S: Final = 1.0
"""How long a count is believed while it says yes. Half asks the server twice as often in a burst of
creates, twice lets more processes exceed the limit by more."""
SHOWN_AFTER_S: Final = 10.0
"""How long a session of ours is added to a count that does not have it. Half is exceeded by a view
that catches up, twice counts sessions that came and went between two counts for longer."""

CODE: Final = "too_many_sessions"

OpenSessions = Callable[[int], Awaitable[set[SessionId]]]
"""Returns the sessions that the index has as open, as many as asked for at most."""


class Admission:
    """Lets sessions be created as long as fewer than `limit` are open."""

    def __init__(
        self, open_sessions: OpenSessions, limit: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_sessions, self._limit, self._clock = open_sessions, limit, clock
        self._ours: dict[SessionId, float] = {}
        self._counted: set[SessionId] = set()
        self._counted_at = float("-inf")

    @asynccontextmanager
    async def room(self, session: SessionId) -> AsyncIterator[None]:
        """Keep a place for `session` while the block creates it; a failed block gives it back.

        Raises:
            CommandRejected: as many sessions as allowed are open.
            StoreUnavailable: they can't be counted.
        """
        if self._clock() - self._counted_at > MAX_AGE_S or not self._fits(session):
            # A refusal is given only on a fresh count: somebody may have ended since.
            await self._count()
        if not self._fits(session):
            raise CommandRejected(
                f"{self._limit} sessions are open, which is as many as MAX_CONCURRENT_SESSIONS allows: "
                "stop, fail or destroy one, or raise it",
                reason=CODE,
                allowed=(),
            )
        # Nothing is awaited between the look and the taking, so no other create slips in between.
        self._ours[session] = self._clock()
        try:
            yield
        except BaseException:
            # Not known to have failed either: an uncertain append may be there, and is counted then.
            self._ours.pop(session, None)
            raise

    def _fits(self, session: SessionId) -> bool:
        return len((self._counted | self._ours.keys()) - {session}) < self._limit

    async def _count(self) -> None:
        began = self._clock()
        # One more than fits is enough to refuse.
        self._counted = await self._open_sessions(self._limit + 1)
        self._counted_at = began
        self._ours = {
            session: at
            for session, at in self._ours.items()
            if session not in self._counted and began - at < SHOWN_AFTER_S
        }
