"""Deadlines in memory: schedules on the timers stream, delivered to whoever consumes it."""

from datetime import datetime

from lucid_events.domain.ids import SessionId
from lucid_events.memory.schedules import schedule_headers
from lucid_events.memory.server import MemoryServer
from lucid_events.memory.stream import Outgoing


class MemoryTimers:
    """Timers by (session, name); a past-due one is delivered at once."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    async def arm(self, session: SessionId, name: str, *, at: datetime, payload: bytes) -> None:
        """Deliver `payload` on the due subject at `at`; arming again under the name replaces it."""
        await self._server.faults.reach("timer")
        subjects = self._server.subjects
        headers = schedule_headers(at, subjects.due(session, name))
        self._server.timers.publish([Outgoing(subjects.timer(session, name), payload, headers)])

    async def armed(self, session: SessionId, name: str) -> bool:
        """Return whether a schedule stands under that name."""
        await self._server.faults.reach("read")
        self._server.timers.refresh()
        return self._server.timers.scheduled(self._server.subjects.timer(session, name))

    async def cancel(self, session: SessionId, name: str) -> None:
        """Forget the timer; nothing happens when there is none."""
        await self._server.faults.reach("timer")
        self._server.timers.refresh()
        self._server.timers.cancel(self._server.subjects.timer(session, name))
