"""The status projection: one view per session, folded from every event of its history.

The rules of the ten states are `domain.transitions`; nothing here knows which ways are legal.
"""

from typing import assert_never, cast

from msgspec.structs import replace

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SessionId
from lucid_events.domain.state import proposal_of
from lucid_events.domain.transitions import target, trigger_of
from lucid_events.domain.values import Span
from lucid_events.ports import Position
from lucid_events.projections.base import Problem
from lucid_events.projections.chunk_progress import make_ready, seal, set_aside
from lucid_events.projections.status_view import (
    MAX_CORRUPT,
    MAX_GAPS,
    MAX_MARKS,
    MAX_TRANSITIONS,
    AttachedRecorder,
    Bookmark,
    LastError,
    LastVerified,
    ManifestRef,
    StatusView,
    Transition,
)

Changes = dict[str, object]


class StatusProjection:
    """Folds histories of the log `stream` in its `incarnation` into `StatusView`s."""

    name = "status"
    version = 1
    filters: tuple[str, ...] = ()

    def __init__(self, stream: str, incarnation: int = 1) -> None:
        self._stream, self._incarnation = stream, incarnation

    def initial(self, session: SessionId) -> StatusView:
        """Return the view of an empty history."""
        return StatusView(session_id=session, position=Position(self._stream, self._incarnation, 0))

    def evolve(self, view: StatusView, recorded: Recorded) -> StatusView:
        """Return the view after one more event; an illegal one changes no state."""
        event = cast(ev.Event, recorded.event)
        changes = _changes(view, event, recorded)
        trigger = trigger_of(view.state, event)
        moved = target(view.state, trigger) if trigger else None
        if trigger is not None and moved is not None:
            step = Transition(
                from_=view.state,
                trigger=trigger,
                to=moved,
                when=recorded.time,
                actor=recorded.actor,
                cause=recorded.cause,
                reason=getattr(event, "reason", ""),
                version=recorded.sequence,
            )
            changes["state"], changes["since"] = moved, recorded.time
            changes["transitions"] = (*view.transitions[1 - MAX_TRANSITIONS :], step)
            changes["transition_count"] = view.transition_count + 1
        if recorded.prev != view.head and view.damaged_at is None:
            changes["damaged_at"] = int(recorded.sequence)
        return replace(
            view,
            events=view.events + 1,
            problem=None,
            position=Position(self._stream, self._incarnation, recorded.sequence),
            head=recorded.digest,
            **changes,
        )

    def pass_by(self, view: StatusView, stray: Stray) -> StatusView:
        """Return the view with its cutoff moved past a message that is no event."""
        return replace(view, problem=None, position=Position(self._stream, self._incarnation, stray.sequence))

    def halt(self, view: StatusView, problem: Problem) -> StatusView:
        """Return the view with `problem` in it and its cutoff where it was."""
        return replace(view, problem=problem)


