"""Whole buffers in, whole buffers out: compress a chunk, restore it, refuse what is not exact.

Knows the three libraries and the formats they write. Refuses to know when compressing pays
(`probe`), where the work runs (`pool`) and what a chunk is. Every function blocks and lets other
threads run meanwhile.
"""

from typing import Final

import lz4.frame
import zstandard
from zlib_ng import zlib_ng

from lucid_events.compression.streams import decompress_stream
from lucid_events.compression.wire import (
    GZIP_WBITS,
    ZLIB_ERROR,
    Buffer,
    as_bytes_view,
    broken,
    check_lz4_header,
    check_zstd_header,
    wrong_size,
)
from lucid_events.domain.codecs import AUTO_CODEC, check_codec, check_level

# One gzip member (RFC 1952). zlib writes no name and no time; XFL follows the level; OS is the one
# byte that depends on the platform, so it is overwritten where it is not Unix.
#
#     1f 8b | 08      | 00    | 00 00 00 00 | 00, 02 or 04 | 03 | deflate … | CRC-32  | size mod 2³²
#     magic | deflate | flags | MTIME       | XFL          | OS |           | 4 bytes | 4 bytes, little end
GZIP_OS_AT: Final = 9
GZIP_OS_UNIX: Final = b"\x03"

# Linked blocks of 64 KiB: a reader's smallest buffer, and next to the larger blocks no loss in
# ratio (bench/chunk_compression.py, "lz4 blocks"). Independent blocks of this size lose 3 to 13 %.
LZ4_BLOCK: Final = lz4.frame.BLOCKSIZE_MAX64KB

_TABLES_BYTES: Final = 1024 * 1024
"""More than the state, window and hash tables of zlib-ng and lz4, and of a zstd decompressor."""


def compress(codec: str, level: int | None, data: Buffer) -> Buffer:
    """Return `data` as one stream of `codec`, a function of content, codec and level only.

    `store` returns `data` itself, not a copy. The same bytes come out in every run, thread and
    process with the same versions of the libraries; another version or processor architecture may
    find another, equally valid, encoding.

    Raises:
        ConfigError: the codec or the level is unknown; an unset level is the codec's default.
    """
    name = check_codec(codec)
    used = check_level(name, level)
    if used is None:
        return data
    view = as_bytes_view(data)
    match name:
        case "gzip":
            member = zlib_ng.compress(view, used, GZIP_WBITS)
            # Not always joined from parts: that would hold the output twice.
            if member[GZIP_OS_AT : GZIP_OS_AT + 1] != GZIP_OS_UNIX:
                member = member[:GZIP_OS_AT] + GZIP_OS_UNIX + member[GZIP_OS_AT + 1 :]
            return member
        case "zstd":
            # A compressor per call: one object must not be used by two threads, and making one is
            # cheap next to 10 MiB. No `threads=`: its output depends on how the work was split.
            compressor = zstandard.ZstdCompressor(level=used, write_checksum=True, write_content_size=True)
            return compressor.compress(view)
        case _:
            framed: bytes = lz4.frame.compress(
                view,
                compression_level=used,
                block_size=LZ4_BLOCK,
                block_linked=True,
                content_checksum=True,
                store_size=True,
            )
            return framed


def decompress(codec: str, data: Buffer, *, size: int) -> Buffer:
    """Return the exactly `size` bytes that `data` was made of, all checksums verified.

    Never allocates more than about `size` bytes, whatever the stream claims. `store` returns `data`
    itself, not a copy.

    Raises:
        IntegrityError: corrupt, truncated, followed by other bytes, without the checksum and size
            that `compress` writes, or not `size` bytes long; the message says which.
        ConfigError: the codec is unknown.
    """
    name = check_codec(codec)
    if size < 0:
        raise ValueError(f"size {size} is negative")
    view = as_bytes_view(data)
    # zstandard answers a frame of size 0 without looking at the rest of it; the stream looks.
    if name == "store" or size == 0:
        for _ in decompress_stream(name, [view], size=size):
            pass
        return data if name == "store" else b""
    match name:
        case "gzip":
            return _gunzip(view, size)
        case "zstd":
            return _unzstd(view, size)
        case _:
            return _unlz4(view, size)


def working_bytes(setting: str, level: int | None, size: int) -> int:
    """Estimate what compressing `size` bytes holds at its worst, beside the input and one output.

    Large for high levels of zstd (270 MB at level 22 for 10 MiB), which is why a memory bound has to
    ask. `bench/chunk_compression.py` compares the estimate with what the process really took.
    """
    used = check_level(setting, level)
    match AUTO_CODEC if setting == "auto" else check_codec(setting):
        case "gzip":
            return _TABLES_BYTES
        case "zstd":
            parameters = zstandard.ZstdCompressionParameters.from_level(used or 0, source_size=max(size, 1))
            window = min(1 << parameters.window_log, size)
            return parameters.estimated_compression_context_size() + window + _TABLES_BYTES
        case "lz4":
            return size + _TABLES_BYTES  # the package copies its output once
        case _:
            return 0


def restoring_bytes(codec: str, size: int) -> int:
    """Estimate what restoring `size` bytes holds at its worst, beside the input and the output."""
    match check_codec(codec):
        case "lz4":
            return size + _TABLES_BYTES  # the package copies its output once
        case "store":
            return 0
        case _:
            return _TABLES_BYTES


def _gunzip(view: memoryview, size: int) -> bytes:
    inflater = zlib_ng.decompressobj(GZIP_WBITS)
    try:
        # One byte more than asked for: enough to see that there is more, and it lets the last call
        # read the trailer.
        raw = inflater.decompress(view, size + 1)
    except ZLIB_ERROR as error:
        raise broken("gzip", f"corrupt: {error}") from error
    if len(raw) > size:
        raise wrong_size("gzip", size, None)
    if not inflater.eof:
        raise broken("gzip", f"truncated: the stream stops after {len(raw)} raw bytes")
    if inflater.unused_data:
        raise broken("gzip", f"{len(inflater.unused_data)} bytes follow the end of the stream")
    if len(raw) != size:
        raise wrong_size("gzip", size, len(raw))
    return raw


def _unzstd(view: memoryview, size: int) -> bytes:
    # The library allocates what the header claims, so the header is compared first.
    check_zstd_header(view, size)
    try:
        raw = zstandard.ZstdDecompressor().decompress(view, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise broken("zstd", f"corrupt, truncated or followed by other bytes: {error}") from error
    if len(raw) != size:
        raise wrong_size("zstd", size, len(raw))
    return raw


def _unlz4(view: memoryview, size: int) -> bytes:
    check_lz4_header(view, size)
    context = lz4.frame.create_decompression_context()
    try:
        raw: bytes
        raw, used, complete = lz4.frame.decompress_chunk(context, view, max_length=size + 1)
    except RuntimeError as error:
        raise broken("lz4", f"corrupt: {error}") from error
    if len(raw) > size:
        raise wrong_size("lz4", size, None)
    if not complete:
        raise broken("lz4", f"truncated: the stream stops after {len(raw)} raw bytes")
    if used != view.nbytes:
        raise broken("lz4", f"{view.nbytes - used} bytes follow the end of the stream")
    if len(raw) != size:
        raise wrong_size("lz4", size, len(raw))
    return raw
