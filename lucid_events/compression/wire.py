"""What both readers of stored bytes share: the buffer type, header checks, one way to say no."""

from typing import Final, TypeAlias, cast

import lz4.frame
import zstandard
from zlib_ng import zlib_ng

from lucid_events.errors import IntegrityError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes; a memoryview is never copied on its way into a library."""

GZIP_WBITS: Final = 31
"""zlib's way to say: a gzip header and trailer, and the largest window."""

ZSTD_HEADER_BYTES: Final = 18
"""The longest frame header (RFC 8878, section 3.1.1): magic 4, descriptors 2, dictionary 4, size 8."""
LZ4_HEADER_BYTES: Final = 19
"""The longest frame header: magic 4, flags 2, size 8, dictionary 4, checksum 1."""

# The package's stub says that `error` is an exception, not a class of them.
ZLIB_ERROR: Final = cast(type[Exception], zlib_ng.error)


def as_bytes_view(data: Buffer) -> memoryview:
    """Return a view of `data` that counts in bytes, without copying."""
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def broken(codec: str, reason: str) -> IntegrityError:
    """Make the error for stored bytes that can't be trusted; `reason` says what is wrong."""
    return IntegrityError(f"stored {codec} bytes: {reason}", codec=codec, reason=reason)


def wrong_size(codec: str, expected: int, actual: int | None) -> IntegrityError:
    """Make the error for a stream of another size; `actual` is None when it was not read to its end."""
    found = f"more than {expected}" if actual is None else str(actual)
    return IntegrityError(
        f"stored {codec} bytes: wrong size: they hold {found} raw bytes, not {expected}",
        codec=codec,
        reason="wrong size",
        expected=expected,
        actual=actual,
    )


def check_zstd_header(head: Buffer, size: int) -> None:
    """Refuse a frame that does not declare `size` bytes and a checksum; needs its first 18 bytes."""
    try:
        header = zstandard.get_frame_parameters(bytes(head[:ZSTD_HEADER_BYTES]))
    except zstandard.ZstdError as error:
        raise broken("zstd", f"corrupt or truncated header: {error}") from error
    if not header.has_checksum:
        raise broken("zstd", "the frame has no checksum, so nothing would notice a change")
    if header.content_size != size:
        # A frame of unknown size reads as 2⁶⁴ - 1.
        raise wrong_size("zstd", size, header.content_size)


def check_lz4_header(head: Buffer, size: int) -> None:
    """Refuse a frame that does not declare `size` bytes and a checksum; needs its first 19 bytes."""
    try:
        header = lz4.frame.get_frame_info(bytes(head[:LZ4_HEADER_BYTES]))
    except RuntimeError as error:
        raise broken("lz4", f"corrupt or truncated header: {error}") from error
    if header["skippable"]:
        raise broken("lz4", "the stream begins with a frame that readers skip")
    if not header["content_checksum"]:
        raise broken("lz4", "the frame has no checksum, so nothing would notice a change")
    if header["content_size"] != size:
        # A frame of unknown size reads as 0; one of no bytes can't be told from it, and is checked
        # by counting.
        raise wrong_size("lz4", size, header["content_size"])
