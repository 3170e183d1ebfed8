"""`jetstream.snapshots`: a snapshot is whole or an error, and a restored stream is held against it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lucid_events.errors import IntegrityError, LucidError, StoreUnavailable
from lucid_events.jetstream.connection import Connection, Message
from lucid_events.jetstream.messages import DESCRIPTION, NO_HEADERS, STATUS
from lucid_events.jetstream.snapshots import restore_snapshot, take_snapshot

END = Message("inbox", NO_HEADERS, b"")


def piece(index: int) -> Message:
    """Return a piece as the server numbers it."""
    return Message("inbox", NO_HEADERS, b"piece %d" % index, f"$JS.SNAPSHOT.ACK.S.x.7.{index}")


def ended(status: str) -> Message:
    """Return the end of a snapshot that the server gave up."""
    return Message("inbox", {STATUS: status, DESCRIPTION: "why"}, b"")


class Server:
    """A connection to a server that sends `pieces`, then loses the connection where `lost` says so."""

    options = SimpleNamespace(inbox_prefix="_INBOX")

    def __init__(self, pieces: Sequence[Message] = (), *, lost: bool = False) -> None:
        self._pieces, self._lost = pieces, lost
        self._take: Callable[[Message], None] = lambda _: None
        self._interrupt: Callable[[], None] = lambda: None
        self.acknowledged: list[str] = []
        self.answer: bytes = b""

    async def subscribe(self, subject: str, take: Callable[[Message], None], **_: Any) -> Any:
        self._take = take
        return SimpleNamespace(unsubscribe=lambda: asyncio.sleep(0))

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._interrupt = callback
        return lambda: None

    async def api(self, name: str, body: object, **_: Any) -> dict[str, Any]:
        if name.startswith("STREAM.RESTORE"):
            return {"deliver_subject": "restore"}
        for message in self._pieces:
            self._take(message)
        if self._lost:
            self._interrupt()
        return {"config": {"name": "S"}, "state": {"messages": 2}}

    def publish(self, subject: str) -> None:
        self.acknowledged.append(subject)

    def call(self, subject: str, data: bytes = b"", **_: Any) -> "asyncio.Future[Message]":
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        future.set_result(Message("inbox", NO_HEADERS, b"" if data else self.answer))
        return future


def taken(server: Server) -> list[bytes]:
    """Take a snapshot of what the server sends; returns the pieces."""
    got: list[bytes] = []

    async def sink(data: bytes) -> None:
        got.append(data)

    asyncio.run(take_snapshot(cast(Connection, server), "S", sink))
    return got


def test_every_piece_is_given_on_and_acknowledged() -> None:
    """In their order, each once, up to the empty one that ends a snapshot."""
    server = Server([piece(1), piece(2), END])
    assert taken(server) == [b"piece 1", b"piece 2"]
    assert server.acknowledged == [piece(1).reply, piece(2).reply]


@pytest.mark.parametrize(
    ("server", "fault", "said"),
    [
        (Server([piece(1), piece(3), END]), StoreUnavailable, "piece 2 is missing"),
        (Server([piece(2), END]), StoreUnavailable, "piece 1 is missing"),
        (Server([piece(1), END], lost=True), StoreUnavailable, "the connection was lost"),
        (Server([piece(1), ended("408")]), StoreUnavailable, "408 why: begin again"),
        (Server([piece(1), ended("500")]), IntegrityError, "500 why"),
    ],
    ids=["a piece lost", "the first lost", "reconnected", "given up", "unreadable"],
)
def test_what_is_not_whole_is_an_error(server: Server, fault: type[LucidError], said: str) -> None:
    """A piece that is missing, a connection that was away, an end that is none: none passes as a backup."""
    with pytest.raises(fault, match=said):
        taken(server)


@pytest.mark.parametrize(
    ("kept", "found", "said"),
    [
        (False, {"last_seq": 9, "messages": 5}, "last_seq 9"),
        (True, {"last_seq": 10, "messages": 4}, "messages 4"),
        (False, {"last_seq": 10, "messages": 4}, None),
        (True, {"last_seq": 10, "messages": 5}, None),
    ],
    ids=["ends earlier", "lacks what nothing may remove", "lacks what may be removed", "the same"],
)
def test_a_restored_stream_is_held_against_its_backup(
    kept: bool, found: dict[str, int], said: str | None
) -> None:
    """One that ends before its backup does, or lacks messages that nobody may delete, is refused."""
    server = Server()
    server.answer = b'{"state": {"last_seq": %d, "messages": %d}}' % (found["last_seq"], found["messages"])
    config = {"name": "S", "deny_delete": kept, "deny_purge": kept}
    state = {"last_seq": 10, "messages": 5}

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"piece %d" % number

    async def main() -> dict[str, Any]:
        return await restore_snapshot(cast(Connection, server), config, state, pieces())

    if said is None:
        assert asyncio.run(main()) == found
        return
    with pytest.raises(IntegrityError, match=said):
        asyncio.run(main())
