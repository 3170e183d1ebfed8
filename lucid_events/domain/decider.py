"""The rules: what a command brings about in a session, or why it may not.

`decide` is pure. When it can't tell without a fact from outside it answers `Needs`; the shell
gathers the fact, puts it into the command and asks again. That way nothing outside is touched
(no epoch fenced, no recorder listened for) on behalf of a command the rules refuse anyway.

No event means: accepted, nothing to do (a stop on a stopping session).
"""

from typing import assert_never

from msgspec.structs import replace

from lucid_events.domain import codecs, recording, retention
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.decisions import Needs, Rejected, Repeated, allowed_in, reject
from lucid_events.domain.state import REPEAT_HORIZON, VIEW_INTERVAL, Session, chunk_is_ready
from lucid_events.domain.transitions import ERASING, State, Trigger, target
from lucid_events.domain.values import SessionSettings
from lucid_events.errors import ConfigError

Decision = list[ev.SessionEvent] | Rejected | Repeated | Needs

_S, _T = State, Trigger

_WAITED_FOR = {"start": _S.STARTING, "attach": _S.ACTIVE, "pause": _S.PAUSING, "stop": _S.STOPPING}

_ENDED = frozenset({_S.STOPPED, _S.ERROR, _S.CLEANUP, _S.DESTROYED})

_SESSION_VERBS = (
    cmd.Create
    | cmd.Start
    | cmd.Pause
    | cmd.Resume
    | cmd.Stop
    | cmd.Fail
    | cmd.Recover
    | cmd.Mark
    | cmd.Hold
    | cmd.Release
    | cmd.Cleanup
    | cmd.Destroy
)


def decide(asked: cmd.Asked, session: Session) -> Decision:
    """Return the events `asked` brings about in `session`, or why not, or what must be known first."""
    command = asked.command
    if isinstance(command, _SESSION_VERBS):
        if (first := session.remembered.get(asked.id)) is not None:
            return Repeated(first=first)
        issued_at, forgotten = asked.issued_at, session.forgotten_until
        if issued_at is not None and issued_at < asked.at - REPEAT_HORIZON:
            return reject(
                session,
                "expired",
                f"the command was issued at {issued_at.isoformat()}, too long ago to tell a repeat "
                "from a new one: send it again under a new id and time",
                field="ce-time",
            )
        if asked.stored is None and forgotten and (issued_at is None or issued_at <= forgotten):
            return Needs(stored=True)
    if asked.stored:
        if isinstance(command, cmd.InternalCommand):
            return []  # what it was to bring about stands in the history
        return reject(
            session,
            "expired",
            f"command {asked.id} has been carried out, too long ago for its outcome to be remembered: "
            "read the history; what is to happen once more goes under a new id",
            field="ce-id",
        )
    if session.state is None and not isinstance(command, cmd.Create):
        return Rejected(
            code="not_found",
            message=f"there is no session {session.id}: create it first",
            allowed=(_T.CREATE.value,),
        )
    return _decide(asked, session)


