"""How far a partition is done: offsets in the order of delivery, acknowledged in any order.

Faust's own bookkeeping assumes that offsets are dense and marks the offset after a gap as done while
it is still being worked on; a stream's sequences within one partition are sparse.
"""

from collections import deque


class AckTracker:
    """What was delivered of one partition and what of it is done.

    The committable offset is the one after the longest prefix of deliveries that are all done.
    """

    def __init__(self) -> None:
        self._delivered: deque[int] = deque()
        self._done: set[int] = set()
        self._last = -1
        self._next: int | None = None

    def delivered(self, offset: int) -> bool:
        """Note that `offset` was handed out; False when it is not behind all handed out before."""
        if offset <= self._last:
            return False
        self._last = offset
        self._delivered.append(offset)
        return True

    def done(self, offset: int) -> bool:
        """Note that `offset` is done; False when it was not handed out, or was done already."""
        delivered = self._delivered
        if not delivered or not delivered[0] <= offset <= self._last or offset in self._done:
            return False
        self._done.add(offset)
        while delivered and delivered[0] in self._done:
            self._next = delivered.popleft() + 1
            self._done.discard(self._next - 1)
        return True

    @property
    def committable(self) -> int | None:
        """The offset to go on from after a crash now; None when nothing is done yet."""
        return self._next

    @property
    def in_hand(self) -> int:
        """How many were handed out and do not count as done yet."""
        return len(self._delivered)
