"""Listens for the beats of recorders."""

import asyncio

from lucid_events.domain.ids import SessionId
from lucid_events.jetstream.connection import Connection, Message
from lucid_events.subjects import Subjects


class JetStreamBeats:
    """Hears beats beside the service that answers them: a plain subscription, in no queue group."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects

    async def heard(self, session: SessionId, *, epoch: int, within_s: float) -> bool:
        """Return True as soon as the epoch's recorder beats, False when it did not within `within_s`.

        Raises:
            StoreUnavailable: not connected, so nothing could be heard.
        """
        beaten = asyncio.Event()

        def receive(message: Message) -> None:
            beaten.set()

        subject = self._subjects.beat(session, epoch)
        subscription = await self._connection.subscribe(subject, receive, confirm=True)
        try:
            async with asyncio.timeout(within_s):
                await beaten.wait()
        except TimeoutError:
            return False
        finally:
            await subscription.unsubscribe()
        return True
