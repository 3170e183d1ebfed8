"""Raw bytes on their way into chunks, in memory."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from lucid_events.domain.ids import SESSION_ID, SessionId
from lucid_events.errors import AppendUncertain, ContractError, Fenced, StoreFull, VersionConflict
from lucid_events.memory.faults import Outcome
from lucid_events.memory.server import MemoryServer
from lucid_events.memory.stream import Guard, MemoryStream, Outgoing, StoredMessage
from lucid_events.ports import CaptureAck, CapturePiece, HeldChunk
from lucid_events.subjects import FENCES, ballast_part_bytes

OFFSET, LENGTH, SHA256 = "Lucid-Offset", "Lucid-Length", "Lucid-Sha256"


class MemoryCaptureStore:
    """Capture bytes of every session in one stream, which refuses more when it is full."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._subjects = server.subjects
        self._rounds = itertools.count()

    @property
    def _stream(self) -> MemoryStream:
        return self._server.stream(self._subjects.capture_stream)

    @property
    def max_piece_bytes(self) -> int:
        """Largest `data` of one message: three quarters of what the server takes."""
        return self._server.max_payload * 3 // 4

    async def publish(
        self, session: SessionId, *, epoch: int, n: int, offset: int, data: bytes | memoryview, sha256: str
    ) -> CaptureAck:
        """Store one piece, unless its epoch is fenced; see `CaptureStore.publish`."""
        if len(data) > self.max_piece_bytes:
            raise ContractError(
                f"a capture piece has {len(data)} bytes, at most {self.max_piece_bytes} are taken",
                field="data",
            )
        outcome = await self._server.faults.reach("capture")
        if outcome is Outcome.REQUEST_LOST:
            raise self._unanswered(session, offset)
        headers = {OFFSET: str(offset), LENGTH: str(len(data)), SHA256: sha256}
        guard = Guard(self._subjects.fence(session, epoch, next(self._rounds)), 0)
        try:
            stored = self._stream.publish(
                [Outgoing(self._subjects.capture(session, epoch, n), data, headers, guard)]
            )
        except VersionConflict as exc:
            raise Fenced(
                f"epoch {epoch} of {session} was closed: stop writing, its successor goes on",
                session=session,
                epoch=epoch,
            ) from exc
        if outcome is Outcome.REPLY_LOST:
            raise self._unanswered(session, offset)
        return CaptureAck(stored.sequence)

    async def fence(self, session: SessionId, *, epoch: int) -> None:
        """Close `epoch` for good; repeating is harmless."""
        gave_up = False
        for k in range(FENCES):
            await self._server.faults.reach("fence")
            subject = self._subjects.fence(session, epoch, k)
            while self._stream.last(subject) is None:
                try:
                    self._stream.publish([Outgoing(subject, b"")])
                except StoreFull:
                    if not self._give_up():
                        raise
                    gave_up = True
        if gave_up:
            self._keep()

    async def reserve(self) -> bool:
        """Keep room for fences, as far as there is any; returns whether all of it is kept."""
        return self._keep()

    def _keep(self) -> bool:
        limit = self._stream.max_bytes
        if limit is None:
            return True  # never full
        try:
            for subject in self._subjects.ballast:
                if self._stream.last(subject) is None:
                    self._stream.publish([Outgoing(subject, bytes(ballast_part_bytes(limit)))])
        except StoreFull:
            return False
        return True

    def _give_up(self) -> bool:
        return self._stream.remove(self._stream.select([self._subjects.all_ballast])[:1]) == 1

    async def tail(self, session: SessionId, sequence: int) -> CapturePiece | None:
        """Return the piece at `sequence`, None when it is gone or not this session's."""
        await self._server.faults.reach("read")
        message = self._stream.get(sequence)
        if message is None or sequence not in self._stream.select([self._subjects.captured(session)]):
            return None
        return _piece(message)

    async def last_time(self, session: SessionId, *, epoch: int) -> datetime | None:
        """Return when the epoch's newest piece was stored, None when there is none."""
        await self._server.faults.reach("read")
        last = self._stream.last(self._subjects.captured_chunks(session, epoch))
        return None if last is None else last.stored_at

    async def read(
        self,
        session: SessionId,
        *,
        epoch: int,
        n: int | None = None,
        first_seq: int = 1,
        last_seq: int | None = None,
    ) -> AsyncIterator[CapturePiece]:
        """Yield the pieces of one chunk (or of the whole epoch) in stream order, duplicates included.

        What is no piece (its headers do not fit) is left out.
        """
        await self._server.faults.reach("read")
        for sequence in self._stream.select(
            [self._filter(session, epoch, n)], after=first_seq - 1, upto=last_seq
        ):
            message = self._stream.get(sequence)
            if message is not None and (piece := _piece(message)) is not None:
                yield piece

    async def count(self, session: SessionId, *, epoch: int, n: int) -> int:
        """Return how many pieces of that chunk there are."""
        await self._server.faults.reach("read")
        return len(self._stream.select([self._filter(session, epoch, n)]))

    async def chunks(self, session: SessionId, *, epoch: int) -> Mapping[int, int]:
        """Return how many pieces there are of each chunk of the epoch."""
        await self._server.faults.reach("read")
        pieces = self._stream.messages(self._subjects.captured_chunks(session, epoch))
        return Counter(int(piece.subject.rpartition(".")[2]) for piece in pieces)

    async def held(self, session: SessionId | None = None) -> AsyncIterator[HeldChunk]:
        """Yield what there is of every chunk, of one session or of all; fences are no chunks."""
        await self._server.faults.reach("read")
        every = self._subjects.all_captured if session is None else self._subjects.captured(session)
        for subject, count in Counter(piece.subject for piece in self._stream.messages(every)).items():
            _, _, owner, epoch, n = subject.split(".")
            if epoch.isdecimal() and n.isdecimal() and SESSION_ID.fullmatch(owner):
                yield HeldChunk(SessionId(owner), int(epoch), int(n), count)

    async def purge(self, session: SessionId, *, epoch: int, n: int, upto_seq: int) -> int:
        """Delete the chunk's pieces up to and including sequence `upto_seq`; returns how many."""
        await self._server.faults.reach("capture")
        purged = self._stream.remove(self._stream.select([self._filter(session, epoch, n)], upto=upto_seq))
        self._keep()
        return purged

    async def erase(self, session: SessionId) -> int:
        """Delete all bytes of the session; fences stay. Returns how many pieces went."""
        await self._server.faults.reach("capture")
        erased = self._stream.remove(self._stream.select([self._subjects.captured(session)]))
        self._keep()
        return erased

    def _filter(self, session: SessionId, epoch: int, n: int | None) -> str:
        if n is None:
            return self._subjects.captured_chunks(session, epoch)
        return self._subjects.capture(session, epoch, n)

    def _unanswered(self, session: SessionId, offset: int) -> AppendUncertain:
        return AppendUncertain(
            f"no reply to the piece at {offset} of {session}: send it again", session=session
        )


def _piece(message: StoredMessage) -> CapturePiece | None:
    """Return the piece in a stored message, None when it is none: any recorder may write there."""
    *_, epoch, n = message.subject.split(".")
    headers = message.headers
    try:
        piece = CapturePiece(
            epoch=int(epoch),
            n=int(n),
            offset=int(headers[OFFSET]),
            data=message.data,
            sha256=headers[SHA256],
            sequence=message.sequence,
            stored_at=message.stored_at,
        )
        whole = int(headers[LENGTH]) == len(message.data) and piece.offset >= 0
    except (KeyError, ValueError):
        return None
    return piece if whole else None
