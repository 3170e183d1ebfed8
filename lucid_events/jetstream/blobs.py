"""One object-store bucket as a `BlobStore`: bytes in and out, whole, by range or as a stream.

The layout is NATS ADR-20's (`blob_format.py`), so every other client reads what is written here,
and the other way round. Metadata always comes from the leader. Pieces may come from a replica: what
is missing there is asked of the leader before anything is called lost.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Final

from lucid_events.errors import (
    AppendUncertain,
    IntegrityError,
    NotFound,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.jetstream.append import EXPECTED
from lucid_events.jetstream.blob_format import (
    ROLLUP,
    Entry,
    encode_deleted,
    info,
    piece_sequences,
    piece_size,
)
from lucid_events.jetstream.blob_writer import (
    ACK_TIMEOUT_S,
    PAUSE_FIRST_S,
    PAUSE_MAX_S,
    BlobWriter,
    sha256,
)
from lucid_events.jetstream.bucket import Bucket
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.sweep import sweep
from lucid_events.ports import BlobInfo, Orphan
from lucid_events.subjects import object_meta

PIECE_BYTES: Final = 1536 * 1024
"""Measured for a put of 10 MiB with `sync_interval: always`, on a busy machine: 512 KiB 29 ms, 1 MiB 26,
1.5 MiB 24, and 128 KiB four times that: each piece is an fsync. More does not fit the 2 MB that one
message may have."""


class JetStreamBlobStore:
    """One bucket; implements `BlobStore`."""

    def __init__(self, connection: Connection, bucket: str, *, piece_bytes: int | None = None) -> None:
        self.bucket = bucket
        self._connection = connection
        self._bucket = Bucket(connection, bucket)
        self._piece_bytes = piece_bytes or min(PIECE_BYTES, connection.max_payload * 3 // 4)
        self._writer = BlobWriter(self._bucket, piece_bytes=self._piece_bytes)

    async def put(
        self, name: str, data: bytes, *, metadata: Mapping[str, str], digest: str = ""
    ) -> tuple[BlobInfo, bool]:
        """Store an object under a name that must be new; see `BlobStore.put`."""
        found = await self._bucket.entry(name)
        if found.live:
            return info(found), False
        try:
            return await self._writer.write(name, data, metadata, over=found.sequence, digest=digest), True
        except VersionConflict as exc:
            found = await self._bucket.entry(name)
            if found.live:
                return info(found), False
            raise AppendUncertain(
                f"object {name} of {self.bucket} was written and deleted meanwhile: put it again", name=name
            ) from exc

    async def replace(
        self,
        name: str,
        data: bytes,
        *,
        metadata: Mapping[str, str],
        damaged: BlobInfo | None,
        digest: str = "",
    ) -> BlobInfo:
        """Put over damaged or deleted metadata; see `BlobStore.replace`.

        `damaged` None stands for a name that is free, deleted, or has metadata that can't be read.
        """
        found = await self._bucket.entry(name)
        if (found.nuid if found.live else "") != ("" if damaged is None else damaged.nuid):
            raise VersionConflict(f"object {name} of {self.bucket} has changed: look at it again", name=name)
        made = await self._writer.write(name, data, metadata, over=found.sequence, digest=digest)
        if damaged is not None:
            await self._bucket.drop(damaged.nuid)
        return made

    async def info(self, name: str) -> BlobInfo | None:
        """Return the object's metadata from the leader, None when absent or deleted.

        Raises:
            IntegrityError: the metadata can't be read.
        """
        found = await self._bucket.entry(name)
        return info(found) if found.live else None

    async def get(self, name: str, *, start: int = 0, end: int | None = None) -> bytes:
        """Return the stored bytes, or a range of them as `bytes[start:end]` has it; see `BlobStore.get`."""
        found = await self._found(name)
        about = info(found)
        begin, stop, _ = slice(start, end).indices(about.size)
        whole = begin == 0 and stop == about.size
        if not whole and await self._bucket.count(about.nuid) < about.pieces:
            # A range has no digest to be held against, so at least nothing may be known to be wrong.
            raise await self._missing(about, certain=True)
        parts = []
        async with aclosing(self._pieces(found, about, begin, stop)) as pieces:
            async for at, data in pieces:
                parts.append(data if whole else data[max(begin - at, 0) : stop - at])
        joined = b"".join(parts)
        if whole and (await sha256(joined)).hex() != about.digest:
            raise _differs(about)
        return joined

    async def stream(self, name: str, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield the stored bytes piece by piece; see `BlobStore.stream`."""
        found = await self._found(name)
        about = info(found)
        digest = hashlib.sha256()
        reading = self._pieces(found, about, 0, about.size) if verify else self._everything(found, about)
        async with aclosing(reading) as pieces:
            async for _, data in pieces:
                if verify:
                    digest.update(data)
                yield data
        if verify and digest.hexdigest() != about.digest:
            raise _differs(about)

    async def delete(self, name: str) -> bool:
        """Delete an object and its pieces; False when there was nothing.

        Pieces that a deletion left which was cut off are taken, too.

        Raises:
            VersionConflict: it was written anew meanwhile; nothing of that was touched.
            AppendUncertain, StoreUnavailable: delete it again.
        """
        found = await self._bucket.entry(name)
        if not found.live:
            if not (found.nuid and await self._bucket.count(found.nuid)):
                return False
            await self._bucket.drop(found.nuid)
            return True
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + ACK_TIMEOUT_S, PAUSE_FIRST_S
        subject = object_meta(self.bucket, name)
        headers = {**ROLLUP, EXPECTED: str(found.sequence)}
        body = encode_deleted(self.bucket, name, found.nuid)
        while True:
            problem: AppendUncertain | VersionConflict | None = None
            try:
                await self._connection.publish_acked(subject, body, headers=headers, timeout_s=ACK_TIMEOUT_S)
                break
            except (AppendUncertain, VersionConflict) as exc:
                problem = exc
            now = await self._bucket.entry(name)
            if now.live and now.sequence != found.sequence:
                raise VersionConflict(
                    f"object {name} of {self.bucket} was written anew", name=name
                ) from problem
            if now.sequence != found.sequence:
                break
            if loop.time() + pause >= deadline:
                raise AppendUncertain(
                    f"object {name} of {self.bucket} may be deleted: delete it again"
                ) from problem
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_S)
        if found.nuid:
            await self._bucket.drop(found.nuid)
        return True

    async def names(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        """Yield the objects whose names begin with `prefix`, oldest first, paged.

        Links, and what has metadata that can't be read, are left out.
        """
        async for found in self._bucket.entries():
            if not found.live or not found.name.startswith(prefix):
                continue
            try:
                about = info(found)
            except IntegrityError:
                continue
            yield about

    async def sweep(self, *, older_than_s: float, dry_run: bool) -> list[Orphan]:
        """Remove pieces without metadata older than the grace period; see `BlobStore.sweep`."""
        return await sweep(self._bucket, older_than_s=older_than_s, dry_run=dry_run)

    async def _found(self, name: str) -> Entry:
        found = await self._bucket.entry(name)
        if not found.live:
            raise NotFound(f"no object {name} in bucket {self.bucket}", bucket=self.bucket, name=name)
        return found

    async def _pieces(
        self, found: Entry, about: BlobInfo, begin: int, stop: int
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield (offset, bytes) of the pieces that hold the bytes from `begin` to `stop`, in order."""
        if begin >= stop:
            return
        sequences, size = piece_sequences(found), piece_size(found)
        index, first, last = 0, 1, None
        if sequences and size:
            index = min(begin // size, len(sequences) - 1)
            first = sequences[index]
            last = sequences[min((stop - 1) // size, len(sequences) - 1)]
        at = index * size
        async with aclosing(self._bucket.pieces(about.nuid, first=first, last=last)) as found_pages:
            async for page in found_pages:
                for message in page:
                    if last is not None and message.sequence != sequences[index]:
                        raise await self._missing(about, certain=last is not None)
                    index += 1
                    yield at, message.data
                    at += len(message.data)
                    if at >= stop:
                        return
        raise await self._missing(about, certain=last is not None)

    async def _everything(self, found: Entry, about: BlobInfo) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield every piece there is, one too many included, as a client reads them that knows no places."""
        at = seen = 0
        sequences = piece_sequences(found)
        known = sequences[-1] if sequences else 0
        async with aclosing(self._bucket.pieces(about.nuid, known=known)) as found_pages:
            async for page in found_pages:
                for message in page:
                    yield at, message.data
                    at, seen = at + len(message.data), seen + 1
        if seen < about.pieces:
            # Up to the last place the leader was asked: it may count a piece that it can't read any more.
            raise await self._missing(about, certain=known > 0)

    async def _missing(self, about: BlobInfo, *, certain: bool) -> StoreUnavailable | IntegrityError:
        """Return the error for a piece that was not read; `certain` when the leader said that it is gone."""
        held = await self._bucket.count(about.nuid)
        if held >= about.pieces and not certain:
            return StoreUnavailable(f"a replica without all pieces of {about.name} answered: read again")
        return IntegrityError(
            f"object {about.name} of {about.bucket} lacks pieces ({held} messages are there "
            f"for {about.pieces}): verify the session, replace the object",
            bucket=about.bucket,
            name=about.name,
        )


def _differs(about: BlobInfo) -> IntegrityError:
    return IntegrityError(
        f"the bytes of object {about.name} of {about.bucket} do not fit their digest: "
        "verify the session, replace the object",
        bucket=about.bucket,
        name=about.name,
    )
