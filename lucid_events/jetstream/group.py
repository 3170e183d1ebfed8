"""Group commit: appends that arrive while others are being stored go out together, where that is faster.

With `sync_interval: always` a publish on one replica is one fsync, and an atomic batch is one for
all its messages, whatever histories they belong to; each history keeps its own guard in it. So
under load many sessions share one fsync, while an append that meets no other goes out as before.
Where a server does not sync every publish, or shares its own fsyncs, a batch is the dearer way: there
they all go out singly. Which it is, `pace.py` finds out.

    at most ALONE appends fly on their own, MANY when that is the faster way; who comes later waits
    else, as soon as GROUP wait and no batch flies, all that wait go out as one batch
    a batch the server refuses is taken apart: each append goes out on its own and learns its own fault
    a batch without an answer is uncertain for each of its appends, which settle it one by one
"""

import asyncio
import logging
from collections import deque
from typing import Final

from lucid_events.errors import AppendUncertain, LucidError, StoreUnavailable
from lucid_events.jetstream.append import MAX_EVENTS, Draft, Landed, SingleWriter
from lucid_events.jetstream.batch import publish_batch
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.pace import Pace, Way

_log = logging.getLogger(__name__)

ALONE: Final = 8
"""Appends that may fly on their own. A batch costs the server a staging file and its fsyncs, about
as much as eight publishes where an fsync is cheap and four where it is not."""

MANY: Final = 256
"""Appends that may fly on their own where the server takes them faster like that. Half is less than a
full service has at once, twice as many keep each other waiting for longer."""

GROUP: Final = 8
"""Fewest appends worth a batch; see `ALONE`."""

