"""Which table writes belong to a commit."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from faust.types import TP
from hypothesis import given

from lucid_events.faust_nats.errors import Unsupported
from lucid_events.faust_nats.writes import Key, Writes

SOURCES = (TP("in", 0), TP("in", 1), TP("in", 2))


def _key(name: int) -> Key:
    return Key("log", 0, str(name).encode())


class _Run:
    """Events of several partitions handled at once, each adding one to some keys, step by step."""

    def __init__(self, events: list[tuple[int, list[int]]]) -> None:
        self.writes = Writes()
        self._memory: Counter[int] = Counter()
        self._left: dict[tuple[TP, int], list[int]] = {}
        self._last = dict.fromkeys(SOURCES, 0)
        self.log: list[tuple[TP, int, int]] = []
        self._to_come = [(SOURCES[source], keys) for source, keys in events]
        self.stored: dict[Key, bytes | None] = {}
        self.committed = dict.fromkeys(SOURCES, 1)
        self.held: dict[TP, int] = {}

    def begin(self) -> None:
        """An event is handed out, if there is one left."""
        if self._to_come:
            tp, keys = self._to_come.pop(0)
            self._last[tp] += 1
            self._left[tp, self._last[tp]] = list(keys)

    def step(self, choice: int) -> None:
        """One of the events in hand adds to its next key, or is done."""
        if not self._left:
            return
        tp, offset = list(self._left)[choice % len(self._left)]
        keys = self._left[tp, offset]
        if not keys:
            del self._left[tp, offset]
            return
        name = keys.pop(0)
        self._memory[name] += 1
        self.writes.add(_key(name), tp, offset, str(self._memory[name]).encode())
        self.log.append((tp, offset, name))

    def done(self) -> dict[TP, int]:
        """The offset after the longest run of events that are done, per partition."""
        return {
            tp: min([offset for source, offset in self._left if source == tp] or [last + 1])
            for tp, last in self._last.items()
        }

    def commit(self, most: int) -> None:
        """As the manager does; what is stored is compared after every batch, as if a crash came then."""
        self.held |= self.done()
        rest = {tp: at for tp, at in self.writes.closed(self.held).items() if at > self.committed[tp]}
        while rest:
            now = self.writes.cut(rest, most)
            due = self.writes.due(now)
            assert len(due) <= most
            self.stored |= {key: write.value for key, write in due.items()}
            self.writes.settled(now)
            self.committed |= now
            rest = {tp: offset for tp, offset in rest.items() if now.get(tp, 0) < offset}
            self.check()

    def check(self) -> None:
        """What is stored is exactly what the events before the committed offsets add up to."""
        sums = Counter(name for tp, offset, name in self.log if offset < self.committed[tp])
        assert self.stored == {_key(name): str(total).encode() for name, total in sums.items()}


_EVENTS = st.lists(
    st.tuples(st.sampled_from((0, 1, 2)), st.lists(st.integers(0, 3), max_size=4)), min_size=1, max_size=20
)


@given(_EVENTS, st.lists(st.tuples(st.sampled_from(("begin", "step", "commit")), st.integers(0, 9))))
def test_commits_of_interleaved_increments_are_exact(
    events: list[tuple[int, list[int]]], moves: list[tuple[str, int]]
) -> None:
    """Whatever events add to the same keys at once, a crash after any commit and a replay count each once."""
    run = _Run(events)
    for move, choice in moves:
        match move:
            case "begin":
                run.begin()
            case "step":
                run.step(choice)
            case _:
                run.commit(most=4)
    for _ in range(len(events)):
        run.begin()
    for _ in range(sum(len(keys) + 1 for _, keys in events)):
        run.step(0)
    run.commit(most=4)
    assert run.committed == run.done(), "something waits for an event that is done"
    assert not len(run.writes)


_MANY_KEYS = st.tuples(st.sampled_from((0, 1, 2)), st.lists(st.integers(0, 30), max_size=4))


@given(st.lists(_MANY_KEYS, min_size=1, max_size=40), st.integers(4, 8))
def test_commits_are_cut_in_any_order_of_events_without_a_trace(
    events: list[tuple[int, list[int]]], most: int
) -> None:
    """A commit of more keys than a batch holds is stored in parts, each of which would do after a crash."""
    run = _Run(events)
    for _, keys in events:
        run.begin()
        for _ in range(len(keys) + 1):
            run.step(0)
    run.commit(most)
    assert run.committed == run.done()


def test_what_builds_on_an_event_in_progress_waits_for_it() -> None:
    """b/7 added to what a/5 had written: its commit waits for a/5, and so does what b/9 changed after it."""
    writes = Writes()
    writes.add(_key(1), SOURCES[0], 5, b"1")
    writes.add(_key(2), SOURCES[1], 6, b"1")
    writes.add(_key(1), SOURCES[1], 7, b"2")
    writes.add(_key(3), SOURCES[1], 9, b"1")
    assert writes.closed({SOURCES[1]: 10}) == {SOURCES[1]: 7}
    assert writes.closed({SOURCES[0]: 6, SOURCES[1]: 10}) == {SOURCES[0]: 6, SOURCES[1]: 10}


def test_events_that_took_turns_are_not_cut_apart() -> None:
    """Each wrote a key after the other: a batch that holds not both of them is refused by name."""
    writes = Writes()
    for number, name in enumerate((1, 2, 3, 1)):
        writes.add(_key(name), SOURCES[number % 2], 5, b"x")
    for name in (2, 9, 1):
        writes.add(_key(name), SOURCES[0], 5, b"y")
    with pytest.raises(Unsupported, match=r"5 with the 1 it took turns with changed 4 table keys"):
        writes.cut({SOURCES[0]: 6, SOURCES[1]: 6}, 3)


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
