"""Sends one epoch's bytes to capture: pipelined, in order, and again until every one is acknowledged.

    intake ──► cutter ──► hash ──► held ──► publish … ack ──► line of chunks, for the sealer

A piece is *held* until every byte before it is acknowledged too, so that nothing is forgotten
that may have to be sent again; `window_bytes` bounds what is held.

What was sent and not acknowledged may be in capture, and a recorder can't look. Where that is in the way
of making room the writer is *stuck*, and goes on as another epoch (`renew`), behind what is salvaged.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from heapq import merge

from lucid_events.domain.ids import SessionId
from lucid_events.errors import AppendUncertain, IntegrityError, LucidError, StoreFull, StoreUnavailable
from lucid_events.ports import CaptureStore, Clock
from lucid_events.recorder.cutter import Boundary, Cut, Cutter
from lucid_events.recorder.intake import Intake, Mark, Missing
from lucid_events.recorder.options import Acked, Checkpoint, RecorderOptions, ignore_acked, no_checkpoint
from lucid_events.recorder.pieces import Chunk, Left, Piece, holed, left_below
from lucid_events.recorder.waiting import Signal, wait_by

__all__ = ["CaptureWriter", "Chunk", "Piece"]


class CaptureWriter:
    """Writes `session` as `epoch` from `offset` on; `run` does it, everything else is to look at.

    Args:
        resumable: the source has its bytes still, so that nothing stored behind a hole is salvaged.
        awaited: whether chunks sealed before are on their way to be stored, which makes room.

    Attributes:
        line: chunks and gaps in order, the oldest first; the sealer takes complete ones off.
        acked_upto: every byte below it is stored.
        refusal: why the last piece was not stored; None once one is again.
        stuck: it sends nothing, and the sealer has nothing, until `renew` or `go_on` is called.

    `moved` is notified whenever one of these changes.
    """

    def __init__(
        self,
        capture: CaptureStore,
        clock: Clock,
        session: SessionId,
        *,
        epoch: int,
        offset: int,
        cutter: Cutter,
        options: RecorderOptions,
        moved: Signal,
        resumable: bool = False,
        awaited: Callable[[], object] = bool,
        on_acked: Acked = ignore_acked,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self._capture, self._clock, self._session, self._epoch = capture, clock, session, epoch
        self._resumable, self._awaited = resumable, awaited
        self._cutter, self._options, self._on_acked, self._checkpoint = cutter, options, on_acked, checkpoint
        self.acked_upto = offset
        self.line: deque[Chunk | Missing] = deque()
        self._moved = moved
        self.held_bytes = 0
        self._held: dict[int, Piece] = {}  # by offset, in order
        self._again: deque[Piece] = deque()
        self._chunk: Chunk | None = None
        self._leaving: Missing | None = None  # a gap between the intake and the line
        self._last_acked: Piece | None = None
        self._flights: set[asyncio.Task[None]] = set()
        self._wake, self._freed = asyncio.Event(), asyncio.Event()
        self.stuck = False
        self._trouble: LucidError | None = None
        self.refusal: LucidError | None = None
        self._full_since: datetime | None = None
        self._fatal: BaseException | None = None
        self._pause_s = options.retry_first_s
        self._moved_at = clock.now()

    @property
    def ended_upto(self) -> int:
        """Every byte below it is in a chunk that has ended, so that a seal of it is on its way or done."""
        return self._cutter.chunk_offset

    @property
    def open_n(self) -> int:
        """Number, within the epoch, of the chunk that the next byte belongs to."""
        return self._cutter.n

    def wake(self) -> None:
        """Say that the intake has something."""
        self._wake.set()

    def stalled_s(self) -> float:
        """Return how long bytes have waited without any being acknowledged; 0 when none wait."""
        if not self._held and self._unsealed() < self._options.max_unsealed_chunks:
            return 0.0
        return (self._clock.now() - self._moved_at).total_seconds()

    def held(self) -> Iterator[tuple[int, bytes | memoryview | Missing]]:
        """Yield, by offset, the bytes taken from the intake and not acknowledged, the gaps not declared."""
        gaps = [item for item in self.line if isinstance(item, Missing)]
        if self._leaving:
            gaps.append(self._leaving)
        yield from merge(
            ((piece.offset, piece.data) for piece in self._held.values()),
            ((gap.start, gap) for gap in gaps),
            self._cutter.gathered(),
            key=lambda one: one[0],
        )

    async def run(self, intake: Intake) -> None:
        """Send what `intake` gives, for ever.

        Raises:
            Fenced: the epoch was closed.
        """
        try:
            while True:
                await self._step(intake)
        finally:
            for flight in self._flights:
                flight.cancel()
            await asyncio.gather(*self._flights, return_exceptions=True)

    async def _step(self, intake: Intake) -> None:
        self._wake.clear()
        if self._fatal is not None:
            raise self._fatal
        if self._trouble is not None:
            return await self._recover()
        if self._again:
            return self._launch(self._again.popleft())
        if (
            self.held_bytes >= self._options.window_bytes
            or self._unsealed() >= self._options.max_unsealed_chunks
        ):
            await self._wake.wait()
            return None
        cut = self._cutter.take()
        if cut is not None:
            return await self._cut(cut)
        item = await intake.take()
        match item:
            case None:
                if not await wait_by(self._clock, self._wake, self._cutter.due_in(self._clock.now())):
                    self._cutter.tick(self._clock.now())
            case Mark():
                if item.reason is None:
                    self._cutter.flush()
                else:
                    self._cutter.close(item.reason)
            case Missing():
                await self._leave_gap(item)
            case bytes():
                self._cutter.add(item, self._clock.now())
        return None

    def sealed(self) -> None:
        """Say that the sealer has taken something off the line."""
        self._moved_at = self._clock.now()
        self._wake.set()
        self._moved.notify()

    def _unsealed(self) -> int:
        return sum(1 for item in self.line if isinstance(item, Chunk) and item.end is not None)

    async def _cut(self, cut: Cut) -> None:
        chunk = self._chunk
        if chunk is None:
            chunk = self._chunk = Chunk(cut.n, cut.offset, cut.chunk_started_at, cut.ended_at)
            self.line.append(chunk)
        if cut.data:
            piece = Piece(chunk, cut.offset, cut.data)
            if not self._held:
                self._moved_at = self._clock.now()
            # Held before it is hashed: meanwhile it is nowhere else, and may have to be saved.
            self._held[cut.offset] = piece
            self.held_bytes += len(cut.data)
            piece.sha256 = await self._hash(chunk, cut.data)
            chunk.waiting += 1
            chunk.size += len(cut.data)
            chunk.ended_at, chunk.tail = cut.ended_at, piece
            # With trouble about, the piece stays held and goes in its turn.
            if self._trouble is None and self._fatal is None:
                self._launch(piece)
        if cut.end is not None:
            chunk.end, self._chunk = cut.end, None
            self._look_at(chunk)
            # All of it may have been acknowledged long ago: then nothing else wakes the sealer.
            self._moved.notify()

    async def _hash(self, chunk: Chunk, data: bytes | memoryview) -> str:
        if len(data) >= self._options.hash_off_loop_bytes:
            await asyncio.to_thread(chunk.digest.update, data)
        else:
            chunk.digest.update(data)
        chunk.sha256 = chunk.digest.hexdigest()
        return chunk.sha256

    async def _leave_gap(self, gap: Missing) -> None:
        self._leaving = gap
        self._cutter.close("pressure")
        while (cut := self._cutter.take()) is not None:
            await self._cut(cut)
        self._cutter.jump(gap.end)
        self.line.append(gap)
        self._leaving = None
        if not self._held:
            self._advance(gap.end)
        self._moved.notify()

    def _launch(self, piece: Piece) -> None:
        piece.flying = True
        # The first step of each task runs in the order the tasks were made: that is the order of sends.
        flight = asyncio.create_task(self._publish(piece), name=f"capture {piece.offset}")
        self._flights.add(flight)
        flight.add_done_callback(self._flights.discard)

    async def _publish(self, piece: Piece) -> None:
        try:
            ack = await self._capture.publish(
                self._session,
                epoch=self._epoch,
                n=piece.chunk.n,
                offset=piece.offset,
                data=piece.data,
                sha256=piece.sha256,
            )
            piece.flying = False
            await self._acked(piece, ack.sequence)
        except (StoreUnavailable, AppendUncertain) as exc:
            piece.flying, self.refusal = False, exc
            piece.maybe_stored |= isinstance(exc, AppendUncertain)
            # A full store is the answer that asks for something to be done; it wins over a lost reply.
            if self._trouble is None or isinstance(exc, StoreFull):
                self._trouble = exc
        except Exception as exc:  # noqa: BLE001 - handed to `run`, which raises it
            self._fatal = exc
        finally:
            self._wake.set()

    async def _acked(self, piece: Piece, sequence: int) -> None:
        chunk = piece.chunk
        if not piece.sequence:
            chunk.waiting -= 1
        piece.sequence = sequence
        chunk.first_seq = min(chunk.first_seq or sequence, sequence)
        chunk.last_seq = max(chunk.last_seq, sequence)
        self._moved_at = self._clock.now()
        self._full_since, self.refusal, self._pause_s = None, None, self._options.retry_first_s
        upto = self.acked_upto
        while self._held:
            first = next(iter(self._held.values()))
            if not first.sequence:
                break
            del self._held[first.offset]
            self._last_acked = first
            self.held_bytes -= len(first.data)
            upto = first.end
        if not self._held and self.line and isinstance(self.line[-1], Missing):
            upto = max(upto, self.line[-1].end)
        self._look_at(chunk)
        self._advance(upto)
        await self._checkpoint("capture.acked")

    def _advance(self, upto: int) -> None:
        if upto > self.acked_upto:
            self.acked_upto = upto
            self._on_acked(upto)
        self._moved.notify()

    def _look_at(self, chunk: Chunk) -> None:
        """Send the last piece of an ended, acknowledged chunk again when resent ones are behind it.

        The seal names the sequence of that piece as the end of the chunk's range in the stream.
        """
        tail = chunk.tail
        if chunk.end is None or chunk.waiting or tail is None:
            return
        if tail.sequence != chunk.last_seq and not tail.flying and tail not in self._again:
            self._again.append(tail)
        self._wake.set()

    async def _recover(self) -> None:
        """Wait for the answers still out, then send the holes again, the first of them alone."""
        if self._flights:
            await asyncio.wait(self._flights)
        if self._fatal is not None:
            raise self._fatal
        if isinstance(self._trouble, StoreFull):
            now = self._clock.now()
            self._full_since = self._full_since or now
            full_s = (now - self._full_since).total_seconds()
            if not self._relieve(full_s) and self._is_stuck(full_s):
                self.stuck = True
                self._freed.clear()
                self._moved.notify()
                await self._freed.wait()
        await self._clock.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(self._pause_s * 2, self._options.retry_most_s)
        self._trouble = None
        for item in self.line:
            if isinstance(item, Chunk):
                self._look_at(item)
        holes = [piece for piece in self._held.values() if not piece.sequence]
        for piece in holes:
            self._launch(piece)
            if piece is holes[0]:
                await asyncio.wait(self._flights)
            if self._in_trouble():
                return

    def _in_trouble(self) -> bool:
        return self._trouble is not None or self._fatal is not None

    def _relieve(self, full_s: float) -> bool:
        """End the current chunk where capture is full, so that storing it makes room; whether it was ended.

        Not while other chunks are on their way to be stored, unless that takes long. And only when
        no byte behind that end can be in capture: it would be there as part of two chunks.
        """
        rest, last = list(self._held.values()), self._last_acked
        if not rest or any(piece.maybe_there for piece in rest):
            return False
        chunk = rest[0].chunk
        if last is None or last.chunk is not chunk or last.sequence != chunk.last_seq:
            return False
        others = [item for item in self.line if item is not chunk]
        if any(isinstance(item, Missing) for item in others):
            return False
        behind = [item for item in others if isinstance(item, Chunk) and item.n > chunk.n]
        if len(behind) < len(others) and full_s < self._options.pressure_cut_after_s:
            return False
        self._restart(chunk.n + 1, self.acked_upto, rest, [chunk, *behind])
        for item in behind:
            self.line.remove(item)
        chunk.size, chunk.sha256, chunk.tail = self.acked_upto - chunk.offset, last.sha256, last
        chunk.end, chunk.waiting = "pressure", 0
        self._moved.notify()
        return True

    def _restart(self, n: int, offset: int, rest: Iterable[Piece], ended: Iterable[Chunk]) -> None:
        """Go back to `offset` and begin chunk `n` there; `rest` are the pieces behind, of chunks `ended`."""
        self._cutter.restart(
            n=n,
            offset=offset,
            blocks=[memoryview(piece.data)[max(0, offset - piece.offset) :] for piece in rest],
            boundaries=[Boundary(c.offset + c.size, c.end) for c in ended if c.end not in (None, "size")],
        )
        self._held.clear()
        self._chunk, self.held_bytes = None, 0

    def _is_stuck(self, full_s: float) -> bool:
        """Return whether bytes of ours may fill capture, and nothing we can do or wait for makes room.

        Not with a gap on its way. And not where bytes are known to be missing before others that may be
        in capture, unless the source is resumable: the hole would be declared a gap.
        """
        chunks, held = [item for item in self.line if isinstance(item, Chunk)], list(self._held.values())
        if full_s < self._options.pressure_cut_after_s or self._awaited() or len(chunks) < len(self.line):
            return False
        ours = any(chunk.first_seq for chunk in chunks) or any(piece.maybe_there for piece in held)
        return ours and not chunks[0].complete and (self._resumable or not holed(held))

    def go_on(self) -> None:
        """Try again as before; only where `stuck`."""
        self._full_since, self.stuck = None, False
        self._freed.set()

    def renew(self, epoch: int, offset: int) -> list[Left]:
        """Go on as `epoch` from `offset` on, where what was salvaged of the epoch before ends; where `stuck`.

        Returns what is below it of each chunk that was not sealed.

        Raises:
            IntegrityError: bytes that were acknowledged are behind it.
        """
        if offset < self.acked_upto:
            raise IntegrityError(
                f"session {self._session} goes on at {offset}, and bytes up to {self.acked_upto} were stored "
                "before: the server has lost some. Record on from there, if the source has them still",
                offset=offset,
                acked=self.acked_upto,
            )
        chunks, held = [item for item in self.line if isinstance(item, Chunk)], list(self._held.values())
        left = left_below(offset, chunks, [self._last_acked, *(chunk.tail for chunk in chunks), *held])
        self._restart(0, offset, [piece for piece in held if piece.end > offset], chunks)
        self.line.clear()
        self._again.clear()
        self._epoch, self._last_acked, self._trouble, self.refusal = epoch, None, None, None
        self._pause_s, self._moved_at = self._options.retry_first_s, self._clock.now()
        self.go_on()
        self._advance(offset)
        return left
