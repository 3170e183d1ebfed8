"""The rules of bytes: who may write them, where a chunk ends, what becomes of a lost recorder.

Every way a recorder leaves fences its epoch first (the shell's part, asked for by `Needs`) and
seals what it left behind in the same append, so no acked byte is forgotten and no end made up.
"""

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.decisions import Needs, Rejected, reject
from lucid_events.domain.outside import CaptureTail, Salvage
from lucid_events.domain.state import Lease, Session
from lucid_events.domain.transitions import ERASING, TAKES_BYTES, State, Trigger, target
from lucid_events.domain.values import Span

Decision = list[ev.SessionEvent] | Rejected | Needs
_S = State


def attach(asked: cmd.Asked, command: cmd.Attach, session: Session) -> Decision:
    """Attach a recorder; a living one is in the way unless `takeover`, a silent one is salvaged."""
    lease = session.lease
    if lease and lease.attach_id == asked.id:
        return []
    if session.state not in (_S.STARTING, _S.ACTIVE, _S.PAUSING, _S.PAUSED):
        return reject(
            session,
            "illegal_transition",
            f"session {session.id} is {session.state}: a starting, active or paused one takes a recorder",
        )
    events: list[ev.SessionEvent] = []
    if lease:
        if not command.takeover:
            if asked.alive is None:
                return Needs(alive=lease.epoch)
            if asked.alive:
                return reject(
                    session,
                    "recorder_alive",
                    f"recorder {lease.recorder!r} is attached to {session.id} and alive: "
                    "stop it first, or attach with takeover",
                )
        if asked.salvage is None or asked.salvage.epoch != lease.epoch:
            return Needs(salvage=lease.epoch)
        why = "taken over" if command.takeover else "silent when another recorder attached"
        events = [ev.RecorderLost(epoch=lease.epoch, reason=why), *_salvaged(session, asked.salvage)]
    events.append(
        ev.RecorderAttached(
            epoch=session.epoch + 1,
            recorder=command.recorder,
            offset=_end(events, session.offset),
            source=command.source,
            content_type=command.content_type,
            takeover=bool(lease),
            resumable=command.resumable,
        )
    )
    return events


def seal(asked: cmd.Asked, command: cmd.Seal, session: Session) -> Decision:
    """Seal a chunk whose digest equals the running digest of its last capture message."""
    last = session.last_seal
    if last and (last.epoch, last.n, last.offset) == (command.epoch, command.n, command.offset):
        if (last.size, last.sha256) == (command.size, command.sha256):
            return []
        return reject(
            session,
            "seal_mismatch",
            f"chunk {last.index} is sealed with another size or digest",
            field="sha256",
        )
    lease = _lease(session, command.epoch)
    if isinstance(lease, Rejected):
        return lease
    if session.state not in TAKES_BYTES:
        return reject(
            session, "illegal_transition", f"session {session.id} is {session.state}: nothing is sealed now"
        )
    if command.n <= lease.sealed_n and command.offset + command.size <= session.offset:
        return []
    if command.n != lease.sealed_n + 1:
        return reject(
            session,
            "seal_mismatch",
            f"the next chunk of epoch {lease.epoch} is n={lease.sealed_n + 1}",
            field="n",
        )
    if command.offset != session.offset:
        return reject(
            session,
            "seal_mismatch",
            f"the sealed bytes end at {session.offset}, the chunk begins at {command.offset}: declare a gap",
            field="offset",
        )
    if command.size > session.settings.chunk_bytes:
        return reject(
            session,
            "seal_mismatch",
            f"a chunk of {session.id} has at most {session.settings.chunk_bytes} bytes, not {command.size}",
            field="size",
        )
    if command.first_seq > command.last_seq or command.started_at > command.ended_at:
        return reject(session, "seal_mismatch", "the chunk ends before it begins", field="last_seq")
    if asked.tail is None:
        return Needs(tail=command.last_seq)
    wrong = _differs(command, asked.tail)
    if wrong:
        return reject(
            session, "seal_mismatch", f"capture does not bear out the seal: {wrong}", field="last_seq"
        )
    return [
        ev.ChunkSealed(
            index=session.next_index,
            epoch=command.epoch,
            n=command.n,
            offset=command.offset,
            size=command.size,
            sha256=command.sha256,
            first_seq=command.first_seq,
            last_seq=command.last_seq,
            started_at=command.started_at,
            ended_at=command.ended_at,
            cut=command.cut,
            gap_before=_gap_before(session, command.offset),
            frames=command.frames,
        )
    ]


