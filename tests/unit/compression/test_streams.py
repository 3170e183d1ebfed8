import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.compression import codecs
from lucid_events.compression.streams import PIECE_BYTES, decompress_stream
from lucid_events.compression.wire import Buffer
from lucid_events.errors import ConfigError, IntegrityError
from tests.unit.compression.samples import CODECS as ALL
from tests.unit.compression.samples import MIB, PACKED, cut, mixed
from tests.unit.compression.test_codecs import lying_bomb


def restore(codec: str, stored: bytes, piece_bytes: int, size: int) -> bytes:
    """What comes out of `stored` when it comes in pieces of `piece_bytes`."""
    return b"".join(decompress_stream(codec, cut(stored, piece_bytes), size=size))


@given(
    size=st.sampled_from([0, 1, 5000, PIECE_BYTES, PIECE_BYTES + 1, 400_000]),
    codec=st.sampled_from(ALL),
    level=st.sampled_from([None, 1, 5]),
    piece_bytes=st.sampled_from([7, 1024, 65_536, MIB]),
)
def test_pieces_of_any_size_round_trip(size: int, codec: str, level: int | None, piece_bytes: int) -> None:
    """However an object is cut into pieces, the same bytes come out, in buffers that are small."""
    raw = mixed(size)
    stored = bytes(codecs.compress(codec, None if codec == "store" else level, raw))
    parts = list(decompress_stream(codec, cut(stored, piece_bytes), size=size))
    assert b"".join(parts) == raw
    assert max(map(len, parts), default=0) <= max(PIECE_BYTES, piece_bytes * (codec == "store"))


@pytest.mark.parametrize("codec", ALL)
def test_single_bytes_and_empty_pieces_are_pieces(codec: str) -> None:
    """One byte at a time, with empty buffers between, is as good as all at once."""
    raw = mixed(3000)
    stored = bytes(codecs.compress(codec, None, raw))
    pieces = [part for byte in stored for part in (b"", bytes([byte]))]
    assert b"".join(decompress_stream(codec, pieces, size=len(raw))) == raw


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("piece_bytes", [100, 10_000])
def test_every_truncation_is_noticed(codec: str, piece_bytes: int) -> None:
    """A stream that stops at any place raises at its end, though bytes may have come out before."""
    raw = mixed(3000)
    stored = bytes(codecs.compress(codec, None, raw))
    for length in range(len(stored)):
        with pytest.raises(IntegrityError):
            restore(codec, stored[:length], piece_bytes, len(raw))


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("size", [0, 1, 3000])
def test_no_flipped_bit_gives_other_bytes(codec: str, size: int) -> None:
    """An iterator that ends without an error has yielded the right bytes, whatever bit was changed."""
    raw = mixed(size)
    stored = bytearray(codecs.compress(codec, None, raw))
    for bit in range(len(stored) * 8):
        stored[bit // 8] ^= 1 << bit % 8
        with suppress(IntegrityError):
            assert restore(codec, bytes(stored), 1000, size) == raw
        stored[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("piece_bytes", [1, 10_000])
def test_bytes_after_the_end_are_refused(codec: str, piece_bytes: int) -> None:
    """Anything behind a complete stream is an IntegrityError, in the same piece or a later one."""
    raw = mixed(3000)
    stored = bytes(codecs.compress(codec, None, raw))
    for rest in (b"\0", stored, b"\x50\x2a\x4d\x18\0\0\0\0"):
        with pytest.raises(IntegrityError, match=r"follow|wrong size"):
            restore(codec, stored + rest, piece_bytes, len(raw))


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("wrong", [2999, 3001])
def test_another_size_is_refused(codec: str, wrong: int) -> None:
    """More or fewer bytes than asked for are an IntegrityError, and never more are yielded."""
    stored = bytes(codecs.compress(codec, None, mixed(3000)))
    parts: list[Buffer] = []
    with pytest.raises(IntegrityError, match="wrong size"):
        parts.extend(decompress_stream(codec, cut(stored, 500), size=wrong))
    assert sum(map(len, parts)) <= wrong


@pytest.mark.parametrize("codec", PACKED)
def test_a_bomb_does_not_go_off(codec: str) -> None:
    """An object that expands to more than it should is refused without making room for it."""
    for bomb in (bytes(codecs.compress(codec, None, bytes(64 * MIB))), lying_bomb(codec, 1000)):
        tracemalloc.start()
        try:
            with pytest.raises(IntegrityError):
                restore(codec, bomb, MIB, 1000)
            assert tracemalloc.get_traced_memory()[1] < 2 * MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("codec", PACKED)
def test_memory_does_not_grow_with_the_object(codec: str) -> None:
    """Restoring 64 MiB piece by piece holds a few buffers at a time."""
    stored = bytes(codecs.compress(codec, None, bytes(64 * MIB)))
    tracemalloc.start()
    try:
        total = sum(map(len, decompress_stream(codec, cut(stored, 4096), size=64 * MIB)))
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    assert total == 64 * MIB


@pytest.mark.parametrize("codec", ALL)
def test_an_error_of_the_source_passes_through(codec: str) -> None:
    """A failing read is reported as itself, not as corruption, whatever its type is."""
    stored = bytes(codecs.compress(codec, None, mixed(3000)))

    def pieces() -> Iterator[bytes]:
        yield stored[:500]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        list(decompress_stream(codec, pieces(), size=3000))


def test_an_unknown_codec_is_an_error() -> None:
    """A codec nobody knows is refused before anything is read."""
    with pytest.raises(ConfigError, match="brotli"):
        next(decompress_stream("brotli", [b"x"], size=1))
