"""Copies of chunks in a folder: whole, readable by anybody's tools, gone when the session is erased."""

import asyncio
import gzip
import json
import os
from pathlib import Path

import pytest

from lucid_events.compression import ByteBudget, Compressor
from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.handlers.base import Done, Retry
from lucid_events.handlers.chunks import ChunkHandler
from lucid_events.handlers.copies import ChunkCopies
from tests.unit.handlers.rig import SID, Rig
from tests.unit.handlers.storing import TEXT, assert_ready, rig_with_consumer, through


def handler(rig: Rig, compressor: Compressor, folder: Path) -> ChunkHandler:
    """The chunk handler with copies in `folder`."""
    return ChunkHandler(
        rig.histories, rig.decisions, rig.capture, rig.blobs, compressor, copies=ChunkCopies(folder)
    )


def test_a_stored_chunk_is_in_the_folder(tmp_path: Path) -> None:
    """Both files are there once the chunk is ready; a standard tool restores the bytes."""

    async def main() -> None:
        rig = rig_with_consumer()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        async with Compressor(workers=1, budget=ByteBudget(2**26)) as compressor:
            assert isinstance(await through(handler(rig, compressor, tmp_path / "out"), rig, sealed), Done)
        ready = await assert_ready(rig, TEXT)
        name = f"{SID}-chunk-000000"
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.chunk", f"{name}.meta"]
        stored = (tmp_path / "out" / f"{name}.chunk").read_bytes()
        assert gzip.decompress(stored) == TEXT
        told = json.loads((tmp_path / "out" / f"{name}.meta").read_text())
        assert (told["chunk_id"], told["size_bytes"], told["codec"]) == (name, len(TEXT), "gzip")
        assert (told["sha256"], told["stored_sha256"]) == (ready.sha256, ready.stored_sha256)
        assert (told["stored_size_bytes"], told["quality_score"]) == (len(stored), ready.quality.score)

    asyncio.run(main())


def test_a_full_disk_holds_the_chunk_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that can't be written is no failure of the chunk: it is tried again, nothing is half there."""

    async def main() -> None:
        rig = rig_with_consumer()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        async with Compressor(workers=1, budget=ByteBudget(2**26)) as compressor:
            one = handler(rig, compressor, tmp_path)
            with monkeypatch.context() as full:

                def fails(_: int) -> None:
                    raise OSError(28, "No space left on device")

                full.setattr(os, "fsync", fails)
                outcome = await through(one, rig, sealed)
            assert isinstance(outcome, Retry)
            assert not outcome.own_failure
            assert "No space left" in outcome.reason
            assert os.listdir(tmp_path) == []
            assert not await rig.events(ev.ChunkReady, SID)
            assert isinstance(await through(one, rig, sealed), Done)
        await assert_ready(rig, TEXT)

    asyncio.run(main())


def test_only_the_erased_session_goes(tmp_path: Path) -> None:
    """Erasing takes a session's copies and what a killed worker left of them, and nobody else's."""
    mine = [
        "a-chunk-000000.chunk",
        "a-chunk-000000.meta",
        ".a-chunk-000001.chunk.0123abcd",
        "a-chunk-1000000.meta",
    ]
    others = [
        "a-chunk-000000-chunk-000000.chunk",
        "ba-chunk-000000.meta",
        "a-chunk-000000.txt",
        "a-1-chunk-000000.meta",
    ]
    for name in (*mine, *others):
        (tmp_path / name).write_bytes(b"x")
    copies = ChunkCopies(tmp_path)
    assert asyncio.run(copies.erase(SessionId("a"))) == len(mine)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    assert asyncio.run(ChunkCopies(tmp_path / "none").erase(SessionId("a"))) == 0
