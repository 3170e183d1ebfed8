"""What a reply says: an acknowledgement of a publish, or the parts of a direct get."""

from typing import Any

import msgspec

from lucid_events.errors import AppendUncertain, ContractError, StoreUnavailable
from lucid_events.jetstream.faults import NO_RESPONDERS_STATUS, api_fault, no_responders
from lucid_events.jetstream.messages import (
    DESCRIPTION,
    LAST_SEQUENCE,
    PENDING,
    SEQUENCE,
    DirectPage,
    Message,
    PubAck,
    Reply,
    StoredMessage,
    from_direct,
)


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    count: int = 1
    error: dict[str, Any] | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


def unserved(reply: Reply) -> bool:
    """Return whether the server said that nobody takes such requests: nothing was done."""
    return reply.status == NO_RESPONDERS_STATUS and not reply.data


def read_ack(subject: str, reply: Reply) -> PubAck:
    """Return the acknowledgement in the reply to a publish on `subject`.

    Raises:
        LucidError: the server refused; see `Connection.publish_acked`.
    """
    if unserved(reply):
        raise no_responders(subject)
    try:
        ack = _decode_ack(reply.data)
    except msgspec.DecodeError as exc:
        raise AppendUncertain(f"publish to {subject}: the reply is no acknowledgement, read first") from exc
    if ack.error is not None:
        raise api_fault(ack.error, f"publish to {subject}")
    if not ack.stream:
        raise AppendUncertain(f"publish to {subject}: answered by something else than a stream, read first")
    return PubAck(ack.stream, ack.seq, ack.duplicate, ack.count)


class PageReader:
    """Puts the parts of one direct get together and sees to it that none is missing.

    Every part names the sequence of the one before it (0 for the first), and the end marker that
    of the last: a part that the client dropped breaks this chain.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._messages: list[StoredMessage] = []
        self._last = 0
        self._hole = False

    def take(self, message: Message) -> bool:
        """Take one part; True when it was the end marker."""
        # Asked first: a stored message may carry a header that looks like a status.
        if SEQUENCE not in message.headers:
            return True
        if message.headers.get(LAST_SEQUENCE) != str(self._last):
            self._hole = True
        stored = from_direct(message)
        self._messages.append(stored)
        self._last = stored.sequence
        return False

    def read(self, end: Message) -> DirectPage:
        """Return the page that `end` marks the end of.

        Raises:
            StoreUnavailable: a part is missing, or nobody serves the stream.
            ContractError: the server refuses the request.
        """
        if unserved(end):
            raise no_responders(self._subject)
        if end.status == "404":
            return DirectPage()
        if end.status != "204":
            said = f"{end.status} {end.headers.get(DESCRIPTION, '')}"
            raise ContractError(f"{self._subject}: the server refuses the request: {said}", field="body")
        if self._hole or end.headers.get(LAST_SEQUENCE) != str(self._last):
            raise StoreUnavailable(f"{self._subject}: a part of the answer was lost on the way: try again")
        return DirectPage(tuple(self._messages), int(end.headers.get(PENDING, 0)), self._last)
