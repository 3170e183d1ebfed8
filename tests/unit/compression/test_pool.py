import asyncio
import gc
import hashlib
import os
import sys
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from lucid_events.compression import codecs, pool
from lucid_events.compression.budget import ByteBudget
from lucid_events.compression.pool import Compressed, CompressJob, Compressor, DecompressJob
from lucid_events.compression.wire import Buffer
from lucid_events.errors import ConfigError, IntegrityError
from tests.unit.compression.samples import CODECS, MIB, PACKED, noise, text
from tests.unit.compression.test_budget import turn_over

WAIT_S = 30


def sha256(data: bytes) -> str:
    """Digest as the events write it."""
    return hashlib.sha256(data).hexdigest()


def compressor(workers: int = 2, limit: int = 64 * MIB) -> Compressor:
    """A small pool of its own for one test."""
    return Compressor(workers=workers, budget=ByteBudget(limit))


class Valve:
    """Holds worker threads inside `codecs.compress` until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.inside = 0
        self._compress = codecs.compress
        monkeypatch.setattr(codecs, "compress", self._held)

    def _held(self, codec: str, level: int | None, data: Buffer) -> Buffer:
        self.inside += 1
        self.entered.release()
        assert self.opened.wait(WAIT_S)
        self.inside -= 1
        return self._compress(codec, level, data)

    async def wait_entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.entered.acquire, timeout=WAIT_S)


@pytest.mark.parametrize("codec", CODECS)
def test_a_chunk_round_trips(codec: str) -> None:
    """A compressed chunk says everything about itself, and restores to the same bytes."""

    async def run() -> None:
        raw = text(300_000)
        async with compressor() as threads:
            done = await threads.compress_chunk(raw, codec, expect_sha256=sha256(raw))
            assert (done.codec, done.raw_size, done.stored_size) == (codec, len(raw), len(done.data))
            assert done.sha256 == sha256(bytes(done.data))
            assert done.ratio == len(raw) / len(done.data)
            assert done.elapsed_ms == pytest.approx(sum(done.timings_ms.values()))
            assert done.timings_ms.keys() == {"hash", "probe", "compress"}
            back = await threads.decompress_chunk(
                done.data, done.codec, size=len(raw), expect_sha256=sha256(raw)
            )
            assert back == raw
            assert threads.budget.in_use == 0

    asyncio.run(run())


@pytest.mark.parametrize("setting", [*PACKED, "auto"])
def test_incompressible_chunks_are_stored(setting: str) -> None:
    """Noise is handed back as it came, without a copy, as codec `store` without a level."""

    async def run() -> None:
        raw = noise(300_000)
        async with compressor() as threads:
            done = await threads.compress_chunk(raw, setting)
        assert (done.codec, done.level, done.ratio, done.sha256) == ("store", None, 1.0, sha256(raw))
        assert done.data is raw

    asyncio.run(run())


def test_stored_bytes_are_never_more_than_raw_ones() -> None:
    """What the probe finds promising and the codec can't shrink is stored instead.

    Hexadecimal noise has redundancy in its alphabet only, which lz4 can't use.
    """

    async def run() -> None:
        raw = noise(50_000).hex().encode()
        async with compressor() as threads:
            done = [await threads.compress_chunk(raw, setting) for setting in (*PACKED, "auto")]
            assert [one.codec for one in done] == ["gzip", "zstd", "store", "zstd"]
            empty = await threads.compress_chunk(b"", "gzip")
        assert (empty.codec, empty.stored_size, empty.ratio) == ("store", 0, 1.0)

    asyncio.run(run())


def test_other_raw_bytes_than_expected_are_refused() -> None:
    """A wrong digest of the raw bytes is an error that names both digests, both ways."""

    async def run() -> None:
        raw, other = text(5000), sha256(b"other")
        stored = codecs.compress("gzip", None, raw)
        async with compressor() as threads:
            for refused in (
                threads.compress_chunk(raw, "gzip", expect_sha256=other),
                threads.decompress_chunk(stored, "gzip", size=len(raw), expect_sha256=other),
            ):
                with pytest.raises(IntegrityError) as caught:
                    await refused
                assert sha256(raw) in str(caught.value)
                assert other in str(caught.value)
                assert caught.value.fields == {"expected": other, "actual": sha256(raw)}
            assert threads.budget.in_use == 0
            assert threads.statistics.snapshot()["total_compressions"] == 0

    asyncio.run(run())


def test_wrong_settings_wait_for_nobody() -> None:
    """An unknown codec or level is an error at once, even when the budget is used up."""

    async def run() -> None:
        async with compressor() as threads, threads.budget.take(threads.budget.limit):
            for codec, level in (("brotli", None), ("gzip", 0), ("store", 3)):
                with pytest.raises(ConfigError):
                    await threads.compress_chunk(b"abc", codec, level)
            with pytest.raises(ConfigError):
                await threads.decompress_chunk(b"abc", "auto", size=3)
            with pytest.raises(ValueError, match="negative"):
                await threads.decompress_chunk(b"abc", "lz4", size=-1)
        with pytest.raises(ConfigError, match="at least 1"):
            compressor(workers=0)

    asyncio.run(run())


def test_statistics_count_what_was_done() -> None:
    """Each compression and each restoring is counted under the codec that was really used."""

    async def run() -> None:
        raw = text(50_000)
        async with compressor() as threads:
            done = await threads.compress_chunk(raw, "auto")
            await threads.compress_chunk(noise(50_000), "auto")
            await threads.decompress_chunk(done.data, done.codec, size=len(raw))
            seen = threads.statistics.snapshot()
        used = seen["codecs"]
        assert isinstance(used, dict)
        assert {name: one["total_compressions"] for name, one in used.items()} == {"store": 1, "zstd": 1}
        assert used["zstd"]["average_compression_ratio"] == done.ratio
        assert (seen["total_decompressions"], seen["total_bytes_decompressed"]) == (1, len(raw))

    asyncio.run(run())


def test_many_chunks_keep_their_order() -> None:
    """Chunks of many sizes compressed and restored in parallel come back in order, byte for byte."""

    async def run() -> None:
        chunks = [text(size, seed=size) for size in (400_000, 10, 90_000, 1, 250_000, 3000) * 4]

        async def compressed(threads: Compressor) -> AsyncGenerator[DecompressJob]:
            jobs = (
                CompressJob(data=chunk, codec=codec, expect_sha256=sha256(chunk))
                for chunk, codec in zip(chunks, PACKED * 8, strict=True)
            )
            async for done in threads.compress_many(jobs):
                yield DecompressJob(data=done.data, codec=done.codec, size=done.raw_size)

        async with compressor(limit=2 * MIB) as first, compressor(limit=MIB) as second:
            back = [raw async for raw in second.decompress_many(compressed(first))]
            assert back == chunks
            assert (first.budget.in_use, second.budget.in_use) == (0, 0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_a_broken_chunk_ends_the_rest_in_its_place() -> None:
    """Chunks before a broken one are delivered, then its error is raised, and nothing is left over."""

    async def run() -> None:
        good = text(5000)
        stored = codecs.compress("zstd", None, good)
        jobs = [DecompressJob(data=stored, codec="zstd", size=len(good)) for _ in range(9)]
        jobs[4] = DecompressJob(data=bytes(stored)[:-1], codec="zstd", size=len(good))
        async with compressor() as threads:
            restored = threads.decompress_many(jobs)
            assert [await anext(restored) for _ in range(4)] == [good] * 4
            with pytest.raises(IntegrityError, match="zstd"):
                await anext(restored)
            assert threads.budget.in_use == 0
            wrong = [CompressJob(data=good, codec="gzip"), CompressJob(data=good, codec="gzip", level=0)]
            results = threads.compress_many(wrong)
            assert (await anext(results)).codec == "gzip"
            with pytest.raises(ConfigError):
                await anext(results)
            assert threads.budget.in_use == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_the_budget_bounds_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workers there are, no more chunks are in the works than the budget has bytes for."""
    valve = Valve(monkeypatch)

    async def run() -> None:
        job = CompressJob(data=text(MIB), codec="gzip")
        cost = pool.compress_cost(job)
        assert cost > 2 * MIB
        async with compressor(workers=8, limit=2 * cost) as threads:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(6):
                    tasks.create_task(threads.compress_chunk(job.data, job.codec))
                await valve.wait_entered(2)
                assert (threads.budget.in_use, threads.budget.waiting, valve.inside) == (2 * cost, 4, 2)
                valve.opened.set()
            assert threads.budget.in_use == 0

    asyncio.run(run())


