"""One object-store bucket in memory, laid out as NATS ADR-20 does it.

    $O.<bucket>.C.<nuid>        one message per piece
    $O.<bucket>.M.<base64 name> metadata, JSON; the newest message counts

So a test can lose a piece or leave one behind in the same way as on a server.
"""

import base64
import hashlib
import itertools
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import msgspec

from lucid_events import codec
from lucid_events.errors import AppendUncertain, IntegrityError, NotFound, VersionConflict
from lucid_events.memory.faults import Outcome
from lucid_events.memory.server import MemoryServer
from lucid_events.memory.stream import Guard, MemoryStream, Outgoing, StoredMessage
from lucid_events.ports import BlobInfo, Orphan
from lucid_events.subjects import object_meta, object_pieces

PIECE_BYTES = 128 * 1024
"""Size of a piece: ADR-20's default. It is read back from nowhere, so any size is compatible."""

ATTEMPTS = 5
"""Puts of one object that a sweeper may spoil before the outcome is called uncertain."""

_DIGEST = "SHA-256="


class _Meta(msgspec.Struct, kw_only=True):
    name: str
    bucket: str
    nuid: str
    size: int = 0
    chunks: int = 0
    digest: str = ""
    metadata: dict[str, str] = {}
    headers: dict[str, str] = {}
    deleted: bool = False


