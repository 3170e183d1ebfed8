"""The object of one chunk: written once, whoever is first, and proven to hold the chunk's bytes."""

import logging

import msgspec

from lucid_events.compression import Compressed, Compressor
from lucid_events.domain.events import ChunkSealed
from lucid_events.domain.ids import SessionId
from lucid_events.errors import ConfigError, IntegrityError, NotFound
from lucid_events.handlers.base import Checkpoint
from lucid_events.ports import BlobInfo, BlobStore
from lucid_events.subjects import object_name

_log = logging.getLogger(__name__)


class StoredChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's object as it is stored, which may be another worker's with other settings."""

    bucket: str
    name: str
    size: int
    sha256: str
    codec: str
    level: int | None


class ChunkObjects:
    """Puts chunks under names that follow from their content."""

    def __init__(self, blobs: BlobStore, compressor: Compressor, checkpoint: Checkpoint) -> None:
        self._blobs, self._compressor, self._checkpoint = blobs, compressor, checkpoint

    async def put(self, session: SessionId, sealed: ChunkSealed, compressed: Compressed) -> StoredChunk:
        """Return the chunk's object: ours, or the winner's once its bytes are proven to be the chunk's.

        Raises:
            StoreUnavailable, AppendUncertain: it may be stored; repeat.
            VersionConflict: a damaged object was replaced by somebody else meanwhile; repeat.
        """
        name = object_name(session, sealed.index, sealed.sha256)
        metadata = metadata_of(session, sealed, compressed)
        data = compressed.data if isinstance(compressed.data, bytes) else bytes(compressed.data)
        # The port confirms pieces and metadata from the leader before it returns.
        info, made = await self._blobs.put(name, data, metadata=metadata, digest=compressed.sha256)
        await self._checkpoint("chunk.put")
        if not made:
            adopted = await self._adopt(info, sealed)
            if adopted is not None:
                return adopted
            _log.warning(
                "a damaged object is replaced",
                extra={"session": session, "chunk": sealed.index, "reason": info.name},
            )
            info = await self._blobs.replace(
                name, data, metadata=metadata, damaged=info, digest=compressed.sha256
            )
        return _stored(info, compressed.codec, compressed.level)

    async def adopt(self, session: SessionId, sealed: ChunkSealed) -> StoredChunk | None:
        """Return the chunk's object if there is one that restores to the chunk's bytes, None otherwise."""
        try:
            there = await self._blobs.info(object_name(session, sealed.index, sealed.sha256))
        except IntegrityError:  # its metadata can't be read
            return None
        return None if there is None else await self._adopt(there, sealed)

    async def _adopt(self, winner: BlobInfo, sealed: ChunkSealed) -> StoredChunk | None:
        """Return the winner's object if it restores to the chunk's bytes, None when it is damaged."""
        codec, level = winner.metadata.get("codec", ""), winner.metadata.get("level", "")
        try:
            data = await self._blobs.get(winner.name)
            await self._compressor.decompress_chunk(
                data, codec, size=sealed.size, expect_sha256=sealed.sha256
            )
            return _stored(winner, codec, int(level) if level else None)
        except (IntegrityError, NotFound, ConfigError, ValueError):
            return None


def metadata_of(session: SessionId, sealed: ChunkSealed, compressed: Compressed) -> dict[str, str]:
    """Return what a reader without this package needs to place and restore the chunk."""
    metadata = {
        "session": session,
        "index": str(sealed.index),
        "offset": str(sealed.offset),
        "size": str(sealed.size),
        "sha256": sealed.sha256,
        "codec": compressed.codec,
    }
    if compressed.level is not None:
        metadata["level"] = str(compressed.level)
    return metadata


def _stored(info: BlobInfo, codec: str, level: int | None) -> StoredChunk:
    return StoredChunk(
        bucket=info.bucket, name=info.name, size=info.size, sha256=info.digest, codec=codec, level=level
    )
