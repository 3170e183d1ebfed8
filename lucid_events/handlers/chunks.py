"""From sealed to ready: a chunk's bytes leave capture compressed, stored, verified and announced.

    ready already? ─ yes ──────────────────────────────────────────────┐
      │ no                                                             │
    read ─> assemble ─> SHA-256 ─> compress ─> put ─> confirm ─> append ─> purge ─> ack
                                                       │
                             another was first: verify its object, adopt its metadata

Stateless: a crash between any two steps repeats from the top and ends in the same state, because
the object's name and bytes are a function of the content, and `chunk.ready` is said once per index.
"""

import logging
import time
from typing import ClassVar

from lucid_events import codec
from lucid_events.compression import Compressor
from lucid_events.domain.chunks import assemble, purge_bound
from lucid_events.domain.commands import ChunkRefused, ChunkStored
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.events import ChunkSealed
from lucid_events.domain.ids import SessionId
from lucid_events.domain.state import Session, chunk_is_ready
from lucid_events.domain.transitions import ERASING, State
from lucid_events.domain.values import Quality
from lucid_events.errors import CommandRejected, ContractError, IntegrityError
from lucid_events.handlers.base import (
    Checkpoint,
    Decisions,
    Done,
    EventReaction,
    Issued,
    Message,
    Outcome,
    Park,
    Retry,
    Sessions,
    Skip,
    at_least,
    no_checkpoint,
    read_event,
)
from lucid_events.handlers.copies import ChunkCopies
from lucid_events.handlers.objects import ChunkObjects, StoredChunk
from lucid_events.handlers.stages import ChunkStages, measured
from lucid_events.ports import BlobStore, CapturePiece, CaptureStore
from lucid_events.subjects import object_name

_log = logging.getLogger(__name__)

SIBLING_PAUSE_S = 2.0
"""How long a purge waits for another chunk salvaged from the same capture subject."""

_NOT_OUR_BYTES = frozenset({"contract", "unknown_chunk", "seal_mismatch"})
"""Reasons to set a message aside that say nothing about the chunk's bytes."""


