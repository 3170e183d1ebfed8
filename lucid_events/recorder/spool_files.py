"""The folder of a spool and the lock of a session's: who has it, and whose bytes are in it."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

NOTE_BYTES = 32
"""More than a number of any epoch has digits; twice only reads nothing more."""


def make_folder(folder: Path, *, durably: bool) -> None:
    """Make `folder` and what is missing above it; with `durably` a crashed host keeps it.

    Raises:
        OSError: it can't be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing if durably else ():
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in `folder` are on the disk.

    Raises:
        OSError: the disk does not take them.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked(path: Path) -> int:
    """Return a descriptor of the lock file at `path`, which nobody else has locked.

    Raises:
        BlockingIOError: somebody has.
        OSError: it can't be opened or locked.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed the file since it was opened: then another has the next one.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def noted(lock: int) -> int:
    """Return the number written into the lock file; 0 when there is none, or no number."""
    number, end, _ = os.pread(lock, NOTE_BYTES, 0).partition(b"\n")
    return int(number) if end and number.isdigit() else 0


def write_note(lock: int, number: int, *, durably: bool) -> None:
    """Have the lock file hold `number`; torn by a crash it holds none, or what it held before.

    Raises:
        OSError: the disk does not take it; what the file holds then is no number.
    """
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % number, 0)
    if durably:
        os.fsync(lock)
