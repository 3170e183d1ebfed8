"""What a recorder that is gone has left in capture: read, proven where that is possible, cut.

The order is everything: the epoch is fenced first, so nothing can be acked behind the reader.
Memory holds one chunk at a time.

    capture of n   |--piece--|--piece--|   hole   |--piece--|xx damaged xx|
    leftovers      |=====================|          |=======|
    unproven                                                 |============|
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence

import msgspec

from lucid_events.domain.chunks import contiguous
from lucid_events.domain.ids import SessionId
from lucid_events.domain.outside import Leftover, Salvage, Unproven
from lucid_events.domain.state import Session
from lucid_events.errors import AppendUncertain, StoreUnavailable
from lucid_events.ports import CapturePiece, CaptureStore, Clock

FENCE_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses between attempts at a fence: 8 s in all, longer than a cluster's election of a leader
(5 s). Half would fail commands during one, twice outlasts the client's patience."""

READ_PAUSES_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Pauses between attempts at reading all pieces the leader counts: a replica may lag."""

MAX_LEFTOVERS = 400
"""Most runs sealed at once: with a gap each they are 800 events of the 1000 one append takes."""

_DISAGREES = "captured bytes differ from the digest their recorder gave them"
_TOO_LONG = "captured bytes lie beyond the end of their chunk"
_TOO_MANY = "captured bytes lie in too many fragments to be sealed"

_log = logging.getLogger(__name__)


class _Chunk(msgspec.Struct, frozen=True):
    """What one chunk's capture came to."""

    leftovers: list[Leftover]
    unproven: list[Unproven]


class Salvager:
    """Reads what fenced epochs left behind."""

    def __init__(self, capture: CaptureStore, clock: Clock) -> None:
        self._capture, self._clock = capture, clock

    async def salvage(self, session: Session, epoch: int) -> Salvage:
        """Fence `epoch` for good, then return what it left behind the session's sealed bytes.

        Raises:
            StoreUnavailable: the fences could not be stored, or not all pieces be read; repeat it.
        """
        await self._fence(session.id, epoch)
        leftovers: list[Leftover] = []
        unproven: list[Unproven] = []
        position, sealed_n = session.offset, _sealed_n(session, epoch)
        limit = session.settings.chunk_bytes
        held = await self._capture.chunks(session.id, epoch=epoch)
        for n in sorted(n for n in held if n > sealed_n):
            intake = await self._read(session.id, epoch, n, position, limit)
            # Hashing a chunk takes tens of milliseconds: other sessions go on meanwhile.
            chunk = await asyncio.to_thread(_examine, intake, position, n)
            leftovers += chunk.leftovers
            unproven += chunk.unproven
            position = max([position, *(left.offset + left.size for left in chunk.leftovers)])
        for left in leftovers[MAX_LEFTOVERS:]:
            unproven.append(Unproven(start=left.offset, end=left.offset + left.size, reason=_TOO_MANY))
        for span in unproven:
            _log.error(
                "captured bytes are left out of salvage: look at the capture stream",
                extra={
                    "session": session.id,
                    "epoch": epoch,
                    "offset": span.start,
                    "bytes": span.end - span.start,
                    "reason": span.reason,
                },
            )
        unproven.sort(key=lambda span: span.start)
        return Salvage(epoch=epoch, leftovers=tuple(leftovers[:MAX_LEFTOVERS]), unproven=tuple(unproven))

    async def _fence(self, session: SessionId, epoch: int) -> None:
        for pause_s in FENCE_PAUSES_S:
            try:
                await self._capture.fence(session, epoch=epoch)
            except (StoreUnavailable, AppendUncertain) as exc:
                _log.warning(
                    "fence not stored yet", extra={"session": session, "epoch": epoch, "reason": str(exc)}
                )
                await self._clock.sleep(pause_s)
            else:
                return
        try:
            await self._capture.fence(session, epoch=epoch)
        except AppendUncertain as exc:
            raise StoreUnavailable(
                f"epoch {epoch} of {session} could not be fenced: {exc.message}", session=session, epoch=epoch
            ) from exc

    async def _read(self, session: SessionId, epoch: int, n: int, position: int, limit: int) -> "_Intake":
        """Return the chunk's pieces, all that the leader counts."""
        seen: set[tuple[int, int]] = set()
        intake = _Intake(position, limit)
        for pause_s in READ_PAUSES_S:
            await self._clock.sleep(pause_s)
            expected = await self._capture.count(session, epoch=epoch, n=n)
            intake = _Intake(position, limit)
            async for piece in self._capture.read(session, epoch=epoch, n=n):
                intake.take(piece)
            if intake.seen >= expected:
                return intake
            seen.add((intake.seen, expected))
        if len(seen) > 1:
            raise StoreUnavailable(
                f"capture of {session}, epoch {epoch}, n={n} can't be read in full: a replica lags",
                session=session,
            )
        # Not a lag: messages that are no pieces, which anyone who may record can write. They must
        # not keep the session from ending.
        _log.error(
            "messages on a capture subject are no pieces",
            extra={"session": session, "epoch": epoch, "count": sum(e - s for s, e in seen)},
        )
        return intake


