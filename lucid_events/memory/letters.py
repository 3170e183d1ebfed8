"""Plain appends to streams that are not histories, in memory."""

from collections.abc import Mapping

from lucid_events.errors import AppendUncertain
from lucid_events.memory.dead_letters import as_port
from lucid_events.memory.faults import Outcome
from lucid_events.memory.server import MemoryServer
from lucid_events.memory.stream import MSG_ID
from lucid_events.ports import StoredMessage

ATTEMPTS = 3
"""Sends under one id until a reply comes."""


class MemoryLetters:
    """Outcomes and dead letters; the stream is the one that carries the subject."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    async def publish(self, subject: str, data: bytes, *, headers: Mapping[str, str], id: str) -> int:
        """Store a message once per `id` within the dedupe window; returns its sequence.

        A lost reply is settled inside, by sending the same again.
        """
        for _ in range(ATTEMPTS):
            outcome = await self._server.faults.reach("letter")
            if outcome is Outcome.REQUEST_LOST:
                continue
            stored = self._server.publish(subject, data, {**headers, MSG_ID: id})
            if outcome is Outcome.NORMAL:
                return stored.sequence
        raise AppendUncertain(f"no reply to {ATTEMPTS} sends to {subject}: repeat it", subject=subject)

    async def last(self, subject: str) -> StoredMessage | None:
        """Return the last message on `subject`, None when there is none."""
        await self._server.faults.reach("read")
        found = self._server.stream(self._server.subjects.letters(subject)).last(subject)
        return None if found is None else as_port(found)
