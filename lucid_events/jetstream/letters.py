"""Plain appends to streams that are no histories: outcomes, dead letters."""

import asyncio
from collections.abc import Mapping
from typing import Final

from lucid_events.codec import MSG_ID
from lucid_events.errors import AppendUncertain, StoreUnavailable
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.dead_letters import as_port
from lucid_events.ports import StoredMessage
from lucid_events.subjects import Subjects

ATTEMPTS: Final = 3
"""Sends under one id until a reply comes; each waits for a whole request timeout."""
IN_PROCESS_PAUSE_S: Final = 0.05


class JetStreamLetters:
    """Publishes under an id, so that sending again is harmless."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection, self._subjects = connection, subjects

    async def publish(self, subject: str, data: bytes, *, headers: Mapping[str, str], id: str) -> int:
        """Store a message once per `id` within the dedupe window; returns its sequence.

        A lost reply is settled inside, by sending the same again.

        Raises:
            StoreUnavailable: nothing was stored (`StoreFull`: the stream is full).
            AppendUncertain: an attempt was not answered, and none behind it came through: repeat it.
        """
        sent = {**headers, MSG_ID: id}
        uncertain: AppendUncertain | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return (await self._connection.publish_acked(subject, data, headers=sent)).sequence
            except AppendUncertain as exc:
                uncertain = exc
            except StoreUnavailable:
                # Of this attempt nothing was stored; of one before it, something may be.
                if uncertain is None:
                    raise
            if attempt < ATTEMPTS:
                await asyncio.sleep(IN_PROCESS_PAUSE_S * attempt)
        raise uncertain or AssertionError("unreachable")

    async def last(self, subject: str) -> StoredMessage | None:
        """Return the last message on `subject` from the leader, None when there is none.

        Raises:
            ContractError: it is the subject of no letters.
            StoreUnavailable: the leader could not be asked.
        """
        stream = self._subjects.letters(subject)
        found = await self._connection.leader_get(stream, last_by_subj=subject)
        return None if found is None else as_port(found)
