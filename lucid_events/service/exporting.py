"""`lucid audit export`: one session as a file that proves itself without us (`docs/bundle-format.md`).

Exporting judges nothing: a damaged history is exported as it stands, and whoever verifies the bundle
is told. Only what would make the bundle wrong by itself, chunks that are not what their events say,
stops it. Memory: a page of events, a piece of a chunk, and about 500 bytes for each chunk.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import msgspec

from lucid_events.domain.codecs import CODECS
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SessionId
from lucid_events.domain.state import Erasure, evolve, initial
from lucid_events.errors import ConfigError, ContractError, IntegrityError, NotFound
from lucid_events.evidence import bundle, chain
from lucid_events.evidence.bundle import Description, Log, Proof
from lucid_events.evidence.bundle_contents import Contents, ReadyChunk
from lucid_events.evidence.bundle_tar import PIECE_BYTES, TarWriter
from lucid_events.evidence.chunks import BUCKET
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.jetstream.history import decode
from lucid_events.jetstream.pages import pages
from lucid_events.ports import BlobStore
from lucid_events.service.adapters import Adapters
from lucid_events.service.client import Client
from lucid_events.service.erased import tolerate_no_bucket

_log = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Told how many more stored bytes of chunks are in the bundle."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the file, and the SHA-256 of the whole of it; `erasure` says why bytes are not in it."""

    path: str
    size: int
    sha256: str
    description: Description
    erasure: Erasure | None


async def export(
    adapters: Adapters,
    session: SessionId,
    path: Path,
    *,
    first: int | None = None,
    last: int | None = None,
    progress: Progress = lambda _: None,
) -> Exported:
    """Write the bundle of `session` to `path`: its whole history, and its chunks from `first` to `last`.

    The file appears under its name only when it is whole and on the disk; one that is there is
    replaced. Equal contents make equal bytes: it holds no time and no name of whoever made it.

    Args:
        first, last: indices, both included; the whole session when neither is given.
        progress: called while chunks are written.

    Raises:
        NotFound: there is no such session.
        ConfigError: there are no such chunks, or the file can't be written.
        IntegrityError: a chunk is not there, or not what its event says.
        StoreUnavailable: the server could not be asked.
    """
    part = _part(path)
    with _writing(path):
        file = part.open("w+b")
    try:
        try:
            description, erasure = await _write(adapters, session, _Tar(file, path), first, last, progress)
            with _writing(path):
                size, sha256 = await asyncio.to_thread(_settle, file)
        finally:
            with suppress(OSError):  # what is wrong with writing it has been said already
                file.close()
        with _writing(path):
            part.replace(path)
            _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    return Exported(path=str(path), size=size, sha256=sha256, description=description, erasure=erasure)


async def export_for(
    client: Client,
    session: SessionId,
    path: Path,
    *,
    first: int | None = None,
    last: int | None = None,
    progress: Progress = lambda _: None,
) -> Exported:
    """Write a bundle as `export` does, once the history says who takes the session away.

    It says which bytes: those of the chunks that were asked for, or all there will be. That event is in
    the bundle, so exports of one viewer within five minutes are the same bytes and
    later ones are not. A history that can't be read any more is exported without it, which is logged:
    it is then that the bundle is needed.

    Raises:
        StoreUnavailable: nobody could note it: nothing is handed out.
        NotFound, ConfigError, IntegrityError: as `export`.
    """
    if not await client.store.version(session):
        await client.missing(session)
    try:
        start, end, how = 0, None, "export"
        if first is not None or last is not None:
            start, end = await _range(client, session, first, last)
            how = f"export of chunks {first or 0} to {'the last' if last is None else last}"
        await client.note_view(session, start=start, end=end, how=how)
    except (ContractError, IntegrityError) as exc:
        _log.warning("an export is not in the history", extra={"session": session, "reason": exc.message})
    return await export(client.adapters, session, path, first=first, last=last, progress=progress)


async def _range(
    client: Client, session: SessionId, first: int | None, last: int | None
) -> tuple[int, int | None]:
    """Return the offsets of the first byte of those chunks, and of the one behind their last."""
    chosen = [
        chunk.sealed
        for index, chunk in (await client.player.contents(session)).chunks.items()
        if chunk.state == "ready" and (first is None or first <= index) and (last is None or index <= last)
    ]
    if not chosen:
        return 0, None  # nothing will be handed out: the export says what is wrong with the bounds
    return min(one.offset for one in chosen), max(one.offset + one.size for one in chosen)


async def _write(
    adapters: Adapters,
    session: SessionId,
    tar: TarWriter,
    first: int | None,
    last: int | None,
    progress: Progress,
) -> tuple[Description, Erasure | None]:
    tar.add(bundle.README, readme())
    contents, erasure = await _events(adapters, session, tar)
    chosen = contents.chosen(first, last)
    position = await adapters.store.last_position()
    log = Log(stream=position.stream, incarnation=position.incarnation)
    description = contents.description(session, log, chosen)
    tar.add(bundle.DESCRIPTION, bundle.encoded(description))
    if contents.manifest is not None:
        tar.add(bundle.MANIFEST, contents.manifest)
    await asyncio.to_thread(_prove, tar, contents.proofs(chosen))
    for index, ready in chosen.items():
        await _chunk(tar, session, index, ready, adapters.bucket(ready.bucket), progress)
    tar.finish()
    return description, erasure


