"""What a player hands out when the beginning asked for is not there yet, or lies in a gap."""

import asyncio
from datetime import UTC, datetime
from typing import cast

from lucid_events.compression import ByteBudget, Compressor
from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Quality
from lucid_events.playback import Bytes, Chunk, Contents, Missing, Player
from lucid_events.ports import EventStore
from lucid_events.subjects import Subjects

SID = SessionId("s1")
NOW = datetime(2026, 1, 31, tzinfo=UTC)
DIGEST = "0" * 64


def chunk(index: int, offset: int, size: int) -> Chunk:
    """Return a ready chunk; its bytes are its index, repeated."""
    sealed = ev.ChunkSealed(
        index=index,
        epoch=1,
        n=index,
        offset=offset,
        size=size,
        sha256=DIGEST,
        first_seq=1,
        last_seq=1,
        started_at=NOW,
        ended_at=NOW,
        cut="size",
    )
    ready = ev.ChunkReady(
        index=index,
        offset=offset,
        size=size,
        stored_size=size,
        sha256=DIGEST,
        stored_sha256=DIGEST,
        codec="store",
        ratio=1.0,
        quality=Quality(score=1, complete=1),
        hash_by="recorder",
        bucket="b",
        object="o",
    )
    return Chunk(sealed=sealed, ready=ready)


class Growing(Player):
    """A player of a session that grows from one reading to the next."""

    def __init__(self, *readings: Contents) -> None:
        compressor = Compressor(workers=1, budget=ByteBudget(1))
        super().__init__(cast(EventStore, None), lambda name: cast("object", None), compressor, Subjects())  # type: ignore[arg-type,return-value]  # never asked
        self._readings = list(readings)

    async def contents(self, session: SessionId, after: Contents | None = None) -> Contents:
        """Return the next reading."""
        return self._readings.pop(0)

    async def _more(self, contents: Contents) -> Contents:
        return await self.contents(contents.session)

    async def _fetch(self, session: SessionId, ready: ev.ChunkReady) -> memoryview:
        return memoryview(bytes([ready.index]) * ready.size)


def holds(state: State, *chunks: Chunk, gaps: tuple[ev.GapDeclared, ...] = ()) -> Contents:
    """Return the contents of a session of these chunks."""
    return Contents(
        session=SID,
        chunks={c.sealed.index: c for c in chunks},
        gaps=gaps,
        version=1,
        state=state,
        content_type="",
        started_at=NOW,
    )


def test_following_from_beyond_the_end_never_plays_what_lies_before_the_beginning() -> None:
    """Chunks that end before the beginning asked for are left out, however late they are sealed."""
    first, second, third = chunk(0, 0, 50), chunk(1, 50, 30), chunk(2, 80, 40)
    player = Growing(holds(State.ACTIVE, first), holds(State.STOPPED, first, second, third))

    async def played() -> list[Bytes | Missing]:
        return [part async for part in player.play(SID, start=100, follow=True)]

    (part,) = asyncio.run(played())
    assert isinstance(part, Bytes)
    assert (part.offset, bytes(part.data)) == (100, b"\x02" * 20)


def test_the_rest_of_a_gap_at_the_end_is_named() -> None:
    """A beginning inside the last gap is told of what is missing from there."""
    gap = ev.GapDeclared(epoch=1, start=50, end=90, reason="lost")
    player = Growing(holds(State.STOPPED, chunk(0, 0, 50), gaps=(gap,)))

    async def played() -> list[Bytes | Missing]:
        return [part async for part in player.play(SID, start=60)]

    assert asyncio.run(played()) == [Missing(60, 90, "lost")]
