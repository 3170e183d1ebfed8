"""Values that both events and commands are made of, with the limits that every one obeys."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

MIB = 1024 * 1024
MAX_OFFSET = 2**53 - 1
"""The largest integer every JSON reader keeps exact (RFC 8259, section 6): 8 PiB of one session."""

MIN_CHUNK_BYTES = 1024
"""At half, the message that stores a piece is larger than the piece."""
MAX_CHUNK_BYTES = 100 * MIB
"""A chunk is in memory whole while it is compressed."""

MAX_DAYS = 36_500
"""A hundred years: as good as for good, and still a date that every calendar has."""

Days = Annotated[float, Meta(gt=0, le=MAX_DAYS)]
Text = Annotated[str, Meta(max_length=500)]
Label = Annotated[str, Meta(min_length=1, max_length=200)]
Name = Annotated[str, Meta(max_length=200)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
Epoch = Annotated[int, Meta(ge=1, le=2**31)]
Size = Annotated[int, Meta(ge=1, le=MAX_CHUNK_BYTES)]
StreamSequence = Annotated[int, Meta(ge=1, le=MAX_OFFSET)]
Instant = Annotated[datetime, Meta(tz=True)]
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=100)], Annotated[str, Meta(max_length=2000)]],
    Meta(max_length=64),
]


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything stored: tolerates fields it does not know."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything asked for: refuses fields it does not know."""


class Retention(Fact, frozen=True, kw_only=True):
    """How long a session is kept behind its end: its bytes, and what people wrote about it.

    Days of 24 hours, fractions allowed. Hashes and events are kept for good.
    """

    payload_days: Days = 30.0
    metadata_days: Days = 90.0


class RetentionAsked(Request, frozen=True, kw_only=True):
    """The periods a `create` may ask for, within the service's limits; what is left out is the service's.

    Metadata that nothing is said about is kept at least as long as the bytes.
    """

    payload_days: Days | None = None
    metadata_days: Days | None = None


class RetentionLimits(Fact, frozen=True, kw_only=True):
    """The shortest and the longest period a `create` may ask for, in days."""

    least_days: float = 0.0
    most_days: float = MAX_DAYS


class SessionSettings(Fact, frozen=True, kw_only=True):
    """How one session is cut, compressed and kept, complete: what `session.created` stores.

    Without `retention` it was created before there was any: the service's is applied, and named where
    it is.
    """

    chunk_bytes: Annotated[int, Meta(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)] = 10 * MIB
    chunk_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    codec: str = "gzip"
    level: int | None = None
    retention: Retention | None = None


class SettingsAsked(Request, frozen=True, kw_only=True):
    """The settings a `create` may ask for; what is left out takes the service's default."""

    chunk_bytes: Annotated[int, Meta(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)] | None = None
    chunk_seconds: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    codec: str | None = None
    level: int | None = None
    retention: RetentionAsked = RetentionAsked()


class Frames(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Video frames a recorder counted for one chunk."""

    delivered: Count
    dropped: Count


class Quality(Fact, frozen=True, kw_only=True):
    """How complete a chunk is, 0 to 1: `score` is the product of the parts that are known.

    `complete` = bytes present / (present + declared gap before it);
    `frames` = 1 - dropped / (dropped + delivered), absent when no frames were reported.
    """

    score: float
    complete: float
    frames: float | None = None


class Span(Fact, frozen=True, kw_only=True):
    """A byte range of a session: from `start` up to, not including, `end`."""

    start: Offset
    end: Offset


class CodecTotals(Fact, frozen=True, kw_only=True):
    """What one codec did in a session, in bytes."""

    chunks: Count
    raw_bytes: Count
    stored_bytes: Count


class Manifest(Fact, frozen=True, kw_only=True):
    """What a stopped session consists of, computed by reading its whole history.

    `merkle_root` is the RFC 9162 tree head over the raw SHA-256 of the ready chunks by index;
    `chain_head` is the hash of the last event before this manifest; sizes are bytes.
    """

    version: Annotated[int, Meta(ge=1)]
    chunks: Count
    raw_bytes: Count
    stored_bytes: Count
    end_offset: Offset
    gaps: tuple[Span, ...] = ()
    gap_bytes: Count = 0
    failed: tuple[int, ...] = ()
    merkle_root: Sha256
    chain_head: Sha256
    events: Count
    codecs: dict[str, CodecTotals] = {}
    signature: str | None = None
    key: str | None = None
