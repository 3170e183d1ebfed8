"""What makes a history legal, said a second time, independently of the decider.

The decider refuses what is illegal before it is written; this reads what was written. Tests hold
the two against each other, and verification uses it on stored histories.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import cast

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.state import Session, chunk_is_ready, evolve, initial
from lucid_events.domain.transitions import (
    ENDED,
    ERASING,
    TAKES_BYTES,
    WITHOUT_RECORDER,
    State,
    target,
    trigger_of,
)


def violations(history: Sequence[Recorded]) -> Iterator[tuple[Recorded, str]]:
    """Yield every event of a history that the rules would not have allowed, with the reason."""
    if not history:
        return
    session = initial(history[0].session)
    for recorded in history:
        wrong = check(session, cast(ev.Event, recorded.event))
        if wrong:
            yield recorded, wrong
        session = evolve(session, recorded)


def check(session: Session, event: ev.Event) -> str:
    """Return what is illegal about `event` in `session`, an empty string when nothing is."""
    if session.state is None and not isinstance(event, ev.SessionCreated):
        return "the session does not exist yet"
    trigger = trigger_of(session.state, event)
    if trigger is not None and target(session.state, trigger) is None:
        return f"{trigger} is not allowed in {session.state}"
    match event:
        case ev.RecorderAttached():
            if session.lease is not None:
                return "another recorder is attached"
            if session.state in WITHOUT_RECORDER and session.state is not State.STARTING:
                return f"no recorder attaches in {session.state}"
            if event.epoch != session.epoch + 1 or event.offset != session.offset:
                follows = f"does not follow {session.epoch} at {session.offset}"
                return f"epoch {event.epoch} at {event.offset} {follows}"
        case ev.RecorderDrained() | ev.RecorderDetached() | ev.RecorderLost() | ev.RecorderSlowed():
            if session.lease is None or session.lease.epoch != event.epoch:
                return f"epoch {event.epoch} is not attached"
        case ev.ChunkSealed():
            return _sealed(session, event)
        case ev.ChunkReady() | ev.ChunkFailed():
            return _settled(session, event)
        case ev.ChunkCorrupt():
            if not chunk_is_ready(session, event.index):
                return f"chunk {event.index} is not ready"
        case ev.GapDeclared():
            if event.epoch != session.epoch or event.start != session.offset or event.end <= event.start:
                return f"a gap {event.start}-{event.end} does not follow offset {session.offset}"
        case ev.SessionStopped():
            if session.lease is not None or session.pending:
                return "a recorder is attached, or chunks are neither ready nor failed"
            if event.manifest.version != (session.manifest.version + 1 if session.manifest else 1):
                return f"manifest version {event.manifest.version} does not follow"
            if (
                event.manifest.chunks != session.ready_chunks
                or event.manifest.raw_bytes != session.ready_bytes
            ):
                return "the manifest does not count the chunks that are ready"
        case ev.SessionPaused():
            if event.offset != session.offset:
                return f"paused at {event.offset}, sealed up to {session.offset}"
        case ev.SessionFailed():
            if session.lease is not None:
                return "the recorder was neither detached nor given up"
        case ev.SessionCleanupProposed():
            return _proposed(session, event)
        case ev.SessionCleanupStarted() | ev.SessionDestroyed():
            if session.holds:
                return f"held by {', '.join(session.holds)}"
            if isinstance(event, ev.SessionCleanupStarted) and event.proposed is not None:
                standing = session.proposal.version if session.proposal else None
                if event.proposed != standing:
                    return f"it carries out the proposal at {event.proposed}, and {standing or 'none'} stands"
        case _:
            pass
    return ""


def _sealed(session: Session, event: ev.ChunkSealed) -> str:
    if event.index != session.next_index or event.offset != session.offset:
        return (
            f"chunk {event.index} at {event.offset} does not follow {session.next_index} at {session.offset}"
        )
    if event.epoch != session.epoch:
        return f"epoch {event.epoch} may not write"
    if not event.recovered and (session.state not in TAKES_BYTES or session.lease is None):
        return f"nothing is sealed in {session.state}"
    end_of_last = session.last_seal.offset + session.last_seal.size if session.last_seal else 0
    if event.gap_before != event.offset - end_of_last:
        return f"chunk {event.index} names a gap of {event.gap_before}, not {event.offset - end_of_last}"
    if event.size > session.settings.chunk_bytes:
        return f"chunk of {event.size} bytes, at most {session.settings.chunk_bytes} are allowed"
    return ""


def _proposed(session: Session, event: ev.SessionCleanupProposed) -> str:
    if session.state not in ENDED:
        return f"no cleanup is proposed in {session.state}"
    if session.holds:
        return f"held by {', '.join(session.holds)}"
    if session.proposal is not None:
        return f"the proposal at {session.proposal.version} stands"
    if event.ended_at != session.ended_at:
        return f"the recording ended at {session.ended_at}, not at {event.ended_at}"
    if event.due < event.ended_at + timedelta(days=event.retention.payload_days):
        return f"it is due at {event.due}, before its {event.retention.payload_days:g} days are over"
    stated = session.settings.retention
    if event.source == "session" and event.retention != stated:
        return "the history states another policy"
    if event.source == "service" and stated is not None:
        return "the history states a policy, and the service's was applied"
    return ""


def _settled(session: Session, event: ev.ChunkReady | ev.ChunkFailed) -> str:
    if session.state in ERASING:
        return f"no chunk is settled in {session.state}"
    sealed = session.pending.get(event.index)
    if isinstance(event, ev.ChunkReady):
        sealed = sealed or session.failed.get(event.index)
    if sealed is None:
        return f"chunk {event.index} is not waiting"
    if isinstance(event, ev.ChunkReady) and (event.offset, event.size, event.sha256) != (
        sealed.offset,
        sealed.size,
        sealed.sha256,
    ):
        return f"chunk {event.index} is ready with other bytes than were sealed"
    return ""
