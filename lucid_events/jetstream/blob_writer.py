"""Writes one object so that it is either whole and visible, or not visible at all.

Pieces go out under a nuid of their own, a window ahead of their acknowledgements. When all are
stored, the metadata makes them visible, guarded by the sequence that stood under the name. Then the
leader is asked whether metadata and pieces are there: a sweep may have taken a slow writer for dead.
"""

import asyncio
import hashlib
import logging
import random
import secrets
from collections import deque
from collections.abc import Mapping
from typing import Final

from lucid_events.errors import AppendUncertain, LucidError, StoreUnavailable, VersionConflict
from lucid_events.jetstream.append import EXPECTED
from lucid_events.jetstream.blob_format import ROLLUP, Entry, encode_meta, info
from lucid_events.jetstream.bucket import Bucket
from lucid_events.jetstream.connection import Reply
from lucid_events.jetstream.replies import read_ack
from lucid_events.ports import BlobInfo
from lucid_events.subjects import object_meta, object_pieces

log = logging.getLogger(__name__)

WINDOW_BYTES: Final = 8 * 1024 * 1024
"""Bytes of pieces that may be unacknowledged; half stalls on every fsync, twice as much only buffers."""
PUT_TIMEOUT_S: Final = 60.0
"""Bound of one put with all its attempts: a leader election and one repetition of 100 MiB fit."""
ACK_TIMEOUT_S: Final = 15.0
"""Bound of one piece or metadata message; a leader election takes 5 s."""
SETTLE_S: Final = 2.0
"""What pieces under way may take to land after one failed; what is later yet is left to the sweep."""
PAUSE_FIRST_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0
HASH_IN_THREAD_BYTES: Final = 256 * 1024
"""Below this, hashing takes less time than handing it to a thread."""