def drained(command: cmd.Drained, session: Session) -> Decision:
    """Take the recorder's word, checked against the seals, that nothing is left to seal."""
    lease = _lease(session, command.epoch)
    if isinstance(lease, Rejected):
        return lease
    if session.state in (_S.PAUSED, _S.STOPPING) and lease.drained:
        return []
    if session.state not in (_S.PAUSING, _S.STOPPING):
        return reject(
            session, "illegal_transition", f"session {session.id} is {session.state}: nobody asked to drain"
        )
    unsealed = _unsealed(session, command.offset)
    if unsealed:
        return unsealed
    said = ev.RecorderDrained(epoch=lease.epoch, offset=session.offset)
    if session.state is _S.PAUSING:
        return [said, ev.SessionPaused(offset=session.offset)]
    return [said]


def gap(command: cmd.Gap, session: Session) -> Decision:
    """Declare bytes right behind the sealed ones as missing."""
    if session.last_gap == Span(start=command.start, end=command.end) and session.offset == command.end:
        return []
    lease = _lease(session, command.epoch)
    if isinstance(lease, Rejected):
        return lease
    if session.state not in TAKES_BYTES:
        return reject(
            session, "illegal_transition", f"session {session.id} is {session.state}: no gap is declared now"
        )
    if command.start != session.offset or command.end <= command.start:
        return reject(
            session,
            "gap_mismatch",
            f"a gap begins where the sealed bytes end ({session.offset}) and is not empty, "
            f"not {command.start} to {command.end}",
            field="start",
        )
    return [ev.GapDeclared(epoch=lease.epoch, start=command.start, end=command.end, reason=command.reason)]


def slow(command: cmd.Slow, session: Session) -> Decision:
    """Note how the recorder answers pressure."""
    lease = _lease(session, command.epoch)
    if isinstance(lease, Rejected):
        return lease
    if lease.step == command.step:
        return []
    return [
        ev.RecorderSlowed(epoch=lease.epoch, offset=command.offset, step=command.step, reason=command.reason)
    ]


def detach(asked: cmd.Asked, command: cmd.Detach, session: Session) -> Decision:
    """Let the recorder go, once everything it captured is sealed; its epoch is fenced too."""
    if session.lease is None and command.epoch == session.epoch:
        return []
    lease = _lease(session, command.epoch)
    if isinstance(lease, Rejected):
        return lease
    unsealed = _unsealed(session, command.offset)
    if unsealed:
        return unsealed
    if asked.salvage is None or asked.salvage.epoch != lease.epoch:
        return Needs(salvage=lease.epoch)
    events = _salvaged(session, asked.salvage)
    offset = _end(events, session.offset)
    events.append(
        ev.RecorderDetached(
            epoch=lease.epoch, offset=offset, reason=command.reason, exit_code=command.exit_code
        )
    )
    if session.state is _S.PAUSING:
        events.append(ev.SessionPaused(offset=offset))
    return events


def lose(asked: cmd.Asked, command: cmd.LoseRecorder, session: Session) -> Decision:
    """Give a silent recorder up: salvage; a session that was not stopping goes to `error`."""
    lease = session.lease
    if lease is None or lease.epoch != command.epoch:
        return []
    if asked.salvage is None or asked.salvage.epoch != lease.epoch:
        return Needs(salvage=lease.epoch)
    events: list[ev.SessionEvent] = [
        ev.RecorderLost(epoch=lease.epoch, reason=command.reason, last_seen=command.last_seen),
        *_salvaged(session, asked.salvage),
    ]
    if session.state is not _S.STOPPING:
        events.append(ev.SessionFailed(code="recorder_lost", reason=command.reason))
    return events


def fail(asked: cmd.Asked, session: Session, *, code: str, reason: str) -> Decision:
    """Go to `error`, salvaging what an attached recorder left."""
    if target(session.state, Trigger.ERROR) is None:
        return reject(
            session, "illegal_transition", f"session {session.id} is {session.state}: fail is not allowed"
        )
    failed = ev.SessionFailed(code=code, reason=reason)
    lease = session.lease
    if lease is None:
        return [failed]
    if asked.salvage is None or asked.salvage.epoch != lease.epoch:
        return Needs(salvage=lease.epoch)
    lost = ev.RecorderLost(epoch=lease.epoch, reason=code)
    return [lost, *_salvaged(session, asked.salvage), failed]


