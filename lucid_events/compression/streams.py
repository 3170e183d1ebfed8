"""Restore a stored object piece by piece, in bounded memory, refusing what is not exact.

What has been yielded is proven only when the iterator ends: the checksum is at the end of a stream.
A reader that must not act on unproven bytes uses `codecs.decompress`.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

import lz4.frame
import zstandard
from zlib_ng import zlib_ng

from lucid_events.compression.wire import (
    GZIP_WBITS,
    LZ4_HEADER_BYTES,
    ZLIB_ERROR,
    ZSTD_HEADER_BYTES,
    Buffer,
    as_bytes_view,
    broken,
    check_lz4_header,
    check_zstd_header,
    wrong_size,
)
from lucid_events.domain.codecs import Codec, check_codec

PIECE_BYTES: Final = 128 * 1024
"""The most one yielded buffer holds, `store` aside; also a zstd block's largest content.

Twice as much saves no time that can be measured; half of it can't be promised for zstd.
"""

GZIP_SLICE_BYTES: Final = 64 * 1024
"""Input given to zlib at once: what it leaves unread it copies, once per yielded buffer."""

ZSTD_MAX_WINDOW_BYTES: Final = 1 << 27
"""128 MiB, the most that `zstd -d` accepts unasked and that any of our levels uses."""

ZSTD_BLOCK_HEADER_BYTES: Final = 3
ZSTD_CHECKSUM_BYTES: Final = 4
ZSTD_RLE_BLOCK: Final = 1


def decompress_stream(codec: str, pieces: Iterable[Buffer], *, size: int) -> Iterator[Buffer]:
    """Yield the `size` raw bytes of a stored object while `pieces` of it come in.

    Never holds more than the piece at hand, one buffer of `PIECE_BYTES` and the codec's window
    (gzip 32 KiB, lz4 64 KiB to 4 MiB, zstd at most `size`; 2 MiB at its default level). Never yields
    more than `size` bytes. `store` yields the pieces themselves. Errors of `pieces` pass through.

    Raises:
        IntegrityError: as `codecs.decompress`, at the latest after the last yielded buffer.
        ConfigError: the codec is unknown.
    """
    name = check_codec(codec)
    produced = 0
    views = (view for piece in pieces if (view := as_bytes_view(piece)).nbytes)
    for raw in _READERS[name](views, size):
        produced += len(raw)
        if produced > size:
            raise wrong_size(name, size, None)
        yield raw
    if produced != size:
        raise wrong_size(name, size, produced)


def _store(views: Iterator[memoryview], _size: int) -> Iterator[Buffer]:
    yield from views


def _gzip(views: Iterator[memoryview], _size: int) -> Iterator[Buffer]:
    inflater = zlib_ng.decompressobj(GZIP_WBITS)
    complete = False
    for view in views:
        for start in range(0, view.nbytes, GZIP_SLICE_BYTES):
            if complete:
                raise broken("gzip", "other bytes follow the end of the stream")
            todo: Buffer = view[start : start + GZIP_SLICE_BYTES]
            # Output that did not fit when the input was used up comes with the next slice: there is
            # one, because the trailer is read after all output.
            while len(todo) and not complete:
                try:
                    raw = inflater.decompress(todo, PIECE_BYTES)
                except ZLIB_ERROR as error:
                    raise broken("gzip", f"corrupt: {error}") from error
                if raw:
                    yield raw
                todo, complete = inflater.unconsumed_tail, inflater.eof
            if inflater.unused_data:
                raise broken("gzip", "other bytes follow the end of the stream")
    if not complete:
        raise broken("gzip", "truncated: the stream has no end")


def _lz4(views: Iterator[memoryview], size: int) -> Iterator[Buffer]:
    head, views = _peek(views, LZ4_HEADER_BYTES)
    check_lz4_header(head, size)
    context = lz4.frame.create_decompression_context()
    complete = False
    for view in views:
        at = 0
        while at < view.nbytes:
            if complete:
                raise broken("lz4", "other bytes follow the end of the stream")
            try:
                raw: bytes
                raw, used, complete = lz4.frame.decompress_chunk(context, view[at:], max_length=PIECE_BYTES)
            except RuntimeError as error:
                raise broken("lz4", f"corrupt: {error}") from error
            if raw:
                yield raw
            elif not used and not complete:
                raise broken("lz4", "corrupt: the library can't go on")
            at += used
    if not complete:
        raise broken("lz4", "truncated: the stream has no end")


def _zstd(views: Iterator[memoryview], size: int) -> Iterator[Buffer]:
    head, views = _peek(views, ZSTD_HEADER_BYTES)
    check_zstd_header(head, size)
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW_BYTES).decompressobj()
    for part in _zstd_parts(views, zstandard.frame_header_size(head)):
        try:
            raw = decompressor.decompress(part)
        except zstandard.ZstdError as error:
            raise broken("zstd", f"corrupt: {error}") from error
        if raw:
            yield raw
    if not decompressor.eof:
        raise broken("zstd", "truncated: the stream has no end")


def _zstd_parts(views: Iterator[memoryview], header_bytes: int) -> Iterator[memoryview]:
    """Cut one frame so that no part holds more than one block, and refuse bytes after its end.

    The library's streaming call returns all that a buffer expands to, and four bytes can make
    128 KiB: giving it a block at a time is what bounds the output. Its pull reader would bound it
    too, but takes a frame without its checksum for a whole one.

        header | block header, block | … | block header with the last bit, block | checksum
                 3 bytes, little end: bit 0 last, bits 1-2 type, bits 3-23 size
    """
    left = header_bytes  # bytes until the next block header, or until the end of the frame
    block_header = bytearray()
    last = False
    for view in views:
        at = 0
        while at < view.nbytes:
            if left:
                part = view[at : at + left]
                left -= part.nbytes
            elif last:
                raise broken("zstd", "other bytes follow the end of the stream")
            else:
                part = view[at : at + ZSTD_BLOCK_HEADER_BYTES - len(block_header)]
                block_header += part
                if len(block_header) == ZSTD_BLOCK_HEADER_BYTES:
                    bits = int.from_bytes(block_header, "little")
                    last = bool(bits & 1)
                    left = 1 if bits >> 1 & 3 == ZSTD_RLE_BLOCK else bits >> 3
                    left += ZSTD_CHECKSUM_BYTES if last else 0
                    block_header.clear()
            at += part.nbytes
            yield part


def _peek(views: Iterator[memoryview], length: int) -> tuple[bytes, Iterator[memoryview]]:
    """Return the first `length` bytes, fewer when there are no more, and all of the views again."""
    seen: list[memoryview] = []
    for view in views:
        seen.append(view)
        if sum(earlier.nbytes for earlier in seen) >= length:
            break
    return b"".join(seen)[:length], chain(seen, views)


_READERS: Final[dict[Codec, Callable[[Iterator[memoryview], int], Iterator[Buffer]]]] = {
    "gzip": _gzip,
    "zstd": _zstd,
    "lz4": _lz4,
    "store": _store,
}
