"""The table writes of an app that are not committed yet: of which event each is, and what a commit may take.

Knows no server and no Faust app; `transactions.py` fills it and stores what it finds due.
"""

import weakref
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from faust.types import TP
from faust.types.tuples import FutureMessage

from lucid_events.faust_nats.errors import Unsupported


class Key(NamedTuple):
    """One key of one partition of a changelog."""

    topic: str
    partition: int
    key: bytes | None


class Write(msgspec.Struct, frozen=True, gc=False):
    """What an event set a key to; `future` is what the table's user may hold: most hold nothing."""

    order: int
    tp: TP
    offset: int
    value: bytes | None
    future: "weakref.ref[FutureMessage] | None"


class Writes:
    """The writes since the last commit, per key in the order they were made."""

    def __init__(self) -> None:
        self._writes: dict[Key, list[Write]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._writes)

    def add(
        self,
        key: Key,
        tp: TP,
        offset: int,
        value: bytes | None,
        *,
        future: FutureMessage | None = None,
    ) -> None:
        """Remember that the event at `offset` of `tp` set `key` to `value`."""
        self._order += 1
        held = weakref.ref(future) if future is not None else None
        write = Write(self._order, tp, offset, value, held)
        writes = self._writes.get(key)
        if writes is None:
            self._writes[key] = [write]
        else:
            writes.append(write)

    def closed(self, offsets: Mapping[TP, int]) -> dict[TP, int]:
        """Return the offsets, at most `offsets`, of a commit that holds nothing of an event outside of it.

        An event that wrote a key after one that is not in the commit may have built on what that one
        wrote, so it, and what follows it in its partition, has to wait for a later commit.
        """
        found = dict(offsets)
        changed = True
        while changed:
            changed = False
            for writes in self._writes.values():
                outside = False
                for write in writes:
                    if write.offset >= found.get(write.tp, 0):
                        outside = True
                    elif outside:
                        found[write.tp] = write.offset
                        changed = True
        return found

    def cut(self, offsets: Mapping[TP, int], most: int) -> dict[TP, int]:
        """Return the offsets, at most `offsets`, up to which at most `most` keys were written.

        Whole events only, in the order in which they wrote; as `closed` as `offsets` are.

        Raises:
            Unsupported: one event alone wrote more, or events that wrote the same keys in turns did.
        """
        if len(self._writes) <= most:
            return dict(offsets)
        done = _Done(self._writes, offsets)
        if len(done.keys) <= most:
            return dict(offsets)
        kept: set[Key] = set()
        reached: dict[TP, int] = {}
        while events := done.take():
            keys = {key for event in events for key in done.events[event]}
            # Not `kept | keys`: a new set of all keys for every event.
            if len(kept) + len(keys - kept) > most:
                if reached:
                    break
                tp, offset = max(events, key=lambda event: len(done.events[event]))
                with_it = f" with the {len(events) - 1} it took turns with" if len(events) > 1 else ""
                raise Unsupported(
                    f"the event at {tp} {offset}{with_it} changed {len(keys)} table keys: "
                    f"one commit holds {most}"
                )
            kept |= keys
            for tp, offset in events:
                reached[tp] = max(reached.get(tp, 0), offset + 1)
        return reached

    def due(self, offsets: Mapping[TP, int]) -> dict[Key, Write]:
        """Return, per key, the last write of an event before `offsets`."""
        found: dict[Key, Write] = {}
        for key, writes in self._writes.items():
            for write in reversed(writes):
                if write.offset < offsets.get(write.tp, 0):
                    found[key] = write
                    break
        return found

    def settled(self, offsets: Mapping[TP, int]) -> list[tuple[Key, Write]]:
        """Forget the writes of events before `offsets` and return them."""
        gone: list[tuple[Key, Write]] = []
        for key in tuple(self._writes):
            writes = self._writes[key]
            left = []
            for write in writes:
                if write.offset < offsets.get(write.tp, 0):
                    gone.append((key, write))
                else:
                    left.append(write)
            if left:
                self._writes[key] = left
            else:
                del self._writes[key]
        return gone

    def drop(self) -> set[TP]:
        """Forget everything; returns the partitions of changelogs whose tables hold what was not stored."""
        void = {TP(key.topic, key.partition) for key in self._writes}
        self._writes.clear()
        return void


class _Done:
    """The events of a commit, taken in the order of their first writes, those that belong together at once.

    An event is taken with all before it in its partition, and with all that wrote one of its keys
    before it did. Each is looked at once.
    """

    def __init__(self, writes: Mapping[Key, list[Write]], offsets: Mapping[TP, int]) -> None:
        inside = [
            (write.order, key, write)
            for key, made in writes.items()
            for write in made
            if write.offset < offsets.get(write.tp, 0)
        ]
        inside.sort(key=lambda one: one[0])
        self.events: dict[tuple[TP, int], dict[Key, int]] = {}
        """Of each event, the keys it wrote, and the place of its last write of each among all of the key."""
        self.keys: dict[Key, list[tuple[TP, int]]] = {}
        for _, key, write in inside:
            event = (write.tp, write.offset)
            authors = self.keys.setdefault(key, [])
            authors.append(event)
            self.events.setdefault(event, {})[key] = len(authors)
        self._offsets: dict[TP, list[int]] = {}
        for tp, offset in sorted(self.events, key=lambda event: event[1], reverse=True):
            self._offsets.setdefault(tp, []).append(offset)
        self._passed = dict.fromkeys(self.keys, 0)
        self._order = iter(tuple(self.events))
        self._taken: set[tuple[TP, int]] = set()

    def take(self) -> list[tuple[TP, int]]:
        """Return the next events that belong together; none when all were taken."""
        first = next((event for event in self._order if event not in self._taken), None)
        found = [] if first is None else [first]
        self._taken.update(found)
        for event in found:  # which grows
            for other in self._before(event):
                if other not in self._taken:
                    self._taken.add(other)
                    found.append(other)
        return found

    def _before(self, event: tuple[TP, int]) -> list[tuple[TP, int]]:
        tp, offset = event
        before: list[tuple[TP, int]] = []
        left = self._offsets[tp]
        while left and left[-1] <= offset:
            before.append((tp, left.pop()))
        for key, upto in self.events[event].items():
            passed = self._passed[key]
            if passed < upto:
                before += self.keys[key][passed:upto]
                self._passed[key] = upto
        return before
