"""What stands in an audit bundle, member by member; `docs/bundle-format.md` has it byte by byte.

    README.md           for whoever finds the file; proves nothing
    events.jsonl        the session's whole history, a message a line, headers and body exact
    bundle.json         what is in the bundle, and what was left out
    manifest.json       the body of the last `session.stopped`; absent when there is none
    proofs.jsonl        of each chunk in the bundle: the way from its hash to the manifest's root
    chunks/00000012.gz  the stored bytes of chunk 12
    SHA256SUMS          of everything before it, as `sha256sum -c` reads it

Every JSON value has exactly one spelling, that of `encoded`; a reader refuses any other, so no byte
of a bundle is without meaning. Knows neither where the bytes come from nor whether they hold.
"""

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from lucid_events.domain.codecs import CODECS, check_codec
from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import Count, Sha256, StreamSequence
from lucid_events.errors import IntegrityError
from lucid_events.evidence.messages import StoredMessage

FORMAT: Final = "lucid-bundle/1"
README, DESCRIPTION, EVENTS = "README.md", "bundle.json", "events.jsonl"
MANIFEST, PROOFS, SUMS = "manifest.json", "proofs.jsonl", "SHA256SUMS"
CHUNK_NAME: Final = re.compile(r"chunks/([0-9]{8,})(\.gz|\.zst|\.lz4|)", re.ASCII)

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest line that is read: the largest payload (2 MiB, headers counted) of characters that take six bytes
each, as \\u0001 does, and 4 MiB for what is around them. At half such a bundle is written and not read; twice
as much only costs the reader of a made-up one memory."""
MAX_SMALL_BYTES: Final = 1024 * 1024
"""Longest member that is read as a whole: a manifest with a thousand gaps is 60 KiB."""

T = TypeVar("T")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a bundle says in JSON: nothing in it may be unknown to its reader."""


class Log(_Part, frozen=True, kw_only=True):
    """Which log a sequence counts in."""

    stream: str
    incarnation: Count


class Excerpt(_Part, frozen=True, kw_only=True):
    """Which chunks are in the bundle: every one from index `first` to `last` that is ready, not erased.

    They are `included` in number; the whole session has `ready`, those among them that were erased
    with the last cleanup counted. Both ends are null when none is included.
    """

    first: Count | None
    last: Count | None
    included: Count
    ready: Count


class Description(_Part, frozen=True, kw_only=True):
    """The member `bundle.json`; every field can be made again from the history and the chunks.

    `version` is the sequence of the last of `messages`, `head` the digest of the last event,
    `manifest` the sequence of the event that `manifest.json` is the body of.
    """

    format: str
    session: SessionId
    log: Log
    version: StreamSequence
    messages: Count
    head: Sha256 | None
    manifest: StreamSequence | None
    chunks: Excerpt


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A stored message: one line of `events.jsonl`, and the file a checkpoint is kept in.

    `body` when its bytes are UTF-8, else `body_base64`; exactly one of them, so there is one
    spelling. `stored_at` is the server's clock and part of no digest.
    """

    sequence: StreamSequence
    subject: str
    stored_at: str
    headers: dict[str, str]
    body: str | None = None
    body_base64: str | None = None

    def message(self) -> "Message":
        """Return the message that the line keeps.

        Raises:
            ValueError, msgspec.ValidationError: its body or its time is none.
        """
        data = self.body.encode() if self.body is not None else base64.b64decode(self.body_base64 or "")
        when = msgspec.convert(self.stored_at, datetime)
        return Message(self.subject, self.sequence, when, self.headers, data)


class Message(msgspec.Struct, frozen=True):
    """A message out of a bundle, as it stood in its stream."""

    subject: str
    sequence: int
    stored_at: datetime
    headers: Mapping[str, str]
    data: bytes


class Proof(_Part, frozen=True, kw_only=True):
    """One line of `proofs.jsonl`: chunk `index` is leaf `leaf` of the manifest's tree of `size` leaves."""

    index: Count
    leaf: Count
    size: StreamSequence
    path: tuple[Sha256, ...]


def line_of(message: StoredMessage) -> Line:
    """Return the line that keeps a stored message."""
    # The digits are always six: a time on the full second must not be spelled another way.
    when = message.stored_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    try:
        body, other = message.data.decode(), None
    except UnicodeDecodeError:
        body, other = None, base64.b64encode(message.data).decode()
    return Line(
        sequence=message.sequence,
        subject=message.subject,
        stored_at=when,
        headers=dict(message.headers),
        body=body,
        body_base64=other,
    )


def encoded(value: object) -> bytes:
    """Return the one spelling of `value`: a line of JSON without spaces, members in their order."""
    return msgspec.json.encode(value) + b"\n"


def decoded(text: bytes, kind: type[T]) -> T:
    """Return the value that `text` is the one spelling of.

    Raises:
        IntegrityError: it is no such value, or another spelling of one.
    """
    try:
        value = msgspec.json.decode(text, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise IntegrityError(f"is no {kind.__name__.lower()}: {exc}") from exc
    if encoded(value) != text:
        raise IntegrityError("is not in the one spelling there is: members in order, no spaces, one line")
    if isinstance(value, Line):
        _check_line(value)
    return value


def chunk_name(index: int, codec: str) -> str:
    """Return the member that holds the chunk: named so that the codec's own tool restores it."""
    return f"chunks/{index:08d}{CODECS[check_codec(codec)].suffix}"


def _check_line(value: Line) -> None:
    if (value.body is None) == (value.body_base64 is None):
        raise IntegrityError("has not exactly one of body and body_base64")
    try:
        kept = line_of(value.message())
    except (ValueError, msgspec.ValidationError) as exc:
        raise IntegrityError(f"is no message: {exc}") from exc
    if kept != value:
        raise IntegrityError("its body or its time is not in the one spelling there is")
