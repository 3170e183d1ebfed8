"""Verifying: a stored session from the server, against hashing and decompressing its chunks from files."""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.measure import Outcome, Target, in_turns
from bench.recordings import content
from bench.stage import Stage, run, service, staged
from lucid_events.compression import codecs
from lucid_events.compression.measuring import Measurer
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import MIB
from lucid_events.service.auditing import VERIFY_WORKERS
from lucid_events.service.verifying import Verifier

INPUTS = (("text", "gzip", 6, 0.7), ("text", "zstd", 3, None), ("noise", "gzip", 6, None))


class Ours:
    """The verifier over a connection: history, objects, both digests of every chunk."""

    def __init__(self, stage: Stage, session: SessionId, size: int) -> None:
        self._stage, self._session, self._size = stage, session, size

    async def run(self) -> float:
        adapters = self._stage.adapters
        began = time.perf_counter()
        async with Measurer(workers=VERIFY_WORKERS) as measurer:
            report = await Verifier(adapters.store, adapters.bucket, measurer).verify(self._session)
        seconds = time.perf_counter() - began
        assert report.holds, report.differences
        assert report.raw_bytes == self._size, report
        return seconds


class Parts:
    """What has to be done: SHA-256 of the stored bytes, decompress, SHA-256 of the raw ones."""

    def __init__(self, chunks: Sequence[tuple[Path, ev.ChunkReady]]) -> None:
        self._chunks = chunks

    async def run(self) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(VERIFY_WORKERS) as threads:
            assert all(threads.map(_measure, self._chunks))
        return time.perf_counter() - began


def _measure(chunk: tuple[Path, ev.ChunkReady]) -> bool:
    path, ready = chunk
    stored = path.read_bytes()
    same = hashlib.sha256(stored).hexdigest() == ready.stored_sha256
    raw = codecs.decompress(ready.codec, stored, size=ready.size)
    return same and hashlib.sha256(raw).hexdigest() == ready.sha256


async def measure(*, runs: int, mib: int) -> list[Outcome]:
    """Measure sessions of `mib` MiB; the service that recorded them is gone meanwhile."""
    found = []
    async with staged() as stage:
        for number, (kind, codec, level, least) in enumerate(INPUTS):
            session = SessionId(f"verify-{number}")
            file = stage.folder / f"{session}.raw"
            file.write_bytes(content(kind, mib * MIB))
            async with service(stage):
                words = ["record", session, str(file), "--codec", codec, "--level", str(level), "--json"]
                totals = json.loads(await run(stage, *words))
            assert totals["state"] == "stopped", totals
            file.unlink()
            outcome = Outcome(
                f"verify, {kind}, {codec} {level}",
                "SHA-256 and decompression of the files",
                Target(least=least),
                mib,
                "MiB/s",
            )
            ours, parts = Ours(stage, session, mib * MIB), Parts(await _files(stage, session))
            found.append(await in_turns(outcome, ours.run, parts.run, runs=runs))
            await stage.empty(f"OBJ_{stage.adapters.subjects.chunks_bucket}")
    return found


async def _files(stage: Stage, session: SessionId) -> list[tuple[Path, ev.ChunkReady]]:
    folder, adapters = stage.folder / session, stage.adapters
    folder.mkdir()
    chunks = []
    async for message in adapters.store.read(session):
        if isinstance(message, Recorded) and isinstance(message.event, ev.ChunkReady):
            ready = message.event
            path = folder / f"{ready.index:08d}"
            path.write_bytes(await adapters.bucket(ready.bucket).get(ready.object))
            chunks.append((path, ready))
    return chunks
