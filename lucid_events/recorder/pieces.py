"""Chunks on their way to capture, and the messages they consist of: what is known of each so far."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lucid_events.recorder.cutter import Reason


@dataclass(slots=True, eq=False)
class Chunk:
    """A chunk on its way; complete once it has ended and all its pieces are acknowledged."""

    n: int
    offset: int
    started_at: datetime
    ended_at: datetime
    size: int = 0
    sha256: str = ""
    end: Reason | None = None
    waiting: int = 0
    first_seq: int = 0
    last_seq: int = 0
    """The highest sequence of its pieces."""
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    tail: "Piece | None" = None

    @property
    def complete(self) -> bool:
        """Whether it can be sealed: the last of its pieces is also the last in the stream."""
        tail = self.tail
        return (
            self.end is not None and not self.waiting and tail is not None and tail.sequence == self.last_seq
        )


@dataclass(slots=True, eq=False)
class Piece:
    """One capture message; `sequence` is 0 until it is acknowledged."""

    chunk: Chunk
    offset: int
    data: bytes | memoryview
    sha256: str = ""
    sequence: int = 0
    flying: bool = False
    maybe_stored: bool = False

    @property
    def end(self) -> int:
        """Offset behind it."""
        return self.offset + len(self.data)

    @property
    def maybe_there(self) -> bool:
        """Whether it is in capture, or may be."""
        return self.sequence > 0 or self.maybe_stored


@dataclass(frozen=True, slots=True)
class Left:
    """What a chunk that was not sealed has below some offset."""

    offset: int
    size: int
    sha256: str


def left_below(offset: int, chunks: Sequence[Chunk], sent: Iterable[Piece | None]) -> list[Left]:
    """Return what each of `chunks` has up to the last piece, of those `sent`, that ends by `offset`."""
    known = [piece for piece in sent if piece is not None and piece.chunk in chunks and piece.end <= offset]
    last = {piece.chunk.n: piece for piece in sorted(known, key=lambda piece: piece.offset)}
    return [Left(p.chunk.offset, p.end - p.chunk.offset, p.sha256) for p in last.values()]


def holed(pieces: Iterable[Piece]) -> bool:
    """Return whether one that is not in capture comes before one that is, or may be."""
    there = [piece.maybe_there for piece in pieces]
    return there != sorted(there, reverse=True)
