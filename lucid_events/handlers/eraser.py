"""Erases a session's bytes; its history stays, so what was there and that it is gone can be proven."""

import asyncio
import logging
from collections.abc import Callable
from typing import ClassVar

import msgspec

from lucid_events.domain.commands import Erased, EraseFailed
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.events import ChunkReady, ChunkSealed
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import ConfigError, ContractError
from lucid_events.handlers.base import (
    Checkpoint,
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
from lucid_events.ports import BlobStore, CaptureStore, Clock, EventStore
from lucid_events.subjects import object_name

_log = logging.getLogger(__name__)

DELETES_AT_ONCE = 16
"""Objects deleted in parallel; at half a day-long session takes twice as long, twice floods the server."""
SETTLE_S = 2.0
"""Pause between two passes over chunks that may be in work: a worker that finds the session erased
deletes what it has just written, and this is how long that takes on a busy machine."""
MAX_PASSES = 5
"""Passes of one attempt; objects that still appear after that are somebody else's work."""


Bucket = Callable[[str], BlobStore]
"""Gives the object store of that name."""


class _Pass(msgspec.Struct):
    deleted: int = 0
    objects: int = 0
    stored_bytes: int = 0


class Eraser(EventReaction):
    """On `session.cleanup_started`: fence, delete the objects until none is left, erase capture.

    Object names follow from the seals in the history, so no bucket is listed and what a worker
    wrote without saying so is found too. Run with `max_failures` = cleanup attempts: when the
    message is set aside, the session goes to `error` for a person to look.

    Args:
        blobs: where chunks are stored now, and where what was never said to be ready is looked for.
        bucket: gives the store that a `chunk.ready` names, when that is another; without it a session with
            such a chunk is not erased.
    """

    name: ClassVar[str] = "eraser"

    def __init__(
        self,
        sessions: Sessions,
        store: EventStore,
        capture: CaptureStore,
        blobs: BlobStore,
        clock: Clock,
        *,
        bucket: Bucket | None = None,
        copies: ChunkCopies | None = None,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self._copies, self._checkpoint, self._bucket = copies, checkpoint, bucket
        self._sessions, self._store, self._capture = sessions, store, capture
        self._blobs, self._clock = blobs, clock

    async def react(self, recorded: Recorded) -> Outcome:
        """Erase everything; safe to repeat from the top."""
        session = recorded.session
        state = await at_least(self._sessions, session, recorded.sequence)
        if state.state is not State.CLEANUP:
            return Skip("moved on")
        for epoch in range(1, state.epoch + 1):
            await self._capture.fence(session, epoch=epoch)
        await self._checkpoint("erase.fenced")
        for _ in range(MAX_PASSES):
            done = await self._delete_objects(session, int(recorded.sequence))
            if done.deleted == 0:
                break
            if state.pending:
                await self._clock.sleep(SETTLE_S)
        else:
            return Retry(f"objects came back in {MAX_PASSES} passes", own_failure=True)
        if self._copies is not None:
            await self._copies.erase(session)
        await self._checkpoint("erase.deleted")
        pieces = await self._capture.erase(session)
        await self._checkpoint("erase.captured")
        _log.info("erased", extra={"session": session, "count": done.objects, "bytes": done.stored_bytes})
        if pieces:
            _log.info("erased capture that was never stored", extra={"session": session, "count": pieces})
        command = Erased(objects=done.objects, stored_bytes=done.stored_bytes)
        return Done((Issued.by(recorded, command),))

    def on_park(self, message: Message, park: Park) -> tuple[Issued, ...]:
        """Say that erasing failed: the session goes to `error`, from where it can be tried again."""
        try:
            recorded = read_event(message)
        except ContractError:
            return ()
        if recorded is None:
            return ()
        return (Issued.by(recorded, EraseFailed(reason=f"{park.code}: {park.reason}"[:500])),)

    async def _delete_objects(self, session: SessionId, upto: int) -> _Pass:
        """Delete the object of every seal; counts come from the history, so a repeat counts the same."""
        done = _Pass()
        batch: list[tuple[str, str]] = []
        async for recorded in self._store.read(session, upto=upto):
            match getattr(recorded, "event", None):
                case ChunkSealed(index=index, sha256=sha256):
                    batch.append((self._blobs.bucket, object_name(session, index, sha256)))
                case ChunkReady(bucket=bucket, object=name, stored_size=stored_size):
                    batch.append((bucket, name))
                    done.objects += 1
                    done.stored_bytes += stored_size
            if len(batch) >= DELETES_AT_ONCE:
                done.deleted += await self._delete(batch)
                batch.clear()
        done.deleted += await self._delete(batch)
        return done

    async def _delete(self, objects: list[tuple[str, str]]) -> int:
        deletions = [(self._store_of(bucket), name) for bucket, name in sorted(set(objects))]
        outcomes = await asyncio.gather(
            *(blobs.delete(name) for blobs, name in deletions), return_exceptions=True
        )
        deleted = 0
        for outcome in outcomes:
            # The bare error, not a group of them: what to do next hangs on its class.
            if isinstance(outcome, BaseException):
                raise outcome
            deleted += outcome
        await self._checkpoint("erase.batch")
        return deleted

    def _store_of(self, bucket: str) -> BlobStore:
        """Return the store of that name.

        Raises:
            ConfigError: it is another than the one there is, and none can be had.
        """
        if bucket == self._blobs.bucket:
            return self._blobs
        if self._bucket is None:
            raise ConfigError(
                f"a chunk is in bucket {bucket}, and this worker erases in {self._blobs.bucket} alone",
                bucket=bucket,
            )
        return self._bucket(bucket)
