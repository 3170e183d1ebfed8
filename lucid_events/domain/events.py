"""Everything that can have happened to a session, one struct per fact.

The body on the wire is the struct alone; its name and version travel in the envelope
(`ce-type`). Wire names are written out: classes get renamed, history does not. A stored event
never changes meaning: a new field has a default, anything else is a new version and an
upcaster (`upcast.py`).
"""

from typing import ClassVar, Literal

from lucid_events.domain.values import (
    Count,
    Epoch,
    Fact,
    Frames,
    Instant,
    Label,
    Manifest,
    Metadata,
    Name,
    Offset,
    Quality,
    Retention,
    SessionSettings,
    Sha256,
    Size,
    StreamSequence,
    Text,
)

type_of_cut = Literal["size", "time", "pause", "stop", "end", "pressure", "salvage"]
type_of_source = Literal["session", "service"]


class SessionEvent(Fact, frozen=True, kw_only=True):
    """Base of all events; `type` is the versioned wire name."""

    type: ClassVar[str]


class SessionCreated(SessionEvent, frozen=True, kw_only=True):
    """The session exists, with the settings it will be cut and compressed by."""

    type: ClassVar[str] = "session.created.v1"
    owner: Name = ""
    label: Name = ""
    metadata: Metadata = {}
    settings: SessionSettings


class SessionStarted(SessionEvent, frozen=True, kw_only=True):
    """The session waits for its recorder."""

    type: ClassVar[str] = "session.started.v1"


class SessionPausing(SessionEvent, frozen=True, kw_only=True):
    """A pause was asked for; the recorder drains."""

    type: ClassVar[str] = "session.pausing.v1"
    reason: Text = ""


class SessionPaused(SessionEvent, frozen=True, kw_only=True):
    """The recorder has sealed what it had; nothing is taken in until `session.resumed`."""

    type: ClassVar[str] = "session.paused.v1"
    offset: Offset


class SessionResumed(SessionEvent, frozen=True, kw_only=True):
    """Intake goes on at `offset`."""

    type: ClassVar[str] = "session.resumed.v1"
    offset: Offset


class SessionStopping(SessionEvent, frozen=True, kw_only=True):
    """A stop was asked for; the recorder drains and detaches, chunks in flight become ready."""

    type: ClassVar[str] = "session.stopping.v1"
    reason: Text = ""


class SessionStopped(SessionEvent, frozen=True, kw_only=True):
    """Every sealed chunk is ready or failed; the manifest says what the session consists of."""

    type: ClassVar[str] = "session.stopped.v1"
    manifest: Manifest


class SessionFailed(SessionEvent, frozen=True, kw_only=True):
    """The session went to `error`; what was captured has been salvaged in the same append."""

    type: ClassVar[str] = "session.failed.v1"
    code: Name
    reason: Text = ""


class SessionRecovered(SessionEvent, frozen=True, kw_only=True):
    """Back to `created`; epochs, indices and offsets go on from where they were."""

    type: ClassVar[str] = "session.recovered.v1"
    reason: Text = ""


class SessionMarked(SessionEvent, frozen=True, kw_only=True):
    """A bookmark: `label` at `offset`."""

    type: ClassVar[str] = "session.marked.v1"
    label: Label
    offset: Offset


class SessionHeld(SessionEvent, frozen=True, kw_only=True):
    """Nothing of the session may be erased while `hold` stands."""

    type: ClassVar[str] = "session.held.v1"
    hold: Label
    reason: Text = ""


class SessionReleased(SessionEvent, frozen=True, kw_only=True):
    """`hold` no longer stands."""

    type: ClassVar[str] = "session.released.v1"
    hold: Label
    reason: Text = ""


class SessionCleanupProposed(SessionEvent, frozen=True, kw_only=True):
    """The bytes are past their time: they are erased at `due`, unless a hold or a recovery comes first.

    `retention` is the policy that says so, counted from `ended_at`; `source` whether the session's own
    history states it, or the service it was applied by.
    """

    type: ClassVar[str] = "session.cleanup_proposed.v1"
    retention: Retention
    source: type_of_source
    ended_at: Instant
    due: Instant


class SessionCleanupStarted(SessionEvent, frozen=True, kw_only=True):
    """The session's capture and chunks are being erased.

    `proposed` is the version of the proposal that is carried out; None: somebody asked for it.
    """

    type: ClassVar[str] = "session.cleanup_started.v1"
    reason: Text = ""
    proposed: StreamSequence | None = None


class SessionDestroyed(SessionEvent, frozen=True, kw_only=True):
    """Nothing of the session is stored any more but its history."""

    type: ClassVar[str] = "session.destroyed.v1"
    objects: Count = 0
    stored_bytes: Count = 0
    reason: Text = ""


class SessionViewed(SessionEvent, frozen=True, kw_only=True):
    """Whoever the envelope names was handed bytes from `start` on, up to `end` where that was known.

    Written before the first byte is handed out, once for each viewer and five minutes: `start` and
    `end` are those of the first viewing in that time.
    """

    type: ClassVar[str] = "session.viewed.v1"
    start: Offset
    end: Offset | None = None
    how: Name = ""


