"""Files that are whole, or not there, whenever the machine stops.

A file is on the disk by name only when the file, then its name, then the folder that holds the name are.
"""

import os
import secrets
from pathlib import Path
from typing import Final

READABLE: Final = 0o666
"""Mode of a file that everybody may read who the umask lets."""


def write_whole(path: Path, data: bytes | bytearray | memoryview, *, mode: int = READABLE) -> None:
    """Bring `data` to the disk under the name `path`; whoever opens that finds all of it, or what was before.

    Args:
        mode: of the new file; a narrower one than `READABLE` is what it gets whatever the umask says.

    Raises:
        OSError: it can't be written; nothing is left beside `path`.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            if mode != READABLE:
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk.

    Raises:
        OSError: the folder can't be opened, or the disk failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
