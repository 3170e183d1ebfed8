"""Compress and restore chunks in threads, bounded in workers and in bytes.

Knows how to keep the event loop free and memory within its budget. Refuses to know where chunks
come from and go to. Compressing yields to the probe: incompressible bytes are stored as they are.
"""

import asyncio
import hashlib
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from lucid_events.compression import codecs
from lucid_events.compression.budget import ByteBudget
from lucid_events.compression.ordered import in_order, settle
from lucid_events.compression.probe import choose
from lucid_events.compression.statistics import CompressionStatistics
from lucid_events.compression.wire import Buffer, as_bytes_view
from lucid_events.domain.codecs import Codec, check_codec, check_level
from lucid_events.errors import ConfigError, IntegrityError

Value = TypeVar("Value")

NICENESS: Final = 10
"""How far the threads stand back (Linux): they get a tenth of a busy core, and all of an idle one. At half
a burst of chunks is felt in every answer; at 19 a machine that is never idle would store next to nothing."""

AHEAD_PER_WORKER: Final = 2
"""Items of one stream in the pool per worker: one at work, one ready to follow or to be handed over.

At 1 a worker idles while the slowest item holds up the order; more only fills the budget earlier.
"""


class CompressJob(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk to compress: its raw bytes, what is asked for, and their digest if it is known."""

    data: Buffer
    codec: str
    level: int | None = None
    expect_sha256: str | None = None


class DecompressJob(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk to restore: its stored bytes, their codec, and what must come out."""

    data: Buffer
    codec: str
    size: int
    expect_sha256: str | None = None


class Compressed(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk ready to be stored, with everything `chunk.ready` says about it.

    `codec` and `level` are what was used, `sha256` is of the stored bytes, `timings_ms` holds the
    work per step (probe, compress, hash). When `codec` is `store`, `data` is what was handed in.
    """

    codec: Codec
    level: int | None
    data: Buffer
    raw_size: int
    stored_size: int
    sha256: str
    timings_ms: dict[str, float]

    @property
    def ratio(self) -> float:
        """Raw bytes / stored bytes, never below 1."""
        return self.raw_size / self.stored_size if self.stored_size else 1.0

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds of work in the thread, waiting for a worker excluded."""
        return sum(self.timings_ms.values())


class Compressor:
    """Worker threads and a byte budget that all sessions share, first come, first served.

    The budget counts input, output and what the codec allocates. Buffers handed in must not change
    until the call has returned; when it has, cancelled or not, no thread looks at them any more.
    A context manager; leaving it waits for the threads.

    Raises:
        ConfigError: `workers` is below 1.
    """

    def __init__(
        self, *, workers: int, budget: ByteBudget, statistics: CompressionStatistics | None = None
    ) -> None:
        if workers < 1:
            raise ConfigError(f"{workers} compression workers: must be at least 1", value=workers)
        self.workers = workers
        self.budget = budget
        self.statistics = statistics or CompressionStatistics()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="compression", initializer=_stand_back)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Take no more work and wait until the threads have ended; may be called twice."""
        await asyncio.to_thread(self._threads.shutdown)

    async def compress_chunk(
        self, data: Buffer, codec: str, level: int | None = None, *, expect_sha256: str | None = None
    ) -> Compressed:
        """Return `data` compressed as `codec` asks, or as it is when that does not pay.

        `codec` may be `auto`. The same arguments always give the same bytes. Stored bytes are never
        more than the raw ones.

        Args:
            expect_sha256: digest that the raw bytes must have, in lower case hex.

        Raises:
            ConfigError: codec or level is unknown; raised before any waiting.
            IntegrityError: the raw bytes have another digest; nothing was compressed.
        """
        job = CompressJob(data=data, codec=codec, level=level, expect_sha256=expect_sha256)
        async with self.budget.take(compress_cost(job)):
            return await self._compress(job)

    async def decompress_chunk(
        self, data: Buffer, codec: str, *, size: int, expect_sha256: str | None = None
    ) -> Buffer:
        """Return the `size` raw bytes of stored `data`, verified by all checksums there are.

        Raises:
            ConfigError: the codec is unknown; raised before any waiting.
            IntegrityError: the stored bytes are broken, or the raw ones have another digest.
        """
        job = DecompressJob(data=data, codec=codec, size=size, expect_sha256=expect_sha256)
        async with self.budget.take(decompress_cost(job)):
            return await self._decompress(job)

    def compress_many(
        self, jobs: AsyncIterable[CompressJob] | Iterable[CompressJob]
    ) -> AsyncGenerator[Compressed, None]:
        """Yield each job's outcome in the order of `jobs`, as `compress_chunk` would, in parallel.

        An error is raised in its place, and ends the rest. Leaving early needs `aclose` (or
        `contextlib.aclosing`); when it returns, threads and budget are free. A caller that stops
        asking keeps the results that are ready, and their share of the budget.
        """
        ahead = self.workers * AHEAD_PER_WORKER
        return in_order(
            jobs, self._compress, cost=compress_cost, kept=_stored_size, budget=self.budget, ahead=ahead
        )

    def decompress_many(
        self, jobs: AsyncIterable[DecompressJob] | Iterable[DecompressJob]
    ) -> AsyncGenerator[Buffer, None]:
        """Yield each job's raw bytes in the order of `jobs`, as `decompress_chunk` would, in parallel.

        Errors and leaving early are as for `compress_many`.
        """
        ahead = self.workers * AHEAD_PER_WORKER
        return in_order(
            jobs, self._decompress, cost=decompress_cost, kept=_nbytes, budget=self.budget, ahead=ahead
        )

    async def _compress(self, job: CompressJob) -> Compressed:
        done = await self._in_thread(partial(_compress_now, job))
        self.statistics.compressed(
            done.codec,
            raw_bytes=done.raw_size,
            stored_bytes=done.stored_size,
            elapsed_ms=done.elapsed_ms,
        )
        return done

    async def _decompress(self, job: DecompressJob) -> Buffer:
        raw, elapsed_ms = await self._in_thread(partial(_decompress_now, job))
        self.statistics.decompressed(
            job.codec, raw_bytes=job.size, stored_bytes=_nbytes(job.data), elapsed_ms=elapsed_ms
        )
        return raw

    async def _in_thread(self, work: Callable[[], Value]) -> Value:
        """Run `work` in a worker thread; when cancelled, return only once no thread runs it.

        Otherwise the budget would be given back while the bytes are still held, and the caller's
        buffer still be read. A compression can't be stopped half way; the longest wait is one
        chunk's.
        """
        submitted = self._threads.submit(work)
        future = asyncio.wrap_future(submitted)
        try:
            # Unlike awaiting the future itself, this does not cancel it.
            await asyncio.wait([future])
        except asyncio.CancelledError:
            submitted.cancel()  # works as long as no thread has begun
            await settle(future)
            raise
        return future.result()


def compress_cost(job: CompressJob) -> int:
    """Return the bytes that compressing `job` holds at its worst; ConfigError if it can't be done."""
    size = _nbytes(job.data)
    if check_level(job.codec, job.level) is None:
        return size
    return 2 * size + codecs.working_bytes(job.codec, job.level, size)


def decompress_cost(job: DecompressJob) -> int:
    """Return the bytes that restoring `job` holds at its worst; ConfigError if it can't be done."""
    if check_codec(job.codec) == "store":
        return _nbytes(job.data)
    if job.size < 0:
        raise ValueError(f"size {job.size} is negative")
    return _nbytes(job.data) + job.size + codecs.restoring_bytes(job.codec, job.size)


def _compress_now(job: CompressJob) -> Compressed:
    clock = _Clock()
    digest = _verified(job.data, job.expect_sha256)
    clock.lap("hash")
    codec, level = choose(job.codec, job.level, job.data)
    clock.lap("probe")
    stored = codecs.compress(codec, level, job.data)
    size = _nbytes(job.data)
    if _nbytes(stored) >= size:
        # The sample promised more than the whole could keep.
        codec, level, stored = "store", None, job.data
    clock.lap("compress")
    if codec != "store" or digest is None:
        digest = hashlib.sha256(stored).hexdigest()
    clock.lap("hash")
    return Compressed(
        codec=codec,
        level=level,
        data=stored,
        raw_size=size,
        stored_size=_nbytes(stored),
        sha256=digest,
        timings_ms=clock.laps,
    )


def _decompress_now(job: DecompressJob) -> tuple[Buffer, float]:
    clock = _Clock()
    raw = codecs.decompress(job.codec, job.data, size=job.size)
    _verified(raw, job.expect_sha256)
    clock.lap("decompress")
    return raw, clock.laps["decompress"]


def _verified(raw: Buffer, expected: str | None) -> str | None:
    if expected is None:
        return None
    actual = hashlib.sha256(raw).hexdigest()
    if actual != expected:
        raise IntegrityError(
            f"the raw bytes have SHA-256 {actual}, not {expected}", expected=expected, actual=actual
        )
    return actual


def _stored_size(done: Compressed) -> int:
    return done.stored_size


def _nbytes(data: Buffer) -> int:
    return as_bytes_view(data).nbytes


class _Clock:
    """Milliseconds per step; a step that comes twice is added up."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.laps[step] = self.laps.get(step, 0.0) + (now - self._since) * 1000
        self._since = now


def _stand_back() -> None:
    """Let this thread work when nobody else does: a chunk may wait, an answer and an ack may not."""
    if sys.platform != "linux":
        return  # elsewhere it is the process that has a priority, not the thread
    thread = threading.get_native_id()
    # Never forward: a process that was started further back may not come nearer. And a sandbox may forbid all
    # of it, which is no reason to compress nothing.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
