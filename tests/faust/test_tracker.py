"""What is done of a partition, and up to where it may be committed."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from lucid_events.faust_nats.tracker import AckTracker


def _brute_force(delivered: list[int], done: set[int]) -> int | None:
    """One past the longest prefix of deliveries that are all done."""
    found = None
    for offset in delivered:
        if offset not in done:
            break
        found = offset + 1
    return found


@given(st.data())
def test_the_tracker_equals_a_brute_force_model(data: st.DataObject) -> None:
    """Whatever the order of deliveries and acks, the committable offset is that of the model."""
    offsets = sorted(data.draw(st.sets(st.integers(1, 60), min_size=1, max_size=20)))
    tracker, delivered, done = AckTracker(), list[int](), set[int]()
    waiting = list(offsets)
    for _ in range(2 * len(offsets)):
        open_ = [offset for offset in delivered if offset not in done]
        if waiting and (not open_ or data.draw(st.booleans())):
            offset = waiting.pop(0)
            assert tracker.delivered(offset)
            delivered.append(offset)
        elif open_:
            offset = data.draw(st.sampled_from(open_))
            assert tracker.done(offset)
            done.add(offset)
        assert tracker.committable == _brute_force(delivered, done)


def test_sparse_offsets_are_not_committed_past_one_in_progress() -> None:
    """5, 9 and 10 delivered, 5 and 10 done: 9 is still in progress, so 6 is the offset, not 11."""
    tracker = AckTracker()
    for offset in (5, 9, 10):
        tracker.delivered(offset)
    tracker.done(5)
    tracker.done(10)
    assert tracker.committable == 6
    tracker.done(9)
    assert tracker.committable == 11
    assert tracker.in_hand == 0


def test_what_was_not_handed_out_is_not_done() -> None:
    """An ack for an unknown, a repeated or an old offset changes nothing."""
    tracker = AckTracker()
    assert not tracker.done(1)
    tracker.delivered(3)
    assert not tracker.delivered(3)
    assert not tracker.delivered(2)
    assert not tracker.done(4)
    assert tracker.done(3)
    assert not tracker.done(3)
    assert tracker.committable == 4