def _prove(tar: TarWriter, proofs: Iterable[Proof]) -> None:
    """Write the proofs, one at a time; without any there is no such member."""
    begun = False
    for proof in proofs:
        if not begun:
            tar.begin(bundle.PROOFS)
            begun = True
        tar.write(bundle.encoded(proof))
    if begun:
        tar.end()


async def _events(adapters: Adapters, session: SessionId, tar: TarWriter) -> tuple[Contents, Erasure | None]:
    version = await adapters.store.version(session)
    if not version:
        raise NotFound(f"there is no session {session}", session=session)
    subjects, contents, state = adapters.subjects, Contents(), initial(session)
    found = pages(
        adapters.connection,
        subjects.events_stream,
        subjects.history(session),
        last=version,
        known=version,
    )
    tar.begin(bundle.EVENTS)
    async with aclosing(found):
        async for page in found:
            lines = []
            for message in page:
                found_event = take(contents, message)
                if isinstance(found_event, Recorded):
                    with suppress(OverflowError):  # of a time that verifying tells of
                        state = evolve(state, found_event)
                lines.append(bundle.encoded(bundle.line_of(message)))
            await asyncio.to_thread(tar.write, b"".join(lines))
    tar.end()
    return contents, state.erasure


def take(contents: Contents, message: StoredMessage) -> Recorded | Stray | ContractError:
    """Count the next message of a history and return what it is; an event that can't be read is the error."""
    found: Recorded | Stray | ContractError
    try:
        found = decode(message)
    except ContractError as exc:
        found = exc
    except OverflowError:
        found = ContractError("its time is at the end of the calendar", field="ce-time")
    digest = None
    if not isinstance(found, Stray):
        digest = chain.digest(message.subject, message.headers, message.data)
    event = found.event if isinstance(found, Recorded) else None
    contents.take(message.sequence, message.data, digest, event)
    return found


async def _chunk(
    tar: TarWriter, session: SessionId, index: int, ready: ReadyChunk, bucket: BlobStore, progress: Progress
) -> None:
    def refused(why: str) -> IntegrityError:
        return IntegrityError(
            f"chunk {index} of {session} can't be exported: {why}; verify the session, and export "
            "what is left with --from and --to",
            session=session,
            index=index,
        )

    size = 0
    if ready.codec not in CODECS:
        raise refused(f"its event names an unknown codec, {ready.codec!r}")
    if BUCKET.fullmatch(ready.bucket) is None:
        raise refused(f"what its event names is no bucket, {ready.bucket!r}")
    tar.begin(bundle.chunk_name(index, ready.codec))
    try:
        async with _closing(bucket.stream(ready.object)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(tar.write, piece)
                size += len(piece)
                progress(len(piece))
    except (NotFound, IntegrityError) as exc:
        raise refused(exc.message) from exc
    except ConfigError as exc:
        tolerate_no_bucket(exc)
        raise refused(f"there is no bucket {ready.bucket}") from exc
    sha256 = tar.end()
    if (size, sha256) != (ready.stored_size, ready.stored_sha256):
        raise IntegrityError(
            f"chunk {index} of {session} can't be exported: object {ready.object} has {size} bytes with "
            f"SHA-256 {sha256}, its event says {ready.stored_size} with {ready.stored_sha256}",
            session=session,
            index=index,
        )


class _Tar(TarWriter):
    """Tells what goes wrong with the file at `path` from what goes wrong with the server meanwhile."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def begin(self, name: str) -> None:
        with _writing(self._path):
            super().begin(name)

    def write(self, data: bytes) -> None:
        with _writing(self._path):
            super().write(data)

    def end(self) -> str:
        with _writing(self._path):
            return super().end()

    def finish(self) -> None:
        with _writing(self._path):
            super().finish()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigError(f"can't write {path}: {exc.strerror or exc}") from exc


@asynccontextmanager
async def _closing(pieces: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close `pieces` on the way out: left open by a full disk, it would end after its connection."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def readme() -> bytes:
    """Return the text that goes with every bundle."""
    return (resources.files("lucid_events.evidence") / "bundle_readme.md").read_bytes()


def _part(path: Path) -> Path:
    """Return where the bundle is written until it is whole: beside its name, of each process its own."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no file: a bundle is written to one, under its name when it is whole")
    return path.with_name(f".{path.name}.part-{os.getpid()}")


def _settle(file: BinaryIO) -> tuple[int, str]:
    """Bring the file to the disk; returns its size and SHA-256."""
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the new name as durable as the bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
