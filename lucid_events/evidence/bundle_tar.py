"""The tar of an audit bundle: POSIX ustar with every free choice made, so equal contents are equal bytes.

    header     512 bytes; all but name and size is fixed: mode 0644, no owner, time 0, a plain file
    data       padded with NUL to 512
    …
    end        1024 NUL, and nothing behind them

Any tar program reads it. The reader here takes nothing else: what differs from the one spelling by a
byte, padding included, is named by its offset. Memory: one piece of a member.
"""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, Final, NoReturn

from lucid_events.errors import IntegrityError
from lucid_events.evidence.bundle import SUMS
from lucid_events.evidence.differences import visible

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
PIECE_BYTES: Final = 1024 * 1024
"""Read at once; twice as much gains nothing, a tenth costs calls."""
MAX_MEMBER_BYTES: Final = 8**11 - 1
"""What eleven octal digits hold: 8 GiB less one byte."""
MAX_NAME_BYTES: Final = 100


def header(name: str, size: int) -> bytes:
    """Return the one header of a member.

    Raises:
        ValueError: no header holds such a name or size.
    """
    raw = name.encode("ascii")
    if not 1 <= len(raw) <= MAX_NAME_BYTES or not 0 <= size <= MAX_MEMBER_BYTES:
        raise ValueError(f"a member {name!r} of {size} bytes does not fit a tar header")
    block = bytearray(BLOCK)
    block[0 : len(raw)] = raw
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148] = b"%011o\0" % size, b"%011o\0" % 0
    block[148:156] = b" " * 8  # what the sum counts in its own place
    block[156:157], block[257:265] = b"0", b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class TarWriter:
    """Writes members one after the other, and at the end the sums of all of them.

    Args:
        file: a regular file, empty; a size that is not known beforehand is filled in by seeking back.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sums: list[bytes] = []
        self._name, self._began, self._size = "", 0, 0
        self._digest = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Write a member whole."""
        self.begin(name)
        self.write(data)
        self.end()

    def begin(self, name: str) -> None:
        """Begin a member; `write` its bytes, then `end` it."""
        self._name, self._began, self._size = name, self._file.tell(), 0
        self._digest = hashlib.sha256()
        self._file.write(header(name, 0))

    def write(self, data: bytes) -> None:
        """Write the next bytes of the member."""
        self._digest.update(data)
        self._size += len(data)
        self._file.write(data)

    def end(self) -> str:
        """End the member and return its SHA-256.

        Raises:
            ValueError: it is larger than a tar's header can say.
        """
        self._file.write(bytes(-self._size % BLOCK))
        at = self._file.tell()
        self._file.seek(self._began)
        self._file.write(header(self._name, self._size))
        self._file.seek(at)
        self._sums.append(_sum(self._digest.hexdigest(), self._name))
        return self._digest.hexdigest()

    def finish(self) -> None:
        """Write the sums and the end; the file is the caller's to flush and close."""
        self.add(SUMS, b"".join(self._sums))
        self._file.write(END)


