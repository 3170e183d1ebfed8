"""Whether the rules of today agree with a history of then: legal, and what they would have decided.

What was asked is not in a history, but most of it can be told from what came of it: `session.paused`
right behind `session.pausing` was a pause without a recorder. Facts from outside (what a salvage
found, a manifest) are taken from the events themselves; the rules have to make the same events of them.
"""

from collections.abc import Iterator, Sequence
from typing import assert_never, cast

import msgspec

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.decider import decide
from lucid_events.domain.decisions import Needs, Rejected, Repeated
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.legality import check
from lucid_events.domain.outside import CaptureTail, Leftover, Salvage, Unproven
from lucid_events.domain.state import Session, evolve, initial
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Fact, RetentionAsked, SettingsAsked

Wanted = cmd.Command | cmd.InternalCommand


class Disagreement(Fact, frozen=True, kw_only=True):
    """An event the rules of today do not bear out.

    `kind` is `illegal` (they would not allow it) or `decision` (they make something else of what was
    asked; `sequence` is then the first event of the append).
    """

    session_id: SessionId
    sequence: int
    type: str
    kind: str
    reason: str


class Redecider:
    """Takes the events of one history in order; memory is one session and one append.

    `decided` counts appends that were decided again, `untold` those of which it can't be told what was
    asked: they are held to legality alone.
    """

    def __init__(self, session: SessionId) -> None:
        self._session = initial(session)
        self._append: list[Recorded] = []
        self.events = self.decided = self.untold = 0

    def take(self, recorded: Recorded) -> list[Disagreement]:
        """Take the next event; returns what came of the append before it, if that is whole now."""
        found = self.finish() if self._append and _append_of(self._append[-1]) != _append_of(recorded) else []
        self._append.append(recorded)
        return found

    def finish(self) -> list[Disagreement]:
        """Return what came of the last append."""
        append, self._append = self._append, []
        found = [] if not append else list(self._judge(append))
        for recorded in append:
            wrong = check(self._session, cast(ev.Event, recorded.event))
            if wrong:
                found.append(_disagreement(recorded, "illegal", wrong))
            self._session = evolve(self._session, recorded)
            self.events += 1
        return found

    def _judge(self, append: Sequence[Recorded]) -> Iterator[Disagreement]:
        events = [cast(ev.Event, recorded.event) for recorded in append]
        first, wrong = append[0], ""
        for command in _candidates(events, self._session):
            asked = _asked(first, command, events)
            came = decide(asked, self._session)
            if came == events:
                self.decided += 1
                return
            if isinstance(came, Needs) or (isinstance(came, Rejected) and came.code == "expired"):
                continue  # when it was sent, or a fact from outside, is not in the history
            wrong = wrong or _differs(command, came, events)
        if wrong:
            self.decided += 1
            yield _disagreement(first, "decision", wrong)
        else:
            self.untold += 1


def _append_of(recorded: Recorded) -> tuple[object, ...]:
    """Return what the events of one append have in common, and those of two do not."""
    return recorded.cause, recorded.correlation, recorded.time, recorded.actor


def _asked(first: Recorded, command: Wanted, events: Sequence[ev.Event]) -> cmd.Asked:
    sealed = next((event for event in events if isinstance(event, ev.ChunkSealed)), None)
    stopped = next((event for event in events if isinstance(event, ev.SessionStopped)), None)
    tail = None
    if isinstance(command, cmd.Seal) and sealed is not None:
        end = sealed.offset + sealed.size
        tail = CaptureTail(found=True, epoch=sealed.epoch, n=sealed.n, end=end, sha256=sealed.sha256)
    return cmd.Asked(
        session=first.session,
        id=CommandId(first.cause),
        command=command,
        at=first.time,
        issued_at=first.time,
        actor=first.actor,
        alive=False,
        tail=tail,
        salvage=_salvage(events),
        manifest=stopped.manifest if stopped else None,
    )


def _salvage(events: Sequence[ev.Event]) -> Salvage | None:
    epoch = next((e.epoch for e in events if isinstance(e, ev.RecorderLost | ev.RecorderDetached)), None)
    if epoch is None:
        return None
    leftovers = tuple(
        Leftover(
            n=event.n,
            offset=event.offset,
            size=event.size,
            sha256=event.sha256,
            first_seq=event.first_seq,
            last_seq=event.last_seq,
            started_at=event.started_at,
            ended_at=event.ended_at,
        )
        for event in events
        if isinstance(event, ev.ChunkSealed)
    )
    unproven = tuple(
        Unproven(start=event.start, end=event.end, reason=event.reason)
        for event in events
        if isinstance(event, ev.GapDeclared)
    )
    return Salvage(epoch=epoch, leftovers=leftovers, unproven=unproven)


def _candidates(events: Sequence[ev.Event], session: Session) -> list[Wanted]:
    """Return what may have been asked for, the likeliest first; nothing where it can't be told."""
    last = events[-1]
    if isinstance(events[0], ev.RecorderLost):
        return _of_a_loss(events[0], last)
    detached = next((event for event in events if isinstance(event, ev.RecorderDetached)), None)
    if detached is not None:
        return [_detach(detached, session)]  # with what it left before, and the end of a pause behind
    if len(events) == 2 and isinstance(last, ev.SessionPaused):
        return _one(events[0], session)
    return _one(last, session) if len(events) == 1 else []


def _of_a_loss(lost: ev.RecorderLost, last: ev.Event) -> list[Wanted]:
    lose = cmd.LoseRecorder(epoch=lost.epoch, reason=lost.reason, last_seen=lost.last_seen)
    if isinstance(last, ev.RecorderAttached):
        return [_attach(last, takeover=True), _attach(last, takeover=False)]
    if isinstance(last, ev.SessionFailed):
        return [lose, cmd.Fail(code=last.code, reason=last.reason)]
    return [lose]


