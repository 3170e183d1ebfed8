"""Bytes between the source and the cutter: a bounded queue that goes on on disk when it must.

    put ──► memory ──► take                 as long as there is room
    put ──► spool  ──► take                 once capture has not moved for `spool_after_s`
    put ──► (waits)                         while neither has room
    put ──► dropped, a gap                  only if the options say so

Order is kept throughout: once a byte went to the spool alone, everything after it does, until the
reading side has caught up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import merge
from typing import Literal

from lucid_events.ports import Clock
from lucid_events.recorder.cutter import Reason
from lucid_events.recorder.options import RecorderOptions
from lucid_events.recorder.spool import Spool
from lucid_events.recorder.waiting import Signal, wait_by

Step = Literal["blocking", "spooling", "flowing"]
_LOOK_S = 0.25
"""Between looks at how long capture has stood still, while the queue is full."""
_SPOOL_BLOCK_BYTES = 1024 * 1024
"""Small blocks are written together, so a chatty source does not cost a frame per line."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A chunk ends here; without a reason it goes on, but what was put before must not wait to be sent."""

    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Missing:
    """The bytes from `start` to `end` were dropped."""

    start: int
    end: int


Held = Callable[[], Iterable[tuple[int, bytes | memoryview | Missing]]]


class Intake:
    """One session's bytes from `start` on; one task puts, one takes.

    Args:
        start: offset of the next byte taken; `end` of the next byte put. They differ when the
            spool holds what an earlier recorder could not send.
        stalled_s: how long capture has not moved, 0 when it moves.
        held: (offset, bytes or gap) of everything taken and not yet acknowledged or declared, in order.
        arrived: called when there is something to take.
        on_step: called when the way of coping with pressure changes.
    """

    def __init__(
        self,
        *,
        start: int,
        end: int,
        options: RecorderOptions,
        clock: Clock,
        spool: Spool | None,
        stalled_s: Callable[[], float],
        held: Held,
        arrived: Callable[[], None],
        on_step: Callable[[Step, str], None],
    ) -> None:
        self.position, self.end = start, end
        self._options, self._clock, self._spool = options, clock, spool
        self._stalled_s, self._held, self._arrived, self._on_step = stalled_s, held, arrived, on_step
        self._memory: deque[tuple[int, bytes]] = deque()
        self._memory_bytes = 0
        self._marks: deque[tuple[int, Mark]] = deque()
        self._gaps: deque[Missing] = deque()
        self._spilled = end > start
        self._room, self._written = asyncio.Event(), Signal()
        self._step: Step = "spooling" if self._spilled else "flowing"
        self.dropped_bytes = 0
        self.in_hand = b""

    @property
    def step(self) -> Step:
        """How pressure is coped with now."""
        return self._step

    async def put(self, block: bytes) -> None:
        """Take `block` in; returns when all of it is held, in memory or on disk, or given up as a gap."""
        # Cancelled, the rest stays in hand for `save`: a pipe can't be asked for it again.
        self.in_hand, since = block, self._clock.now()
        while not await self._take_in():
            waited_s = (self._clock.now() - since).total_seconds()
            if self._drops(waited_s):
                self._drop()
                return
            if waited_s >= self._options.slow_after_s and self._step != "blocking":
                why = "the spool has no room" if self._spilled else "capture takes less than the source gives"
                self._enter("blocking", why)
            self._room.clear()
            await wait_by(self._clock, self._room, _LOOK_S)

    async def _take_in(self) -> bool:
        """Hold what is in hand, or as much of it as the spool has room for; True when nothing is left."""
        spool = self._spool
        if spool and not self._spilled and not self._fits(self.in_hand):
            await self._spill(spool)
        if spool and self._spilled:
            await self._append(spool)
        elif self._fits(self.in_hand):
            if spool and spool.always:
                await self._copy(spool)
            self._hold()
        return not self.in_hand

    async def keep_synced(self) -> None:
        """Bring what was spooled to the disk in time, although nothing more may come behind it; for ever."""
        while (spool := self._spool) is not None:
            due_s = spool.sync_due_s
            if due_s is None:
                await self._written.until(lambda: spool.sync_due_s is not None)
            elif due_s > 0:
                await self._clock.sleep(due_s)
            else:
                await asyncio.to_thread(spool.sync)
        await asyncio.Event().wait()

    def mark(self, reason: Reason | None) -> None:
        """End a chunk behind everything put so far; without a reason, only send it without delay."""
        self._marks.append((self.end, Mark(reason)))
        self._arrived()

    async def take(self) -> bytes | Mark | Missing | None:
        """Return what comes next, None when nothing is there yet."""
        if self._marks and self._marks[0][0] == self.position:
            return self._marks.popleft()[1]
        if self._gaps and self._gaps[0].start == self.position:
            gap = self._gaps.popleft()
            self.position = gap.end
            self._caught_up()
            return gap
        if self._memory and self._memory[0][0] == self.position:
            _, block = self._memory.popleft()
            self._memory_bytes -= len(block)
            self._taken(len(block))
            return block
        if not self._spilled or self._spool is None:
            return None
        frame = await asyncio.to_thread(self._spool.read, self.position)
        if frame.data is None:
            self.position = frame.end
            self._caught_up()
            return Missing(frame.offset, frame.end)
        data = frame.data
        if self._marks and self._marks[0][0] < frame.end:
            data = data[: self._marks[0][0] - frame.offset]
        self._taken(len(data))
        return data

    @property
    def read_upto(self) -> int:
        """Offset behind the last byte the source gave, put or still in hand."""
        return self.end + len(self.in_hand)

    def save(self) -> int:
        """Bring all that is not acknowledged to the disk, at once; return the offset below which it is kept.

        That is `read_upto` when all of it is; without a spool nothing is kept.
        """
        spool = self._spool
        unacked = next((offset for offset, _ in self._held()), self.position)
        if spool is None:
            return unacked
        kept = self.read_upto
        for offset, item in self._unsaved(spool, (self.end, self.in_hand)):
            if not _append(spool, offset, item):
                kept = max(offset, spool.end)
                break
        return kept if spool.sync() else unacked

    def release(self, upto: int) -> None:
        """Forget local copies of bytes below `upto`, which are stored and verified."""
        if self._spool:
            self._spool.release(upto)
        self._room.set()

    def _fits(self, block: bytes) -> bool:
        if self._spilled:
            return False
        return not self._memory or self._memory_bytes + len(block) <= self._options.read_ahead_bytes

    def _hold(self) -> None:
        if self._step == "blocking":
            self._enter("flowing", "there is room again")
        block, self.in_hand = self.in_hand, b""
        self._memory.append((self.end, block))
        self._memory_bytes += len(block)
        self.end += len(block)
        self._arrived()

    async def _append(self, spool: Spool) -> None:
        """Append what is in hand to the spool; what it has no room for stays in hand."""
        gap = self._gaps[-1] if self._gaps else None
        if gap and gap.end == self.end and gap.start <= spool.end < gap.end:
            await asyncio.to_thread(spool.append_gap, spool.end, gap.end)
        await asyncio.to_thread(spool.append, self.end, self.in_hand)
        self._written.notify()
        if not self._spilled:
            # Meanwhile everything before it was taken: the reading side looks into memory again.
            self._hold()
        elif (taken := spool.end - self.end) > 0:
            if self._step == "blocking":
                self._enter("spooling", "the spool has room again")
            self.end, self.in_hand = self.end + taken, self.in_hand[taken:]
            self._arrived()

    async def _copy(self, spool: Spool) -> None:
        """Append what is in hand to a spool that is a precaution; without room it is in memory alone."""
        # What had no room before comes first: behind a hole nothing can be read.
        if spool.end == self.end or await self._copy_unsaved(spool):
            await asyncio.to_thread(spool.append, self.end, self.in_hand)
            self._written.notify()

    async def _spill(self, spool: Spool) -> None:
        """Go on on disk, when capture has stood still for long enough and the disk has room.

        Everything unacknowledged is copied there first, so that a killed recorder loses none of it.
        """
        if self._stalled_s() >= self._options.spool_after_s and await self._copy_unsaved(spool):
            self._spilled = True
            self._enter("spooling", "capture has not moved")

    async def _copy_unsaved(self, spool: Spool) -> bool:
        """Append everything unacknowledged that is not on disk; False when there is no room for all of it."""
        for offset, item in self._unsaved(spool):
            held = await asyncio.to_thread(_append, spool, offset, item)
            self._written.notify()
            if not held:
                return False
        return True

    def _unsaved(self, spool: Spool, *last: tuple[int, bytes]) -> Iterable[tuple[int, bytes | Missing]]:
        """Yield what is not on disk by offset, gaps too: behind a hole a spool can't be read."""
        parts: list[bytes | memoryview] = []
        begin = size = 0
        gaps = ((gap.start, gap) for gap in self._gaps)
        waiting: Iterable[tuple[int, bytes | Missing]] = merge(self._memory, gaps, key=lambda one: one[0])
        for offset, block in [*self._held(), *waiting, *last]:
            if isinstance(block, Missing):
                if parts:
                    yield begin, b"".join(parts)
                    parts, size = [], 0
                # It may have grown since it was written down.
                start = max(block.start, spool.end)
                if start < block.end:
                    yield start, Missing(start, block.end)
                continue
            skip = max(0, spool.end - offset)
            data = memoryview(block)[skip:]
            if not data:
                continue
            if parts and (begin + size != offset + skip or size + len(data) > _SPOOL_BLOCK_BYTES):
                yield begin, b"".join(parts)
                parts, size = [], 0
            if not parts:
                begin = offset + skip
            parts.append(data)
            size += len(data)
        if parts:
            yield begin, b"".join(parts)

    def _taken(self, size: int) -> None:
        self.position += size
        self._room.set()
        self._caught_up()

    def _caught_up(self) -> None:
        if self._spilled and self.position == self.end:
            self._spilled = False
            self._enter("flowing", "the spool has been sent")

    def _drops(self, waited_s: float) -> bool:
        limit_s = self._options.gap_after_s
        dropping = bool(self._gaps) and self._gaps[-1].end == self.end
        return limit_s is not None and (dropping or waited_s >= limit_s)

    def _drop(self) -> None:
        size, self.in_hand = len(self.in_hand), b""
        self.dropped_bytes += size
        if self._gaps and self._gaps[-1].end == self.end:
            self._gaps[-1] = Missing(self._gaps[-1].start, self.end + size)
        else:
            self._gaps.append(Missing(self.end, self.end + size))
        self.end += size

    def _enter(self, step: Step, reason: str) -> None:
        if step != self._step:
            self._step = step
            self._on_step(step, reason)


def _append(spool: Spool, offset: int, item: bytes | Missing) -> bool:
    if isinstance(item, Missing):
        return spool.append_gap(item.start, item.end)
    return spool.append(offset, item)
