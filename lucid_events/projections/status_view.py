"""The status of one session as it is stored: JSON that any NATS client can read from the bucket.

Lists are capped, so a view has a size that does not depend on the length of the recording; a
count beside each tells how many there were.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId
from lucid_events.domain.state import Proposal
from lucid_events.domain.transitions import State, Trigger
from lucid_events.domain.values import Fact, SessionSettings, Span
from lucid_events.ports import Position
from lucid_events.projections.base import Problem
from lucid_events.projections.chunk_progress import ChunkProgress

MAX_TRANSITIONS = 32
"""Newest transitions kept: 8 KiB at most. Half would not hold two pauses and their recovery; the
whole list is in the history."""
MAX_GAPS = 64
"""Newest gaps kept, after neighbours are merged: 3 KiB."""
MAX_CORRUPT = 64
"""Corrupt chunks named, the newest: half a KiB."""
MAX_MARKS = 64
"""Newest bookmarks kept: 16 KiB when every label has its greatest length."""


class Transition(Fact, frozen=True, kw_only=True):
    """One change of state; `cause` is the id of the command or event behind it."""

    from_: State | None = msgspec.field(name="from")
    trigger: Trigger
    to: State
    when: datetime
    actor: str
    cause: str
    reason: str
    version: int


class AttachedRecorder(Fact, frozen=True, kw_only=True):
    """Whoever writes the session's bytes now; `step` is how it answers pressure."""

    recorder: str
    epoch: int
    attached_at: datetime
    step: str = "flowing"
    drained: bool = False


class Bookmark(Fact, frozen=True, kw_only=True):
    """A label at a byte offset."""

    label: str
    offset: int
    at: datetime


class LastError(Fact, frozen=True, kw_only=True):
    """The newest `session.failed`; it stays after a recovery."""

    code: str
    reason: str
    at: datetime
    version: int


class ManifestRef(Fact, frozen=True, kw_only=True):
    """The newest manifest, by what identifies it; the whole of it is in the history at `at`."""

    version: int
    merkle_root: str
    at: int


class LastVerified(Fact, frozen=True, kw_only=True):
    """The newest `session.verified`: as of `version`, over `chunks`; `first` is the first difference."""

    at: datetime
    version: int
    holds: bool
    chunks: int
    first: str = ""


class StatusView(Fact, frozen=True, kw_only=True):
    """Everything one asks about a session without reading its history.

    `sealed_offset` is where the sealed bytes end, gaps included; up to `ready_offset` every byte is
    stored or known to be missing. `raw_bytes` and `stored_bytes` count ready chunks, `ratio` is
    raw / stored, absent while nothing is stored. `damaged_at` is the first event whose link to its
    predecessor is broken. `proposal` is the cleanup that is proposed, or that a session in `cleanup` or
    `destroyed` was erased by. `position` and `head` are the cutoff.
    """

    session_id: SessionId
    state: State | None = None
    since: datetime | None = None
    owner: str = ""
    label: str = ""
    metadata: Mapping[str, str] = {}
    settings: SessionSettings = SessionSettings()
    created_at: datetime | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    epoch: int = 0
    recorder: AttachedRecorder | None = None
    source: str = ""
    content_type: str = ""
    sealed_offset: int = 0
    ready_offset: int = 0
    chunks: ChunkProgress = ChunkProgress()
    raw_bytes: int = 0
    stored_bytes: int = 0
    ratio: float | None = None
    gaps: tuple[Span, ...] = ()
    gap_count: int = 0
    gap_bytes: int = 0
    holds: Mapping[str, str] = {}
    proposal: Proposal | None = None
    marks: tuple[Bookmark, ...] = ()
    mark_count: int = 0
    last_error: LastError | None = None
    transitions: tuple[Transition, ...] = ()
    transition_count: int = 0
    manifest: ManifestRef | None = None
    verified: LastVerified | None = None
    corrupt: tuple[int, ...] = ()
    corrupt_count: int = 0
    events: int = 0
    damaged_at: int | None = None
    problem: Problem | None = None
    position: Position
    head: Digest = NO_DIGEST
