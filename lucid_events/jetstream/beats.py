"""Listens for the beats of recorders."""

import asyncio
from typing import Final

from lucid_events.domain.ids import SessionId
from lucid_events.errors import StoreUnavailable
from lucid_events.jetstream.connection import Connection, Message
from lucid_events.subjects import Subjects

PARTS: Final = 4
"""A listening has so many parts, each ended by an answer of the server. With half a stall of a third of the
time counts as silence; twice asks the server twice as often while somebody waits."""
SLACK_S: Final = 0.05
"""What a part may take longer beside half of itself: threads and networks are never on time."""
PATIENCE_S: Final = 10.0
"""For how long stalls are waited out, beside as many listenings as there are parts in one. A leader election
takes 5 s; twice keeps whoever attaches waiting for longer than its own patience."""


class JetStreamBeats:
    """Hears beats beside the service that answers them: a plain subscription, in no queue group."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects

    async def heard(self, session: SessionId, *, epoch: int, within_s: float) -> bool:
        """Return True as soon as the epoch's recorder beats, False when it did not for `within_s` on end.

        Time in which nobody could have been heard, because the server or this process stood still, is no
        silence: it begins again behind it.

        Raises:
            StoreUnavailable: not connected, or stalled again and again: nothing could be heard.
        """
        beaten = asyncio.Event()

        def receive(message: Message) -> None:
            beaten.set()

        subject = self._subjects.beat(session, epoch)
        subscription = await self._connection.subscribe(subject, receive, confirm=True)
        loop = asyncio.get_running_loop()
        part_s, quiet = within_s / PARTS, 0
        deadline = loop.time() + PARTS * within_s + PATIENCE_S
        try:
            while quiet < PARTS:
                began = loop.time()
                if began > deadline:
                    raise StoreUnavailable(
                        f"{subject} could not be listened to for {within_s:g} s on end: the server, or this "
                        "process, stalls again and again",
                        session=session,
                    )
                await _either(beaten, part_s)
                # What the server had for us when it answers has arrived before the answer.
                await self._connection.barrier()
                if beaten.is_set():
                    return True
                quiet = quiet + 1 if loop.time() - began < 1.5 * part_s + SLACK_S else 0
        finally:
            await subscription.unsubscribe()
        return False


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
