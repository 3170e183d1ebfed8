"""Raw bytes on their way into chunks."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from lucid_events.domain.ids import SessionId


class CaptureAck(msgspec.Struct, frozen=True):
    """The server has stored capture bytes at stream sequence `sequence`."""

    sequence: int


class CapturePiece(msgspec.Struct, frozen=True):
    """One capture message: `data` begins at byte `offset` of the session.

    `sha256` is the running digest of the chunk up to the end of this piece, made at the source.
    """

    epoch: int
    n: int
    offset: int
    data: bytes
    sha256: str
    sequence: int
    stored_at: datetime


class HeldChunk(msgspec.Struct, frozen=True):
    """The store holds `pieces` pieces of the session's `n`-th chunk of an epoch."""

    session: SessionId
    epoch: int
    n: int
    pieces: int


class CaptureStore(Protocol):
    """Raw bytes on their way into chunks."""

    @property
    def max_piece_bytes(self) -> int:
        """Largest `data` of one message: about three quarters of what the server accepts."""
        ...

    async def publish(
        self, session: SessionId, *, epoch: int, n: int, offset: int, data: bytes | memoryview, sha256: str
    ) -> CaptureAck:
        """Store one piece; returns when the server has it.

        Safe to pipeline: the order of calls is the order of sends.

        The same piece may be sent again after an error: readers drop exact duplicates.

        Raises:
            Fenced: the epoch was closed; nothing was written.
            StoreFull: the byte limit is reached; nothing was written.
            StoreUnavailable: nothing was written.
            AppendUncertain: no reply; send it again.
        """
        ...

    async def fence(self, session: SessionId, *, epoch: int) -> None:
        """Close `epoch` for good; returns when every fence is stored. Repeating is harmless.

        A full store takes fences too, as long as room is kept for them (`reserve`).
        """
        ...

    async def reserve(self) -> bool:
        """Keep room for fences, as far as there is any; returns whether all of it is kept.

        `fence` gives some of it up when the store is full, and `purge` and `erase` keep it again.
        """
        ...

    async def tail(self, session: SessionId, sequence: int) -> CapturePiece | None:
        """Return the piece at `sequence`, None when the leader has none there, or another session's."""
        ...

    async def last_time(self, session: SessionId, *, epoch: int) -> datetime | None:
        """Return when the epoch's newest piece was stored, None when there is none."""
        ...

    def read(
        self,
        session: SessionId,
        *,
        epoch: int,
        n: int | None = None,
        first_seq: int = 1,
        last_seq: int | None = None,
    ) -> AsyncIterator[CapturePiece]:
        """Yield the pieces of one chunk (or of the whole epoch) in stream order, in bulk.

        Duplicates and late resends are yielded as they stand; the caller assembles by offset.
        """
        ...

    async def count(self, session: SessionId, *, epoch: int, n: int) -> int:
        """Return how many pieces of that chunk the leader holds."""
        ...

    async def chunks(self, session: SessionId, *, epoch: int) -> Mapping[int, int]:
        """Return how many pieces the leader holds of each chunk of the epoch: n -> pieces, none left out."""
        ...

    def held(self, session: SessionId | None = None) -> AsyncIterator[HeldChunk]:
        """Yield what the leader holds of every chunk, of one session or of all; fences are no chunks.

        What comes or goes meanwhile may be left out.
        """
        ...

    async def purge(self, session: SessionId, *, epoch: int, n: int, upto_seq: int) -> int:
        """Delete the chunk's pieces with sequences up to and including `upto_seq`; returns how many."""
        ...

    async def erase(self, session: SessionId) -> int:
        """Delete all bytes of the session; fences stay. Returns how many pieces went."""
        ...
