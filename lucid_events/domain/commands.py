"""Everything that can be asked of a session, one struct per request.

`Command` is what travels on the wire (`lucid.cmd.<sid>.<verb>`); `InternalCommand` is what only
our own handlers may ask. Both go through the same decider.
"""

from typing import ClassVar, Literal

from lucid_events.domain.events import ChunkCorrupt, SessionVerified
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.outside import CaptureTail, Salvage
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
    Request,
    Retention,
    RetentionLimits,
    SessionSettings,
    SettingsAsked,
    Sha256,
    Size,
    StreamSequence,
    Text,
)


class SessionCommand(Request, frozen=True, kw_only=True):
    """Base of all wire commands; `verb` is the subject's last token, `type` the versioned name."""

    verb: ClassVar[str]
    type: ClassVar[str]


class Create(SessionCommand, frozen=True, kw_only=True):
    """Bring a session into being; every field is optional."""

    verb: ClassVar[str] = "create"
    type: ClassVar[str] = "session.create.v1"
    owner: Name = ""
    label: Name = ""
    metadata: Metadata = {}
    settings: SettingsAsked = SettingsAsked()


class Start(SessionCommand, frozen=True, kw_only=True):
    """Let a recorder attach."""

    verb: ClassVar[str] = "start"
    type: ClassVar[str] = "session.start.v1"


class Pause(SessionCommand, frozen=True, kw_only=True):
    """Drain, then take nothing in until `resume`."""

    verb: ClassVar[str] = "pause"
    type: ClassVar[str] = "session.pause.v1"
    reason: Text = ""


class Resume(SessionCommand, frozen=True, kw_only=True):
    """Take in again after a pause."""

    verb: ClassVar[str] = "resume"
    type: ClassVar[str] = "session.resume.v1"


class Stop(SessionCommand, frozen=True, kw_only=True):
    """Drain, let the recorder detach, finish with a manifest."""

    verb: ClassVar[str] = "stop"
    type: ClassVar[str] = "session.stop.v1"
    reason: Text = ""


class Fail(SessionCommand, frozen=True, kw_only=True):
    """Give the session up: salvage what was captured and go to `error`."""

    verb: ClassVar[str] = "fail"
    type: ClassVar[str] = "session.fail.v1"
    reason: Text = ""
    code: Label = "failed"


class Recover(SessionCommand, frozen=True, kw_only=True):
    """Bring a stopped or failed session back to `created`."""

    verb: ClassVar[str] = "recover"
    type: ClassVar[str] = "session.recover.v1"
    reason: Text = ""


class Mark(SessionCommand, frozen=True, kw_only=True):
    """Set a bookmark at `offset`, or where the sealed bytes end now.

    While a session may still be recorded it may lie ahead of them: bytes are captured before they are
    sealed. Of a session that has ended, a place beyond its end is refused.
    """

    verb: ClassVar[str] = "mark"
    type: ClassVar[str] = "session.mark.v1"
    label: Label
    offset: Offset | None = None


class Hold(SessionCommand, frozen=True, kw_only=True):
    """Forbid erasure until `release`."""

    verb: ClassVar[str] = "hold"
    type: ClassVar[str] = "session.hold.v1"
    hold: Label
    reason: Text = ""


class Release(SessionCommand, frozen=True, kw_only=True):
    """Lift a hold."""

    verb: ClassVar[str] = "release"
    type: ClassVar[str] = "session.release.v1"
    hold: Label
    reason: Text = ""


class View(SessionCommand, frozen=True, kw_only=True):
    """Note that whoever asks is about to be handed bytes from `start` on; ask before handing them out.

    Noted once for each viewer and five minutes; in between there is nothing to do.
    """

    verb: ClassVar[str] = "view"
    type: ClassVar[str] = "session.view.v1"
    start: Offset = 0
    end: Offset | None = None
    how: Name = "play"


class Cleanup(SessionCommand, frozen=True, kw_only=True):
    """Erase the session's bytes; its history stays."""

    verb: ClassVar[str] = "cleanup"
    type: ClassVar[str] = "session.cleanup.v1"
    reason: Text = ""


class Destroy(SessionCommand, frozen=True, kw_only=True):
    """End a session of which nothing is stored."""

    verb: ClassVar[str] = "destroy"
    type: ClassVar[str] = "session.destroy.v1"
    reason: Text = ""


class Attach(SessionCommand, frozen=True, kw_only=True):
    """Become the session's recorder; refused while another is alive, unless `takeover`.

    `resumable`: the source keeps every byte until all bytes before it are acknowledged, too, so that
    whoever comes next reads on where the acknowledged ones end.
    """

    verb: ClassVar[str] = "attach"
    type: ClassVar[str] = "recorder.attach.v1"
    recorder: Label
    takeover: bool = False
    source: Name = ""
    content_type: Name = ""
    resumable: bool = False


class Seal(SessionCommand, frozen=True, kw_only=True):
    """Fix the boundary and digest of the epoch's `n`-th chunk; every byte of it was acked."""

    verb: ClassVar[str] = "seal"
    type: ClassVar[str] = "recorder.seal.v1"
    epoch: Epoch
    n: Count
    offset: Offset
    size: Size
    sha256: Sha256
    first_seq: StreamSequence
    last_seq: StreamSequence
    started_at: Instant
    ended_at: Instant
    cut: Literal["size", "time", "pause", "stop", "end", "pressure"]
    frames: Frames | None = None


