"""One object-store bucket."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Protocol

import msgspec


class BlobInfo(msgspec.Struct, frozen=True):
    """A stored object: `digest` is the lower-case hexadecimal SHA-256 of its bytes."""

    bucket: str
    name: str
    size: int
    pieces: int
    digest: str
    nuid: str
    metadata: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    modified: datetime | None = None


class Orphan(msgspec.Struct, frozen=True):
    """Pieces without metadata, found by a sweep."""

    nuid: str
    pieces: int
    newest: datetime


class BlobStore(Protocol):
    """One object-store bucket."""

    bucket: str

    async def put(
        self, name: str, data: bytes, *, metadata: Mapping[str, str], digest: str = ""
    ) -> tuple[BlobInfo, bool]:
        """Store an object under a name that must be new; confirmed from the leader.

        Args:
            digest: SHA-256 of `data` in hex, from a caller who has it; otherwise it is made here.
                A wrong one makes an object that no reader accepts.

        Returns:
            The object, and True when this call made it. False when another writer was first:
            then the object is the winner's, and the caller verifies it before adopting it.

        Raises:
            StoreUnavailable, StoreFull: nothing is visible under the name.
            AppendUncertain: it may be stored: put again (same name, same bytes is harmless).
        """
        ...

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
        ...

    async def info(self, name: str) -> BlobInfo | None:
        """Return the object's metadata from the leader, None when absent or deleted."""
        ...

    async def get(self, name: str, *, start: int = 0, end: int | None = None) -> bytes:
        """Return the stored bytes, or a range of them; a whole object is verified by its digest.

        Raises:
            NotFound: no such object.
            IntegrityError: pieces are missing or the digest differs.
        """
        ...

    def stream(self, name: str, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield the stored bytes piece by piece; raises `IntegrityError` at the end if the digest differs.

        A caller who hashes the bytes anyway, in a thread for instance, turns `verify` off and compares;
        then a piece too many is yielded like the others. A piece that is missing is an
        `IntegrityError` either way.
        """
        ...

    async def delete(self, name: str) -> bool:
        """Delete an object and its pieces; False when there was none."""
        ...

    def names(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        """Yield the objects whose names begin with `prefix`, oldest first, paged."""
        ...

    async def sweep(self, *, older_than_s: float, dry_run: bool) -> list[Orphan]:
        """Remove pieces without metadata that are older than the grace period; returns what was found.

        A writer that is only slow notices: a fence piece is added first, metadata is looked
        for again, then the pieces go.
        """
        ...
