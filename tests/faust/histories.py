"""Sessions as events, and the tables that the analytics make of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import NO_DIGEST, SessionId, event_id
from lucid_events.domain.values import Quality, SessionSettings
from lucid_events.projections.analytics.folding import Totals, fold, totals_key, window_key
from lucid_events.projections.analytics.windows import Window, add

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SIZE = 1_000_000
SHA = "ab" * 32


def recorded(
    session: str, number: int, event: ev.SessionEvent, at: datetime, *, ahead: timedelta = timedelta()
) -> Recorded:
    """Event `number` of a session, stored at `at` by a server whose clock the sender is `ahead` of."""
    return Recorded(
        id=event_id(SessionId(session), "test", number),
        session=SessionId(session),
        event=event,
        type=event.type,
        time=at + ahead,
        cause="test",
        correlation="test",
        actor="test",
        sequence=msgspec.convert(number, int),  # type: ignore[arg-type]  # a NewType of int
        stored_at=at,
        prev=NO_DIGEST,
        digest=NO_DIGEST,
    )


def sealed(index: int, at: datetime) -> ev.ChunkSealed:
    """A chunk of `SIZE` bytes."""
    return ev.ChunkSealed(
        index=index,
        epoch=1,
        n=index,
        offset=index * SIZE,
        size=SIZE,
        sha256=SHA,
        first_seq=1,
        last_seq=1,
        started_at=at,
        ended_at=at,
        cut="size",
    )


def ready(index: int, codec_name: str = "gzip") -> ev.ChunkReady:
    """That chunk, stored as a quarter of it."""
    return ev.ChunkReady(
        index=index,
        offset=index * SIZE,
        size=SIZE,
        stored_size=SIZE // 4,
        sha256=SHA,
        stored_sha256=SHA,
        codec=codec_name,
        ratio=4.0,
        quality=Quality(score=1.0, complete=1.0),
        hash_by="recorder",
        bucket="b",
        object="o",
    )


def history(
    session: str, chunks: int, *, owner: str = "ann", step_s: float = 3.0, began: datetime = BEGAN
) -> list[Recorded]:
    """A session that starts, stores `chunks` chunks, each ready 200 ms after it was sealed, and fails."""
    facts: list[tuple[ev.SessionEvent, float]] = [
        (ev.SessionCreated(owner=owner, settings=SessionSettings()), 0),
        (ev.SessionStarted(), 0.1),
        (ev.RecorderAttached(epoch=1, recorder="r", offset=0), 0.2),
    ]
    for index in range(chunks):
        at = 1 + index * step_s
        facts += [(sealed(index, BEGAN), at), (ready(index), at + 0.2)]
    facts.append((ev.SessionFailed(code="lost"), 1 + chunks * step_s))
    return [
        recorded(session, number, fact, began + timedelta(seconds=at))
        for number, (fact, at) in enumerate(facts, 1)
    ]


class Rows:
    """The three tables, as dictionaries."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, bytes] = {}
        self.totals: dict[bytes, bytes] = {}
        self.windows: dict[bytes, bytes] = {}

    def take(self, *events: Recorded, partition: int = 0) -> Rows:
        for recorded in events:
            fold(recorded, partition, self.sessions, self.totals, self.windows)
        return self

    def window(self, size_s: int, start_s: float) -> Window:
        key = window_key(size_s, int(BEGAN.timestamp() + start_s), 0)
        return msgspec.json.decode(self.windows[key], type=Window)

    @property
    def total(self) -> Totals:
        return msgspec.json.decode(self.totals[totals_key(0)], type=Totals)


def give(window: Window, owner: str, count: int) -> None:
    """Count bytes of an owner."""
    add(window, Window(ready=count, owners={owner: count}))
