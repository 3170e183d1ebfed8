"""Both digests of a stored chunk, made while its pieces come in: hashing and restoring in threads.

Holds a few pieces of a large chunk, never all of it: what is checked may be larger than what may be held.
Judges nothing: what was found is compared by whoever knows what it should be.
"""

import asyncio
import hashlib
import queue
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import msgspec

from lucid_events.compression.codecs import decompress
from lucid_events.compression.ordered import settle
from lucid_events.compression.streams import decompress_stream
from lucid_events.compression.wire import Buffer, broken
from lucid_events.errors import ConfigError, IntegrityError

WAITING_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one chunk that wait for its thread: two pieces as we store them. Half makes the thread wait
for each piece, twice as much only holds more."""


WHOLE_BYTES: Final = 16 * 1024 * 1024
"""Raw bytes up to which a chunk is restored at once, which is a tenth quicker than piece by piece and
holds twice that in each thread. Chunks of the default size are; half would leave them out."""


_OVERHEAD: Final = 64 * 1024
"""Bytes that a stream may have more than what it holds; ours has none, it would be stored as it is."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the pieces added up to; `broken` says why they do not restore, then `raw_*` end before that."""

    stored_size: int
    stored_sha256: str
    raw_size: int
    raw_sha256: str
    broken: str = ""


class Measurer:
    """Measures up to `workers` chunks at once, each in a thread of its own; a context manager.

    Raises:
        ConfigError: `workers` is below 1.
    """

    def __init__(self, *, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"{workers} measuring workers: must be at least 1", value=workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="measuring")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    async def measure(self, pieces: AsyncIterator[bytes], codec: str, *, size: int) -> Measured:
        """Return both digests of the object whose stored bytes are `pieces` and hold `size` raw bytes.

        Errors of `pieces` pass through; no thread looks at them any more then.

        Raises:
            ConfigError: the codec is unknown.
        """
        feed = _Feed(asyncio.get_running_loop())
        # Pieces may gather before a thread is free: then it finds something to do at once.
        future = asyncio.wrap_future(self._threads.submit(_measure, feed, codec, size))
        try:
            async for piece in pieces:
                await feed.put(piece)
            feed.close()
            await asyncio.wait([future])
        except BaseException:
            feed.close()
            await settle(future)
            raise
        return future.result()


class _Feed:
    """Pieces on their way from the loop to a thread, bounded by bytes; the thread iterates."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._room = loop, asyncio.Event()
        self._waiting = 0
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    async def put(self, piece: bytes) -> None:
        while self._waiting and self._waiting + len(piece) > WAITING_BYTES:
            self._room.clear()
            await self._room.wait()
        self._waiting += len(piece)
        self._pieces.put(piece)

    def close(self) -> None:
        self._pieces.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            yield piece
            self._loop.call_soon_threadsafe(self._taken, len(piece))

    def _taken(self, size: int) -> None:
        self._waiting -= size
        self._room.set()


def _measure(feed: _Feed, codec: str, size: int) -> Measured:
    stored, raw = hashlib.sha256(), hashlib.sha256()
    stored_size = raw_size = 0
    problem = ""
    pieces = iter(feed)

    def counted() -> Iterator[bytes]:
        nonlocal stored_size
        for piece in pieces:
            stored.update(piece)
            stored_size += len(piece)
            yield piece

    try:
        if codec == "store":
            # What is stored is what was recorded: hashed once, it is measured twice.
            for _ in counted():
                pass
            raw, raw_size = stored, stored_size
        else:
            for part in _restored(counted(), codec, size):
                raw.update(part)
                raw_size += len(part)
    except IntegrityError as exc:
        problem = exc.message
    finally:
        # The rest counts for the digest of what is stored, and the loop may wait for room.
        for piece in pieces:
            stored.update(piece)
            stored_size += len(piece)
    return Measured(
        stored_size=stored_size,
        stored_sha256=stored.hexdigest(),
        raw_size=raw_size,
        raw_sha256=raw.hexdigest(),
        broken=problem,
    )


def _restored(pieces: Iterator[bytes], codec: str, size: int) -> Iterator[Buffer]:
    """Yield the raw bytes of a chunk, all at once when it is small enough."""
    if size > WHOLE_BYTES:
        yield from decompress_stream(codec, pieces, size=size)
        return
    parts, held = [], 0
    for piece in pieces:
        parts.append(piece)
        held += len(piece)
        if held > size + _OVERHEAD:
            raise broken(codec, f"more than {held} bytes are stored for {size} raw ones")
    yield decompress(codec, b"".join(parts), size=size)