class TarReader:
    """Reads what `TarWriter` wrote and nothing else.

    Args:
        file: positioned at the bundle's first byte.
        path: how errors name it.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.path, self.offset = path, 0
        self.name, self.size, self.at, self.header_at = "", 0, 0, 0
        self._file = file
        self._left = 0
        self._digest = hashlib.sha256()
        self._sums: list[bytes] = []

    def next(self) -> str | None:
        """Go to the next member and return its name, None at the sums, which are compared here.

        `size` is its length, `at` the offset of its first byte. What is left of the member before
        is read first. Behind the sums there is only the end.

        Raises:
            IntegrityError: a byte is not what it has to be; the message has its offset.
        """
        for _ in self.pieces():
            pass
        if self.name:
            self._pad()
            self._sums.append(_sum(self._digest.hexdigest(), self.name))
        began = self.header_at = self.offset
        block = self._take(BLOCK, "a header")
        name, size = self._parse(block, began)
        wanted = header(name, size)
        if block != wanted:
            off = next(i for i in range(BLOCK) if block[i] != wanted[i])
            self.name = name
            self.fail(
                f"the tar header of {name} is not the one it has to be",
                began + off,
                repr(wanted[off : off + 8]),
                repr(block[off : off + 8]),
            )
        self.name, self.size, self.at, self._left = name, size, self.offset, size
        self._digest = hashlib.sha256()
        if name == SUMS:
            self._finish()
            return None
        return name

    def pieces(self) -> Iterator[bytes]:
        """Yield what is left of the member, in pieces of at most `PIECE_BYTES`.

        Raises:
            IntegrityError: the file ends inside it.
        """
        while self._left:
            piece = self._take(min(self._left, PIECE_BYTES), f"{self.name}")
            self._left -= len(piece)
            self._digest.update(piece)
            yield piece

    def read(self, limit: int) -> bytes:
        """Return the whole member, which may have at most `limit` bytes.

        Raises:
            IntegrityError: it is larger, or the file ends inside it.
        """
        if self.size > limit:
            self.fail(f"{self.name} is too large", self.at, f"at most {limit} bytes", f"{self.size}")
        return b"".join(self.pieces())

    def lines(self, limit: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, line) of the member, each with its line end.

        Raises:
            IntegrityError: a line is longer than `limit`, the last one has no end, or the file ends.
        """
        at, held = self.at, b""
        for piece in self.pieces():
            start, seen = 0, len(held)
            held += piece
            while (end := held.find(b"\n", max(start, seen)) + 1) > 0 and end - start <= limit:
                yield at + start, held[start:end]
                start = end
            at, held = at + start, held[start:]
            if end > 0 or len(held) > limit:
                self.fail(f"a line of {self.name} is too long", at, f"at most {limit} bytes", "more")
        if held:
            self.fail(f"the last line of {self.name} has no end", at, "a line feed", repr(held[-20:]))

    def fail(self, what: str, offset: int, expected: str, found: str) -> NoReturn:
        """Raise what is wrong: the file, the place in it, what had to be there and what is.

        Raises:
            IntegrityError: always.
        """
        raise IntegrityError(
            visible(f"{self.path}: byte {offset}: {what}: expected {expected}, found {found}"),
            file=self.path,
            offset=offset,
            member=self.name,
            expected=expected,
            found=found,
        )

    def _take(self, size: int, what: str) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            at = self.offset + len(data)
            self.fail(f"the file ends inside {what}", at, f"{size - len(data)} more bytes", "its end")
        self.offset += size
        return data

    def _parse(self, block: bytes, began: int) -> tuple[str, int]:
        name, size = block[:MAX_NAME_BYTES].rstrip(b"\0"), block[124:135]
        if (
            not name
            or not name.isascii()
            or b"\0" in name
            or not size.isdigit()
            or b"8" in size
            or b"9" in size
        ):
            self.fail("is no tar header", began, "a name and a size", repr(bytes(block[:24])))
        return name.decode(), int(size, 8)

    def _pad(self) -> None:
        at = self.offset
        padding = self._take(-self.size % BLOCK, f"the padding of {self.name}")
        if any(padding):
            off = next(i for i, byte in enumerate(padding) if byte)
            self.fail(
                f"the padding of {self.name} is not empty", at + off, "NUL", repr(padding[off : off + 8])
            )

    def _finish(self) -> None:
        at = self.at
        for wanted in self._sums:
            given = self._take(min(len(wanted), self._left), SUMS) if self._left else b""
            self._left -= len(given)
            if given != wanted:
                self.fail(f"a line of {SUMS} differs", at, repr(wanted), repr(given))
            at += len(given)
        if self._left:
            self.fail(f"{SUMS} goes on behind its last line", at, "its end", f"{self._left} bytes more")
        self._pad()
        at = self.offset
        end = self._file.read(len(END) + 1)
        if end != END:
            self.fail("the end is not 1024 NUL and nothing more", at, f"{len(END)} NUL", repr(end[:24]))
        self.offset += len(END)


def _sum(digest: str, name: str) -> bytes:
    return f"{digest}  {name}\n".encode()
