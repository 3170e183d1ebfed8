"""A backup on disk: one folder, a manifest, and for each stream what the server handed out.

    DIR/manifest.json                   written last; a folder without one is no backup
    DIR/<stream>/stream.tar.s2          the server's archive, as it came
    DIR/<stream>/backup.json            configuration and state: `nats stream restore DIR/<stream>` reads both

Knows the layout and how to read it; `backup_folder` makes one.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.jetstream.snapshots import PIECE_BYTES, StreamSnapshot

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
ARCHIVE: Final = "stream.tar.s2"
DESCRIPTION: Final = "backup.json"
READ_BYTES: Final = 4 * 1024 * 1024
MAX_MANIFEST: Final = 64 * 1024 * 1024
"""A million sessions erased meanwhile; more is neither written nor read."""

Progress = Callable[[int], None]
"""Told how many more bytes are done."""

STREAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")


class LogPosition(msgspec.Struct, frozen=True):
    """What of the log is in the backup: everything up to `sequence`."""

    stream: str
    incarnation: int
    sequence: int


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One stream: size and digests of its files, and what the server said that it holds."""

    stream: str
    size: int
    sha256: str
    description_sha256: str
    messages: int
    bytes: int
    last_seq: int


class Follower(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer: everything of its stream up to `done` was handled before the backup began."""

    stream: str
    name: str
    done: int
    config: dict[str, Any]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of. `parts` are in the order they were taken, and are restored in.

    `erased` are sessions that began to be erased while the backup was made: their history in it ends
    before that, and objects of theirs may be missing. `missing_buckets` are named by chunks, and were not
    there: `missing_buckets_count` in all, at most a thousand are listed. `left_out` are streams that are
    made anew by a restore.
    """

    format: int
    id: str
    version: str
    server: str
    prefix: str
    began_at: datetime
    ended_at: datetime
    log: LogPosition
    chunks: int
    parts: tuple[Part, ...]
    consumers: tuple[Follower, ...]
    erased: tuple[str, ...] = ()
    missing_buckets: tuple[str, ...] = ()
    missing_buckets_count: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all archives."""
        return sum(part.size for part in self.parts)


def read_manifest(path: Path, *, digest: str = "") -> tuple[Manifest, str]:
    """Return the manifest of the backup at `path` and its SHA-256.

    Args:
        digest: SHA-256 that was kept elsewhere; the manifest has to have it.

    Raises:
        ConfigError: there is no backup, or one of a later format.
        IntegrityError: its manifest is damaged, or has another digest.
    """
    place = path / MANIFEST
    if not place.is_file():
        partial = path.name.endswith(".partial")
        hint = "its making was interrupted" if partial else "is it the folder `lucid backup create` made?"
        raise ConfigError(f"{path} is no backup, it has no {MANIFEST}: {hint}")
    try:
        with place.open("rb") as file:
            text = file.read(MAX_MANIFEST + 1)
    except OSError as exc:
        raise ConfigError(f"can't read {place}: {exc.strerror}") from exc
    if len(text) > MAX_MANIFEST:
        raise IntegrityError(
            f"{place} has more than {MAX_MANIFEST} bytes: `lucid backup create` made none such"
        )
    found = hashlib.sha256(text).hexdigest()
    if digest and found != digest.lower():
        raise IntegrityError(f"{place} has SHA-256 {found}, expected {digest}", expected=digest, actual=found)
    try:
        number = msgspec.json.decode(text, type=_Format).format
        if number != FORMAT:
            raise ConfigError(f"{place} has format {number}, this version reads {FORMAT}: use a newer lucid")
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise IntegrityError(f"{place} is damaged: {exc}") from exc
    for part in manifest.parts:
        if STREAM_NAME.fullmatch(part.stream) is None:
            raise IntegrityError(f"{place} names a stream {part.stream!r}, which is none")
    return manifest, found


def check_files(path: Path, manifest: Manifest, *, progress: Progress = lambda _: None) -> None:
    """Hold every file of the backup against its manifest.

    Raises:
        IntegrityError: names the first file that is not what it was.
    """
    for part in manifest.parts:
        folder = path / part.stream
        text = _whole(folder / DESCRIPTION)
        _same(folder / DESCRIPTION, part.description_sha256, hashlib.sha256(text).hexdigest())
        digest, size = hashlib.sha256(), 0
        try:
            with (folder / ARCHIVE).open("rb") as file:
                while piece := file.read(READ_BYTES):
                    digest.update(piece)
                    size += len(piece)
                    progress(len(piece))
        except OSError as exc:
            raise IntegrityError(f"can't read {folder / ARCHIVE}: {exc.strerror}") from exc
        if size != part.size:
            raise IntegrityError(
                f"{folder / ARCHIVE} has {size} bytes, the manifest says {part.size}",
                expected=part.size,
                actual=size,
            )
        _same(folder / ARCHIVE, part.sha256, digest.hexdigest())


def read_description(path: Path, part: Part) -> StreamSnapshot:
    """Return configuration and state of a part.

    Raises:
        IntegrityError: it is not what it was.
    """
    place = path / part.stream / DESCRIPTION
    text = _whole(place)
    _same(place, part.description_sha256, hashlib.sha256(text).hexdigest())
    try:
        return msgspec.json.decode(text, type=StreamSnapshot)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise IntegrityError(f"{place} is damaged: {exc}") from exc


async def pieces_of(path: Path, part: Part, progress: Progress) -> AsyncGenerator[bytes, None]:
    """Yield a part's archive in pieces that fit a message; what changed since the check is noticed.

    Raises:
        IntegrityError: the archive is not what it was.
    """
    digest = hashlib.sha256()
    place = path / part.stream / ARCHIVE
    try:
        with place.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                digest.update(piece)
                yield piece
                progress(len(piece))
    except OSError as exc:
        raise IntegrityError(f"can't read {place}: {exc.strerror}") from exc
    _same(place, part.sha256, digest.hexdigest())


class _Format(msgspec.Struct):
    format: int


def _same(place: Path, expected: str, found: str) -> None:
    if expected != found:
        raise IntegrityError(
            f"{place} is damaged: its SHA-256 is {found}, the manifest says {expected}",
            expected=expected,
            actual=found,
        )


def _whole(place: Path) -> bytes:
    try:
        return place.read_bytes()
    except OSError as exc:
        raise IntegrityError(f"can't read {place}: {exc.strerror}") from exc
