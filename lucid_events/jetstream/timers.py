"""Deadlines kept by the server's message scheduler (NATS ADR-51).

A schedule is the last message on the timer's subject; at its time the server stores the body on the
due subject and removes the schedule.
"""

from datetime import datetime
from typing import Final

from lucid_events.codec import timestamp
from lucid_events.domain.ids import SessionId
from lucid_events.jetstream.connection import Connection
from lucid_events.subjects import Subjects

SCHEDULE, TARGET, TTL = "Nats-Schedule", "Nats-Schedule-Target", "Nats-Schedule-TTL"
DUE_TTL: Final = "168h"
"""How long a due message waits for a service that is down; after that the reconciliation at its
start arms what is missing. Longer only keeps handled messages."""


class JetStreamTimers:
    """Timers in the timers stream."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects

    async def arm(self, session: SessionId, name: str, *, at: datetime, payload: bytes) -> None:
        """Deliver `payload` on the due subject at `at`; arming again under the name replaces it.

        An instant that has passed is due at once. Repeating it after an error is harmless.

        Raises:
            StoreUnavailable: nothing was armed.
            AppendUncertain: no reply: arm it again.
        """
        headers = {
            SCHEDULE: f"@at {timestamp(at)}",
            TARGET: self._subjects.due(session, name),
            TTL: DUE_TTL,
        }
        await self._connection.publish_acked(self._subjects.timer(session, name), payload, headers=headers)

    async def armed(self, session: SessionId, name: str) -> bool:
        """Return whether a schedule stands under that name, as the leader knows it."""
        found = await self._connection.leader_get(
            self._subjects.timers_stream, last_by_subj=self._subjects.timer(session, name)
        )
        return found is not None and SCHEDULE in found.headers

    async def cancel(self, session: SessionId, name: str) -> None:
        """Forget the timer; a stray due message is the reader's to ignore. Repeating is harmless."""
        await self._connection.api(
            f"STREAM.PURGE.{self._subjects.timers_stream}", {"filter": self._subjects.timer(session, name)}
        )