def stored(command: cmd.ChunkStored, session: Session) -> Decision:
    """Say `chunk.ready`, once per index, of the very bytes that were sealed."""
    if session.state in ERASING:
        return reject(
            session, "erased", f"session {session.id} is {session.state}: the chunk was erased meanwhile"
        )
    sealed = session.pending.get(command.index) or session.failed.get(command.index)
    if sealed is None:
        if command.index < session.next_index:
            return []
        return reject(
            session,
            "unknown_chunk",
            f"session {session.id} has sealed no chunk {command.index}",
            field="index",
        )
    if (sealed.offset, sealed.size, sealed.sha256) != (command.offset, command.size, command.sha256):
        return reject(
            session, "seal_mismatch", f"chunk {command.index} was sealed with other bytes", field="sha256"
        )
    return [
        ev.ChunkReady(
            index=command.index,
            offset=command.offset,
            size=command.size,
            stored_size=command.stored_size,
            sha256=command.sha256,
            stored_sha256=command.stored_sha256,
            codec=command.codec,
            level=command.level,
            ratio=command.ratio,
            quality=command.quality,
            hash_by=command.hash_by,
            bucket=command.bucket,
            object=command.object,
            timings_ms=command.timings_ms,
        )
    ]


def refused(command: cmd.ChunkRefused, session: Session) -> Decision:
    """Say `chunk.failed` of a chunk that is neither ready nor failed yet."""
    if session.state in ERASING or command.index not in session.pending:
        return []
    return [ev.ChunkFailed(index=command.index, code=command.code, reason=command.reason)]


def _lease(session: Session, epoch: int) -> Lease | Rejected:
    if session.lease is None or session.lease.epoch != epoch:
        now = f"epoch {session.lease.epoch} is" if session.lease else "no recorder is"
        return reject(
            session,
            "fenced",
            f"epoch {epoch} of {session.id} is over ({now} attached): attach again before writing",
            field="epoch",
        )
    return session.lease


def _unsealed(session: Session, offset: int) -> Rejected | None:
    if offset == session.offset:
        return None
    return reject(
        session,
        "unsealed",
        f"{session.id} is sealed up to {session.offset}, not to {offset}: seal the rest, or declare a gap",
        field="offset",
    )


def _differs(command: cmd.Seal, tail: CaptureTail) -> str:
    if not tail.found:
        return f"sequence {command.last_seq} is not a capture message of this session"
    if (tail.epoch, tail.n) != (command.epoch, command.n):
        return f"sequence {command.last_seq} belongs to epoch {tail.epoch}, n={tail.n}"
    if tail.end != command.offset + command.size:
        return f"its last message ends at {tail.end}, the seal at {command.offset + command.size}"
    if tail.sha256 != command.sha256:
        return f"its last message has the running digest {tail.sha256}, the seal {command.sha256}"
    return ""


def _gap_before(session: Session, offset: int) -> int:
    last = session.last_seal
    return offset - (last.offset + last.size if last else 0)


def _salvaged(session: Session, salvage: Salvage) -> list[ev.SessionEvent]:
    """Seal every leftover behind the sealed bytes; a hole before one is a gap, and so is what is unproven.

    A resumable source is told only of bytes without a hole before them, and has all others still: it sends
    them to the next recorder, which must go on at the hole.
    """
    resumable = session.lease is not None and session.lease.resumable
    events: list[ev.SessionEvent] = []
    offset, index = session.offset, session.next_index
    end_of_last = session.last_seal.offset + session.last_seal.size if session.last_seal else 0
    for left in salvage.leftovers:
        if left.offset > offset:
            if resumable:
                return events
            events.append(_hole(salvage, offset, left.offset))
        events.append(
            ev.ChunkSealed(
                index=index,
                epoch=salvage.epoch,
                n=left.n,
                offset=left.offset,
                size=left.size,
                sha256=left.sha256,
                first_seq=left.first_seq,
                last_seq=left.last_seq,
                started_at=left.started_at,
                ended_at=left.ended_at,
                cut="salvage",
                recovered=True,
                gap_before=left.offset - end_of_last,
            )
        )
        offset = end_of_last = left.offset + left.size
        index += 1
    # What is behind the last leftover and unproven is named too: it was acked once.
    last = max((span.end for span in salvage.unproven), default=0)
    if last > offset and not resumable:
        events.append(_hole(salvage, offset, last))
    return events


def _hole(salvage: Salvage, start: int, end: int) -> ev.GapDeclared:
    reasons = [span.reason for span in salvage.unproven if span.start < end and span.end > start]
    reason = reasons[0] if reasons else "captured bytes never arrived before the recorder was gone"
    return ev.GapDeclared(epoch=salvage.epoch, start=start, end=end, reason=reason)


def _end(events: list[ev.SessionEvent], offset: int) -> int:
    for event in events:
        if isinstance(event, ev.ChunkSealed):
            offset = event.offset + event.size
        elif isinstance(event, ev.GapDeclared):
            offset = event.end
    return offset
