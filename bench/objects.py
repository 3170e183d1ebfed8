"""Objects of 10 MiB, put and got, against nats-py's `ObjectStore`."""

import random
import time
from itertools import count

from nats.js.api import ObjectMeta, ObjectMetaOptions, ObjectStoreConfig
from nats.js.object_store import ObjectStore

from bench.measure import Outcome, Target
from bench.stage import PIECES, Stage, staged
from lucid_events.domain.values import MIB
from lucid_events.jetstream.blobs import JetStreamBlobStore

_names = count()


class Side:
    """Puts and gets some objects, one after another."""

    def __init__(self, stage: Stage, objects: int, data: bytes) -> None:
        self._stage, self._objects, self._data = stage, objects, data
        self._last: list[str] = []

    async def put(self) -> float:
        self._last = [f"object-{next(_names)}" for _ in range(self._objects)]
        began = time.perf_counter()
        for name in self._last:
            await self._put(name)
        return time.perf_counter() - began

    async def get(self) -> float:
        began = time.perf_counter()
        for name in self._last:
            assert len(await self._get(name)) == len(self._data)
        return time.perf_counter() - began

    async def _put(self, name: str) -> None:
        raise NotImplementedError

    async def _get(self, name: str) -> bytes:
        raise NotImplementedError


class Ours(Side):
    def __init__(self, stage: Stage, objects: int, data: bytes) -> None:
        super().__init__(stage, objects, data)
        self._blobs: JetStreamBlobStore = stage.adapters.chunks

    async def _put(self, name: str) -> None:
        await self._blobs.put(name, self._data, metadata={"codec": "store"})

    async def _get(self, name: str) -> bytes:
        return await self._blobs.get(name)


class Theirs(Side):
    def __init__(
        self, stage: Stage, objects: int, data: bytes, bucket: ObjectStore, piece_bytes: int | None
    ) -> None:
        super().__init__(stage, objects, data)
        self._bucket, self._piece_bytes = bucket, piece_bytes

    async def _put(self, name: str) -> None:
        meta = None
        if self._piece_bytes is not None:
            meta = ObjectMeta(name=name, options=ObjectMetaOptions(max_chunk_size=self._piece_bytes))
        await self._bucket.put(name, self._data, meta=meta)

    async def _get(self, name: str) -> bytes:
        return (await self._bucket.get(name)).data or b""


async def measure(*, runs: int, objects: int) -> list[Outcome]:
    """Measure get and put: nats-py with its defaults (128 KiB messages), and with 1 MiB ones."""
    data = random.Random(2).randbytes(10 * MIB)
    work = objects * 10
    async with staged() as stage:
        bucket = await stage.js.create_object_store("theirs", config=ObjectStoreConfig(bucket="theirs"))
        ours = Ours(stage, objects, data)
        default = Theirs(stage, objects, data, bucket, None)
        large = Theirs(stage, objects, data, bucket, PIECES[-1])
        get, put = "nats-py get", "nats-py put"
        got = Outcome("object get", f"{get}, its defaults", Target(least=10), work, "MiB/s")
        stored = Outcome("object put", f"{put}, its defaults", Target(least=1.7), work, "MiB/s")
        got_large = Outcome("object get", f"{get}, 1 MiB messages", Target(), work, "MiB/s")
        stored_large = Outcome("object put", f"{put}, 1 MiB messages", Target(), work, "MiB/s")
        for turn in range(runs + 1):
            puts = [await side.put() for side in (ours, default, large)]
            gets = [await side.get() for side in (ours, default, large)]
            if turn:
                stored.add(puts[0], puts[1])
                stored_large.add(puts[0], puts[2])
                got.add(gets[0], gets[1])
                got_large.add(gets[0], gets[2])
            await stage.empty("OBJ_theirs", f"OBJ_{stage.adapters.subjects.chunks_bucket}")
    return [got, got_large, stored, stored_large]
