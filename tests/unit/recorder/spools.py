"""Spools of the test session, the disk under them, and what is in them."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lucid_events.recorder import Spool
from lucid_events.recorder.spool import Fsync
from tests.unit.recorder.rig import SID

MIB = 1024 * 1024


def spool(
    folder: Path,
    *,
    max_bytes: int = 64 * MIB,
    segment_bytes: int = MIB,
    always: bool = False,
    fsync: Fsync = "never",
) -> Spool:
    """Open the test session's spool."""
    return Spool(folder, SID, max_bytes=max_bytes, segment_bytes=segment_bytes, always=always, fsync=fsync)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have the system refuse what makes a file larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Disk:
    """`os.fsync` of a disk that can be told to fail; keeps what was synced, by inode, and how long it was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[int] = []
        self.size_synced: dict[int, int] = {}
        self.broken = False
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "broken")
        found = os.fstat(descriptor)
        self.synced.append(found.st_ino)
        self.size_synced[found.st_ino] = found.st_size


def contents(spool: Spool, start: int) -> bytes:
    """Read to the end, gaps as dashes."""
    parts = []
    while start < spool.end:
        frame = spool.read(start)
        parts.append(frame.data if frame.data is not None else b"-" * frame.size)
        start = frame.end
    return b"".join(parts)


def held_after(first: Spool, folder: Path) -> bytes:
    """Return what the next recorder finds when the one of `first` ends now."""
    first.close()
    again = spool(folder)
    try:
        return contents(again, again.start)
    finally:
        again.close()
