"""Histories as the log gives them back: chained by digest, interleaved by sequence."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from lucid_events import codec
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent, Recorded
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, event_id
from lucid_events.evidence import chain
from lucid_events.subjects import Subjects

SID = SessionId("s1")
T0 = datetime(2026, 1, 1, tzinfo=UTC)
SUBJECTS = Subjects()


def new(event: ev.SessionEvent, number: int, *, session: SessionId = SID) -> NewEvent:
    """The `number`-th event of a history, not yet stored."""
    cause = f"cause-{number}"
    return NewEvent(
        id=event_id(session, cause, 0),
        session=session,
        event=event,
        time=T0 + timedelta(seconds=number),
        cause=cause,
        correlation=cause,
        actor="test",
    )


def chained(
    events: Iterable[ev.SessionEvent], *, session: SessionId = SID, first: int = 1, step: int = 1
) -> list[Recorded]:
    """The events as stored, at sequences `first`, `first + step`, …, each linked to the one before."""
    return list(_chain(events, session, first, step))


def _chain(
    events: Iterable[ev.SessionEvent], session: SessionId, sequence: int, step: int
) -> Iterator[Recorded]:
    prev: Digest = NO_DIGEST
    for number, event in enumerate(events, 1):
        made = new(event, number, session=session)
        headers, body = codec.encode_event(made, prev)
        digest = chain.digest(SUBJECTS.event(session, event.type), headers, body)
        yield codec.decode_event(headers, body, sequence=sequence, stored_at=made.time, digest=digest)
        prev, sequence = digest, sequence + step
