"""Listening for beats while the server, or we ourselves, stand still."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.errors import StoreUnavailable
from lucid_events.jetstream import beats
from lucid_events.jetstream.beats import JetStreamBeats
from lucid_events.subjects import Subjects

SID = SessionId("s")
WITHIN_S = 0.2


class Subscription:
    """Somebody listens, until `unsubscribe`."""

    ended = False

    async def unsubscribe(self) -> None:
        """Listen no more."""
        self.ended = True


class Connection:
    """A server whose answers take what `stall` makes of each."""

    def __init__(self, stall: Callable[["Connection", int], Awaitable[None]]) -> None:
        self.subscription, self.answers = Subscription(), 0
        self.receive: Callable[[object], None] = lambda message: None
        self._stall = stall

    async def subscribe(self, subject: str, receive: Callable[[object], None], **_: object) -> Subscription:
        """Begin to listen."""
        self.receive = receive
        return self.subscription

    async def barrier(self) -> None:
        """Answer once everything before has been processed."""
        self.answers += 1
        await self._stall(self, self.answers)


def heard(connection: Any) -> bool:
    """Listen through `connection`."""

    async def main() -> bool:
        listening = JetStreamBeats(connection, Subjects()).heard(SID, epoch=1, within_s=WITHIN_S)
        return await listening

    try:
        return asyncio.run(main())
    finally:
        assert connection.subscription.ended


def test_a_stall_is_no_silence() -> None:
    """The server stood still at the end of the wait: the recorder is listened to anew, and beats."""

    async def stall(connection: Connection, answer: int) -> None:
        if answer == beats.PARTS:
            await asyncio.sleep(WITHIN_S)
        if answer == beats.PARTS + 2:
            connection.receive(None)

    assert heard(Connection(stall)) is True


def test_what_arrives_before_the_answer_is_heard() -> None:
    """A beat the server had for us when the time was over was not late: we were."""

    async def late(connection: Connection, answer: int) -> None:
        if answer == beats.PARTS:
            connection.receive(None)

    assert heard(Connection(late)) is True


def test_silence_on_end_is_silence() -> None:
    """After a stall it takes the whole time once more."""

    async def stall(connection: Connection, answer: int) -> None:
        await asyncio.sleep(WITHIN_S if answer == 2 else 0)

    connection = Connection(stall)
    assert heard(connection) is False
    assert connection.answers >= 2 + beats.PARTS


def test_a_server_that_stalls_for_ever_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody was heard and nobody could have been, so nobody is given up."""
    monkeypatch.setattr(beats, "PATIENCE_S", 0.0)

    async def stall(connection: Connection, answer: int) -> None:
        await asyncio.sleep(WITHIN_S)

    with pytest.raises(StoreUnavailable, match="stalls again and again"):
        heard(Connection(stall))