def test_the_loop_runs_while_chunks_are_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop does other things while every worker is busy."""
    valve = Valve(monkeypatch)

    async def run() -> None:
        async with compressor(workers=1) as threads:
            work = asyncio.create_task(threads.compress_chunk(text(5000), "gzip"))
            await valve.wait_entered()
            assert not work.done()
            valve.opened.set()
            assert (await work).codec == "gzip"

    asyncio.run(run())


def test_a_cancelled_chunk_is_let_go_of_before_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """CancelledError arrives when no thread reads the buffer any more, and the budget is free then."""
    valve = Valve(monkeypatch)

    async def run() -> None:
        async with compressor(workers=1) as threads:
            running = asyncio.create_task(threads.compress_chunk(text(5000), "gzip"))
            await valve.wait_entered()
            queued = asyncio.create_task(threads.compress_chunk(text(5000), "gzip"))
            await turn_over()
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued  # had no thread yet, so it does not wait for one
            for _ in range(2):
                running.cancel()
                await turn_over()
            assert not running.done()
            assert threads.budget.in_use > 0
            valve.opened.set()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert (valve.inside, threads.budget.in_use) == (0, 0)
            assert (await threads.compress_chunk(text(5000), "gzip")).codec == "gzip"

    asyncio.run(run())


def test_leaving_many_early_frees_threads_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `aclose` of a stream no thread works for it, and the budget is free for the next one."""
    valve = Valve(monkeypatch)

    async def run() -> None:
        async with compressor(workers=2) as threads:
            jobs = [CompressJob(data=text(5000), codec="gzip") for _ in range(9)]
            async with aclosing(threads.compress_many(jobs)) as results:
                first = asyncio.ensure_future(anext(results))
                await valve.wait_entered(2)
                valve.opened.set()
                await first
            assert (valve.inside, threads.budget.in_use, threads.budget.waiting) == (0, 0, 0)
            assert len([done async for done in threads.compress_many(jobs)]) == 9

    asyncio.run(run())


