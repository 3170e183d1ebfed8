"""Reading a recording back: the history says what there is, the bucket gives it, digests prove it.

Readers go the other way round than writers: history first, then object. Every chunk handed out
was decompressed and its SHA-256 compared with the one the history holds. What is missing is said,
never skipped in silence.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

from lucid_events.compression import Compressor
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SessionId, Version
from lucid_events.domain.transitions import State, target, trigger_of
from lucid_events.errors import IntegrityError, NotFound
from lucid_events.ports import BlobStore, EventStore, LiveFeed
from lucid_events.subjects import Subjects

AHEAD = 2
"""Chunks fetched while one is handed out: one in the network, one being decompressed. At most
`AHEAD + 1` chunks, raw and stored, are in memory."""

FOLLOW_POLL_S = 2.0
"""Longest a follower waits before it reads the history again: what a lost live message costs."""

_SETTLED = frozenset({State.STOPPED, State.ERROR, State.CLEANUP, State.DESTROYED})


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """What the history says about one chunk: sealed, and ready or failed when that is so.

    `erasure` is how far a cleanup is that was begun after it was sealed.
    """

    sealed: ev.ChunkSealed
    ready: ev.ChunkReady | None = None
    failed: ev.ChunkFailed | None = None
    erasure: Literal["erasing", "erased"] | None = None

    @property
    def state(self) -> str:
        """`ready`, `failed`, or `sealed` while it is on its way; `erasing` or `erased` after a cleanup."""
        if self.erasure:
            return self.erasure
        return "ready" if self.ready else "failed" if self.failed else "sealed"


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a session consists of, by index, up to `version`; `settled` once nothing more is expected."""

    session: SessionId
    chunks: Mapping[int, Chunk]
    gaps: tuple[ev.GapDeclared, ...]
    version: int
    state: State | None
    content_type: str
    started_at: datetime | None
    erased_at: datetime | None = None

    @property
    def end(self) -> int:
        """Offset at which the recording ends as of now, behind its last chunk or gap."""
        chunks = (chunk.sealed.offset + chunk.sealed.size for chunk in self.chunks.values())
        return max((*chunks, *(gap.end for gap in self.gaps)), default=0)

    @property
    def settled(self) -> bool:
        """True when the session has ended and every chunk is ready or failed."""
        return self.state in _SETTLED and all(chunk.state != "sealed" for chunk in self.chunks.values())


class Bytes(msgspec.Struct, frozen=True):
    """Verified raw bytes of the recording, beginning at `offset`."""

    offset: int
    data: memoryview


class Missing(msgspec.Struct, frozen=True):
    """Bytes that can't be played, and why."""

    start: int
    end: int
    reason: str


