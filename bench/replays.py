"""Replaying the log through the status projection, against nats-py handing over the raw messages."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

from bench.bounds import Either
from bench.measure import Outcome, Target, in_turns
from bench.stage import Stage, staged
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, Version, event_id
from lucid_events.domain.values import MIB, Quality, SessionSettings
from lucid_events.service.rebuilding import rebuild_status

SESSIONS = 100
TOGETHER = 100
"""Events of one append: small enough that the sessions of the log are well mixed."""
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_CHUNK = 10 * MIB


def recorded(session: SessionId, number: int) -> Iterator[NewEvent]:
    """Yield the events of a long recording: created, attached, then two events per chunk, for ever."""
    at = _BEGAN + timedelta(seconds=number)
    count = 0

    def new(event: ev.SessionEvent) -> NewEvent:
        nonlocal at, count
        at, count = at + timedelta(milliseconds=500), count + 1
        return NewEvent(
            id=event_id(session, "bench", count),
            session=session,
            event=event,
            time=at,
            cause="bench",
            correlation="bench",
            actor="bench",
        )

    yield new(ev.SessionCreated(owner="ann", label="bench", settings=SessionSettings()))
    yield new(ev.SessionStarted())
    yield new(ev.RecorderAttached(epoch=1, recorder="bench", offset=0))
    digest, index = "ab" * 32, 0
    while True:
        yield new(
            ev.ChunkSealed(
                index=index,
                epoch=1,
                n=index,
                offset=index * _CHUNK,
                size=_CHUNK,
                sha256=digest,
                first_seq=index * 7 + 1,
                last_seq=index * 7 + 7,
                started_at=at,
                ended_at=at,
                cut="size",
            )
        )
        yield new(
            ev.ChunkReady(
                index=index,
                offset=index * _CHUNK,
                size=_CHUNK,
                stored_size=_CHUNK // 4,
                sha256=digest,
                stored_sha256=digest,
                codec="gzip",
                level=6,
                ratio=4.0,
                quality=Quality(score=1.0, complete=1.0),
                hash_by="recorder",
                bucket="lucid-chunks",
                object=f"{session}/{index:08d}-{digest[:16]}",
                timings_ms={"read": 10.0, "hash": 7.0, "probe": 1.0, "compress": 90.0, "put": 30.0},
            )
        )
        index += 1


async def fill(stage: Stage, events: int) -> None:
    """Write a log of `events` events, the sessions taking turns."""
    store = stage.adapters.store
    sessions = [SessionId(f"replay-{number}") for number in range(SESSIONS)]
    sources = [recorded(session, number) for number, session in enumerate(sessions)]
    heads: list[tuple[Version, Digest]] = [(Version(0), NO_DIGEST)] * SESSIONS
    left = events
    while left:
        for number, session in enumerate(sessions):
            new = list(islice(sources[number], min(TOGETHER, left)))
            if new:
                version, head = heads[number]
                appended = await store.append(session, new, expected=version, head=head)
                heads[number] = appended.version, appended.head
                left -= len(new)


class Ours:
    """`lucid rebuild`, without the comparison at its end: read, decode, check, fold, write the views."""

    def __init__(self, stage: Stage, events: int) -> None:
        self._stage, self._events = stage, events

    async def run(self) -> float:
        report = await rebuild_status(self._stage.adapters)
        assert report.events == self._events, report
        return report.seconds


class Theirs:
    """An ordered consumer of nats-py, message by message; nothing is decoded."""

    def __init__(self, stage: Stage, events: int) -> None:
        self._stage, self._events = stage, events

    async def run(self) -> float:
        stream = self._stage.adapters.subjects.events_stream
        began = time.perf_counter()
        subscription = await self._stage.js.subscribe("", stream=stream, ordered_consumer=True)
        for _ in range(self._events):
            await subscription.next_msg(timeout=30)
        seconds = time.perf_counter() - began
        await subscription.unsubscribe()
        await asyncio.sleep(0)
        return seconds


async def measure(*, runs: int, events: int) -> list[Outcome]:
    """Measure events per second on a log of `events`."""
    async with staged() as stage:
        await fill(stage, events)
        rival = "nats-py next_msg, no decoding"
        found = Outcome("replay", rival, Target(least=1.5), events, "/s")
        await in_turns(found, Ours(stage, events).run, Theirs(stage, events).run, runs=runs)
        # The same runs against the other promise: fast enough for anybody, or than the plain loop.
        judged = Either("replay, rebuild", rival, Target(least=2.5), events, "/s", rate=40_000)
        judged.ours_s, judged.theirs_s = found.ours_s, found.theirs_s
        return [found, judged]
