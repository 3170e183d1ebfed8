"""Chunks as the services answer with them: receipts, lists, numbers."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from lucid_events.playback import Chunk
from lucid_events.projections.status_view import StatusView

UNCOMPRESSED = "store"
"""The codec that leaves bytes as they are."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all answers."""


class Receipt(Answer, frozen=True, kw_only=True):
    """One stored chunk: what was recorded, what is stored, and the digests of both."""

    chunk_id: str
    session_id: str
    chunk_index: int
    offset: int
    size_bytes: int
    stored_bytes: int
    sha256: str
    stored_sha256: str
    timestamp: datetime
    compressed: bool
    codec: str
    level: int | None
    compression_ratio: float
    quality_score: float


class ChunkEntry(Answer, frozen=True, kw_only=True):
    """One chunk of a list, with `status`: `ready`, on its way (`sealed`), `failed`, `erasing` or `erased`.

    What is known of stored bytes is there once they have been stored.
    """

    chunk_id: str
    session_id: str
    chunk_index: int
    offset: int
    size_bytes: int
    sha256: str
    timestamp: datetime
    status: str
    error_message: str | None
    stored_bytes: int | None
    stored_sha256: str | None
    compressed: bool | None
    codec: str | None
    level: int | None
    compression_ratio: float | None
    quality_score: float | None


class ChunkStatistics(Answer, frozen=True, kw_only=True):
    """The chunks of a session in numbers."""

    total_chunks: int
    total_size_bytes: int
    stored_size_bytes: int
    average_chunk_size: float
    compression_ratio: float | None
    failed_chunks: int
    pending_chunks: int


def chunk_id(session: str, index: int) -> str:
    """Return the id of a chunk.

    >>> chunk_id("s1", 7)
    's1-chunk-000007'
    """
    return f"{session}-chunk-{index:06d}"


def chunk_of(session: str, chunk: Chunk) -> ChunkEntry:
    """Return what a list tells of a chunk."""
    sealed, ready, failed = chunk.sealed, chunk.ready, chunk.failed
    return ChunkEntry(
        chunk_id=chunk_id(session, sealed.index),
        session_id=session,
        chunk_index=sealed.index,
        offset=sealed.offset,
        size_bytes=sealed.size,
        sha256=sealed.sha256,
        timestamp=sealed.ended_at,
        status=chunk.state,
        error_message=f"{failed.code}: {failed.reason}" if failed else None,
        stored_bytes=ready.stored_size if ready else None,
        stored_sha256=ready.stored_sha256 if ready else None,
        compressed=ready.codec != UNCOMPRESSED if ready else None,
        codec=ready.codec if ready else None,
        level=ready.level if ready else None,
        compression_ratio=ready.ratio if ready else None,
        quality_score=ready.quality.score if ready else None,
    )


def receipts_of(session: str, chunks: Iterable[Chunk]) -> list[Receipt]:
    """Return the receipts of those chunks that are ready."""
    return [
        Receipt(
            chunk_id=chunk_id(session, ready.index),
            session_id=session,
            chunk_index=ready.index,
            offset=ready.offset,
            size_bytes=ready.size,
            stored_bytes=ready.stored_size,
            sha256=ready.sha256,
            stored_sha256=ready.stored_sha256,
            timestamp=chunk.sealed.ended_at,
            compressed=ready.codec != UNCOMPRESSED,
            codec=ready.codec,
            level=ready.level,
            compression_ratio=ready.ratio,
            quality_score=ready.quality.score,
        )
        for chunk in chunks
        if (ready := chunk.ready) is not None and chunk.state == "ready"
    ]


def statistics_of(*views: StatusView) -> ChunkStatistics:
    """Return the chunks of sessions in numbers; sizes and ratio are of those that are ready."""
    raw, stored = sum(view.raw_bytes for view in views), sum(view.stored_bytes for view in views)
    ready = sum(view.chunks.ready for view in views)
    return ChunkStatistics(
        total_chunks=sum(view.chunks.sealed for view in views),
        total_size_bytes=raw,
        stored_size_bytes=stored,
        average_chunk_size=raw / ready if ready else 0.0,
        compression_ratio=raw / stored if stored else None,
        failed_chunks=sum(view.chunks.failed_count for view in views),
        pending_chunks=sum(view.chunks.waiting for view in views),
    )
