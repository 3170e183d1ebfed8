import hashlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lucid_events.domain.chunks import ChunkPlan, assemble, contiguous, purge_bound
from lucid_events.domain.state import initial
from lucid_events.domain.values import Span
from tests.unit.domain.specification import SID, Given, active, sealed

WHOLE = bytes(range(200))


@dataclass(frozen=True)
class Piece:
    offset: int
    data: bytes


def piece(start: int, end: int) -> Piece:
    """Bytes `start` to `end` of a session whose byte 1000 is the first of WHOLE."""
    return Piece(1000 + start, WHOLE[start:end])


spans = st.tuples(st.integers(0, 200), st.integers(0, 200)).map(lambda ab: (min(ab), max(ab)))


@given(st.lists(spans, max_size=12), spans)
def test_assembled_bytes_are_the_right_ones_or_none(
    cuts: list[tuple[int, int]], wanted: tuple[int, int]
) -> None:
    """Whatever the order and overlap of pieces: all bytes of the range, or exactly the missing spans."""
    begin, end = wanted
    done = assemble([piece(a, b) for a, b in cuts], 1000 + begin, end - begin)
    covered = {i for a, b in cuts for i in range(a, b)}
    lacking = {i for i in range(begin, end) if i not in covered}
    assert {i for span in done.missing for i in range(span.start - 1000, span.end - 1000)} == lacking
    assert done.data == (b"" if lacking else WHOLE[begin:end])


@given(st.lists(spans, max_size=12), st.integers(0, 200))
def test_contiguous_runs_cover_what_is_there_once(cuts: list[tuple[int, int]], start: int) -> None:
    """Runs are in order, without holes inside, with a hole between, and leave nothing out."""
    runs = contiguous([piece(a, b) for a, b in cuts], 1000 + start)
    position, seen = 1000 + start, set()
    for number, run in enumerate(runs):
        assert number == 0 or run[0].offset > position
        position = max(position, run[0].offset)
        for one in run:
            assert one.offset <= position < one.offset + len(one.data)
            seen |= set(range(position, one.offset + len(one.data)))
            position = one.offset + len(one.data)
    assert seen == {1000 + i for a, b in cuts for i in range(max(a, start), b)}


def test_a_missing_tail_is_named() -> None:
    """The span that is missing ends where the range does."""
    assert assemble([piece(0, 50)], 1000, 60).missing == (Span(start=1050, end=1060),)


def test_a_purge_goes_up_to_the_last_piece_of_its_own_subject() -> None:
    """A chunk alone on its subject purges all of it, whatever else is pending."""
    session = Given(*active(), sealed(0, 0, 10), sealed(1, 10, 10)).session
    assert purge_bound(session, sealed(0, 0, 10)) == 9


def test_a_purge_waits_for_the_last_chunk_of_a_shared_subject() -> None:
    """Two chunks salvaged from one subject: the first ready one purges nothing, the last one all."""
    first = sealed(0, 0, 10, n=0, recovered=True, cut="salvage", first_seq=3, last_seq=9)
    second = replace(first, index=1, offset=20)
    both = initial(SID)
    one_left = replace(both, pending={1: second})
    assert purge_bound(one_left, first) <= 2
    assert purge_bound(both, second) == 9


def test_a_failed_chunk_keeps_its_bytes() -> None:
    """A chunk set aside may be redriven, so its neighbour on the subject does not purge them."""
    first = sealed(0, 0, 10, n=0, first_seq=3, last_seq=9)
    session = replace(initial(SID), failed={0: first})
    assert purge_bound(session, replace(first, index=1)) <= 2


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.integers(1, 64))
def test_a_plan_cuts_at_exactly_the_size_and_hashes_what_is_in_each(
    parts: list[bytes], chunk_bytes: int
) -> None:
    """Every chunk but the last has exactly `chunk_bytes`; digests and offsets are those of its bytes."""
    plan, cuts = ChunkPlan(chunk_bytes, offset=7), []
    for part in parts:
        rest = memoryview(part)
        while rest:
            taken, rest = rest[: plan.room], rest[plan.room :]
            plan.add(taken)
            if not plan.room:
                cuts.append(plan.cut())
    cuts.append(plan.cut())
    whole, position = b"".join(parts), 0
    for n, boundary in enumerate(c for c in cuts if c is not None):
        data = whole[position : position + boundary.size]
        assert (boundary.n, boundary.offset) == (n, 7 + position)
        assert boundary.sha256 == hashlib.sha256(data).hexdigest()
        assert boundary.size == min(chunk_bytes, len(whole) - position)
        position += boundary.size
    assert position == len(whole)


def test_a_plan_refuses_what_does_not_fit() -> None:
    """Cutting is the caller's: nothing is split behind its back, nothing skipped with bytes in hand."""
    plan = ChunkPlan(4)
    plan.add(b"abc")
    with pytest.raises(ValueError, match="room for 1"):
        plan.add(b"de")
    with pytest.raises(ValueError, match="skip"):
        plan.skip(10)
    plan.cut()
    plan.skip(10)
    plan.add(b"x")
    assert plan.cut() is not None
    assert plan.cut() is None