def _decide(asked: cmd.Asked, session: Session) -> Decision:
    command = asked.command
    match command:
        case cmd.Create():
            return _create(asked, command, session)
        case cmd.Start():
            return _move(session, _T.START, [ev.SessionStarted()], already=_S.STARTING)
        case cmd.Pause():
            return _pause(command, session)
        case cmd.Resume():
            return _move(session, _T.RESUME, [ev.SessionResumed(offset=session.offset)])
        case cmd.Stop():
            return _move(session, _T.STOP, [ev.SessionStopping(reason=command.reason)], already=_S.STOPPING)
        case cmd.Fail():
            return recording.fail(asked, session, code=command.code, reason=command.reason)
        case cmd.Recover():
            return _move(session, _T.RECOVER, [ev.SessionRecovered(reason=command.reason)])
        case cmd.Mark():
            return _mark(command, session)
        case cmd.Hold():
            return _hold(command, session)
        case cmd.Release():
            return _release(command, session)
        case cmd.View():
            return _view(asked, command, session)
        case cmd.Cleanup():
            return _cleanup(command, session)
        case cmd.Destroy():
            return _destroy(command, session)
        case cmd.Attach():
            return recording.attach(asked, command, session)
        case cmd.Seal():
            return recording.seal(asked, command, session)
        case cmd.Drained():
            return recording.drained(command, session)
        case cmd.Gap():
            return recording.gap(command, session)
        case cmd.Slow():
            return recording.slow(command, session)
        case cmd.Detach():
            return recording.detach(asked, command, session)
        case cmd.LoseRecorder():
            return recording.lose(asked, command, session)
        case cmd.ChunkStored():
            return recording.stored(command, session)
        case cmd.ChunkRefused():
            return recording.refused(command, session)
        case cmd.NoteFinding():
            return _note(command, session)
        case cmd.TimeOut():
            return _time_out(asked, command, session)
        case cmd.Finish():
            return _finish(asked, session)
        case cmd.ProposeCleanup():
            return retention.propose(asked, command, session)
        case cmd.CarryOut():
            return retention.carry_out(asked, command, session)
        case cmd.Erased():
            return _erased(command, session)
        case cmd.EraseFailed():
            if session.state is not _S.CLEANUP:
                return []
            return [ev.SessionFailed(code=retention.CLEANUP_FAILED, reason=command.reason)]
    assert_never(command)


def _move(
    session: Session, trigger: Trigger, events: list[ev.SessionEvent], *, already: State | None = None
) -> Decision:
    if already is not None and session.state is already:
        return []
    if target(session.state, trigger) is None:
        return illegal(session, trigger)
    return events


def illegal(session: Session, trigger: Trigger) -> Rejected:
    """Return the rejection of a trigger that the table does not have in this state."""
    return reject(
        session, "illegal_transition", f"session {session.id} is {session.state}: {trigger} is not allowed"
    )


def _create(asked: cmd.Asked, command: cmd.Create, session: Session) -> Decision:
    if session.state is not None:
        return reject(session, "exists", f"session {session.id} exists already and is {session.state}")
    wanted, default = command.settings, asked.defaults
    codec = wanted.codec or default.codec
    level = wanted.level if wanted.level is not None or wanted.codec else default.level
    try:
        codecs.check_level(codec, level)
    except ConfigError as exc:
        return Rejected(code="invalid", message=exc.message, field="settings")
    kept = retention.agreed(wanted.retention, default.retention, asked.limits)
    if isinstance(kept, Rejected):
        return kept
    settings = SessionSettings(
        chunk_bytes=wanted.chunk_bytes or default.chunk_bytes,
        chunk_seconds=wanted.chunk_seconds or default.chunk_seconds,
        codec=codec,
        level=level,
        retention=kept,
    )
    created = ev.SessionCreated(
        owner=command.owner, label=command.label, metadata=command.metadata, settings=settings
    )
    return [created]


def _pause(command: cmd.Pause, session: Session) -> Decision:
    events: list[ev.SessionEvent] = [ev.SessionPausing(reason=command.reason)]
    if session.lease is None:
        events.append(ev.SessionPaused(offset=session.offset))
    return _move(session, _T.PAUSE, events, already=_S.PAUSING)


def _mark(command: cmd.Mark, session: Session) -> Decision:
    """Bookmark a place that is recorded, or that an unfinished recording may still get to."""
    offset = session.offset if command.offset is None else command.offset
    if offset > session.offset and session.state in _ENDED:
        return reject(
            session,
            "beyond_end",
            f"session {session.id} is {session.state} and ends at byte {session.offset}: "
            f"there is nothing to mark at {offset}",
            field="offset",
        )
    return [ev.SessionMarked(label=command.label, offset=offset)]