class _Intake:
    """The pieces of one chunk, exact duplicates left out, bounded by what one chunk may hold.

    A sound recorder never exceeds the bound; what lies further than `limit` bytes behind the
    first piece, or beyond twice the limit in bytes, is dropped, so that nobody fills the memory
    through one subject.
    """

    def __init__(self, position: int, limit: int) -> None:
        self.seen = self.first_seq = self.last_seq = 0
        self.dropped: list[Unproven] = []
        self._position, self._limit = position, limit
        self._first: int | None = None
        self._bytes = 0
        self._kept: dict[tuple[int, int, str], CapturePiece] = {}

    @property
    def pieces(self) -> list[CapturePiece]:
        return list(self._kept.values())

    def take(self, piece: CapturePiece) -> None:
        self.seen += 1
        self.first_seq = min(self.first_seq or piece.sequence, piece.sequence)
        self.last_seq = max(self.last_seq, piece.sequence)
        key = (piece.offset, len(piece.data), piece.sha256)
        if _end(piece) <= self._position or key in self._kept:
            return
        self._kept[key] = piece
        self._bytes += len(piece.data)
        begin = max(self._position, piece.offset)
        if self._first is None or begin < self._first:
            self._first = begin
            suspects = list(self._kept)
        else:
            suspects = [key]
        for key in suspects:
            if key[0] + key[1] > self._first + self._limit or self._bytes > 2 * self._limit:
                gone = self._kept.pop(key)
                self._bytes -= len(gone.data)
                self.dropped.append(Unproven(start=gone.offset, end=_end(gone), reason=_TOO_LONG))


def _examine(intake: _Intake, position: int, n: int) -> _Chunk:
    """Cut a chunk's pieces at holes; prove each run that begins where the chunk does."""
    leftovers: list[Leftover] = []
    unproven = intake.dropped
    before = position
    for run in contiguous(intake.pieces, position):
        start = max(run[0].offset, position)
        # Bytes that follow the sealed ones without a hole begin a chunk: one was cut right there.
        proven, sha256 = _prove(run, start, begins=run[0].offset == before)
        if proven:
            leftovers.append(_leftover(n, start, sha256, run[:proven]))
        if proven < len(run):
            begin = max(run[proven].offset, start)
            unproven.append(Unproven(start=begin, end=_end(run[-1]), reason=_DISAGREES))
        position = _end(run[-1])
    return _Chunk(_ranged(leftovers, intake, keep_rest=bool(unproven)), unproven)


def _prove(run: Sequence[CapturePiece], start: int, *, begins: bool) -> tuple[int, str]:
    """Return how many pieces of `run` may be sealed, and the digest of their bytes.

    The running digest a piece carries covers the chunk from its beginning, so only a run that
    begins there can be proven: up to the last piece whose digest agrees. Of any other run nothing
    can be said, and all of it is sealed.
    """
    whole = run[0].offset >= start
    provable = whole and (begins or hashlib.sha256(run[0].data).hexdigest() == run[0].sha256)
    running, end = hashlib.sha256(), start
    agreed, sha256 = 0, ""
    for count, piece in enumerate(run, 1):
        running.update(memoryview(piece.data)[end - piece.offset :])
        end = _end(piece)
        digest = running.hexdigest()
        if not provable or digest == piece.sha256:
            agreed, sha256 = count, digest
    return agreed, sha256


def _leftover(n: int, start: int, sha256: str, run: Sequence[CapturePiece]) -> Leftover:
    return Leftover(
        n=n,
        offset=start,
        size=_end(run[-1]) - start,
        sha256=sha256,
        first_seq=min(piece.sequence for piece in run),
        last_seq=max(piece.sequence for piece in run),
        started_at=min(piece.stored_at for piece in run),
        ended_at=max(piece.stored_at for piece in run),
    )


def _ranged(leftovers: list[Leftover], intake: _Intake, *, keep_rest: bool) -> list[Leftover]:
    """Give the leftovers of one subject one range of sequences: all of it, or theirs (`keep_rest`).

    A purge goes up to a sequence. With ranges of their own, the purge of one run would delete
    pieces of another that were stored earlier; sharing a range, `purge_bound` lets only the last
    of them purge. It takes the duplicates with it, but leaves what is unproven to be looked at.
    """
    if not leftovers:
        return []
    first, last = intake.first_seq, intake.last_seq
    if keep_rest:
        first = min(left.first_seq for left in leftovers)
        last = max(left.last_seq for left in leftovers)
    return [msgspec.structs.replace(left, first_seq=first, last_seq=last) for left in leftovers]


def _end(piece: CapturePiece) -> int:
    return piece.offset + len(piece.data)


def _sealed_n(session: Session, epoch: int) -> int:
    if session.lease is not None and session.lease.epoch == epoch:
        return session.lease.sealed_n
    last = session.last_seal
    return last.n if last is not None and last.epoch == epoch else -1
