"""What a segment of a spool holds, byte by byte; where segments are and how long they live is `spool.py`'s.

segment = "LUCIDSP1", then frames
frame   = kind (1 byte: D or G)  offset (8)  length (8)  CRC-32 (4)  data
          big endian; the CRC covers the 17 bytes before it and the data; G is a gap, without data
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"LUCIDSP1"

_FRAME = struct.Struct(">cQQ")
_CRC = struct.Struct(">I")
_DATA, _GAP = b"D", b"G"
HEAD_BYTES = _FRAME.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes from `offset` on; `data` is None for a gap of `size` bytes."""

    offset: int
    size: int
    data: bytes | None

    @property
    def end(self) -> int:
        """Offset behind it."""
        return self.offset + self.size


def head_of(offset: int, size: int, data: memoryview | None) -> bytes:
    """Return what stands before `data` in the file, or for a gap of `size` bytes when there is none."""
    head = _FRAME.pack(_GAP if data is None else _DATA, offset, size)
    crc = zlib.crc32(head)
    return head + _CRC.pack(crc if data is None else zlib.crc32(data, crc))


def frames(path: Path, at: int) -> Iterator[tuple[Frame, int]]:
    """Yield (frame, file position behind it) from file position `at` on, as long as they are whole."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
        file.seek(at)
        while len(head := file.read(HEAD_BYTES)) == HEAD_BYTES:
            kind, offset, size = _FRAME.unpack_from(head)
            if kind == _DATA and size > os.fstat(file.fileno()).st_size - at - HEAD_BYTES:
                return  # torn, or its length is damaged: no memory for what is not there
            data = file.read(size) if kind == _DATA else b""
            crc = zlib.crc32(data, zlib.crc32(head[: _FRAME.size]))
            if kind not in (_DATA, _GAP) or crc != _CRC.unpack_from(head, _FRAME.size)[0]:
                return
            at += HEAD_BYTES + len(data)
            yield Frame(offset, size, data if kind == _DATA else None), at
