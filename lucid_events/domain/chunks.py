"""Chunks as byte ranges: where they end, how one is put together, what of its capture may go.

Knows offsets, sizes and digests. Refuses to know where the bytes come from.

    session   0 ......................................................... offset
    chunk     |------- n=0 -------|------- n=1 -------|--- n=2 ---|        cut at chunk_bytes,
    pieces    |-----|-----|-------|----------|--------|-----|-----|        or earlier by the recorder
"""

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypeVar

from lucid_events.domain.events import ChunkSealed
from lucid_events.domain.ids import Digest
from lucid_events.domain.state import Session
from lucid_events.domain.values import Fact, Span


class Piece(Protocol):
    """Bytes of a session from `offset` on."""

    @property
    def offset(self) -> int:
        """Where its bytes begin."""
        ...

    @property
    def data(self) -> bytes:
        """The bytes."""
        ...


P = TypeVar("P", bound=Piece)


class Assembled(Fact, frozen=True, kw_only=True):
    """A byte range put together: all of its `data`, or none and the spans that are `missing`."""

    data: bytes = b""
    missing: tuple[Span, ...] = ()


def assemble(pieces: Iterable[Piece], offset: int, size: int) -> Assembled:
    """Return the bytes `[offset, offset + size)` out of pieces in any order, duplicates among them.

    Where pieces overlap, the one that begins first wins, and among those the one given first:
    whether the bytes are the right ones is for their digest to say.
    """
    parts: list[memoryview] = []
    missing: list[Span] = []
    position, end = offset, offset + size
    for piece in sorted(pieces, key=_offset):
        stop = min(piece.offset + len(piece.data), end)
        if stop <= position:
            continue
        if piece.offset >= end:
            break
        if piece.offset > position:
            missing.append(Span(start=position, end=piece.offset))
            position = piece.offset
        parts.append(memoryview(piece.data)[position - piece.offset : stop - piece.offset])
        position = stop
    if position < end:
        missing.append(Span(start=position, end=end))
    if missing:
        return Assembled(missing=tuple(missing))
    return Assembled(data=b"".join(parts))


def contiguous(pieces: Iterable[P], start: int) -> list[list[P]]:
    """Return the runs without holes that `pieces` make from byte `start` on, each in order.

    Pieces that add nothing (duplicates, bytes before `start`) are left out.
    """
    runs: list[list[P]] = []
    position = start
    for piece in sorted(pieces, key=_offset):
        end = piece.offset + len(piece.data)
        if end <= max(position, piece.offset):
            continue
        if not runs or piece.offset > position:
            runs.append([])
        runs[-1].append(piece)
        position = end
    return runs


def purge_bound(session: Session, sealed: ChunkSealed) -> int:
    """Return the capture sequence up to which the subject of `sealed` may be purged; 0 means not at all.

    `session` must have been read after the chunk became ready. Several chunks salvaged from one
    subject share it: a purge goes up to a sequence, so it waits for the last of them (a failed
    one included, which may be redriven).
    """
    others = [
        other.first_seq
        for other in (*session.pending.values(), *session.failed.values())
        if other.index != sealed.index and (other.epoch, other.n) == (sealed.epoch, sealed.n)
    ]
    return min([sealed.last_seq, *(first - 1 for first in others)])


class Boundary(Fact, frozen=True, kw_only=True):
    """A finished chunk: the `n`-th of its epoch, `size` bytes from `offset` on, and their digest."""

    n: int
    offset: int
    size: int
    sha256: Digest


class ChunkPlan:
    """Sizes in, boundaries and digests out: the running digest of one chunk after the other.

    Args:
        chunk_bytes: what a chunk is cut at.
        offset: the session's byte at which the first chunk begins.
        n: number of the first chunk within its epoch.
    """

    def __init__(self, chunk_bytes: int, *, offset: int = 0, n: int = 0) -> None:
        if chunk_bytes < 1:
            raise ValueError(f"a chunk has at least 1 byte, not {chunk_bytes}")
        self.chunk_bytes, self.n = chunk_bytes, n
        self._begin = self.offset = offset
        self._digest = hashlib.sha256()

    @property
    def size(self) -> int:
        """Bytes of the chunk so far."""
        return self.offset - self._begin

    @property
    def room(self) -> int:
        """Bytes that still fit into the chunk; 0 means cut."""
        return self.chunk_bytes - self.size

    def add(self, data: bytes | memoryview) -> Digest:
        """Take the next bytes of the chunk; returns the running digest up to their end.

        Raises:
            ValueError: they do not fit: cut first, then split at `room`.
        """
        if len(data) > self.room:
            raise ValueError(
                f"{len(data)} bytes do not fit into chunk {self.n}, which has room for {self.room}"
            )
        self._digest.update(data)
        self.offset += len(data)
        return Digest(self._digest.hexdigest())

    def cut(self) -> Boundary | None:
        """End the chunk and begin the next; None when there is nothing to end."""
        if not self.size:
            return None
        ended = Boundary(
            n=self.n, offset=self._begin, size=self.size, sha256=Digest(self._digest.hexdigest())
        )
        self.n, self._begin, self._digest = self.n + 1, self.offset, hashlib.sha256()
        return ended

    def skip(self, offset: int) -> None:
        """Go on at `offset`, behind a declared gap; the chunk in hand must have been cut.

        Raises:
            ValueError: a chunk is in hand, or the offset lies behind.
        """
        if self.size or offset < self.offset:
            raise ValueError(f"can't skip from {self.offset} to {offset} with {self.size} bytes in hand")
        self._begin = self.offset = offset


def _offset(piece: Piece) -> int:
    return piece.offset
