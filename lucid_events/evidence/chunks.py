"""Whether one stored chunk is what its `chunk.ready` says: the object, its bytes, what they restore to.

Knows facts and compares them; measuring them is the caller's. The first difference is named, from the
outside in: no object, other metadata, other stored bytes, other raw bytes.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from lucid_events.domain.events import ChunkReady
from lucid_events.domain.ids import SessionId
from lucid_events.evidence.differences import Difference, What

BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)
"""What a bucket may be called (NATS ADR-20): with anything else in it, another subject would be asked."""


class ObjectFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an object's metadata says of it; `digest` is its ADR-20 SHA-256 in hexadecimal."""

    size: int
    digest: str
    metadata: Mapping[str, str] = {}


class MeasuredChunk(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a chunk's bytes; `broken` says why they could not be restored to the end."""

    stored_size: int
    stored_sha256: str
    raw_size: int = 0
    raw_sha256: str = ""
    broken: str = ""


def object_metadata(session: SessionId, ready: ChunkReady) -> dict[str, str]:
    """Return the metadata that the object of a chunk has."""
    metadata = {
        "session": session,
        "index": str(ready.index),
        "offset": str(ready.offset),
        "size": str(ready.size),
        "sha256": ready.sha256,
        "codec": ready.codec,
    }
    return metadata if ready.level is None else metadata | {"level": str(ready.level)}


def compare_object(session: SessionId, ready: ChunkReady, found: ObjectFacts | None) -> Difference | None:
    """Return where the object's metadata differs from the event, None when it is as it should be."""
    if found is None:
        return difference(What.OBJECT_MISSING, session, ready, "there is no such object in its bucket")
    if (found.size, found.digest) != (ready.stored_size, ready.stored_sha256):
        return difference(
            What.OBJECT_METADATA,
            session,
            ready,
            "its metadata has another size or digest than the event",
            expected=f"{ready.stored_size} bytes, SHA-256 {ready.stored_sha256}",
            found=f"{found.size} bytes, SHA-256 {found.digest}",
        )
    ought = object_metadata(session, ready)
    for name in sorted({*ought, *found.metadata}):
        if ought.get(name) != found.metadata.get(name):
            return difference(
                What.OBJECT_METADATA,
                session,
                ready,
                f"its metadata field {name!r} is not what the event says",
                expected=ought.get(name, ""),
                found=found.metadata.get(name, ""),
            )
    return None


def compare_bytes(session: SessionId, ready: ChunkReady, measured: MeasuredChunk) -> Difference | None:
    """Return where the chunk's bytes differ from the event, None when both digests hold."""
    if (measured.stored_size, measured.stored_sha256) != (ready.stored_size, ready.stored_sha256):
        return difference(
            What.OBJECT_BYTES,
            session,
            ready,
            "the stored bytes are not those that were stored",
            expected=f"{ready.stored_size} bytes, SHA-256 {ready.stored_sha256}",
            found=f"{measured.stored_size} bytes, SHA-256 {measured.stored_sha256}",
        )
    if measured.broken:
        return difference(What.CHUNK_BYTES, session, ready, measured.broken, expected=ready.sha256)
    if (measured.raw_size, measured.raw_sha256) != (ready.size, ready.sha256):
        return difference(
            What.CHUNK_BYTES,
            session,
            ready,
            "the stored bytes do not restore to what was recorded",
            expected=f"{ready.size} bytes, SHA-256 {ready.sha256}",
            found=f"{measured.raw_size} bytes, SHA-256 {measured.raw_sha256}",
        )
    return None


def difference(
    what: What, session: SessionId, ready: ChunkReady, reason: str, *, expected: str = "", found: str = ""
) -> Difference:
    """Return a difference of this chunk."""
    return Difference(
        what=what,
        session=session,
        index=ready.index,
        object=f"{ready.bucket}/{ready.object}",
        reason=reason,
        expected=expected,
        found=found,
    )


def left(session: SessionId, index: int, name: str) -> Difference:
    """Return that an object of an erased chunk, as `<bucket>/<name>`, is still there."""
    return Difference(
        what=What.OBJECT_LEFT,
        session=session,
        index=index,
        object=name,
        reason="the history says that this chunk was erased, and its object is still there: delete it with a "
        "client of the object store",
    )
