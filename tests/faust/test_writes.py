"""Which table writes belong to a commit."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from faust.types import TP
from hypothesis import given

from lucid_events.faust_nats.errors import Unsupported
from lucid_events.faust_nats.transactions import Key, Writes

SOURCES = (TP("in", 0), TP("in", 1))


def _key(name: int) -> Key:
    return Key("log", 0, str(name).encode())


@given(
    st.lists(
        st.tuples(st.sampled_from((0, 1)), st.lists(st.integers(0, 5), max_size=4)), min_size=1, max_size=25
    ),
    st.integers(4, 8),
    st.integers(0, 26),
    st.integers(0, 26),
)
def test_commits_in_any_cuts_give_the_table_of_the_events_done(
    events: list[tuple[int, list[int]]], most: int, first: int, second: int
) -> None:
    """However a commit is cut, what is stored is exactly what the events before its offsets wrote."""
    writes, offsets = Writes(), {0: 0, 1: 0}
    log: list[tuple[TP, int, int, bytes]] = []
    for number, (source, keys) in enumerate(events):
        offsets[source] += 1
        for name in keys:
            value = str(number).encode()
            writes.add(_key(name), SOURCES[source], offsets[source], value)
            log.append((SOURCES[source], offsets[source], name, value))
    target = {SOURCES[0]: min(first, offsets[0]) + 1, SOURCES[1]: min(second, offsets[1]) + 1}
    stored: dict[Key, bytes | None] = {}
    rest = dict(target)
    while rest:
        now = writes.cut(rest, most)
        due = writes.due(now)
        assert len(due) <= most
        stored |= {key: write.value for key, write in due.items()}
        writes.settled(now)
        rest = {tp: offset for tp, offset in rest.items() if now.get(tp, 0) < offset}
        # A crash here must leave what the events committed so far wrote, and nothing else.
        reached = {tp: target[tp] if tp not in rest else now.get(tp, 0) for tp in target}
        if rest and all(reached.values()):
            assert set(stored) <= {_key(name) for tp, offset, name, _ in log if offset < target[tp]}
    expected = {_key(name): value for tp, offset, name, value in log if offset < target[tp]}
    assert stored == expected
    assert len(writes) == len({name for tp, offset, name, _ in log if offset >= target[tp]})


def test_a_write_in_progress_waits_for_its_event() -> None:
    """The value an unfinished event wrote is left out, the one before it is stored."""
    writes = Writes()
    writes.add(_key(1), SOURCES[0], 4, b"done")
    writes.add(_key(1), SOURCES[0], 5, b"in progress")
    assert [write.value for write in writes.due({SOURCES[0]: 5}).values()] == [b"done"]
    writes.settled({SOURCES[0]: 5})
    assert [write.value for write in writes.due({SOURCES[0]: 6}).values()] == [b"in progress"]


def test_one_event_with_more_keys_than_a_batch_is_refused_by_name() -> None:
    """An event can't be cut in two: the message says which one and how much fits."""
    writes = Writes()
    for name in range(5):
        writes.add(_key(name), SOURCES[0], 9, b"x")
    with pytest.raises(Unsupported, match=r"9 changed 5 table keys: one commit holds 4"):
        writes.cut({SOURCES[0]: 10}, 4)


def test_what_is_dropped_names_the_tables_to_load_again() -> None:
    """Uncommitted writes make the partitions of their changelogs void."""
    writes = Writes()
    writes.add(_key(1), SOURCES[0], 9, b"x")
    assert writes.drop() == {TP("log", 0)}
    assert not writes.drop()
