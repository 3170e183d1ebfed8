"""What a server and a network do wrong, ordered by a test: each fault happens at a named place.

Places, in the order the work passes them:

    append          an attempt to write events          settle       the read after a lost reply
    read            a page of a history or of the log   capture      a capture publish
    fence           a fence publish                     blob.pieces  before an object's pieces
    blob.meta       before an object's metadata         blob.confirm before a put is confirmed
    kv              a key-value write                   letter       an outcome or a dead letter
    timer           arming or cancelling                request      an immediate command
    enqueue         a durable command                   fetch        asking a consumer
    ack             an answer to a delivery             live         a message of the live feed
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

from lucid_events.errors import LucidError, StoreUnavailable

Place = Literal[
    "append",
    "settle",
    "read",
    "capture",
    "fence",
    "blob.pieces",
    "blob.meta",
    "blob.confirm",
    "kv",
    "letter",
    "timer",
    "request",
    "enqueue",
    "fetch",
    "ack",
    "live",
]
PLACES: tuple[Place, ...] = get_args(Place)

Hook = Callable[[], Awaitable[None]]


class Outcome(Enum):
    """What becomes of one attempt."""

    NORMAL = "normal"
    REPLY_LOST = "reply lost"
    """It is stored, and the writer never hears of it."""
    REQUEST_LOST = "request lost"
    """It is not stored, and the writer does not know that either."""


@dataclass(frozen=True)
class _Fault:
    error: LucidError | None = None
    hook: Hook | None = None
    outcome: Outcome = Outcome.NORMAL


class Faults:
    """The faults still to happen; none unless a test orders them."""

    def __init__(self) -> None:
        self._ordered: dict[Place, deque[_Fault]] = defaultdict(deque)
        self._delays: dict[str, deque[float]] = defaultdict(deque)
        self._duplicates: dict[str, int] = defaultdict(int)

    def fail_next(
        self, place: Place, error: LucidError | None = None, *, times: int = 1, skip: int = 0
    ) -> None:
        """Let `times` attempts at `place` fail with `error`, nothing written, after `skip` that work."""
        fault = _Fault(error=error or StoreUnavailable(f"{place}: no responders (injected)"))
        self._order(place, fault, times, skip)

    def lose_reply(self, place: Place, *, stored: bool = True, times: int = 1, skip: int = 0) -> None:
        """Let `times` attempts at `place` go unanswered; `stored` says whether they take effect."""
        outcome = Outcome.REPLY_LOST if stored else Outcome.REQUEST_LOST
        self._order(place, _Fault(outcome=outcome), times, skip)

    def before_next(self, place: Place, hook: Hook, *, skip: int = 0) -> None:
        """Run `hook` right before the next attempt at `place`: the writer that comes first in a race."""
        self._order(place, _Fault(hook=hook), 1, skip)

    def delay_next(self, consumer: str, seconds: float) -> None:
        """Hold the next new message of `consumer` back for `seconds`; later ones overtake it."""
        self._delays[consumer].append(seconds)

    def duplicate_next(self, consumer: str) -> None:
        """Deliver the next message of `consumer` twice, although its ack wait has not passed."""
        self._duplicates[consumer] += 1

    def delay_of(self, consumer: str) -> float | None:
        """Take the delay ordered for the next message of `consumer`, None when there is none."""
        delays = self._delays.get(consumer)
        return delays.popleft() if delays else None

    def duplicates(self, consumer: str) -> bool:
        """Take one ordered duplicate of `consumer`; False when there is none."""
        if self._duplicates.get(consumer, 0) == 0:
            return False
        self._duplicates[consumer] -= 1
        return True

    async def reach(self, place: Place) -> Outcome:
        """Let other tasks run, then let happen what is ordered for `place`; errors are raised."""
        await asyncio.sleep(0)
        return await self._happen(place)

    def drops(self, place: Place) -> bool:
        """Whether a one-way message at `place` gets lost."""
        faults = self._ordered.get(place)
        if not faults:
            return False
        return faults.popleft().outcome is not Outcome.NORMAL

    async def _happen(self, place: Place) -> Outcome:
        faults = self._ordered.get(place)
        if not faults:
            return Outcome.NORMAL
        fault = faults.popleft()
        if fault.hook is not None:
            await fault.hook()
        if fault.error is not None:
            raise fault.error
        return fault.outcome

    def _order(self, place: Place, fault: _Fault, times: int, skip: int) -> None:
        if place not in PLACES:
            raise ValueError(f"no fault can happen at {place!r}: use one of {', '.join(PLACES)}")
        self._ordered[place].extend([_Fault()] * skip + [fault] * times)
