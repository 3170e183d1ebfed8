"""Whole streams out of a server and back into one, through its own backup calls.

    STREAM.SNAPSHOT ──> pieces on a subject of ours, each acknowledged when it is written
    STREAM.RESTORE  ──> a subject of the server's, each piece a request, an empty one at the end

The bytes are the server's archive (S2 inside), which is not looked into: a newer server may write
what an older one can't read. Sequences, times and headers come back as they were. Consumers are
left out of the archive: their state is taken behind the messages', so it may claim work as done
whose effects the archive lacks.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from lucid_events.errors import AppendUncertain, ConfigError, IntegrityError, LucidError, StoreUnavailable
from lucid_events.jetstream.connection import Connection, Message, Reply
from lucid_events.jetstream.faults import api_fault
from lucid_events.jetstream.messages import DESCRIPTION
from lucid_events.jetstream.replies import unserved

PIECE_BYTES: Final = 256 * 1024
"""One message of a snapshot: below the smallest `max_payload` that is accepted. Half doubles the
messages, twice does not fit a server at that limit."""
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Sent and not acknowledged, so what we hold at most: half of it is idle on a line of 100 ms."""
IN_FLIGHT: Final = WINDOW_BYTES // PIECE_BYTES
BEGIN_S: Final = 30.0
"""Until the server says that it begins; on a cluster a leader may have to be elected first."""
SILENCE_S: Final = 30.0
"""Longest silence between two pieces: a stream with many deleted messages is searched between them."""
END_S: Final = 600.0
"""Until a restored stream is open: its index is made then, minutes for a terabyte."""
KNOWN_S: Final = 4.0
"""Until all nodes of a cluster know where pieces of a restore go; the server waits 5 s for the first."""
LOOK_S: Final = 0.05
"""Pause between two attempts at the first piece: nodes hear of a subject within milliseconds."""
NOBODY: Final = 503
"""Status field of the error when nobody took a piece: `_first` tells it from a restore that broke off."""

Sink = Callable[[bytes], Awaitable[None]]
"""Takes the next piece; the server sends more when it returns."""


class StreamSnapshot(msgspec.Struct, frozen=True):
    """What a snapshot is of: raw configuration and state, as the server told them at its beginning."""

    config: dict[str, Any]
    state: dict[str, Any]


async def take_snapshot(connection: Connection, stream: str, sink: Sink) -> StreamSnapshot:
    """Give every piece of a snapshot of `stream` to `sink`; it is whole when this returns.

    Messages stored or purged meanwhile may or may not be in it; what was stored up to `last_seq` of
    the state and not purged is.

    Raises:
        StoreUnavailable: it broke off: throw away what the sink has, and begin again.
        ConfigError: there is no such stream, or no right to back it up.
        IntegrityError: the server can't read its own messages.
    """
    pieces = _Pieces(stream)
    subject = f"{connection.options.inbox_prefix}.{secrets.token_hex(11)}"
    subscription = await connection.subscribe(subject, pieces.take, confirm=True)
    # Pieces sent while the connection was away are gone, and the server does not send them again.
    unhook = connection.on_reconnect(pieces.interrupt)
    try:
        asked = {
            "deliver_subject": subject,
            "no_consumers": True,
            "chunk_size": PIECE_BYTES,
            "window_size": WINDOW_BYTES,
        }
        begun = await _asked(connection, f"STREAM.SNAPSHOT.{stream}", asked)
        while (piece := await pieces.next()) is not None:
            await sink(piece.data)
            if piece.reply:
                connection.publish(piece.reply)
    finally:
        unhook()
        await subscription.unsubscribe()
    return StreamSnapshot(begun["config"], begun["state"])


async def restore_snapshot(
    connection: Connection, config: Mapping[str, Any], state: Mapping[str, Any], pieces: AsyncIterator[bytes]
) -> dict[str, Any]:
    """Make the stream of `config` out of a snapshot's pieces, and return its state.

    After an error part of it may stand there under its name: delete that before it is tried again.

    Raises:
        ConfigError: the name is taken, or the server refuses configuration or archive.
        StoreUnavailable: it broke off.
        IntegrityError: the server took everything, and holds something else.
    """
    stream = str(config["name"])
    begun = await _asked(connection, f"STREAM.RESTORE.{stream}", {"config": config, "state": state})
    subject = str(begun["deliver_subject"])
    out: deque[asyncio.Future[Reply]] = deque()
    known = False
    try:
        async for piece in pieces:
            if not known:
                await _first(connection, stream, subject, piece)
                known = True
                continue
            if len(out) == IN_FLIGHT:
                await _taken(stream, out.popleft())
            out.append(connection.call(subject, piece, timeout_s=SILENCE_S))
        while out:
            await _taken(stream, out.popleft())
        answer = await _taken(stream, connection.call(subject, timeout_s=END_S))
    finally:
        for future in out:
            future.cancel()
    if answer is None or "state" not in answer:
        raise StoreUnavailable(f"the restore of {stream} was not confirmed: delete it and begin again")
    found: dict[str, Any] = answer["state"]
    _compare(config, state, found)
    return found


