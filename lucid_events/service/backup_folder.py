"""Makes a backup on disk, in the layout of `backup_files`.

It grows under the name `DIR.partial` and gets its own when everything is on the disk. A process that
is killed leaves a `.partial` behind, which the next run removes, if there is nothing else in it. All of
it is for whoever made it alone, as spools are: folders 0700, files 0600.
"""

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import msgspec

from lucid_events.durable_files import sync_folder
from lucid_events.errors import ConfigError
from lucid_events.jetstream.snapshots import StreamSnapshot
from lucid_events.service.backup_files import (
    ARCHIVE,
    DESCRIPTION,
    MANIFEST,
    MAX_MANIFEST,
    STREAM_NAME,
    Manifest,
    Part,
    Progress,
)

P = ParamSpec("P")
T = TypeVar("T")


class ArchiveFile:
    """An archive that is being written; hashed on the way, in a thread."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._digest, self.size = hashlib.sha256(), 0

    async def write(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            ConfigError: the disk does not take it.
        """
        with _writing(Path(self._file.name)):
            await asyncio.to_thread(self._write, piece)
        self.size += len(piece)
        self._progress(len(piece))

    def _write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._digest.update(piece)

    @property
    def sha256(self) -> str:
        """Digest of everything written."""
        return self._digest.hexdigest()


class BackupFolder:
    """A backup that is being made; `finish` gives it its name. Made by `new_backup`."""

    def __init__(self, path: Path, partial: Path) -> None:
        self.path, self._partial = path, partial

    @asynccontextmanager
    async def archive(self, stream: str, progress: Progress) -> AsyncIterator[ArchiveFile]:
        """Open the archive of `stream` for writing; at the end of the context it is on the disk.

        Raises:
            ConfigError: the disk does not take it.
        """
        folder = self._partial / stream
        with _writing(folder):
            folder.mkdir(mode=0o700)
            file = _new_file(folder / ARCHIVE)
        try:
            yield ArchiveFile(file, progress)
            with _writing(folder):
                # Of gigabytes it takes long enough to miss a ping.
                await _to_the_end(_settle, file)
        finally:
            with suppress(OSError):  # what is wrong with writing it has been said already
                file.close()

    async def describe(self, stream: str, archive: ArchiveFile, snapshot: StreamSnapshot) -> Part:
        """Write what the archive is of, beside it.

        Raises:
            ConfigError: the disk does not take it.
        """
        text = msgspec.json.format(msgspec.json.encode(snapshot), indent=2)
        folder = self._partial / stream
        with _writing(folder):
            await _to_the_end(_write_durably, folder / DESCRIPTION, text)
        return Part(
            stream=stream,
            size=archive.size,
            sha256=archive.sha256,
            description_sha256=hashlib.sha256(text).hexdigest(),
            messages=snapshot.state["messages"],
            bytes=snapshot.state["bytes"],
            last_seq=snapshot.state["last_seq"],
        )

    async def finish(self, manifest: Manifest) -> str:
        """Write the manifest, give the folder its name, and return the manifest's SHA-256.

        Raises:
            ConfigError: the disk does not take it, or it is larger than a manifest that is read back.
        """
        with _writing(self.path):
            return await _to_the_end(self._finish, manifest)

    def _finish(self, manifest: Manifest) -> str:
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        if len(text) > MAX_MANIFEST:
            raise ConfigError(
                f"the manifest of {self.path} has {len(text)} bytes, at most {MAX_MANIFEST} are read: it "
                f"names {len(manifest.erased)} sessions that were erased meanwhile and "
                f"{len(manifest.consumers)} consumers; make the backup while less is erased"
            )
        _write_durably(self._partial / MANIFEST, text)
        os.rename(self._partial, self.path)
        sync_folder(self.path.parent)
        return hashlib.sha256(text).hexdigest()


@asynccontextmanager
async def new_backup(path: Path) -> AsyncIterator[BackupFolder]:
    """Begin a backup at `path`, which must not exist; what an interrupted run left beside it goes.

    Raises:
        ConfigError: something is there, another process is writing the same, what is beside it was not
            made by a backup, or it can't be written.
    """
    path, partial, folder = _open(path)
    try:
        with _writing(partial):
            await _to_the_end(_take, folder, partial, path)
        yield BackupFolder(path, partial)
    finally:
        os.close(folder)


def _open(path: Path) -> tuple[Path, Path, int]:
    """Return the backup's path, that of the folder it grows in, and a descriptor of that."""
    path = path.absolute()
    partial = path.with_name(path.name + ".partial")
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists: a backup is never written over; name another folder")
    with _writing(partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            partial.mkdir(mode=0o700)
        # A link would lead to a folder that is somebody else's.
        return path, partial, os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _take(folder: int, partial: Path, path: Path) -> None:
    """Take the folder that is being written for ourselves, and empty it."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been finished since it was opened.
        if not os.path.samestat(os.fstat(folder), os.stat(partial, follow_symlinks=False)):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError) as exc:
        raise ConfigError(f"another process is making the backup {path}") from exc
    files, folders = _left_behind(partial)
    for place in files:
        place.unlink()
    for place in folders:
        place.rmdir()
    os.fchmod(folder, 0o700)


def _left_behind(partial: Path) -> tuple[list[Path], list[Path]]:
    """Return the files and folders of an interrupted run.

    Raises:
        ConfigError: there is anything else; somebody may need it, so nothing is removed.
    """
    files, folders = [], []
    for place in sorted(partial.iterdir()):
        if place.is_symlink():
            raise _strange(place)
        if place.is_file() and place.name == MANIFEST:
            files.append(place)
        elif place.is_dir() and STREAM_NAME.fullmatch(place.name):
            folders.append(place)
            for inner in place.iterdir():
                if inner.name not in (ARCHIVE, DESCRIPTION) or inner.is_symlink() or not inner.is_file():
                    raise _strange(inner)
                files.append(inner)
        else:
            raise _strange(place)
    return files, folders


def _strange(place: Path) -> ConfigError:
    return ConfigError(
        f"{place} was not made by a backup, so nothing beside it is removed: move it away, or make the "
        "backup elsewhere"
    )


async def _to_the_end(function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """Run `function` in a thread; cancelled, wait for it: only then nobody else may have the folder."""
    running = asyncio.create_task(asyncio.to_thread(function, *args, **more), name="write a backup")
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Say of what goes wrong on the disk where; what waits for the network does not belong inside."""
    try:
        yield
    except OSError as exc:
        raise ConfigError(f"can't write the backup at {place}: {exc.strerror or exc}") from exc


def _new_file(place: Path) -> BinaryIO:
    return open(place, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _write_durably(place: Path, text: bytes) -> None:
    """Write a file, and bring it and everything beside it to the disk by name."""
    with _new_file(place) as file:
        file.write(text)
        _settle(file)
    sync_folder(place.parent)


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
