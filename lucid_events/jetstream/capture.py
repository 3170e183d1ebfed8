"""Raw bytes on a JetStream stream: published under a fence, read in bulk, purged up to a sequence.

    lucid.cap.<sid>.<epoch>.<n>         pieces: Lucid-Offset, Lucid-Length, Lucid-Sha256 and the bytes
    lucid.cap.<sid>.<epoch>.fence.<k>   empty while the epoch is open; sixteen, see `subjects.FENCES`
    lucid.cap.~.ballast.<k>             room kept for fences, see `ballast.py`

A piece is stored only if the fence it names is empty, which the server checks together with the
write: after `fence` returned, no byte of that epoch can appear any more.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

from lucid_events.domain.ids import SESSION_ID, SessionId
from lucid_events.errors import (
    AppendUncertain,
    ContractError,
    Fenced,
    LucidError,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.jetstream.append import EXPECTED, EXPECTED_SUBJECT
from lucid_events.jetstream.ballast import Ballast
from lucid_events.jetstream.connection import Connection, StoredMessage
from lucid_events.jetstream.pages import pages
from lucid_events.ports import CaptureAck, CapturePiece, HeldChunk
from lucid_events.subjects import FENCES, Subjects

log = logging.getLogger(__name__)

OFFSET, LENGTH, SHA256 = "Lucid-Offset", "Lucid-Length", "Lucid-Sha256"

PUBLISH_TIMEOUT_S: Final = 10.0
"""Bound of one piece: a leader election takes 5 s; a recorder notices a dead server by its beats."""
FENCE_TIMEOUT_S: Final = 30.0
"""Bound of all sixteen fences: what waits for them has lost its recorder already."""
DELETE_TIMEOUT_S: Final = 30.0
"""Bound of a purge: tens of seconds when a session's bytes stand in thousands of blocks."""
PAUSE_FIRST_S: Final = 0.02
PAUSE_MAX_S: Final = 1.0
PAGE_BYTES: Final = 12 * 1024 * 1024
"""A chunk of the usual size in one page: its reader holds all of it anyway, and at a third it waited for
three answers, each behind everything else on the connection (28 instead of 55 ms beside a recorder)."""


class _Lane:
    """The pieces of one epoch on their way: as many as there are fences, each checking another one.

    On a replicated stream two pieces in flight must not check the same fence: the second would be
    refused, sent again, and stored behind its successors.
    """

    __slots__ = ("room", "rounds", "users")

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(FENCES)
        self.rounds = itertools.count()
        self.users = 0


