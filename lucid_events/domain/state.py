"""What a session's history adds up to, and how one event changes it.

`evolve` is total: it never refuses an event, because what is stored has happened. Whether a
history is legal is `legality.py`'s question.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import assert_never, cast

from msgspec.structs import replace

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import ENDED, State, target, trigger_of
from lucid_events.domain.values import Fact, Manifest, Retention, SessionSettings, Span

REPEAT_HORIZON = timedelta(hours=24)
"""How long a command id is remembered, so that a repeat gets its first outcome."""
MAX_REMEMBERED = 256
"""Most ids remembered: 30 KiB of state. Half forgets a busy hour of marks, twice doubles snapshots."""


VIEW_INTERVAL = timedelta(minutes=5)
"""How long one viewer's viewings are one: half doubles what players that jump about write."""
MAX_VIEWERS = 100
"""Viewers remembered for that long: 10 KiB of state. Beyond, the one longest ago is forgotten early and
may be noted again."""
MAX_CORRUPT = 1000
"""Corrupt chunks remembered; one beyond may be noted again by every scrub."""

_UNREMEMBERED = (ev.SessionViewed, ev.SessionVerified)
"""Idempotent by what they say; they would push the ids of commands out of the memory."""


class Lease(Fact, frozen=True, kw_only=True):
    """The attached recorder: `attach_id` is the command that attached it, `sealed_n` its last seal."""

    epoch: int
    recorder: str
    attach_id: str
    attached_at: datetime
    source: str = ""
    content_type: str = ""
    sealed_n: int = -1
    drained: bool = False
    step: str = "flowing"
    resumable: bool = False


class Remembered(Fact, frozen=True, kw_only=True):
    """What came of a command that wrote events; a session has them by id, in the order they came."""

    at: datetime
    version: int
    state: State


class Proposal(Fact, frozen=True, kw_only=True):
    """A cleanup proposed at `at`, in the event at `version`, for `due`; see `session.cleanup_proposed`."""

    version: int
    at: datetime
    due: datetime
    retention: Retention
    source: ev.type_of_source


class Erasure(Fact, frozen=True, kw_only=True):
    """The last cleanup of a session: who began it when, by which proposal if by any, and its end.

    Without `completed_at` it is under way, or failed.
    """

    started_at: datetime
    actor: str
    reason: str = ""
    proposal: Proposal | None = None
    completed_at: datetime | None = None
    objects: int = 0
    stored_bytes: int = 0


class Session(Fact, frozen=True, kw_only=True):
    """One session: everything the rules and the shell need to know, bounded in size.

    `offset` is where the sealed bytes end, gaps included. A sealed chunk is in `pending` until it
    is ready, in `failed` when it was set aside; every other index below `next_index` is ready.
    `viewed` says when who looked last, within `VIEW_INTERVAL`; `corrupt` chunks are ready and damaged.
    `since_version` is the version of the event that led to `state`, `unattended_version` that of the
    event since which a session that had a recorder, or was resumed, has none.
    `forgotten_until` is when the newest command that `remembered` has dropped was carried out: what was
    issued up to then, or at a time unknown, may be a repeat that only the history can tell.
    `ended_at` is when the recording ended, which no failed cleanup changes; `proposal` stands until it is
    carried out, or a hold, a recovery or another cleanup comes first.
    """

    id: SessionId
    state: State | None = None
    since: datetime | None = None
    since_version: int = 0
    owner: str = ""
    label: str = ""
    metadata: Mapping[str, str] = {}
    settings: SessionSettings = SessionSettings()
    created_at: datetime | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    ended_at: datetime | None = None
    epoch: int = 0
    lease: Lease | None = None
    unattended_since: datetime | None = None
    unattended_version: int = 0
    next_index: int = 0
    offset: int = 0
    last_seal: ev.ChunkSealed | None = None
    pending: Mapping[int, ev.ChunkSealed] = {}
    failed: Mapping[int, ev.ChunkSealed] = {}
    ready_chunks: int = 0
    ready_bytes: int = 0
    stored_bytes: int = 0
    last_gap: Span | None = None
    gap_count: int = 0
    gap_bytes: int = 0
    holds: Mapping[str, str] = {}
    proposal: Proposal | None = None
    erasure: Erasure | None = None
    viewed: Mapping[str, datetime] = {}
    corrupt: tuple[int, ...] = ()
    manifest: Manifest | None = None
    manifest_stale: bool = False
    error_code: str = ""
    error_reason: str = ""
    events: int = 0
    remembered: Mapping[str, Remembered] = {}
    forgotten_until: datetime | None = None