async def _first(connection: Connection, stream: str, subject: str, piece: bytes) -> None:
    """Send the first piece until it is taken.

    The node that waits for it may be another one than ours, which hears of its subject later than we do.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + KNOWN_S
    while True:
        future = connection.call(subject, piece, timeout_s=SILENCE_S)
        try:
            await _taken(stream, future)
            return
        except StoreUnavailable as exc:
            if exc.fields.get("status") != NOBODY or loop.time() >= until:
                raise
        await asyncio.sleep(LOOK_S)


def _compare(config: Mapping[str, Any], state: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a stream that ends before its snapshot does, or lacks messages that nothing may remove."""
    kept = bool(config.get("deny_delete") and config.get("deny_purge"))
    for name in ("last_seq", "messages") if kept else ("last_seq",):
        if found[name] < state[name]:
            raise IntegrityError(
                f"{config['name']} was restored with {name} {found[name]}, its backup has {state[name]}",
                stream=config["name"],
                expected=state[name],
                actual=found[name],
            )


async def _asked(connection: Connection, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return await connection.api(name, body, timeout_s=BEGIN_S)
    except AppendUncertain as exc:
        raise StoreUnavailable(f"{name} was not answered: try again") from exc


async def _taken(stream: str, future: asyncio.Future[Reply]) -> dict[str, Any] | None:
    """Return what the server says to a piece: nothing, or the outcome."""
    try:
        reply = await future
    except LucidError as exc:
        raise StoreUnavailable(f"the restore of {stream} broke off: {exc.message}") from exc
    if unserved(reply):
        raise StoreUnavailable(
            f"the restore of {stream} broke off: the server takes no more pieces of it", status=NOBODY
        )
    if not reply.data:
        return None
    answer: dict[str, Any] = msgspec.json.decode(reply.data)
    if answer.get("error"):
        raise api_fault(answer["error"], f"restore of {stream}")
    return answer


class _Pieces:
    """What came of a snapshot and is not written yet: at most the window, which the server keeps to."""

    def __init__(self, stream: str) -> None:
        self._stream, self._waiting = stream, deque[Message]()
        self._arrived, self._interrupted, self._index = asyncio.Event(), False, 0

    def take(self, message: Message) -> None:
        self._waiting.append(message)
        self._arrived.set()

    def interrupt(self) -> None:
        self._interrupted = True
        self._arrived.set()

    async def next(self) -> Message | None:
        """Return the next piece, None behind the last.

        Raises:
            StoreUnavailable, IntegrityError: see `take_snapshot`.
        """
        while not self._waiting and not self._interrupted:
            self._arrived.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._arrived.wait()
            except TimeoutError:
                raise self._broken(f"nothing came for {SILENCE_S:g} s") from None
        if self._interrupted:
            raise self._broken("the connection was lost")
        message = self._waiting.popleft()
        if message.data:
            self._in_order(message)
            return message
        if message.status in ("", "204"):
            return None
        said = f"{message.status} {message.headers.get(DESCRIPTION, '')}".strip()
        if message.status == "500":
            raise IntegrityError(
                f"the server can't back up {self._stream}: {said}; look at its log, and verify the sessions",
                stream=self._stream,
            )
        raise self._broken(said)

    def _in_order(self, message: Message) -> None:
        # `….<size>.<index>`; the last piece of a snapshot asks for no acknowledgement.
        index = message.reply.rpartition(".")[2]
        if not index:
            return
        if not index.isdigit():
            raise ConfigError(f"the server numbers the pieces of {self._stream} in a way that is not known")
        self._index += 1
        if int(index) != self._index:
            raise self._broken(f"piece {self._index} is missing")

    def _broken(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(f"the snapshot of {self._stream} broke off: {why}: begin again")