GROUP_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one batch, or of those that fly on their own: half delays nobody, twice as much holds up the
stream for longer than an fsync."""

LEAST_S: Final = 0.001
"""Time of a batch in which nobody can wait any more; nothing at all would be no time-out."""

WAITING: Final = 4096
"""Appends that may wait: forty times the sessions of a full service; beyond it the caller backs off."""


class _Seat:
    """One waiting append; `turn` resolves to what its batch did, None to let it fly on its own.

    It gives up at `deadline`, a time of the event loop. Who is `granted` that is counted among those who
    fly, whether or not it still wants to.
    """

    __slots__ = ("deadline", "draft", "granted", "turn")

    def __init__(self, draft: Draft, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.draft, self.deadline, self.granted = draft, loop.time() + timeout_s, False
        self.turn: asyncio.Future[Landed | None] = loop.create_future()


class GroupWriter:
    """Sends drafts, together where that is faster; each outcome is its own.

    A batch in flight is a task of the writer's; it ends by itself when nobody in it waits any more.

    Args:
        pace: finds out which way is faster; unset: by the event loop's clock.
    """

    def __init__(self, connection: Connection, *, pace: Pace | None = None) -> None:
        self._connection = connection
        self._single = SingleWriter(connection)
        self._waiting: deque[_Seat] = deque()
        self._alone = self._alone_bytes = 0
        self._pace = pace or Pace(asyncio.get_running_loop().time)
        self._flight: asyncio.Task[None] | None = None

    async def write(self, draft: Draft, *, timeout_s: float) -> Landed:
        """Send `draft` and return where it went; see `Writer.write`."""
        if self._free > 0:
            self._count(draft)
            return await self._fly_alone(draft, timeout_s)
        if len(self._waiting) >= WAITING:
            raise StoreUnavailable(f"{WAITING} appends wait already: {draft.session} was not appended to")
        seat = _Seat(draft, timeout_s)
        self._waiting.append(seat)
        leaves = False
        try:
            async with asyncio.timeout_at(seat.deadline):
                landed = await seat.turn
            leaves = landed is None
        except TimeoutError as exc:
            if seat in self._waiting or seat.granted:
                raise StoreUnavailable(
                    f"no turn within {timeout_s:g} s: {draft.session} was not appended to"
                ) from exc
            raise AppendUncertain(
                f"no reply within {timeout_s:g} s to the batch with {draft.session}: read first"
            ) from exc
        finally:
            if seat in self._waiting:
                self._waiting.remove(seat)
            if seat.granted and not leaves:
                self._discount(draft)
        return landed if landed is not None else await self._fly_alone(draft, timeout_s)

    @property
    def _free(self) -> int:
        """How many more may fly on their own now."""
        if self._flight is not None or self._alone_bytes > GROUP_BYTES:
            return 0
        return (MANY if self._pace.way is Way.SINGLY else ALONE) - self._alone

    def _count(self, draft: Draft) -> None:
        self._alone += 1
        self._alone_bytes += draft.size

    def _discount(self, draft: Draft) -> None:
        self._alone -= 1
        self._alone_bytes -= draft.size
        self._dispatch()

    async def _fly_alone(self, draft: Draft, timeout_s: float) -> Landed:
        """Send `draft`, which is counted already."""
        turn = self._pace.turn
        try:
            landed = await self._single.write(draft, timeout_s=timeout_s)
            self._pace.landed(turn, 1, crowded=self._alone + len(self._waiting) > ALONE)
            return landed
        except LucidError:
            self._pace.pause()
            raise
        finally:
            self._discount(draft)

    def _dispatch(self) -> None:
        """Let those go who may go now."""
        if not self._waiting:
            return
        if self._flight is None and self._pace.way is Way.TOGETHER and len(self._waiting) >= GROUP:
            self._flight = asyncio.create_task(self._fly(self._take(), self._pace.batch_leaves()))
            self._flight.add_done_callback(self._landed)
        while self._free > 0 and self._waiting:
            self._grant(self._waiting.popleft())

    def _grant(self, seat: _Seat) -> None:
        """Let `seat` fly on its own; it counts from now on, not only from when its task wakes up."""
        if not seat.turn.done():
            seat.granted = True
            self._count(seat.draft)
            seat.turn.set_result(None)

    def _landed(self, flight: "asyncio.Task[None]") -> None:
        self._flight = None
        if not flight.cancelled() and (bug := flight.exception()) is not None:
            _log.error("a batch met a bug", exc_info=bug)
        self._dispatch()

    def _take(self) -> list[_Seat]:
        """Take from those who wait what fits one batch: a history at most once, in the order of arrival."""
        taken: dict[str, _Seat] = {}
        left: deque[_Seat] = deque()
        count = size = 0
        for seat in self._waiting:
            count += len(seat.draft.messages)
            size += seat.draft.size
            if seat.draft.session in taken or count > MAX_EVENTS or (taken and size > GROUP_BYTES):
                left.append(seat)
                count -= len(seat.draft.messages)
                size -= seat.draft.size
            else:
                taken[seat.draft.session] = seat
        self._waiting = left
        return list(taken.values())

    async def _fly(self, seats: list[_Seat], turn: int) -> None:
        """Send the drafts of `seats` as one batch and tell each where its messages are.

        The batch has the time of whoever can wait longest: the others give up on their own.
        """
        drafts = [seat.draft for seat in seats]
        left = max(seat.deadline for seat in seats) - asyncio.get_running_loop().time()
        try:
            messages = [message for draft in drafts for message in draft.messages]
            first, _ = await publish_batch(self._connection, messages, timeout_s=max(left, LEAST_S))
            crowd = len(seats) + self._alone + len(self._waiting)
            self._pace.landed(turn, len(seats), crowded=crowd > ALONE)
            for seat in seats:
                if not seat.turn.done():
                    seat.turn.set_result(Landed(first))
                first += len(seat.draft.messages)
        except AppendUncertain as exc:
            self._pace.pause()
            for seat in seats:
                if "err_code" in exc.fields:
                    # Refused because the server knows one of the ids: each finds out whether it is its own.
                    self._grant(seat)
                else:
                    _refuse(seat, AppendUncertain(f"append to {seat.draft.session}: {exc.message}"))
        except LucidError:
            self._pace.pause()
            for seat in seats:
                self._grant(seat)
        finally:
            for seat in seats:
                _refuse(
                    seat, AppendUncertain(f"the batch with {seat.draft.session} was given up: read first")
                )


def _refuse(seat: _Seat, error: AppendUncertain) -> None:
    if not seat.turn.done():
        seat.turn.set_exception(error)