def _attach(event: ev.RecorderAttached, *, takeover: bool) -> cmd.Attach:
    return cmd.Attach(
        recorder=event.recorder,
        takeover=takeover,
        source=event.source,
        content_type=event.content_type,
        resumable=event.resumable,
    )


def _detach(event: ev.RecorderDetached, session: Session) -> cmd.Detach:
    return cmd.Detach(
        epoch=event.epoch, offset=session.offset, reason=event.reason, exit_code=event.exit_code
    )


def _one(event: ev.Event, session: Session) -> list[Wanted]:
    match event:
        case ev.SessionCreated():
            kept = event.settings.retention
            wanted = SettingsAsked(
                chunk_bytes=event.settings.chunk_bytes,
                chunk_seconds=event.settings.chunk_seconds,
                codec=event.settings.codec,
                level=event.settings.level,
                retention=RetentionAsked(**msgspec.structs.asdict(kept)) if kept else RetentionAsked(),
            )
            metadata = dict(event.metadata)
            return [cmd.Create(owner=event.owner, label=event.label, metadata=metadata, settings=wanted)]
        case ev.SessionStarted():
            return [cmd.Start()]
        case ev.SessionPausing():
            return [cmd.Pause(reason=event.reason)]
        case ev.SessionResumed():
            return [cmd.Resume()]
        case ev.SessionStopping():
            return [cmd.Stop(reason=event.reason)]
        case ev.SessionStopped():
            return [cmd.Finish()]
        case ev.SessionFailed():
            failed: list[Wanted] = [cmd.Fail(code=event.code, reason=event.reason)]
            erasing = session.state is State.CLEANUP
            return [cmd.EraseFailed(reason=event.reason), *failed] if erasing else failed
        case ev.SessionRecovered():
            return [cmd.Recover(reason=event.reason)]
        case ev.SessionMarked():
            return [cmd.Mark(label=event.label, offset=event.offset)]
        case ev.SessionHeld():
            return [cmd.Hold(hold=event.hold, reason=event.reason)]
        case ev.SessionReleased():
            return [cmd.Release(hold=event.hold, reason=event.reason)]
        case ev.SessionCleanupProposed():
            return [cmd.ProposeCleanup(retention=event.retention, due=event.due)]
        case ev.SessionCleanupStarted():
            if event.proposed is not None:
                return [cmd.CarryOut(proposed=event.proposed)]
            return [cmd.Cleanup(reason=event.reason)]
        case ev.SessionDestroyed():
            if session.state is State.CLEANUP:
                return [cmd.Erased(objects=event.objects, stored_bytes=event.stored_bytes)]
            return [cmd.Destroy(reason=event.reason)]
        case ev.SessionViewed():
            return [cmd.View(start=event.start, end=event.end, how=event.how)]
        case ev.SessionVerified() | ev.ChunkCorrupt():
            return [cmd.NoteFinding(finding=event)]
        case ev.RecorderAttached():
            return [_attach(event, takeover=event.takeover)]
        case ev.RecorderDrained():
            return [cmd.Drained(epoch=event.epoch, offset=event.offset)]
        case ev.RecorderSlowed():
            slow = cmd.Slow(epoch=event.epoch, offset=event.offset, step=event.step, reason=event.reason)
            return [slow]
        case ev.ChunkSealed():
            return _seal(event)
        case ev.ChunkReady():
            return [cmd.ChunkStored(**{name: getattr(event, name) for name in event.__struct_fields__})]
        case ev.ChunkFailed():
            return [cmd.ChunkRefused(index=event.index, code=event.code, reason=event.reason)]
        case ev.GapDeclared():
            return [cmd.Gap(epoch=event.epoch, start=event.start, end=event.end, reason=event.reason)]
        case ev.SessionPaused() | ev.RecorderDetached() | ev.RecorderLost():
            return []  # never alone, or told apart before
    assert_never(event)


def _seal(event: ev.ChunkSealed) -> list[Wanted]:
    if event.recovered or event.cut == "salvage":
        return []
    return [
        cmd.Seal(
            epoch=event.epoch,
            n=event.n,
            offset=event.offset,
            size=event.size,
            sha256=event.sha256,
            first_seq=event.first_seq,
            last_seq=event.last_seq,
            started_at=event.started_at,
            ended_at=event.ended_at,
            cut=event.cut,
            frames=event.frames,
        )
    ]


def _differs(command: Wanted, came: object, events: Sequence[ev.Event]) -> str:
    name = type(command).__name__
    if isinstance(came, Rejected):
        return f"{name} would be refused now ({came.code}): {came.message}"
    if isinstance(came, Repeated):
        return f"{name} would be taken for a repeat of an earlier command now"
    now = cast("list[ev.SessionEvent]", came)
    if [one.type for one in now] != [one.type for one in events]:
        decided = ", ".join(one.type for one in now) or "nothing"
        return f"{name} would make {decided} now, not {', '.join(one.type for one in events)}"
    for made, stored in zip(now, events, strict=True):
        ours, theirs = msgspec.to_builtins(made), msgspec.to_builtins(stored)
        for field in theirs:
            if ours[field] != theirs[field]:
                ours_now, then = f"{ours[field]!r}"[:80], f"{theirs[field]!r}"[:80]
                return f"{name} would make {made.type} with {field} {ours_now} now, not {then}"
    return f"{name} would make other events now"


def _disagreement(recorded: Recorded, kind: str, reason: str) -> Disagreement:
    return Disagreement(
        session_id=recorded.session,
        sequence=int(recorded.sequence),
        type=recorded.type,
        kind=kind,
        reason=reason,
    )
