"""What comes off the wire: a message, an acknowledged publish, a stored message."""

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

from lucid_events.errors import IntegrityError

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

STATUS, DESCRIPTION = "Status", "Description"
STREAM, SUBJECT, SEQUENCE = "Nats-Stream", "Nats-Subject", "Nats-Sequence"
TIME, PENDING, LAST_SEQUENCE = "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence"

_from_server = (STREAM, SUBJECT, SEQUENCE, TIME, PENDING, LAST_SEQUENCE)


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as received; `reply` is where its sender wants the answer, empty when it wants none."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    reply: str = ""

    @property
    def status(self) -> str:
        """The server's inline status ("503"), empty on an ordinary message.

        A stored message with a header of that name looks the same: read paths look for
        `Nats-Sequence` first, which only the server's own answers lack.
        """
        return self.headers.get(STATUS, "")


Reply = Message
"""The message that answers a request."""


class PubAck(msgspec.Struct, frozen=True):
    """The server's word that a message, or a whole batch, is stored.

    `sequence` is the last one's; a batch of `count` begins at `sequence - count + 1`. With
    `duplicate` nothing was stored now: a message with that id was there, possibly another one.
    """

    stream: str
    sequence: int
    duplicate: bool = False
    count: int = 1


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message in a stream; `stored_at` is the server's clock in UTC, cut to microseconds.

    `headers` are what its writer sent: what a direct get adds has been taken out again.
    """

    subject: str
    sequence: int
    stored_at: datetime
    headers: Mapping[str, str]
    data: bytes


class DirectPage(msgspec.Struct, frozen=True):
    """One page of a batched direct get, complete: the server's end marker has been checked.

    `pending` messages match beyond it; the next page starts at `last_sequence + 1`. An empty
    page has `last_sequence` 0.
    """

    messages: tuple[StoredMessage, ...] = ()
    pending: int = 0
    last_sequence: int = 0

    def __iter__(self) -> Iterator[StoredMessage]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)


def from_direct(message: Message) -> StoredMessage:
    """Return the stored message inside an answer to a direct get."""
    headers = dict(message.headers)
    try:
        subject, sequence, time = headers[SUBJECT], int(headers[SEQUENCE]), headers[TIME]
    except (KeyError, ValueError) as exc:
        raise IntegrityError(f"the server's answer to a direct get lacks {exc}") from exc
    for name in _from_server:
        headers.pop(name, None)
    return StoredMessage(subject, sequence, server_time(time), headers or NO_HEADERS, message.data)


def from_leader(message: Mapping[str, Any]) -> StoredMessage:
    """Return the stored message inside an answer to STREAM.MSG.GET."""
    headers = parse_headers(base64.b64decode(message["hdrs"])) if message.get("hdrs") else NO_HEADERS
    data = base64.b64decode(message["data"]) if message.get("data") else b""
    return StoredMessage(message["subject"], message["seq"], server_time(message["time"]), headers, data)


def parse_headers(block: bytes) -> dict[str, str]:
    r"""Return the headers of a raw block (`NATS/1.0\r\nName: value\r\n…`); of a repeated name, the last."""
    found = {}
    for line in block.split(b"\r\n")[1:]:
        name, separator, value = line.partition(b":")
        if separator:
            found[name.strip().decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
    return found


def server_time(text: str) -> datetime:
    """Return a time the server wrote (RFC 3339, up to nine digits, zeros left out) in UTC."""
    # Digits beyond the sixth are cut off, not rounded, and "Z" gives UTC itself.
    when = datetime.fromisoformat(text)
    return when if when.tzinfo is UTC else when.astimezone(UTC)