class JetStreamCaptureStore:
    """The capture stream of one prefix; implements `CaptureStore`."""

    def __init__(
        self, connection: Connection, subjects: Subjects, *, publish_timeout_s: float = PUBLISH_TIMEOUT_S
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._stream = subjects.capture_stream
        self._publish_timeout_s = publish_timeout_s
        self._lanes: dict[tuple[SessionId, int], _Lane] = {}
        self._ballast = Ballast(connection, subjects)

    @property
    def max_piece_bytes(self) -> int:
        """Largest `data` of one message: three quarters of what the server takes."""
        return self._connection.max_payload * 3 // 4

    async def publish(
        self, session: SessionId, *, epoch: int, n: int, offset: int, data: bytes | memoryview, sha256: str
    ) -> CaptureAck:
        """Store one piece, unless its epoch is fenced; see `CaptureStore.publish`."""
        if len(data) > self.max_piece_bytes:
            raise ContractError(
                f"a capture piece has {len(data)} bytes, at most {self.max_piece_bytes} are taken",
                field="data",
            )
        headers = {OFFSET: str(offset), LENGTH: str(len(data)), SHA256: sha256, EXPECTED: "0"}
        lane = self._lanes.setdefault((session, epoch), _Lane())
        lane.users += 1
        try:
            async with lane.room:
                return await self._publish(lane, session, epoch, n, data, headers)
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[session, epoch]

    async def _publish(
        self,
        lane: "_Lane",
        session: SessionId,
        epoch: int,
        n: int,
        data: bytes | memoryview,
        headers: dict[str, str],
    ) -> CaptureAck:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._publish_timeout_s
        subject = self._subjects.capture(session, epoch, n)
        pause = PAUSE_FIRST_S
        while True:
            fence = self._subjects.fence(session, epoch, next(lane.rounds))
            try:
                ack = await self._connection.publish_acked(
                    subject,
                    data,
                    headers={**headers, EXPECTED_SUBJECT: fence},
                    timeout_s=max(deadline - loop.time(), 0.001),
                )
                return CaptureAck(ack.sequence)
            except VersionConflict as exc:
                # Asked by its exact subject: the one read a recorder has a right to. A replica that lags
                # answers "not there", then the next attempt meets the fence again.
                if await self._connection.direct_last(self._stream, fence) is not None:
                    raise Fenced(
                        f"epoch {epoch} of {session} was closed: stop writing, its successor goes on",
                        session=session,
                        epoch=epoch,
                    ) from exc
                # Replicated stream: another process's piece that checks the same fence is in flight.
                if loop.time() + pause >= deadline:
                    raise StoreUnavailable(
                        f"the piece at {headers[OFFSET]} of {session} met other writers for "
                        f"{self._publish_timeout_s:g} s: is there a second recorder?"
                    ) from exc
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, PAUSE_MAX_S)

    async def fence(self, session: SessionId, *, epoch: int) -> None:
        """Close `epoch` for good; see `CaptureStore.fence`.

        Raises:
            StoreFull, StoreUnavailable, AppendUncertain: not every fence is known to be stored after
                `FENCE_TIMEOUT_S`; the epoch may be closed already: fence again.
        """
        subjects = [self._subjects.fence(session, epoch, k) for k in range(FENCES)]
        given = self._ballast.given
        deadline = asyncio.get_running_loop().time() + FENCE_TIMEOUT_S
        outcomes = await asyncio.gather(
            *(self._fence(subject, deadline) for subject in subjects), return_exceptions=True
        )
        if self._ballast.given != given:
            await self._keep()  # somebody may have made room meanwhile
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def reserve(self) -> bool:
        """Keep room for fences, as far as there is any; see `CaptureStore.reserve`.

        Raises:
            StoreUnavailable, AppendUncertain: the server did not answer.
        """
        return await self._ballast.keep()

    async def _keep(self) -> None:
        """Keep room for fences again; what was asked for is done already, so nothing is raised."""
        try:
            await self._ballast.keep()
        except LucidError as exc:
            log.warning("no room kept for fences", extra={"reason": exc.message})

    async def _fence(self, subject: str, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        # Guarded by itself, so that repeating it leaves one message and not two.
        headers = {EXPECTED: "0", EXPECTED_SUBJECT: subject}
        pause = PAUSE_FIRST_S
        while True:
            problem: LucidError
            left = max(deadline - loop.time(), 0.001)
            given = self._ballast.given
            try:
                try:
                    await self._connection.publish_acked(subject, b"", headers=headers, timeout_s=left)
                except StoreFull:
                    if await self._ballast.give_up(given):
                        continue
                    raise
                return
            except VersionConflict as exc:
                if await self._connection.leader_get(self._stream, last_by_subj=subject) is not None:
                    return
                problem = exc
            except (StoreUnavailable, AppendUncertain) as exc:
                problem = exc
            if loop.time() + pause >= deadline:
                if isinstance(problem, VersionConflict):
                    raise AppendUncertain(f"the fence {subject} did not settle: fence again") from problem
                raise problem
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSE_MAX_S)

    async def tail(self, session: SessionId, sequence: int) -> CapturePiece | None:
        """Return the piece at `sequence`, None when the leader has none there or it is not this session's.

        Whoever has the piece may give it: what stands under a sequence never changes. The leader
        is asked only for what is not found, because it answers in base64: a third more bytes, and
        several times the work on both sides.
        """
        if sequence < 1:
            return None
        page = await self._connection.direct_get(self._stream, {"seq": sequence, "batch": 1})
        message = next((one for one in page if one.sequence == sequence), None)
        if message is None:
            message = await self._connection.leader_get(self._stream, seq=sequence)
        if message is None or message.subject.split(".")[2] != session:
            return None
        return _piece(message)

    async def last_time(self, session: SessionId, *, epoch: int) -> datetime | None:
        """Return when the epoch's newest piece was stored, None when there is none."""
        last = await self._connection.leader_get(
            self._stream, last_by_subj=self._subjects.captured_chunks(session, epoch)
        )
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
        """Yield the pieces of one chunk (or of the whole epoch) in stream order, in bulk.

        What is no piece (its headers do not fit) is left out and logged: the digest made at the
        source decides whether anything is missing.
        """
        subject = self._filter(session, epoch, n)
        known = last_seq
        if known is None:
            last = await self._connection.leader_get(self._stream, last_by_subj=subject)
            known = 0 if last is None else last.sequence
        if known < first_seq:
            return
        found = pages(
            self._connection,
            self._stream,
            subject,
            first=first_seq,
            last=last_seq,
            known=known,
            page_bytes=PAGE_BYTES,
        )
        async with aclosing(found):
            async for page in found:
                for message in page:
                    piece = _piece(message)
                    if piece is not None:
                        yield piece

    async def count(self, session: SessionId, *, epoch: int, n: int) -> int:
        """Return how many pieces of that chunk the leader holds."""
        subject = self._subjects.capture(session, epoch, n)
        info = await self._connection.api(f"STREAM.INFO.{self._stream}", {"subjects_filter": subject})
        return int((info["state"].get("subjects") or {}).get(subject, 0))

    async def chunks(self, session: SessionId, *, epoch: int) -> Mapping[int, int]:
        """Return how many pieces the leader holds of each chunk of the epoch: n -> pieces, none left out."""
        counts = self._counts(self._subjects.captured_chunks(session, epoch))
        return {one.n: one.pieces async for one in counts}

    async def held(self, session: SessionId | None = None) -> AsyncIterator[HeldChunk]:
        """Yield what the leader holds of every chunk, of one session or of all; fences are no chunks.

        What is purged while pages are read moves others to a page that was read already.
        """
        every = self._subjects.all_captured if session is None else self._subjects.captured(session)
        async for one in self._counts(every):
            yield one

    async def _counts(self, subjects: str) -> AsyncIterator[HeldChunk]:
        offset, total = 0, 1
        while offset < total:
            body = {"subjects_filter": subjects, "offset": offset}
            info = await self._connection.api(f"STREAM.INFO.{self._stream}", body)
            found = info["state"].get("subjects") or {}
            for subject, count in found.items():
                _, _, session, epoch, n = subject.split(".")
                if epoch.isdecimal() and n.isdecimal() and SESSION_ID.fullmatch(session):
                    yield HeldChunk(SessionId(session), int(epoch), int(n), int(count))
            # The server tells subjects in pages; only a page that is not the last says a total.
            offset, total = offset + len(found), int(info.get("total", 0)) if found else 0

    async def purge(self, session: SessionId, *, epoch: int, n: int, upto_seq: int) -> int:
        """Delete the chunk's pieces up to and including sequence `upto_seq`; returns how many.

        After a lost reply it is asked again, and then counts what was left.
        """
        if upto_seq < 1:
            return 0
        # The server keeps from `seq` on.
        purged = await self._purge({"filter": self._subjects.capture(session, epoch, n), "seq": upto_seq + 1})
        await self._keep()
        return purged

    async def erase(self, session: SessionId) -> int:
        """Delete all bytes of the session; fences stay. Returns how many pieces went."""
        erased = await self._purge({"filter": self._subjects.captured(session)})
        await self._keep()
        return erased

    async def _purge(self, body: Mapping[str, Any]) -> int:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DELETE_TIMEOUT_S
        pause = PAUSE_FIRST_S
        while True:
            left = max(deadline - loop.time(), 0.001)
            try:
                answer = await self._connection.api(f"STREAM.PURGE.{self._stream}", body, timeout_s=left)
                return int(answer.get("purged", 0))
            except StoreFull:
                raise
            except (StoreUnavailable, AppendUncertain) as exc:
                if loop.time() + pause >= deadline:
                    raise StoreUnavailable(
                        f"{body['filter']} could not be purged within {DELETE_TIMEOUT_S:g} s: try again"
                    ) from exc
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSE_MAX_S)

    def _filter(self, session: SessionId, epoch: int, n: int | None) -> str:
        if n is None:
            return self._subjects.captured_chunks(session, epoch)
        return self._subjects.capture(session, epoch, n)


def _piece(message: StoredMessage) -> CapturePiece | None:
    """Return the piece in a stored message, None when it is none: any recorder may write there."""
    tokens = message.subject.split(".")
    headers = message.headers
    try:
        piece = CapturePiece(
            epoch=int(tokens[3]),
            n=int(tokens[4]),
            offset=int(headers[OFFSET]),
            data=message.data,
            sha256=headers[SHA256],
            sequence=message.sequence,
            stored_at=message.stored_at,
        )
        whole = len(tokens) == 5 and int(headers[LENGTH]) == len(message.data) and piece.offset >= 0
    except (KeyError, ValueError, IndexError):
        whole = False
        piece = None
    if piece is None or not whole:
        if "fence" not in tokens:
            log.warning(
                "not a capture piece", extra={"subject": message.subject, "sequence": message.sequence}
            )
        return None
    return piece