class SessionVerified(SessionEvent, frozen=True, kw_only=True):
    """The history up to `version`, and `chunks` of the `ready` ones, were checked against their bytes.

    `head` is the digest the history ended with. When it does not hold, `first` names the first of
    `differences`. `seed` says which chunks a sample was made of.
    """

    type: ClassVar[str] = "session.verified.v1"
    version: StreamSequence
    head: Sha256
    holds: bool
    chunks: Count
    ready: Count
    raw_bytes: Count
    signature: Name
    differences: Count = 0
    first: Text = ""
    seed: Name = ""


class RecorderAttached(SessionEvent, frozen=True, kw_only=True):
    """A recorder owns the session's intake from `offset` on, as `epoch`.

    What a `resumable` source leaves behind a hole is not salvaged: the source has it still.
    """

    type: ClassVar[str] = "recorder.attached.v1"
    epoch: Epoch
    recorder: Label
    offset: Offset
    source: Name = ""
    content_type: Name = ""
    takeover: bool = False
    resumable: bool = False


class RecorderDrained(SessionEvent, frozen=True, kw_only=True):
    """The recorder has nothing left to seal up to `offset`."""

    type: ClassVar[str] = "recorder.drained.v1"
    epoch: Epoch
    offset: Offset


class RecorderDetached(SessionEvent, frozen=True, kw_only=True):
    """The recorder left in order; its epoch is fenced."""

    type: ClassVar[str] = "recorder.detached.v1"
    epoch: Epoch
    offset: Offset
    reason: Text = ""
    exit_code: int | None = None


class RecorderLost(SessionEvent, frozen=True, kw_only=True):
    """The recorder is gone without a word, or was replaced; its epoch is fenced."""

    type: ClassVar[str] = "recorder.lost.v1"
    epoch: Epoch
    reason: Text = ""
    last_seen: Instant | None = None


class RecorderSlowed(SessionEvent, frozen=True, kw_only=True):
    """The recorder answers pressure, or is over it: `step` is what it does from `offset` on."""

    type: ClassVar[str] = "recorder.slowed.v1"
    epoch: Epoch
    offset: Offset
    step: Literal["blocking", "spooling", "flowing"]
    reason: Text = ""


class ChunkSealed(SessionEvent, frozen=True, kw_only=True):
    """Boundary and digest of a chunk are final; its bytes stand in capture.

    The bytes are the capture messages of `lucid.cap.<sid>.<epoch>.<n>` with sequences
    `first_seq` to `last_seq` whose offsets lie in `[offset, offset + size)`.
    `gap_before` bytes right before `offset` are declared missing.
    """

    type: ClassVar[str] = "chunk.sealed.v1"
    index: Count
    epoch: Epoch
    n: Count
    offset: Offset
    size: Size
    sha256: Sha256
    first_seq: StreamSequence
    last_seq: StreamSequence
    started_at: Instant
    ended_at: Instant
    cut: type_of_cut
    recovered: bool = False
    gap_before: Count = 0
    frames: Frames | None = None


class ChunkReady(SessionEvent, frozen=True, kw_only=True):
    """The chunk is stored, compressed and verified; `sha256` was made at the source.

    `ratio` is raw bytes / stored bytes; `timings_ms` holds milliseconds per step.
    """

    type: ClassVar[str] = "chunk.ready.v1"
    index: Count
    offset: Offset
    size: Size
    stored_size: Count
    sha256: Sha256
    stored_sha256: Sha256
    codec: Name
    level: int | None = None
    ratio: float
    quality: Quality
    hash_by: Literal["recorder", "salvage"]
    bucket: Name
    object: Name
    timings_ms: dict[str, float] = {}


class ChunkFailed(SessionEvent, frozen=True, kw_only=True):
    """The chunk's bytes are complete and wrong, or can't be stored: set aside, not lost."""

    type: ClassVar[str] = "chunk.failed.v1"
    index: Count
    code: Name
    reason: Text = ""


class ChunkCorrupt(SessionEvent, frozen=True, kw_only=True):
    """A ready chunk was read and is not what was stored: `what` differs, `expected` and `found` say how."""

    type: ClassVar[str] = "chunk.corrupt.v1"
    index: Count
    what: Name
    reason: Text = ""
    expected: Text = ""
    found: Text = ""


class GapDeclared(SessionEvent, frozen=True, kw_only=True):
    """The bytes from `start` up to `end` are missing, and known to be."""

    type: ClassVar[str] = "gap.declared.v1"
    epoch: Epoch
    start: Offset
    end: Offset
    reason: Text


Event = (
    SessionCreated
    | SessionStarted
    | SessionPausing
    | SessionPaused
    | SessionResumed
    | SessionStopping
    | SessionStopped
    | SessionFailed
    | SessionRecovered
    | SessionMarked
    | SessionHeld
    | SessionReleased
    | SessionCleanupProposed
    | SessionCleanupStarted
    | SessionDestroyed
    | SessionViewed
    | SessionVerified
    | RecorderAttached
    | RecorderDrained
    | RecorderDetached
    | RecorderLost
    | RecorderSlowed
    | ChunkSealed
    | ChunkReady
    | ChunkFailed
    | ChunkCorrupt
    | GapDeclared
)

EVENT_TYPES: dict[str, type[SessionEvent]] = {kind.type: kind for kind in Event.__args__}
"""Current wire name -> struct; retired names are in `upcast.py`."""
