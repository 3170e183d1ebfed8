"""Files and pipes as sources."""

import asyncio
import fcntl
import logging
import mimetypes
import os
import stat
import sys
from pathlib import Path

from lucid_events.errors import ConfigError
from lucid_events.recorder.sources import descriptors

BLOCK_BYTES = 5 * 256 * 1024
"""Bytes per read of a file. Half shows as overhead per block, twice only as memory."""

_OCTETS = "application/octet-stream"
_log = logging.getLogger(__name__)


def open_source(path: str) -> "FileSource | PipeSource":
    """Return the source for `path`; `-` is standard input.

    Raises:
        ConfigError: it does not exist or can't be read.
    """
    if path == "-":
        if sys.stdin is None:  # closed: whatever has number 0 by now is something else
            raise ConfigError("standard input is closed: name a file, or give it a pipe", path=path)
        if fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            raise ConfigError("standard input was opened for writing only: name a file", path=path)
        fd, name, kind = 0, "stdin", _OCTETS
    else:
        fd = _opened(path)
        name, kind = Path(path).name, mimetypes.guess_type(path)[0] or _OCTETS
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        if path != "-":
            os.close(fd)
        raise ConfigError(f"{path} can't be recorded: it is a directory", path=path)
    if descriptors.can_wait(fd):
        return PipeSource(fd, name=name, content_type=kind, owned=path != "-")
    return FileSource(fd, name=name, content_type=kind, owned=path != "-")


def _opened(path: str) -> int:
    """Return a descriptor of `path` at once: a named pipe opens without its writer.

    Waiting for one inside `open` would hold the event loop, its beats and its signals. Until a
    writer has come the pipe is just not ready, which is not its end.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise ConfigError(f"{path} can't be recorded: {exc.strerror}", path=path) from exc
    os.set_blocking(fd, True)  # only the opening must not wait
    return fd


class FileSource:
    """A regular file, from any offset to where it ends when that is reached.

    What is appended meanwhile is part of it. A file that becomes shorter ends where it is found to, with
    a warning; bytes that are changed behind the reader's back are not noticed.
    """

    resumable = True
    exit_code: int | None = None

    def __init__(
        self,
        fd: int,
        *,
        name: str,
        content_type: str = _OCTETS,
        owned: bool = True,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.name, self.content_type = name, content_type
        self._fd, self._owned, self._block_bytes = fd, owned, block_bytes
        # A redirected standard input may have been read from already; that place is offset 0.
        self._base = os.lseek(fd, 0, os.SEEK_CUR)
        self._at, self._stopped = 0, False
        self._sized = os.fstat(fd).st_size > 0  # what the kernel makes up as it is read has no size

    async def start(self) -> None:
        """Nothing to start."""

    async def read(self) -> bytes:
        """Return the next block; positions move only when it has arrived, so cancelling is safe."""
        if self._stopped:
            return b""
        block = await asyncio.to_thread(os.pread, self._fd, self._block_bytes, self._base + self._at)
        self._at += len(block)
        if not block:
            self._look_for_lost()
        return block

    def _look_for_lost(self) -> None:
        """Say so when the file is shorter by now than what was read of it: there may have been more."""
        size = os.fstat(self._fd).st_size - self._base
        if self._sized and size < self._at:
            why = f"{self.name} had become shorter ({size} bytes): what was cut off it is not recorded"
            _log.warning("the file was cut while it was read", extra={"offset": self._at, "reason": why})

    async def seek(self, offset: int) -> None:
        """Read from `offset` on.

        Raises:
            ConfigError: the file is shorter than that, so it is not the file recorded before.
        """
        size = os.fstat(self._fd).st_size - self._base
        if offset > size:
            raise ConfigError(
                f"{self.name} has {size} bytes, the session has {offset} already: it is not the same file",
                size=size,
                offset=offset,
            )
        self._at = offset

    async def pause(self) -> None:
        """Nobody reads."""

    async def resume(self) -> None:
        """Reading goes on."""

    async def stop(self) -> None:
        """End here, wherever the file ends."""
        self._stopped = True

    async def close(self) -> None:
        """Close the descriptor, unless it is standard input."""
        self._stopped = True
        if self._owned:
            self._owned = False
            os.close(self._fd)


class PipeSource:
    """A pipe, a socket or a device: what has been read can't be read again."""

    resumable = False
    exit_code: int | None = None

    def __init__(self, fd: int, *, name: str, content_type: str = _OCTETS, owned: bool = True) -> None:
        self.name, self.content_type = name, content_type
        self._fd, self._owned, self._stopped = fd, owned, False
        descriptors.widen(fd)

    async def start(self) -> None:
        """Nothing to start."""

    async def read(self) -> bytes:
        """Return what is there, waiting for the first byte."""
        return b"" if self._stopped else await descriptors.read_ready(self._fd)

    async def seek(self, offset: int) -> None:
        """The pipe's next byte becomes byte `offset`; whether that is right is the recorder's question."""

    async def pause(self) -> None:
        """Nobody reads: the writer waits when the pipe is full."""

    async def resume(self) -> None:
        """Reading goes on."""

    async def stop(self) -> None:
        """End here; what the pipe still holds is not read."""
        self._stopped = True

    async def close(self) -> None:
        """Close the descriptor, unless it is standard input."""
        self._stopped = True
        if self._owned:
            self._owned = False
            os.close(self._fd)
