"""Where pieces and chunks end. Pure: it neither hashes nor sends, and is told the time.

bytes in ──► gathered ──► pieces of at most `piece_bytes`, or what gathered in `flush_s`
                          chunks of exactly `chunk_bytes`, or up to a boundary, or `chunk_s` long

A piece rather ends where a block does than be put together out of two: that would copy every byte once.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

TAIL_BYTES: Final = 64 * 1024
"""Size of the last piece of a full chunk. Whoever accepts the seal reads that piece, for the digest in its
headers: with all pieces alike, an eighth of a recording would cross the network a second time."""

Reason = Literal["size", "time", "pause", "stop", "end", "pressure"]


@dataclass(frozen=True, slots=True)
class Boundary:
    """A chunk ends at `offset`, whatever its size."""

    offset: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Cut:
    """One piece of chunk `n`; `end` says why the chunk ends behind it, None when it goes on.

    `data` is empty when the chunk turned out to have ended with the piece before.
    """

    n: int
    offset: int
    data: bytes | memoryview
    end: Reason | None
    chunk_started_at: datetime
    ended_at: datetime


class Cutter:
    """Cuts one epoch's bytes, beginning at `offset` with chunk `n`."""

    def __init__(
        self, *, offset: int, chunk_bytes: int, piece_bytes: int, chunk_s: float, flush_s: float, n: int = 0
    ) -> None:
        self._chunk_bytes, self._piece_bytes = chunk_bytes, piece_bytes
        self._chunk_s, self._flush_s = timedelta(seconds=chunk_s), timedelta(seconds=flush_s)
        self.n, self._chunk_offset, self._offset = n, offset, offset
        self._gathered: deque[bytes | memoryview] = deque()
        self._size = 0
        self._flush_upto = offset
        self._boundaries: deque[Boundary] = deque()
        self._chunk_started: datetime | None = None
        self._oldest: datetime | None = None
        self._newest: datetime | None = None

    @property
    def end(self) -> int:
        """Offset behind the last byte added."""
        return self._offset + self._size

    @property
    def chunk_offset(self) -> int:
        """Where the chunk that is open now begins: every byte below it is in a chunk that has ended."""
        return self._chunk_offset

    def gathered(self) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yield the bytes added and not yet cut, by offset."""
        at = self._offset
        for block in tuple(self._gathered):
            yield at, block
            at += len(block)

    def add(self, block: bytes, at: datetime) -> None:
        """Gather `block`, which arrived `at`; `take` cuts it."""
        if self._late(at):
            self.close("time")
        if not self._size:
            self._oldest = at
        self._newest = at
        self._gathered.append(block)
        self._size += len(block)

    def close(self, reason: Reason) -> None:
        """End the chunk behind what has been added; nothing happens where a chunk begins anyway."""
        if not (self._boundaries and self._boundaries[-1].offset == self.end):
            self._boundaries.append(Boundary(self.end, reason))

    def flush(self) -> None:
        """Let `take` cut everything added so far into pieces, without ending the chunk."""
        self._flush_upto = self.end

    def tick(self, at: datetime) -> None:
        """Let `take` cut what has waited long enough."""
        if self._size and self._oldest and at - self._oldest >= self._flush_s:
            self._flush_upto = self.end
        if self._late(at):
            self.close("time")

    def due_in(self, at: datetime) -> float | None:
        """Return the seconds until `tick` has something to do; None when nothing waits."""
        due = []
        if self._size and self._oldest:
            due.append(self._oldest + self._flush_s)
        began = self._began()
        if began:
            due.append(began + self._chunk_s)
        return max(0.0, (min(due) - at).total_seconds()) if due else None

    def take(self) -> Cut | None:
        """Return the next piece that is ready to go, None when more must gather first."""
        while True:
            limit, reason = self._limit()
            size = min(limit, self.end) - self._offset
            ends = reason if self._offset + size == limit else None
            full = size >= self._piece_bytes
            if size > self._piece_bytes:
                size, ends = self._whole_blocks(), None
            elif ends == "size" and size >= 2 * TAIL_BYTES:
                size, ends, full = size - TAIL_BYTES, None, True
            forced = ends or full or self._offset + size <= self._flush_upto
            if size == 0:
                if ends is None:
                    return None
                self._boundaries.popleft()
                if self._offset == self._chunk_offset:
                    continue  # a chunk of no bytes is no chunk
            elif not forced:
                return None
            return self._cut(size, ends)

    def restart(
        self, *, n: int, offset: int, blocks: Iterable[bytes | memoryview], boundaries: Iterable[Boundary]
    ) -> None:
        """Go back to `offset` and begin chunk `n` there with `blocks`, the bytes up to where it was.

        What had been gathered follows behind them; `boundaries` are those it had passed since.
        """
        earlier = list(blocks)
        self._gathered.extendleft(reversed(earlier))
        self._size += sum(len(block) for block in earlier)
        self._boundaries.extendleft(reversed([b for b in boundaries if b.offset > offset]))
        self.n, self._chunk_offset, self._offset = n, offset, offset
        self._oldest = self._oldest or self._newest
        self._chunk_started = None

    def jump(self, offset: int) -> None:
        """Leave a gap: the next byte added is byte `offset`. Everything before must have been taken."""
        self._offset = self._chunk_offset = offset

    def _began(self) -> datetime | None:
        return self._chunk_started or (self._oldest if self._size else None)

    def _late(self, at: datetime) -> bool:
        began = self._began()
        closed = bool(self._boundaries) and self._boundaries[-1].offset == self.end
        return began is not None and at - began >= self._chunk_s and not closed

    def _limit(self) -> tuple[int, Reason]:
        full = self._chunk_offset + self._chunk_bytes
        if self._boundaries and self._boundaries[0].offset <= full:
            return self._boundaries[0].offset, self._boundaries[0].reason
        return full, "size"

    def _cut(self, size: int, end: Reason | None) -> Cut:
        started = self._chunk_started or self._oldest
        ended = self._newest
        if started is None or ended is None:
            raise AssertionError("a piece consists of bytes that arrived at some time")
        # The wall clock may have been set back meanwhile; a chunk never ends before it begins.
        ended = max(started, ended)
        cut = Cut(self.n, self._offset, self._join(size), end, started, ended)
        self._offset += size
        self._size -= size
        self._oldest = self._newest if self._size else None
        self._chunk_started = started
        if end is not None:
            if self._boundaries and self._boundaries[0].offset == self._offset:
                self._boundaries.popleft()
            self.n, self._chunk_offset, self._chunk_started = self.n + 1, self._offset, None
        return cut

    def _whole_blocks(self) -> int:
        """Return the size of a full piece: up to the end of a block, unless that makes it a small one."""
        size = 0
        for block in self._gathered:
            if size + len(block) > self._piece_bytes:
                break
            size += len(block)
        return size if 2 * size >= self._piece_bytes else self._piece_bytes

    def _join(self, size: int) -> bytes | memoryview:
        parts: list[bytes | memoryview] = []
        while size:
            part = self._gathered.popleft()
            if len(part) > size:
                view = memoryview(part)
                self._gathered.appendleft(view[size:])
                part = view[:size]
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
