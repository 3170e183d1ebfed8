"""Copies of stored chunks in a folder (`LUCID_CHUNK_OUTPUT_PATH`), for programs that watch one.

    <chunk id>.chunk    the stored bytes: `gzip -d`, `zstd -d`, `lz4 -d` restore them
    <chunk id>.meta     JSON: what is in it; written last, so a chunk with one is whole

Written before the history says `chunk.ready`, by the worker that stores the chunk, on its own disk.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path

from lucid_events.compression import Compressed
from lucid_events.domain.events import ChunkSealed
from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import Quality
from lucid_events.durable_files import sync_folder, write_whole
from lucid_events.errors import StoreUnavailable
from lucid_events.subjects import chunk_id


class ChunkCopies:
    """Writes and erases copies in `folder`, which is made when it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def write(
        self, session: SessionId, sealed: ChunkSealed, compressed: Compressed, quality: Quality
    ) -> None:
        """Write the chunk's two files, durable and whole or not at all; repeating replaces them.

        Raises:
            StoreUnavailable: they can't be written; the chunk is not ready until they can.
        """
        name = chunk_id(session, sealed.index)
        body = json.dumps(_metadata(name, session, sealed, compressed, quality), indent=2).encode()
        try:
            await asyncio.to_thread(self._write, {f"{name}.chunk": compressed.data, f"{name}.meta": body})
        except OSError as exc:
            raise StoreUnavailable(
                f"{self._folder}: the copy of {name} can't be written: {exc.strerror}; make room, or unset "
                "LUCID_CHUNK_OUTPUT_PATH"
            ) from exc

    async def erase(self, session: SessionId) -> int:
        """Delete the copies of a session; returns how many files went.

        Raises:
            StoreUnavailable: one can't be deleted.
        """
        try:
            return await asyncio.to_thread(self._erase, session)
        except OSError as exc:
            raise StoreUnavailable(
                f"{self._folder}: copies of {session} can't be deleted: {exc.strerror}"
            ) from exc

    def _write(self, files: Mapping[str, bytes | bytearray | memoryview]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_whole(self._folder / name, data)

    def _erase(self, session: SessionId) -> int:
        if not self._folder.is_dir():
            return 0
        # A rest of a killed worker (`.<name>.<8 hex>`) holds the same bytes.
        ours = re.compile(rf"\.?{re.escape(session)}-chunk-\d{{6,}}\.(?:chunk|meta)(?:\.[0-9a-f]{{8}})?")
        found = [path for path in self._folder.iterdir() if ours.fullmatch(path.name)]
        for path in found:
            path.unlink(missing_ok=True)
        if found:
            sync_folder(self._folder)
        return len(found)


def _metadata(
    name: str, session: SessionId, sealed: ChunkSealed, compressed: Compressed, quality: Quality
) -> dict[str, object]:
    return {
        "chunk_id": name,
        "session_id": session,
        "chunk_index": sealed.index,
        "offset": sealed.offset,
        "size_bytes": sealed.size,
        "raw_size_bytes": compressed.raw_size,
        "stored_size_bytes": compressed.stored_size,
        "sha256": sealed.sha256,
        "stored_sha256": compressed.sha256,
        "timestamp": sealed.ended_at.isoformat(),
        "compressed": compressed.codec != "store",
        "codec": compressed.codec,
        "level": compressed.level,
        "compression_ratio": round(compressed.ratio, 4),
        "quality_score": quality.score,
    }