class Player:
    """Plays recordings.

    Args:
        store: the histories.
        bucket: gives the object store of a name.
        compressor: decompresses and verifies in threads.
        live: when given, `follow` is told of new chunks at once.
        subjects: names under the prefix in use.
    """

    def __init__(
        self,
        store: EventStore,
        bucket: Callable[[str], BlobStore],
        compressor: Compressor,
        subjects: Subjects,
        live: LiveFeed | None = None,
    ) -> None:
        self._store, self._bucket, self._compressor = store, bucket, compressor
        self._subjects, self._live = subjects, live

    async def contents(self, session: SessionId, after: Contents | None = None) -> Contents:
        """Read what the session consists of, going on from an earlier reading.

        Raises:
            NotFound: there is no such session.
        """
        chunks = dict(after.chunks) if after else {}
        gaps = list(after.gaps) if after else []
        version, state = (after.version, after.state) if after else (0, None)
        content_type, started_at = (after.content_type, after.started_at) if after else ("", None)
        erased_at = after.erased_at if after else None
        async for recorded in self._store.read(session, after=Version(version)):
            version = int(recorded.sequence)
            if isinstance(recorded, Stray):
                continue
            state = _state_after(state, recorded)
            match recorded.event:
                case ev.RecorderAttached() as attached:
                    content_type = attached.content_type or content_type
                    started_at = started_at or recorded.time
                case ev.ChunkSealed() as sealed:
                    chunks[sealed.index] = Chunk(sealed=sealed)
                case ev.ChunkReady() as ready if ready.index in chunks:
                    chunks[ready.index] = replace(chunks[ready.index], ready=ready, failed=None)
                case ev.ChunkFailed() as failed if failed.index in chunks:
                    chunks[failed.index] = replace(chunks[failed.index], ready=None, failed=failed)
                case ev.GapDeclared() as gap:
                    gaps.append(gap)
                case ev.SessionCleanupStarted():
                    erased_at = recorded.time
                    chunks = {i: replace(one, erasure="erasing") for i, one in chunks.items()}
                case ev.SessionDestroyed():
                    chunks = {i: replace(one, erasure="erased") for i, one in chunks.items()}
                case _:
                    pass
        if state is None:
            raise NotFound(f"there is no session {session}", session=session)
        return Contents(
            session=session,
            chunks=chunks,
            gaps=tuple(gaps),
            version=version,
            state=state,
            content_type=content_type,
            started_at=started_at,
            erased_at=erased_at,
        )

    async def playable(self, session: SessionId) -> Contents:
        """Read what the session consists of, for whoever wants its bytes.

        Raises:
            NotFound: there is no such session, or its bytes were erased.
        """
        contents = await self.contents(session)
        if contents.state in (State.CLEANUP, State.DESTROYED):
            at = f" at {contents.erased_at.isoformat(timespec='seconds')}" if contents.erased_at else ""
            raise NotFound(
                f"the bytes of {session} were erased{at}; its history is kept and says why "
                f"(lucid retention explain {session})",
                session=session,
            )
        return contents

    async def chunk(self, session: SessionId, index: int, *, contents: Contents | None = None) -> memoryview:
        """Return the raw bytes of one ready chunk, verified.

        Raises:
            NotFound: no such session or chunk, or the chunk is not ready.
            IntegrityError: its bytes are not those the history names.
        """
        return await self._fetch(session, await self._ready(session, index, contents))

    async def stored(self, session: SessionId, index: int) -> bytes:
        """Return the stored bytes of one ready chunk as they are in the bucket.

        Raises:
            NotFound: no such session or chunk, or the chunk is not ready.
        """
        ready = await self._ready(session, index, None)
        return await self._bucket(ready.bucket).get(ready.object)

    async def play(
        self,
        session: SessionId,
        *,
        start: int = 0,
        end: int | None = None,
        follow: bool = False,
        contents: Contents | None = None,
    ) -> AsyncGenerator[Bytes | Missing, None]:
        """Yield the recording from byte `start` up to `end`, in order, with what is missing in between.

        With `follow`, waits for chunks on their way and for new ones until the session has ended.
        `contents` spares a reading of the history that was read a moment ago.

        Raises:
            NotFound: there is no such session, its bytes were erased, or it ends before `start`.
            IntegrityError: a chunk's bytes are not those the history names.
        """
        contents = contents or await self.playable(session)
        check_start(contents, start, follow=follow)
        position, index = start, _first_index(contents, start)
        while True:
            async with aclosing(self._stretch(contents, index, position, end, follow)) as stretch:
                async for item, upto in stretch:
                    position, index = upto
                    yield item
            if not follow or contents.settled or (end is not None and position >= end):
                break
            contents = await self._more(contents)
        check_start(contents, start)
        for gap in contents.gaps:
            if gap.end > position and (end is None or gap.start < end):
                yield Missing(max(gap.start, position), gap.end, gap.reason)

    async def _stretch(
        self, contents: Contents, index: int, position: int, end: int | None, follow: bool
    ) -> AsyncGenerator[tuple[Bytes | Missing, tuple[int, int]], None]:
        """Play what is there from chunk `index` on; stops before a chunk that may still become ready."""
        ahead: deque[tuple[Chunk, asyncio.Task[memoryview]]] = deque()
        following = index
        try:
            while True:
                while len(ahead) <= AHEAD and (chunk := contents.chunks.get(following)) is not None:
                    if end is not None and chunk.sealed.offset >= end:
                        break
                    if chunk.ready is None and follow and chunk.failed is None:
                        break
                    work = self._fetch(contents.session, chunk.ready) if chunk.ready else _nothing()
                    ahead.append((chunk, asyncio.create_task(work)))
                    following += 1
                if not ahead:
                    return
                chunk, fetched = ahead.popleft()
                sealed = chunk.sealed
                done = (max(position, sealed.offset + sealed.size), sealed.index + 1)
                if sealed.gap_before and position < sealed.offset:
                    hole = max(position, sealed.offset - sealed.gap_before)
                    reasons = {gap.reason for gap in contents.gaps if hole <= gap.start < sealed.offset}
                    yield (
                        Missing(hole, sealed.offset, "; ".join(sorted(reasons))),
                        (sealed.offset, sealed.index),
                    )
                data = await fetched
                if sealed.offset + sealed.size <= position:
                    pass  # sealed after we began, and lies before the beginning asked for
                elif chunk.ready is None:
                    why = f"{chunk.failed.code}: {chunk.failed.reason}" if chunk.failed else "not stored yet"
                    yield Missing(max(position, sealed.offset), done[0], why), done
                else:
                    begin, stop = max(0, position - sealed.offset), sealed.size
                    if end is not None:
                        stop = min(stop, end - sealed.offset)
                    yield Bytes(sealed.offset + begin, data[begin:stop]), done
                position = done[0]
        finally:
            for _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)

    async def _ready(self, session: SessionId, index: int, contents: Contents | None) -> ev.ChunkReady:
        found = (contents or await self.contents(session)).chunks.get(index)
        if found is None or found.ready is None or found.erasure == "erased":
            why = f"is {found.state}, not ready" if found else "does not exist"
            raise NotFound(f"chunk {index} of {session} {why}", session=session, index=index)
        return found.ready

    async def _fetch(self, session: SessionId, ready: ev.ChunkReady) -> memoryview:
        stored = await self._bucket(ready.bucket).get(ready.object)
        try:
            raw = await self._compressor.decompress_chunk(
                stored, ready.codec, size=ready.size, expect_sha256=ready.sha256
            )
        except IntegrityError as exc:
            raise IntegrityError(
                f"chunk {ready.index} of {session}: {exc.message}", session=session, index=ready.index
            ) from exc
        return memoryview(raw)

    async def _more(self, contents: Contents) -> Contents:
        """Wait until the history has grown, at most `FOLLOW_POLL_S`, and read on."""
        if self._live is None:
            await asyncio.sleep(FOLLOW_POLL_S)
            return await self.contents(contents.session, contents)
        async with self._live.listen(self._subjects.live_history(contents.session)) as feed:
            grown = await self.contents(contents.session, contents)
            if grown.version > contents.version:
                return grown
            try:
                async with asyncio.timeout(FOLLOW_POLL_S):
                    await anext(feed)
            except TimeoutError:
                pass  # nothing said, or the message was lost: reading tells
        return await self.contents(contents.session, contents)


