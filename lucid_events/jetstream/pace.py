"""Which way gets crowded appends through faster: measured, because no client can see what decides it.

What one publish costs a server depends on its `sync_interval`, its disk, its replicas: microseconds
where nothing is synced, milliseconds where each publish is an fsync. What a batch costs depends on the same.
So both ways are tried on the work there is, and the faster one is kept.

    TOGETHER ── a slice measured ──> SINGLY, a slice on trial ──> the faster of both
                                                                   │ after 16, 32, 64 slices
                                     the other one, on trial <─────┘

A disk that hangs for a moment is not the way's fault: what a way costs is the better of its last two slices.
"""

import math
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

SLICE: Final = 256
"""Appends that make one measurement. Half is noise, twice as many are a long trial of the slower way."""
ENOUGH: Final = 32
"""Appends after which a trial ends early, when it is `SLOWER` than the other way."""
SLOWER: Final = 1.25
"""Times the cost of the other way: below it, a trial goes on to its end, because it may be noise."""
SOON: Final = 16
"""Slices until the way just left, or not taken, is tried again; twice as many each time it is not taken."""
AGAIN: Final = 64
"""Most slices between two trials of the slower way: a trial that is not ended early, of a way that is a
quarter slower, costs 0.4 % like this. Half doubles that; at twice, a server that changed is noticed later."""


class Way(Enum):
    """How appends that meet each other go out."""

    SINGLY = "each on its own, many in flight"
    TOGETHER = "as one batch"


class Pace:
    """The faster of two ways, as far as is known.

    Only time in which appends met each other counts: otherwise their callers set the pace.

    Args:
        now: a clock in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.way = Way.TOGETHER
        """The way to go now."""
        self.turn = 0
        """Which turn of that way this is; whoever takes off notes it."""
        self._now = now
        self._costs: dict[Way, deque[float]] = {way: deque(maxlen=2) for way in Way}
        self._best: Way | None = None
        self._slices, self._patience = 0, SOON
        self._count = 0
        self._spent = 0.0
        self._since: float | None = None

    def batch_leaves(self) -> int:
        """Note that a batch takes off, so that all of its time counts; returns the turn."""
        if self._since is None:
            self._since = self._now()
        return self.turn

    def landed(self, turn: int, count: int, *, crowded: bool) -> None:
        """Note that `count` appends that took off in `turn` are stored, among others or not."""
        if turn != self.turn:
            return  # one of the other way, still in flight when this one's turn came
        if not crowded:
            self.pause()
            return
        now = self._now()
        if self._since is not None:
            self._count += count
            self._spent += now - self._since
        self._since = now
        if self._count >= SLICE or (self._count >= ENOUGH and self._clearly_slower()):
            self._choose()

    def pause(self) -> None:
        """Leave out the time up to the next append that is stored: something else held them up."""
        self._since = None

    @property
    def _other(self) -> Way:
        return Way.SINGLY if self.way is Way.TOGETHER else Way.TOGETHER

    def _cost(self, way: Way) -> float:
        return min(self._costs[way], default=math.inf)

    def _clearly_slower(self) -> bool:
        return self._spent > SLOWER * self._cost(self._other) * self._count

    def _choose(self) -> None:
        self._costs[self.way].append(self._spent / self._count)
        self._count, self._spent = 0, 0.0
        self._slices += 1
        other = self._other
        if not self._costs[other]:
            self._take(other)
            return
        best = other if self._cost(other) < self._cost(self.way) else self.way
        if best is not self._best:
            self._best, self._slices, self._patience = best, 0, SOON
        if best is not self.way:
            self._take(best)
        elif self._slices > self._patience:
            self._slices, self._patience = 0, min(2 * self._patience, AGAIN)
            self._take(other)

    def _take(self, way: Way) -> None:
        self.way, self._since = way, None
        self.turn += 1
