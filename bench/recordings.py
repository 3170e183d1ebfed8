"""Recording: one recorder and one service, against the sum of the parts and against a script."""

import asyncio
import json
import random
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from nats.js.api import ObjectMeta, ObjectMetaOptions, ObjectStoreConfig

from bench.measure import Outcome, Target
from bench.stage import PIECES, RAW_STREAM, Stage, publish, run, service, staged
from lucid_events.compression import codecs
from lucid_events.domain.values import MIB

CHUNK_BYTES = 10 * MIB
NOISE = "noise"
INPUTS = (("noise", "gzip", 6), ("text", "gzip", 6), ("text", "zstd", 3), ("text", "lz4", 0))
_runs = count()


def content(kind: str, size: int) -> bytes:
    """Return `size` bytes: noise, or the standard library's source over and over, rotated each time."""
    if kind == NOISE:
        rng = random.Random(1)
        return b"".join(rng.randbytes(MIB) for _ in range(size // MIB))
    found: list[bytes] = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        found.append(file.read_bytes())
        if sum(map(len, found)) > 64 * MIB:
            break
    text = b"".join(found)
    made, turn = bytearray(), 0
    while len(made) < size:
        made += text[turn * 4099 :]
        turn += 1
    return bytes(made[:size])


def chunks_of(data: bytes) -> list[memoryview]:
    view = memoryview(data)
    return [view[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]


class Ours:
    """`lucid record` beside a running service: until every chunk is ready and the session stopped."""

    def __init__(self, stage: Stage, file: Path, codec: str, level: int, size: int) -> None:
        self._stage, self._file, self._codec, self._level, self._size = stage, file, codec, level, size

    async def run(self) -> float:
        session = f"bench-{next(_runs)}"
        words = ["record", session, str(self._file), "--codec", self._codec, "--level", str(self._level)]
        totals = json.loads(await run(self._stage, *words, "--json"))
        assert totals["state"] == "stopped", totals
        assert totals["raw_bytes"] == self._size, totals
        subjects = self._stage.adapters.subjects
        await self._stage.empty(f"OBJ_{subjects.chunks_bucket}")
        return float(totals["seconds"])


class Parts:
    """What has to be done, one after another: publish the raw bytes, compress, publish the stored bytes."""

    def __init__(self, stage: Stage, data: bytes, codec: str | None, level: int) -> None:
        self._stage, self._data, self._codec, self._level = stage, data, codec, level

    async def _publish(self, parts: Sequence[bytes], piece_bytes: int) -> float:
        began = time.perf_counter()
        await publish(self._stage, b"".join(parts) if len(parts) > 1 else parts[0], piece_bytes)
        seconds = time.perf_counter() - began
        await self._stage.empty(RAW_STREAM)
        return seconds

    async def run(self) -> float:
        raw_s = min([await self._publish([self._data], size) for size in PIECES])
        stored, codec_s = [self._data], 0.0
        codec, level = self._codec, self._level
        if codec is not None:
            began = time.perf_counter()
            with ThreadPoolExecutor(2) as threads:
                made = threads.map(
                    lambda part: bytes(codecs.compress(codec, level, part)), chunks_of(self._data)
                )
                stored = await asyncio.to_thread(list, made)
            codec_s = time.perf_counter() - began
        stored_s = min([await self._publish(stored, size) for size in PIECES])
        return raw_s + codec_s + stored_s


class Script:
    """Compress each 10 MiB and `ObjectStore.put` it, one after another; nothing is durable before the put."""

    def __init__(self, stage: Stage, data: bytes, codec: str | None, level: int) -> None:
        self._stage, self._data, self._codec, self._level = stage, data, codec, level

    async def run(self) -> float:
        # One after another, so the two times add up; the better size of messages counts.
        config = ObjectStoreConfig(bucket=f"script{next(_runs)}")
        bucket = await self._stage.js.create_object_store(str(config.bucket), config=config)
        codec_s, put_s = 0.0, dict.fromkeys(PIECES, 0.0)
        for number, part in enumerate(chunks_of(self._data)):
            began = time.perf_counter()
            stored = bytes(part)
            if self._codec is not None:
                stored = bytes(codecs.compress(self._codec, self._level, part))
                codec_s += time.perf_counter() - began
            for size in PIECES:
                name = f"{number}-{size}"
                meta = ObjectMeta(name=name, options=ObjectMetaOptions(max_chunk_size=size))
                began = time.perf_counter()
                await bucket.put(name, stored, meta=meta)
                put_s[size] += time.perf_counter() - began
        await self._stage.js.delete_object_store(str(config.bucket))
        return codec_s + min(put_s.values())


async def measure(names: Sequence[str], *, runs: int, mib: int) -> list[Outcome]:
    """Measure `record` and `script`, whichever are named, on the same recordings."""
    found: list[Outcome] = []
    size = mib * MIB
    for kind, codec, level in INPUTS:
        data = content(kind, size)
        label = "noise" if kind == NOISE else f"text, {codec} {level}" if level else f"text, {codec}"
        async with staged() as stage, service(stage):
            file = stage.folder / "input"
            file.write_bytes(data)
            ours = Ours(stage, file, codec, level, size)
            rivals: list[tuple[Outcome, Parts | Script]] = []
            if "record" in names:
                # Noise is stored as it is, so the sum of the parts knows that and skips the codec.
                outcome = Outcome(f"record, {label}", "sum of its parts", Target(least=0.8), mib, "MiB/s")
                rivals.append((outcome, Parts(stage, data, None if kind == NOISE else codec, level)))
            if "script" in names:
                outcome = Outcome(f"script, {label}", "compress, then put", Target(least=1.0), mib, "MiB/s")
                rivals.append((outcome, Script(stage, data, codec, level)))
                if kind == NOISE:
                    outcome = Outcome(f"script, {label}", "put alone", Target(), mib, "MiB/s")
                    rivals.append((outcome, Script(stage, data, None, level)))
            for turn in range(runs + 1):
                ours_s = await ours.run()
                for outcome, rival in rivals:
                    theirs_s = await rival.run()
                    if turn:  # the first warms up
                        outcome.add(ours_s, theirs_s)
            found += [outcome for outcome, _ in rivals]
    return found