class MemoryBlobStore:
    """Objects of one bucket; made when it is first named."""

    def __init__(self, server: MemoryServer, bucket: str, *, piece_bytes: int = PIECE_BYTES) -> None:
        self.bucket = bucket
        self._server = server
        self._stream: MemoryStream = server.add_object_store(bucket)
        self._piece_bytes = piece_bytes
        self._nuids = itertools.count(self._stream.last_sequence + 1)

    async def put(
        self, name: str, data: bytes, *, metadata: Mapping[str, str], digest: str = ""
    ) -> tuple[BlobInfo, bool]:
        """Store an object under a name that must be new; see `BlobStore.put`."""
        mine = ""
        for _ in range(ATTEMPTS):
            at, present = self._meta(name)
            if present is not None and not present.deleted:
                if present.nuid != mine:
                    return self._info(name, present), False
                self._drop(mine)  # spoilt by a sweep that took us for dead
            made, first = await self._write(name, data, metadata, at, digest)
            if not first:
                return made, False
            mine = made.nuid
            await self._server.faults.reach("blob.confirm")
            if self._complete(made):
                return made, True
        raise AppendUncertain(
            f"object {name} was swept {ATTEMPTS} times while it was written: put it again", name=name
        )

    async def replace(
        self,
        name: str,
        data: bytes,
        *,
        metadata: Mapping[str, str],
        damaged: BlobInfo | None,
        digest: str = "",
    ) -> BlobInfo:
        """Put over damaged or deleted metadata, guarded by its sequence; raises `VersionConflict`."""
        at, present = self._meta(name)
        seen = None if damaged is None else damaged.nuid
        if (None if present is None or present.deleted else present.nuid) != seen:
            raise VersionConflict(f"object {name} of {self.bucket} has changed: look at it again", name=name)
        made, first = await self._write(name, data, metadata, at, digest)
        if not first:
            raise VersionConflict(
                f"object {name} of {self.bucket} was written meanwhile: look at it again", name=name
            )
        if seen is not None:
            self._drop(seen)
        return made

    async def info(self, name: str) -> BlobInfo | None:
        """Return the object's metadata, None when absent or deleted."""
        await self._server.faults.reach("read")
        _, meta = self._meta(name)
        return None if meta is None or meta.deleted else self._info(name, meta)

    async def get(self, name: str, *, start: int = 0, end: int | None = None) -> bytes:
        """Return the stored bytes, or a range of them; see `BlobStore.get`."""
        found = await self._found(name)
        data = b"".join(piece.data for piece in self._pieces(found.nuid))
        if len(data) != found.size:
            raise self._differs(found, f"{len(data)} of {found.size} bytes are there")
        if start == 0 and end is None:
            self._check(found, hashlib.sha256(data).hexdigest())
        return data[start:end]

    async def stream(self, name: str, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield the stored bytes piece by piece; see `BlobStore.stream`."""
        found = await self._found(name)
        digest = hashlib.sha256()
        pieces = self._pieces(found.nuid)
        for piece in pieces:
            if verify:
                digest.update(piece.data)
            yield piece.data
        if len(pieces) < found.pieces:
            raise self._differs(found, f"{len(pieces)} of {found.pieces} pieces are there")
        if verify:
            self._check(found, digest.hexdigest())

    async def delete(self, name: str) -> bool:
        """Delete an object and its pieces; False when there was none."""
        await self._server.faults.reach("blob.meta")
        at, meta = self._meta(name)
        if meta is None or meta.deleted:
            return False
        gone = _Meta(name=name, bucket=self.bucket, nuid=meta.nuid, deleted=True)
        self._publish_meta(gone, at)
        self._drop(meta.nuid)
        return True

    async def names(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        """Yield the objects whose names begin with `prefix`, oldest first."""
        await self._server.faults.reach("read")
        for message in self._metas():
            meta = codec.decode(message.data, _Meta)
            if not meta.deleted and meta.name.startswith(prefix):
                yield self._info(meta.name, meta)

    async def sweep(self, *, older_than_s: float, dry_run: bool) -> list[Orphan]:
        """Remove pieces without metadata older than the grace period; returns what was found."""
        await self._server.faults.reach("read")
        pieces: dict[str, list[StoredMessage]] = {}
        for message in self._stream.messages(object_pieces(self.bucket, "*")):
            pieces.setdefault(message.subject.rsplit(".", 1)[1], []).append(message)
        known = self._known()
        latest = self._server.clock.now() - timedelta(seconds=older_than_s)
        orphans = [
            Orphan(nuid, len(found), found[-1].stored_at)
            for nuid, found in pieces.items()
            if nuid not in known and found[-1].stored_at <= latest
        ]
        if not dry_run:
            for orphan in orphans:
                self._stream.publish([Outgoing(object_pieces(self.bucket, orphan.nuid), b"")])
                if orphan.nuid not in self._known():
                    self._drop(orphan.nuid)
        return orphans

    async def _write(
        self, name: str, data: bytes, metadata: Mapping[str, str], at: int, digest: str
    ) -> tuple[BlobInfo, bool]:
        await self._server.faults.reach("blob.pieces")
        nuid = f"{next(self._nuids):022d}"
        while self._pieces(nuid):  # another object of this class on the same bucket
            nuid = f"{next(self._nuids):022d}"
        parts = [data[i : i + self._piece_bytes] for i in range(0, len(data), self._piece_bytes)]
        if parts:
            self._stream.publish([Outgoing(object_pieces(self.bucket, nuid), part) for part in parts])
        made = bytes.fromhex(digest) if digest else hashlib.sha256(data).digest()
        meta = _Meta(
            name=name,
            bucket=self.bucket,
            nuid=nuid,
            size=len(data),
            chunks=len(parts),
            digest=_DIGEST + base64.urlsafe_b64encode(made).decode(),
            metadata=dict(metadata),
        )
        for _ in range(ATTEMPTS):
            outcome = await self._server.faults.reach("blob.meta")
            try:
                if outcome is not Outcome.REQUEST_LOST:
                    self._publish_meta(meta, at)
            except VersionConflict:
                _, winner = self._meta(name)
                if winner is not None and winner.nuid != nuid and not winner.deleted:
                    self._drop(nuid)
                    return self._info(name, winner), False
            _, now = self._meta(name)  # what a lost reply leaves open is read, not guessed
            if now is not None and now.nuid == nuid:
                return self._info(name, now), True
        raise AppendUncertain(f"no reply to the metadata of {name}: put it again", name=name)

    def _complete(self, info: BlobInfo) -> bool:
        pieces = self._pieces(info.nuid)
        return len(pieces) == info.pieces and sum(len(piece.data) for piece in pieces) == info.size

    def _publish_meta(self, meta: _Meta, at: int) -> None:
        subject = object_meta(self.bucket, meta.name)
        stored = self._stream.publish(
            [Outgoing(subject, codec.encode(meta), {"Nats-Rollup": "sub"}, Guard(subject, at))]
        )
        self._stream.remove(s for s in self._stream.select([subject]) if s != stored.sequence)

    def _metas(self) -> list[StoredMessage]:
        return self._stream.messages(f"$O.{self.bucket}.M.>")

    def _meta(self, name: str) -> tuple[int, _Meta | None]:
        last = self._stream.last(object_meta(self.bucket, name))
        return (0, None) if last is None else (last.sequence, codec.decode(last.data, _Meta))

    def _known(self) -> set[str]:
        metas = (codec.decode(message.data, _Meta) for message in self._metas())
        return {meta.nuid for meta in metas if not meta.deleted}

    def _pieces(self, nuid: str) -> list[StoredMessage]:
        return self._stream.messages(object_pieces(self.bucket, nuid))

    def _drop(self, nuid: str) -> None:
        self._stream.remove(self._stream.select([object_pieces(self.bucket, nuid)]))

    def _info(self, name: str, meta: _Meta) -> BlobInfo:
        last = self._stream.last(object_meta(self.bucket, name))
        return BlobInfo(
            bucket=self.bucket,
            name=name,
            size=meta.size,
            pieces=meta.chunks,
            digest=base64.urlsafe_b64decode(meta.digest.removeprefix(_DIGEST)).hex(),
            nuid=meta.nuid,
            metadata=meta.metadata,
            headers=meta.headers,
            modified=None if last is None else last.stored_at,
        )

    async def _found(self, name: str) -> BlobInfo:
        found = await self.info(name)
        if found is None:
            raise NotFound(f"no object {name} in {self.bucket}", name=name, bucket=self.bucket)
        return found

    def _check(self, info: BlobInfo, digest: str) -> None:
        if digest != info.digest:
            raise self._differs(info, f"its digest is {digest}, not {info.digest}")

    def _differs(self, info: BlobInfo, what: str) -> IntegrityError:
        return IntegrityError(
            f"object {info.name} of {self.bucket} is damaged: {what}; restore it or accept the loss",
            name=info.name,
        )