def _hold(command: cmd.Hold, session: Session) -> Decision:
    if session.state in (_S.CLEANUP, _S.DESTROYED):
        return reject(session, "erased", f"session {session.id} is {session.state}: a hold comes too late")
    if command.hold in session.holds:
        return []
    return [ev.SessionHeld(hold=command.hold, reason=command.reason)]


def _release(command: cmd.Release, session: Session) -> Decision:
    if command.hold not in session.holds:
        return reject(
            session,
            "no_such_hold",
            f"{session.id} has no hold {command.hold!r}; it has: {', '.join(session.holds) or 'none'}",
            field="hold",
        )
    return [ev.SessionReleased(hold=command.hold, reason=command.reason)]


def _view(asked: cmd.Asked, command: cmd.View, session: Session) -> Decision:
    if session.state in ERASING:
        return []  # there is nothing left to look at
    last = session.viewed.get(asked.actor)
    # Distance, not order: a clock that was ahead once must not hide viewings until it is reached.
    if last is not None and abs(asked.at - last) < VIEW_INTERVAL:
        return []
    return [ev.SessionViewed(start=command.start, end=command.end, how=command.how)]


def _note(command: cmd.NoteFinding, session: Session) -> Decision:
    """Note what was found; of a corrupt chunk once, and only when it ought to be there."""
    finding = command.finding
    if session.state in ERASING:
        return []
    if isinstance(finding, ev.ChunkCorrupt) and (
        finding.index in session.corrupt or not chunk_is_ready(session, finding.index)
    ):
        return []
    return [finding]


def _held(session: Session) -> Rejected | None:
    if not session.holds:
        return None
    return Rejected(
        code="held",
        message=f"session {session.id} is held by {', '.join(session.holds)}: release each hold first",
        allowed=(*allowed_in(session), "release"),
    )


def _cleanup(command: cmd.Cleanup, session: Session) -> Decision:
    moved = _move(session, _T.CLEANUP, [ev.SessionCleanupStarted(reason=command.reason)], already=_S.CLEANUP)
    return (_held(session) or moved) if isinstance(moved, list) else moved


def _destroy(command: cmd.Destroy, session: Session) -> Decision:
    moved = _move(session, _T.DESTROY, [ev.SessionDestroyed(reason=command.reason)])
    if isinstance(moved, Rejected):
        return moved
    if session.next_index:
        erased = (
            "cleanup erases them first" if target(session.state, _T.CLEANUP) else "fail it, then clean it up"
        )
        return reject(session, "not_empty", f"session {session.id} has {session.next_index} chunks: {erased}")
    return _held(session) or moved


def _time_out(asked: cmd.Asked, command: cmd.TimeOut, session: Session) -> Decision:
    waited_for = _WAITED_FOR[command.what]
    absent = command.what == "attach"
    since = session.unattended_version if absent else session.since_version
    if session.state is not waited_for or since != command.armed_at or (absent and session.lease):
        return []  # the session has moved on: the timer is stray
    if absent:
        reason = "its recorder left without a stop, and no other one attached in time"
        return recording.fail(asked, session, code="attach_timeout", reason=reason)
    return recording.fail(
        asked,
        session,
        code=f"{command.what}_timeout",
        reason=f"nothing completed the {command.what} in time",
    )


def _finish(asked: cmd.Asked, session: Session) -> Decision:
    drained = session.state is _S.STOPPING and session.lease is None and not session.pending
    renewed = session.state is _S.STOPPED and session.manifest_stale and not session.pending
    if not (drained or renewed):
        return []
    if asked.manifest is None:
        return Needs(manifest=True)
    version = session.manifest.version + 1 if session.manifest else 1
    return [ev.SessionStopped(manifest=replace(asked.manifest, version=version))]


def _erased(command: cmd.Erased, session: Session) -> Decision:
    if session.state is not _S.CLEANUP:
        return []
    return [ev.SessionDestroyed(objects=command.objects, stored_bytes=command.stored_bytes)]