class Drained(SessionCommand, frozen=True, kw_only=True):
    """Answer a pause or a stop: nothing is left to seal up to `offset`."""

    verb: ClassVar[str] = "drained"
    type: ClassVar[str] = "recorder.drained.v1"
    epoch: Epoch
    offset: Offset


class Gap(SessionCommand, frozen=True, kw_only=True):
    """Declare that the bytes from `start` up to `end` are missing."""

    verb: ClassVar[str] = "gap"
    type: ClassVar[str] = "recorder.gap.v1"
    epoch: Epoch
    start: Offset
    end: Offset
    reason: Text


class Slow(SessionCommand, frozen=True, kw_only=True):
    """Say how the recorder answers pressure, from `offset` on."""

    verb: ClassVar[str] = "slow"
    type: ClassVar[str] = "recorder.slow.v1"
    epoch: Epoch
    offset: Offset
    step: Literal["blocking", "spooling", "flowing"]
    reason: Text = ""


class Detach(SessionCommand, frozen=True, kw_only=True):
    """Leave in order; everything up to `offset` is sealed."""

    verb: ClassVar[str] = "detach"
    type: ClassVar[str] = "recorder.detach.v1"
    epoch: Epoch
    offset: Offset
    reason: Text = ""
    exit_code: int | None = None


Command = (
    Create
    | Start
    | Pause
    | Resume
    | Stop
    | Fail
    | Recover
    | Mark
    | Hold
    | Release
    | View
    | Cleanup
    | Destroy
    | Attach
    | Seal
    | Drained
    | Gap
    | Slow
    | Detach
)

COMMANDS: dict[str, type[SessionCommand]] = {kind.verb: kind for kind in Command.__args__}
"""Verb -> struct, for every verb a client may send."""

RECORDER_VERBS = frozenset({"attach", "seal", "drained", "gap", "slow", "detach"})
"""Idempotent by epoch and content; they use up no place among the remembered command ids."""


class LoseRecorder(Fact, frozen=True, kw_only=True):
    """The recorder of `epoch` is gone."""

    epoch: Epoch
    reason: Text
    last_seen: Instant | None = None


class TimeOut(Fact, frozen=True, kw_only=True):
    """A deadline armed at `armed_at` (the version of the event it belongs to) has passed.

    `attach` is that of an active session without a recorder.
    """

    what: Literal["start", "attach", "pause", "stop"]
    armed_at: int


class ChunkStored(Fact, frozen=True, kw_only=True):
    """The chunk handler stored and confirmed a chunk; the fields are those of `chunk.ready`."""

    index: Count
    offset: Offset
    size: Size
    stored_size: Count
    sha256: Sha256
    stored_sha256: Sha256
    codec: Name
    level: int | None
    ratio: float
    quality: Quality
    hash_by: Literal["recorder", "salvage"]
    bucket: Name
    object: Name
    timings_ms: dict[str, float] = {}


class ChunkRefused(Fact, frozen=True, kw_only=True):
    """The chunk's bytes are complete and wrong, or can't be stored."""

    index: Count
    code: Name
    reason: Text = ""


class NoteFinding(Fact, frozen=True, kw_only=True):
    """Stored bytes were checked against the history, and this came of it."""

    finding: SessionVerified | ChunkCorrupt


class Finish(Fact, frozen=True, kw_only=True):
    """Write the manifest, if everything is drained and there is something new to say."""


class Erased(Fact, frozen=True, kw_only=True):
    """Every object and capture byte of the session is gone."""

    objects: Count
    stored_bytes: Count


class ProposeCleanup(Fact, frozen=True, kw_only=True):
    """Propose to erase the bytes of an ended session at `due`, if they are past their time.

    `retention` applies where the history states none.
    """

    retention: Retention
    due: Instant


class CarryOut(Fact, frozen=True, kw_only=True):
    """Begin the cleanup that was proposed at version `proposed`, if that stands and is due."""

    proposed: int


class EraseFailed(Fact, frozen=True, kw_only=True):
    """Erasing did not succeed; a person looks."""

    reason: Text


InternalCommand = (
    LoseRecorder
    | TimeOut
    | ChunkStored
    | ChunkRefused
    | NoteFinding
    | Finish
    | ProposeCleanup
    | CarryOut
    | Erased
    | EraseFailed
)


class Asked(Fact, frozen=True, kw_only=True):
    """One command with everything the rules need to know: who, when, and the outside facts.

    `at` is when it is decided, `issued_at` when its sender made it, None when nobody said. `salvage`,
    `alive`, `tail`, `manifest` and `stored` are facts read from outside, absent until the decider
    answers `Needs`; `stored` says whether the history has an event of this command already.
    """

    session: SessionId
    id: CommandId
    command: Command | InternalCommand
    at: Instant
    issued_at: Instant | None
    actor: str
    correlation: str = ""
    traceparent: str = ""
    defaults: SessionSettings = SessionSettings()
    limits: RetentionLimits = RetentionLimits()
    salvage: Salvage | None = None
    alive: bool | None = None
    tail: CaptureTail | None = None
    manifest: Manifest | None = None
    stored: bool | None = None