def _changes(view: StatusView, event: ev.Event, recorded: Recorded) -> Changes:
    match event:  # the events of every chunk first: they are nine of ten in a long recording
        case ev.ChunkSealed():
            return {
                "chunks": seal(view.chunks, event.index),
                "sealed_offset": event.offset + event.size,
            }
        case ev.ChunkReady():
            return _ready(view, event)
        case ev.ChunkFailed():
            return {"chunks": set_aside(view.chunks, event.index)}
        case ev.GapDeclared():
            return _gap(view, event)
        case ev.SessionMarked():
            mark = Bookmark(label=event.label, offset=event.offset, at=recorded.time)
            return {"marks": (*view.marks[1 - MAX_MARKS :], mark), "mark_count": view.mark_count + 1}
        case ev.SessionCreated():
            return {
                "owner": event.owner,
                "label": event.label,
                "metadata": event.metadata,
                "settings": event.settings,
                "created_at": recorded.time,
            }
        case ev.SessionStarted():
            return {"started_at": view.started_at or recorded.time}
        case ev.SessionStopped():
            manifest = ManifestRef(
                version=event.manifest.version,
                merkle_root=event.manifest.merkle_root,
                at=recorded.sequence,
            )
            return {"stopped_at": recorded.time, "manifest": manifest}
        case ev.SessionFailed():
            error = LastError(
                code=event.code, reason=event.reason, at=recorded.time, version=recorded.sequence
            )
            return {"recorder": None, "last_error": error, "proposal": None}
        case ev.SessionRecovered():
            return {"stopped_at": None, "proposal": None}
        case ev.SessionHeld():
            return {"holds": {**view.holds, event.hold: event.reason}, "proposal": None}
        case ev.SessionReleased():
            return {"holds": {hold: why for hold, why in view.holds.items() if hold != event.hold}}
        case ev.SessionCleanupProposed():
            return {"proposal": proposal_of(event, recorded)}
        case ev.SessionCleanupStarted():
            carried_out = view.proposal is not None and view.proposal.version == event.proposed
            return {} if carried_out else {"proposal": None}
        case ev.SessionVerified():
            return {
                "verified": LastVerified(
                    at=recorded.time,
                    version=event.version,
                    holds=event.holds,
                    chunks=event.chunks,
                    first=event.first,
                )
            }
        case ev.ChunkCorrupt():
            if event.index in view.corrupt:
                return {}
            corrupt = (*view.corrupt[1 - MAX_CORRUPT :], event.index)
            return {"corrupt": corrupt, "corrupt_count": view.corrupt_count + 1}
        case ev.RecorderAttached():
            recorder = AttachedRecorder(recorder=event.recorder, epoch=event.epoch, attached_at=recorded.time)
            return {
                "epoch": event.epoch,
                "recorder": recorder,
                "source": event.source or view.source,
                "content_type": event.content_type or view.content_type,
            }
        case ev.RecorderDrained():
            return _recorder(view, drained=True)
        case ev.SessionResumed():
            return _recorder(view, drained=False)
        case ev.RecorderSlowed():
            return _recorder(view, step=event.step)
        case ev.RecorderDetached() | ev.RecorderLost():
            return {"recorder": None}
        case (
            ev.SessionPausing()
            | ev.SessionPaused()
            | ev.SessionStopping()
            | ev.SessionDestroyed()
            | ev.SessionViewed()
        ):
            return {}
    assert_never(event)


def _ready(view: StatusView, event: ev.ChunkReady) -> Changes:
    if view.chunks.is_ready(event.index):
        return {}  # counts never double, whatever the history says
    end = event.offset + event.size
    chunks, moved = make_ready(view.chunks, event.index, end)
    raw, stored = view.raw_bytes + event.size, view.stored_bytes + event.stored_size
    changes: Changes = {
        "chunks": chunks,
        "raw_bytes": raw,
        "stored_bytes": stored,
        "ratio": raw / stored if stored else None,
    }
    if moved is not None:
        # Behind the last chunk there may be a gap: nothing is left to store up to its end.
        changes["ready_offset"] = view.sealed_offset if chunks.ready_below == chunks.sealed else moved
    return changes


def _gap(view: StatusView, event: ev.GapDeclared) -> Changes:
    changes: Changes = {
        "sealed_offset": max(view.sealed_offset, event.end),
        "gap_bytes": view.gap_bytes + event.end - event.start,
    }
    if view.chunks.ready_below == view.chunks.sealed:
        changes["ready_offset"] = changes["sealed_offset"]
    if view.gaps and view.gaps[-1].end == event.start:
        merged = Span(start=view.gaps[-1].start, end=event.end)
        return changes | {"gaps": (*view.gaps[:-1], merged)}
    gap = Span(start=event.start, end=event.end)
    return changes | {"gaps": (*view.gaps[1 - MAX_GAPS :], gap), "gap_count": view.gap_count + 1}


def _recorder(view: StatusView, **changes: object) -> Changes:
    return {"recorder": replace(view.recorder, **changes)} if view.recorder else {}
