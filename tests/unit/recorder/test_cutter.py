"""Where pieces and chunks end."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lucid_events.recorder.cutter import TAIL_BYTES, Boundary, Cut, Cutter

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A moment after the beginning."""
    return T0 + timedelta(seconds=seconds)


def cutter(*, chunk: int = 100, piece: int = 40, chunk_s: float = 300.0, flush_s: float = 1.0) -> Cutter:
    """A cutter with small sizes."""
    return Cutter(offset=0, chunk_bytes=chunk, piece_bytes=piece, chunk_s=chunk_s, flush_s=flush_s)


def taken(cutter: Cutter) -> list[Cut]:
    """Everything that is ready."""
    return list(iter(cutter.take, None))


def shape(cuts: list[Cut]) -> list[tuple[int, int, int, str | None]]:
    """Chunk, offset, size and end of each cut."""
    return [(cut.n, cut.offset, len(cut.data), cut.end) for cut in cuts]


def test_chunks_end_at_exactly_their_size() -> None:
    """However blocks fall, a chunk has exactly `chunk_bytes` and pieces at most `piece_bytes`."""
    c = cutter()
    c.add(b"x" * 130, at(0))
    assert shape(taken(c)) == [(0, 0, 40, None), (0, 40, 40, None), (0, 80, 20, "size")]
    c.add(b"x" * 10, at(0))
    assert shape(taken(c)) == [(1, 100, 40, None)]


def test_little_waits_until_it_is_due() -> None:
    """Bytes below a piece wait for `flush_s` and not longer."""
    c = cutter()
    c.add(b"abc", at(0))
    assert c.due_in(at(0.25)) == 0.75
    c.tick(at(0.9))
    assert taken(c) == []
    c.tick(at(1.0))
    assert shape(taken(c)) == [(0, 0, 3, None)]


def test_a_boundary_ends_a_chunk_once() -> None:
    """A pause ends the chunk behind the last byte; a second one there, and one on no bytes, end nothing."""
    c = cutter()
    c.close("pause")
    assert taken(c) == []
    c.add(b"abc", at(0))
    c.close("pause")
    c.close("stop")
    assert shape(taken(c)) == [(0, 0, 3, "pause")]
    c.close("stop")
    assert taken(c) == []
    c.add(b"de", at(5))
    c.close("stop")
    assert shape(taken(c)) == [(1, 3, 2, "stop")]


def test_a_chunk_whose_bytes_have_gone_already_ends_without_any() -> None:
    """A boundary behind flushed bytes ends their chunk with an empty cut."""
    c = cutter()
    c.add(b"abc", at(0))
    c.tick(at(1))
    assert shape(taken(c)) == [(0, 0, 3, None)]
    c.close("end")
    assert shape(taken(c)) == [(0, 3, 0, "end")]


def test_a_slow_chunk_ends_after_its_time() -> None:
    """A chunk that does not fill ends `chunk_s` after its first byte, at a byte, not inside a block."""
    c = cutter(chunk_s=300)
    c.add(b"abc", at(0))
    c.tick(at(1))
    taken(c)
    assert c.due_in(at(1)) == 299
    c.tick(at(300))
    assert shape(taken(c)) == [(0, 3, 0, "time")]
    c.add(b"def", at(700))
    c.add(b"ghi", at(1001))
    assert shape(taken(c)) == [(1, 3, 3, "time")]


def test_restart_goes_back_without_losing_a_boundary() -> None:
    """After going back, the same bytes follow in a new chunk, and a pause still ends where it did."""
    c = cutter()
    c.add(b"x" * 50, at(0))
    c.close("pause")
    first = taken(c)
    assert shape(first) == [(0, 0, 40, None), (0, 40, 10, "pause")]
    c.add(b"y" * 5, at(0))
    c.restart(n=1, offset=40, blocks=[first[1].data], boundaries=[Boundary(50, "pause")])
    c.close("stop")
    assert shape(taken(c)) == [(1, 40, 10, "pause"), (2, 50, 5, "stop")]


def test_a_whole_block_is_not_copied() -> None:
    """A block that is a piece already goes through as it is."""
    c = cutter()
    block = b"z" * 40
    c.add(block, at(0))
    assert taken(c)[0].data is block


def test_a_piece_ends_where_a_block_does() -> None:
    """Blocks that do not fit into one piece go one by one, untouched; a part of one is not copied either."""
    c = cutter()
    first, second = b"x" * 25, b"y" * 60
    c.add(first, at(0))
    c.add(second, at(0))
    cuts = taken(c)
    assert shape(cuts) == [(0, 0, 25, None), (0, 25, 40, None)]
    assert cuts[0].data is first
    assert isinstance(cuts[1].data, memoryview)
    assert cuts[1].data.obj is second


def test_a_full_chunk_ends_with_a_small_piece() -> None:
    """What is read to check a seal is small; a chunk that ends early does not wait for such a piece."""
    c = cutter(chunk=10 * TAIL_BYTES, piece=4 * TAIL_BYTES)
    c.add(b"x" * (13 * TAIL_BYTES), at(0))
    c.close("stop")
    assert [(size // TAIL_BYTES, end) for _, _, size, end in shape(taken(c))] == [
        (4, None),
        (4, None),
        (1, None),
        (1, "size"),
        (3, "stop"),
    ]


def test_a_small_block_is_no_piece() -> None:
    """What a source gives in little bits is gathered until it fills a piece, whatever follows."""
    c = cutter()
    c.add(b"x" * 5, at(0))
    c.add(b"y" * 60, at(0))
    assert [len(cut.data) for cut in taken(c)] == [40]


@given(
    sizes=st.lists(st.integers(1, 350), max_size=20),
    chunk=st.integers(1, 300),
    piece=st.integers(1, 120),
    closes=st.sets(st.integers(0, 20)),
)
def test_pieces_add_up_to_what_went_in(sizes: list[int], chunk: int, piece: int, closes: set[int]) -> None:
    """Any blocks and boundaries: pieces are contiguous, in order, within bounds, and lose nothing."""
    c = cutter(chunk=chunk, piece=piece)
    data = bytes(i % 251 for i in range(sum(sizes)))
    cuts: list[Cut] = []
    position = 0
    for i, size in enumerate(sizes):
        c.add(data[position : position + size], at(i))
        position += size
        if i in closes:
            c.close("pause")
        cuts += taken(c)
    c.close("end")
    cuts += taken(c)
    assert b"".join(cut.data for cut in cuts) == data
    chunks: dict[int, int] = {}
    at_byte = 0
    for cut in cuts:
        assert cut.offset == at_byte
        assert len(cut.data) <= piece
        at_byte += len(cut.data)
        chunks[cut.n] = chunks.get(cut.n, 0) + len(cut.data)
    assert sorted(chunks) == list(range(len(chunks)))
    assert all(0 < size <= chunk for size in chunks.values())
    assert sum(cut.end is not None for cut in cuts) == len(chunks)
