"""Who is next: messages wait in lanes, and the lanes take turns.

In order within a lane, fair between them: a session with a thousand messages waiting and one with
a single message are served alternately. Knows nothing of what the messages are.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """What can wait in a lane."""

    sequence: int
    lane: str | None
    """In order within it; None: in any order, any number at once."""
    owner: str
    """Whose turn is used up when there is no lane."""


Item = TypeVar("Item", bound=Queued)
_Key = tuple[bool, str]


class Lanes(Generic[Item]):
    """Waiting items by lane; the number of items is bounded by whoever puts them in."""

    def __init__(self) -> None:
        self._waiting: dict[_Key, deque[Item]] = {}
        self._turns: deque[_Key] = deque()
        self._busy: set[_Key] = set()
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def put(self, item: Item) -> None:
        """Let `item` wait behind everything of its lane with a lower sequence.

        A redelivered item so regains its place before later ones that overtook it.
        """
        queue = self._waiting.setdefault(_key(item), deque())
        at = len(queue)
        while at and queue[at - 1].sequence > item.sequence:
            at -= 1
        queue.insert(at, item)
        self._offer(_key(item))

    async def take(self) -> Item | None:
        """Return the next item whose turn it is; its lane stands still until `done`. None when closed."""
        while not self._turns:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        key = self._turns.popleft()
        queue = self._waiting[key]
        item = queue.popleft()
        if not queue:
            del self._waiting[key]
        if item.lane is not None:
            self._busy.add(key)
        elif queue:
            self._turns.append(key)
        return item

    def done(self, item: Item) -> None:
        """Let the lane of `item` go on."""
        self._busy.discard(_key(item))
        self._offer(_key(item))

    def again(self, item: Item) -> None:
        """Put `item` back in front of its lane, which waited for it."""
        self._busy.discard(_key(item))
        self.put(item)

    def close(self) -> Iterable[Item]:
        """Hand out nothing more; returns what still waits."""
        self._closed = True
        left = [item for queue in self._waiting.values() for item in queue]
        self._waiting.clear()
        self._turns.clear()
        self._changed.set()
        return left

    def _offer(self, key: _Key) -> None:
        if key in self._waiting and key not in self._busy and key not in self._turns:
            self._turns.append(key)
            self._changed.set()


def _key(item: Queued) -> _Key:
    return (False, item.owner) if item.lane is None else (True, item.lane)