def initial(session: SessionId) -> Session:
    """Return a session of which nothing is known: its history is empty."""
    return Session(id=session)


def ready_below(session: Session) -> int:
    """Return the index below which the history says `chunk.ready` of every chunk."""
    return min([*session.pending, *session.failed], default=session.next_index)


def chunk_is_ready(session: Session, index: int) -> bool:
    """Return whether the history says `chunk.ready` of the chunk."""
    return index < session.next_index and index not in session.pending and index not in session.failed


def proposal_of(event: ev.SessionCleanupProposed, recorded: Recorded) -> Proposal:
    """Return the proposal that stands from this event on."""
    return Proposal(
        version=int(recorded.sequence),
        at=recorded.time,
        due=event.due,
        retention=event.retention,
        source=event.source,
    )


def evolve(session: Session, recorded: Recorded) -> Session:
    """Return the session after one more event of its history."""
    event = cast(ev.Event, recorded.event)
    after = _apply(session, event, recorded)
    trigger = trigger_of(session.state, event)
    moved = target(session.state, trigger) if trigger else None
    changes: dict[str, object] = {"events": session.events + 1}
    if moved is not None:
        changes |= {"state": moved, "since": recorded.time, "since_version": int(recorded.sequence)}
        if moved in ENDED and session.state is not State.CLEANUP:
            changes["ended_at"] = recorded.time
    if takes_effect_once(recorded):
        changes |= _remember(session, recorded, moved or session.state)
    return replace(after, **changes)


def _apply(session: Session, event: ev.Event, recorded: Recorded) -> Session:
    match event:
        case ev.SessionCreated():
            return replace(
                session,
                owner=event.owner,
                label=event.label,
                metadata=event.metadata,
                settings=event.settings,
                created_at=recorded.time,
            )
        case ev.SessionStarted():
            return replace(session, started_at=session.started_at or recorded.time)
        case ev.SessionStopped():
            return replace(session, stopped_at=recorded.time, manifest=event.manifest, manifest_stale=False)
        case ev.SessionFailed():
            return replace(session, lease=None, error_code=event.code, error_reason=event.reason)
        case ev.SessionRecovered():
            return replace(
                session, error_code="", error_reason="", stopped_at=None, ended_at=None, proposal=None
            )
        case ev.SessionHeld():
            return replace(session, holds={**session.holds, event.hold: event.reason}, proposal=None)
        case ev.SessionReleased():
            return replace(session, holds=_without(session.holds, event.hold))
        case ev.SessionCleanupProposed():
            return replace(session, proposal=proposal_of(event, recorded))
        case ev.SessionCleanupStarted():
            return replace(session, proposal=None, erasure=_begun(session, event, recorded))
        case ev.SessionDestroyed():
            return replace(session, erasure=_completed(session, event, recorded))
        case ev.SessionViewed():
            return replace(session, viewed=_viewed(session, recorded))
        case ev.ChunkCorrupt():
            return replace(session, corrupt=tuple(sorted({*session.corrupt, event.index}))[:MAX_CORRUPT])
        case ev.RecorderAttached():
            lease = Lease(
                epoch=event.epoch,
                recorder=event.recorder,
                attach_id=recorded.cause,
                attached_at=recorded.time,
                source=event.source,
                content_type=event.content_type,
                resumable=event.resumable,
            )
            return replace(
                session, epoch=event.epoch, lease=lease, unattended_since=None, unattended_version=0
            )
        case ev.RecorderDrained():
            return replace(session, lease=session.lease and replace(session.lease, drained=True))
        case ev.SessionResumed():
            if session.lease is None:
                return _unattended(session, recorded)
            return replace(session, lease=replace(session.lease, drained=False))
        case ev.RecorderSlowed():
            return replace(session, lease=session.lease and replace(session.lease, step=event.step))
        case ev.RecorderDetached() | ev.RecorderLost():
            return _unattended(session, recorded)
        case ev.ChunkSealed():
            lease_now = session.lease
            if lease_now and not event.recovered:
                lease_now = replace(lease_now, sealed_n=event.n)
            return replace(
                session,
                lease=lease_now,
                last_seal=event,
                next_index=event.index + 1,
                offset=event.offset + event.size,
                pending={**session.pending, event.index: event},
            )
        case ev.ChunkReady():
            return replace(
                session,
                pending=_without(session.pending, event.index),
                failed=_without(session.failed, event.index),
                ready_chunks=session.ready_chunks + 1,
                ready_bytes=session.ready_bytes + event.size,
                stored_bytes=session.stored_bytes + event.stored_size,
                manifest_stale=session.manifest is not None,
            )
        case ev.ChunkFailed():
            sealed = session.pending.get(event.index)
            return replace(
                session,
                pending=_without(session.pending, event.index),
                failed={**session.failed, event.index: sealed} if sealed else session.failed,
                manifest_stale=session.manifest is not None,
            )
        case ev.GapDeclared():
            return replace(
                session,
                offset=max(session.offset, event.end),
                last_gap=Span(start=event.start, end=event.end),
                gap_count=session.gap_count + 1,
                gap_bytes=session.gap_bytes + event.end - event.start,
            )
        case (
            ev.SessionPausing()
            | ev.SessionPaused()
            | ev.SessionStopping()
            | ev.SessionMarked()
            | ev.SessionVerified()
        ):
            return session
    assert_never(event)


