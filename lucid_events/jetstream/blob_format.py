"""What an object looks like in its bucket's stream, as NATS ADR-20 has it.

    $O.<bucket>.C.<nuid>         pieces: the bytes alone, no headers
    $O.<bucket>.M.<base64 name>  metadata: JSON, `Nats-Rollup: sub`, so the newest replaces the others

    {"name", "headers"?, "metadata"?, "options": {"max_chunk_size"}, "bucket", "nuid",
     "size", "chunks", "digest": "SHA-256=<url-safe base64, padded>", "deleted"?}

The modification time is the message's own; a deleted object keeps metadata with `deleted: true`.
One header of the object is ours: `Lucid-Pieces`, the stream sequences of its pieces, so that a
range can be read without reading what stands before it. Other clients pass it by.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from lucid_events import codec
from lucid_events.errors import ContractError, IntegrityError
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.ports import BlobInfo

ROLLUP = {"Nats-Rollup": "sub"}
PIECES = "Lucid-Pieces"

_DIGEST = "SHA-256="


class _Options(msgspec.Struct, omit_defaults=True):
    max_chunk_size: int = 0
    link: dict[str, Any] | None = None


class ObjectMeta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The metadata message of one object."""

    name: str
    bucket: str
    nuid: str = ""
    size: int
    chunks: int
    digest: str = ""
    options: _Options | None = None
    headers: dict[str, list[str]] | None = None
    metadata: dict[str, str] | None = None
    deleted: bool = False
    description: str = ""


class Entry(msgspec.Struct, frozen=True):
    """A name's metadata as it stands: at `sequence`, and what it says.

    `meta` is None when it can not be read. `live` means that there is an object to read.
    """

    name: str
    sequence: int
    meta: ObjectMeta | None
    message: StoredMessage | None

    @property
    def live(self) -> bool:
        """Whether the name has metadata that is not a deletion's."""
        return self.message is not None and (self.meta is None or not self.meta.deleted)

    @property
    def nuid(self) -> str:
        """The object's nuid, empty when it has none or can not be read."""
        return "" if self.meta is None else self.meta.nuid


def entry(name: str, message: StoredMessage | None) -> Entry:
    """Return what the metadata message of `name` says; None when there is none."""
    if message is None:
        return Entry(name, 0, None, None)
    try:
        meta = codec.decode(message.data, ObjectMeta)
    except ContractError:
        meta = None
    return Entry(name, message.sequence, meta, message)


def encode_meta(
    *,
    bucket: str,
    name: str,
    nuid: str,
    size: int,
    sequences: list[int],
    digest: bytes,
    piece_bytes: int,
    metadata: Mapping[str, str],
) -> bytes:
    """Return the metadata of an object whose pieces are stored."""
    return codec.encode(
        ObjectMeta(
            name=name,
            bucket=bucket,
            nuid=nuid,
            size=size,
            chunks=len(sequences),
            digest=_DIGEST + base64.urlsafe_b64encode(digest).decode(),
            options=_Options(max_chunk_size=piece_bytes),
            headers={PIECES: [" ".join(map(str, sequences))]} if sequences else None,
            metadata=dict(metadata) or None,
        )
    )


def encode_deleted(bucket: str, name: str, nuid: str) -> bytes:
    """Return the metadata of a deleted object."""
    return codec.encode(ObjectMeta(name=name, bucket=bucket, nuid=nuid, size=0, chunks=0, deleted=True))


def info(found: Entry) -> BlobInfo:
    """Return what is known of a live object.

    Raises:
        IntegrityError: its metadata can not be read, or it is a link to another object.
    """
    meta = found.meta
    if meta is None or found.message is None:
        raise IntegrityError(
            f"the metadata of object {found.name} can not be read: replace it", name=found.name
        )
    if meta.options is not None and meta.options.link is not None:
        raise IntegrityError(
            f"object {found.name} is a link, not bytes: read what it points to", name=found.name
        )
    headers = {name: values[-1] for name, values in (meta.headers or {}).items() if values and name != PIECES}
    return BlobInfo(
        bucket=meta.bucket,
        name=meta.name,
        size=meta.size,
        pieces=meta.chunks,
        digest=_hexadecimal(found.name, meta.digest),
        nuid=meta.nuid,
        metadata=meta.metadata or {},
        headers=headers,
        modified=found.message.stored_at,
    )


def piece_sequences(found: Entry) -> list[int]:
    """Return the sequences of the object's pieces, empty when its writer did not say."""
    meta = found.meta
    if meta is None or meta.headers is None:
        return []
    try:
        sequences = [int(number) for number in (meta.headers.get(PIECES) or [""])[0].split()]
    except ValueError:
        return []
    return sequences if len(sequences) == meta.chunks else []


def piece_size(found: Entry) -> int:
    """Return the size of every piece but the last, 0 when it is not known."""
    meta = found.meta
    return 0 if meta is None or meta.options is None else meta.options.max_chunk_size


def _hexadecimal(name: str, digest: str) -> str:
    try:
        if not digest.startswith(_DIGEST):
            raise ValueError(digest)
        return base64.urlsafe_b64decode(digest.removeprefix(_DIGEST) + "==").hex()
    except (ValueError, binascii.Error) as exc:
        raise IntegrityError(f"object {name} has no SHA-256 digest but {digest[:60]!r}", name=name) from exc