class ChunkHandler(EventReaction):
    """On `chunk.sealed`: store the chunk, say `chunk.ready`, make room in capture.

    Chunks are independent of each other: in any order, in parallel, bounded by bytes. A chunk
    that can't be stored is set aside with `chunk.failed` and blocks neither its neighbours nor
    its session's stop.

    Args:
        stages: the pools it works in, and who is told what the work took.
        copies: where every chunk is written to as well before it is ready.
        checkpoint: called after `chunk.read`, `chunk.compressed`, `chunk.put`, `chunk.confirmed`,
            `chunk.appended` and `chunk.purged`.
    """

    name: ClassVar[str] = "chunks"

    def __init__(
        self,
        sessions: Sessions,
        decisions: Decisions,
        capture: CaptureStore,
        blobs: BlobStore,
        compressor: Compressor,
        *,
        stages: ChunkStages | None = None,
        copies: ChunkCopies | None = None,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self._stages, self._copies = stages or ChunkStages(), copies
        self._sessions, self._decisions, self._capture = sessions, decisions, capture
        self._blobs, self._compressor, self._checkpoint = blobs, compressor, checkpoint
        self._objects = ChunkObjects(blobs, compressor, checkpoint)

    def lane(self, message: Message) -> str | None:
        """Let chunks of one session be stored beside each other."""
        return None

    def cost_bytes(self, message: Message) -> int:
        """Count the pieces and the chunk put together from them; compressing has its own budget."""
        try:
            return 2 * codec.decode(message.data, ChunkSealed).size
        except ContractError:
            return len(message.data)

    def on_park(self, message: Message, park: Park) -> tuple[Issued, ...]:
        """Say `chunk.failed`, which the rules ignore when the chunk is ready meanwhile."""
        if park.code in _NOT_OUR_BYTES:
            return ()
        recorded = read_event(message)
        if recorded is None or not isinstance(recorded.event, ChunkSealed):
            return ()
        command = ChunkRefused(index=recorded.event.index, code=park.code, reason=park.reason[:500])
        return (Issued.by(recorded, command),)

    async def react(self, recorded: Recorded) -> Outcome:
        """Bring the chunk from wherever it is to ready."""
        sealed = recorded.event
        if not isinstance(sealed, ChunkSealed):
            return Skip("not a sealed chunk")
        session = await at_least(self._sessions, recorded.session, recorded.sequence)
        if session.state in ERASING:
            return await self._erased(recorded.session, sealed)
        if is_ready(session, sealed):
            return self._purged_later(recorded, sealed)
        return await self._store(recorded, sealed, session)

    async def _store(self, recorded: Recorded, sealed: ChunkSealed, session: Session) -> Outcome:
        async with self._stages.reading.enter(sealed.size):
            began = time.perf_counter()
            pieces = await self._read(
                recorded.session, sealed, first_seq=sealed.first_seq, last_seq=sealed.last_seq
            )
            assembled = assemble(pieces, sealed.offset, sealed.size)
            pieces.clear()  # the chunk is a copy of them
            timings_ms = {"read": _since(began)}
        if assembled.missing:
            return await self._missing(recorded, sealed)
        await self._checkpoint("chunk.read")
        try:
            with measured(self._stages.measures, "compression", sealed.size) as work:
                compressed = await self._compressor.compress_chunk(
                    assembled.data,
                    session.settings.codec,
                    session.settings.level,
                    expect_sha256=sealed.sha256,
                )
                work.seconds = compressed.elapsed_ms / 1000
        except IntegrityError as exc:
            return await self._wrong(recorded, sealed, exc)
        timings_ms |= compressed.timings_ms
        await self._checkpoint("chunk.compressed")
        async with self._stages.storing.enter(compressed.stored_size):
            began = time.perf_counter()
            stored = await self._objects.put(recorded.session, sealed, compressed)
            timings_ms["put"] = _since(began)
            if self._copies is not None:
                await self._copies.write(recorded.session, sealed, compressed, quality_of(sealed))
        await self._checkpoint("chunk.confirmed")
        return await self._append(recorded, sealed, stored, timings_ms)

    async def _append(
        self, recorded: Recorded, sealed: ChunkSealed, stored: StoredChunk, timings_ms: dict[str, float]
    ) -> Outcome:
        began = time.perf_counter()
        try:
            await self._decisions.append_internal(
                recorded.session,
                ChunkStored(
                    index=sealed.index,
                    offset=sealed.offset,
                    size=sealed.size,
                    stored_size=stored.size,
                    sha256=sealed.sha256,
                    stored_sha256=stored.sha256,
                    codec=stored.codec,
                    level=stored.level,
                    ratio=round(sealed.size / stored.size, 4) if stored.size else 1.0,
                    quality=quality_of(sealed),
                    hash_by="salvage" if sealed.recovered else "recorder",
                    bucket=stored.bucket,
                    object=stored.name,
                    timings_ms={step: round(ms, 3) for step, ms in timings_ms.items()},
                ),
                cause=recorded.id,
                reaction=self.name,
                correlation=recorded.correlation,
                traceparent=recorded.traceparent,
            )
        except CommandRejected as exc:
            code = str(exc.fields.get("reason") or exc.code)
            if code == "erased":
                return await self._erased(recorded.session, sealed)
            return Park(code, exc.message)
        for step, ms in (timings_ms | {"append": _since(began)}).items():
            self._stages.measures.took(step, ms / 1000)
        await self._checkpoint("chunk.appended")
        return self._purged_later(recorded, sealed)

    async def _read(
        self, session: SessionId, sealed: ChunkSealed, *, first_seq: int = 1, last_seq: int | None = None
    ) -> list[CapturePiece]:
        reading = self._capture.read(
            session, epoch=sealed.epoch, n=sealed.n, first_seq=first_seq, last_seq=last_seq
        )
        return [piece async for piece in reading]

    async def _missing(self, recorded: Recorded, sealed: ChunkSealed) -> Outcome:
        """Tell bytes that a purge or a lagging replica took away from bytes that are stored, or gone."""
        session = (await self._sessions.refresh(recorded.session)).state
        if session.state in ERASING:
            return await self._erased(recorded.session, sealed)
        if is_ready(session, sealed):
            return self._purged_later(recorded, sealed)
        seen = len(await self._read(recorded.session, sealed))
        held = await self._capture.count(recorded.session, epoch=sealed.epoch, n=sealed.n)
        if held > seen:
            return Retry(f"{seen} of the leader's {held} pieces can be read")
        adopted = await self._objects.adopt(recorded.session, sealed)
        if adopted is not None:
            # A log restored from before the chunk was ready, with a bucket from behind it.
            return await self._append(recorded, sealed, adopted, {})
        return Retry(
            f"bytes of chunk {sealed.index} are missing: the leader holds {held} pieces of its subject",
            own_failure=True,
        )

    async def _wrong(self, recorded: Recorded, sealed: ChunkSealed, exc: IntegrityError) -> Outcome:
        session = (await self._sessions.refresh(recorded.session)).state
        if is_ready(session, sealed):
            return self._purged_later(recorded, sealed)
        _log.error(
            "captured bytes are complete and wrong",
            extra={"session": recorded.session, "chunk": sealed.index, "reason": exc.message},
        )
        return Park("digest_mismatch", exc.message)

    async def _erased(self, session: SessionId, sealed: ChunkSealed) -> Outcome:
        """Leave no object of a session that is erased; wait for the end, because erasing may fail.

        Then the session is in `error`, may be recovered, and this chunk must not be forgotten.
        """
        await self._blobs.delete(object_name(session, sealed.index, sealed.sha256))
        state = (await self._sessions.refresh(session)).state.state
        return Skip("erased") if state is State.DESTROYED else Retry("the session is being erased")

    def _purged_later(self, recorded: Recorded, sealed: ChunkSealed) -> Done:
        async def purge() -> Retry | None:
            return await self._purge(recorded, sealed)

        return Done(finish=purge)

    async def _purge(self, recorded: Recorded, sealed: ChunkSealed) -> Retry | None:
        standing = await self._sessions.refresh(recorded.session)
        session = standing.state
        if not is_ready(session, sealed):
            # Nothing deletes capture before the history says ready, whatever led here.
            return Retry(f"chunk {sealed.index} is not ready in the history")
        bound = purge_bound(session, sealed)
        if bound > 0:
            await self._capture.purge(recorded.session, epoch=sealed.epoch, n=sealed.n, upto_seq=bound)
        await self._checkpoint("chunk.purged")
        waits = any((other.epoch, other.n) == (sealed.epoch, sealed.n) for other in session.pending.values())
        if bound < sealed.last_seq and waits:
            return Retry("a chunk of the same capture subject is not ready yet", after_s=SIBLING_PAUSE_S)
        return None


def is_ready(session: Session, sealed: ChunkSealed) -> bool:
    """Return whether the history says `chunk.ready` of the chunk."""
    return chunk_is_ready(session, sealed.index)


def quality_of(sealed: ChunkSealed) -> Quality:
    """Return how complete the chunk is: the product of the parts that are known."""
    complete = sealed.size / (sealed.size + sealed.gap_before)
    frames = None
    if sealed.frames is not None and (total := sealed.frames.delivered + sealed.frames.dropped):
        frames = 1 - sealed.frames.dropped / total
    score = complete if frames is None else complete * frames
    return Quality(
        score=round(score, 6),
        complete=round(complete, 6),
        frames=None if frames is None else round(frames, 6),
    )


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
