"""An event with what is known about it: who, when, why, and where it stands in the log."""

from datetime import datetime

import msgspec

from lucid_events.domain.events import SessionEvent
from lucid_events.domain.ids import Digest, EventId, Sequence, SessionId


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event decided, not yet stored.

    `cause` is the id of the command or event that brought it about, `correlation` the id the
    whole chain of work started with, `time` the writer's clock.
    """

    id: EventId
    session: SessionId
    event: SessionEvent
    time: datetime
    cause: str
    correlation: str
    actor: str
    traceparent: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An event as stored: `sequence` in the stream, `stored_at` by the server's clock.

    `digest` is the hash of the event's framed bytes, `prev` the digest it names as its
    predecessor's. `type` is the wire name it was stored under, which an upcaster may have left
    behind.
    """

    id: EventId
    session: SessionId
    event: SessionEvent
    type: str
    time: datetime
    cause: str
    correlation: str
    actor: str
    sequence: Sequence
    stored_at: datetime
    prev: Digest
    digest: Digest
    traceparent: str = ""


class Stray(msgspec.Struct, frozen=True, kw_only=True):
    """A message on a history's subject that is not an event; it counts for the version only."""

    session: SessionId
    subject: str
    sequence: Sequence
    stored_at: datetime
    reason: str