def test_delivered_chunks_are_not_kept() -> None:
    """A stream holds on to no chunk that its caller has let go of."""

    class Bytes(bytearray):
        """A bytearray that can be watched."""

    async def run() -> None:
        watched: list[weakref.ref[Bytes]] = []

        def jobs() -> list[CompressJob]:
            made = [Bytes(noise(1000, seed)) for seed in range(3)]
            watched.extend(weakref.ref(one) for one in made)
            return [CompressJob(data=one, codec="store") for one in made]

        async with compressor() as threads:
            results = threads.compress_many(iter(jobs()))
            for _ in range(3):
                done: Compressed | None = await anext(results)
                assert done is not None
            done = None
            assert [result async for result in results] == []
            await turn_over()  # the loop itself holds the future that woke this task last
            gc.collect()
            assert [ref() for ref in watched] == [None, None, None]

    asyncio.run(run())


def test_closing_waits_and_refuses_new_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing lets running work finish, takes no more, and may be done twice."""
    valve = Valve(monkeypatch)

    async def run() -> None:
        threads = compressor(workers=1)
        work = asyncio.create_task(threads.compress_chunk(text(5000), "gzip"))
        await valve.wait_entered()
        closing = asyncio.create_task(threads.aclose())
        await turn_over()
        assert not closing.done()
        valve.opened.set()
        assert (await work).codec == "gzip"
        await closing
        await threads.aclose()
        with pytest.raises(RuntimeError, match="shutdown"):
            await threads.compress_chunk(b"abc", "gzip")
        assert threads.budget.in_use == 0

    asyncio.run(run())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
def test_threads_stand_back_behind_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that compresses yields the core to the loop that answers, whose own priority stays."""
    seen: list[int] = []
    real = codecs.compress

    def compress(codec: str, level: int | None, data: Buffer) -> Buffer:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return real(codec, level, data)

    monkeypatch.setattr(codecs, "compress", compress)

    async def run() -> None:
        async with Compressor(workers=1, budget=ByteBudget(64 * MIB)) as threads:
            await threads.compress_chunk(text(MIB), "gzip")

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    asyncio.run(run())
    assert seen
    assert set(seen) == {max(before, pool.NICENESS)}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
