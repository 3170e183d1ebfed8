import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import pytest

from lucid_events.compression import codecs
from lucid_events.compression.measuring import WAITING_BYTES, WHOLE_BYTES, Measured, Measurer
from lucid_events.errors import ConfigError, IntegrityError

CODECS = ("gzip", "zstd", "lz4", "store")


async def cut(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield `data` in pieces."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def measured(stored: bytes, codec: str, size: int, *, piece: int = 1000) -> Measured:
    """Measure one object."""

    async def main() -> Measured:
        async with Measurer(workers=1) as measurer:
            return await measurer.measure(cut(stored, piece), codec, size=size)

    return asyncio.run(main())


def sha(data: bytes) -> str:
    """SHA-256 as digits."""
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [1, 70_000, WHOLE_BYTES + 1])
def test_both_digests_of_a_good_object(codec: str, size: int) -> None:
    """Stored and raw bytes are counted and hashed, small ones at once and large ones in pieces."""
    raw = (random.Random(size).randbytes(1000) * (size // 1000 + 1))[:size]
    stored = bytes(codecs.compress(codec, None, raw))
    assert measured(stored, codec, size, piece=300_000) == Measured(
        stored_size=len(stored), stored_sha256=sha(stored), raw_size=size, raw_sha256=sha(raw)
    )


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4"])
@pytest.mark.parametrize("size", [70_000, WHOLE_BYTES + 1])
def test_a_broken_object_is_hashed_to_its_end(codec: str, size: int) -> None:
    """What does not restore says why, and its stored bytes are still all counted."""
    stored = bytearray(codecs.compress(codec, None, bytes(size)))
    stored[len(stored) // 2] ^= 1
    stored += bytes(5000)
    found = measured(bytes(stored), codec, size, piece=999)
    assert found.broken
    assert (found.stored_size, found.stored_sha256) == (len(stored), sha(bytes(stored)))


def test_more_than_a_chunk_can_hold_is_not_held() -> None:
    """An object far larger than its chunk is hashed as it goes by, and is broken."""
    stored = bytes(10 * WAITING_BYTES)
    found = measured(stored, "gzip", 1000, piece=100_000)
    assert "more than" in found.broken
    assert (found.stored_size, found.stored_sha256) == (len(stored), sha(stored))


def test_an_error_of_the_pieces_passes_through() -> None:
    """A piece that can't be had ends the measuring with its own error, and the next object is measured."""

    async def failing() -> AsyncIterator[bytes]:
        yield bytes(10)
        raise IntegrityError("a piece is missing")

    async def main() -> None:
        async with Measurer(workers=1) as measurer:
            with pytest.raises(IntegrityError, match="a piece is missing"):
                await measurer.measure(failing(), "store", size=20)
            assert (await measurer.measure(cut(b"abc", 2), "store", size=3)).raw_sha256 == sha(b"abc")

    asyncio.run(main())


def test_many_at_once_share_the_threads_and_a_cancelled_one_lets_go() -> None:
    """More objects than threads are all measured; a cancelled measuring leaves its thread to others."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(WAITING_BYTES)
            await asyncio.sleep(0)

    async def main() -> None:
        async with Measurer(workers=2) as measurer:
            stuck = [asyncio.create_task(measurer.measure(endless(), "store", size=1)) for _ in range(2)]
            contents = [bytes([number]) * 100_000 for number in range(8)]
            waiting = [
                asyncio.create_task(measurer.measure(cut(data, 7000), "store", size=len(data)))
                for data in contents
            ]
            await asyncio.sleep(0)
            for task in stuck:
                task.cancel()
            found = await asyncio.gather(*waiting)
            assert [one.raw_sha256 for one in found] == [sha(data) for data in contents]
            assert all(
                isinstance(e, asyncio.CancelledError)
                for e in await asyncio.gather(*stuck, return_exceptions=True)
            )

    asyncio.run(main())


def test_workers_are_at_least_one() -> None:
    """No thread would measure nothing for ever."""
    with pytest.raises(ConfigError):
        Measurer(workers=0)