def check_start(contents: Contents, start: int, *, follow: bool = False) -> None:
    """Refuse a beginning behind the end, which with `follow` may still be recorded.

    Raises:
        NotFound: there is nothing at `start`, and nothing to wait for.
    """
    if start > contents.end and (contents.settled or not follow):
        raise NotFound(
            f"{contents.session} ends at byte {contents.end}: there is nothing to play from {start}",
            session=contents.session,
            end=contents.end,
        )


def offset_at(contents: Contents, when: datetime, *, follow: bool = False) -> int:
    """Return the offset of the chunk that was being recorded at `when`.

    Later than all of them it is the end, which `follow` may go on from.

    Raises:
        NotFound: the recording ended before, and nothing is to come.
    """
    last: datetime | None = None
    for index in sorted(contents.chunks):
        sealed = contents.chunks[index].sealed
        if when <= sealed.ended_at:
            return sealed.offset
        last = sealed.ended_at
    if contents.settled or not follow:
        ended = f"was recorded until {last.isoformat(timespec='milliseconds')}" if last else "has no bytes"
        raise NotFound(
            f"{contents.session} {ended}: there is nothing to play from {when.isoformat()}",
            session=contents.session,
            end=contents.end,
        )
    return contents.end


def _first_index(contents: Contents, start: int) -> int:
    for index in sorted(contents.chunks):
        sealed = contents.chunks[index].sealed
        if start < sealed.offset + sealed.size:
            return index
    return max(contents.chunks, default=-1) + 1


def _state_after(state: State | None, recorded: Recorded) -> State | None:
    trigger = trigger_of(state, recorded.event)
    return (target(state, trigger) if trigger else None) or state


async def _nothing() -> memoryview:
    return memoryview(b"")