class BlobWriter:
    """Writes objects into one bucket."""

    def __init__(self, bucket: Bucket, *, piece_bytes: int) -> None:
        self._bucket = bucket
        self._piece_bytes = piece_bytes
        # Objects go out one after the other, the next as soon as all of one is sent. Side by side they
        # would all end at the same late time, and what follows them would have nothing to do till then.
        self._turn = asyncio.Lock()
        self._room = asyncio.Semaphore(max(WINDOW_BYTES // piece_bytes, 1))

    async def write(
        self, name: str, data: bytes, metadata: Mapping[str, str], *, over: int, digest: str = ""
    ) -> BlobInfo:
        """Store `data` under `name`, whose newest metadata message has sequence `over` (0: none).

        Args:
            digest: the SHA-256 of `data`, in hex; empty has it made here.

        Raises:
            VersionConflict: another writer came first.
            StoreUnavailable: nothing is visible.
            AppendUncertain: it may be visible, whole or not.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PUT_TIMEOUT_S
        pause = PAUSE_FIRST_S
        hashing = None if digest else asyncio.create_task(sha256(data))
        try:
            while True:
                nuid = secrets.token_hex(11)
                try:
                    sequences = await self._write_pieces(nuid, data)
                except AppendUncertain as exc:
                    # Sending a piece again could store it twice, so the whole object goes again.
                    await self._drop(nuid)
                    problem: LucidError = exc
                except LucidError:
                    await self._drop(nuid)
                    raise
                else:
                    body = encode_meta(
                        bucket=self._bucket.name,
                        name=name,
                        nuid=nuid,
                        size=len(data),
                        sequences=sequences,
                        digest=bytes.fromhex(digest) if hashing is None else await hashing,
                        piece_bytes=self._piece_bytes,
                        metadata=metadata,
                    )
                    found = await self._show(name, nuid, body, over, deadline)
                    if await self._stands(name, nuid, len(sequences)):
                        return info(found)
                    over = found.sequence
                    problem = AppendUncertain(f"the pieces of {name} were swept while it was written")
                if loop.time() + pause >= deadline:
                    raise AppendUncertain(
                        f"object {name} of {self._bucket.name} could not be stored within "
                        f"{PUT_TIMEOUT_S:g} s: put it again",
                        name=name,
                    ) from problem
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, PAUSE_MAX_S)
        finally:
            if hashing is not None:
                hashing.cancel()

    async def _write_pieces(self, nuid: str, data: bytes) -> list[int]:
        """Publish the pieces in order; returns their sequences.

        Raises:
            StoreUnavailable: a piece was refused; others may be stored.
            AppendUncertain: a piece was not acknowledged, or they are out of order.
        """
        subject = object_pieces(self._bucket.name, nuid)
        view, size = memoryview(data), self._piece_bytes
        sequences: list[int] = []
        flying: deque[asyncio.Future[Reply]] = deque()
        try:
            async with self._turn:
                for start in range(0, len(data), size):
                    flying.append(await self._send_piece(subject, view[start : start + size]))
                    while flying and flying[0].done():
                        sequences.append(read_ack(subject, flying.popleft().result()).sequence)
            while flying:
                sequences.append(read_ack(subject, await flying.popleft()).sequence)
        except LucidError:
            # What is under way may land behind the purge of this nuid: let it land first.
            if flying:
                await asyncio.wait(flying, timeout=SETTLE_S)
            raise
        finally:
            for future in flying:
                future.cancel()
        if sequences != sorted(set(sequences)):
            raise AppendUncertain(f"the pieces on {subject} were stored out of order")
        return sequences

    async def _send_piece(self, subject: str, piece: memoryview) -> asyncio.Future[Reply]:
        await self._room.acquire()
        try:
            sent = self._bucket.connection.call(subject, piece, timeout_s=ACK_TIMEOUT_S)
        except BaseException:
            self._room.release()
            raise
        sent.add_done_callback(lambda _: self._room.release())
        return sent

    async def _show(self, name: str, nuid: str, body: bytes, over: int, deadline: float) -> Entry:
        """Make the object visible and return its entry as the leader has it; drops the pieces if it can't be.

        Raises:
            VersionConflict: something else than sequence `over` stands under the name.
            StoreUnavailable: not visible.
            AppendUncertain: it may be visible.
        """
        loop = asyncio.get_running_loop()
        subject = object_meta(self._bucket.name, name)
        headers = {**ROLLUP, EXPECTED: str(over)}
        pause, uncertain = PAUSE_FIRST_S, False
        while True:
            problem: LucidError | None = None
            try:
                left = min(max(deadline - loop.time(), 0.001), ACK_TIMEOUT_S)
                await self._bucket.connection.publish_acked(subject, body, headers=headers, timeout_s=left)
                uncertain = True
            except AppendUncertain as exc:
                uncertain, problem = True, exc
            except StoreUnavailable as exc:
                if not uncertain:
                    await self._drop(nuid)
                    raise
                problem = exc
            except VersionConflict as exc:
                problem = exc
            except LucidError:
                await self._drop(nuid)
                raise
            try:
                found = await self._bucket.entry(name)
            except (StoreUnavailable, AppendUncertain) as exc:
                problem = exc
            else:
                if found.nuid == nuid:
                    return found
                if found.sequence != over:
                    await self._drop(nuid)
                    raise VersionConflict(
                        f"object {name} of {self._bucket.name} was written by another", name=name
                    ) from problem
            if loop.time() + pause >= deadline:
                raise AppendUncertain(
                    f"whether object {name} of {self._bucket.name} became visible could not be settled: "
                    "put it again",
                    name=name,
                ) from problem
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSE_MAX_S)

    async def _stands(self, name: str, nuid: str, pieces: int) -> bool:
        try:
            return await self._bucket.count(nuid) == pieces
        except StoreUnavailable as exc:
            raise AppendUncertain(f"object {name} could not be confirmed: put it again", name=name) from exc

    async def _drop(self, nuid: str) -> None:
        try:
            await self._bucket.drop(nuid)
        except LucidError as exc:
            log.warning("pieces were left for the sweep", extra={"subject": nuid, "reason": exc.message})


async def sha256(data: bytes) -> bytes:
    """Return the digest of `data`, made beside the event loop when it takes long."""
    if len(data) < HASH_IN_THREAD_BYTES:
        return hashlib.sha256(data).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