def _begun(session: Session, event: ev.SessionCleanupStarted, recorded: Recorded) -> Erasure:
    proposal = session.proposal
    carried_out = proposal is not None and proposal.version == event.proposed
    return Erasure(
        started_at=recorded.time,
        actor=recorded.actor,
        reason=event.reason,
        proposal=proposal if carried_out else None,
    )


def _completed(session: Session, event: ev.SessionDestroyed, recorded: Recorded) -> Erasure | None:
    if session.state is not State.CLEANUP or session.erasure is None:
        return session.erasure  # nothing was stored: nothing was erased
    return replace(
        session.erasure,
        completed_at=recorded.time,
        objects=event.objects,
        stored_bytes=event.stored_bytes,
    )


def _unattended(session: Session, recorded: Recorded) -> Session:
    return replace(
        session, lease=None, unattended_since=recorded.time, unattended_version=int(recorded.sequence)
    )


def _viewed(session: Session, recorded: Recorded) -> Mapping[str, datetime]:
    recent = {
        actor: at
        for actor, at in session.viewed.items()
        if actor != recorded.actor and abs(recorded.time - at) < VIEW_INTERVAL
    }
    kept = list(recent.items())[1 - MAX_VIEWERS :]
    return {**dict(kept), recorded.actor: recorded.time}


def _without(items: Mapping, key: object) -> Mapping:  # type: ignore[type-arg] # any mapping in, the same out
    return {k: v for k, v in items.items() if k != key} if key in items else items


def _remember(session: Session, recorded: Recorded, state: State | None) -> dict[str, object]:
    kept = dict(session.remembered)
    kept.pop(recorded.cause, None)
    kept[recorded.cause] = Remembered(
        at=recorded.time, version=int(recorded.sequence), state=state or State.CREATED
    )
    until = session.forgotten_until
    horizon = recorded.time - REPEAT_HORIZON
    # From the front only: behind a writer whose clock is ahead, one stays a little longer than it must.
    while (oldest := kept[next(iter(kept))]).at <= horizon or len(kept) > MAX_REMEMBERED:
        # Also what seems a day old: the writer whose clock says so may be the only one who thinks it.
        until = oldest.at if until is None else max(until, oldest.at)
        del kept[next(iter(kept))]
    return {"remembered": kept, "forgotten_until": until}


def takes_effect_once(recorded: Recorded) -> bool:
    """Return whether the event comes of a command that takes effect once, so its id is never stored again."""
    return recorded.type.startswith("session.") and not isinstance(recorded.event, _UNREMEMBERED)
